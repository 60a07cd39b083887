#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

use axvm_addr::{Gpa, Irq, VcpuId};

/// The width of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// One byte.
    B1,
    /// Two bytes.
    B2,
    /// Four bytes.
    B4,
    /// Eight bytes.
    B8,
}

impl Width {
    /// The width in bytes.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        1 << self as u32
    }

    /// The width of this many bytes, if there is one.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Self::B1),
            2 => Some(Self::B2),
            4 => Some(Self::B4),
            8 => Some(Self::B8),
            _ => None,
        }
    }

    /// The bits that an access of this width carries: what a read of "all ones" returns.
    #[inline(always)]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// A device whose registers are memory-mapped.
pub trait MmioDevice: Send + Sync {
    /// A name for events and statistics.
    fn name(&self) -> &str;

    /// A read of `width` at `offset` from the start of the device's region, by `vcpu`. Bits above the width are
    /// ignored.
    fn read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64;

    /// Registers of 32 bits whose value never changes: offset and value. A read of one of them may be answered without asking
    /// the device.
    fn constants(&self) -> &[(u64, u32)] {
        &[]
    }

    /// A write of `width` at `offset`, by `vcpu`. Bits of `value` above the width are zero.
    fn write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64);

    /// Whether a place outside of its registers, where nothing is mapped, is one of its bus's: that nobody answers there isn't an
    /// offence.
    fn claims(&self, _gpa: Gpa) -> bool {
        false
    }

    /// A read by `vcpu` at a place that it claims; `None`: nobody answers there.
    fn claimed_read(&self, _vcpu: VcpuId, _gpa: Gpa, _width: Width) -> Option<u64> {
        None
    }

    /// A write by `vcpu` at a place that it claims; `false`: nobody takes it there.
    fn claimed_write(&self, _vcpu: VcpuId, _gpa: Gpa, _width: Width, _value: u64) -> bool {
        false
    }

    /// Whether [`Self::fast_read`] and [`Self::fast_write`] are worth asking.
    fn has_fast_path(&self) -> bool {
        false
    }

    /// A read at `offset`, of 32 bits or less, that waits for nobody, changes nothing and leaves the device's interrupt as it is; else
    /// `None`, and the access is made by [`Self::read`].
    fn fast_read(&self, _offset: u64) -> Option<u32> {
        None
    }

    /// A write at `offset`, of 32 bits or less, that waits for nobody and leaves the device's interrupt as it is; else `false`, nothing
    /// has changed, and the access is made by [`Self::write`].
    fn fast_write(&self, _offset: u64, _value: u32) -> bool {
        false
    }
}

/// A device in the x86 port space.
pub trait PortDevice: Send + Sync {
    /// A name for events and statistics.
    fn name(&self) -> &str;

    /// A read of `width` at `port - base`, by `vcpu`.
    fn read(&self, vcpu: VcpuId, offset: u16, width: Width) -> u32;

    /// A write of `width` at `port - base`, by `vcpu`.
    fn write(&self, vcpu: VcpuId, offset: u16, width: Width, value: u32);

    /// A read of one byte at `offset` that waits for nobody, and leaves the device's interrupt, and what it has mapped, as they are; else `None`, and
    /// the access is made by [`Self::read`].
    fn fast_read(&self, _offset: u16) -> Option<u8> {
        None
    }
}

/// A system register's number, as the architecture encodes it: on aarch64 the op0, op1, CRn, CRm, op2 fields where
/// ESR_ELx.ISS has them for an `MSR`/`MRS` trap, direction and Rt zero; on x86_64 the MSR's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysReg(pub u32);

/// A device behind system registers.
pub trait SysRegDevice: Send + Sync {
    /// A name for events and statistics.
    fn name(&self) -> &str;

    /// A read by `vcpu`, or `None` if the register isn't readable.
    fn read(&self, vcpu: VcpuId, register: SysReg) -> Option<u64>;

    /// A write by `vcpu`, or `None` if the register isn't writable.
    fn write(&self, vcpu: VcpuId, register: SysReg, value: u64) -> Option<()>;
}

/// Where an emulated device's interrupt line goes.
pub trait InterruptLine: Send + Sync {
    /// Sets the level of line `irq`. The sink remembers it: setting the same level again does nothing.
    fn set_level(&self, irq: Irq, high: bool);
}

/// Where an emulated console's output goes, and its input comes from.
pub trait Transmit: Send + Sync {
    /// Takes a byte, or says `false`: no room now. Whoever makes room calls [`Console::pump`].
    ///
    /// Called with the console's lock held: it must not call the console.
    fn transmit(&self, byte: u8) -> bool;

    /// There is room again for input that [`Console::push_input`] had none for: half of the FIFO at least, so that a guest that reads
    /// byte by byte causes no call for each.
    ///
    /// Called with the console's lock held, as [`Transmit::transmit`].
    fn has_room(&self);
}

/// An emulated console: a UART of some kind, as whoever shows its output and has what is typed for it sees it.
pub trait Console: Send + Sync {
    /// Gives the guest as much of `input` as there is room for, and returns how many bytes that were. The rest is to be offered again once
    /// [`Transmit::has_room`] was called.
    fn push_input(&self, input: &[u8]) -> usize;

    /// Offers the output what it had no room for.
    fn pump(&self);

    /// As after reset; what wasn't transmitted is lost.
    fn reset(&self);

    /// Bytes that the guest wrote while there was no room for them: lost, as on a UART on a wire.
    fn lost(&self) -> u64;
}
