//! Which device answers an exit: emulated ones, and passthrough ones whose registers are trapped.
//!
//! The table is built once, refuses overlaps, and doesn't change while the VM runs; so an exit takes no lock here and
//! allocates nothing. A vCPU passes a [`Hint`] of its own: the last device that it reached is looked at first, then the
//! table is searched by halves.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{Address, Gpa, Span, VcpuId};
use axvm_axdevice::{MmioDevice, PortDevice, SysReg, SysRegDevice, Width};

use crate::space::Backing;

#[cfg(test)]
mod tests;

/// An access to a device's registers that the bus answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

/// Who performs a guest's access on physical registers. It survives an abort.
pub trait Forward {
    /// What backs registers, and memory.
    type Backing: Backing;

    /// A read of `width`, `offset` bytes behind `at`.
    ///
    /// # Errors
    ///
    /// [`Aborted`] if the bus answered with an error.
    fn forward_read(&self, at: &Self::Backing, offset: u64, width: Width) -> Result<u64, Aborted>;

    /// A write of `width`, `offset` bytes behind `at`.
    ///
    /// # Errors
    ///
    /// [`Aborted`] if the bus answered with an error.
    fn forward_write(&self, at: &Self::Backing, offset: u64, width: Width, value: u64)
    -> Result<(), Aborted>;

    /// A read of `width` from the machine's port `port` and those that follow. A machine without ports is never asked.
    fn forward_port_read(&self, _port: u16, width: Width) -> u32 {
        width.mask() as u32
    }

    /// A write of `width` to the machine's port `port` and those that follow. A machine without ports is never asked.
    fn forward_port_write(&self, _port: u16, _width: Width, _value: u32) {}
}

/// Who answered, for statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// An emulated device.
    Emulated,
    /// Nobody, at a place of an emulated device's bus: all ones, and what is written is lost.
    Silent,
    /// The physical registers of a passthrough device: its position in the plan.
    Forwarded {
        /// The position in `VmPlan::devices`.
        device: u16,
        /// Whether the bus answered with an error. A read was answered with all ones, a write is lost.
        aborted: bool,
    },
}

/// What an access comes to that neither device nor table have to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastAccess<'a, B> {
    /// A read of a register that never changes: its value.
    Constant(u32),
    /// Registers of an emulated device that may take it as it is: [`AxVmDevices::fast_read`], [`AxVmDevices::fast_write`].
    Emulated,
    /// Registers of a passthrough device, by its position in `VmPlan::devices`.
    Forwarded {
        /// The device.
        device: u16,
        /// Its block of registers.
        at: &'a B,
        /// Where in it the access goes.
        offset: u64,
    },
}

/// The entry that was hit last: a vCPU's own. Any value is safe.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint(usize);

enum Target<B> {
    Emulated(Arc<dyn MmioDevice>),
    Forwarded { device: u16, at: B },
}

struct Mmio<B> {
    span: Span<Gpa>,
    target: Target<B>,
    /// Registers of an emulated device that never change.
    constants: Box<[(u64, u32)]>,
    /// An emulated device is to be asked what it can do at once.
    has_fast_path: bool,
}

/// Whom an access to ports is for: the same for as long as there is the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortPlace {
    /// Nobody.
    Nobody,
    /// A passthrough device.
    Forwarded {
        /// Its position in `VmPlan::devices`.
        device: u16,
        /// The first of the machine's ports.
        at: u16,
    },
    /// An emulated device.
    Emulated {
        /// Where it stands in the table.
        entry: u16,
        /// How many ports behind its first.
        offset: u16,
    },
}

enum PortTarget {
    Emulated(Arc<dyn PortDevice>),
    /// The device, and the machine's port that the first one is.
    Forwarded {
        device: u16,
        at: u16,
    },
}

struct Ports {
    base: u16,
    last: u16,
    target: PortTarget,
}

/// Ports as they are added.
struct NewPorts {
    base: u16,
    count: u16,
    target: PortTarget,
    name: Box<str>,
}

impl NewPorts {
    fn last(&self) -> Option<u16> {
        last_port(self.base, self.count)
    }
}

/// The last of so many ports; `None`: there are none, or they wrap.
fn last_port(base: u16, count: u16) -> Option<u16> {
    base.checked_add(count.checked_sub(1)?)
}

struct SysRegs {
    first: SysReg,
    last: SysReg,
    device: Arc<dyn SysRegDevice>,
}

/// What of two devices overlaps, each by its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {first} of {first_name} overlap {second} of {second_name}")]
pub struct Overlap {
    what: &'static str,
    first: Box<str>,
    first_name: Box<str>,
    second: Box<str>,
    second_name: Box<str>,
}

/// A device's range that isn't one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Two overlap.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// A range is empty or ends before it starts.
    #[error("{0} has a range without addresses")]
    Empty(Box<str>),
}

/// The devices of a VM.
pub struct AxVmDevices<B> {
    mmio: Box<[Mmio<B>]>,
    ports: Box<[Ports]>,
    sysregs: Box<[SysRegs]>,
}

impl<B> Default for AxVmDevices<B> {
    fn default() -> Self {
        Self { mmio: Box::default(), ports: Box::default(), sysregs: Box::default() }
    }
}

/// Builds an [`AxVmDevices`].
pub struct AxVmDevicesBuilder<B> {
    mmio: Vec<(Mmio<B>, Box<str>)>,
    ports: Vec<NewPorts>,
    sysregs: Vec<SysRegs>,
}

impl<B> Default for AxVmDevicesBuilder<B> {
    fn default() -> Self {
        Self { mmio: Vec::new(), ports: Vec::new(), sysregs: Vec::new() }
    }
}

impl<B> AxVmDevicesBuilder<B> {
    /// Adds an emulated device.
    #[must_use]
    pub fn mmio(mut self, span: Span<Gpa>, device: Arc<dyn MmioDevice>) -> Self {
        let name = device.name().into();
        let (constants, has_fast_path) = (device.constants().into(), device.has_fast_path());
        self.mmio.push((Mmio { span, target: Target::Emulated(device), constants, has_fast_path }, name));
        self
    }

    /// Adds trapped registers of a passthrough device: `span` is forwarded to `at` and what follows.
    #[must_use]
    pub fn forwarded(mut self, span: Span<Gpa>, at: B, device: u16, name: &str) -> Self {
        let target = Target::Forwarded { device, at };
        let entry = Mmio { span, target, constants: Box::default(), has_fast_path: false };
        self.mmio.push((entry, name.into()));
        self
    }

    /// Adds a device behind `count` ports from `base` on.
    #[must_use]
    pub fn ports(self, base: u16, count: u16, device: Arc<dyn PortDevice>) -> Self {
        let name = device.name().into();
        self.add_ports(base, count, PortTarget::Emulated(device), name)
    }

    /// Adds trapped ports of a passthrough device: `count` of them from `base` on are forwarded to the machine's from `at` on.
    #[must_use]
    pub fn forwarded_ports(self, base: u16, count: u16, at: u16, device: u16, name: &str) -> Self {
        // Where they would wrap in the machine there are none, which `build` refuses.
        let count = if last_port(at, count).is_some() { count } else { 0 };
        self.add_ports(base, count, PortTarget::Forwarded { device, at }, name.into())
    }

    fn add_ports(mut self, base: u16, count: u16, target: PortTarget, name: Box<str>) -> Self {
        self.ports.push(NewPorts { base, count, target, name });
        self
    }

    /// Adds a device behind system registers `first` to `last`, both included.
    #[must_use]
    pub fn sysregs(mut self, first: SysReg, last: SysReg, device: Arc<dyn SysRegDevice>) -> Self {
        self.sysregs.push(SysRegs { first, last, device });
        self
    }

    /// The table.
    ///
    /// # Errors
    ///
    /// [`BuildError`] names the devices whose ranges overlap or are empty.
    pub fn build(self) -> Result<AxVmDevices<B>, BuildError> {
        let Self { mut mmio, mut ports, mut sysregs } = self;
        mmio.sort_unstable_by_key(|(entry, _)| entry.span);
        ports.sort_unstable_by_key(|entry| entry.base);
        sysregs.sort_unstable_by_key(|entry| entry.first);
        let last =
            |span: &Span<Gpa>| span.size().checked_sub(1).and_then(|past| span.start().checked_add(past));
        check(
            "registers",
            mmio.iter().map(|(entry, name)| {
                (entry.span.start().get(), last(&entry.span).map(Address::get), name.as_ref())
            }),
        )?;
        check(
            "ports",
            ports
                .iter()
                .map(|entry| (u64::from(entry.base), entry.last().map(u64::from), entry.name.as_ref())),
        )?;
        check(
            "system registers",
            sysregs
                .iter()
                .map(|entry| (u64::from(entry.first.0), Some(u64::from(entry.last.0)), entry.device.name())),
        )?;
        Ok(AxVmDevices {
            mmio: mmio.into_iter().map(|(entry, _)| entry).collect(),
            ports: ports
                .into_iter()
                .filter_map(|entry| {
                    Some(Ports { base: entry.base, last: entry.last()?, target: entry.target })
                })
                .collect(),
            sysregs: sysregs.into(),
        })
    }
}

/// Ranges with both ends included, sorted by their starts: none empty, none over its neighbour.
fn check<'a>(
    what: &'static str,
    ranges: impl Iterator<Item = (u64, Option<u64>, &'a str)>,
) -> Result<(), BuildError> {
    let show = |first: u64, last: u64| alloc::format!("{first:#x}-{last:#x}").into_boxed_str();
    let mut before: Option<(u64, u64, &str)> = None;
    for (first, last, name) in ranges {
        let last = last.filter(|&last| last >= first).ok_or_else(|| BuildError::Empty(name.into()))?;
        if let Some((other_first, other_last, other)) = before.filter(|&(_, end, _)| end >= first) {
            return Err(BuildError::Overlap(Overlap {
                what,
                first: show(other_first, other_last),
                first_name: other.into(),
                second: show(first, last),
                second_name: name.into(),
            }));
        }
        before = Some((first, last, name));
    }
    Ok(())
}

impl<B: Backing> AxVmDevices<B> {
    /// A builder without devices.
    pub fn builder() -> AxVmDevicesBuilder<B> {
        AxVmDevicesBuilder::default()
    }

    /// The entry that holds all `width` bytes at `gpa`, and the offset in it. An access across a region's end is no access
    /// to it.
    fn find(&self, gpa: Gpa, width: Width, hint: &mut Hint) -> Option<(&Mmio<B>, u64)> {
        let holds = |entry: &Mmio<B>| {
            let offset = entry.span.offset_of(gpa)?;
            (entry.span.size() - offset >= width.bytes()).then_some(offset)
        };
        if let Some(entry) = self.mmio.get(hint.0)
            && let Some(offset) = holds(entry)
        {
            return Some((entry, offset));
        }
        let at = self.mmio.partition_point(|entry| entry.span.start() <= gpa).checked_sub(1)?;
        let entry = self.mmio.get(at)?;
        let offset = holds(entry)?;
        hint.0 = at;
        Some((entry, offset))
    }

    /// Whether all `width` bytes at `gpa` are one device's.
    pub fn answers(&self, gpa: Gpa, width: Width) -> bool {
        self.find(gpa, width, &mut Hint::default()).is_some() || self.is_silent(gpa)
    }

    /// Whether a device's bus has this place, where nothing is now.
    fn is_silent(&self, gpa: Gpa) -> bool {
        self.claimant(gpa).is_some()
    }

    /// The device whose bus has this place, where nothing is now.
    #[cold]
    fn claimant(&self, gpa: Gpa) -> Option<&dyn MmioDevice> {
        self.mmio.iter().find_map(|entry| match &entry.target {
            Target::Emulated(device) => device.claims(gpa).then_some(&**device),
            Target::Forwarded { .. } => None,
        })
    }

    /// A read by `vcpu`, and who answered it; `None`: no device is there.
    pub fn mmio_read(
        &self,
        vcpu: VcpuId,
        gpa: Gpa,
        width: Width,
        hint: &mut Hint,
        forward: &impl Forward<Backing = B>,
    ) -> Option<(u64, Handled)> {
        let Some((entry, offset)) = self.find(gpa, width, hint) else {
            let claimed = self.claimant(gpa)?.claimed_read(vcpu, gpa, width);
            return Some(
                claimed.map_or((width.mask(), Handled::Silent), |value| {
                    (value & width.mask(), Handled::Emulated)
                }),
            );
        };
        match &entry.target {
            Target::Emulated(device) => {
                Some((device.read(vcpu, offset, width) & width.mask(), Handled::Emulated))
            }
            Target::Forwarded { device, at } => {
                let read = forward.forward_read(at, offset, width);
                let value = read.unwrap_or(u64::MAX) & width.mask();
                Some((value, Handled::Forwarded { device: *device, aborted: read.is_err() }))
            }
        }
    }

    /// A write by `vcpu`, and who took it; `None`: no device is there.
    pub fn mmio_write(
        &self,
        vcpu: VcpuId,
        gpa: Gpa,
        width: Width,
        value: u64,
        hint: &mut Hint,
        forward: &impl Forward<Backing = B>,
    ) -> Option<Handled> {
        let Some((entry, offset)) = self.find(gpa, width, hint) else {
            let taken = self.claimant(gpa)?.claimed_write(vcpu, gpa, width, value & width.mask());
            return Some(if taken { Handled::Emulated } else { Handled::Silent });
        };
        let value = value & width.mask();
        match &entry.target {
            Target::Emulated(device) => {
                device.write(vcpu, offset, width, value);
                Some(Handled::Emulated)
            }
            Target::Forwarded { device, at } => {
                let written = forward.forward_write(at, offset, width, value);
                Some(Handled::Forwarded { device: *device, aborted: written.is_err() })
            }
        }
    }

    /// An access of `bytes` at `gpa` to the device that was accessed last, if that takes nothing but what is said here.
    #[inline]
    pub fn fast_access(&self, gpa: Gpa, bytes: u64, write: bool, hint: Hint) -> Option<FastAccess<'_, B>> {
        let entry = self.mmio.get(hint.0)?;
        let offset = gpa.0.wrapping_sub(entry.span.start().0);
        if offset > entry.span.size().checked_sub(bytes)? {
            return None;
        }
        match &entry.target {
            Target::Forwarded { device, at } => Some(FastAccess::Forwarded { device: *device, at, offset }),
            Target::Emulated(_) if entry.has_fast_path => (bytes <= 4).then_some(FastAccess::Emulated),
            Target::Emulated(_) if write || bytes != 4 => None,
            Target::Emulated(_) => {
                let constant = entry.constants.iter().find(|(register, _)| *register == offset);
                constant.map(|(_, value)| FastAccess::Constant(*value))
            }
        }
    }

    fn asked_fast(&self, gpa: Gpa, hint: Hint) -> Option<(&dyn MmioDevice, u64)> {
        let entry = self.mmio.get(hint.0)?;
        match &entry.target {
            Target::Emulated(device) => Some((&**device, entry.span.offset_of(gpa)?)),
            Target::Forwarded { .. } => None,
        }
    }

    /// A read of [`FastAccess::Emulated`]; `None`: not by the fast path.
    pub fn fast_read(&self, gpa: Gpa, hint: Hint) -> Option<u32> {
        let (device, offset) = self.asked_fast(gpa, hint)?;
        device.fast_read(offset)
    }

    /// A write of [`FastAccess::Emulated`]; `false`: not by the fast path.
    pub fn fast_write(&self, gpa: Gpa, hint: Hint, value: u32) -> bool {
        self.asked_fast(gpa, hint).is_some_and(|(device, offset)| device.fast_write(offset, value))
    }

    /// Who has all `width` bytes from a port on.
    pub fn port_place(&self, port: u16, width: Width) -> PortPlace {
        self.find_port(port, width).unwrap_or(PortPlace::Nobody)
    }

    fn find_port(&self, port: u16, width: Width) -> Option<PortPlace> {
        let at = self.ports.partition_point(|entry| entry.base <= port).checked_sub(1)?;
        let entry = self.ports.get(at)?;
        let last = u16::try_from(width.bytes()).ok().and_then(|bytes| last_port(port, bytes))?;
        let offset = port - entry.base;
        (last <= entry.last).then_some(match entry.target {
            PortTarget::Emulated(_) => PortPlace::Emulated { entry: u16::try_from(at).ok()?, offset },
            PortTarget::Forwarded { device, at } => {
                PortPlace::Forwarded { device, at: at.wrapping_add(offset) }
            }
        })
    }

    #[inline(always)]
    fn emulated_port(&self, entry: u16) -> Option<&dyn PortDevice> {
        match &self.ports.get(usize::from(entry))?.target {
            PortTarget::Emulated(device) => Some(&**device),
            PortTarget::Forwarded { .. } => None,
        }
    }

    /// A read by `vcpu` of [`PortPlace::Emulated`]. All ones where that isn't one of this table's.
    #[inline(always)]
    pub fn port_read(&self, vcpu: VcpuId, entry: u16, offset: u16, width: Width) -> u32 {
        let device = self.emulated_port(entry);
        device.map_or(u32::MAX, |device| device.read(vcpu, offset, width)) & width.mask() as u32
    }

    /// A read of one byte of [`PortPlace::Emulated`]; `None`: not by the fast path.
    #[inline(always)]
    pub fn fast_port_read(&self, entry: u16, offset: u16) -> Option<u8> {
        self.emulated_port(entry)?.fast_read(offset)
    }

    /// A write by `vcpu` to [`PortPlace::Emulated`]. Lost where that isn't one of this table's.
    #[inline(always)]
    pub fn port_write(&self, vcpu: VcpuId, entry: u16, offset: u16, width: Width, value: u32) {
        if let Some(device) = self.emulated_port(entry) {
            device.write(vcpu, offset, width, value & width.mask() as u32);
        }
    }

    /// Whether a device of the VM's has any of these ports, both included.
    pub fn has_ports(&self, first: u16, last: u16) -> bool {
        self.ports.iter().any(|entry| entry.base <= last && first <= entry.last)
    }

    /// An access by `vcpu` to a system register, with the value of a write; `None`: no device is there, or it refuses. A
    /// write gives back 0.
    pub fn handle_sysreg(&self, vcpu: VcpuId, register: SysReg, write: Option<u64>) -> Option<u64> {
        let at = self.sysregs.partition_point(|entry| entry.first <= register).checked_sub(1)?;
        let entry = self.sysregs.get(at).filter(|entry| register <= entry.last)?;
        match write {
            None => entry.device.read(vcpu, register),
            Some(value) => entry.device.write(vcpu, register, value).map(|()| 0),
        }
    }

    /// Whether any byte of `span` is a device's.
    pub fn overlaps(&self, span: Span<Gpa>) -> bool {
        self.mmio.iter().any(|entry| entry.span.overlaps(&span))
    }

    /// Whether a device answers at `gpa`, whatever the width.
    pub fn is_device(&self, gpa: Gpa) -> bool {
        Span::new(gpa, 1).is_ok_and(|byte| self.overlaps(byte)) || self.is_silent(gpa)
    }
}

impl<B> fmt::Debug for AxVmDevices<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for entry in &self.mmio {
            let name = match &entry.target {
                Target::Emulated(device) => device.name(),
                Target::Forwarded { .. } => "forwarded",
            };
            list.entry(&format_args!("{} {name}", entry.span));
        }
        list.finish()
    }
}
