//! A QEMU that isn't one.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use axvm::report::{HypervisorReport, Report, Verdict, VmReport};
use axvm_addr::VmId;
use axvm_plan::problem::{Problem, Rule};
use axvm_system::bundle::Bundle;
use axvm_system::model::Item;
use axvm_system::wire::{Channel, Key, Keys, Nonce, for_each_frame, frame_nonce};

/// The environment variable that says what happens.
pub const SCENARIO: &str = "AXVM_FAKE_SCENARIO";

/// What cargo says to a test that it runs: where something is now. What was known when the test was compiled may be another tree,
/// of which this one is a copy.
fn said(name: &str) -> PathBuf {
    std::env::var_os(name).map(PathBuf::from).unwrap_or_else(|| panic!("cargo doesn't say {name}"))
}

/// The device tree of QEMU's `virt` board.
pub static VIRT: LazyLock<String> = LazyLock::new(|| {
    format!("{}/../crates/platform/tests/qemu-virt.dtb", said("CARGO_MANIFEST_DIR").display())
});

/// The tool.
pub fn axvm() -> PathBuf {
    said("CARGO_BIN_EXE_axvm")
}

/// The environment variable in which the script hands the arguments on.
const ARGUMENTS: &str = "AXVM_FAKE_ARGUMENTS";

/// Writes the script that is QEMU: this test program, told to be it.
pub fn write_script(path: &Path) {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        r#"#!/bin/sh
if [ "$1" = --version ]; then
    [ "${SCENARIO}" = old ] && echo "QEMU emulator version 7.2.0" || echo "QEMU emulator version 10.0.2 (fake)"
    exit 0
fi
export {ARGUMENTS}="$*"
exec "{}" --exact fake::qemu --ignored --nocapture
"#,
        program.display()
    );
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

struct Line {
    nonce: Nonce,
}

impl Line {
    fn send(&self, channel: Channel, payload: &[u8]) {
        let mut out = std::io::stdout().lock();
        for_each_frame(&self.nonce, channel, payload, |header, payload| {
            out.write_all(header).and_then(|()| out.write_all(payload)).unwrap();
        });
        out.flush().unwrap();
    }

    fn report(&self, report: &Report) {
        self.send(Channel::Report, &postcard::to_allocvec(report).unwrap());
        self.send(Channel::ReportEnd, &[]);
    }
}

fn vm(name: &str, reason: &str) -> VmReport {
    VmReport {
        name: name.into(),
        state: "stopped".into(),
        reason: reason.into(),
        interrupts: "emulated".into(),
        exits: Default::default(),
        interrupts_injected: 0,
        refused: Default::default(),
        irqchip: Default::default(),
        devices: vec![],
        starts: vec![],
    }
}

fn report(verdict: Verdict, reason: &str) -> Report {
    let mut report = Report::new(verdict);
    report.hypervisor = HypervisorReport { version: axvm_system::VERSION.into(), ..Default::default() };
    report.vms = vec![vm("one", reason), vm("two", "system-off")];
    report
}

/// Waits for the command that ends the run, and says which keys came before it.
fn wait_for_quit(line: &Line) {
    let mut keys = Keys::default();
    for byte in std::io::stdin().lock().bytes() {
        match keys.push(byte.unwrap()) {
            Some(Key::Quit) => return,
            Some(Key::Byte(byte)) => line.send(Channel::Log, format!("key {byte:x}\n").as_bytes()),
            _ => {}
        }
    }
}

/// Not a test: what the script starts.
#[test]
#[ignore = "this is the fake QEMU that the tests start"]
fn qemu() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let words: Vec<&str> = arguments.split(' ').collect();
    let initrd = words.iter().position(|word| *word == "-initrd").unwrap();
    let bytes = fs::read(words[initrd + 1]).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    bundle.verify().unwrap();
    let line = Line { nonce: frame_nonce(&bundle.run().nonce.unwrap()) };
    let scenario = std::env::var(SCENARIO).unwrap();
    if scenario == "refuse" {
        eprintln!("qemu-system-aarch64: no such device: nvmee");
        std::process::exit(1);
    }
    line.send(Channel::Log, format!("starting\narguments: {arguments}\n").as_bytes());
    let ok = report(Verdict::Ok, "system-off");
    match scenario.as_str() {
        "ok" => {
            line.send(Channel::Console(VmId(0)), b"hello fr");
            line.send(Channel::Console(VmId(1)), b"hello from two\r\n");
            line.send(Channel::Console(VmId(0)), b"om one\r\nno end of line");
            line.report(&ok);
        }
        "forger" => {
            let mut forged = Vec::new();
            for (channel, payload) in
                [(Channel::Report, postcard::to_allocvec(&ok).unwrap()), (Channel::ReportEnd, vec![])]
            {
                for_each_frame(&line.nonce, channel, &payload, |header, payload| {
                    forged.extend_from_slice(header);
                    forged.extend_from_slice(payload);
                });
            }
            line.report(&report(Verdict::GuestFailed, "panic"));
            line.send(Channel::Console(VmId(0)), &forged);
        }
        "crash" => line.send(Channel::Log, b"data abort at EL2, address 0x0\n"),
        "wait" => {
            wait_for_quit(&line);
            line.report(&report(Verdict::Interrupted, "run-ended"));
        }
        "deaf" => std::thread::sleep(std::time::Duration::from_secs(60)),
        "stays-on" => {
            line.report(&ok);
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        "platform" => {
            assert!(bundle.run().plan_only);
            let platform = axvm_platform::fdt::read(&fs::read(&*VIRT).unwrap()).unwrap();
            line.send(Channel::Platform, &postcard::to_allocvec(&platform).unwrap());
            line.send(Channel::PlatformEnd, &[]);
            line.report(&Report::new(Verdict::Ok));
        }
        "plan" => line.report(&Report::bad_input(vec![
            Problem::new(Item::Vm(0, "kernel".into()), Rule::Kernel, "the kernel can't be started"),
            Problem::new(Item::Cpu(0, 0), Rule::CpuAbsent, "CPU 1 isn't there"),
        ])),
        other => panic!("no scenario {other}"),
    }
    std::process::exit(0);
}
