//! The driver.

use alloc::vec::Vec;

use axvm_addr::{Address, Hpa, Iova, PAGE_SIZE, Span};
use axvm_iommu::{MOST_US, Memory, Registers, Shared, wait_for};
use litemap::LiteMap;

use crate::error::{Error, Wait};
use crate::features::Features;
use crate::id::DeviceId;
use crate::queue::{Queue, command};
use crate::remap::{self, Interrupt};
use crate::spec::commands::{self, Command};
use crate::spec::faults::{self, Fault};
use crate::spec::registers::{
    FAULT_MASKED, FaultStatus, Global, InterruptTable, PROTECTED_ENABLE, PROTECTED_STATUS, REGISTER_BYTES,
    RootTable, offset,
};
use crate::spec::tables::{ContextHigh, ContextLow};
use crate::tables::Tables;

/// Pages up to which a span is invalidated one by one; above, the whole domain is.
const MOST_SINGLE_PAGES: u64 = 64;

/// How a unit is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// log2 of the entries of the interrupt table, for all devices together: 1 to 16.
    pub interrupts_log2: u8,
    /// Whether destinations of interrupts have 32 bits, where the unit can: the processors' local APICs are in x2APIC mode.
    pub x2apic: bool,
}

impl Default for Options {
    /// 4096 interrupts (64 KiB), xAPIC destinations.
    fn default() -> Self {
        Self { interrupts_log2: 12, x2apic: false }
    }
}

/// The message that a unit sends by itself. No unit remaps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnInterrupt {
    /// Where it is written: who gets it. With destinations of 32 bits the upper half has bits 31:8 of the local APIC's id (11.4.7.5).
    pub address: u64,
    /// What is written: the vector.
    pub data: u32,
}

/// What a device may reach: one set of second-stage tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The tag of its translations in the unit. Devices of one domain have the same tables.
    pub id: u16,
    /// The root table, a page.
    pub root: Hpa,
    /// How many levels the tables have: 3 translate addresses of 39 bits, 4 of 48.
    pub levels: u8,
}

/// What came of taking the fault records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// Records handed over.
    pub faults: usize,
    /// Some were lost since the last call, for want of room.
    pub overflowed: bool,
    /// More wait.
    pub more: bool,
}

/// The interrupt table.
#[derive(Clone, Copy, Debug)]
struct Interrupts {
    base: Hpa,
    entries: u32,
}

/// A unit that translates, and the only one who writes its registers and tables.
#[derive(Debug)]
pub struct Unit<R: Registers, M: Memory> {
    registers: R,
    memory: Shared<M>,
    features: Features,
    tables: Tables,
    queue: Queue,
    interrupts: Option<Interrupts>,
    /// The devices whose entries may be present.
    attached: LiteMap<DeviceId, Domain>,
    /// Where the next fault is recorded.
    next_fault: usize,
}

impl<R: Registers, M: Memory> Unit<R, M> {
    /// Sets the unit up so that every request of every device is blocked and recorded, and every interrupt too where it can remap them.
    ///
    /// Until this returns without an error requests may pass: a unit that isn't enabled has no way to hold them back. Whoever calls this
    /// sees to it that no device masters the bus before. One that firmware has enabled stays so, with these tables in place of its
    /// own from one moment to the next (11.4.4.1).
    ///
    /// # Errors
    ///
    /// A register block that is too small, a missing feature, no memory (nothing was touched yet), or a unit that doesn't answer.
    pub fn new(registers: R, memory: M, options: Options) -> Result<Self, Error> {
        if registers.size() < REGISTER_BYTES {
            return Err(Error::RegistersTooSmall { bytes: registers.size(), needs: REGISTER_BYTES });
        }
        let mut features = Features::read(&registers)?;
        features.x2apic &= options.x2apic;
        let memory = Shared::new(memory, features.coherent);
        let tables = Tables::new(&memory)?;
        let queue = Queue::new(&memory, features.write_buffer)?;
        let log2 = options.interrupts_log2.clamp(1, 16);
        let interrupts = if features.interrupts {
            // Never less than a page: the register has no more bits.
            let bytes = (remap::ENTRY_BYTES << log2).max(PAGE_SIZE);
            Some(Interrupts { base: memory.allocate("interrupt table", bytes)?, entries: 1 << log2 })
        } else {
            None
        };
        memory.barrier();
        let mut unit = Self {
            registers,
            memory,
            features,
            tables,
            queue,
            interrupts,
            attached: LiteMap::new(),
            next_fault: 0,
        };
        unit.start()?;
        Ok(unit)
    }

    /// The order of 6.5 and 11.4.4.1: the queue, the root table, what is held of another one, translation; then the same of
    /// interrupts.
    fn start(&mut self) -> Result<(), Error> {
        // Records of whoever was here before are no one's.
        self.interrupt_by(None);
        let _ = self.drain_faults(usize::MAX, |_| ());
        self.queue.start(&self.registers)?;
        let root = RootTable::new().with_address(self.tables.root().0 >> 12);
        self.registers.write64(offset::ROOT_TABLE, root.into());
        command(&self.registers, |it| it.with_root_table(true), |status| status.root_table())?;
        self.run(&[commands::all_contexts(), commands::all_translations()])?;
        command(&self.registers, |it| it.with_translation(true), |status| status.translation())?;
        self.give_up_protected_memory()?;
        if let Some(Interrupts { base, entries }) = self.interrupts {
            let size = entries.trailing_zeros().saturating_sub(1) as u8;
            let table = InterruptTable::new()
                .with_size(size)
                .with_x2apic(self.features.x2apic)
                .with_address(base.0 >> 12);
            self.registers.write64(offset::INTERRUPT_TABLE, table.into());
            command(&self.registers, |it| it.with_interrupt_table(true), |status| status.interrupt_table())?;
            self.run(&[commands::all_interrupts()])?;
            // MSIs of the old format don't pass.
            command(
                &self.registers,
                |it| it.with_compatibility(false).with_interrupts(true),
                |status| status.interrupts() && !status.compatibility(),
            )?;
        }
        Ok(())
    }

    /// Has the unit send a message of its own when it has recorded a fault and none was pending, or none. Whoever asks for it takes the
    /// records after that ([`drain_faults`](Self::drain_faults)): of those that are there already nothing is sent any more.
    pub fn interrupt_by(&mut self, interrupt: Option<OwnInterrupt>) {
        let registers = &self.registers;
        // It doesn't send half of one and half of another.
        registers.write32(offset::FAULT_CONTROL, FAULT_MASKED);
        if let Some(OwnInterrupt { address, data }) = interrupt {
            registers.write32(offset::FAULT_DATA, data);
            registers.write32(offset::FAULT_ADDRESS, address as u32);
            registers.write32(offset::FAULT_UPPER_ADDRESS, (address >> 32) as u32);
            registers.write32(offset::FAULT_CONTROL, 0);
        }
    }

    /// What firmware has protected from all DMA (11.4.8) is protected by the tables from now on.
    fn give_up_protected_memory(&self) -> Result<(), Error> {
        let registers = &self.registers;
        if registers.read32(offset::PROTECTED) & (PROTECTED_ENABLE | PROTECTED_STATUS) == 0 {
            return Ok(());
        }
        registers.write32(offset::PROTECTED, 0);
        let given_up = || (registers.read32(offset::PROTECTED) & PROTECTED_STATUS == 0).then_some(());
        Ok(wait_for(registers, MOST_US, Wait::Protected, given_up)?)
    }

    fn run(&mut self, commands: &[Command]) -> Result<(), Error> {
        self.queue.run(&self.registers, &self.memory, commands)
    }

    /// What the unit can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The domain that a device is attached to. After a failed [`attach`](Self::attach) or [`block`](Self::block) it is the one that
    /// the device may still reach.
    pub fn domain(&self, device: DeviceId) -> Option<&Domain> {
        self.attached.get(&device)
    }

    /// How many devices reach memory.
    pub fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Opens a device to what a domain's tables map. One that is attached is blocked first.
    ///
    /// # Errors
    ///
    /// The domain doesn't suit the unit, or is in use with other tables, or there is no memory for a table of the device's bus: it is
    /// as before. Or the unit doesn't answer: [`domain`](Self::domain) says what the device may reach, and [`block`](Self::block) can be
    /// tried again.
    pub fn attach(&mut self, device: DeviceId, domain: &Domain) -> Result<(), Error> {
        let width = match domain.levels {
            3 if self.features.three_levels => 1,
            4 if self.features.four_levels => 2,
            levels => return Err(Error::Levels { levels }),
        };
        if !domain.root.is_aligned(PAGE_SIZE) {
            return Err(Error::Root { root: domain.root });
        }
        let bits = self.features.domain_bits;
        if u32::from(domain.id) >> bits != 0 {
            return Err(Error::DomainOutOfRange { domain: domain.id, bits });
        }
        let clash =
            |(other, had): &(&DeviceId, &Domain)| **other != device && had.id == domain.id && *had != domain;
        if let Some((other, had)) = self.attached.iter().find(clash) {
            return Err(Error::DomainInUse {
                domain: domain.id,
                device,
                root: domain.root,
                other: *other,
                other_root: had.root,
            });
        }
        let entry = self.tables.entry_or_create(&self.memory, device)?;
        if self.attached.contains_key(&device) {
            self.block(device)?;
        }
        // While the entry isn't present its second word is not used, so that no mixture ever is.
        let high = ContextHigh::new().with_width(width).with_domain(domain.id);
        self.memory.write64(Hpa(entry.0.wrapping_add(8)), high.into());
        self.memory.barrier();
        self.attached.insert(device, *domain);
        let low = ContextLow::new().with_present(true).with_root(domain.root.0 >> 12);
        self.memory.write64(entry, low.into());
        // What isn't present isn't held, but a write buffer may have it.
        self.run(&[commands::context(device.0, domain.id)])
    }

    /// Closes a device: its requests are blocked, and leave no record, so that one that goes on doesn't use up the records that others
    /// need. When this returns, nothing that was let through before is under way, and nothing is held of the domain's translations, so
    /// that both its id and its tables may be used for something else. Doing it again does no harm, and confirms it again.
    ///
    /// Its interrupts are not the unit's to know: each that was [routed](Self::route) is taken away by itself.
    ///
    /// # Errors
    ///
    /// The unit doesn't answer: the device may still be open.
    pub fn block(&mut self, device: DeviceId) -> Result<(), Error> {
        self.silence(device)?;
        if let Some(domain) = self.attached.get(&device).map(|domain| domain.id) {
            self.invalidate_domain(domain)?;
            self.attached.remove(&device);
        }
        Ok(())
    }

    /// Has a device that nobody has leave no more records; its requests are blocked as before. Needs no memory: one on a bus on which none
    /// was ever attached takes that bus along.
    ///
    /// # Errors
    ///
    /// The unit doesn't answer.
    pub fn silence(&mut self, device: DeviceId) -> Result<(), Error> {
        self.tables.silence(&self.memory, device);
        // The entry is held under the domain that it had.
        let domain = self.attached.get(&device).map_or(0, |domain| domain.id);
        self.run(&[commands::context(device.0, domain)])
    }

    /// Has a device's interrupt that names the entry `index` become another one, or be blocked. Entries are the unit's, not a device's: who
    /// hands them out gives each to one device, and only that one's interrupts are let through by it.
    ///
    /// A device names the entry by [`msi_address`](crate::msi_address), with zero as data, or by
    /// [`msi_address_of_several`](crate::msi_address_of_several); an I/O APIC by [`io_apic_high`](crate::io_apic_high) and
    /// [`io_apic_low`](crate::io_apic_low).
    ///
    /// # Errors
    ///
    /// There is no such entry, no such vector, the destination can't be named, or the unit doesn't remap: all is as before. Or the unit
    /// doesn't answer: the interrupt may be either.
    pub fn route(&mut self, index: u16, to: Option<(DeviceId, Interrupt)>) -> Result<(), Error> {
        let Interrupts { base, entries } = self.interrupts.ok_or(Error::NoInterrupts)?;
        if u32::from(index) >= entries {
            return Err(Error::Index { index, entries });
        }
        let words = to.map(|(device, it)| remap::encode(&self.features, device, it)).transpose()?;
        let at = base.0.wrapping_add(u64::from(index) * remap::ENTRY_BYTES);
        let (low, high) = (Hpa(at), Hpa(at.wrapping_add(8)));
        // An entry is never changed while it is used: first nobody holds it any more.
        self.memory.write64(low, 0);
        self.run(&[commands::interrupt(index)])?;
        let Some([first, second]) = words else { return Ok(()) };
        self.memory.write64(high, second);
        self.memory.barrier();
        self.memory.write64(low, first);
        self.run(&[commands::interrupt(index)])
    }

    /// Makes the unit forget all translations of a domain, and waits for requests that used them.
    ///
    /// # Errors
    ///
    /// The unit doesn't answer, or stops at the descriptor.
    pub fn invalidate_domain(&mut self, domain: u16) -> Result<(), Error> {
        self.run(&[commands::domain(domain)])
    }

    /// Makes the unit forget the translations of a span, what leads to them included, and waits for requests that used them. A large span
    /// takes all of the domain's translations along.
    ///
    /// # Errors
    ///
    /// The unit doesn't answer, or stops at a descriptor.
    pub fn invalidate_range(&mut self, domain: u16, span: Span<Iova>) -> Result<(), Error> {
        let pages = span.to_pages();
        if !self.features.pages || pages.size() / PAGE_SIZE > MOST_SINGLE_PAGES {
            return self.invalidate_domain(domain);
        }
        let addresses = (pages.start().0..pages.end().0).step_by(PAGE_SIZE as usize);
        let all: Vec<_> = addresses.map(|address| commands::page(domain, Iova(address))).collect();
        self.run(&all)
    }

    /// Hands at most `limit` records of what was blocked to `each`, in their order. To be called when the unit has interrupted, or now and
    /// then.
    pub fn drain_faults(&mut self, limit: usize, mut each: impl FnMut(Fault)) -> Drained {
        let registers = &self.registers;
        let Features { faults_at, faults: count, .. } = self.features;
        let mut drained = Drained::default();
        let status = FaultStatus::from(registers.read32(offset::FAULT_STATUS));
        let place = |number: usize| faults_at + number * faults::BYTES;
        let record =
            |number| Fault::decode([place(number), place(number) + 8].map(|at| registers.read64(at)));
        // They are filled in order. Where the first is, the status says of those since there were none (11.4.7.1, FRI).
        if status.pending() && record(self.next_fault).is_none() {
            self.next_fault = usize::from(status.first()).min(count - 1);
        }
        // Once around at the most: whoever fills them faster than they are read ends here too.
        for _ in 0..limit.min(count) {
            let Some(fault) = record(self.next_fault) else { break };
            // The upper half of the second word: F.
            registers.write32(place(self.next_fault) + 12, (faults::PRESENT >> 32) as u32);
            self.next_fault = (self.next_fault + 1) % count;
            drained.faults += 1;
            each(fault);
        }
        if status.overflow() {
            drained.overflowed = true;
            registers.write32(offset::FAULT_STATUS, FaultStatus::new().with_overflow(true).into());
        }
        // An overflow that came meanwhile keeps the unit from interrupting for what comes next (11.4.7.1), until it is taken too.
        let left = FaultStatus::from(registers.read32(offset::FAULT_STATUS));
        drained.more = left.pending() || left.overflow();
        drained
    }

    /// Whether the unit still does what it was set up to: something that has access to its registers may have turned it off.
    pub fn is_enabled(&self) -> bool {
        let status = Global::from(self.registers.read32(offset::STATUS));
        status.translation() && (self.interrupts.is_none() || status.interrupts() && !status.compatibility())
    }
}
