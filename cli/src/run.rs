//! `axvm run`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use axvm::problem::{Problem, Rule};
use axvm::report::{Report, Verdict};
use axvm_addr::VmId;
use axvm_system::bundle::RunOptions;
use axvm_system::file::refused_arguments;
use axvm_system::model::{Arch, Item};
use axvm_system::wire;

use crate::args::Run;
use crate::input::Input;
use crate::output::{ReportFile, last_line};
use crate::session::{self, Ended, Job, Outcome};
use crate::{hypervisor, qemu, terminal};

/// The most that a run takes which only plans.
const PLANNING: Duration = Duration::from_secs(60);

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
    let mut input = Input::read(&arguments.system);
    check_arguments(&mut input, arguments);
    let report = report_of(&mut input, arguments);
    if arguments.json {
        // A reader who has gone away has no use for it.
        let _ = serde_json::to_writer_pretty(io::stdout(), &report).map(|()| println!());
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
    for (_, message) in refused_arguments(&words) {
        input.add(Problem::new(Item::File, Rule::File, format!("--qemu: {message}")));
    }
}

/// What QEMU is run with, once everything about it is known to be good.
struct Board<'a> {
    arch: Arch,
    words: Vec<&'a str>,
    image: std::path::PathBuf,
}

/// Runs it, if nothing is wrong with it; else finds what else is wrong with it.
fn report_of(input: &mut Input, arguments: &Run) -> Report {
    let Some(system) = input.system.clone() else { return Report::bad_input(input.problems()) };
    let arch = system.board.arch;
    let Some(given) = &system.board.qemu else {
        let message = "there is no `qemu` in [board]: this board isn't QEMU, start it with `axvm pack` and a boot loader";
        input.add(Problem::new(Item::Board(String::new()), Rule::Platform, message));
        return Report::bad_input(input.problems());
    };
    if let Err(message) = qemu::check(arch) {
        input.add(Problem::new(Item::Board("qemu".into()), Rule::Platform, message));
    }
    let image = match hypervisor::find(arguments.image.hypervisor.as_deref(), arch) {
        Ok(image) => image,
        Err(message) => {
            input.add(Problem::new(Item::File, Rule::Hypervisor, message));
            return Report::bad_input(input.problems());
        }
    };
    if !input.can_plan() {
        return Report::bad_input(input.problems());
    }
    let words: Vec<&str> = given.iter().chain(&arguments.qemu).map(String::as_str).collect();
    let board = Board { arch, words, image };
    let plan_only = !input.is_good();
    let outcome = match start(input, arguments, &board, plan_only) {
        Ok(outcome) => outcome,
        Err(message) => {
            input.add(Problem::new(Item::Board("qemu".into()), Rule::Platform, message));
            return Report::bad_input(input.problems());
        }
    };
    if plan_only {
        input.add_planned(decode(&outcome).map(|report| report.problems).unwrap_or_default());
        return Report::bad_input(input.problems());
    }
    judge(input, &outcome)
}

fn start(input: &Input, arguments: &Run, board: &Board<'_>, plan_only: bool) -> Result<Outcome, String> {
    let mut nonce = [0; 16];
    let got = rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty());
    if got != Ok(nonce.len()) {
        return Err("the system has no random numbers".to_string());
    }
    let options = RunOptions {
        nonce: Some(nonce),
        plan_only,
        protection_off: arguments.protection_off.clone(),
        // QEMU takes the file from the page cache: there is nothing on the way to damage it.
        verify: false,
    };
    let bytes = input.bundle(&options)?;
    let complain = |error: io::Error| format!("the bundle can't be written to a temporary file: {error}");
    let mut file = tempfile::Builder::new().prefix("axvm-").suffix(".bundle").tempfile().map_err(complain)?;
    file.write_all(&bytes).map_err(complain)?;
    drop(bytes);
    let vms = input.system.iter().flat_map(|system| &system.vms);
    let first = vms.clone().position(|vm| vm.autostart).unwrap_or(0);
    let interactive = terminal::is_interactive() && !arguments.json && !plan_only;
    let timeout = arguments.timeout.or(plan_only.then_some(PLANNING));
    let job = Job {
        command: qemu::command(board.arch, &board.words, &board.image, file.path(), &input.folder),
        nonce: wire::frame_nonce(&nonce),
        names: vms.map(|vm| vm.name.clone()).collect(),
        first: VmId(first as u16),
        timeout,
        interactive,
        // A terminal is read only where it is the console: reading one from the background stops the reader.
        keys: !plan_only && (interactive || !io::stdin().is_terminal()),
    };
    let outcome = if plan_only {
        session::run(job, io::sink())
    } else if arguments.json {
        session::run(job, io::stderr())
    } else {
        session::run(job, io::stdout())
    };
    outcome.map_err(|error| format!("QEMU can't be started: {error}"))
}

/// The hypervisor's report, if there is one.
fn decode(outcome: &Outcome) -> Option<Report> {
    postcard::from_bytes(outcome.report.as_deref()?).ok()
}

/// The report of a run of VMs, with the verdict that the tool alone can give.
fn judge(input: &mut Input, outcome: &Outcome) -> Report {
    let Some(mut report) = decode(outcome) else { return without_report(input, outcome) };
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
fn without_report(input: &mut Input, outcome: &Outcome) -> Report {
    let refused = outcome.status.is_some_and(|status| status.code().is_some_and(|code| code != 0));
    if outcome.ended == Ended::ByItself && !outcome.spoke && refused {
        // QEMU ended before the hypervisor said a word: it didn't like what it was told.
        let last = outcome.last.last().map_or("it says nothing", String::as_str);
        let message = format!("QEMU ended before anything was started: {last}");
        input.add(Problem::new(Item::Board("qemu".into()), Rule::Platform, message));
        return Report::bad_input(input.problems());
    }
    if outcome.ended == Ended::Interrupted && !outcome.spoke {
        return Report::new(Verdict::Interrupted);
    }
    let what = if outcome.report.is_some() { "the report can't be decoded" } else { "no report came" };
    let how = outcome.status.map_or("it was killed".to_string(), |status| format!("QEMU: {status}"));
    let mut problem = Problem::new(Item::File, Rule::Hypervisor, format!("{what} ({how})"));
    if !outcome.last.is_empty() {
        problem.message += &format!("; the last lines: {}", outcome.last.join(" | "));
    }
    let mut report = Report::new(Verdict::HypervisorFailed);
    report.problems = vec![problem];
    report
}
