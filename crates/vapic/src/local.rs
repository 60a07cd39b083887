//! A local APIC (AMD64 APM 2, 16; Intel SDM 3, 12).

use crate::base::{Base, Mode};
use crate::direct;
use crate::identity::Identity;
use crate::message::{Destination, Ipi, Signal, Target, signal};
use crate::spec::{
    Command, DeliveryMode, FIRST_VECTOR, ILLEGAL_REGISTER, LocalVector, RECEIVED_ILLEGAL_VECTOR,
    SEND_ILLEGAL_VECTOR, Shorthand, Spurious, TimerMode, VERSION, offset,
};
use crate::timer::Timer;
use crate::vectors::Vectors;

/// The local vector table's entries, in the order of their registers.
const TIMER: usize = 0;
const LINT0: usize = 3;
const LINT1: usize = 4;
const ERROR: usize = 5;
const ENTRIES: usize = 6;

/// Vectors that no interrupt has.
const ILLEGAL: Vectors = Vectors::below(FIRST_VECTOR);

/// The first MSR of x2APIC mode.
const MSR_FIRST: u32 = 0x800;

/// An access that faults (#GP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the local APIC has no such register, or it doesn't take that value")]
pub struct Refused;

/// What a write asks of whoever has the local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing.
    Nothing,
    /// Another interrupt may come through, or the timer ends at another time: [`LocalApic::next`] and [`LocalApic::deadline`] say.
    Look,
    /// An interrupt is to be sent.
    Send(Ipi),
    /// An interrupt that counts by its level has ended: I/O APICs are told ([`crate::IoApic::end`]).
    Ended {
        /// Its vector.
        vector: u8,
    },
    /// An interrupt that isn't served was to be sent: an SMI, or of no kind.
    NotServed,
}

/// A local APIC, of one vCPU. Time is the guest's time-stamp counter.
#[derive(Clone, Debug)]
pub struct LocalApic {
    id: u32,
    base: Base,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: Spurious,
    irr: Vectors,
    isr: Vectors,
    tmr: Vectors,
    /// Errors since Error Status was written, and what it reads as.
    errors: u32,
    esr: u32,
    icr: Command,
    icr_high: u32,
    lvt: [LocalVector; ENTRIES],
    timer: Timer,
}

impl LocalApic {
    /// As after reset. `base` is where its registers are; `first`: of the CPU that boots.
    pub fn new(id: u32, base: u64, first: bool, has_x2apic: bool) -> Self {
        let mut apic = Self {
            id,
            base: Base::new(base, first, has_x2apic),
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: Spurious::new(),
            irr: Vectors::default(),
            isr: Vectors::default(),
            tmr: Vectors::default(),
            errors: 0,
            esr: 0,
            icr: Command::new(),
            icr_high: 0,
            lvt: [LocalVector::new(); ENTRIES],
            timer: Timer::default(),
        };
        apic.reset();
        apic
    }

    /// As after reset, but in x2APIC mode from the beginning.
    pub fn in_x2apic(id: u32, base: u64, first: bool) -> Self {
        Self { base: Base::in_x2apic(base, first), ..Self::new(id, base, first, true) }
    }

    /// INIT: all but its id and its mode (APM 2, 16.3.2).
    pub fn reset(&mut self) {
        let Self { id, base, .. } = *self;
        *self = Self {
            id,
            base,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: Spurious::new().with_vector(0xff),
            irr: Vectors::default(),
            isr: Vectors::default(),
            tmr: Vectors::default(),
            errors: 0,
            esr: 0,
            icr: Command::new(),
            icr_high: 0,
            lvt: [LocalVector::new().with_masked(true); ENTRIES],
            timer: Timer::default(),
        };
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The APIC Base Address Register, MSR 0x1b.
    pub fn base(&self) -> u64 {
        self.base.read()
    }

    /// How it is reached.
    pub fn mode(&self) -> Mode {
        self.base.mode()
    }

    /// Writes MSR 0x1b. Turned off it loses all that it held.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the mode can't follow, or the registers would move.
    pub fn set_base(&mut self, value: u64) -> Result<(), Refused> {
        let (_, mode) = self.base.write(value).ok_or(Refused)?;
        if mode == Mode::Off {
            self.reset();
        }
        Ok(())
    }

    /// Reads a register of the page, in xAPIC mode: 32 bits at a multiple of 16. Elsewhere there is nothing.
    pub fn read_page(&mut self, at: u64, now: u64) -> u32 {
        let found = page_register(at).filter(|_| self.mode() == Mode::XApic);
        match found.and_then(|register| self.read(register, now)) {
            Some(value) => value as u32,
            None => {
                self.note_error(ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes a register of the page, in xAPIC mode. What can't be written is ignored.
    pub fn write_page(&mut self, at: u64, value: u32, now: u64) -> Written {
        let found = page_register(at).filter(|_| self.mode() == Mode::XApic);
        let Some(register) = found.filter(|register| self.read(*register, now).is_some()) else {
            self.note_error(ILLEGAL_REGISTER);
            return Written::Look;
        };
        self.write(register, value.into(), now).unwrap_or(Written::Nothing)
    }

    /// Reads an MSR of x2APIC mode.
    ///
    /// # Errors
    ///
    /// [`Refused`]: it isn't in that mode, or there is no such register.
    pub fn read_msr(&self, msr: u32, now: u64) -> Result<u64, Refused> {
        let register = self.msr_register(msr)?;
        // What can be written only.
        if matches!(register, offset::EOI | offset::SELF_IPI) {
            return Err(Refused);
        }
        self.read(register, now).ok_or(Refused)
    }

    /// Writes an MSR of x2APIC mode.
    ///
    /// # Errors
    ///
    /// [`Refused`]: it isn't in that mode, there is no such register, it can't be written, or bits are set that it hasn't got.
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<Written, Refused> {
        let register = self.msr_register(msr)?;
        if value & !self.writable(register).ok_or(Refused)? != 0 {
            return Err(Refused);
        }
        self.write(register, value, now).ok_or(Refused)
    }

    fn msr_register(&self, msr: u32) -> Result<u16, Refused> {
        let number = msr.checked_sub(MSR_FIRST).filter(|number| *number < 0x40).ok_or(Refused)?;
        let register = (number << 4) as u16;
        // These there are in the page only (SDM 3, 12.12.1.2).
        let of_page = matches!(register, offset::APR | offset::DFR | offset::ICR_HIGH);
        if self.mode() != Mode::X2Apic || of_page { Err(Refused) } else { Ok(register) }
    }

    /// Which bits of a register can be written in x2APIC mode; `None`: none at all.
    fn writable(&self, register: u16) -> Option<u64> {
        Some(match register {
            offset::TPR | offset::SELF_IPI => 0xff,
            offset::EOI | offset::ESR => 0,
            offset::SVR => 0x3ff,
            offset::ICR => 0xffff_ffff_000c_cfff,
            offset::INITIAL_COUNT => u32::MAX.into(),
            offset::DIVIDE => 0b1011,
            _ => lvt_bits(lvt_entry(register)?).into(),
        })
    }

    /// What a register reads as; `None`: there is none.
    fn read(&self, register: u16, now: u64) -> Option<u64> {
        let wide = self.mode() == Mode::X2Apic;
        let vectors = |set: &Vectors, first: u16| Some(set.word(usize::from((register - first) >> 4)).into());
        Some(match register {
            offset::ID => (if wide { self.id } else { self.id << 24 }).into(),
            offset::VERSION => VERSION.into(),
            offset::TPR => self.tpr.into(),
            // Nobody arbitrates.
            offset::APR => 0,
            offset::PPR => self.ppr().into(),
            // Written only; in the page they read as zero.
            offset::EOI => 0,
            offset::SELF_IPI if wide => 0,
            offset::LDR => self.logical_id().into(),
            offset::DFR => self.dfr.into(),
            offset::SVR => u32::from(self.svr).into(),
            offset::ISR..0x180 => return vectors(&self.isr, offset::ISR),
            offset::TMR..0x200 => return vectors(&self.tmr, offset::TMR),
            offset::IRR..0x280 => return vectors(&self.irr, offset::IRR),
            offset::ESR => self.esr.into(),
            offset::ICR if wide => u64::from(self.icr_high) << 32 | u64::from(u32::from(self.icr)),
            offset::ICR => u32::from(self.icr).into(),
            offset::ICR_HIGH => self.icr_high.into(),
            offset::INITIAL_COUNT => self.timer.initial().into(),
            offset::CURRENT_COUNT => self.timer.current(self.timer_mode(), now).into(),
            offset::DIVIDE => self.timer.divide().into(),
            _ => u32::from(*self.lvt.get(lvt_entry(register)?)?).into(),
        })
    }

    /// Writes a register; `None`: it can't be written.
    fn write(&mut self, register: u16, value: u64, now: u64) -> Option<Written> {
        let wide = self.mode() == Mode::X2Apic;
        let low = value as u32;
        match register {
            offset::TPR => self.tpr = low as u8,
            offset::EOI => return Some(self.end()),
            offset::LDR if !wide => self.ldr = low & 0xff00_0000,
            // Ones below (APM 2, 16.6.2).
            offset::DFR => self.dfr = low | 0x0fff_ffff,
            offset::SVR => {
                self.expire(now);
                self.svr = Spurious::from(low & 0x3ff);
                if !self.svr.enabled() {
                    self.lvt.iter_mut().for_each(|entry| entry.set_masked(true));
                }
            }
            offset::ESR => {
                self.esr = self.errors;
                self.errors = 0;
            }
            offset::ICR if wide => return Some(self.command(value)),
            offset::ICR => return Some(self.command(u64::from(self.icr_high) << 32 | value)),
            offset::ICR_HIGH => self.icr_high = low & 0xff00_0000,
            offset::SELF_IPI if wide => {
                let signal = Signal::Vector { vector: low as u8, level: false };
                if low < u32::from(FIRST_VECTOR) {
                    self.note_error(SEND_ILLEGAL_VECTOR);
                    return Some(Written::Look);
                }
                return Some(Written::Send(Ipi { target: Target::Own, signal }));
            }
            offset::INITIAL_COUNT => self.timer.set_initial(low, self.timer_mode(), now),
            offset::DIVIDE => self.timer.set_divide(low, self.timer_mode(), now),
            _ => self.write_lvt(lvt_entry(register)?, low, now),
        }
        Some(Written::Look)
    }

    fn write_lvt(&mut self, number: usize, value: u32, now: u64) {
        // What has ended while it was masked makes no interrupt once it isn't.
        self.expire(now);
        let before = self.timer_mode();
        let enabled = self.svr.enabled();
        let Some(entry) = self.lvt.get_mut(number) else { return };
        *entry = LocalVector::from(value & lvt_bits(number));
        if !enabled {
            entry.set_masked(true);
        }
        if number == TIMER {
            self.timer.change_mode(before, self.timer_mode());
        }
    }

    fn timer_mode(&self) -> TimerMode {
        self.lvt.get(TIMER).map_or(TimerMode::OneShot, |entry| entry.timer())
    }

    /// MSR 0x6e0: when a timer in TSC-deadline mode ends; in other modes zero.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline(self.timer_mode())
    }

    /// Writes MSR 0x6e0; in other modes that is ignored.
    pub fn set_tsc_deadline(&mut self, value: u64) {
        self.timer.set_tsc_deadline(value, self.timer_mode());
    }

    /// When the timer ends, if that makes an interrupt.
    pub fn deadline(&self) -> Option<u64> {
        let unmasked = self.lvt.get(TIMER).is_some_and(|entry| !entry.masked());
        self.timer.deadline(self.timer_mode()).filter(|_| unmasked)
    }

    /// Looks whether the timer has ended: then its interrupt is requested, unless it is masked.
    pub fn expire(&mut self, now: u64) {
        if self.timer.expire(self.timer_mode(), now) {
            self.request_local(TIMER);
        }
    }

    /// Requests the interrupt of an entry of the local vector table, of fixed delivery.
    fn request_local(&mut self, number: usize) {
        if let Some(entry) = self.lvt.get(number).copied()
            && !entry.masked()
        {
            self.request(entry.vector(), false);
        }
    }

    /// Whether the 8259's interrupts come through: by LINT0, or past an APIC that is off.
    pub fn takes_external(&self) -> bool {
        let entry = self.lvt.get(LINT0);
        let through = entry.is_some_and(|it| !it.masked() && it.mode() == DeliveryMode::External);
        self.mode() == Mode::Off || through
    }

    /// Whether an NMI at LINT1 comes through.
    pub fn takes_nmi(&self) -> bool {
        self.lvt.get(LINT1).is_some_and(|entry| !entry.masked() && entry.mode() == DeliveryMode::Nmi)
    }

    /// What of it stands in a register of hardware's: the guest has that one itself.
    pub fn for_hardware(&self, register: direct::Register) -> u32 {
        let entry = |number: usize| {
            self.lvt.get(number).copied().unwrap_or_else(|| LocalVector::new().with_masked(true))
        };
        match register {
            direct::Register::Spurious => {
                Spurious::new().with_vector(self.svr.vector()).with_enabled(self.svr.enabled()).into()
            }
            direct::Register::Timer => direct::harmless(entry(TIMER)),
            direct::Register::Error => direct::harmless(entry(ERROR).with_timer(TimerMode::OneShot)),
        }
    }

    /// Requests an interrupt. Whether it is accepted: an APIC that is off takes none.
    pub fn request(&mut self, vector: u8, level: bool) -> bool {
        if self.mode() == Mode::Off || !self.svr.enabled() {
            return false;
        }
        if vector < FIRST_VECTOR {
            self.note_error(RECEIVED_ILLEGAL_VECTOR);
            return false;
        }
        self.irr.set(vector, true);
        self.tmr.set(vector, level);
        true
    }

    /// Requests all of what has come, as [`Self::request`] does one after the other: first those that count by their edge.
    pub(crate) fn request_all(&mut self, edges: Vectors, levels: Vectors) {
        if self.mode() == Mode::Off || !self.svr.enabled() {
            return;
        }
        let all = edges.with(levels);
        let legal = all.without(ILLEGAL);
        self.irr = self.irr.with(legal);
        self.tmr = self.tmr.without(edges.without(ILLEGAL)).with(levels.without(ILLEGAL));
        if !all.without(legal).is_empty() {
            self.note_error(RECEIVED_ILLEGAL_VECTOR);
        }
    }

    /// Takes an interrupt that has just come and counts by its edge, if it is the next: from then on it is in service. Otherwise nothing has changed.
    #[inline(always)]
    pub(crate) fn take_at_once(&mut self, vector: u8) -> bool {
        let is_next = self.mode() != Mode::Off
            && self.svr.enabled()
            && vector >= FIRST_VECTOR
            && self.irr.is_empty()
            && vector >> 4 > self.ppr() >> 4;
        if is_next {
            self.tmr.set(vector, false);
            self.isr.set(vector, true);
        }
        is_next
    }

    /// The timer has ended, if it has by now: its interrupt is taken if it is the next, as [`Self::take_at_once`] does, and requested otherwise.
    #[inline(always)]
    pub(crate) fn expire_at_once(&mut self, now: u64) -> Option<u8> {
        if !self.timer.expire(self.timer_mode(), now) {
            return None;
        }
        let entry = self.lvt.get(TIMER).copied().filter(|entry| !entry.masked())?;
        if self.take_at_once(entry.vector()) {
            return Some(entry.vector());
        }
        self.request_local(TIMER);
        None
    }

    /// The CPU takes the next interrupt, if that is the only one that is requested: from then on it is in service. Otherwise nothing has changed.
    #[inline(always)]
    pub(crate) fn take_only(&mut self) -> Option<u8> {
        let vector = self.next()?;
        let mut others = self.irr;
        others.set(vector, false);
        if !others.is_empty() {
            return None;
        }
        self.irr = others;
        self.isr.set(vector, true);
        Some(vector)
    }

    /// The Task Priority: CR8 is its upper half.
    pub fn tpr(&self) -> u8 {
        self.tpr
    }

    /// Sets the Task Priority.
    pub fn set_tpr(&mut self, value: u8) {
        self.tpr = value;
    }

    /// The Processor Priority (APM 2, 16.6.4).
    pub fn ppr(&self) -> u8 {
        let serviced = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= serviced >> 4 { self.tpr } else { serviced & 0xf0 }
    }

    /// Whether a vector is requested, and not in service yet.
    pub fn is_requested(&self, vector: u8) -> bool {
        self.irr.contains(vector)
    }

    /// The highest interrupt that is requested, whatever the priority.
    pub fn highest_request(&self) -> Option<u8> {
        self.irr.highest().filter(|_| self.svr.enabled() && self.mode() != Mode::Off)
    }

    /// The interrupt that the CPU is to take next, if its priority lets one through.
    pub fn next(&self) -> Option<u8> {
        self.highest_request().filter(|vector| vector >> 4 > self.ppr() >> 4)
    }

    /// If there is none, but one is requested that only the task's priority keeps back: the class that CR8 must be below.
    pub fn kept_back(&self) -> Option<u8> {
        let class = self.highest_request()? >> 4;
        let serviced = self.isr.highest().unwrap_or(0) >> 4;
        (class > serviced && class <= self.tpr >> 4).then_some(class)
    }

    /// The CPU takes it: from then on it is in service.
    pub fn take(&mut self) -> Option<u8> {
        let vector = self.next()?;
        self.irr.set(vector, false);
        self.isr.set(vector, true);
        Some(vector)
    }

    /// Whether any interrupt is requested.
    pub(crate) fn has_requests(&self) -> bool {
        !self.irr.is_empty()
    }

    /// What is next, and what [`Self::kept_back`] says.
    pub(crate) fn look(&self) -> (Option<u8>, Option<u8>) {
        if self.irr.is_empty() { (None, None) } else { (self.next(), self.kept_back()) }
    }

    /// The end of the interrupt in service.
    pub(crate) fn end(&mut self) -> Written {
        let Some(vector) = self.isr.highest() else { return Written::Nothing };
        self.isr.set(vector, false);
        if self.tmr.contains(vector) { Written::Ended { vector } } else { Written::Look }
    }

    fn note_error(&mut self, error: u32) {
        self.errors |= error;
        // Its own vector may be an illegal one: that makes no further error.
        let legal = self.lvt.get(ERROR).is_some_and(|entry| entry.vector() >= FIRST_VECTOR);
        if legal {
            self.request_local(ERROR);
        }
    }

    /// Takes the highest interrupt out that is requested, for hardware to have it.
    pub(crate) fn take_request(&mut self) -> Option<u8> {
        let vector = self.highest_request()?;
        self.irr.set(vector, false);
        Some(vector)
    }

    /// Errors since Error Status was written.
    pub(crate) fn errors(&self) -> u32 {
        self.errors
    }

    /// What hardware has noted as errors beside.
    pub(crate) fn note_errors(&mut self, errors: u32) {
        self.errors |= errors;
    }

    /// Writes the lower half of the Interrupt Command Register, in the page.
    pub(crate) fn command_low(&mut self, value: u32) -> Written {
        self.command(u64::from(self.icr_high) << 32 | u64::from(value))
    }

    /// Writes both halves of the Interrupt Command Register, whichever way that is reached.
    pub fn command(&mut self, value: u64) -> Written {
        let narrow = self.mode() == Mode::XApic;
        self.icr = Command::from(value as u32 & 0x000c_cfff);
        self.icr_high = (value >> 32) as u32 & if narrow { 0xff00_0000 } else { u32::MAX };
        self.send()
    }

    /// What the Interrupt Command Register sends (APM 2, table 16-4).
    fn send(&mut self) -> Written {
        let (command, mode) = (self.icr, self.icr.mode());
        let vectored = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if vectored && command.vector() < FIRST_VECTOR {
            self.note_error(SEND_ILLEGAL_VECTOR);
            return Written::Look;
        }
        // The end of INIT's level is nothing to today's processors.
        if mode == DeliveryMode::Init && command.level() && !command.assert() {
            return Written::Nothing;
        }
        // By level only INIT comes.
        let found = signal(mode, command.vector(), false).filter(|_| mode != DeliveryMode::External);
        let Some((signal, delivery)) = found else { return Written::NotServed };
        let target = match command.shorthand() {
            Shorthand::No => {
                let wide = self.mode() == Mode::X2Apic;
                let id = if wide { self.icr_high } else { self.icr_high >> 24 };
                Target::Named(Destination { id, logical: command.logical(), narrow: !wide }, delivery)
            }
            // To oneself only what has a vector.
            Shorthand::Own | Shorthand::All if mode != DeliveryMode::Fixed => return Written::NotServed,
            Shorthand::Own => Target::Own,
            Shorthand::All => Target::All,
            Shorthand::Others => Target::Others,
        };
        Written::Send(Ipi { target, signal })
    }

    /// What it sends, if that is a vector for itself: it has it then, without anybody's help. Otherwise nothing has changed.
    pub(crate) fn send_to_itself(&mut self, ipi: Ipi) -> Written {
        let Ipi { target, signal: Signal::Vector { vector, level: false } } = ipi else {
            return Written::Send(ipi);
        };
        let is_for_itself = match target {
            Target::Own => true,
            Target::Named(destination, _) => destination.one() == Some(self.id),
            Target::All | Target::Others => false,
        };
        if !is_for_itself {
            return Written::Send(ipi);
        }
        self.request(vector, false);
        Written::Look
    }

    /// The logical id: in x2APIC mode it follows from the id (SDM 3, 12.12.10.2).
    fn logical_id(&self) -> u32 {
        if self.mode() == Mode::X2Apic { (self.id >> 4) << 16 | 1 << (self.id & 15) } else { self.ldr }
    }

    /// What others have to know of it to find whom an interrupt is for.
    pub fn identity(&self) -> Identity {
        Identity {
            mode: self.mode(),
            enabled: self.svr.enabled(),
            logical: self.logical_id(),
            flat: self.dfr >> 28 == 0xf,
            priority: self.ppr(),
        }
    }

    /// Whether it is one of those that a destination names.
    pub fn is_named(&self, destination: Destination) -> bool {
        self.identity().is_named(self.id, destination)
    }
}

/// The register at an offset in the page.
fn page_register(at: u64) -> Option<u16> {
    u16::try_from(at).ok().filter(|at| at.is_multiple_of(16) && *at < 0x400)
}

/// Which entry of the local vector table a register is.
fn lvt_entry(register: u16) -> Option<usize> {
    let number = register.checked_sub(offset::LVT_TIMER)? >> 4;
    (register.is_multiple_of(16) && usize::from(number) < ENTRIES).then_some(number.into())
}

/// The bits that such an entry has and that can be written (APM 2, 16.4).
fn lvt_bits(number: usize) -> u32 {
    const VECTOR: u32 = 0xff;
    const MODE: u32 = 7 << 8;
    const MASK: u32 = 1 << 16;
    const LINE: u32 = 1 << 13 | 1 << 15;
    match number {
        TIMER => VECTOR | MASK | 3 << 17,
        LINT0 | LINT1 => VECTOR | MODE | LINE | MASK,
        ERROR => VECTOR | MASK,
        _ => VECTOR | MODE | MASK,
    }
}
