//! Files that are refused say themselves what is wrong with them: a comment `# problem: RULE [RULE]...` on the line or
//! the table at fault. The report must have exactly these problems, and each must be shown to the user as one line.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::runner::Outcome;

const MARK: &str = "# problem: ";

/// A problem that is to come: the lines of the file that it may name, its rule.
#[derive(Debug, PartialEq)]
struct Announced<'a> {
    lines: RangeInclusive<usize>,
    rule: &'a str,
}

/// What the file announces. Beside a table's header the comment speaks of the whole table, else of its line alone.
fn announced(text: &str) -> Vec<Announced<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((before, rules)) = line.split_once(MARK) else { continue };
        let mut last = at;
        if before.trim_start().starts_with('[') {
            let more = lines[at + 1..].iter().take_while(|line| !line.trim_start().starts_with('['));
            last += more.count();
        }
        found.extend(rules.split_whitespace().map(|rule| Announced { lines: at + 1..=last + 1, rule }));
    }
    found
}

/// What the report has: the line is the number after the last colon of its place, 0 where there is none.
fn reported(report: &Value) -> Vec<(usize, &str)> {
    let problems = report["problems"].as_array().into_iter().flatten();
    problems
        .map(|problem| {
            let place = problem["place"].as_str().unwrap_or_default();
            // `file.toml:12` or `file.toml:12:5`
            let line = place.split(':').skip(1).find_map(|word| word.parse().ok()).unwrap_or(0);
            (line, problem["rule"].as_str().unwrap_or_default())
        })
        .collect()
}

/// Everything in which a refused run differs from what its file announces.
pub fn differences(file: &str, text: &str, outcome: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    let Some(report) = &outcome.report else { return vec!["there is no report".into()] };
    let mut reported = reported(report);
    for expected in announced(text) {
        let is_it = |(line, rule): &(usize, &str)| expected.lines.contains(line) && *rule == expected.rule;
        let Some(at) = reported.iter().position(is_it) else {
            found.push(format!(
                "{file}:{}: no problem `{}` is reported",
                expected.lines.start(),
                expected.rule
            ));
            continue;
        };
        let (line, _) = reported.swap_remove(at);
        let place = format!("{file}:{line}:");
        if !outcome.lines.iter().any(|shown| shown.contains(&place)) {
            found.push(format!("no line of the output has {place}"));
        }
    }
    for (line, rule) in reported {
        found.push(format!("{file}:{line}: the problem `{rule}` is reported but not announced"));
    }
    let started = |vm: &Value| vm["exits"]["total"].as_u64().is_some_and(|exits| exits > 0);
    if report["vms"].as_array().is_some_and(|vms| vms.iter().any(started)) {
        found.push("a VM ran".into());
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = "[a]\ncpus = [1, 1] # problem: cpu-twice\n[[b]] # problem: dma\npci = 2\n";

    fn outcome(problems: Value, lines: &[&str]) -> Outcome {
        Outcome {
            status: Some(2),
            lines: lines.iter().map(|line| line.to_string()).collect(),
            report: Some(json!({"verdict": "bad-input", "vms": [], "problems": problems})),
            log: Default::default(),
            time: Default::default(),
        }
    }

    #[test]
    fn a_file_announces_problems_at_its_lines() {
        let expected =
            [Announced { lines: 2..=2, rule: "cpu-twice" }, Announced { lines: 3..=4, rule: "dma" }];
        assert_eq!(announced(FILE), expected);
    }

    #[test]
    fn missing_and_surplus_problems_and_missing_lines_are_differences() {
        let twice = json!({"place": "f.toml:2", "rule": "cpu-twice"});
        let dma = json!({"place": "f.toml:4:1", "rule": "dma"});
        let shown = &["f.toml:2: twice", "f.toml:4: dma"];
        assert!(differences("f.toml", FILE, &outcome(json!([dma, twice]), shown)).is_empty());
        assert_eq!(differences("f.toml", FILE, &outcome(json!([twice]), shown)).len(), 1);
        assert_eq!(differences("f.toml", FILE, &outcome(json!([twice, dma, dma]), shown)).len(), 1);
        assert_eq!(differences("f.toml", FILE, &outcome(json!([twice, dma]), &shown[..1])).len(), 1);
    }
}
