//! The table itself. Linux reads some without asking CPUID, and some without a handler for #GP: those have a row for that reason.

use super::{Of, Policy, Row, Slot};
use Policy::{
    Barrier, Efer, Fixed, Hwcr, Hypervisor, Kept, Lfence, MtrrDefault, Own, Pat, SpecCtrl, Swallowed,
};

const fn row(first: u32, last: u32, name: &'static str, policy: Policy, why: &'static str) -> Row {
    Row { first, last, name, policy, why }
}

/// Every MSR that a guest may name.
pub const TABLE: &[Row] = &[
    row(0x10, 0x10, "TSC", Hypervisor(Of::Tsc), "the guest's own time, by TSC_OFFSET"),
    row(0x11, 0x11, "KVM wall clock, old", Hypervisor(Of::WallClock), "as the new one"),
    row(0x12, 0x12, "KVM system time, old", Hypervisor(Of::SystemTime), "as the new one"),
    row(0x1b, 0x1b, "APIC_BASE", Hypervisor(Of::ApicBase), "the local APIC is emulated"),
    row(0x48, 0x48, "SPEC_CTRL", SpecCtrl, "the save area's, where the processor switches it"),
    row(0x49, 0x49, "PRED_CMD", Barrier, "a command to the processor that harms nobody"),
    row(0x8b, 0x8b, "PATCH_LEVEL", Swallowed(0), "microcode is the machine's"),
    row(0xfe, 0xfe, "MTRRcap", Fixed(0x508), "eight variable ranges, fixed ranges, write-combining"),
    row(0x174, 0x176, "SYSENTER_CS, ESP, EIP", Own, "VMLOAD and VMSAVE switch them"),
    row(0x1a0, 0x1a0, "MISC_ENABLE", Swallowed(1), "fast strings; the rest is the machine's"),
    row(0x1d9, 0x1d9, "DEBUGCTL", Swallowed(0), "last branches are hidden, and branches aren't stepped"),
    row(
        0x200,
        0x20f,
        "MTRRphysBase, Mask",
        Kept(Slot::MtrrVariable),
        "memory types are the nested table's and PAT's",
    ),
    row(0x250, 0x250, "MTRRfix64K", Kept(Slot::MtrrFixed), "as the variable ones"),
    row(0x258, 0x259, "MTRRfix16K", Kept(Slot::MtrrFixed), "as the variable ones"),
    row(0x268, 0x26f, "MTRRfix4K", Kept(Slot::MtrrFixed), "as the variable ones"),
    row(0x277, 0x277, "PAT", Pat, "VMRUN switches it"),
    row(0x2ff, 0x2ff, "MTRRdefType", MtrrDefault, "as the variable ones"),
    row(0x6e0, 0x6e0, "TSC_DEADLINE", Hypervisor(Of::Deadline), "the local APIC is emulated"),
    row(0x800, 0x8ff, "x2APIC", Hypervisor(Of::X2Apic), "the local APIC is emulated"),
    row(0x4b56_4d00, 0x4b56_4d00, "KVM wall clock", Hypervisor(Of::WallClock), "time of day"),
    row(0x4b56_4d01, 0x4b56_4d01, "KVM system time", Hypervisor(Of::SystemTime), "the clock"),
    row(0xc000_0080, 0xc000_0080, "EFER", Efer, "SVME stays set, and isn't shown"),
    row(0xc000_0081, 0xc000_0084, "STAR, LSTAR, CSTAR, SFMASK", Own, "VMLOAD and VMSAVE switch them"),
    row(0xc000_0100, 0xc000_0102, "FS_BASE, GS_BASE, KERNEL_GS_BASE", Own, "VMLOAD and VMSAVE switch them"),
    row(
        0xc000_0103,
        0xc000_0103,
        "TSC_AUX",
        Hypervisor(Of::TscAux),
        "RDTSCP and RDPID read it in the processor",
    ),
    row(
        0xc001_0010,
        0xc001_0010,
        "SYSCFG",
        Swallowed(0),
        "Linux asks it for MTRRs above 4 GiB; memory is the machine's",
    ),
    row(
        0xc001_0015,
        0xc001_0015,
        "HWCR",
        Hwcr,
        "Linux asks it for the time-stamp counter's rate, and sets what has no effect here",
    ),
    row(
        0xc001_001f,
        0xc001_001f,
        "NB_CFG",
        Swallowed(0),
        "Linux opens extended PCI configuration by ports with it, unasked",
    ),
    row(0xc001_0055, 0xc001_0055, "INT_PENDING", Swallowed(0), "Linux asks it for C1E, unasked"),
    row(0xc001_0058, 0xc001_0058, "MMIO_CONF_BASE", Fixed(0), "PCI configuration is where ACPI says"),
    row(0xc001_0114, 0xc001_0114, "VM_CR", Fixed(0x18), "SVM is off, and locked so"),
    row(0xc001_1022, 0xc001_1022, "DC_CFG", Swallowed(0), "Linux sets errata's bits in it, unasked"),
    row(0xc001_1029, 0xc001_1029, "DE_CFG", Lfence, "LFENCE serializes, where it does"),
    row(0xc001_102a, 0xc001_102a, "BU_CFG2", Swallowed(0), "Linux sets errata's bits in it, unasked"),
];
