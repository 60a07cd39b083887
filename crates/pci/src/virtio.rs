//! Whether a virtio device's DMA passes the IOMMU. A software device may reach memory past it, and only its
//! features say so.

use crate::clock::{Clock, wait_until};
use crate::config::{ConfigSpace, Registers};
use crate::function::{Bar, BarKind, Function, Virtio};
use crate::spec::header::{self, Command};
use crate::spec::{CONVENTIONAL_SIZE, capability, virtio};

/// How long a device has for its reset: the specification doesn't say.
const RESET_US: u64 = 1_000_000;

/// Asks a silenced function whose BARs have their places; `None`: it isn't a virtio device.
///
/// The registers that say it are in a BAR. They are reached by the capability that opens a window on it in config
/// space, which every virtio device has (Virtio 1.2, 4.1.4.9.1), so that nothing has to be mapped. Memory decode is on
/// meanwhile, bus mastering stays off; afterwards the device is reset.
pub(crate) fn examine<C: ConfigSpace + ?Sized>(
    config: &C,
    function: &Function,
    clock: &dyn Clock,
) -> Option<Virtio> {
    if function.vendor != virtio::VENDOR {
        return None;
    }
    if virtio::TRANSITIONAL.contains(&function.device) {
        return Some(Virtio::Legacy);
    }
    if !virtio::MODERN.contains(&function.device) {
        return None;
    }
    // Decode is for all BARs at once: one without a place would answer at whatever address it has.
    let memory = |bar: &&Bar| bar.kind != BarKind::Io;
    if function.bars.iter().filter(memory).any(|bar| bar.address.is_none()) {
        return Some(Virtio::Unknown);
    }
    let registers = Registers::new(config, function.address);
    registers.write16(header::COMMAND, (Command::MEMORY | Command::INTX_DISABLE).bits());
    let features = Access::find(registers, function).and_then(|access| access.high_features(clock));
    registers.write16(header::COMMAND, Command::INTX_DISABLE.bits());
    let offered = |features: u32, bit: u32| features >> (bit - 32) & 1 != 0;
    Some(match features {
        Some(features) if !offered(features, virtio::VERSION_1) => Virtio::Legacy,
        Some(features) if offered(features, virtio::ACCESS_PLATFORM) => Virtio::Platform,
        Some(_) => Virtio::Past,
        None => Virtio::Unknown,
    })
}

/// The common configuration, by the window.
struct Access<'a, C: ?Sized> {
    registers: Registers<'a, C>,
    window: u16,
    bar: u8,
    offset: u32,
}

impl<'a, C: ConfigSpace + ?Sized> Access<'a, C> {
    fn find(registers: Registers<'a, C>, function: &Function) -> Option<Self> {
        let of_type = |wanted: u8, size: u16| {
            let vendors = function.capabilities.iter().filter(|found| found.0 == capability::VENDOR);
            let mut offsets =
                vendors.map(|found| found.1).filter(|offset| offset + size <= CONVENTIONAL_SIZE);
            offsets.find(|offset| registers.read8(offset + virtio::TYPE) == wanted)
        };
        let common = of_type(virtio::COMMON, virtio::SIZE)?;
        let window = of_type(virtio::ACCESS, virtio::ACCESS_SIZE)?;
        let bar = registers.read8(common + virtio::BAR);
        let offset = registers.read32(common + virtio::OFFSET);
        let placed = function.bars.iter().find(|it| it.index == bar && it.address.is_some())?;
        // The window's own offset has 32 bits, whatever the BAR's size.
        let end = offset.checked_add(virtio::COMMON_SIZE)?;
        (u64::from(end) <= placed.size && offset.is_multiple_of(4)).then_some(Self {
            registers,
            window,
            bar,
            offset,
        })
    }

    fn aim(&self, register: u32, length: u32) {
        self.registers.write8(self.window + virtio::BAR, self.bar);
        self.registers.write32(self.window + virtio::OFFSET, self.offset + register);
        self.registers.write32(self.window + virtio::LENGTH, length);
    }

    /// Feature bits 32 to 63, if the device shows them; it is reset afterwards.
    fn high_features(&self, clock: &dyn Clock) -> Option<u32> {
        let data = self.window + virtio::DATA;
        self.aim(virtio::FEATURE_SELECT, 4);
        self.registers.write32(data, 1);
        // What doesn't keep what is written isn't the window that it should be.
        let kept = self.registers.read32(data) == 1;
        self.aim(virtio::FEATURES, 4);
        let features = self.registers.read32(data);
        self.aim(virtio::STATUS, 1);
        self.registers.write8(data, 0);
        let reset = wait_until(clock, clock.now_us() + RESET_US, || self.registers.read8(data) == 0);
        self.registers.write32(self.window + virtio::LENGTH, 0);
        (kept && reset && features != u32::MAX).then_some(features)
    }
}
