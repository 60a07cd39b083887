//! What whoever carries out a plan can't go beyond, as data for the planner.

use alloc::vec::Vec;
use core::ops::Range;

use serde::{Deserialize, Serialize};

/// What one controller of message interrupts can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiLimits {
    /// Bits of a sender's id, of those that its table has entries for.
    pub source_bits: u8,
    /// Bits of a message: how many a sender has. Of an ITS: GITS_TYPER.ID_bits + 1 (Arm IHI 0069, 12.19.9).
    pub message_bits: u8,
}

/// Where the machine that a guest sees has its RAM, its registers and its devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestMachine {
    /// Where the board has its own: a guest that is told the board's addresses, or that was built for the board, finds them. It is how
    /// a host shows the board that it runs on.
    #[default]
    MirrorsBoard,
    /// Where the architecture's own layout has them, whatever the board is. It is how a host shows a machine that isn't the one it runs
    /// on.
    Own,
}

/// Whether a host does by itself what a system file may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Serves {
    /// It doesn't.
    #[default]
    No,
    /// It does.
    Yes,
}

/// For how long what a system file names is a VM's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claims {
    /// For the whole run: a CPU or a device is named by one VM.
    #[default]
    Once,
    /// While it runs: several may name it, and those that run at one time share none.
    ByTime,
}

/// What carries plans out: a hypervisor that has the machine, or a Linux on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// AxVM has the machine: a CPU of it is its own, and so is a console.
    #[default]
    BareMetal,
    /// Linux has it: AxVM is a program there, and runs VMs by what that Linux offers.
    Linux(LinuxHost),
}

/// What a Linux offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxHost {
    /// Running guests: KVM, with an interrupt controller in the kernel.
    pub guests: Serves,
    /// Giving PCI functions away: VFIO, and here what drives it.
    pub functions: Serves,
}

/// The limits of a host, and what it makes of them. A host that runs fills them in from its hardware ([`Platform`](crate::model::Platform) then says what it
/// found); on a desk they are [`Limits::default`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// What carries plans out.
    pub host: Host,
    /// VMs at a time: each has a tag for its translations, and 0 is nobody's (VTCR_EL2.VS=0, and SMMUs without VMID16).
    pub vms: u16,
    /// vCPUs that a virtual interrupt controller serves.
    pub vcpus: u16,
    /// Whether the processors have what runs guests, and firmware leaves it to whoever asks.
    pub processors: Serves,
    /// Whether the processors' part of the interrupt controller can be given to a guest, so that it takes interrupts itself.
    pub direct_interrupts: Serves,
    /// List registers of a CPU.
    pub list_registers: u8,
    /// The lines of devices: those of the interrupt controller (of a GIC: SPIs, by GICD_TYPER.ITLinesNumber), and of a virtual one.
    pub lines: Range<u32>,
    /// Physical message interrupts of the host's own choice, for MSIs that it injects. With a GIC they are LPIs.
    pub messages: u32,
    /// Message interrupts under the guest's own numbers, for a VM whose MSIs the hardware delivers.
    pub guest_messages: u32,
    /// Bytes for tables: second stages, DMA maps, stream tables, event tables.
    pub table_bytes: u64,
    /// Of each IOMMU, by position: bits of a DMA master's id that can be given to a VM. Where one is missing, it isn't known.
    pub source_bits: Vec<u8>,
    /// Of each controller of message interrupts, by position. Where one is missing, it isn't known.
    pub msi: Vec<MsiLimits>,
    /// The machine that its guests see.
    pub guest_machine: GuestMachine,
    /// Starting a VM again that has ended (`on_reset`, `on_crash`).
    pub restarts: Serves,
    /// An emulated watchdog (`watchdog`).
    pub watchdogs: Serves,
    /// For how long CPUs, RAM and devices are a VM's.
    pub claims: Claims,
}

impl Default for Limits {
    /// What the bare-metal host has on a machine that lacks nothing. Of IOMMUs and controllers of message interrupts nothing is known: their registers say it.
    fn default() -> Self {
        Self {
            host: Host::BareMetal,
            vms: 255,
            vcpus: 256,
            processors: Serves::Yes,
            direct_interrupts: Serves::Yes,
            list_registers: 4,
            lines: 32..992,
            messages: 16_384,
            guest_messages: 8_192,
            table_bytes: 5 << 20,
            source_bits: Vec::new(),
            msi: Vec::new(),
            guest_machine: GuestMachine::MirrorsBoard,
            restarts: Serves::Yes,
            watchdogs: Serves::Yes,
            claims: Claims::ByTime,
        }
    }
}

impl Limits {
    /// What a Linux on a board with these has that offers this. Of the board's the lines count. Its kernel tells interrupts, messages and devices apart, and has memory for tables as long as there is
    /// memory.
    pub fn of_linux(&self, linux: LinuxHost) -> Self {
        Self {
            host: Host::Linux(linux),
            lines: self.lines.clone(),
            direct_interrupts: Serves::No,
            messages: u32::MAX,
            guest_messages: u32::MAX,
            table_bytes: u64::MAX,
            guest_machine: GuestMachine::Own,
            ..Self::default()
        }
    }

    /// What a Linux offers, if one carries plans out.
    pub fn linux(&self) -> Option<LinuxHost> {
        match self.host {
            Host::Linux(linux) => Some(linux),
            Host::BareMetal => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linux_has_the_lines_of_its_board() {
        // A PC's, which are none of those that a GIC has.
        let board = Limits { lines: 0..24, ..Limits::default() };
        let linux = board.of_linux(LinuxHost::default());
        assert_eq!((linux.lines, linux.guest_machine), (0..24, GuestMachine::Own));
    }
}
