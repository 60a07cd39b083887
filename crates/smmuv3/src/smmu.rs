//! The driver.

use axvm_addr::{Address, Gpa, Hpa, PAGE_SIZE, Span};
use axvm_iommu::{MOST_US, Memory, Registers, Shared, wait_for};
use bitflags::bitflags;
use litemap::LiteMap;

use crate::close::{close, set_cr0};
use crate::error::{Error, Wait};
use crate::features::Features;
use crate::id::StreamId;
use crate::queue::{CommandQueue, EventQueue};
use crate::spec::commands;
use crate::spec::events::Event;
use crate::spec::registers::{
    cr0, cr1, cr2, eventq, gerror, irq_ctrl, output_bits, output_size_field, strtab_base, strtab_base_cfg,
};
use crate::spec::stream_table::{self, Entry, Stage2, WalkStart, word0};
use crate::stream_table::StreamTable;

/// Pages up to which a span is invalidated one by one; above, the whole VMID is.
const MOST_SINGLE_PAGES: u64 = 64;

/// How an SMMU is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The highest stream that can ever be attached. Streams above it abort.
    pub max_stream: StreamId,
    /// log2 of the command queue's entries, 16 bytes each; cut to what the SMMU has.
    pub command_queue_log2: u32,
    /// log2 of the event queue's entries, 32 bytes each; cut to what the SMMU has. A device that runs wild makes
    /// an event every few bytes.
    pub event_queue_log2: u32,
    /// Whether the platform says that the SMMU's accesses are coherent with the processors' caches (`dma-coherent`). It
    /// is taken for coherent only where its own registers (IDR0.COHACC) say so too: cleaning too often is right anywhere,
    /// and cleaning too seldom isn't.
    pub coherent: bool,
}

impl Options {
    /// For streams up to `max_stream`: 128 commands (2 KiB) and 1024 events (32 KiB); not coherent.
    pub const fn new(max_stream: StreamId) -> Self {
        Self { max_stream, command_queue_log2: 7, event_queue_log2: 10, coherent: false }
    }
}

/// What a stream may reach: one set of stage-2 tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The tag of its translations in the SMMU. Streams of one VMID have the same tables.
    pub vmid: u16,
    /// The root table, aligned to its size.
    pub root: Hpa,
    /// The size of the addresses that the tables translate.
    pub ipa_bits: u32,
    /// The size of the addresses that they give; no more is used than the SMMU puts out. At least `ipa_bits`.
    pub output_bits: u32,
}

impl Domain {
    /// The stream table entry for it.
    fn encode(&self, features: &Features) -> Result<Entry, Error> {
        if !features.vmid16 && self.vmid > 0xff {
            return Err(Error::VmidTooWide { vmid: self.vmid });
        }
        let start = WalkStart::new(self.ipa_bits).ok_or(Error::InputSize { bits: self.ipa_bits })?;
        let output = self.output_bits.min(features.output_bits).min(48);
        let size =
            |bits: u32| Error::AddressSize { input: self.ipa_bits, output: bits, oas: features.output_bits };
        let ps = output_size_field(output).ok_or(size(output))?;
        // S2T0SZ is held against the encoded size, not against what was asked for.
        if self.ipa_bits > output_bits(ps) {
            return Err(size(output));
        }
        let bytes = start.root_bytes;
        if !self.root.is_aligned(bytes) || self.root.0 >> output != 0 {
            return Err(Error::Root { root: self.root, bytes });
        }
        Ok(Stage2 { vmid: self.vmid, start, ps, root: self.root.0, coherent: features.coherent }.encode())
    }
}

bitflags! {
    /// Errors of the SMMU as a whole: the bits of SMMU_GERROR (6.3.18).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct GlobalErrors: u32 {
        /// The command queue had stopped at a command that nobody waited for. It goes on.
        const COMMAND = gerror::CMDQ_ERR.mask() as u32;
        /// Events were lost: their queue was full, or couldn't be written.
        const EVENTS_LOST = gerror::EVENTQ_ABT_ERR.mask() as u32;
        /// Page requests were lost (they are not enabled here).
        const PAGE_REQUESTS_LOST = gerror::PRIQ_ABT_ERR.mask() as u32;
        /// An MSI of a command aborted (none are used here).
        const COMMAND_MSI = gerror::MSI_CMDQ_ABT_ERR.mask() as u32;
        /// An MSI of the event queue aborted.
        const EVENT_MSI = gerror::MSI_EVENTQ_ABT_ERR.mask() as u32;
        /// An MSI of the page request queue aborted.
        const PAGE_REQUEST_MSI = gerror::MSI_PRIQ_ABT_ERR.mask() as u32;
        /// An MSI of a global error aborted.
        const ERROR_MSI = gerror::MSI_GERROR_ABT_ERR.mask() as u32;
        /// Service failure mode: the SMMU aborts all transactions until reset.
        const SERVICE_FAILURE = gerror::SFM_ERR.mask() as u32;

        /// Bits without a name here.
        const _ = !0;
    }
}

/// What [`Smmu::drain_events`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// Events handed over.
    pub events: usize,
    /// The SMMU has dropped events since the last call, for want of room.
    pub overflowed: bool,
    /// More events wait.
    pub more: bool,
}

/// An SMMU that translates, and the only one who writes its registers and tables.
#[derive(Debug)]
pub struct Smmu<R: Registers, M: Memory> {
    registers: R,
    memory: Shared<M>,
    features: Features,
    table: StreamTable,
    commands: CommandQueue,
    events: EventQueue,
    /// The streams whose entries may be valid.
    attached: LiteMap<StreamId, Domain>,
}

impl<R: Registers, M: Memory> Smmu<R, M> {
    /// Sets the SMMU up so that every transaction of every stream aborts and is recorded, and turns its interrupts
    /// on. It is [closed](close) before, and stays so if this fails.
    ///
    /// # Errors
    ///
    /// A register block that is too small, a missing feature, no memory, or an SMMU that doesn't answer.
    pub fn new(registers: R, memory: M, options: Options) -> Result<Self, Error> {
        close(&registers)?;
        let mut features = Features::read(&registers);
        features.check()?;
        features.coherent &= options.coherent;
        let memory = Shared::new(memory, features.coherent);
        let table = StreamTable::new(&memory, &features, options.max_stream)?;
        let command_log2 = options.command_queue_log2.min(features.command_queue_log2);
        let event_log2 = options.event_queue_log2.min(features.event_queue_log2);
        let commands = CommandQueue::new(&memory, command_log2)?;
        let events = EventQueue::new(&memory, event_log2)?;
        memory.barrier();
        let mut smmu =
            Self { registers, memory, features, table, commands, events, attached: LiteMap::new() };
        smmu.start().inspect_err(|_| {
            // Best effort: GBPA aborts, so that translation off is closed.
            let _ = close(&smmu.registers);
        })?;
        Ok(smmu)
    }

    /// The order of 6.3.9 and of chapter 8: configuration, command queue, invalidation, event queue, translation.
    fn start(&mut self) -> Result<(), Error> {
        let registers = &self.registers;
        registers.write32(cr1::OFFSET, access_attributes(self.features.coherent));
        // A stream without a place in the table can't be silenced: it makes no records from the start.
        let record = if self.table.serves_all() { cr2::RECINVSID.mask() } else { 0 };
        registers.write32(cr2::OFFSET, (cr2::PTM.mask() | record) as u32);
        registers.write64(strtab_base::OFFSET, self.table.base_register());
        registers.write32(strtab_base_cfg::OFFSET, self.table.config_register());
        self.commands.install(registers);
        self.events.install(registers);
        // Errors of whoever was here before are not ours.
        registers.write32(gerror::ACK_OFFSET, registers.read32(gerror::OFFSET));

        let mut enable = cr0::CMDQEN.mask();
        set_cr0(&self.registers, enable)?;
        let el2 = self.features.hyp.then(commands::tlbi_el2_all);
        let forget = [commands::cfgi_all(), commands::tlbi_nsnh_all()].into_iter().chain(el2);
        self.commands.run(&self.registers, &self.memory, forget)?;

        enable |= cr0::EVENTQEN.mask();
        set_cr0(&self.registers, enable)?;
        self.enable_interrupts()?;

        enable |= cr0::SMMUEN.mask();
        if self.features.ats {
            // Without this, a device that claims to have translated by itself is believed.
            enable |= cr0::ATSCHK.mask();
        }
        set_cr0(&self.registers, enable)
    }

    fn enable_interrupts(&self) -> Result<(), Error> {
        let registers = &self.registers;
        let set = |enable: u64| {
            registers.write32(irq_ctrl::OFFSET, enable as u32);
            wait_for(registers, MOST_US, Wait::IrqCtrl, || {
                (u64::from(registers.read32(irq_ctrl::ACK_OFFSET)) & 0b111 == enable).then_some(())
            })
        };
        set(0)?;
        if self.features.msi {
            // An address of 0 means no MSI: the wired interrupts are used (6.3.20, 6.3.31).
            registers.write64(gerror::IRQ_CFG0_OFFSET, 0);
            registers.write64(eventq::IRQ_CFG0_OFFSET, 0);
        }
        Ok(set(irq_ctrl::GERROR_IRQEN.mask() | irq_ctrl::EVENTQ_IRQEN.mask())?)
    }

    /// What the SMMU can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The domain that a stream is attached to. After a failed [`attach`](Self::attach) or [`block`](Self::block)
    /// it is the one that the stream may still reach.
    pub fn domain(&self, stream: StreamId) -> Option<&Domain> {
        self.attached.get(&stream)
    }

    /// How many streams are attached.
    pub fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Opens a stream to what a domain's tables map. A stream that is attached is blocked first.
    ///
    /// # Errors
    ///
    /// The domain doesn't suit the SMMU, its VMID is in use with other tables, there is no memory for the stream's
    /// entry (the stream is as before), or the SMMU doesn't answer ([`domain`](Self::domain) says what the stream
    /// may reach; [`block`](Self::block) can be tried again).
    pub fn attach(&mut self, stream: StreamId, domain: &Domain) -> Result<(), Error> {
        let entry = domain.encode(&self.features)?;
        let clash = |(other, had): &(&StreamId, &Domain)| {
            **other != stream && had.vmid == domain.vmid && *had != domain
        };
        if let Some((other, had)) = self.attached.iter().find(clash) {
            return Err(Error::VmidInUse {
                vmid: domain.vmid,
                stream,
                root: domain.root,
                other: *other,
                other_root: had.root,
            });
        }
        let location = self.table.entry_or_create(&self.memory, stream)?;
        if self.attached.contains_key(&stream) {
            self.block(stream)?;
        }
        self.attached.insert(stream, *domain);
        self.publish(location, stream, &entry)
    }

    /// Closes a stream: its transactions abort, and leave no event, so that a device that goes on with it doesn't use up
    /// the queue that others' events need. When this returns, none that was let through before is under way. The last
    /// stream of a VMID takes the VMID's translations along, so that both the VMID and the tables may be used for
    /// something else. Doing it again does no harm, and confirms it again.
    ///
    /// # Errors
    ///
    /// The stream is out of range (and so closed, and silent), or the SMMU doesn't answer: the stream may still be open.
    pub fn block(&mut self, stream: StreamId) -> Result<(), Error> {
        // Without memory for a table of the stream's own, its bus is silent.
        let _ = self.table.entry_or_create(&self.memory, stream);
        self.silence(stream)?;
        if let Some(vmid) = self.attached.get(&stream).map(|domain| domain.vmid) {
            let shared = self.attached.iter().any(|(other, domain)| *other != stream && domain.vmid == vmid);
            if !shared {
                self.invalidate_vmid(vmid)?;
            }
            self.attached.remove(&stream);
        }
        Ok(())
    }

    /// Has a stream that nobody has leave no more events; its transactions abort as before. Needs no memory: a stream on
    /// a bus (the 256 streams around it) on which none was ever attached or blocked takes that along.
    ///
    /// # Errors
    ///
    /// The stream is out of range (and so silent), or the SMMU doesn't answer.
    pub fn silence(&mut self, stream: StreamId) -> Result<(), Error> {
        self.table.silence(&self.memory, stream)?;
        self.forget_stream(stream)
    }

    /// Opens a stream's entry (3.21.3.1): a valid one first becomes invalid everywhere, then all but the valid
    /// bit's word is written, and that word comes last. The SMMU may read the words of an entry one by one, so
    /// each step is written, ordered, invalidated and completed before the next: no mixture is ever used.
    fn publish(&mut self, location: Hpa, stream: StreamId, entry: &Entry) -> Result<(), Error> {
        let [first, rest @ ..] = entry;
        if word0::V.is_set(self.memory.read64(location)) {
            self.memory.write64(location, stream_table::INVALID[0]);
            self.forget_stream(stream)?;
        }
        for (address, word) in (location.0.wrapping_add(8)..).step_by(8).zip(rest) {
            self.memory.write64(Hpa(address), *word);
        }
        self.forget_stream(stream)?;
        self.memory.write64(location, *first);
        self.forget_stream(stream)
    }

    /// Orders what was written (as [`CommandQueue::run`] does), makes the SMMU forget what it holds of a stream's
    /// entry, and waits until it has.
    fn forget_stream(&mut self, stream: StreamId) -> Result<(), Error> {
        self.commands.run(&self.registers, &self.memory, [commands::cfgi_ste(stream.0)])
    }

    /// Makes the SMMU forget all translations of a VMID, and waits for transactions that used them.
    ///
    /// # Errors
    ///
    /// The SMMU doesn't answer, or refuses.
    pub fn invalidate_vmid(&mut self, vmid: u16) -> Result<(), Error> {
        self.commands.run(&self.registers, &self.memory, [commands::tlbi_s12_vmall(vmid)])
    }

    /// Makes the SMMU forget the translations of a span, intermediate tables included, and waits for transactions
    /// that used them. A large span takes all of the VMID's translations along.
    ///
    /// # Errors
    ///
    /// The SMMU doesn't answer, or refuses.
    pub fn invalidate_range(&mut self, vmid: u16, span: Span<Gpa>) -> Result<(), Error> {
        let pages = span.to_pages();
        if pages.size() / PAGE_SIZE > MOST_SINGLE_PAGES {
            return self.invalidate_vmid(vmid);
        }
        let addresses = (pages.start().0..pages.end().0).step_by(PAGE_SIZE as usize);
        let commands = addresses.map(|address| commands::tlbi_s2_ipa(vmid, address));
        self.commands.run(&self.registers, &self.memory, commands)
    }

    /// Waits until all commands have completed.
    ///
    /// # Errors
    ///
    /// The SMMU doesn't answer.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.commands.run(&self.registers, &self.memory, [])
    }

    /// Hands at most `limit` events to `f`, oldest first. To be called when the event interrupt comes, and again
    /// while [`Drained::more`]: the interrupt is an edge, sent when the queue was empty.
    pub fn drain_events(&mut self, limit: usize, f: impl FnMut(Event)) -> Drained {
        let (events, overflowed, more) = self.events.drain(&self.registers, &self.memory, limit, f);
        Drained { events, overflowed, more }
    }

    /// Returns and acknowledges the errors that are active, and gets a stopped command queue going again. To be
    /// called when the global error interrupt comes; if events were lost, after [`drain_events`](Self::drain_events)
    /// has made room, as the acknowledgement lets the SMMU record again.
    pub fn take_gerror(&mut self) -> GlobalErrors {
        let registers = &self.registers;
        let stopped = self.commands.recover(registers, &self.memory).is_some();
        let errors = registers.read32(gerror::OFFSET);
        let active = errors ^ registers.read32(gerror::ACK_OFFSET);
        if active != 0 {
            registers.write32(gerror::ACK_OFFSET, errors);
        }
        let mut errors = GlobalErrors::from_bits_retain(active);
        errors.set(GlobalErrors::COMMAND, stopped || errors.contains(GlobalErrors::COMMAND));
        errors
    }
}

/// SMMU_CR1: queues and tables are write-back and inner shareable where the SMMU is coherent, else non-cacheable.
fn access_attributes(coherent: bool) -> u32 {
    let (cacheable, shareable) = if coherent { (1, 0b11) } else { (0, 0b10) };
    let queues = cr1::QUEUE_IC.put(cacheable) | cr1::QUEUE_OC.put(cacheable) | cr1::QUEUE_SH.put(shareable);
    let tables = cr1::TABLE_IC.put(cacheable) | cr1::TABLE_OC.put(cacheable) | cr1::TABLE_SH.put(shareable);
    (queues | tables) as u32
}
