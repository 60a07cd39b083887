//! The control area (AMD64 APM 2, appendix B, table B-1).

use super::event::Event;
use core::mem::offset_of;

/// The intercept vectors, word by word. Their bits are `control`'s table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Intercepts {
    /// Offset 0: reads of CR0 to CR15, writes of them from bit 16 on.
    pub cr: u32,
    /// Offset 4: reads of DR0 to DR15, writes of them from bit 16 on.
    pub dr: u32,
    /// Offset 8: exceptions by their vectors.
    pub exceptions: u32,
    /// Offset 0xc: interrupts and instructions.
    pub general: u32,
    /// Offset 0x10: SVM's instructions and further ones; writes of CRs as traps.
    pub svm: u32,
    /// Offset 0x14: instructions that came later.
    pub later: u32,
}

/// What VMRUN does with the TLB (offset 0x5c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TlbControl {
    /// Nothing.
    #[default]
    Keep = 0,
    /// All entries of all ASIDs go.
    FlushAll = 1,
    /// This ASID's entries go. Needs flush-by-ASID.
    FlushGuest = 3,
    /// This ASID's entries go, but global ones. Needs flush-by-ASID.
    FlushGuestNonGlobal = 7,
}

/// Virtual interrupts (offset 0x60).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct VirtualInterrupt(pub u32);

impl VirtualInterrupt {
    /// V_IRQ: an interrupt is pending for the guest.
    pub const PENDING: u32 = 1 << 8;
    /// V_GIF: the guest's global interrupt flag. Counts with V_GIF_ENABLE only.
    pub const GIF: u32 = 1 << 9;
    /// V_NMI.
    pub const NMI: u32 = 1 << 11;
    /// V_NMI_MASK.
    pub const NMI_MASK: u32 = 1 << 12;
    /// V_IGN_TPR: the pending interrupt doesn't wait for the task priority.
    pub const IGNORE_TPR: u32 = 1 << 20;
    /// V_INTR_MASKING: RFLAGS.IF and CR8 of the guest are virtual, those of the host bound physical interrupts.
    pub const MASKING: u32 = 1 << 24;
    /// V_GIF_ENABLE.
    pub const GIF_ENABLE: u32 = 1 << 25;
    /// V_NMI_ENABLE.
    pub const NMI_ENABLE: u32 = 1 << 26;
    /// x2AVIC.
    pub const X2AVIC: u32 = 1 << 30;
    /// AVIC.
    pub const AVIC: u32 = 1 << 31;

    /// V_TPR: CR8 as the guest has it, 0 to 15.
    pub const fn tpr(self) -> u8 {
        (self.0 & 0xf) as u8
    }

    /// With this V_TPR.
    #[must_use]
    pub const fn with_tpr(self, tpr: u8) -> Self {
        Self(self.0 & !0xff | (tpr & 0xf) as u32)
    }

    /// An interrupt is still pending.
    pub const fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }

    /// With an interrupt pending of this priority (a vector's upper four bits). It waits for RFLAGS.IF, for the end of an interrupt shadow,
    /// and for a V_TPR that is below the priority. Its vector is [`Control::interrupt_vector`].
    #[must_use]
    pub const fn pend(self, priority: u8) -> Self {
        let priority = (priority & 0xf) as u32;
        Self(self.0 & !(0xf << 16 | Self::IGNORE_TPR) | Self::PENDING | priority << 16)
    }

    /// With an interrupt pending that waits for RFLAGS.IF and the end of an interrupt shadow only: what asks for an exit (VINTR) at that
    /// moment.
    #[must_use]
    pub const fn open_window(self) -> Self {
        Self(self.0 | Self::PENDING | Self::IGNORE_TPR | 0xf << 16)
    }

    /// With none pending.
    #[must_use]
    pub const fn withdraw(self) -> Self {
        Self(self.0 & !(Self::PENDING | Self::IGNORE_TPR | 0xf << 16))
    }
}

bitflags::bitflags! {
    /// Which parts of the VMCB are as they were at the last exit on this CPU (offset 0xc0; APM 2, 15.15.4). A bit that isn't set has the
    /// CPU read the part again. None may be set where clean bits aren't offered.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(transparent)]
    pub struct Clean: u32 {
        /// Intercepts, TSC offset, pause filter.
        const INTERCEPTS = 1 << 0;
        /// Addresses of both permission maps.
        const PERMISSIONS = 1 << 1;
        /// ASID.
        const ASID = 1 << 2;
        /// Offset 0x60 to 0x67.
        const TPR = 1 << 3;
        /// Nested paging: enable bits, nCR3, gPAT.
        const NESTED = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CONTROL_REGISTERS = 1 << 5;
        /// DR6, DR7.
        const DEBUG_REGISTERS = 1 << 6;
        /// GDTR, IDTR.
        const TABLES = 1 << 7;
        /// CS, DS, SS, ES, CPL.
        const SEGMENTS = 1 << 8;
        /// CR2.
        const CR2 = 1 << 9;
        /// DebugCtl and the last branches.
        const LAST_BRANCH = 1 << 10;
        /// AVIC's addresses.
        const AVIC = 1 << 11;
        /// Shadow stacks.
        const SHADOW_STACK = 1 << 12;
    }
}

/// The control area. Reserved parts are kept as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// What ends the guest's run.
    pub intercepts: Intercepts,
    reserved_018: [u8; 0x24],
    /// Pause filter threshold.
    pub pause_threshold: u16,
    /// Pause filter count.
    pub pause_count: u16,
    /// Host-physical address of the I/O permission map: 12 KiB.
    pub io_permissions: u64,
    /// Host-physical address of the MSR permission map: 8 KiB.
    pub msr_permissions: u64,
    /// Is added to what the guest reads of the time-stamp counter.
    pub tsc_offset: u64,
    /// The guest's address space identifier. 0 is the host's, and none of a guest's.
    pub asid: u32,
    /// A [`TlbControl`]: set by [`Control::set_tlb`].
    pub tlb_control: u8,
    reserved_05d: [u8; 3],
    /// Virtual interrupts.
    pub virtual_interrupt: VirtualInterrupt,
    /// V_INTR_VECTOR.
    pub interrupt_vector: u32,
    /// Bit 0: the guest is in an interrupt shadow. Bit 1: its RFLAGS.IF, for encrypted guests.
    pub interrupt_shadow: u64,
    /// Why the run has ended: `exit` decodes it. Only the low half counts, as QEMU writes no more.
    pub exit_code: u64,
    /// What more there is.
    pub exit_info_1: u64,
    /// What more there is.
    pub exit_info_2: u64,
    /// The event whose delivery the exit has interrupted.
    pub exit_interrupt: u64,
    /// Nested paging and encryption: [`NESTED_PAGING`] and others.
    pub nested: u64,
    /// AVIC's APIC_BAR.
    pub avic_bar: u64,
    /// GHCB, of an encrypted guest.
    pub ghcb: u64,
    /// The event that VMRUN injects: set by [`Control::inject`].
    pub injection: u64,
    /// Host-physical address of the nested page table's top.
    pub nested_cr3: u64,
    /// Bit 0: last branches are virtual. Bit 1: VMLOAD and VMSAVE are.
    pub virtual_extensions: u64,
    /// Clean bits.
    pub clean: Clean,
    reserved_0c4: u32,
    /// The next instruction's address, where NRIPS is offered.
    pub next_rip: u64,
    /// How many bytes of the instruction are there, where decode assists are offered.
    pub instruction_length: u8,
    /// The bytes.
    pub instruction: [u8; 15],
    /// AVIC's backing page.
    pub avic_backing: u64,
    reserved_0e8: u64,
    /// AVIC's logical table.
    pub avic_logical: u64,
    /// AVIC's physical table.
    pub avic_physical: u64,
    reserved_100: u64,
    /// The state of an encrypted guest.
    pub vmsa: u64,
    reserved_110: [u8; 0x10],
    /// Bus lock threshold.
    pub bus_lock_counter: u16,
    reserved_122: [u8; 0x2be],
    /// The host's software may use these.
    pub host: [u8; 0x20],
}

/// [`Control::nested`]: nested paging is on.
pub const NESTED_PAGING: u64 = 1 << 0;

impl Control {
    /// All zero: nothing is intercepted, and VMRUN refuses it.
    pub const fn zero() -> Self {
        Self {
            intercepts: Intercepts { cr: 0, dr: 0, exceptions: 0, general: 0, svm: 0, later: 0 },
            reserved_018: [0; 0x24],
            pause_threshold: 0,
            pause_count: 0,
            io_permissions: 0,
            msr_permissions: 0,
            tsc_offset: 0,
            asid: 0,
            tlb_control: 0,
            reserved_05d: [0; 3],
            virtual_interrupt: VirtualInterrupt(0),
            interrupt_vector: 0,
            interrupt_shadow: 0,
            exit_code: 0,
            exit_info_1: 0,
            exit_info_2: 0,
            exit_interrupt: 0,
            nested: 0,
            avic_bar: 0,
            ghcb: 0,
            injection: 0,
            nested_cr3: 0,
            virtual_extensions: 0,
            clean: Clean::empty(),
            reserved_0c4: 0,
            next_rip: 0,
            instruction_length: 0,
            instruction: [0; 15],
            avic_backing: 0,
            reserved_0e8: 0,
            avic_logical: 0,
            avic_physical: 0,
            reserved_100: 0,
            vmsa: 0,
            reserved_110: [0; 0x10],
            bus_lock_counter: 0,
            reserved_122: [0; 0x2be],
            host: [0; 0x20],
        }
    }

    /// What the next VMRUN does with the TLB. It holds for each further VMRUN until it is set to something else.
    pub const fn set_tlb(&mut self, control: TlbControl) {
        self.tlb_control = control as u8;
    }

    /// The next VMRUN begins with this event, which the guest takes whatever RFLAGS.IF and CR8 say.
    pub const fn inject(&mut self, event: Event) {
        self.injection = event.encode();
    }

    /// The event that the next VMRUN begins with.
    pub const fn injected(&self) -> Option<Event> {
        Event::decode(self.injection)
    }

    /// Whether the next VMRUN begins with an event.
    pub const fn is_injected(&self) -> bool {
        Event::is_valid(self.injection)
    }

    /// Whether the exit has interrupted the delivery of an event.
    pub const fn has_interrupted(&self) -> bool {
        Event::is_valid(self.exit_interrupt)
    }

    /// The event whose delivery the exit has interrupted, as the CPU says it: `event::again` says what is to be made of it.
    pub const fn interrupted(&self) -> Option<Event> {
        Event::decode(self.exit_interrupt)
    }

    /// The guest is behind an STI, or a MOV or POP to SS: no interrupt for one instruction.
    pub const fn in_shadow(&self) -> bool {
        self.interrupt_shadow & 1 != 0
    }

    /// An instruction was emulated: the shadow is over.
    pub const fn end_shadow(&mut self) {
        self.interrupt_shadow &= !1;
    }

    /// The instruction's bytes that decode assists have put here, of a nested page fault or a page fault. Empty where there are none: also
    /// where they are offered.
    pub fn instruction_bytes(&self) -> &[u8] {
        let length = usize::from(self.instruction_length & 0xf);
        self.instruction.get(..length).unwrap_or(&[])
    }
}

const _: () = {
    assert!(offset_of!(Control, intercepts) == 0x00);
    assert!(offset_of!(Intercepts, cr) == 0x00);
    assert!(offset_of!(Intercepts, dr) == 0x04);
    assert!(offset_of!(Intercepts, exceptions) == 0x08);
    assert!(offset_of!(Intercepts, general) == 0x0c);
    assert!(offset_of!(Intercepts, svm) == 0x10);
    assert!(offset_of!(Intercepts, later) == 0x14);
    assert!(offset_of!(Control, pause_threshold) == 0x3c);
    assert!(offset_of!(Control, pause_count) == 0x3e);
    assert!(offset_of!(Control, io_permissions) == 0x40);
    assert!(offset_of!(Control, msr_permissions) == 0x48);
    assert!(offset_of!(Control, tsc_offset) == 0x50);
    assert!(offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, tlb_control) == 0x5c);
    assert!(offset_of!(Control, virtual_interrupt) == 0x60);
    assert!(offset_of!(Control, interrupt_vector) == 0x64);
    assert!(offset_of!(Control, interrupt_shadow) == 0x68);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, exit_info_1) == 0x78);
    assert!(offset_of!(Control, exit_info_2) == 0x80);
    assert!(offset_of!(Control, exit_interrupt) == 0x88);
    assert!(offset_of!(Control, nested) == 0x90);
    assert!(offset_of!(Control, avic_bar) == 0x98);
    assert!(offset_of!(Control, ghcb) == 0xa0);
    assert!(offset_of!(Control, injection) == 0xa8);
    assert!(offset_of!(Control, nested_cr3) == 0xb0);
    assert!(offset_of!(Control, virtual_extensions) == 0xb8);
    assert!(offset_of!(Control, clean) == 0xc0);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Control, instruction_length) == 0xd0);
    assert!(offset_of!(Control, instruction) == 0xd1);
    assert!(offset_of!(Control, avic_backing) == 0xe0);
    assert!(offset_of!(Control, avic_logical) == 0xf0);
    assert!(offset_of!(Control, avic_physical) == 0xf8);
    assert!(offset_of!(Control, vmsa) == 0x108);
    assert!(offset_of!(Control, bus_lock_counter) == 0x120);
    assert!(offset_of!(Control, host) == 0x3e0);
    assert!(size_of::<Control>() == 0x400);
};
