//! `axvm check`, `inspect` and `pack`: what can be done without running a VM.

mod fake;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use axvm_addr::{Hpa, Span, VmId};
use axvm_system::bundle::{Bundle, ImageKind};
use serde_json::Value;

const GOOD: &str = r#"[board]
arch = "aarch64"
qemu = []

[[vm]]
name = "one"
cpus = [1]
memory = "64M"
kernel = "kernel.bin"
load = 0x4000_0000
entry = 0x4000_0000
interrupts = "emulated"

[[vm.device]]
node = "/pl031@9010000"
"#;

struct Place {
    folder: tempfile::TempDir,
}

struct Done {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    fn new(system: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("system.toml"), system).unwrap();
        fs::write(folder.path().join("kernel.bin"), [7; 64]).unwrap();
        fs::write(folder.path().join("hypervisor.bin"), axvm_system::IMAGE_MARK).unwrap();
        fake::write_script(&folder.path().join("qemu"));
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(fake::axvm());
        command.current_dir(self.folder.path()).args(words).stdin(Stdio::null());
        command.env("AXVM_HYPERVISOR", "hypervisor.bin").env("AXVM_QEMU", "./qemu");
        command.env(fake::SCENARIO, "platform");
        command
    }

    fn axvm(&self, words: &[&str]) -> Done {
        let output = self.command(words).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

#[test]
fn a_good_file_is_checked_on_a_saved_device_tree() {
    let done = Place::new(GOOD).axvm(&["check", "system.toml", "--platform", &fake::VIRT]);
    assert_eq!(done.status, Some(0), "{}", done.err);
    assert!(done.out.contains("/pl031@9010000"), "{}", done.out);
}

#[test]
fn problems_of_file_and_platform_come_together_each_with_its_line() {
    let system = GOOD.replace("cpus = [1]", "cpus = [0]\nspeed = 1").replace("9010000", "9999999");
    let place = Place::new(&system);
    for more in [&["--platform", &fake::VIRT][..], &[]] {
        let done = place.axvm(&[&["check", "system.toml"], more].concat());
        assert_eq!(done.status, Some(2));
        let places: Vec<_> = done.err.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(places, ["system.toml:7", "system.toml:8", "system.toml:16", "axvm"], "{}", done.err);
    }
}

#[test]
fn a_function_on_a_platform_that_lists_none_makes_the_plan_incomplete() {
    let place = Place::new(&GOOD.replace("node = \"/pl031@9010000\"", "pci = \"0000:00:02.0\""));
    let done = place.axvm(&["check", "system.toml", "--platform", &fake::VIRT]);
    assert!(done.out.contains("incomplete"), "{}{}", done.out, done.err);
    let json = place.axvm(&["check", "system.toml", "--platform", &fake::VIRT, "--json"]).out;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["incomplete"], true);
}

#[test]
fn devices_are_listed_with_why_they_cannot_be_assigned() {
    let done = Place::new(GOOD).axvm(&["inspect", "--platform", &fake::VIRT, "--json"]);
    let listed: Value = serde_json::from_str(&done.out).unwrap();
    let devices = listed["devices"].as_array().unwrap();
    let find = |path: &str| devices.iter().find(|device| device["address"] == path).unwrap();
    assert_eq!(find("/pl031@9010000")["why_not"], serde_json::json!([]));
    assert_eq!(find("/pl011@9000000")["why_not"], serde_json::json!([]), "the hypervisor lends its console");
    let smmu = devices.iter().find(|device| device["name"] == "arm,smmu-v3");
    assert!(smmu.is_none_or(|it| !it["why_not"].as_array().unwrap().is_empty()), "the hypervisor's own");
    let text = Place::new(GOOD).axvm(&["inspect", "--platform", &fake::VIRT]).out;
    assert!(text.contains("not assignable: ") && text.contains("    assignable\n"), "{text}");
}

/// An SRAT with CPUs 0 and 1 and the first GiB in domain 0, CPUs 2 and 3 and the second in domain 1.
fn srat() -> Vec<u8> {
    let mut table = b"SRAT".to_vec();
    table.resize(36 + 12, 0);
    table[8] = 3;
    for cpu in 0..4u8 {
        table.extend([0, 16, cpu / 2, cpu, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    for domain in 0..2u32 {
        table.extend([1, 40]);
        table.extend(domain.to_le_bytes());
        table.extend([0; 2]);
        table.extend((u64::from(domain) << 30).to_le_bytes());
        table.extend((1u64 << 30).to_le_bytes());
        table.extend([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    table
}

#[test]
fn acpi_s_tables_are_a_platform_too() {
    let place = Place::new(GOOD);
    let pc = axvm_platform::fake::q35_amd();
    fs::create_dir_all(place.path("tables/dynamic")).unwrap();
    for (_, bytes) in pc.contents.iter().filter(|(_, bytes)| !bytes.starts_with(b"RS")) {
        let name = String::from_utf8_lossy(&bytes[..4]).to_string();
        fs::write(place.path("tables").join(name), bytes).unwrap();
    }
    fs::write(place.path("tables/iomem"), "00100000-7ffdefff : System RAM\n").unwrap();
    let done = place.axvm(&["inspect", "--platform", "tables", "--json", "--save", "pc.axvm"]);
    let listed: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&listed["model"], &listed["incomplete"]), (&"BOCHS BXPC".into(), &true.into()));
    assert_eq!(listed["memory"], serde_json::json!(["0x100000-0x7ffdefff"]));
    let com1 =
        listed["devices"].as_array().unwrap().iter().find(|device| device["address"] == "com1").unwrap();
    assert_eq!(
        (&com1["ports"], &com1["interrupts"]),
        (&serde_json::json!(["0x3f8-0x3ff"]), &serde_json::json!(["GSI 4"]))
    );
    let again = place.axvm(&["inspect", "--platform", "pc.axvm", "--json"]);
    assert_eq!(again.out, done.out);
    // With what `lspci` prints there its functions are known, and what it has of two nodes is said.
    fs::write(place.path("tables/lspci.txt"), axvm_pci::lspci::Q35).unwrap();
    fs::write(place.path("tables/SRAT"), srat()).unwrap();
    let listed = place.axvm(&["inspect", "--platform", "tables", "--json"]).out;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["incomplete"], false);
    let nvme = listed["pci"].as_array().unwrap().iter().find(|it| it["address"] == "0000:00:03.0").unwrap();
    assert_eq!((&nvme["why_not"], &nvme["reset"]), (&serde_json::json!([]), &serde_json::json!(["flr"])));
    assert!(nvme["registers"].to_string().contains("size 0x4000"), "{nvme}");
    assert!(nvme["interrupts"].to_string().contains("MSI-X 65"), "{nvme}");
    assert_eq!(listed["proximity"][1]["memory"], serde_json::json!(["0x40000000-0x7fffffff"]));
    let text = place.axvm(&["inspect", "--platform", "tables"]).out;
    assert!(text.contains("near each other (domain 1): CPUs 2, 3, memory 0x40000000-0x7fffffff"), "{text}");
    // A folder without any is none.
    fs::create_dir(place.path("empty")).unwrap();
    let done = place.axvm(&["inspect", "--platform", "empty"]);
    assert_eq!(done.status, Some(2));
    assert!(done.err.contains("none of the files there is an ACPI table"), "{}", done.err);
}

/// A copy of what Linux tells of a board with two PCI functions, of which one is a driver's.
#[test]
fn a_machine_is_listed_with_who_has_its_devices_there() {
    let place = Place::new(GOOD);
    let folder = |address: &str| place.path("linux/sys/bus/pci/devices").join(address);
    fs::create_dir_all(place.path("linux/sys/firmware")).unwrap();
    fs::copy(&*fake::VIRT, place.path("linux/sys/firmware/fdt")).unwrap();
    for (address, ids) in
        [("0000:00:02.0", [0x36, 0x1b, 0x10, 0]), ("0000:00:03.0", [0x86, 0x80, 0xd3, 0x10])]
    {
        let mut config = [0; 256];
        config[..4].copy_from_slice(&ids);
        config[0x10] = 4;
        fs::create_dir_all(folder(address)).unwrap();
        fs::write(folder(address).join("config"), config).unwrap();
        fs::write(folder(address).join("resource"), "0x10000000 0x10003fff 0x40200\n").unwrap();
    }
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, folder("0000:00:02.0").join(name)).unwrap();
    };
    link("../../../../bus/pci/drivers/nvme", "driver");
    link("../../../../kernel/iommu_groups/7", "iommu_group");
    let done = place.axvm(&["inspect", "--platform", "linux", "--json", "--save", "machine.axvm"]);
    let listed: Value = serde_json::from_str(&done.out).unwrap();
    let [first, second] = &listed["pci"].as_array().unwrap()[..] else { panic!("{}", done.out) };
    assert_eq!(
        (&first["address"], &first["registers"]),
        (&"0000:00:02.0".into(), &serde_json::json!(["BAR0 0x8000000000 size 0x4000"]))
    );
    assert_eq!((&first["linux"]["driver"], &first["linux"]["group"]), (&"nvme".into(), &7.into()));
    assert_eq!(second["linux"]["driver"], Value::Null);
    let text = place.axvm(&["inspect", "--platform", "linux"]).out;
    assert!(text.contains("    driver: nvme\n    Linux's group: 7, alone\n"), "{text}");
    assert!(text.contains("    driver: none\n    Linux's group: none"), "{text}");
    // What was saved is what bare metal would find.
    let saved = place.axvm(&["inspect", "--platform", "machine.axvm", "--json"]);
    let saved: Value = serde_json::from_str(&saved.out).unwrap();
    assert_eq!(
        (&saved["pci"][0]["registers"], &saved["pci"][0]["linux"]),
        (&first["registers"], &Value::Null)
    );
}

#[test]
fn a_listing_says_what_the_boards_console_is_and_what_stands_in_for_it() {
    let place = Place::new(GOOD);
    let console = |kind: &str, named: Option<&str>| {
        let mut platform = axvm_platform::fdt::read(&fs::read(&*fake::VIRT).unwrap()).unwrap();
        let uart = platform.devices.iter().position(|device| device.path == "/pl011@9000000").unwrap();
        let mut other = platform.devices[uart].clone();
        (other.path, other.compatible) = ("/serial@b000000".into(), vec!["ns16550a".into()]);
        other.registers = vec![Span::new(Hpa(0x0b00_0000), 0x100).unwrap()];
        platform.devices[uart].compatible = vec![kind.into()];
        platform.devices.push(other);
        platform.console = named.map(String::from);
        fs::write(place.path("board.axvm"), axvm_platform::snapshot::save(&platform).unwrap()).unwrap();
        let json = place.axvm(&["inspect", "--platform", "board.axvm", "--json"]).out;
        let seen = serde_json::from_str::<Value>(&json).unwrap()["console"].clone();
        let text = place.axvm(&["inspect", "--platform", "board.axvm"]).out;
        assert!(text.contains(seen["says"].as_str().unwrap()), "{text}");
        seen
    };
    let seen = console("qcom,msm-uartdm-v1.4", Some("/pl011@9000000"));
    assert_eq!((&seen["driven"], &seen["used"]), (&Value::from(true), &Value::from("/pl011@9000000")));
    assert_eq!(seen["name"], serde_json::json!(["qcom,msm-uartdm-v1.4"]));
    let seen = console("acme,uart", Some("/pl011@9000000"));
    assert_eq!((&seen["driven"], &seen["used"]), (&Value::from(false), &Value::from("/serial@b000000")));
    assert!(seen["says"].as_str().unwrap().contains("acme,uart"), "{seen}");
    for absent in [None, Some("/nowhere")] {
        let seen = console("acme,uart", absent);
        assert_eq!((&seen["driven"], &seen["address"]), (&Value::from(false), &Value::from(absent)));
        assert_eq!(seen["used"], "/serial@b000000");
    }
}

#[test]
fn a_board_is_inspected_and_saved_and_checked_again_without_it() {
    let place = Place::new(GOOD);
    let done = place.axvm(&["inspect", "--system", "system.toml", "--save", "board.snapshot"]);
    assert_eq!(done.status, Some(0), "{}", done.err);
    assert!(done.out.contains("/pl031@9010000"), "{}", done.out);
    let done = place.axvm(&["check", "system.toml", "--platform", "board.snapshot"]);
    assert_eq!(done.status, Some(0), "{}", done.err);
}

#[test]
fn what_is_no_platform_is_said_to_be_none() {
    let done = Place::new(GOOD).axvm(&["check", "system.toml", "--platform", "kernel.bin"]);
    assert_eq!(done.status, Some(2));
    assert!(done.err.contains("kernel.bin: neither a saved platform nor a device tree"), "{}", done.err);
}

#[test]
fn a_packed_folder_has_the_image_a_checked_bundle_and_the_lines_to_type() {
    let place = Place::new(GOOD);
    let done = place.axvm(&["pack", "system.toml", "-o", "boot/here"]);
    assert_eq!(done.status, Some(0), "{}", done.err);
    let bytes = fs::read(place.path("boot/here/bundle.axvm")).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert_eq!((bundle.run().nonce, bundle.run().verify), (None, true));
    assert_eq!(bundle.image(VmId(0), ImageKind::Kernel), Some(&[7; 64][..]));
    assert_eq!(bundle.toml(), GOOD);
    assert!(place.path("boot/here/axvm-hypervisor.bin").is_file());
    assert!(fs::read_to_string(place.path("boot/here/boot-uboot.txt")).unwrap().contains("booti"));
}

#[test]
fn nothing_is_packed_of_a_file_with_problems() {
    let place = Place::new(&GOOD.replace("kernel.bin", "absent"));
    let done = place.axvm(&["pack", "system.toml", "-o", "boot", "--json"]);
    assert_eq!(done.status, Some(2));
    assert!(done.err.starts_with("system.toml:9: "), "{}", done.err);
    assert_eq!(serde_json::from_str::<Value>(&done.out).unwrap()["problems"].as_array().unwrap().len(), 1);
    assert!(!place.path("boot").exists());
}

#[test]
fn a_reader_who_has_gone_away_is_no_error() {
    let place = Place::new(GOOD);
    let on_virt = ["--platform", &fake::VIRT];
    let commands = [
        [&["check", "system.toml"][..], &on_virt].concat(),
        [&["check", "system.toml", "--json"][..], &on_virt].concat(),
        [&["inspect"][..], &on_virt].concat(),
        [&["inspect", "--json"][..], &on_virt].concat(),
        vec!["pack", "system.toml", "-o", "boot"],
        vec!["pack", "system.toml", "-o", "boot", "--json"],
    ];
    for words in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.command(&words).stdout(writer).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn every_command_shows_examples() {
    for command in ["run", "check", "inspect", "pack"] {
        let done = Place::new(GOOD).axvm(&[command, "--help"]);
        let is_shown = done
            .out
            .split_once("Examples:\n")
            .is_some_and(|(_, them)| them.contains(&format!("  axvm {command}")));
        assert!(is_shown, "{}", done.out);
    }
}

#[test]
fn a_board_whose_memory_and_cpus_its_boot_loader_fills_in_is_planned_with_what_is_said() {
    let place = Place::new(GOOD);
    let whole = fs::read(&*fake::VIRT).unwrap();
    // The same tree with its memory, and its CPUs' way to be started, under other names.
    let renamed = |whole: &[u8], from: &[u8], to: &[u8]| {
        let mut blob = whole.to_vec();
        let places: Vec<usize> =
            (0..blob.len() - from.len()).filter(|&at| blob[at..].starts_with(from)).collect();
        assert!(!places.is_empty() && from.len() == to.len());
        for at in places {
            blob[at..at + to.len()].copy_from_slice(to);
        }
        blob
    };
    let blob = renamed(&whole, b"memory\0", b"nemory\0");
    fs::write(place.path("bare.dtb"), renamed(&blob, b"psci\0", b"qsci\0")).unwrap();
    let check =
        |more: &[&str]| place.axvm(&[&["check", "system.toml", "--platform", "bare.dtb"], more].concat());
    let done = check(&[]);
    assert!(
        done.err.contains("no memory in its device tree") && done.err.contains("can't be started"),
        "{}",
        done.err
    );
    let memory = ["--memory", "0x4000_0000:1G", "--memory", "0x8000_0000:512M"];
    assert_eq!(check(&memory).status, Some(2), "nothing starts its CPUs");
    let done = check(&[&memory[..], &["--cpu", "2"]].concat());
    assert_eq!(done.status, Some(0), "{}", done.err);
    let inspect = ["inspect", "--json", "--platform", "bare.dtb", "--cpu", "9"];
    let seen: Value = serde_json::from_str(&place.axvm(&[&inspect[..], &memory].concat()).out).unwrap();
    assert_eq!((&seen["cpus"], &seen["memory"].as_array().unwrap().len()), (&Value::from(9), &1));
    for wrong in
        [&["--memory", "0x4000_0000"][..], &["--memory", "0:0"], &["--memory", "1:1Q"], &["--cpu", "0"]]
    {
        assert_eq!(check(wrong).status, Some(2), "{wrong:?}");
    }
    let without = place.axvm(&["check", "system.toml", "--cpu", "2"]);
    assert!(without.err.contains("--platform"), "a board that is looked at says it itself: {}", without.err);
}

#[test]
fn a_listing_says_first_what_the_board_lacks() {
    let place = Place::new(GOOD);
    let whole = place.axvm(&["inspect", "--platform", &fake::VIRT]);
    assert!(!whole.out.contains("AxVM can't start here"), "{}", whole.out);
    let mut platform = axvm_platform::fdt::read(&fs::read(&*fake::VIRT).unwrap()).unwrap();
    platform.irqchip = None;
    platform.timer.clear();
    fs::write(place.path("old.axvm"), axvm_platform::snapshot::save(&platform).unwrap()).unwrap();
    let done = place.axvm(&["inspect", "--platform", "old.axvm"]);
    let first: Vec<&str> = done.out.lines().take(2).collect();
    assert!(
        first.iter().all(|line| line.starts_with("AxVM can't start here: the board has no ")),
        "{}",
        done.out
    );
    assert!(first[0].contains("GICv3") && first[1].contains("timer"), "{}", done.out);
    let json = place.axvm(&["inspect", "--platform", "old.axvm", "--json"]);
    let value: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["lacks"].as_array().unwrap().len(), 2);
}
