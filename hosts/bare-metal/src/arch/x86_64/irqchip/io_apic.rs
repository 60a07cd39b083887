//! A physical I/O APIC (Intel 82093AA; Intel I/O Controller Hub 9, 13.5), behind the IOMMU's remapping of interrupts where there is one.

use axvm_addr::{Irq, Trigger};
use axvm_platform::model::{ApicLine, IoApic as Described, Polarity};
use spin::Mutex;

use super::machine::IrqchipError;
use crate::arch::x86_64::iommu::{Interrupt, IommuError, Iommus, Sender};
use crate::mmio::Mmio;

/// Where an index is written, and by what the register that it names is read and written; and the EOI register of version 0x20.
const SELECT: u64 = 0x00;
const DATA: u64 = 0x10;
const EOI: u64 = 0x40;

/// The version register: the version in bits 7:0, the last pin in 23:16.
const VERSION: u32 = 1;
const FIRST_PIN: u32 = 0x10;
/// The version from which on there is an EOI register.
const WITH_EOI: u32 = 0x20;

/// A pin's entry.
const LOW_ACTIVE: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

/// An I/O APIC.
pub struct IoApic {
    registers: Mutex<Mmio>,
    gsi_base: u32,
    pins: u32,
    has_eoi: bool,
    /// Where its messages are remapped.
    sender: Option<Sender>,
}

/// Where a pin leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The CPU, by its local APIC's id.
    pub hardware_id: u64,
    /// The vector.
    pub vector: u8,
}

impl IoApic {
    /// Takes one over: every pin is masked.
    ///
    /// # Safety
    ///
    /// The registers must be mapped, and driven by nobody else.
    pub unsafe fn new(described: &Described, iommus: &Iommus) -> Self {
        // SAFETY: by the caller's promise.
        let registers = unsafe { Mmio::new(described.registers) };
        registers.write32(SELECT, VERSION);
        let version = registers.read32(DATA);
        let io_apic = Self {
            registers: Mutex::new(registers),
            gsi_base: described.gsi_base,
            pins: (version >> 16 & 0xff) + 1,
            has_eoi: version & 0xff >= WITH_EOI,
            sender: described
                .source
                .filter(|&source| iommus.remaps(source))
                .map(|source| Sender { source, function: None }),
        };
        (0..io_apic.pins).for_each(|pin| io_apic.write_entry(pin, MASKED));
        io_apic
    }

    /// The global system interrupts that it has.
    pub fn lines(&self) -> core::ops::Range<u32> {
        self.gsi_base..self.gsi_base.saturating_add(self.pins)
    }

    /// The pin of a global system interrupt.
    pub fn pin(&self, irq: Irq) -> Option<u32> {
        self.lines().contains(&irq.0).then(|| irq.0 - self.gsi_base)
    }

    fn read(&self, pin: u32) -> u32 {
        let registers = self.registers.lock();
        registers.write32(SELECT, FIRST_PIN + 2 * pin);
        registers.read32(DATA)
    }

    /// Writes the lower half of a pin's entry, and before, masked, the upper one as it is to be.
    fn write_entry(&self, pin: u32, low: u32) {
        self.write_both(pin, low, 0);
    }

    fn write_both(&self, pin: u32, low: u32, high: u32) {
        let registers = self.registers.lock();
        registers.write32(SELECT, FIRST_PIN + 2 * pin);
        registers.write32(DATA, registers.read32(DATA) | MASKED);
        registers.write32(SELECT, FIRST_PIN + 2 * pin + 1);
        registers.write32(DATA, high);
        registers.write32(SELECT, FIRST_PIN + 2 * pin);
        registers.write32(DATA, low);
    }

    /// Has a pin lead to a CPU, masked as yet. Behind a remapping IOMMU an entry of that says where.
    pub fn route(&self, iommus: &Iommus, pin: u32, line: ApicLine, way: Way) -> Result<(), IrqchipError> {
        let mut low = MASKED;
        if line.line.trigger == Trigger::Level {
            low |= LEVEL;
        }
        if line.polarity == Polarity::Low {
            low |= LOW_ACTIVE;
        }
        match self.sender {
            Some(sender) => {
                let interrupt = Interrupt {
                    vector: way.vector,
                    hardware_id: way.hardware_id as u32,
                    level: line.line.trigger == Trigger::Level,
                };
                iommus.route(sender, self.pins, pin as u16, Some(interrupt))?;
                let named = iommus.pin(sender, pin as u16, way.vector);
                let (own_low, own_high) = named.ok_or(IommuError::NoEntry(pin as u16))?;
                self.write_both(pin, low | own_low, own_high);
            }
            None => {
                if way.hardware_id > 0xfe {
                    return Err(IrqchipError::Unreachable);
                }
                self.write_both(pin, low | u32::from(way.vector), (way.hardware_id as u32) << 24);
            }
        }
        Ok(())
    }

    /// Has a pin lead nowhere.
    pub fn unroute(&self, iommus: &Iommus, pin: u32) -> Result<(), IrqchipError> {
        self.write_entry(pin, MASKED);
        self.end(pin);
        match self.sender {
            Some(sender) => Ok(iommus.route(sender, self.pins, pin as u16, None)?),
            None => Ok(()),
        }
    }

    /// Masks a pin, or opens it.
    pub fn mask(&self, pin: u32, masked: bool) {
        let registers = self.registers.lock();
        registers.write32(SELECT, FIRST_PIN + 2 * pin);
        let entry = registers.read32(DATA);
        registers.write32(DATA, if masked { entry | MASKED } else { entry & !MASKED });
    }

    /// Whether it is open.
    pub fn is_open(&self, pin: u32) -> bool {
        self.read(pin) & MASKED == 0
    }

    /// A level that was sent has been taken: the pin sends it again if it is still active and the pin is open. What the local APIC tells
    /// of an end has the vector of the CPU, which need not be the entry's.
    pub fn end(&self, pin: u32) {
        let registers = self.registers.lock();
        registers.write32(SELECT, FIRST_PIN + 2 * pin);
        let entry = registers.read32(DATA);
        if self.has_eoi {
            registers.write32(EOI, entry & 0xff);
        } else {
            // Made an edge for a moment, masked: that clears Remote IRR (as Linux and Xen do for want of the register).
            registers.write32(DATA, (entry | MASKED) & !LEVEL);
            registers.write32(DATA, entry);
        }
    }

    /// How many pins are open.
    pub fn open_pins(&self) -> u32 {
        (0..self.pins).filter(|&pin| self.is_open(pin)).count() as u32
    }
}
