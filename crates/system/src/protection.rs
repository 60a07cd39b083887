//! The names of protections that a test image of the hypervisor can leave out, one at a time, so that the test of each can be shown
//! to fail. Names only grow.

/// A protection, by what is gone without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protection {
    /// The DMA map has RAM of the VM only. Without it: all memory, each address at itself.
    Smmu = 1,
    /// The second stage has RAM of the VM only. Without it: all memory, each address at itself.
    Stage2,
    /// Calls by SMC come to the hypervisor (HCR_EL2.TSC). Without it: to the firmware.
    Smc,
    /// Config space is virtual. Without it: accesses go to the functions of the machine.
    Config,
    /// The distributor is virtual. Without it: the machine's own is mapped.
    Gicd,
    /// Software interrupts (on x86 what local APICs send) reach vCPUs of the same VM. Without it: those of every VM.
    Sgi,
    /// The virtual ITS takes commands on the VM's own devices. Without it: on all of the machine's.
    Its,
    /// A device that violated is kept from the bus where the policy says so. Without it: it goes on.
    Quarantine,
    /// A device that violates too fast is kept from the bus whatever the policy. Without it: it goes on.
    Rate,
    /// Of a trapped block of registers its own bytes are forwarded. Without it: those of its page.
    Block,
    /// What a guest in passthrough mode does to its CPU interface is answered (ICH_HCR_EL2.TC). Without it: by the virtual interface,
    /// which nothing of the guest's comes through.
    Interface,
    /// A guest in passthrough mode sleeps by leave of the hypervisor (HCR_EL2.TWI). Without it: where no call may wake it.
    Wfi,
    /// A VM that is stopped or suspended loses its second stage. Without it: it is only called.
    Revoke,
    /// A line is masked while a VM serves it beside one that could end its active state. Without it: it is active.
    LineEnd,
    /// The CPUs of a VM that is stopped or suspended are called. Without it: nothing calls them.
    Call,
    /// Debug registers and counters are trapped (MDCR_EL2). Without it: they are the guest's.
    DebugRegisters,
    /// Of memory the hypervisor maps what is its own. Without it: all that there is.
    OwnMap,
    /// Not a protection: the hypervisor reads guests' RAM and memory that nobody may map, which must fault.
    OwnRam,
    /// Not a protection: the hypervisor writes to its own code, which must fault.
    OwnCode,
    /// Not a protection: the hypervisor uses up its stack, which must fault and not run into something else.
    OwnStack,
    /// Not a protection: the hypervisor's CPU injects interrupts at a vCPU.
    Inject,
    /// Not a protection: the hypervisor tries whether its memory does what drivers are promised of it.
    OwnMemory,
    /// Not a protection: an access of the hypervisor's is answered late, by an error, while a vCPU starts.
    OwnError,
    /// Not a protection: the first start ends as one that can tell nobody why, and with a reset that keeps memory.
    Restart,
    /// Not a protection: when a VM is built, one table after another can't be had.
    NoTable,
    /// Not a protection: when a VM is built, one command after another to the IOMMU is lost.
    NoCommand,
    /// RAM is zeroed when a VM gets it and when it gives it back. Without it: it stays as it is.
    Zero,
    /// What the IOMMUs have recorded of a device when its VM ends is held against that VM. Without it, and with late records: against who
    /// has the device next.
    Charge,
    /// Not a protection: what the IOMMUs record isn't looked at before a VM has been built again.
    LateRecords,
    /// Not a protection: each VM that is taken apart leaves memory of the hypervisor's taken.
    LeakMemory,
    /// Not a protection: the same, a table that hardware reads.
    LeakTable,
    /// Not a protection: a source of DMA that a VM had isn't blocked when it is taken back.
    LeakSource,
    /// Not a protection: a line that a VM had stays enabled.
    LeakLine,
    /// Not a protection: each VM that is taken apart leaves the number of a message's interrupt taken.
    LeakNumber,
    /// Not a protection: the same, a device whose messages the interrupt controller knows, and a message of it.
    LeakMessage,
    /// What a guest sends by a local APIC of its own, and what its entries deliver, is answered. Without it: the registers are the guest's.
    Apic,
    /// A CPU's local APIC is cleaned before and after it is a guest's. Without it: it is as it was left.
    Clean,
    /// A guest reaches the ports that its plan opens, and traps at others (x86). Without it: it reaches all of the machine's.
    Ports,
    /// A guest is let through to an I/O BAR's ports only where the machine has them. Without it: wherever the guest has them.
    BarPorts,
    /// Model-specific registers trap, but for those that VMRUN switches. Without it: all but EFER are the guest's.
    Msrs,
    /// What CPUID says is filtered. Without it: it is the processor's.
    Cpuid,
    /// Instructions that are the hypervisor's or that wait trap. Without it: the guest executes them, but for VMRUN, which can't be let.
    Instructions,
    /// Control and debug registers trap, and XSETBV. Without it: the guest writes the processor's.
    ControlRegisters,
    /// The local APIC and the I/O APIC are virtual. Without it: a guest's accesses go to the machine's.
    Apics,
    /// What functions send as interrupts the hypervisor chooses, and the IOMMU lets nothing else pass. Without it: the guest chooses, and
    /// everything passes.
    Messages,
    /// Calls by VMMCALL come to the hypervisor. Without it: none does, and the instruction isn't there.
    Calls,
    /// An instruction and its operand are followed by the guest's tables into each page. Without it: the second page is what lies behind the
    /// first.
    Crossing,
    /// What is done at a register is what has reached for it. Without it: whatever is there by then.
    Changing,
}

/// The name of [`Protection::Restart`], for which the tool lets the board start again.
pub const RESTART: &str = "restart";

/// Each with the name by which it is left out.
pub const NAMES: &[(&str, Protection)] = &[
    ("smmu", Protection::Smmu),
    ("stage2", Protection::Stage2),
    ("smc", Protection::Smc),
    ("config", Protection::Config),
    ("gicd", Protection::Gicd),
    ("sgi", Protection::Sgi),
    ("its", Protection::Its),
    ("quarantine", Protection::Quarantine),
    ("rate", Protection::Rate),
    ("block", Protection::Block),
    ("interface", Protection::Interface),
    ("wfi", Protection::Wfi),
    ("revoke", Protection::Revoke),
    ("line-end", Protection::LineEnd),
    ("call", Protection::Call),
    ("debug", Protection::DebugRegisters),
    ("own-map", Protection::OwnMap),
    ("own-ram", Protection::OwnRam),
    ("own-code", Protection::OwnCode),
    ("own-stack", Protection::OwnStack),
    ("inject", Protection::Inject),
    ("own-memory", Protection::OwnMemory),
    ("own-error", Protection::OwnError),
    (RESTART, Protection::Restart),
    ("no-table", Protection::NoTable),
    ("no-command", Protection::NoCommand),
    ("zero", Protection::Zero),
    ("charge", Protection::Charge),
    ("late-records", Protection::LateRecords),
    ("leak-memory", Protection::LeakMemory),
    ("leak-table", Protection::LeakTable),
    ("leak-source", Protection::LeakSource),
    ("leak-line", Protection::LeakLine),
    ("leak-number", Protection::LeakNumber),
    ("leak-message", Protection::LeakMessage),
    ("apic", Protection::Apic),
    ("clean", Protection::Clean),
    ("ports", Protection::Ports),
    ("bar-ports", Protection::BarPorts),
    ("msrs", Protection::Msrs),
    ("cpuid", Protection::Cpuid),
    ("instructions", Protection::Instructions),
    ("control-registers", Protection::ControlRegisters),
    ("apics", Protection::Apics),
    ("messages", Protection::Messages),
    ("calls", Protection::Calls),
    ("crossing", Protection::Crossing),
    ("changing", Protection::Changing),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_and_each_protection_is_there_once() {
        for (position, (name, protection)) in NAMES.iter().enumerate() {
            assert_eq!(*protection as usize, position + 1, "{name}");
            assert!(NAMES.iter().take(position).all(|(other, _)| other != name));
        }
    }
}
