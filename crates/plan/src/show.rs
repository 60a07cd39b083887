//! A plan in lines for people: what `axvm check` prints.

use core::fmt;

use axvm_pci::ResetMethod;

use super::findings::Bytes;
use super::machine::Words;
use super::model::{DevicePlan, Plan, RamPiece, VmPlan};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hypervisor_cpu {
            None => writeln!(f, "host: Linux")?,
            Some(cpu) => {
                write!(f, "hypervisor: CPU {cpu}")?;
                match &self.console {
                    Some(console) => writeln!(f, ", console {console}")?,
                    None => writeln!(f, ", no console")?,
                }
            }
        }
        for vm in &self.vms {
            write!(f, "{}", ShownVm { vm, places: self.hypervisor_cpu.is_some() })?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for VmPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ShownVm { vm: self, places: true }.fmt(f)
    }
}

/// What one VM gets, and, if the plan says where in the machine its RAM is, that too.
struct ShownVm<'a> {
    vm: &'a VmPlan,
    places: bool,
}

impl fmt::Display for ShownVm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vm, places } = *self;
        let words = vm.machine.words();
        write!(f, "vm \"{}\": {} vCPUs on CPUs", vm.name, vm.cpus.len())?;
        for vcpu in &vm.cpus {
            write!(f, " {}", vcpu.cpu)?;
        }
        writeln!(f, ", interrupts {}", vm.mode.name())?;
        for RamPiece { gpa, hpa } in &vm.ram {
            write!(f, "  RAM {gpa} ({})", Bytes(gpa.size()))?;
            if places {
                write!(f, " at {hpa}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  kernel at {}, entered at {}", vm.load.kernel, vm.load.entry)?;
        if let Some(initrd) = &vm.load.initrd {
            writeln!(f, "  initrd {initrd}")?;
        }
        writeln!(f, "  {} at {}", words.guest_by, vm.load.description.start())?;
        if let Some(console) = &vm.console {
            writeln!(f, "  console {} (emulated), interrupt {}", console.at, console.irq)?;
        }
        if let Some(watchdog) = &vm.watchdog {
            write!(f, "  watchdog {} and {} (emulated)", watchdog.control, watchdog.refresh)?;
            match watchdog.irq {
                Some(irq) => writeln!(f, ", interrupt {irq}")?,
                None => writeln!(f)?,
            }
        }
        for (index, device) in (0u16..).zip(&vm.devices) {
            writeln!(f, "  {}", Shown(device, words))?;
            for block in vm.registers.iter().filter(|block| block.device == index) {
                let how = if block.direct { "mapped" } else { "trapped" };
                writeln!(f, "    registers {} at {}, {how}", block.gpa, block.hpa)?;
            }
            for block in vm.ports.iter().filter(|block| block.device == index) {
                writeln!(
                    f,
                    "    ports {}, {}",
                    block.ports,
                    if block.direct { "direct" } else { "trapped" }
                )?;
            }
            for line in vm.lines.iter().filter(|line| line.device == index) {
                writeln!(f, "    interrupt {}, {:?}", line.irq, line.trigger)?;
            }
        }
        Ok(())
    }
}

/// A device in the words of its machine.
struct Shown<'a>(&'a DevicePlan, &'a Words);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(device, words) = self;
        f.write_str(&device.name)?;
        if let Some(shown) = device.shown
            && device.pci != device.shown
        {
            write!(f, ", seen at {shown}")?;
        }
        if let Some(group) = device.group {
            write!(f, ", group {group}")?;
        }
        if device.pci.is_some() {
            write!(f, ", reset {}", reset_name(device.reset))?;
        }
        for source in &device.sources {
            write!(f, ", {} {:#x} of {} {}", words.source, source.id.0, words.iommu, source.iommu)?;
        }
        if let Some(msi) = &device.msi {
            let (sender, controller) = (msi.source.id.0, msi.source.controller);
            write!(
                f,
                ", {} MSIs as {} {sender:#x} of {} {controller}",
                msi.messages, words.sender, words.msi
            )?;
        }
        Ok(())
    }
}

/// The name of a way to reset in reports: `none` where there is none.
pub fn reset_name(reset: Option<ResetMethod>) -> &'static str {
    match reset {
        Some(ResetMethod::FunctionLevel) => "flr",
        Some(ResetMethod::PowerState) => "d3hot",
        Some(ResetMethod::SecondaryBus) => "secondary-bus",
        None => "none",
    }
}
