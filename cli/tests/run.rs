//! `axvm run` against a QEMU that isn't one: this test program itself, started by a script, reads the bundle and speaks
//! as the hypervisor would.

mod fake;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const GOOD: &str = r#"[board]
arch = "aarch64"
qemu = ["-m", "1G"]

[[vm]]
name = "one"
cpus = [1]
memory = "64M"
kernel = "kernel.bin"
load = 0x4000_0000
entry = 0x4000_0000

[[vm]]
name = "two"
cpus = [2]
memory = "64M"
kernel = "kernel.bin"
load = 0x4000_0000
entry = 0x4000_0000
"#;

/// A folder with a system file, a kernel, a hypervisor image and a QEMU.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(system: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("system.toml"), system).unwrap();
        fs::write(folder.path().join("kernel.bin"), [0; 64]).unwrap();
        fs::write(folder.path().join("hypervisor.bin"), axvm_system::IMAGE_MARK).unwrap();
        fake::write_script(&folder.path().join("qemu"));
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, scenario: &str, more: &[&str]) -> Command {
        let mut command = self.bare(scenario);
        command.args(["--report", "report.json"]).args(more);
        command
    }

    /// Without a report.
    fn bare(&self, scenario: &str) -> Command {
        let mut command = Command::new(fake::axvm());
        command.current_dir(self.folder.path());
        command.args(["run", "system.toml", "--hypervisor", "hypervisor.bin"]);
        command.env("AXVM_QEMU", "./qemu").env(fake::SCENARIO, scenario).env_remove("AXVM_HYPERVISOR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, scenario: &str, more: &[&str]) -> Run {
        self.finish(self.command(scenario, more).output().unwrap())
    }

    fn finish(&self, output: Output) -> Run {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let report = fs::read(self.path("report.json")).unwrap();
        Run {
            status: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
            report: serde_json::from_slice(&report).unwrap(),
        }
    }
}

#[derive(Debug)]
struct Run {
    status: Option<i32>,
    out: String,
    err: String,
    report: Value,
}

impl Run {
    fn ended(&self, verdict: &str, status: i32) {
        assert_eq!(
            (self.report["verdict"].as_str(), self.status),
            (Some(verdict), Some(status)),
            "{self:#?}"
        );
        let last = self.err.lines().last().unwrap_or_default();
        assert!(last.starts_with(&format!("axvm: {verdict} (status {status})")), "{self:#?}");
    }

    /// `file:line` of each problem in the report, each of which must be a line of the output too.
    fn places(&self) -> Vec<String> {
        let problems = self.report["problems"].as_array().unwrap();
        let places = problems.iter().map(|problem| problem["place"].as_str().unwrap_or_default().to_string());
        let places: Vec<String> = places.collect();
        for place in &places {
            assert!(
                self.err.lines().any(|line| line.starts_with(&format!("{place}: "))),
                "{place}: {self:#?}"
            );
        }
        places
    }
}

#[test]
fn a_good_run_shows_the_consoles_with_prefixes_and_keeps_the_report() {
    let run = Place::new(GOOD).run("ok", &[]);
    run.ended("ok", 0);
    for line in ["axvm: starting", "[one] hello from one", "[two] hello from two", "[one] no end of line"] {
        assert!(run.out.lines().any(|shown| shown == line), "{line}: {run:#?}");
    }
    assert!(run.out.contains("board: "), "text outside frames is shown: {run:#?}");
    assert_eq!(run.report["hypervisor"]["version"], axvm_system::VERSION);
}

#[test]
fn a_guest_that_writes_frames_to_its_console_does_not_change_the_verdict() {
    Place::new(GOOD).run("forger", &[]).ended("guest-failed", 3);
}

#[test]
fn qemu_gets_the_first_serial_line_then_the_files_words_then_the_users_then_the_tools() {
    let run = Place::new(GOOD).run("ok", &["--qemu", "-icount", "--qemu", "shift=0"]);
    let words = run.out.lines().find_map(|line| line.split_once("arguments: ")).unwrap().1;
    assert!(words.starts_with("-serial stdio -m 1G -icount shift=0 -kernel /"), "{words}");
    assert!(words.ends_with("-display none -no-reboot -monitor none"), "{words}");
}

#[test]
fn a_machine_that_ends_without_a_report_is_a_failed_hypervisor_and_its_last_lines_are_kept() {
    let run = Place::new(GOOD).run("crash", &[]);
    run.ended("hypervisor-failed", 5);
    assert!(run.report["problems"][0]["message"].as_str().unwrap().contains("data abort at EL2"), "{run:#?}");
}

#[test]
fn a_qemu_that_refuses_its_arguments_is_bad_input_at_the_line_that_has_them() {
    let run = Place::new(GOOD).run("refuse", &[]);
    run.ended("bad-input", 2);
    assert_eq!(run.places(), ["system.toml:3"]);
    assert!(run.err.contains("no such device: nvmee"), "{run:#?}");
}

#[test]
fn time_runs_out_and_the_report_still_comes() {
    let run = Place::new(GOOD).run("wait", &["--timeout", "1"]);
    run.ended("timeout", 6);
    assert_eq!(run.report["vms"][0]["name"], "one");
}

#[test]
fn a_hypervisor_that_does_not_answer_is_killed_after_the_grace() {
    let start = Instant::now();
    Place::new(GOOD).run("deaf", &["--timeout", "0.5"]).ended("hypervisor-failed", 5);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_machine_that_stays_on_after_its_report_is_switched_off() {
    Place::new(GOOD).run("stays-on", &[]).ended("ok", 0);
}

#[test]
fn a_signal_interrupts_the_run_and_the_report_still_comes() {
    for signal in ["INT", "TERM"] {
        let place = Place::new(GOOD);
        let child = place.command("wait", &[]).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let killed = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(killed.unwrap().success());
        place.finish(child.wait_with_output().unwrap()).ended("interrupted", 130);
    }
}

#[test]
fn the_users_keys_reach_the_hypervisor_and_end_the_run() {
    use std::io::Write;
    let place = Place::new(GOOD);
    let mut child = place.command("wait", &[]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"ls\n\x1dq").unwrap();
    let run = place.finish(child.wait_with_output().unwrap());
    run.ended("interrupted", 130);
    assert!(run.out.contains("key 6c"), "{run:#?}");
}

#[test]
fn problems_of_file_and_platform_come_together_sorted_by_line() {
    let system = GOOD.replace("cpus = [2]", "cpus = [2]\nspeed = 1").replacen("kernel.bin", "absent", 1);
    let run = Place::new(&system).run("plan", &[]);
    run.ended("bad-input", 2);
    // The hypervisor (the fake) complains of the first VM's CPU, and of the kernel, which is known already.
    assert_eq!(run.places(), ["system.toml:7", "system.toml:9", "system.toml:16"]);
    assert!(!run.out.contains("hello"), "{run:#?}");
}

#[test]
fn what_the_plan_refuses_gets_its_line() {
    let run = Place::new(GOOD).run("plan", &[]);
    run.ended("bad-input", 2);
    assert_eq!(run.places(), ["system.toml:7", "system.toml:9"]);
}

#[test]
fn bad_files_leave_a_report_too() {
    let place = Place::new("[board\n");
    let run = place.run("ok", &[]);
    run.ended("bad-input", 2);
    assert_eq!(run.places(), ["system.toml:1"]);
    fs::remove_file(place.path("system.toml")).unwrap();
    place.run("ok", &[]).ended("bad-input", 2);
}

#[test]
fn an_old_qemu_is_named_with_what_to_install() {
    let run = Place::new(GOOD).run("old", &[]);
    run.ended("bad-input", 2);
    assert!(run.err.contains("is version 7.2: too old"), "{run:#?}");
    assert!(run.err.contains("install QEMU 9.1 or newer"), "{run:#?}");
}

#[test]
fn x86_64_needs_a_newer_qemu_than_aarch64_which_one_line_says() {
    // The fake is 10.0.2.
    let run = Place::new(&GOOD.replace("aarch64", "x86_64")).run("ok", &[]);
    run.ended("bad-input", 2);
    let lines: Vec<&str> = run.err.lines().filter(|line| line.contains("too old")).collect();
    let [line] = lines[..] else { panic!("{run:#?}") };
    assert!(line.contains("is version 10.0: too old, an AMD-Vi that translates DMA needs 11.1"), "{run:#?}");
    assert!(line.contains("install QEMU 11.1 or newer"), "{run:#?}");
}

#[test]
fn a_hypervisor_image_of_another_version_is_not_started() {
    let place = Place::new(GOOD);
    fs::write(place.path("hypervisor.bin"), "AxVM image, version 9.9.9\n").unwrap();
    let run = place.run("ok", &[]);
    run.ended("bad-input", 2);
    assert!(run.err.contains("is of version 9.9.9"), "{run:#?}");
}

#[test]
fn what_does_not_say_that_it_is_a_hypervisor_image_is_not_started() {
    let place = Place::new(GOOD);
    for content in ["", "some text\n"] {
        fs::write(place.path("hypervisor.bin"), content).unwrap();
        let run = place.run("ok", &[]);
        run.ended("bad-input", 2);
        assert!(run.err.contains("\"hypervisor.bin\" is no hypervisor image"), "{run:#?}");
    }
    fs::remove_file(place.path("hypervisor.bin")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", place.path("hypervisor.bin")).unwrap();
    let run = place.run("ok", &[]);
    run.ended("bad-input", 2);
    assert!(run.err.contains("is not a file"), "{run:#?}");
}

#[test]
fn words_for_qemu_that_are_the_tools_own_are_refused_on_the_command_line_too() {
    let run = Place::new(GOOD).run("ok", &["--qemu", "-display", "--qemu", "gtk"]);
    run.ended("bad-input", 2);
    assert!(run.err.contains("--qemu: `-display`"), "{run:#?}");
}

#[test]
fn a_second_serial_line_comes_after_the_tools_own() {
    let run = Place::new(GOOD).run("ok", &["--qemu", "-serial", "--qemu", "null"]);
    run.ended("ok", 0);
    let words = run.out.lines().find_map(|line| line.split_once("arguments: ")).unwrap().1;
    assert!(words.starts_with("-serial stdio ") && words.contains(" -serial null "), "{words}");
}

#[test]
fn with_json_standard_output_is_the_report_alone() {
    let run = Place::new(GOOD).run("ok", &["--json"]);
    let printed: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(printed, run.report);
    assert!(run.err.contains("hello from one"), "{run:#?}");
}

#[test]
fn a_report_that_cannot_be_written_is_known_before_anything_starts() {
    let place = Place::new(GOOD);
    let output = place.bare("ok").args(["--report", "no/such/folder/report.json"]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("the report can't be written to \"no/such/folder/report.json\""), "{err}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_report_may_go_to_a_device_which_stays_one() {
    let place = Place::new(GOOD);
    let output = place.bare("ok").args(["--report", "/dev/stderr"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stderr).unwrap().contains("\"verdict\": \"ok\""));
}
