//! `axvm check`.

use std::process::ExitCode;

use axvm::dry_run::dry_run;
use axvm_plan::problem::{Problem, Rule};
use axvm_plan::{Plan, own_tree, plan};
use axvm_platform::model::Platform;
use axvm_system::bundle;
use axvm_system::model::Item;
use serde_json::json;

use crate::args::Check;
use crate::board::{Board, How};
use crate::input::Input;
use crate::output::{print, print_json};
use crate::{linux, platform};

/// Plans without running.
pub fn check(arguments: &Check) -> ExitCode {
    let mut input = Input::read(&arguments.system);
    linux::choose(&mut input, arguments.host);
    let plan = find_plan(&mut input, arguments);
    let problems = input.problems();
    if arguments.json {
        let result = json!({
            "problems": problems,
            "incomplete": plan.as_ref().is_some_and(|plan| plan.incomplete),
            "plan": if problems.is_empty() { plan.as_ref() } else { None },
        });
        print_json(&result);
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    match plan {
        Some(plan) if problems.is_empty() => {
            if !arguments.json {
                print(&text(&plan));
            }
            ExitCode::SUCCESS
        }
        _ => {
            let count = problems.len();
            eprintln!("axvm: {}: {count} problem{}", input.name, if count == 1 { "" } else { "s" });
            ExitCode::from(2)
        }
    }
}

/// The plan, where the file's problems let there be one; the plan's problems are added to the file's.
fn find_plan(input: &mut Input, arguments: &Check) -> Option<Plan> {
    let on_linux = linux::is_host(input);
    // Of this machine, where the plan is for it.
    let mut functions = None;
    let platform = match &arguments.platform {
        Some(path) => {
            let read = platform::read(path, &arguments.stand_in);
            if on_linux { read.map(linux::as_if) } else { read }
        }
        None if on_linux => {
            if linux::lacks(input) {
                linux::machine().map(|machine| {
                    functions = Some(machine.functions);
                    machine.platform
                })
            } else {
                Err(String::new())
            }
        }
        None => {
            let board = Board::prepare(input, arguments.image.hypervisor.as_deref(), &[])?;
            let how = How { plan_only: true, ..How::default() };
            board.start(input, &how).and_then(|outcome| {
                // What the hypervisor itself found, and the tool can't: that is all there is if it sent no platform.
                let problems = outcome.report().map(|report| report.problems).unwrap_or_default();
                let found = !problems.is_empty();
                input.add_planned(problems);
                outcome.platform().ok_or_else(|| match found {
                    true => String::new(),
                    false => format!(
                        "the board said nothing of itself; its last lines: {}",
                        outcome.last.join(" | ")
                    ),
                })
            })
        }
    };
    let system = input.system.clone()?;
    if let Err(error) = bundle::check(&system) {
        input.add(Problem::new(Item::File, Rule::File, error.to_string()));
    }
    let carried_out = |platform: Platform| {
        let mut plan = plan(&system, &platform, &input.images)?;
        dry_run(&plan, &platform)?;
        own_tree::check(&system, &input.images, &mut plan, &input.device_trees())?;
        match &functions {
            Some(functions) => linux::lets_go(functions, &system, plan),
            None => Ok(plan),
        }
    };
    match platform.map(carried_out) {
        Ok(Ok(plan)) => return Some(plan),
        Ok(Err(problems)) => input.add_planned(problems),
        Err(message) if message.is_empty() => {}
        Err(message) => input.add(Problem::new(Item::File, Rule::Platform, message)),
    }
    None
}

/// The plan for people.
fn text(plan: &Plan) -> String {
    let mut text = format!("{plan}");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if plan.incomplete && !text.contains("incomplete") {
        text.push_str("incomplete: the platform lists no PCI functions\n");
    }
    text
}
