//! The driver.

use alloc::vec::Vec;

use axvm_addr::{Address, Hpa, Iova, PAGE_SIZE, Span};
use axvm_iommu::{Memory, Registers};
use litemap::LiteMap;

use crate::error::Error;
use crate::features::Features;
use crate::id::DeviceId;
use crate::remap::{Interrupt, InterruptTable};
use crate::ring::{CommandBuffer, Drained, EventLog};
use crate::spec::commands::{self, Command};
use crate::spec::device_table::{self, DomainWord, Translation};
use crate::spec::events::Event;
use crate::spec::registers::{Control, REGISTER_BYTES, offset};
use crate::table::{self, DeviceTable};

/// Pages up to which a span is invalidated one by one; above, the whole domain is.
const MOST_SINGLE_PAGES: u64 = 64;

/// What the IVHD block of the IVRS says of the IOMMU's control register (48882, 5.2.2.1, flags).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// HtTunEn.
    pub ht_tunnel: bool,
    /// PassPW.
    pub pass_posted_writes: bool,
    /// ResPassPW.
    pub responses_pass_posted_writes: bool,
    /// Isoc.
    pub isochronous: bool,
}

/// How an IOMMU is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The highest device id that can ever be attached. What comes from ids above is aborted.
    pub last_device: DeviceId,
    /// log2 of the command buffer's entries, 16 bytes each: 8 to 15.
    pub command_buffer_log2: u8,
    /// log2 of the event log's entries, 16 bytes each: 8 to 15.
    pub event_log_log2: u8,
    /// What the firmware says of the control register.
    pub hints: Hints,
    /// Whether the IOMMU sends its own MSI when it has recorded something. Where that goes its MSI capability says, in config space.
    pub event_interrupt: bool,
    /// Whether destinations of interrupts have 32 bits, where the IOMMU can: the processors' local APICs are in x2APIC mode.
    pub x2apic: bool,
}

impl Options {
    /// For devices up to `last_device`: 256 commands (4 KiB) and 1024 records (16 KiB).
    pub const fn new(last_device: DeviceId) -> Self {
        Self {
            last_device,
            command_buffer_log2: 8,
            event_log_log2: 10,
            hints: Hints {
                ht_tunnel: false,
                pass_posted_writes: false,
                responses_pass_posted_writes: false,
                isochronous: false,
            },
            event_interrupt: false,
            x2apic: false,
        }
    }
}

/// What a device may reach: one set of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The tag of its translations in the IOMMU (DomainID). Devices of one domain have the same tables.
    pub id: u16,
    /// The root table, a page.
    pub root: Hpa,
    /// How many levels the tables have: 3 translate addresses of 39 bits, 4 of 48.
    pub levels: u8,
}

/// What a device has now.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    domain: Option<Domain>,
    /// Its interrupts are looked up in its table.
    interrupts: bool,
}

/// An IOMMU that translates, and the only one who writes its registers and tables.
#[derive(Debug)]
pub struct Iommu<R: Registers, M: Memory> {
    registers: R,
    memory: M,
    features: Features,
    table: DeviceTable,
    commands: CommandBuffer,
    events: EventLog,
    /// The devices whose entries may be open.
    given: LiteMap<DeviceId, Given>,
    /// The interrupt tables that were ever needed: memory is given for good.
    tables: LiteMap<DeviceId, InterruptTable>,
}

impl<R: Registers, M: Memory> Iommu<R, M> {
    /// Sets the IOMMU up so that every request and every interrupt of every device is aborted and recorded.
    ///
    /// Until this returns without an error requests may pass: an IOMMU that isn't enabled has no way to hold them back (2.1). Whoever
    /// calls this sees to it that no device masters the bus before. If it was enabled by the firmware it is turned off first, as its
    /// tables can't be exchanged while they are used.
    ///
    /// # Errors
    ///
    /// A register block that is too small, no memory (nothing was touched yet), or an IOMMU that doesn't answer: it is left enabled, with
    /// the tables that abort everything.
    pub fn new(registers: R, memory: M, options: Options) -> Result<Self, Error> {
        if registers.size() < REGISTER_BYTES {
            return Err(Error::RegistersTooSmall { bytes: registers.size() });
        }
        let mut features = Features::read(&registers);
        features.x2apic &= options.x2apic;
        let table = DeviceTable::new(&memory, options.last_device)?;
        let commands = CommandBuffer::new(&memory, options.command_buffer_log2)?;
        let events = EventLog::new(&memory, options.event_log_log2)?;
        let mut iommu = Self {
            registers,
            memory,
            features,
            table,
            commands,
            events,
            given: LiteMap::new(),
            tables: LiteMap::new(),
        };
        iommu.start(options)?;
        Ok(iommu)
    }

    /// The tables are there before the IOMMU is enabled, and with it the rings, without which it takes no commands (3.4.4). It may
    /// hold what another set-up has left: that is forgotten before anything is opened.
    fn start(&mut self, options: Options) -> Result<(), Error> {
        let registers = &self.registers;
        registers.write64(offset::CONTROL, 0);
        registers.write64(offset::DEVICE_TABLE, self.table.base_register());
        // No range passes by the tables.
        registers.write64(offset::EXCLUSION_BASE, 0);
        registers.write64(offset::EXCLUSION_LIMIT, 0);
        self.commands.install(registers);
        self.events.install(registers);
        self.memory.barrier();
        let Hints { ht_tunnel, pass_posted_writes, responses_pass_posted_writes, isochronous } =
            options.hints;
        let control = Control::new()
            .with_enabled(true)
            .with_ht_tunnel(ht_tunnel)
            .with_event_log(true)
            .with_event_interrupt(options.event_interrupt)
            .with_pass_posted_writes(pass_posted_writes)
            .with_responses_pass_posted_writes(responses_pass_posted_writes)
            .with_coherent(true)
            .with_isochronous(isochronous)
            .with_commands(true)
            .with_wide_interrupts(self.features.wide_interrupts)
            .with_x2apic(self.features.x2apic);
        registers.write64(offset::CONTROL, control.into());
        self.forget_everything(options.last_device)
    }

    fn forget_everything(&mut self, last: DeviceId) -> Result<(), Error> {
        if self.features.invalidate_all {
            return self.run(&[commands::invalidate_all()]);
        }
        for device in 0..=last.0 {
            self.run(&[commands::invalidate_device(device), commands::invalidate_interrupts(device)])?;
        }
        (0..=u16::MAX).try_for_each(|domain| self.run(&[commands::invalidate_domain(domain)]))
    }

    fn run(&mut self, commands: &[Command]) -> Result<(), Error> {
        self.commands.run(&self.registers, &self.memory, commands)
    }

    /// What the IOMMU can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The domain that a device is attached to. After a failed [`attach`](Self::attach) or [`block`](Self::block) it is the one that
    /// the device may still reach.
    pub fn domain(&self, device: DeviceId) -> Option<&Domain> {
        self.given.get(&device)?.domain.as_ref()
    }

    /// How many devices reach memory. One that has interrupts only, as an I/O APIC, isn't among them.
    pub fn attached(&self) -> usize {
        self.given.values().filter(|given| given.domain.is_some()).count()
    }

    /// Opens a device to what a domain's tables map. One that is attached is blocked first. Its interrupts stay aborted until they are
    /// [routed](Self::route).
    ///
    /// # Errors
    ///
    /// The domain doesn't suit the IOMMU, or is in use with other tables; or the device is out of range: it is as before. Or the IOMMU
    /// doesn't answer: [`domain`](Self::domain) says what the device may reach, and [`block`](Self::block) can be tried again.
    pub fn attach(&mut self, device: DeviceId, domain: &Domain) -> Result<(), Error> {
        let most = self.features.levels;
        if domain.levels == 0 || domain.levels > most {
            return Err(Error::Levels { levels: domain.levels, most });
        }
        if !domain.root.is_aligned(PAGE_SIZE) || domain.root.0 >> 52 != 0 {
            return Err(Error::Root { root: domain.root });
        }
        let clash = self.given.iter().find_map(|(other, given)| {
            let had = given.domain.filter(|had| *other != device && had.id == domain.id && had != domain)?;
            Some((*other, had.root))
        });
        if let Some((other, other_root)) = clash {
            return Err(Error::DomainInUse {
                domain: domain.id,
                device,
                root: domain.root,
                other,
                other_root,
            });
        }
        let entry = self.table.entry(device)?;
        if self.domain(device).is_some() {
            self.block(device)?;
        }
        let translation = Translation::new()
            .with_valid(true)
            .with_translation_valid(true)
            .with_levels(domain.levels)
            .with_root(domain.root.0 >> 12)
            .with_read(true)
            .with_write(true);
        // While TV is 0 the domain's word is not used, so that no mixture ever is. A word is read at once.
        let tag = DomainWord::new().with_domain(domain.id);
        self.memory.write64(table::word(entry, 1), tag.into());
        if !self.given.get(&device).is_some_and(|given| given.interrupts) {
            // What it has no route for is recorded from now on.
            self.memory.write64(table::word(entry, 2), device_table::blocked(false)[2]);
        }
        self.run(&[commands::invalidate_device(device.0)])?;
        self.given_to(device).domain = Some(*domain);
        self.memory.write64(table::word(entry, 0), translation.into());
        self.run(&[commands::invalidate_device(device.0)])
    }

    /// Closes a device: its requests and its interrupts are aborted, and leave no record, so that one that goes on doesn't use up the
    /// log that others' records need. When this returns, nothing that was let through before is under way, and nothing is held of the
    /// domain's translations, so that both its id and its tables may be used for something else. Doing it again does no harm, and
    /// confirms it again.
    ///
    /// # Errors
    ///
    /// The device is out of range (and so closed), or the IOMMU doesn't answer: the device may still be open.
    pub fn block(&mut self, device: DeviceId) -> Result<(), Error> {
        self.silence(device)?;
        // Also where others still use the domain: what was translated for this device before is completed by that (2.4.3).
        if let Some(domain) = self.domain(device).map(|domain| domain.id) {
            self.invalidate_domain(domain)?;
        }
        self.clear_table(device)?;
        self.given.remove(&device);
        Ok(())
    }

    /// Has a device that nobody has leave no more records; its requests and interrupts are aborted as before.
    ///
    /// # Errors
    ///
    /// The device is out of range, or the IOMMU doesn't answer.
    pub fn silence(&mut self, device: DeviceId) -> Result<(), Error> {
        let entry = self.table.entry(device)?;
        let [translation, domain, interrupts, rest] = device_table::blocked(true);
        // Each word closes by itself; the domain's is only looked at by what the first has closed.
        for (number, value) in [(0, translation), (2, interrupts), (3, rest)] {
            self.memory.write64(table::word(entry, number), value);
        }
        let forget = [commands::invalidate_device(device.0), commands::invalidate_interrupts(device.0)];
        self.run(&forget)?;
        self.memory.write64(table::word(entry, 1), domain);
        self.run(&[commands::invalidate_device(device.0)])?;
        // The next that is routed opens its table again.
        if let Some(given) = self.given.get_mut(&device) {
            given.interrupts = false;
            if given.domain.is_none() {
                self.given.remove(&device);
            }
        }
        Ok(())
    }

    /// Has a device's interrupt `index` become another one, or abort. From the first that is routed on, the device's interrupts are
    /// looked up in its table, and what has no entry there is aborted and recorded.
    ///
    /// A device names the entry by its MSI's data: bits 10:0 are the index, and whatever else data and address say is not looked at.
    ///
    /// # Errors
    ///
    /// There is no such entry, no such vector, the destination can't be named, or no memory for a table: all is as before. Or the IOMMU
    /// doesn't answer: the interrupt may be either.
    pub fn route(&mut self, device: DeviceId, index: u16, interrupt: Option<Interrupt>) -> Result<(), Error> {
        let entry = self.table.entry(device)?;
        let table = match self.tables.get(&device) {
            Some(table) => *table,
            None if interrupt.is_none() => return Ok(()),
            None => InterruptTable::new(&self.memory, &self.features)?,
        };
        let change = table.encode(&self.features, device, index, interrupt)?;
        self.tables.insert(device, table);
        // An entry is never changed while it is used: first nobody holds it any more.
        change.retire(&self.memory);
        self.run(&[commands::invalidate_interrupts(device.0)])?;
        if !change.install(&self.memory) {
            return Ok(());
        }
        self.run(&[commands::invalidate_interrupts(device.0)])?;
        if !self.given_to(device).interrupts {
            self.given_to(device).interrupts = true;
            self.memory.write64(table::word(entry, 2), table.device_word());
            self.run(&[commands::invalidate_device(device.0)])?;
        }
        Ok(())
    }

    /// A device's table has nothing any more: whoever gets the device next finds none of what the last had routed.
    fn clear_table(&mut self, device: DeviceId) -> Result<(), Error> {
        let Some(table) = self.tables.get(&device) else { return Ok(()) };
        table.clear(&self.memory);
        self.commands.run(&self.registers, &self.memory, &[commands::invalidate_interrupts(device.0)])
    }

    /// What a device has, to be changed.
    fn given_to(&mut self, device: DeviceId) -> &mut Given {
        self.given.entry(device).or_default()
    }

    /// Makes the IOMMU forget all translations of a domain, and waits for requests that used them.
    ///
    /// # Errors
    ///
    /// The IOMMU doesn't answer, or stops at the command.
    pub fn invalidate_domain(&mut self, domain: u16) -> Result<(), Error> {
        self.run(&[commands::invalidate_domain(domain)])
    }

    /// Makes the IOMMU forget the translations of a span, what leads to them included, and waits for requests that used them. A large
    /// span takes all of the domain's translations along.
    ///
    /// # Errors
    ///
    /// The IOMMU doesn't answer, or stops at a command.
    pub fn invalidate_range(&mut self, domain: u16, span: Span<Iova>) -> Result<(), Error> {
        let pages = span.to_pages();
        if pages.size() / PAGE_SIZE > MOST_SINGLE_PAGES {
            return self.invalidate_domain(domain);
        }
        let addresses = (pages.start().0..pages.end().0).step_by(PAGE_SIZE as usize);
        let all: Vec<_> = addresses.map(|address| commands::invalidate_page(domain, Iova(address))).collect();
        self.run(&all)
    }

    /// Hands at most `limit` records of what was aborted to `each`, in their order. To be called when the IOMMU has interrupted, or now
    /// and then.
    pub fn drain_events(&mut self, limit: usize, each: impl FnMut(Event)) -> Drained {
        self.events.drain(&self.registers, &self.memory, limit, each)
    }

    /// Whether the IOMMU still does what it was set up to: something that has access to its registers may have turned it off.
    pub fn is_enabled(&self) -> bool {
        Control::from(self.registers.read64(offset::CONTROL)).enabled()
    }
}
