//! The table itself.

use super::{Field, Intercept, Interrupts, Needs, Place, When, Word};
use crate::features::Features;
use crate::vmcb::{NESTED_PAGING, VirtualInterrupt};

const fn row(
    word: Word,
    first: u8,
    last: u8,
    name: &'static str,
    when: When,
    why: &'static str,
) -> Intercept {
    Intercept { word, first, last, name, when, needs: None, why }
}

const fn exit(word: Word, bit: u8, name: &'static str, why: &'static str) -> Intercept {
    row(word, bit, bit, name, When::Always, why)
}

const fn own(word: Word, bit: u8, name: &'static str, why: &'static str) -> Intercept {
    row(word, bit, bit, name, When::Never, why)
}

impl Intercept {
    const fn needs(self, has: fn(&Features) -> bool, without: &'static str) -> Self {
        Self { needs: Some(Needs { has, without }), ..self }
    }
}

const UNDEFINED: &str = "the instruction isn't there: #UD";

/// Every intercept bit that the manual defines.
pub const INTERCEPTS: &[Intercept] = {
    use Interrupts::Emulated;
    use When::{Always, Awaited, Never, Only};
    use Word::{Cr, Dr, Exceptions, General, Later, Svm};
    &[
        own(Cr, 0, "read of CR0", "CR0 is as the guest wrote it, but for CD and NW, which read as clear"),
        row(Cr, 1, 1, "read of CR1", Always, "there is none"),
        row(Cr, 2, 3, "read of CR2, CR3", Never, "the first stage of translation is the guest's"),
        exit(Cr, 4, "read of CR4", "it isn't what the guest wrote: MCE stays set"),
        row(Cr, 5, 7, "read of CR5 to CR7", Always, "there are none"),
        own(Cr, 8, "read of CR8", "V_TPR is up to date. Direct: it is the guest's own APIC"),
        row(Cr, 9, 15, "read of CR9 to CR15", Always, "there are none"),
        own(Cr, 16, "write of CR0", "the selective intercept sees what matters"),
        row(Cr, 17, 17, "write of CR1", Always, "there is none"),
        row(Cr, 18, 19, "write of CR2, CR3", Never, "the first stage of translation is the guest's"),
        exit(Cr, 20, "write of CR4", "features that are hidden stay off, machine checks (MCE) on"),
        row(Cr, 21, 23, "write of CR5 to CR7", Always, "there are none"),
        row(
            Cr,
            24,
            24,
            "write of CR8",
            Only(Emulated),
            "interrupts that wait for the task priority are looked at again",
        ),
        row(Cr, 25, 31, "write of CR9 to CR15", Always, "there are none"),
        row(
            Dr,
            0,
            15,
            "read of a debug register",
            Always,
            "DR0 to DR3 aren't switched by VMRUN: the guest's are values of the hypervisor's",
        ),
        row(Dr, 16, 31, "write of a debug register", Always, "they are loaded only if DR7 has use for them"),
        row(Exceptions, 0, 0, "#DE", Never, "the guest's own"),
        exit(
            Exceptions,
            1,
            "#DB",
            "a breakpoint on the stack of its own handler would never end, with interrupts pending",
        ),
        row(Exceptions, 2, 2, "vector 2", Never, "NMI has a bit of its own"),
        row(Exceptions, 3, 16, "#BP to #MF", Never, "the guest's own"),
        exit(Exceptions, 17, "#AC", "one in its own handler would never end, with interrupts pending"),
        exit(Exceptions, 18, "#MC", "a machine check is the machine's"),
        row(Exceptions, 19, 31, "#XM and above", Never, "the guest's own"),
        row(
            General,
            0,
            0,
            "INTR",
            Only(Emulated),
            "physical interrupts are the hypervisor's. Direct: they are the guest's",
        ),
        exit(General, 1, "NMI", "it is the hypervisor's: the machine's, or a call for this CPU"),
        exit(
            General,
            2,
            "SMI",
            "the firmware's handler isn't entered from a guest (no effect where HWCR.SMMLOCK is set: the firmware's own then)",
        ),
        exit(
            General,
            3,
            "INIT",
            "no guest resets a CPU. The hypervisor makes it an #SX before (VM_CR.R_INIT)",
        ),
        row(General, 4, 4, "VINTR", Awaited, "the moment at which an interrupt can be injected"),
        exit(
            General,
            5,
            "selective write of CR0",
            "caches stay on (CD, NW): neighbours share them. LMSW too",
        ),
        row(General, 6, 13, "reads and writes of IDTR, GDTR, LDTR, TR", Never, "they are the guest's"),
        own(General, 14, "RDTSC", "time is no secret; TSC_OFFSET makes it the guest's"),
        exit(General, 15, "RDPMC", "performance counters are hidden"),
        row(General, 16, 17, "PUSHF, POPF", Never, "flags are the guest's"),
        exit(General, 18, "CPUID", "it shows what the guest has"),
        exit(General, 19, "RSM", "no guest is in system management mode: #UD"),
        row(General, 20, 20, "IRET", Awaited, "the end of an NMI's handler"),
        own(General, 21, "INT n", "the guest's own"),
        exit(General, 22, "INVD", "others' modified cache lines would be lost"),
        own(General, 23, "PAUSE", "a vCPU has its CPU: nobody else would use the time"),
        row(
            General,
            24,
            24,
            "HLT",
            Only(Emulated),
            "the hypervisor waits, and knows of what wakes the guest. Direct: the guest's interrupts do, and an NMI is the hypervisor's call",
        ),
        own(General, 25, "INVLPG", "it reaches the guest's own address space identifier only"),
        exit(General, 26, "INVLPGA", "it reaches other guests' entries: #UD"),
        exit(General, 27, "IOIO_PROT", "ports by the permission map: without it all are open"),
        exit(General, 28, "MSR_PROT", "MSRs by the permission map: without it all are open"),
        own(General, 29, "task switch", "the CPU does it, within the guest's memory"),
        exit(General, 30, "FERR_FREEZE", "a CPU that waits for IGNNE# waits for the machine"),
        exit(General, 31, "shutdown", "a triple fault is the guest's end, not the machine's"),
        exit(Svm, 0, "VMRUN", "nested virtualization is hidden. VMRUN refuses guests without this bit"),
        exit(Svm, 1, "VMMCALL", "the call of the hypervisor"),
        exit(Svm, 2, "VMLOAD", "it takes a host-physical address"),
        exit(Svm, 3, "VMSAVE", "it takes a host-physical address"),
        exit(Svm, 4, "STGI", "the global interrupt flag is the hypervisor's"),
        exit(Svm, 5, "CLGI", "the global interrupt flag is the hypervisor's"),
        exit(Svm, 6, "SKINIT", "it would start the machine anew"),
        own(Svm, 7, "RDTSCP", "RDTSC's; TSC_AUX is the guest's while it runs"),
        own(Svm, 8, "ICEBP", "the #DB is the guest's own"),
        exit(
            Svm,
            9,
            "WBINVD, WBNOINVD",
            "caches are shared with neighbours. DMA that doesn't snoop is told of by the plan",
        ),
        exit(Svm, 10, "MONITOR, MONITORX", "hidden: what ends a wait is the hypervisor's"),
        exit(
            Svm,
            11,
            "MWAIT, MWAITX",
            "hidden: the CPU would sleep where nothing of the hypervisor's wakes it",
        ),
        exit(Svm, 12, "MWAIT while armed", "as MWAIT"),
        exit(Svm, 13, "XSETBV", "state that isn't switched must not be enabled"),
        exit(Svm, 14, "RDPRU", "MPERF and APERF are hidden").needs(|features| features.rdpru, UNDEFINED),
        own(Svm, 15, "write of EFER, as a trap", "the write itself exits, by the MSR map"),
        row(
            Svm,
            16,
            31,
            "writes of CR0 to CR15, as traps",
            Never,
            "for guests whose registers are encrypted",
        ),
        exit(Later, 0, "INVLPGB", "it reaches other CPUs' entries: #UD")
            .needs(|features| features.invlpgb, UNDEFINED),
        exit(Later, 1, "illegal INVLPGB", "as INVLPGB").needs(|features| features.invlpgb, UNDEFINED),
        exit(Later, 2, "INVPCID", "hidden: #UD").needs(|features| features.invpcid, UNDEFINED),
        exit(Later, 3, "MCOMMIT", "hidden: it waits for other devices' stores")
            .needs(|features| features.mcommit, UNDEFINED),
        exit(Later, 4, "TLBSYNC", "it waits for other CPUs").needs(|features| features.invlpgb, UNDEFINED),
        own(Later, 5, "bus lock threshold", "a guest may slow its neighbours by locks across cache lines"),
        own(Later, 6, "HLT without a pending interrupt", "HLT exits always, or never"),
    ]
};

/// Every bit of the control area beside the vectors.
pub const FIELDS: &[Field] = {
    use Place::{Nested, VirtualExtensions, VirtualInterrupt as Virtual};
    use When::{Always, Awaited, Never, Only};
    const fn field(place: Place, bits: u64, name: &'static str, when: When, why: &'static str) -> Field {
        Field { place, bits, name, when, why }
    }
    &[
        field(Virtual, 0xff, "V_TPR", Never, "the guest's task priority, at first 0"),
        field(
            Virtual,
            VirtualInterrupt::PENDING as u64,
            "V_IRQ",
            Awaited,
            "an interrupt waits for the guest",
        ),
        field(Virtual, VirtualInterrupt::GIF as u64, "V_GIF", Never, "STGI and CLGI exit"),
        field(Virtual, VirtualInterrupt::NMI as u64, "V_NMI", Never, "NMIs are injected as events"),
        field(Virtual, VirtualInterrupt::NMI_MASK as u64, "V_NMI_MASK", Never, "NMIs are injected as events"),
        field(Virtual, 0xf << 16, "V_INTR_PRIO", Awaited, "the priority of the interrupt that waits"),
        field(
            Virtual,
            VirtualInterrupt::IGNORE_TPR as u64,
            "V_IGN_TPR",
            Awaited,
            "what waits isn't an interrupt but a window",
        ),
        field(
            Virtual,
            VirtualInterrupt::MASKING as u64,
            "V_INTR_MASKING",
            Only(Interrupts::Emulated),
            "no CLI of the guest keeps physical interrupts out. Direct: they are the guest's",
        ),
        field(Virtual, VirtualInterrupt::GIF_ENABLE as u64, "V_GIF_ENABLE", Never, "STGI and CLGI exit"),
        field(
            Virtual,
            VirtualInterrupt::NMI_ENABLE as u64,
            "V_NMI_ENABLE",
            Never,
            "NMIs are injected as events",
        ),
        field(Virtual, VirtualInterrupt::X2AVIC as u64, "x2AVIC", Never, "interrupts are injected"),
        field(Virtual, VirtualInterrupt::AVIC as u64, "AVIC", Never, "interrupts are injected"),
        field(Nested, NESTED_PAGING, "NP_ENABLE", Always, "the nested table bounds every access"),
        field(Nested, 0b110, "SEV, SEV-ES", Never, "encryption is hidden"),
        field(Nested, 1 << 3, "GMET", Never, "what the guest executes is its own affair"),
        field(Nested, 1 << 4, "SSS check", Never, "shadow stacks are hidden"),
        field(Nested, 1 << 5, "virtual transparent encryption", Never, "encryption is hidden"),
        field(Nested, 1 << 6, "read-only guest page tables", Never, "the guest's tables are its own"),
        field(Nested, 1 << 7, "INVLPGB and TLBSYNC", Never, "both are #UD in the guest"),
        field(
            VirtualExtensions,
            1 << 0,
            "LBR virtualization",
            Never,
            "last branches are hidden: DebugCtl can't be written",
        ),
        field(
            VirtualExtensions,
            1 << 1,
            "virtual VMLOAD and VMSAVE",
            Never,
            "nested virtualization is hidden",
        ),
        field(VirtualExtensions, 1 << 2, "virtual sampling", Never, "instruction sampling is hidden"),
        field(VirtualExtensions, 1 << 3, "virtual counters", Never, "performance counters are hidden"),
    ]
};
