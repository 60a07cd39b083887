//! Files that are refused say themselves what is wrong with them: a comment `# problem: RULE [RULE]...` on the line
//! at fault. The report must have exactly these problems, and each must be shown to the user as one line.

use serde_json::Value;

use crate::runner::Outcome;

const MARK: &str = "# problem: ";

/// A problem: its line in the file, its rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Announced {
    line: usize,
    rule: String,
}

/// What the file announces. A comment that has a line for itself speaks of the next one.
fn announced(text: &str) -> Vec<Announced> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let Some((before, rules)) = line.split_once(MARK) else { continue };
        let line = if before.trim().is_empty() { at + 2 } else { at + 1 };
        found.extend(rules.split_whitespace().map(|rule| Announced { line, rule: rule.to_owned() }));
    }
    found
}

/// What the report has: the line is the number after the last colon of its place, 0 where there is none.
fn reported(report: &Value) -> Vec<Announced> {
    let problems = report["problems"].as_array().into_iter().flatten();
    problems
        .map(|problem| {
            let place = problem["place"].as_str().unwrap_or_default();
            // `file.toml:12` or `file.toml:12:5`
            let line = place.split(':').skip(1).find_map(|word| word.parse().ok()).unwrap_or(0);
            Announced { line, rule: problem["rule"].as_str().unwrap_or_default().to_owned() }
        })
        .collect()
}

/// Everything in which a refused run differs from what its file announces.
pub fn differences(file: &str, text: &str, outcome: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    let Some(report) = &outcome.report else { return vec!["there is no report".into()] };
    let mut reported = reported(report);
    for expected in announced(text) {
        match reported.iter().position(|problem| *problem == expected) {
            Some(at) => drop(reported.swap_remove(at)),
            None => {
                found.push(format!(
                    "{file}:{}: the problem `{}` isn't reported",
                    expected.line, expected.rule
                ));
                continue;
            }
        }
        let place = format!("{file}:{}:", expected.line);
        let shown = outcome.lines.iter().any(|line| line.contains(&place));
        if !shown {
            found.push(format!("no line of the output begins with {place}"));
        }
    }
    for more in reported {
        found
            .push(format!("{file}:{}: the problem `{}` is reported but not announced", more.line, more.rule));
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

    const FILE: &str = "[a]\ncpus = [1, 1] # problem: cpu-twice\n# problem: dma\npci = 2\n";

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
        let found = announced(FILE);
        assert_eq!(
            found.iter().map(|one| (one.line, one.rule.as_str())).collect::<Vec<_>>(),
            [(2, "cpu-twice"), (4, "dma")]
        );
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
