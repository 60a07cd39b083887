//! From boot to running VMs: the hardware is found, all is planned, the machine is taken over, and the VMs are started.

use alloc::string::String;
use alloc::vec::Vec;

use axvm::report::{Report, Verdict};
use axvm_pci::HostBridge;
use axvm_plan::files::Files;
use axvm_plan::problem::{Problem, Rule};
use axvm_plan::{own_tree, plan};
use axvm_platform::limits::Limits;
use axvm_platform::model::Platform;
use axvm_system::bundle::Bundle;
use axvm_system::model::Item;

use crate::arch::{Iommus, Irqchip};
use crate::host::{self, Host, Parts};
use crate::log;
use crate::pci::{Config, Ticks};
use crate::{arch, boot, console, cpus, memory, protection, report, serve};

/// What boot hands over.
pub struct Start {
    /// The hardware, without PCI functions.
    pub platform: Platform,
    /// What the boot loader carried.
    pub bundle: Bundle<'static>,
    /// When the first instruction was executed.
    pub start: u64,
    /// Bytes of heap and stacks.
    pub pool: u64,
}

/// Bytes of the heap that aren't for tables: plans, records, consoles.
const OBJECTS: u64 = 1 << 20;

fn fail(why: &dyn core::fmt::Display) -> ! {
    boot::last_words(why)
}

/// Sets the machine up, plans, runs the VMs, reports, and ends.
pub fn run(start: Start) -> ! {
    let Start { mut platform, bundle, start, pool } = start;
    if let Err(problem) = protection::choose(bundle.run().protection_off.as_deref()) {
        boot::refuse(alloc::vec![problem])
    }
    protection::test_restart();
    // SAFETY: boot has mapped the config spaces.
    let config = unsafe { Config::new(&platform) };
    enumerate(&mut platform, &config);
    // SAFETY: boot has mapped the IOMMUs.
    let iommus = match unsafe { Iommus::new(&platform) } {
        Ok(iommus) => iommus,
        Err(error) => fail(&error),
    };
    // SAFETY: boot has mapped the interrupt controller.
    unsafe { Irqchip::probe(&mut platform) };
    limits(&mut platform, &iommus);
    platform.address_bits = u32::from(arch::physical_address_bits()).min(iommus.output_bits()) as u8;

    let files = Files::of(&bundle);
    let plan = plan(bundle.system(), &platform, &files.images);
    if bundle.run().plan_only {
        report::send_platform(&platform);
        match plan {
            Ok(_) => report::send(&Report::new(Verdict::Ok)),
            Err(problems) => report::send(&Report::bad_input(problems)),
        }
        arch::system_off()
    }
    let looked = plan.and_then(|mut plan| {
        own_tree::check_memory(bundle.system(), &mut plan, &files.trees()).map(|()| plan)
    });
    let plan = match looked {
        Ok(plan) => plan,
        Err(problems) => boot::refuse(problems),
    };
    if plan.console != driven_first(&platform) {
        let started = plan.console.as_deref().is_none_or(|path| boot::start_console(&platform, path));
        if !started {
            let why = "the hypervisor: its console can't be driven: name another, or none";
            boot::refuse(alloc::vec![Problem::new(Item::Hypervisor("console".into()), Rule::Hypervisor, why)])
        }
    }
    for note in &plan.notes {
        log::info!("{note}");
    }
    let held = pool + bundle.length();
    // SAFETY: boot has mapped the interrupt controller; nothing else drives it.
    let irqchip = match unsafe { Irqchip::take_over(&platform) } {
        Ok(irqchip) => irqchip,
        Err(error) => fail(&error),
    };
    let host = host::set(Host::new(Parts {
        platform,
        irqchip,
        iommus,
        config,
        plan,
        files: files.vms,
        start,
        held,
    }));
    console::set_names(host.plans.iter().map(|vm| vm.name.clone()).collect());
    let Some(this) = cpus::current() else { fail(&"the device tree has no node for the CPU that booted") };
    this.bring_up(host);
    if host.hypervisor_cpu() != this.id {
        host.start_cpu(host.hypervisor_cpu());
    }
    host.listen();
    host.start_vms();
    host.set_started();
    if host.hypervisor_cpu() == this.id {
        serve::serve(host)
    }
    // The CPU that booted isn't the hypervisor's: from here on it is a VM's, or idle.
    host.call_hypervisor_cpu();
    this.run_vcpus(host)
}

/// The console that boot has begun with: the platform's, if it is one that can be driven.
fn driven_first(platform: &Platform) -> Option<String> {
    let path = platform.console.as_ref()?;
    let device = platform.devices.iter().find(|device| device.path == *path)?;
    device.uart().map(|_| path.clone())
}

/// Finds the PCI functions.
fn enumerate(platform: &mut Platform, config: &Config) {
    let mut functions = Vec::new();
    for host in &platform.pci_hosts {
        let windows = platform.bus_windows(host);
        let bridge = HostBridge { segment: host.segment, buses: host.buses, windows };
        functions.extend(axvm_pci::enumerate(config.shared(), &bridge, &Ticks));
    }
    let groups = axvm_pci::groups(&functions, config.shared());
    platform.add_functions(functions, &groups);
}

/// Fills in what the machine can't go beyond, as far as its registers and the memory left say it.
fn limits(platform: &mut Platform, iommus: &Iommus) {
    let mut found = Limits { source_bits: iommus.stream_bits().to_vec(), ..Limits::default() };
    // SAFETY: boot has mapped the interrupt controller.
    let later = unsafe { Irqchip::limits(platform, &mut found) } + OBJECTS;
    found.table_bytes = memory::free_bytes().saturating_sub(later);
    platform.limits = found;
}
