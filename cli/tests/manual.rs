//! The manual lists what there is: rules, events, protections.

use axvm::events::{Action, Kind};
use axvm_plan::Rule;
use axvm_system::protection::NAMES;

const MANUAL: &str = include_str!("../../docs/manual.md");

/// The part below a heading, up to the next one.
fn section(heading: &str) -> &'static str {
    let (_, rest) = MANUAL.split_once(&format!("\n{heading}\n")).expect(heading);
    rest.split("\n#").next().unwrap_or(rest)
}

/// The words in backticks at the start of a table's rows.
fn rows(text: &'static str) -> Vec<&'static str> {
    let cell = |line: &'static str| line.strip_prefix("| `")?.split('`').next();
    text.lines().filter_map(cell).collect()
}

#[test]
fn every_rule_has_a_row_and_every_row_is_a_rule() {
    let mut names: Vec<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    let mut listed = rows(section("### Rules"));
    names.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, names);
}

#[test]
fn every_kind_of_event_and_every_action_is_named() {
    let names =
        Kind::ALL.iter().map(|kind| kind.name()).chain(Action::ALL.iter().map(|action| action.name()));
    for name in names {
        assert!(MANUAL.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_protection_that_can_be_left_out_is_named_where_it_is_said_how() {
    let (_, rest) = MANUAL.split_once("`run --protection-off NAME`").expect("the option");
    let item = rest.split("\n\n").next().unwrap_or(rest);
    for (name, _) in NAMES {
        assert!(item.contains(&format!("`{name}`")), "{name}");
    }
}
