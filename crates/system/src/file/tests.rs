use alloc::string::String;

use axvm_addr::{Gpa, Hpa, Irq, PciAddress, SourceId};
use proptest::prelude::*;

use super::*;
use crate::model::{AfterEnd, Device, Dma, Hazard, InUse, InterruptChoice, RegisterAccess, ViolationPolicy};

const GOOD: &str = r#"
[board]
arch = "aarch64"
qemu = ["-M", "virt,virtualization=on,gic-version=3,iommu=smmuv3", "-m", "2G"]

[hypervisor]
cpu = 0
console = "/pl011@9000000"

[[vm]]
name = "linux"
cpus = [1, 2]
memory = "512M"
kernel = "Image"
initrd = "initrd.cpio.gz"
cmdline = "console=ttyAMA0"

[[vm.device]]
pci = "0000:00:02.0"

[[vm.device]]
node = "/pl031@9010000"

[[vm.device]]
name = "gpio"
base_gpa = 0x1000_0000
base_hpa = 0x0903_0000
length = "4K"
irq = 39
access = "trap"
dma = "none"
"#;

/// `LINE:COLUMN: message` of each problem.
fn problems(text: &str) -> Vec<String> {
    let (_, _, problems) = read(text);
    problems.iter().map(|p| format!("{}:{}: {}", p.position.line, p.position.column, p.message)).collect()
}

fn line(number: u32, needle: &str, messages: &[String]) {
    let found = messages.iter().any(|m| m.starts_with(&format!("{number}:")) && m.contains(needle));
    assert!(found, "no problem at line {number} with {needle:?} in {messages:#?}");
}

#[test]
fn the_documented_example_is_read_with_its_defaults() {
    let (system, spans, problems) = read(GOOD);
    assert_eq!(problems, []);
    let system = system.unwrap();
    let vm = &system.vms[0];
    assert_eq!((vm.memory, vm.cpus.as_slice()), (512 << 20, &[CpuId(1), CpuId(2)][..]));
    assert_eq!((vm.trusted, vm.autostart, vm.interrupts), (false, true, InterruptChoice::Auto));
    assert_eq!((vm.on_reset, vm.on_crash, vm.watchdog), (AfterEnd::Restart, AfterEnd::Stop, None));
    let address = PciAddress::new(0, 0, 2, 0).unwrap();
    assert_eq!(
        vm.devices[0],
        Device::Pci { address, without_reset: false, without_intx: false, in_use: InUse::Keep }
    );
    let region = Device::Region {
        name: "gpio".into(),
        base_gpa: Gpa(0x1000_0000),
        base_hpa: Hpa(0x0903_0000),
        length: 4096,
        irq: Some(Irq(39)),
        access: RegisterAccess::Trap,
        dma: Dma::None,
        accept: vec![],
    };
    assert_eq!(vm.devices[2], region);
    assert_eq!(spans.find(&Item::Device(0, 2, "base_hpa".into())), Position { line: 27, column: 1 });
}

#[test]
fn an_item_that_the_file_does_not_say_is_found_at_what_encloses_it() {
    let (_, spans, _) = read(GOOD);
    let line = |item| spans.find(&item).line;
    assert_eq!(line(Item::Vm(0, "memory".into())), 13);
    assert_eq!(line(Item::Vm(0, "interrupts".into())), 10);
    assert_eq!(spans.find(&Item::Cpu(0, 1)), Position { line: 12, column: 12 });
    assert_eq!(spans.find(&Item::Cpu(0, 9)), Position { line: 12, column: 1 });
    assert_eq!(line(Item::Device(0, 0, "irq".into())), 18);
    assert_eq!(line(Item::Device(0, 7, String::new())), 10);
    assert_eq!(line(Item::Hypervisor("cpu".into())), 7);
    assert_eq!(line(Item::Vm(5, "name".into())), 1);
}

#[test]
fn all_problems_come_at_once_each_with_its_line() {
    let text = r#"[board]
arch = "arm"
qemu = ["-m", "1G", "-serial", "stdio", 7]
speed = 3

[[vm]]
name = "a b"
cpus = [1, -2, "x"]
memory = "512X"
kernal = "Image"
trusted = "yes"
on_violation = "ignore"
load = 0x4000_0000

[[vm.device]]
pci = "0000:00:40.0"

[[vm.device]]
nodes = "/x"

[[vm.device]]
name = "r"
base_hpa = 0x1000
length = 0
reset = "none"
dma = "all"

[[vm.device]]
pci = "00:03.0"
node = "/y"

[[vm.device]]
name = "com2"
ports = [0x2f8]

[[vms]]
"#;
    let messages = problems(text);
    line(2, "`arch` can't be \"arm\"", &messages);
    line(3, "`-serial` can't be given", &messages);
    line(3, "array of strings, not an integer", &messages);
    line(4, "unknown key `speed` in [board]: the nearest known one is `", &messages);
    line(6, "[[vm]] needs `kernel`", &messages);
    line(7, "`name` can't be \"a b\"", &messages);
    line(8, "`cpus` can't be -2", &messages);
    line(8, "`cpus` must be an integer, not a string", &messages);
    line(9, "`memory` can't be \"512X\"", &messages);
    line(10, "unknown key `kernal` in [[vm]]: the nearest known one is `kernel`", &messages);
    line(11, "`trusted` must be true or false", &messages);
    line(12, "`on_violation` can't be \"ignore\"", &messages);
    line(13, "`load` needs `entry`", &messages);
    line(16, "not a PCI address", &messages);
    line(18, "a device needs", &messages);
    line(19, "unknown key `nodes`", &messages);
    line(21, "needs `base_gpa`", &messages);
    line(25, "a raw region has no key `reset`", &messages);
    line(26, "`dma` can't be \"all\"", &messages);
    line(30, "can't have both `pci` and `node`", &messages);
    line(34, "the first port and how many", &messages);
    line(36, "unknown key `vms` in the file: the nearest known one is `vm`", &messages);
    let lines: Vec<u32> = read(text).2.iter().map(|problem| problem.position.line).collect();
    assert!(lines.is_sorted());
}

#[test]
fn a_device_that_cannot_be_read_leaves_the_places_of_the_others_right() {
    let text = GOOD.replace("0000:00:02.0", "nonsense");
    let (system, spans, problems) = read(&text);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].position.line, 19);
    assert_eq!(system.unwrap().vms[0].devices.len(), 2);
    assert_eq!(spans.find(&Item::Device(0, 0, "node".into())).line, 22);
}

#[test]
fn a_name_given_twice_names_the_first_place() {
    let vm = "[[vm]]\nname = \"a\"\ncpus = [1]\nmemory = \"1M\"\nkernel = \"k\"\n";
    let messages = problems(&format!("[board]\narch = \"aarch64\"\n{vm}{vm}"));
    assert_eq!(messages, ["9:1: the name \"a\" is taken by the VM at line 4"]);
}

#[test]
fn text_that_is_not_toml_gives_the_line_and_no_system() {
    let (system, _, problems) = read("[board]\narch = \n");
    assert_eq!(system, None);
    assert_eq!(problems[0].position.line, 2);
    assert!(problems[0].message.starts_with("not TOML: "), "{problems:?}");
}

#[test]
fn what_follows_an_end_is_one_of_two_words_and_a_slip_is_found_at_its_line() {
    let with = |text: &str| problems(&GOOD.replace("cmdline = \"console=ttyAMA0\"\n", &format!("{text}\n")));
    for key in ["on_reset", "on_crash", "watchdog"] {
        line(
            16,
            &format!("`{key}` can't be \"reboot\": it is one of \"restart\", \"stop\""),
            &with(&format!("{key} = \"reboot\"")),
        );
        line(16, &format!("`{key}` must be a string, not a boolean"), &with(&format!("{key} = true")));
    }
    line(
        16,
        "unknown key `on_rest` in [[vm]]: the nearest known one is `on_reset`",
        &with("on_rest = \"stop\""),
    );
}

#[test]
fn an_empty_file_lacks_a_board_and_a_vm() {
    let messages = problems("");
    assert_eq!(messages.len(), 1, "{messages:?}");
    line(1, "`board`", &messages);
    line(1, "nothing to run", &problems("[board]\narch = \"aarch64\"\n"));
}

/// The system file that says `system`.
fn write(system: &System) -> String {
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    let mut text = String::from("[board]\n");
    text += match system.board.arch {
        Arch::Aarch64 => "arch = \"aarch64\"\n",
        Arch::X86_64 => "arch = \"x86_64\"\n",
        Arch::Riscv64 => "arch = \"riscv64\"\n",
    };
    if let Some(qemu) = &system.board.qemu {
        text += &format!("qemu = {}\n", list(qemu.iter().map(|text| format!("{text:?}")).collect()));
    }
    if let Some(cpu) = system.hypervisor.cpu {
        text += &format!("[hypervisor]\ncpu = {cpu}\n");
    }
    for vm in &system.vms {
        text += &format!("[[vm]]\nname = {:?}\nmemory = {}\nkernel = {:?}\n", vm.name, vm.memory, vm.kernel);
        text += &format!("cpus = {}\n", list(vm.cpus.iter().map(|cpu| format!("{cpu}")).collect()));
        text +=
            &format!("cmdline = {:?}\ntrusted = {}\nautostart = {}\n", vm.cmdline, vm.trusted, vm.autostart);
        for (key, value) in [("initrd", &vm.initrd), ("dtb", &vm.dtb)] {
            text += &value.as_ref().map_or(String::new(), |value| format!("{key} = {value:?}\n"));
        }
        for (key, value) in [
            ("load", vm.load),
            ("entry", vm.entry),
            ("memory_base", vm.memory_base),
            ("device_tree", vm.device_tree),
        ] {
            text += &value.map_or(String::new(), |value| format!("{key} = \"{value}\"\n"));
        }
        text += match vm.interrupts {
            InterruptChoice::Auto => "",
            InterruptChoice::Passthrough => "interrupts = \"passthrough\"\n",
            InterruptChoice::Emulated => "interrupts = \"emulated\"\n",
            InterruptChoice::None => "interrupts = \"none\"\n",
        };
        text += match vm.on_violation {
            ViolationPolicy::QuarantineDevice => "",
            ViolationPolicy::Report => "on_violation = \"report\"\n",
            ViolationPolicy::StopVm => "on_violation = \"stop-vm\"\n",
        };
        let word = |after| if after == AfterEnd::Restart { "restart" } else { "stop" };
        for (key, after) in
            [("on_reset", Some(vm.on_reset)), ("on_crash", Some(vm.on_crash)), ("watchdog", vm.watchdog)]
        {
            text += &after.map_or(String::new(), |after| format!("{key} = \"{}\"\n", word(after)));
        }
        for device in &vm.devices {
            text += "[[vm.device]]\n";
            text += &write_device(device);
        }
    }
    text
}

fn write_device(device: &Device) -> String {
    let irq = |irq: &Option<Irq>| irq.map_or(String::new(), |irq| format!("irq = {irq}\n"));
    let common = |access: &RegisterAccess, dma: &Dma, accept: &[Hazard]| {
        let words = accept.iter().map(|hazard| {
            let (word, _) = Hazard::ALL.iter().find(|(_, other)| other == hazard).unwrap();
            format!("\"{word}\"")
        });
        let words: Vec<String> = words.collect();
        let accept =
            if words.is_empty() { String::new() } else { format!("accept = [{}]\n", words.join(", ")) };
        let access = if *access == RegisterAccess::Trap { "access = \"trap\"\n" } else { "" };
        let dma = match dma {
            Dma::Unstated => String::new(),
            Dma::None => "dma = \"none\"\n".into(),
            Dma::Streams(streams) => {
                let streams: Vec<String> = streams.iter().map(|stream| format!("{stream}")).collect();
                format!("streams = [{}]\n", streams.join(","))
            }
        };
        format!("{access}{dma}{accept}")
    };
    match device {
        Device::Pci { address, without_reset, without_intx, in_use } => format!(
            "pci = \"{address}\"\n{}{}{}",
            if *without_reset { "reset = \"none\"\n" } else { "" },
            if *without_intx { "intx = \"none\"\n" } else { "" },
            if *in_use == InUse::Take { "in_use = \"take\"\n" } else { "" },
        ),
        Device::Node { path, access, dma, accept } => {
            format!("node = {path:?}\n{}", common(access, dma, accept))
        }
        Device::Region { name, base_gpa, base_hpa, length, irq: line, access, dma, accept } => format!(
            "name = {name:?}\nbase_gpa = {}\nbase_hpa = {}\nlength = {length}\n{}{}",
            base_gpa.0,
            base_hpa.0,
            irq(line),
            common(access, dma, accept)
        ),
        Device::Ports { name, base, count, irq: line, access } => {
            format!(
                "name = {name:?}\nports = [{base}, {count}]\n{}{}",
                irq(line),
                common(access, &Dma::Unstated, &[])
            )
        }
    }
}

fn dma() -> impl Strategy<Value = Dma> {
    let streams = prop::collection::vec(any::<u32>().prop_map(SourceId), 0..3).prop_map(Dma::Streams);
    prop_oneof![Just(Dma::Unstated), Just(Dma::None), streams]
}

fn device() -> impl Strategy<Value = Device> {
    let access = || prop_oneof![Just(RegisterAccess::Direct), Just(RegisterAccess::Trap)];
    let irq = || prop::option::of(any::<u32>().prop_map(Irq));
    let accept = || prop::sample::subsequence(Hazard::ALL.map(|(_, hazard)| hazard).to_vec(), 0..3);
    prop_oneof![
        (any::<u16>(), any::<u16>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(segment, id, without_reset, without_intx, take)| Device::Pci {
                address: PciAddress::from_requester_id(segment, id),
                without_reset,
                without_intx,
                in_use: if take { InUse::Take } else { InUse::Keep },
            }
        ),
        ("/[a-z0-9@]{1,12}", access(), dma(), accept())
            .prop_map(|(path, access, dma, accept)| Device::Node { path, access, dma, accept }),
        ("[a-z]{1,8}", 0u64..1 << 40, 0u64..1 << 40, 1u64..1 << 30, irq(), access(), dma(), accept())
            .prop_map(|(name, gpa, hpa, length, irq, access, dma, accept)| Device::Region {
                name,
                base_gpa: Gpa(gpa),
                base_hpa: Hpa(hpa),
                length,
                irq,
                access,
                dma,
                accept
            }),
        ("[a-z]{1,8}", 0u16..0xff00, 1u16..0x100, irq(), access())
            .prop_map(|(name, base, count, irq, access)| Device::Ports { name, base, count, irq, access }),
    ]
}

fn vm() -> impl Strategy<Value = Vm> {
    let first = (
        prop::collection::vec((0u16..512).prop_map(CpuId), 1..4),
        1u64..1 << 20,
        prop::option::of(any::<u64>().prop_map(Gpa)),
        prop::option::of(any::<u64>()),
        prop::option::of(any::<u64>().prop_map(Gpa)),
        prop::option::of("[a-z.]{1,8}"),
        "[ -~]{0,20}",
    );
    let interrupts = prop_oneof![
        Just(InterruptChoice::Auto),
        Just(InterruptChoice::Passthrough),
        Just(InterruptChoice::Emulated),
        Just(InterruptChoice::None)
    ];
    let policies = prop_oneof![
        Just(ViolationPolicy::QuarantineDevice),
        Just(ViolationPolicy::Report),
        Just(ViolationPolicy::StopVm)
    ];
    let after = || prop_oneof![Just(AfterEnd::Stop), Just(AfterEnd::Restart)];
    let life = (after(), after(), prop::option::of(after()), any::<bool>());
    let second = (interrupts, any::<bool>(), policies, life, prop::collection::vec(device(), 0..5));
    (first, second).prop_map(
        |(
            (cpus, pages, memory_base, load, device_tree, initrd, cmdline),
            (interrupts, trusted, policy, (on_reset, on_crash, watchdog, autostart), devices),
        )| Vm {
            name: String::new(),
            cpus,
            memory: pages << 12,
            memory_base,
            kernel: "dir/Image".into(),
            dtb: initrd.clone(),
            initrd,
            cmdline,
            load: load.map(Gpa),
            entry: load.map(Gpa),
            device_tree,
            interrupts,
            trusted,
            on_violation: policy,
            on_reset,
            on_crash,
            watchdog,
            autostart,
            devices,
        },
    )
}

fn system() -> impl Strategy<Value = System> {
    let qemu = prop::option::of(prop::collection::vec("[a-z0-9=,.]{0,10}", 0..4));
    let cpu = prop::option::of((0u16..64).prop_map(CpuId));
    (qemu, cpu, prop::collection::vec(vm(), 1..4)).prop_map(|(qemu, cpu, mut vms)| {
        for (position, vm) in vms.iter_mut().enumerate() {
            vm.name = format!("vm-{position}");
        }
        // Of x86_64, so that ports are allowed.
        System {
            board: Board { arch: Arch::X86_64, qemu, ..Board::default() },
            hypervisor: Hypervisor { cpu, console: None },
            vms,
        }
    })
}

proptest! {
    #[test]
    fn what_a_system_says_as_toml_is_read_as_that_system(system in system()) {
        let text = write(&system);
        let (read, _, problems) = read(&text);
        prop_assert_eq!(problems, vec![], "{}", text);
        prop_assert_eq!(read, Some(system));
    }

    #[test]
    fn a_file_with_random_damage_never_panics_and_has_a_system_or_a_problem(
        damage in prop::collection::vec((0usize..2000, "[ -~\\n]"), 1..12)
    ) {
        let mut characters: Vec<char> = GOOD.chars().collect();
        for (at, text) in damage {
            let at = at % characters.len();
            characters[at] = text.chars().next().unwrap_or(' ');
        }
        let text: String = characters.into_iter().collect();
        let (system, _, problems) = read(&text);
        prop_assert!(system.is_some() || !problems.is_empty());
    }
}
