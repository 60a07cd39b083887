//! What a storm of stray DMA costs a neighbour: a guest that works, and needs the hypervisor for it, beside one whose devices reach
//! outside over and over, under each policy; and beside the same one when its devices stay inside. Counted are the instructions of the
//! worker's own CPU, at all levels, so that waiting for what another CPU holds counts as work does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Bench;
use super::count::{self, Moment};
use super::goals::{self, Figures};
use crate::variant::Change;
use crate::{paths, runner};

const TIMEOUT: Duration = Duration::from_secs(300);
/// So often a storm is tried, and the one that costs the least counts.
const TRIES: usize = 3;
/// The worker's mark between two rounds (`guests/probe`).
const ROUND: u64 = 99;
/// Who has which CPU in the system file.
const HYPERVISOR: usize = 0;
const WORKER: usize = 1;

/// What was executed while the worker did all its rounds.
struct Rounds {
    /// By the worker's CPU, in a round.
    average: u64,
    /// The same in the slowest.
    worst: u64,
    /// By the hypervisor's CPU, in all of them.
    hypervisor: u64,
}

/// Measures without a storm, and with one under each policy.
pub fn measure(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let plugin = count::build(bench.arch)?;
    let calm = round(bench, &plugin, "calm", None)?;
    let native = figures.entry(goals::NATIVE.into()).or_default();
    native.extend([("storm-work".to_owned(), calm.average), ("storm-worst".to_owned(), calm.worst)]);
    for policy in goals::POLICIES {
        let mut storm = round(bench, &plugin, "storm", Some(policy))?;
        // QEMU's CPUs are threads here, of which the machine may stop one that holds a lock: that only ever adds.
        for _ in 1..TRIES {
            if storm.average * 100 <= calm.average * (100 + goals::STORM_COSTS) {
                break;
            }
            let again = round(bench, &plugin, "storm", Some(policy))?;
            if again.average < storm.average {
                storm = again;
            }
        }
        let more = storm.hypervisor.saturating_sub(calm.hypervisor);
        figures.entry((*policy).into()).or_default().extend([
            ("storm-work".to_owned(), storm.average),
            ("storm-worst".to_owned(), storm.worst),
            ("storm-hypervisor".to_owned(), more),
        ]);
    }
    Ok(())
}

fn round(bench: &Bench, plugin: &Path, word: &str, policy: Option<&str>) -> Result<Rounds> {
    let file = paths::root().join(format!("systems/probe-{}/storm.toml", bench.arch));
    let name = format!("bench-storm-{}", policy.unwrap_or(word));
    let counts = paths::logs().join("runs").join(format!("{name}.counts"));
    let change =
        Change { append: Some(word.into()), on_violation: policy.map(str::to_owned), ..Change::default() };
    let outcome = bench.ended(&file, &change, &name, &count::load(plugin, &counts), TIMEOUT)?;
    let verdict = if policy.is_some() { "violation" } else { "ok" };
    let worked = outcome.says("PROBE done") && !outcome.says("broken");
    if outcome.verdict() != verdict || !worked {
        bail!("the run {name} ended as {}; see {}", outcome.verdict(), paths::shown(&outcome.log));
    }
    let seen = stormed(&outcome);
    if seen != policy.is_some() {
        bail!(
            "{name}: stray DMA was {}seen; see {}",
            if seen { "" } else { "not " },
            paths::shown(&outcome.log)
        );
    }
    let text = std::fs::read_to_string(&counts)
        .with_context(|| format!("the plugin left no {}", paths::shown(&counts)))?;
    rounds(&text).with_context(|| format!("in {}", paths::shown(&counts)))
}

/// Whether the report has stray DMA of the neighbour's.
fn stormed(outcome: &runner::Outcome) -> bool {
    let events = outcome.report.as_ref().and_then(|report| report["events"].as_array());
    events.into_iter().flatten().any(|event| event["vm"] == "stormer" && event["kind"] == "dma-write")
}

fn rounds(text: &str) -> Result<Rounds> {
    let moments: Vec<Moment> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let marked: Vec<&Moment> = moments.iter().filter(|moment| moment.mark == ROUND).collect();
    let took = |pair: &[&Moment], cpu: usize| pair[1].of(cpu).saturating_sub(pair[0].of(cpu));
    let each: Vec<u64> = marked.windows(2).map(|pair| took(pair, WORKER)).collect();
    let (Some(first), Some(last), Some(worst)) = (marked.first(), marked.last(), each.iter().max()) else {
        bail!("there are no rounds");
    };
    Ok(Rounds {
        average: each.iter().sum::<u64>() / each.len() as u64,
        worst: *worst,
        hypervisor: took(&[first, last], HYPERVISOR),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_what_lies_between_two_marks() {
        let line = |mark: u64, hypervisor: u64, worker: u64| {
            format!(
                "{{\"mark\": {mark}, \"cpu\": 1, \"cpus\": [{{\"el\": [0, 0, {hypervisor}, 0], \"eret\": 0, \"wfi\": 0}}, \
                 {{\"el\": [0, {worker}, {worker}, 0], \"eret\": 0, \"wfi\": 0}}]}}\n"
            )
        };
        let text = [line(98, 0, 0), line(99, 10, 100), line(99, 30, 200), line(99, 90, 400)].concat();
        let seen = rounds(&text).unwrap();
        assert_eq!((seen.average, seen.worst, seen.hypervisor), (300, 400, 80));
        assert!(rounds("").is_err());
    }
}
