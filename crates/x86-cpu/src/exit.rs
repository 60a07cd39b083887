//! Why a guest's run has ended (AMD64 APM 2, appendix C; 15.10.2, 15.13, 15.25.6, 15.33.1).

use crate::features::{Feature, Features};
use crate::vmcb::Control;
use crate::walk::Access;
use axvm_x86_access::{Segment, Width};

/// Where data goes in a port access, or an access to a control register, debug register or MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the guest's registers or memory: IN, RDMSR, MOV from.
    Read,
    /// From there.
    Write,
}

/// A register that instructions of its own move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A control register.
    Control(u8),
    /// A debug register.
    Debug(u8),
}

/// A string instruction of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringPort {
    /// It has a REP prefix: rCX is the count.
    pub repeat: bool,
    /// The width of rSI, rDI and rCX, if the processor has said it: QEMU doesn't. `fetch` says it otherwise.
    pub address: Option<Width>,
    /// The segment: INS' is ES, OUTS' is known with decode assists.
    pub segment: Option<Segment>,
}

/// An access to ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The first port.
    pub port: u16,
    /// How many bytes.
    pub width: Width,
    /// Where the data goes.
    pub direction: Direction,
    /// It is a string instruction.
    pub string: Option<StringPort>,
    /// The next instruction's address.
    pub next_rip: u64,
}

/// What a nested page fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The address that the guest's access has.
    Target,
    /// A page table of the guest's, which lies where it has no memory, or none that can be written.
    Table,
}

/// A nested page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedFault {
    /// The guest-physical address.
    pub address: u64,
    /// What was to be done. A table walk counts as a write.
    pub access: Access,
    /// What is there.
    pub reached: Reached,
    /// The nested table has an entry, which forbids this.
    pub present: bool,
    /// The nested table has a reserved bit set: the hypervisor's own mistake.
    pub reserved: bool,
}

/// An instruction that is intercepted and has no operand that the exit tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The manual's names.
pub enum Instruction {
    Rdtsc,
    Rdpmc,
    Pushf,
    Popf,
    Cpuid,
    Rsm,
    Iret,
    SoftwareInterrupt,
    Invd,
    Pause,
    Hlt,
    Invlpg,
    Invlpga,
    Vmrun,
    Vmmcall,
    Vmload,
    Vmsave,
    Stgi,
    Clgi,
    Skinit,
    Rdtscp,
    Icebp,
    /// WBNOINVD too.
    Wbinvd,
    /// MONITORX too.
    Monitor,
    /// MWAITX too.
    Mwait,
    Xsetbv,
    Rdpru,
    Invlpgb,
    Invpcid,
    Mcommit,
    Tlbsync,
    /// SIDT, SGDT, SLDT, STR, LIDT, LGDT, LLDT, LTR.
    DescriptorTable,
}

/// What becomes of an instruction that has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The hypervisor does what it does, or nothing, and the guest goes on behind it.
    Carried,
    /// #UD, as on a processor that hasn't got it: CPUID hides it.
    Undefined,
    /// #GP.
    Protection,
}

impl Instruction {
    /// What becomes of it. RDPMC is #GP for any counter that there isn't.
    pub const fn answer(self) -> Answer {
        match self {
            Self::Rsm
            | Self::Invlpga
            | Self::Vmrun
            | Self::Vmload
            | Self::Vmsave
            | Self::Stgi
            | Self::Clgi
            | Self::Skinit
            | Self::Monitor
            | Self::Mwait
            | Self::Rdpru
            | Self::Invlpgb
            | Self::Invpcid
            | Self::Mcommit
            | Self::Tlbsync => Answer::Undefined,
            Self::Rdpmc => Answer::Protection,
            Self::Rdtsc
            | Self::Pushf
            | Self::Popf
            | Self::Cpuid
            | Self::Iret
            | Self::SoftwareInterrupt
            | Self::Invd
            | Self::Pause
            | Self::Hlt
            | Self::Invlpg
            | Self::Vmmcall
            | Self::Rdtscp
            | Self::Icebp
            | Self::Wbinvd
            | Self::Xsetbv
            | Self::DescriptorTable => Answer::Carried,
        }
    }
}

/// Why a guest's run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A control register or debug register. For writes of CR0 it may be CLTS or LMSW.
    Special {
        /// Which.
        register: Special,
        /// What.
        direction: Direction,
        /// The general-purpose register of a MOV, with decode assists. Without it `fetch` says what the instruction is.
        with: Option<u8>,
    },
    /// An exception, which the guest hasn't seen.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, if it has one.
        error: u32,
        /// #PF: the address. CR2 isn't written yet.
        address: u64,
    },
    /// A physical interrupt waits for the hypervisor.
    Interrupt,
    /// So does an NMI.
    Nmi,
    /// So does an SMI.
    Smi,
    /// So does an INIT.
    Init,
    /// The guest can take an interrupt: what V_IRQ waited for.
    Window,
    /// An instruction.
    Instruction(Instruction),
    /// Ports.
    Port(Port),
    /// RDMSR or WRMSR.
    Msr(Direction),
    /// A task switch.
    TaskSwitch,
    /// It waits for IGNNE#.
    FerrFreeze,
    /// A triple fault. The save area isn't defined any more.
    Shutdown,
    /// Nested page fault.
    NestedFault(NestedFault),
    /// VMRUN has refused the VMCB.
    Invalid,
    /// Nothing that this knows, and nothing that is asked for.
    Unknown(u32),
}

impl Exit {
    /// What the control area says. Bits that the processor has no feature for aren't believed.
    pub fn decode(control: &Control, features: &Features) -> Self {
        let code = control.exit_code as u32;
        let (info_1, info_2) = (control.exit_info_1, control.exit_info_2);
        let assisted = features.svm.contains(Feature::DECODE_ASSISTS);
        let mov = assisted && info_1 & 1 << 63 != 0;
        let number = (code & 0xf) as u8;
        let with = (info_1 & 0xf) as u8;
        let control_register = |number, direction| Self::Special {
            register: Special::Control(number),
            direction,
            with: mov.then_some(with),
        };
        let debug_register = |direction| Self::Special {
            register: Special::Debug(number),
            direction,
            with: assisted.then_some(with),
        };
        match code {
            0x00..=0x0f => control_register(number, Direction::Read),
            0x10..=0x1f => control_register(number, Direction::Write),
            0x65 => control_register(0, Direction::Write),
            0x20..=0x2f => debug_register(Direction::Read),
            0x30..=0x3f => debug_register(Direction::Write),
            0x40..=0x5f => {
                Self::Exception { vector: (code - 0x40) as u8, error: info_1 as u32, address: info_2 }
            }
            0x60 => Self::Interrupt,
            0x61 => Self::Nmi,
            0x62 => Self::Smi,
            0x63 => Self::Init,
            0x64 => Self::Window,
            0x7b => Self::Port(port(info_1, info_2, assisted)),
            0x7c if info_1 & 1 == 0 => Self::Msr(Direction::Read),
            0x7c => Self::Msr(Direction::Write),
            0x7d => Self::TaskSwitch,
            0x7e => Self::FerrFreeze,
            0x7f => Self::Shutdown,
            0x400 => Self::NestedFault(nested(info_1, info_2)),
            0xffff_ffff => Self::Invalid,
            other => instruction(other).map_or(Self::Unknown(other), Self::Instruction),
        }
    }
}

fn instruction(code: u32) -> Option<Instruction> {
    use Instruction::*;
    Some(match code {
        0x66..=0x6d => DescriptorTable,
        0x6e => Rdtsc,
        0x6f => Rdpmc,
        0x70 => Pushf,
        0x71 => Popf,
        0x72 => Cpuid,
        0x73 => Rsm,
        0x74 => Iret,
        0x75 => SoftwareInterrupt,
        0x76 => Invd,
        0x77 => Pause,
        0x78 | 0xa6 => Hlt,
        0x79 => Invlpg,
        0x7a => Invlpga,
        0x80 => Vmrun,
        0x81 => Vmmcall,
        0x82 => Vmload,
        0x83 => Vmsave,
        0x84 => Stgi,
        0x85 => Clgi,
        0x86 => Skinit,
        0x87 => Rdtscp,
        0x88 => Icebp,
        0x89 => Wbinvd,
        0x8a => Monitor,
        0x8b | 0x8c => Mwait,
        0x8d => Xsetbv,
        0x8e => Rdpru,
        0xa0 | 0xa1 => Invlpgb,
        0xa2 => Invpcid,
        0xa3 => Mcommit,
        0xa4 => Tlbsync,
        _ => return None,
    })
}

/// EXITINFO1 of ports (15.10.2). A width that isn't one of three is taken for the smallest: no port beyond is reached.
fn port(info: u64, next_rip: u64, assisted: bool) -> Port {
    let bit = |bit: u32| info & 1 << bit != 0;
    let width = if bit(6) {
        Width::B4
    } else if bit(5) {
        Width::B2
    } else {
        Width::B1
    };
    let address = if bit(9) {
        Some(Width::B8)
    } else if bit(8) {
        Some(Width::B4)
    } else {
        bit(7).then_some(Width::B2)
    };
    let segment = match info >> 10 & 7 {
        0 => Some(Segment::Es),
        1 => Some(Segment::Cs),
        2 => Some(Segment::Ss),
        3 => Some(Segment::Ds),
        4 => Some(Segment::Fs),
        5 => Some(Segment::Gs),
        _ => None,
    };
    let direction = if bit(0) { Direction::Read } else { Direction::Write };
    let segment = match direction {
        // INS has no other.
        Direction::Read => Some(Segment::Es),
        Direction::Write => segment.filter(|_| assisted),
    };
    let string = StringPort { repeat: bit(3), address, segment };
    Port { port: (info >> 16) as u16, width, direction, string: bit(2).then_some(string), next_rip }
}

/// EXITINFO1 of a nested page fault (15.25.6).
fn nested(info: u64, address: u64) -> NestedFault {
    let bit = |bit: u32| info & 1 << bit != 0;
    let access = if bit(4) {
        Access::Fetch
    } else if bit(1) {
        Access::Write
    } else {
        Access::Read
    };
    NestedFault {
        address,
        access,
        reached: if bit(33) { Reached::Table } else { Reached::Target },
        present: bit(0),
        reserved: bit(3),
    }
}

/// The next instruction's address, if the processor has saved it. 0 is what it saves of exits that aren't an instruction's.
pub fn next_rip(control: &Control, features: &Features) -> Option<u64> {
    (features.svm.contains(Feature::NEXT_RIP) && control.next_rip != 0).then_some(control.next_rip)
}

#[cfg(test)]
mod tests;
