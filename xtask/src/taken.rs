//! What a run's report says of what was taken of the machine (`hypervisor.taken`): what a VM's life takes must be given back at its end.

use serde_json::Value;

/// What is counted, and must come back exactly.
const EXACT: [&str; 7] =
    ["table_bytes", "devices", "dma_sources", "lines", "message_sources", "messages", "message_numbers"];

/// What must be back at the very end, when there is no VM.
const NONE_AT_THE_END: [&str; 5] =
    ["devices", "dma_sources", "message_sources", "messages", "message_numbers"];

/// How much more memory may be taken: the report keeps records of up to 64 starts.
const RECORDS: u64 = 16 << 10;

/// What is wrong with it, where a VM must have been built again at least so often.
pub fn differences(taken: &Value, least: u64) -> Vec<String> {
    let mut problems = Vec::new();
    let number = |when: &str, what: &str| taken[when][what].as_u64();
    let rebuilt = taken["rebuilt"].as_u64();
    if rebuilt.is_none_or(|times| times < least) {
        problems.push(format!("a VM was built again {rebuilt:?} times, not {least}"));
    }
    for what in EXACT {
        let [first, last] = ["first", "last"].map(|when| number(when, what));
        if first.is_none() || first != last {
            problems.push(format!("{what}: {first:?} between two lives at first, {last:?} at last"));
        }
    }
    let [first, last] = ["first", "last"].map(|when| number(when, "memory_bytes").unwrap_or(u64::MAX / 2));
    if last > first + RECORDS {
        problems.push(format!("memory: {first} bytes between two lives at first, {last} at last"));
    }
    for what in NONE_AT_THE_END {
        let end = number("end", what);
        if end != Some(0) {
            problems.push(format!("{what}: {end:?} at the end"));
        }
    }
    let [built, end] = ["built", "end"].map(|when| number(when, "lines"));
    if built != end {
        problems.push(format!("lines: {built:?} before a VM ran, {end:?} at the end"));
    }
    problems
}

/// Of such differences, those that aren't of `leaks`; and of these, those of which there is none.
pub fn other_than(differences: Vec<String>, leaks: &[String]) -> Vec<String> {
    let is_of = |difference: &String, leak: &String| {
        difference.strip_prefix(leak.as_str()).is_some_and(|rest| rest.starts_with(':'))
    };
    let unseen = leaks.iter().filter(|leak| !differences.iter().any(|difference| is_of(difference, leak)));
    let mut problems: Vec<String> = unseen.map(|leak| format!("{leak}: its leak isn't seen")).collect();
    problems.extend(differences.into_iter().filter(|it| !leaks.iter().any(|leak| is_of(it, leak))));
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken() -> Value {
        let at = |devices: u64| {
            json!({"memory_bytes": 1000, "table_bytes": 100, "devices": devices, "dma_sources": devices, "lines": 3,
                "message_sources": devices, "messages": devices, "message_numbers": 0})
        };
        json!({"built": at(2), "rebuilt": 20, "first": at(1), "last": at(1), "end": at(0)})
    }

    #[test]
    fn what_comes_back_is_right_and_anything_else_is_not() {
        assert_eq!(differences(&taken(), 20), Vec::<String>::new());
        assert_eq!(differences(&taken(), 21).len(), 1);
        for (what, problems) in [("table_bytes", 1), ("messages", 1), ("memory_bytes", 0)] {
            let mut leaks = taken();
            leaks["last"][what] = 8000.into();
            assert_eq!(differences(&leaks, 20).len(), problems, "{what}");
        }
        let mut leaks = taken();
        leaks["last"]["memory_bytes"] = 20_000.into();
        leaks["end"]["dma_sources"] = 1.into();
        leaks["end"]["lines"] = 4.into();
        assert_eq!(differences(&leaks, 20).len(), 3);
        assert!(differences(&Value::Null, 0).len() > 7);
    }

    #[test]
    fn a_leak_must_be_seen_and_hides_no_other() {
        let mut leaks = taken();
        leaks["last"]["messages"] = 8000.into();
        let named = |names: &[&str]| -> Vec<String> {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            other_than(differences(&leaks, 20), &names)
        };
        assert_eq!(named(&["messages"]), Vec::<String>::new());
        assert_eq!(named(&["message"]).len(), 2);
        assert_eq!(named(&["messages", "lines"]), ["lines: its leak isn't seen"]);
    }
}
