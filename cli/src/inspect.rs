//! `axvm inspect`: what a platform has, or this machine.

use std::path::Path;
use std::process::ExitCode;

use axvm_addr::DmaSource;
use axvm_addr::{CpuId, Gpa};
use axvm_guest::image::{ImageInfo, Images, VmImages};
use axvm_plan::problem::Problem;
use axvm_plan::{Console, plan, reset_name};
use axvm_platform::model::{PciDevice, PciHost, Platform, PlatformDevice, Proximity};
use axvm_platform::snapshot;
use axvm_platform::sysfs::{Function as LinuxFunction, Machine};
use axvm_system::model::{
    Arch, Board as BoardModel, Device, Dma, Hypervisor, InUse, InterruptChoice, Item, RegisterAccess, System,
    Vm,
};
use serde_json::{Value, json};

use crate::args::Inspect;
use crate::board::{Board, How};
use crate::input::Input;
use crate::linux;
use crate::output::{print, print_json};
use crate::pci_names::Names;
use crate::platform;

/// Lists devices.
pub fn inspect(arguments: &Inspect) -> ExitCode {
    let machine = match find(arguments) {
        Ok(machine) => machine,
        Err(messages) => {
            for message in messages {
                eprintln!("{message}");
            }
            return ExitCode::from(2);
        }
    };
    if let Some(path) = &arguments.save {
        let saved = snapshot::save(&machine.platform).map_err(|error| error.to_string());
        let written = saved.and_then(|bytes| std::fs::write(path, bytes).map_err(|error| error.to_string()));
        if let Err(error) = written {
            eprintln!("axvm: the platform can't be written to \"{}\": {error}", path.display());
            return ExitCode::from(2);
        }
    }
    let result = describe(&machine);
    if arguments.json {
        print_json(&result);
    } else {
        print(&text(&result));
    }
    ExitCode::SUCCESS
}

/// What is to be looked at: a platform, or a machine with the Linux that runs there.
fn find(arguments: &Inspect) -> Result<Machine, Vec<String>> {
    let of_linux = |root: &Path| axvm_linux::probe::machine(root).map_err(|error| vec![error.to_string()]);
    match (&arguments.platform, &arguments.system) {
        (Some(path), _) if linux::is_copy(path) => of_linux(path),
        (Some(path), _) => {
            let platform = platform::read(path, &arguments.stand_in).map_err(|message| vec![message])?;
            Ok(Machine { platform, functions: Vec::new() })
        }
        (None, Some(system)) => {
            Ok(Machine { platform: find_board(system, arguments)?, functions: Vec::new() })
        }
        (None, None) => of_linux(Path::new("/")),
    }
}

/// What a system file's board says of itself.
fn find_board(path: &Path, arguments: &Inspect) -> Result<Platform, Vec<String>> {
    let mut input = Input::read(path);
    let board = Board::prepare(&mut input, arguments.image.hypervisor.as_deref(), &[]);
    let problems = |input: &Input| input.problems().iter().map(ToString::to_string).collect::<Vec<_>>();
    let Some(board) = board else { return Err(problems(&input)) };
    let outcome =
        board.start(&input, &How { plan_only: true, ..How::default() }).map_err(|error| vec![error])?;
    outcome.platform().ok_or_else(|| {
        let mut messages = vec![format!("{}: the board said nothing of itself", input.name)];
        messages
            .extend(outcome.report().into_iter().flat_map(|report| report.problems).map(|p| p.to_string()));
        messages.extend(outcome.last.iter().map(|line| format!("board: {line}")));
        messages
    })
}

/// The devices, as they are shown to machines.
fn describe(machine: &Machine) -> Value {
    let (platform, names) = (&machine.platform, Names::find());
    let functions = platform.functions.as_ref();
    let mut pci: Vec<Value> =
        functions.into_iter().flatten().map(|device| pci(machine, device, &names)).collect();
    pci.extend(machine.functions.iter().filter(|it| it.address.is_none()).map(|it| only_linux(it, &names)));
    let devices: Vec<Value> = platform.devices.iter().map(|device| node(platform, device)).collect();
    json!({
        "lacks": lacks(platform),
        "model": platform.model,
        "console": console(platform),
        "cpus": platform.cpus.len(),
        "memory": platform.memory.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "proximity": platform.proximity.iter().map(proximity).collect::<Vec<_>>(),
        "incomplete": functions.is_none(),
        "pci_hosts": platform.pci_hosts.iter().map(|it| host(platform, it)).collect::<Vec<_>>(),
        "pci": pci,
        "devices": devices,
        "unclear": platform.unclear,
    })
}

/// What the number of an interrupt is called.
fn irq(platform: &Platform) -> &'static str {
    if platform.apic().is_some() { "GSI" } else { "INTID" }
}

/// The board's console: whether it can be driven, and where the hypervisor speaks if no VM has a UART.
fn console(platform: &Platform) -> Value {
    let console = Console::of(&system(platform, Vec::new()), platform);
    json!({
        "address": console.named,
        "name": console.own.map_or(&[][..], |device| &device.compatible),
        "driven": console.is_driven(),
        "used": console.used.map(|device| &device.path),
        "says": console.to_string(),
    })
}

/// CPUs and memory that are near each other.
fn proximity(domain: &Proximity) -> Value {
    json!({
        "domain": domain.domain,
        "cpus": domain.cpus.iter().map(|cpu| cpu.0).collect::<Vec<_>>(),
        "memory": domain.memory.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// A host bridge, and whether any of its functions' DMA passes an IOMMU.
fn host(platform: &Platform, host: &PciHost) -> Value {
    let mapped = host.iommu_map.iter().any(|entry| entry.target.is_some());
    let confined = mapped || !platform.iommu_scopes.is_empty();
    json!({ "address": host.path, "confined": confined })
}

/// Where a device's DMA arrives.
fn sources(platform: &Platform, sources: &[DmaSource]) -> Vec<String> {
    let shown = |source: &DmaSource| {
        let path = platform.iommu(source.iommu).map_or("", |iommu| iommu.path.as_str());
        format!("{path} stream {}", source.id)
    };
    sources.iter().map(shown).collect()
}

/// A function that Linux has, and bare metal wouldn't find.
fn only_linux(function: &LinuxFunction, names: &Names) -> Value {
    let ids = function.ids();
    let why_not = match function.virtual_of {
        Some(of) => vec![format!(
            "it is a virtual function of {of}, which a hypervisor on bare metal doesn't turn on"
        )],
        None => Vec::new(),
    };
    json!({
        "address": function.linux.to_string(),
        "name": format!("{:04x}:{:04x} class {:06x}", ids.vendor, ids.device, ids.class),
        "called": names.of(ids.vendor, ids.device),
        "linux": here(function),
        "why_not": (!why_not.is_empty()).then_some(why_not),
    })
}

/// What Linux has of a function.
fn here(function: &LinuxFunction) -> Value {
    json!({
        "address": function.linux.to_string(),
        "driver": function.driver,
        "group": function.group,
        "with": function.with.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "reset": function.resets,
        "uses": function.uses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "in_use": function.uses.iter().any(|it| it.is_in_use()),
    })
}

fn pci(machine: &Machine, device: &PciDevice, names: &Names) -> Value {
    let platform = &machine.platform;
    let function = &device.function;
    let linux = machine.functions.iter().find(|it| it.address == Some(function.address));
    let bars: Vec<String> = function
        .bars
        .iter()
        .map(|bar| {
            let place = bar.address.map_or("unassigned".to_string(), |address| format!("{address:#x}"));
            format!("BAR{} {place} size {:#x}", bar.index, bar.size)
        })
        .collect();
    let msi = function.msix.map(|msix| format!("MSI-X {}", msix.vectors));
    let msi = msi.or(function.msi_vectors.map(|vectors| format!("MSI {vectors}")));
    let line = device.line.map(|line| format!("{} {}", irq(platform), line.irq));
    let reference = Device::Pci {
        address: function.address,
        without_reset: false,
        without_intx: false,
        in_use: InUse::Keep,
    };
    json!({
        "address": function.address.to_string(),
        "name": format!("{:04x}:{:04x} class {:06x}", function.vendor, function.device, function.class),
        "called": names.of(function.vendor, function.device),
        "linux": linux.map(here),
        "registers": bars,
        "interrupts": msi.into_iter().chain(line).collect::<Vec<_>>(),
        "iommu": sources(platform, &device.sources),
        "behind": device.bridges.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "group": device.group,
        "reaches": device.reaches.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "reset": function.resets.iter().map(|method| reset_name(Some(*method))).collect::<Vec<_>>(),
        "why_not": why_not(platform, reference),
    })
}

fn node(platform: &Platform, device: &PlatformDevice) -> Value {
    let reference = Device::Node {
        path: device.path.clone(),
        access: RegisterAccess::Direct,
        dma: Dma::Unstated,
        accept: Vec::new(),
    };
    json!({
        "address": device.path,
        "name": device.compatible.first().map_or("", String::as_str),
        "registers": device.registers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "not the CPU's": device.lost.iter().map(|lost| format!("{:#x} size {:#x}", lost.start, lost.size)).collect::<Vec<_>>(),
        "ports": device.ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "interrupts": device.interrupts.iter().map(|one| format!("{} {}", irq(platform), one.irq)).collect::<Vec<_>>(),
        "iommu": sources(platform, &device.sources),
        "why_not": why_not(platform, reference),
    })
}

/// What keeps AxVM from starting on the board at all, whatever it is to run: what the plan says of a VM without devices.
fn lacks(platform: &Platform) -> Vec<String> {
    let problems = problems(platform, Vec::new()).into_iter();
    let of_board = problems.filter(|problem| matches!(problem.item, Item::Board(_) | Item::Hypervisor(_)));
    of_board.map(|problem| problem.to_string()).collect()
}

/// What the plan has against a VM whose only device is this one. Asking the plan itself means that nothing here can
/// disagree with it.
fn why_not(platform: &Platform, device: Device) -> Vec<String> {
    let of_device = problems(platform, vec![device]).into_iter();
    let of_device = of_device.filter(|problem| matches!(problem.item, Item::Device(..)));
    // That it is about the VM made up here is no news to anyone.
    of_device.map(|problem| problem.to_string().trim_start_matches("vm \"vm\": ").to_string()).collect()
}

/// What the plan has against a VM with these devices.
fn problems(platform: &Platform, devices: Vec<Device>) -> Vec<Problem> {
    // Any guest will do: what is asked about is the device alone.
    let kernel = ImageInfo::parse(&[0; 4096], Some((Gpa(0), Gpa(0))));
    let images = Images { vms: vec![VmImages { kernel, initrd_len: None, dtb_len: None }] };
    plan(&system(platform, devices), platform, &images).err().unwrap_or_default()
}

/// The architecture of a platform: device trees are read of aarch64 boards, ACPI's tables of x86 machines.
fn arch(platform: &Platform) -> Arch {
    if platform.apic().is_some() { Arch::X86_64 } else { Arch::Aarch64 }
}

/// One VM with these devices.
fn system(platform: &Platform, devices: Vec<Device>) -> System {
    let vm = Vm {
        name: "vm".into(),
        cpus: vec![CpuId(1)],
        memory: 2 << 20,
        memory_base: None,
        kernel: String::new(),
        initrd: None,
        dtb: None,
        cmdline: String::new(),
        load: None,
        entry: None,
        device_tree: None,
        interrupts: InterruptChoice::Emulated,
        trusted: false,
        on_violation: Default::default(),
        on_reset: Default::default(),
        on_crash: Default::default(),
        watchdog: None,
        autostart: true,
        devices,
    };
    let board = BoardModel { arch: arch(platform), ..BoardModel::default() };
    System { board, hypervisor: Hypervisor::default(), vms: vec![vm] }
}

/// The devices, for people.
fn text(result: &Value) -> String {
    let mut text = String::new();
    for lack in result["lacks"].as_array().into_iter().flatten() {
        text += &format!("AxVM can't start here: {}\n", word(lack));
    }
    text += &format!(
        "{}: {} CPUs, memory {}\n",
        result["model"].as_str().filter(|model| !model.is_empty()).unwrap_or("a platform"),
        result["cpus"],
        list(&result["memory"])
    );
    for domain in result["proximity"].as_array().into_iter().flatten() {
        text += &format!(
            "near each other (domain {}): CPUs {}, memory {}\n",
            domain["domain"],
            list(&domain["cpus"]),
            list(&domain["memory"])
        );
    }
    text += &format!("{}\n", word(&result["console"]["says"]));
    for unclear in result["unclear"].as_array().into_iter().flatten() {
        text += &format!("not clear: {}\n", word(unclear));
    }
    for kind in ["pci", "devices"] {
        for device in result[kind].as_array().into_iter().flatten() {
            let called = device["called"].as_str().map_or_else(String::new, |called| format!("  {called}"));
            text += &format!("{}  {}{called}\n", word(&device["address"]), word(&device["name"]));
            text += &text_of_linux(device);
            for key in [
                "behind",
                "registers",
                "ports",
                "not the CPU's",
                "interrupts",
                "iommu",
                "group",
                "reaches",
                "reset",
            ] {
                let shown = list(&device[key]);
                if !shown.is_empty() {
                    text += &format!("    {key}: {shown}\n");
                }
            }
            match device["why_not"].as_array().map(Vec::as_slice) {
                Some([]) => text += "    assignable\n",
                Some(reasons) => {
                    for reason in reasons {
                        text += &format!("    not assignable: {}\n", word(reason));
                    }
                }
                None => {}
            }
        }
    }
    if result["incomplete"] == true {
        text += "incomplete: this platform doesn't list PCI functions\n";
    }
    text
}

/// What Linux has of a function, for people.
fn text_of_linux(device: &Value) -> String {
    let linux = &device["linux"];
    if linux.is_null() {
        return String::new();
    }
    let mut text = String::new();
    let mut line = |key: &str, value: String| text += &format!("    {key}: {value}\n");
    if linux["address"] != device["address"] {
        line("in Linux", word(&linux["address"]).into());
    }
    line("driver", linux["driver"].as_str().unwrap_or("none").into());
    let with = list(&linux["with"]);
    let alone = if with.is_empty() { "alone".to_string() } else { format!("with {with}") };
    match linux["group"].as_u64() {
        Some(group) => line("Linux's group", format!("{group}, {alone}")),
        None => line("Linux's group", "none: it has no IOMMU in use (see the manual)".into()),
    }
    let reset = list(&linux["reset"]);
    if !reset.is_empty() {
        line("Linux's resets", reset);
    }
    let uses = list(&linux["uses"]);
    if !uses.is_empty() {
        line(if linux["in_use"] == true { "in use" } else { "used for" }, uses);
    }
    text
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> String {
    match value {
        Value::Array(values) => values.iter().map(list).collect::<Vec<_>>().join(", "),
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
