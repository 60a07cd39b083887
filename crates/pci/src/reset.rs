//! Bringing a function back to its state after power-on, and keeping it quiet.

use alloc::vec::Vec;

use axvm_addr::PciAddress;

use crate::clock::{Clock, wait_until};
use crate::config::{ConfigSpace, Registers};
use crate::function::{Function, ResetMethod};
use crate::spec::express::{self, DeviceControl, PortType};
use crate::spec::extended;
use crate::spec::header::{self, Command};
use crate::spec::{EXTENDED_SIZE, capability, msi, power};
use crate::{bars, capabilities, enumerate, settle};

/// How long a function has to end what it has begun, before it is reset (PCIe 6.6.2 advises to wait, and leaves
/// open for how long).
const DRAIN_US: u64 = 100_000;
/// How long a function needs before it may be asked again (PCIe 6.6.2, 6.6.1).
const SETTLE_US: u64 = 100_000;
/// How much longer it may ask to be tried again later (PCIe 6.6.1: a second after the reset).
const ANSWER_US: u64 = 1_000_000;
/// How long going to D3hot or back takes (PM 5.4).
const POWER_US: u64 = 10_000;
/// How long a bus is held in reset (PCI 4.3.2, PCIe 6.6.1: at least a millisecond).
const BUS_RESET_US: u64 = 2_000;

/// A reset that didn't happen or that the function didn't come back from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResetError {
    /// The function doesn't have this method.
    #[error("{function} can't be reset by {method:?}: it has no such reset")]
    Unsupported {
        /// The function.
        function: PciAddress,
        /// The method.
        method: ResetMethod,
    },
    /// The function, or the bridge above it, doesn't answer, so that the reset can't be begun.
    #[error("{function} can't be reset by {method:?} while nothing answers")]
    Absent {
        /// The function.
        function: PciAddress,
        /// The method.
        method: ResetMethod,
    },
    /// The function doesn't answer any more.
    #[error("{function} doesn't answer a second after its reset by {method:?}")]
    Lost {
        /// The function.
        function: PciAddress,
        /// The method.
        method: ResetMethod,
    },
    /// Something else answers.
    #[error("{function} came back from its reset as {vendor:04x}:{device:04x}")]
    Changed {
        /// The function.
        function: PciAddress,
        /// The vendor id that it has now.
        vendor: u16,
        /// The device id that it has now.
        device: u16,
    },
    /// What was learnt of it before the reset doesn't hold any more.
    #[error("{function} came back from its reset with other BARs, capabilities or vectors")]
    Differs {
        /// The function.
        function: PciAddress,
    },
}

/// Resets a function by one of its methods.
///
/// The function is quarantined before and after; its BARs are where they were and of the size that they had, and the
/// settings that belong to the hypervisor (payload size, isolation, error reporting) are as they were. With [`ResetMethod::SecondaryBus`] all that
/// is true of the `neighbours` too: the other functions on its bus, which are reset with it.
///
/// # Errors
///
/// See [`ResetError`]. All waits end by the clock, 1.2 seconds (a bus: 2.2) after they have begun, whether a look takes a
/// microsecond or, as at a function that doesn't answer, 50 milliseconds.
pub fn reset<C: ConfigSpace + ?Sized>(
    config: &C,
    function: &Function,
    neighbours: &[&Function],
    method: ResetMethod,
    clock: &dyn Clock,
) -> Result<(), ResetError> {
    let unsupported = ResetError::Unsupported { function: function.address, method };
    let begun = |done: bool| {
        if done { Ok(()) } else { Err(ResetError::Absent { function: function.address, method }) }
    };
    if !function.resets.contains(&method) {
        return Err(unsupported);
    }
    let registers = Registers::new(config, function.address);
    let neighbours = if method == ResetMethod::SecondaryBus { neighbours } else { &[] };
    let affected = || core::iter::once(function).chain(neighbours.iter().copied());
    for each in affected() {
        quarantine(config, each);
    }
    // A function that never ends what it has begun is reset all the same: that is what resets are for.
    let end = clock.now_us() + DRAIN_US;
    for each in affected() {
        wait_until(clock, end, || !is_pending(Registers::new(config, each.address), each));
    }
    let mut kept = Vec::new();
    for each in affected() {
        // Again: one that its driver had reset may have been deaf until now.
        quarantine(config, each);
        kept.push((each, Kept::save(config, each)));
    }
    match method {
        ResetMethod::FunctionLevel => {
            begun(function_level(registers, function).ok_or(unsupported)?)?;
            clock.delay_us(SETTLE_US);
        }
        ResetMethod::PowerState => {
            let offset = function.capability(capability::POWER).ok_or(unsupported)?;
            let go =
                |state| registers.update16(offset + power::CONTROL, power::STATE | power::PME_STATUS, state);
            begun(go(power::D3HOT))?;
            clock.delay_us(POWER_US);
            begun(go(0))?;
            clock.delay_us(POWER_US);
        }
        ResetMethod::SecondaryBus => {
            let bridge = Registers::new(config, function.parent.ok_or(unsupported)?);
            let hold = |value| bridge.update16(header::BRIDGE_CONTROL, header::SECONDARY_RESET, value);
            begun(hold(header::SECONDARY_RESET))?;
            clock.delay_us(BUS_RESET_US);
            begun(hold(0))?;
            wait_for_link(bridge, clock);
            clock.delay_us(SETTLE_US);
        }
    }
    // One that stays away doesn't keep the others from being put back; the first is what is told.
    let mut result = Ok(());
    let end = clock.now_us() + ANSWER_US;
    for (each, kept) in kept {
        let registers = Registers::new(config, each.address);
        let back = wait_until_it_answers(registers, each, method, clock, end).and_then(|()| {
            let restored = kept.restore(config, each);
            quarantine(config, each);
            restored
        });
        result = result.and(back);
    }
    result
}

/// Waits until the link below a port is up again, where the port says so: the time that functions have before
/// they are asked counts from then on (PCIe 6.6.1). One that stays down is found by asking.
fn wait_for_link<C: ConfigSpace + ?Sized>(bridge: Registers<'_, C>, clock: &dyn Clock) {
    let capabilities = capabilities::standard(bridge);
    let Some(&(_, offset)) = capabilities.iter().find(|found| found.0 == capability::EXPRESS) else { return };
    let port = PortType::from_capabilities(bridge.read16(offset + express::CAPABILITIES));
    let reported = bridge.read32(offset + express::LINK_CAPABILITIES) & express::LINK_ACTIVE_REPORTED != 0;
    if !port.has_link_below() || !reported {
        return;
    }
    let is_up = || bridge.read16(offset + express::LINK_STATUS) & express::LINK_ACTIVE != 0;
    wait_until(clock, clock.now_us() + ANSWER_US, is_up);
}

/// Function-level reset, by the Express capability where it has one, else by the Advanced Features
/// capability. Says whether it was begun, which a function that doesn't answer can't be trusted with; `None`: it has neither.
fn function_level<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) -> Option<bool> {
    if !is_there(registers, function) {
        return Some(false);
    }
    if let Some(offset) = flr_capable(registers, function) {
        let go = DeviceControl::INITIATE_FLR.bits();
        return Some(registers.update16(offset + express::DEVICE_CONTROL, go, go));
    }
    let offset = function.capability(capability::ADVANCED)?;
    registers.write8(offset + capability::AF_CONTROL, 1);
    Some(true)
}

/// Whether a function answers with its ids.
fn is_there<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) -> bool {
    registers.read32(header::VENDOR) == u32::from(function.device) << 16 | u32::from(function.vendor)
}

/// The Express capability of a function that has function-level reset by it.
fn flr_capable<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) -> Option<u16> {
    let capable = |offset: &u16| {
        let bits = registers.read32(offset + express::DEVICE_CAPABILITIES);
        bits != u32::MAX && bits & express::FLR_CAPABLE != 0
    };
    function.capability(capability::EXPRESS).filter(capable)
}

/// Whether requests of a function have no completion yet, as far as it can say.
fn is_pending<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) -> bool {
    if let Some(offset) = function.capability(capability::EXPRESS) {
        return registers.read16(offset + express::DEVICE_STATUS) & express::TRANSACTIONS_PENDING != 0;
    }
    let advanced = function.capability(capability::ADVANCED);
    advanced.is_some_and(|offset| registers.read8(offset + capability::AF_STATUS) & 1 != 0)
}

/// Waits until a function answers with its ids, or it is `end`.
fn wait_until_it_answers<C: ConfigSpace + ?Sized>(
    registers: Registers<'_, C>,
    function: &Function,
    method: ResetMethod,
    clock: &dyn Clock,
    end: u64,
) -> Result<(), ResetError> {
    let mut ids = u32::MAX;
    let answers = wait_until(clock, end, || {
        ids = registers.read32(header::VENDOR);
        // All ones: nobody.
        ids != u32::MAX && ids as u16 != header::RETRY
    });
    let (vendor, device) = (ids as u16, (ids >> 16) as u16);
    if !answers {
        Err(ResetError::Lost { function: function.address, method })
    } else if (vendor, device) == (function.vendor, function.device) {
        Ok(())
    } else {
        Err(ResetError::Changed { function: function.address, vendor, device })
    }
}

/// Turns off all that a function could do by itself: bus mastering, decoding, MSIs, its line.
pub fn quarantine<C: ConfigSpace + ?Sized>(config: &C, function: &Function) {
    let registers = Registers::new(config, function.address);
    registers.write16(header::COMMAND, Command::INTX_DISABLE.bits());
    if let Some(offset) = function.capability(capability::MSI) {
        registers.update16(offset + msi::CONTROL, msi::MSI_ENABLE, 0);
    }
    if let Some(offset) = function.capability(capability::MSIX) {
        registers.update16(offset + msi::CONTROL, msi::MSIX_ENABLE | msi::MSIX_MASK_ALL, 0);
    }
}

/// What of a function's config space belongs to the hypervisor and is lost in a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// 16-bit registers: offset, the bits that belong to the hypervisor, their value if the function told it.
    registers: Vec<(u16, u16, Option<u16>)>,
}

impl Kept {
    /// Reads it.
    pub fn save<C: ConfigSpace + ?Sized>(config: &C, function: &Function) -> Self {
        let registers = Registers::new(config, function.address);
        let mut kept = Vec::new();
        if let Some(offset) = function.capability(capability::EXPRESS) {
            kept.push((offset + express::DEVICE_CONTROL, DeviceControl::PAYLOAD.bits()));
        }
        if let Some(offset) = function.extended_capability(extended::ACS) {
            kept.push((offset + extended::ACS_CONTROL, u16::MAX));
        }
        if let Some(offset) = function.extended_capability(extended::RESIZABLE_BAR) {
            let first = offset + extended::RESIZABLE_CONTROL;
            let count = (registers.read16(first) & extended::RESIZABLE_COUNT) >> 5;
            let each = |number: u16| (first + 8 * number, extended::RESIZABLE_SIZE);
            kept.extend((0..count.min(extended::RESIZABLE_MOST)).map(each).filter(|it| it.0 < EXTENDED_SIZE));
        }
        let value = |(offset, mask)| (offset, mask, registers.control16(offset).map(|value| value & mask));
        Self { registers: kept.into_iter().map(value).collect() }
    }

    /// Writes it, and the BARs as enumeration assigned them. Decoding has to be off, as it is after a reset.
    ///
    /// # Errors
    ///
    /// [`ResetError::Differs`] if what enumeration found doesn't hold any more: the size of a BAR, the place of a capability or of the
    /// vectors. What guests may reach rests on that. Also if the function didn't tell what is to be put back, when that was read.
    pub fn restore<C: ConfigSpace + ?Sized>(
        &self,
        config: &C,
        function: &Function,
    ) -> Result<(), ResetError> {
        let registers = Registers::new(config, function.address);
        registers.write32(if function.bridge { header::BRIDGE_ROM } else { header::ROM }, 0);
        let mut known = true;
        for &(offset, mask, value) in &self.registers {
            known &= value.is_some_and(|value| registers.update16(offset, mask, value));
        }
        let stuck = settle::settle(registers, function);
        let now = enumerate::inspect(registers, function.address, function.parent, function.multifunction);
        let mut sized = bars::size(registers, function.bridge);
        for (bar, before) in sized.iter_mut().zip(&function.bars) {
            bar.address = before.address;
        }
        bars::write(registers, &function.bars);
        let same = known
            && sized == function.bars
            && stuck == function.stuck
            && now.capabilities == function.capabilities
            && now.extended_capabilities == function.extended_capabilities
            && (now.msix, now.msi_vectors) == (function.msix, function.msi_vectors);
        if same { Ok(()) } else { Err(ResetError::Differs { function: function.address }) }
    }
}
