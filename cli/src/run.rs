//! `axvm run`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use axvm::report::{Report, Verdict};
use axvm_plan::problem::{Problem, Rule};
use axvm_system::file::refused_arguments;
use axvm_system::model::Item;

use crate::args::Run;
use crate::board::{Board, How};
use crate::control::Socket;
use crate::input::Input;
use crate::linux;
use crate::output::{ReportFile, last_line, print};
use crate::session::{Ended, Outcome};

/// Runs a system file.
pub fn run(arguments: &Run) -> ExitCode {
    let start = Instant::now();
    let file = match ReportFile::open(arguments.report.as_deref()) {
        Ok(file) => file,
        Err(error) => {
            let path = arguments.report.as_deref().unwrap_or("".as_ref()).display();
            eprintln!("axvm: bad-input (status 2): the report can't be written to \"{path}\": {error}");
            return ExitCode::from(Verdict::BadInput.exit_status());
        }
    };
    let control = match arguments.control.as_deref().map(Socket::open).transpose() {
        Ok(control) => control.map(Arc::new),
        Err(error) => {
            let path = arguments.control.as_deref().unwrap_or("".as_ref()).display();
            eprintln!("axvm: bad-input (status 2): there can be no socket \"{path}\": {error}");
            return ExitCode::from(Verdict::BadInput.exit_status());
        }
    };
    let mut input = Input::read(&arguments.system);
    linux::choose(&mut input, arguments.host);
    check_arguments(&mut input, arguments);
    let report = report_of(&mut input, arguments, control);
    if arguments.json {
        let json = serde_json::to_string_pretty(&report);
        print(&(json.unwrap_or_default() + "\n"));
    }
    for problem in &report.problems {
        eprintln!("{problem}");
    }
    let mut status = report.verdict.exit_status();
    if let Err(error) = file.write(&report) {
        eprintln!("axvm: the report can't be written: {error}");
        // A script that waits for the report must not take the run for a good one.
        status = if status == 0 { Verdict::HypervisorFailed.exit_status() } else { status };
    }
    eprintln!("{}", last_line(&report, start.elapsed().as_secs_f64()));
    ExitCode::from(status)
}

fn check_arguments(input: &mut Input, arguments: &Run) {
    let words: Vec<&str> = arguments.qemu.iter().map(String::as_str).collect();
    // The tool's own serial line is the first whatever comes here, so more of them do no harm.
    let is_serial = |position: usize| words.get(position).is_some_and(|word| word.ends_with("-serial"));
    for (_, message) in refused_arguments(&words).into_iter().filter(|&(position, _)| !is_serial(position)) {
        input.add(Problem::new(Item::File, Rule::File, format!("--qemu: {message}")));
    }
}

/// Runs it, if nothing is wrong with it; else finds what else is wrong with it.
fn report_of(input: &mut Input, arguments: &Run, control: Option<Arc<Socket>>) -> Report {
    if linux::is_host(input) {
        return report_of_linux(input, arguments, control);
    }
    let Some(board) = Board::prepare(input, arguments.image.hypervisor.as_deref(), &arguments.qemu) else {
        return Report::bad_input(input.problems());
    };
    let plan_only = !input.is_good();
    let how = How {
        plan_only,
        messages_only: arguments.json,
        timeout: arguments.timeout,
        protection_off: arguments.protection_off.clone(),
        boot_loader: arguments.boot_loader.clone(),
        control,
    };
    match board.start(input, &how) {
        Ok(outcome) if plan_only => {
            input.add_planned(outcome.report().map(|report| report.problems).unwrap_or_default());
            Report::bad_input(input.problems())
        }
        Ok(outcome) => judge(input, &outcome, "QEMU"),
        Err(message) => {
            input.add(Problem::new(Item::Board("qemu".into()), Rule::Platform, message));
            Report::bad_input(input.problems())
        }
    }
}

/// The same on a Linux host.
fn report_of_linux(input: &mut Input, arguments: &Run, control: Option<Arc<Socket>>) -> Report {
    let means_nothing = [
        ("--qemu", !arguments.qemu.is_empty()),
        ("--hypervisor", arguments.image.hypervisor.is_some()),
        ("--protection-off", arguments.protection_off.is_some()),
        ("--boot-loader", arguments.boot_loader.is_some()),
    ];
    linux::refuse(input, &means_nothing);
    let how = How { messages_only: arguments.json, timeout: arguments.timeout, control, ..How::default() };
    match linux::run(input, &how) {
        Ok(Some(outcome)) => judge(input, &outcome, "the host's process"),
        Ok(None) => Report::bad_input(input.problems()),
        Err(message) => {
            input.add(Problem::new(Item::Board("host".into()), Rule::Platform, message));
            Report::bad_input(input.problems())
        }
    }
}

/// The report of a run of VMs, with the verdict that the tool alone can give. `program`: what has run them.
fn judge(input: &mut Input, outcome: &Outcome, program: &str) -> Report {
    let Some(mut report) = outcome.report() else { return without_report(input, outcome, program) };
    input.add_planned(std::mem::take(&mut report.problems));
    report.problems = input.problems();
    report.verdict = report.verdict.worst(report.judge());
    match outcome.ended {
        Ended::ByItself => {}
        Ended::Timeout => report.verdict = report.verdict.worst(Verdict::Timeout),
        Ended::Interrupted => report.verdict = report.verdict.worst(Verdict::Interrupted),
    }
    report
}

/// What can be said of a run without a report.
fn without_report(input: &mut Input, outcome: &Outcome, program: &str) -> Report {
    let refused = outcome.status.is_some_and(|status| status.code().is_some_and(|code| code != 0));
    if outcome.ended == Ended::ByItself && !outcome.spoke && refused {
        // QEMU ended before the hypervisor said a word: it didn't like what it was told.
        // What it says itself comes before what may have been on its serial line.
        let last = outcome.errors.last().or(outcome.last.last()).map_or("it says nothing", String::as_str);
        let message = format!("{program} ended before anything was started: {last}");
        input.add(Problem::new(Item::Board("qemu".into()), Rule::Platform, message));
        return Report::bad_input(input.problems());
    }
    if outcome.away && outcome.ended != Ended::ByItself {
        let verdict = if outcome.ended == Ended::Timeout { Verdict::Timeout } else { Verdict::Interrupted };
        let why = "a VM had the hypervisor's console, so that nobody could tell it to end: there is no report of the VMs";
        return Report {
            problems: vec![Problem::new(Item::File, Rule::Hypervisor, why)],
            ..Report::new(verdict)
        };
    }
    if outcome.ended == Ended::Interrupted && !outcome.spoke {
        return Report::new(Verdict::Interrupted);
    }
    let what = if outcome.has_report() { "the report can't be decoded" } else { "no report came" };
    let how = outcome.status.map_or("it was killed".to_string(), |status| format!("{program}: {status}"));
    let mut problem = Problem::new(Item::File, Rule::Hypervisor, format!("{what} ({how})"));
    if !outcome.last.is_empty() {
        problem.message += &format!("; the last lines: {}", outcome.last.join(" | "));
    }
    let mut report = Report::new(Verdict::HypervisorFailed);
    report.problems = vec![problem];
    report
}
