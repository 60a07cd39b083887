//! All local APICs of a VM and its I/O APIC: who gets what, and how its CPU hears of it.
//!
//! A local APIC's state is under a lock that its own CPU takes, and others only while it is off. What others have for it they leave in its
//! `Inbox`, and have its CPU called; whom an interrupt is for they find by what it publishes (`Published`). The I/O APIC is under a lock of
//! its own, which is held while it sends.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};

use axvm_addr::{Gpa, VcpuId};
use spin::{Mutex, MutexGuard};

use crate::base::Mode;
use crate::direct;
use crate::identity::{Identity, Published};
use crate::inbox::Inbox;
use crate::io::IoApic;
use crate::local::{LocalApic, Refused, Written};
use crate::message::{Delivery, Destination, Ipi, Message, Signal, Target};
use crate::spec::{self, PINS};
use crate::vectors::Vectors;

/// What the host does for a VM's APICs. Called with locks held: none of it may call [`Apics`].
pub trait Backend: Send + Sync {
    /// Brings a vCPU out of its guest or its sleep, so that it calls [`Apics::poll`]; also if it is just about to go there. It may be the
    /// calling one, which polls before it goes on anyway.
    fn kick(&self, vcpu: VcpuId);

    /// The time-stamp counter as the guest reads it.
    fn tsc(&self) -> u64;

    /// What a pin of [`ApicsConfig::physical`] has become: its line is to be masked or unmasked in hardware.
    fn set_pin(&self, pin: u8, to: Pin);

    /// [`Taker::Guest`]: interrupts the CPU of a vCPU that is in its place, by this vector and as an edge.
    fn send(&self, _: VcpuId, _: u8) {}

    /// [`Taker::Guest`], on the vCPU's own CPU: a register of its local APIC becomes this.
    fn set_register(&self, _: direct::Register, _: u32) {}

    /// [`Taker::Guest`], on the vCPU's own CPU: ends the interrupt that is in service, and says which that was.
    fn end(&self) -> Option<u8> {
        None
    }

    /// [`Taker::Guest`], on the vCPU's own CPU: what its local APIC has noted as errors since this was asked last.
    fn take_errors(&self) -> u32 {
        0
    }
}

/// Who takes what has a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// Whoever has the vCPUs, and injects it.
    Host,
    /// The guest, on CPUs of its own, by the local APICs of these: all of it is sent to them, and what the guest does to them without an exit
    /// ([`direct::OPEN`]) nobody hears of. Its vCPUs are in x2APIC mode for good.
    Guest,
}

/// Whether the ends of interrupts are to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// The guest ends its interrupts by itself.
    Unseen,
    /// An interrupt that counts by its level is on its way or in service: each end comes to [`Apics::write_msr`].
    Seen,
}

/// Whether anybody hears a pin's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// A change of it comes to the guest.
    Open,
    /// It is masked by the guest, or an interrupt of it hasn't ended.
    Closed,
}

/// What a VM's APICs are.
#[derive(Clone, Copy, Debug)]
pub struct ApicsConfig {
    /// How many vCPUs there are. Each has its number as its id.
    pub vcpus: u16,
    /// Where local APICs have their registers in xAPIC mode.
    pub base: Gpa,
    /// Whether there is x2APIC mode.
    pub has_x2apic: bool,
    /// The I/O APIC's id.
    pub io_id: u8,
    /// Pins whose lines are real ones, a bit each ([`IoApic::with_resampled`]).
    pub physical: u32,
    /// Who takes interrupts.
    pub taker: Taker,
}

/// What a CPU is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It executes, or has halted.
    Runs,
    /// It has had an INIT and waits for STARTUP.
    WaitsForStartup,
    /// STARTUP has come: it begins in real mode, at offset 0 of this page. Said once; from then on it runs.
    Startup {
        /// Bits 19:12 of the address.
        page: u8,
    },
}

/// What waits for a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What the CPU is at.
    pub activity: Activity,
    /// An INIT has come: the CPU's registers are to be reset, as its local APIC has been. Said once.
    pub reset: bool,
    /// A non-maskable interrupt waits ([`Apics::take_nmi`]).
    pub nmi: bool,
    /// The interrupt that is to be taken as soon as the CPU takes interrupts ([`Apics::take`]).
    pub vector: Option<u8>,
    /// There is no such, but one that only the task's priority keeps back: it is to be looked again once CR8 is below this.
    pub cr8_below: Option<u8>,
    /// It is to be looked again at this value of the guest's time-stamp counter.
    pub deadline: Option<u64>,
    /// Whether the guest is to be left where it ends an interrupt ([`Taker::Guest`]).
    pub ends: Ends,
}

impl Pending {
    /// It runs, and nothing waits.
    const NOTHING: Self = Self {
        activity: Activity::Runs,
        reset: false,
        nmi: false,
        vector: None,
        cr8_below: None,
        deadline: None,
        ends: Ends::Unseen,
    };

    /// Whether it runs, and nothing waits but for the time.
    pub fn is_nothing_but_a_deadline(&self) -> bool {
        *self == Self { deadline: self.deadline, ..Self::NOTHING }
    }

    /// Whether there is something for a CPU that has halted; `accepts`: it takes interrupts.
    pub fn wakes(&self, accepts: bool) -> bool {
        let startup = matches!(self.activity, Activity::Startup { .. });
        let waits = self.activity == Activity::WaitsForStartup;
        startup || self.reset || !waits && (self.nmi || accepts && self.vector.is_some())
    }
}

/// What a vCPU is to be entered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The interrupt that it has taken: it is in service, and to be injected.
    pub taken: Option<u8>,
    /// What waits for it beside.
    pub waiting: Pending,
    /// CR8.
    pub cr8: u8,
}

/// What an access has led to, beside what the vCPUs hear by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// A vCPU is to be started: [`Apics::next_startup`] says which.
    Startup,
}

/// A vCPU that isn't in its place is to begin, in real mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Startup {
    /// Which.
    pub vcpu: VcpuId,
    /// Bits 19:12 of where: CS is that shifted by 8, the instruction pointer is zero.
    pub page: u8,
}

/// The I/O APIC has no such pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the I/O APIC has {PINS} pins, and no pin {0}")]
pub struct NoSuchLine(pub u32);

/// A message that leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// It isn't one of an interrupt that a message may bring.
    #[error("a message to {address:#x} with {data:#x} is no interrupt")]
    NoInterrupt {
        /// Where.
        address: u64,
        /// What.
        data: u32,
    },
    /// No local APIC that it names takes it.
    #[error("no local APIC takes a message to {address:#x} with {data:#x}")]
    NotTaken {
        /// Where.
        address: u64,
        /// What.
        data: u32,
    },
}

/// What a vCPU has, under its lock.
pub(crate) struct Own {
    pub(crate) apic: LocalApic,
    /// It has had an INIT, and no STARTUP since.
    pub(crate) waits: bool,
    pub(crate) nmi: bool,
    /// Whether it is in its place, so that it takes out of its inbox.
    entered: bool,
    /// [`Taker::Guest`]: vectors that were sent for lines that count by their level, and haven't ended.
    levels: Vectors,
}

impl Own {
    fn new(number: u16, config: &ApicsConfig) -> Self {
        let (id, base, first) = (number.into(), config.base.0, number == 0);
        let apic = match config.taker {
            Taker::Host => LocalApic::new(id, base, first, config.has_x2apic),
            Taker::Guest => LocalApic::in_x2apic(id, base, first),
        };
        Self { apic, waits: number != 0, nmi: false, entered: false, levels: Vectors::default() }
    }

    /// Takes in what has come.
    fn take_in(&mut self, inbox: &Inbox, taker: Taker) -> Arrival {
        let arrived = inbox.take_vectors();
        let nmi = inbox.take_nmi();
        if inbox.take_init() {
            self.init();
            return Arrival { reset: true, ..Arrival::NONE };
        }
        self.nmi |= nmi;
        if taker == Taker::Guest {
            return Arrival { sent: arrived.levels, ..Arrival::NONE };
        }
        self.apic.request_all(arrived.edges, arrived.levels);
        Arrival::NONE
    }

    /// What the CPU is to be entered with.
    fn turn(&mut self, cpu: &Cpu, reset: bool, accepts: bool, now: &dyn Fn() -> u64) -> Turn {
        let mut waiting = Pending { reset, ..Pending::NOTHING };
        if self.waits {
            waiting.activity = Activity::WaitsForStartup;
            if let Some(page) = cpu.inbox.take_startup() {
                self.waits = false;
                waiting.activity = Activity::Startup { page };
            }
        }
        waiting.deadline = self.apic.deadline();
        if waiting.deadline.is_some_and(|deadline| deadline <= now()) {
            self.apic.expire(now());
            waiting.deadline = self.apic.deadline();
        }
        waiting.nmi = self.nmi;
        let takes =
            accepts && self.apic.has_requests() && !reset && !self.nmi && waiting.activity == Activity::Runs;
        let taken = if takes { self.apic.take() } else { None };
        (waiting.vector, waiting.cr8_below) = self.apic.look();
        if !self.levels.is_empty() {
            waiting.ends = Ends::Seen;
        }
        Turn { taken, waiting, cr8: self.apic.tpr() >> 4 }
    }

    /// As after an INIT.
    fn init(&mut self) {
        self.apic.reset();
        self.waits = true;
        self.nmi = false;
        self.levels = Vectors::default();
    }
}

/// What has come of what others have left for it.
struct Arrival {
    /// It was an INIT.
    reset: bool,
    /// Vectors that are to be sent on to its CPU.
    sent: Vectors,
}

impl Arrival {
    const NONE: Self = Self { reset: false, sent: Vectors::NONE };
}

/// What comes of a change.
struct Changed {
    written: Result<Written, Refused>,
    /// It takes interrupts again: lines that nobody took the interrupts of are still there.
    is_back: bool,
}

pub(crate) struct Cpu {
    own: Mutex<Own>,
    pub(crate) inbox: Inbox,
    pub(crate) published: Published,
    /// What is its own may have changed since it was looked at ([`Apics::poll`]). By its own CPU, or while it isn't in its place.
    pub(crate) touched: AtomicBool,
}

/// Whether there is news of a vCPU's local APIC.
pub struct News<'a>(Option<&'a Cpu>);

impl News<'_> {
    /// What [`Apics::has_news`] says now.
    #[inline(always)]
    pub fn is_there(&self) -> bool {
        self.0.is_some_and(Cpu::has_news)
    }
}

impl Cpu {
    #[inline(always)]
    pub(crate) fn has_news(&self) -> bool {
        self.touched.load(Ordering::Relaxed) || self.inbox.has_something()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Own> {
        self.own.lock()
    }

    pub(crate) fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Changes its local APIC by what its guest writes. A timer that has ended by now did so before. It is to be looked at again unless that
    /// would say what it said: nothing was requested, nor is, and neither the timer's end nor the task's priority is another.
    #[inline]
    fn change(&self, now: u64, change: impl FnOnce(&mut LocalApic) -> Result<Written, Refused>) -> Changed {
        let mut own = self.lock();
        let apic = &mut own.apic;
        let (deadline, tpr, waited) = (apic.deadline(), apic.tpr(), apic.highest_request().is_some());
        apic.expire(now);
        let before = apic.identity().takes_vectors();
        let written = change(apic);
        let identity = apic.identity();
        if waited || apic.highest_request().is_some() || apic.deadline() != deadline || apic.tpr() != tpr {
            self.touch();
        }
        self.published.set(identity);
        Changed { written, is_back: !before && identity.takes_vectors() }
    }

    /// Writes one of the two registers of its page that a guest writes all the time: the end of an interrupt, and a command. `None`: it is
    /// another, or isn't reached so; nothing has changed. Neither changes the timer or the task's priority.
    #[inline]
    fn write_most(&self, offset: u64, value: u32) -> Option<Written> {
        const EOI: u64 = spec::offset::EOI as u64;
        const ICR: u64 = spec::offset::ICR as u64;
        if !matches!(offset, EOI | ICR) {
            return None;
        }
        let mut own = self.lock();
        let apic = &mut own.apic;
        if apic.mode() != Mode::XApic {
            return None;
        }
        if offset == ICR {
            let written = match apic.command_low(value) {
                Written::Send(ipi) => apic.send_to_itself(ipi),
                written => written,
            };
            if written == Written::Look {
                self.touch();
            }
            return Some(written);
        }
        Some(self.end(apic))
    }

    /// The same of MSRs, in x2APIC mode.
    #[inline]
    fn write_most_msr(&self, msr: u32, value: u64, now: impl FnOnce() -> u64) -> Option<Written> {
        let mut own = self.lock();
        let apic = &mut own.apic;
        match msr {
            _ if apic.mode() != Mode::X2Apic => None,
            direct::EOI if value == 0 => Some(self.end(apic)),
            spec::MSR_TSC_DEADLINE => {
                // What has ended by now did so before.
                apic.expire(now());
                apic.set_tsc_deadline(value);
                self.touch();
                Some(Written::Look)
            }
            _ => None,
        }
    }

    #[inline]
    fn end(&self, apic: &mut LocalApic) -> Written {
        let written = apic.end();
        if apic.has_requests() {
            self.touch();
        }
        self.published.set_priority(apic.ppr());
        written
    }

    #[inline(never)]
    fn write_page(&self, offset: u64, value: u32, now: u64) -> Changed {
        self.change(now, |apic| Ok(apic.write_page(offset, value, now)))
    }

    #[inline(never)]
    fn write_msr(&self, msr: u32, value: u64, now: u64) -> Changed {
        self.change(now, |apic| match msr {
            spec::MSR_BASE => apic.set_base(value).map(|()| Written::Look),
            spec::MSR_TSC_DEADLINE => {
                apic.set_tsc_deadline(value);
                Ok(Written::Look)
            }
            _ => Ok(match apic.write_msr(msr, value, now)? {
                Written::Send(ipi) => apic.send_to_itself(ipi),
                written => written,
            }),
        })
    }
}

/// The I/O APIC, under its lock.
struct Io {
    apic: IoApic,
    /// The pins of real lines that are open.
    open: u32,
}

/// All APICs of a VM. A vCPU that there isn't has none: reads of it are zero, and nothing waits for it.
pub struct Apics<B> {
    pub(crate) config: ApicsConfig,
    pub(crate) backend: B,
    cpus: Box<[Cpu]>,
    io: Mutex<Io>,
    /// A STARTUP may wait for a vCPU that isn't in its place.
    pub(crate) startups: AtomicBool,
}

impl<B: Backend> Apics<B> {
    /// As after reset: vCPU 0 runs, the others wait for STARTUP.
    pub fn new(config: ApicsConfig, backend: B) -> Self {
        let cpu = |number| {
            let own = Own::new(number, &config);
            let published = Published::new(own.apic.identity());
            Cpu { own: Mutex::new(own), inbox: Inbox::default(), published, touched: AtomicBool::new(true) }
        };
        let apic = IoApic::new(config.io_id).with_resampled(config.physical);
        let cpus = (0..config.vcpus).map(cpu).collect();
        Self { config, backend, cpus, io: Mutex::new(Io { apic, open: 0 }), startups: AtomicBool::new(false) }
    }

    /// The host's part.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// As after reset. No vCPU is in its place.
    pub fn reset(&self) {
        for (number, cpu) in (0..).zip(&self.cpus) {
            let mut own = cpu.lock();
            *own = Own::new(number, &self.config);
            cpu.touch();
            cpu.inbox.clear();
            cpu.published.set(own.apic.identity());
        }
        let mut io = self.io.lock();
        io.apic = IoApic::new(self.config.io_id).with_resampled(self.config.physical);
        self.say_pins(&mut io);
    }

    #[inline(always)]
    pub(crate) fn cpu(&self, vcpu: VcpuId) -> Option<&Cpu> {
        self.cpus.get(usize::from(vcpu.0))
    }

    // What a vCPU's own CPU asks.

    /// It comes into its place, and runs from now on: what has come for it comes with it.
    pub fn enter(&self, vcpu: VcpuId) {
        if let Some(cpu) = self.cpu(vcpu) {
            let mut own = cpu.lock();
            cpu.touch();
            own.entered = true;
            own.waits = false;
            // The one by which it was started, or one that came on the way.
            cpu.inbox.take_startup();
        }
    }

    /// It leaves its place. It can be started again.
    pub fn leave(&self, vcpu: VcpuId) {
        if let Some(cpu) = self.cpu(vcpu) {
            cpu.lock().entered = false;
        }
    }

    /// Whether [`Apics::poll`] may say something else than it did, but for a timer that has ended by now. Takes no lock: asked before each
    /// entry of its guest. What others leave for it from here on has its CPU called.
    #[inline(always)]
    pub fn has_news(&self, vcpu: VcpuId) -> bool {
        self.cpu(vcpu).is_some_and(Cpu::has_news)
    }

    /// What says the same, for who asks all the time.
    pub fn news(&self, vcpu: VcpuId) -> News<'_> {
        News(self.cpu(vcpu))
    }

    /// What waits for it: asked whenever it was woken.
    pub fn poll(&self, vcpu: VcpuId) -> Pending {
        self.turn(vcpu, false).waiting
    }

    /// What it is to be entered with: asked before its guest is entered, unless there is no news. `accepts`: the guest takes an interrupt now, and is
    /// injected the one that is taken here. It isn't where something else comes first: a reset, or a non-maskable interrupt.
    pub fn turn(&self, vcpu: VcpuId, accepts: bool) -> Turn {
        let Some(cpu) = self.cpu(vcpu) else {
            return Turn { taken: None, waiting: Pending::NOTHING, cr8: 0 };
        };
        let mut own = cpu.lock();
        cpu.touched.store(false, Ordering::Relaxed);
        let levels =
            if cpu.inbox.look() { own.take_in(&cpu.inbox, self.config.taker) } else { Arrival::NONE };
        let mut sent = levels.sent;
        // From here on its end is seen.
        while let Some(vector) = sent.pop().filter(|vector| *vector >= direct::FIRST_SENT) {
            own.levels.set(vector, true);
            self.backend.send(vcpu, vector);
        }
        let turn = own.turn(cpu, levels.reset, accepts, &|| self.backend.tsc());
        cpu.published.set(own.apic.identity());
        turn
    }

    /// Whether there is an interrupt to be taken as soon as the CPU takes interrupts, of those that the last [`Apics::poll`] has seen. Nothing else is
    /// taken in, so that what that says once isn't missed.
    pub fn has_next(&self, vcpu: VcpuId) -> bool {
        self.cpu(vcpu).is_some_and(|cpu| cpu.lock().apic.next().is_some())
    }

    /// It takes the interrupt that is next: from now on that is in service.
    pub fn take(&self, vcpu: VcpuId) -> Option<u8> {
        self.with(vcpu, |own| own.apic.take())?
    }

    /// It takes a non-maskable interrupt. Whether there is one.
    pub fn take_nmi(&self, vcpu: VcpuId) -> bool {
        self.with(vcpu, |own| core::mem::take(&mut own.nmi)).unwrap_or(false)
    }

    /// CR8: the Task Priority's class.
    pub fn cr8(&self, vcpu: VcpuId) -> u8 {
        self.cpu(vcpu).map_or(0, |cpu| cpu.lock().apic.tpr() >> 4)
    }

    /// Whether its local APIC is on, by its base address register: its own CPU asks.
    pub fn is_on(&self, vcpu: VcpuId) -> bool {
        self.cpu(vcpu).is_some_and(|cpu| cpu.published.is_on())
    }

    /// CR8 was set to this; if it has been that already nothing changes.
    pub fn set_cr8(&self, vcpu: VcpuId, value: u8) {
        if self.cpu(vcpu).is_some_and(|cpu| cpu.lock().apic.tpr() >> 4 != value & 15) {
            self.with(vcpu, |own| own.apic.set_tpr(value << 4));
        }
    }

    /// It reads a register of its local APIC's page.
    #[inline(always)]
    pub fn read_page(&self, vcpu: VcpuId, offset: u64) -> u32 {
        const CURRENT_COUNT: u64 = spec::offset::CURRENT_COUNT as u64;
        // No other register reads as something else at another time.
        let now = if offset == CURRENT_COUNT { self.backend.tsc() } else { 0 };
        let Some(cpu) = self.cpu(vcpu) else { return 0 };
        let mut own = cpu.lock();
        let value = own.apic.read_page(offset, now);
        // A read changes nothing, but where there is no such register: that is an error, which may interrupt.
        if own.apic.errors() != 0 {
            cpu.touch();
        }
        value
    }

    /// It writes a register of its local APIC's page.
    pub fn write_page(&self, vcpu: VcpuId, offset: u64, value: u32) -> Effect {
        let Some(cpu) = self.cpu(vcpu) else { return Effect::None };
        match cpu.write_most(offset, value) {
            Some(Written::Look | Written::Nothing) => return Effect::None,
            Some(written) => return self.carry_out(vcpu, written),
            None => {}
        }
        let written = self.changed(cpu.write_page(offset, value, self.backend.tsc()));
        written.map_or(Effect::None, |written| self.carry_out(vcpu, written))
    }

    /// It reads an MSR of its local APIC: 0x1b, 0x6e0, 0x800 to 0x8ff.
    ///
    /// # Errors
    ///
    /// It faults (#GP).
    pub fn read_msr(&self, vcpu: VcpuId, msr: u32) -> Result<u64, Refused> {
        if self.config.taker == Taker::Guest && !direct::is_answered(msr) {
            return Err(Refused);
        }
        if msr == spec::MSR_TSC_DEADLINE {
            // One that has ended reads as none.
            let now = self.backend.tsc();
            let deadline = self.with(vcpu, |own| {
                own.apic.expire(now);
                own.apic.tsc_deadline()
            });
            return deadline.ok_or(Refused);
        }
        let own = self.cpu(vcpu).ok_or(Refused)?.lock();
        match msr {
            spec::MSR_BASE => Ok(own.apic.base()),
            // Nothing else says the time.
            spec::MSR_CURRENT_COUNT => own.apic.read_msr(msr, self.backend.tsc()),
            _ => own.apic.read_msr(msr, 0),
        }
    }

    /// It writes an MSR of its local APIC.
    ///
    /// # Errors
    ///
    /// It faults (#GP), and nothing has changed.
    pub fn write_msr(&self, vcpu: VcpuId, msr: u32, value: u64) -> Result<Effect, Refused> {
        if self.config.taker == Taker::Guest {
            return self.write_direct(vcpu, msr, value, self.backend.tsc());
        }
        let cpu = self.cpu(vcpu).ok_or(Refused)?;
        match cpu.write_most_msr(msr, value, || self.backend.tsc()) {
            Some(Written::Look | Written::Nothing) => return Ok(Effect::None),
            Some(written) => return Ok(self.carry_out(vcpu, written)),
            None => {}
        }
        let written = self.changed(cpu.write_msr(msr, value, self.backend.tsc()));
        Ok(self.carry_out(vcpu, written?))
    }

    /// The same, of a guest that has the rest of its local APIC itself.
    fn write_direct(&self, vcpu: VcpuId, msr: u32, value: u64, now: u64) -> Result<Effect, Refused> {
        match msr {
            // It stays in the mode in which it begins.
            spec::MSR_BASE => {
                let base = self.with(vcpu, |own| own.apic.base()).ok_or(Refused)?;
                return if value == base { Ok(Effect::None) } else { Err(Refused) };
            }
            direct::EOI if value == 0 => {
                // Which it is hardware says: the guest has others too.
                let ended = self.with(vcpu, |own| {
                    let vector = self.backend.end()?;
                    let was_level = own.levels.contains(vector);
                    own.levels.set(vector, false);
                    was_level.then_some(vector)
                });
                let written = ended.flatten().map_or(Written::Nothing, |vector| Written::Ended { vector });
                return Ok(self.carry_out(vcpu, written));
            }
            _ if !direct::is_answered(msr) => return Err(Refused),
            _ => {}
        }
        let errors = if msr == direct::ESR { self.backend.take_errors() } else { 0 };
        let written = self.change(vcpu, now, |apic| {
            apic.note_errors(errors);
            let written = apic.write_msr(msr, value, now)?;
            let set = |register| self.backend.set_register(register, apic.for_hardware(register));
            match msr {
                // What is off has its entries masked.
                direct::SVR => {
                    set(direct::Register::Spurious);
                    set(direct::Register::Error);
                }
                direct::LVT_TIMER => set(direct::Register::Timer),
                direct::LVT_ERROR => set(direct::Register::Error),
                _ => {}
            }
            // Its own errors are interrupts, too.
            while let Some(vector) = apic.take_request() {
                self.backend.send(vcpu, vector);
            }
            Ok(written)
        });
        Ok(self.carry_out(vcpu, written?))
    }

    /// It sends an interrupt, as the Interrupt Command Register of its mode has it with both halves.
    pub fn send_icr(&self, vcpu: VcpuId, value: u64) -> Effect {
        let now = self.backend.tsc();
        let written = self.change(vcpu, now, |apic| Ok(apic.command(value)));
        written.map_or(Effect::None, |written| self.carry_out(vcpu, written))
    }

    // What anybody asks.

    /// A vCPU that is to be started because STARTUP has come for it; asked until there is none.
    #[inline(always)]
    pub fn next_startup(&self) -> Option<Startup> {
        if self.startups.load(Ordering::SeqCst) { self.find_startup() } else { None }
    }

    #[cold]
    fn find_startup(&self) -> Option<Startup> {
        // Before it is looked: one that comes meanwhile is looked for again.
        self.startups.store(false, Ordering::SeqCst);
        for (vcpu, cpu) in (0..).map(VcpuId).zip(&self.cpus).filter(|(_, cpu)| cpu.inbox.has_startup()) {
            self.startups.store(true, Ordering::SeqCst);
            let own = cpu.lock();
            if !own.entered
                && let Some(page) = cpu.inbox.take_startup()
            {
                return Some(Startup { vcpu, page });
            }
        }
        None
    }

    /// Sets the level of a line. Setting the same level again does nothing.
    ///
    /// # Errors
    ///
    /// [`NoSuchLine`].
    pub fn set_line(&self, gsi: u32, high: bool) -> Result<(), NoSuchLine> {
        let pin = pin(gsi)?;
        if self.config.physical >> pin & 1 != 0 {
            self.with_io(|io| io.set_line(pin, high, |message| self.deliver(message)));
        } else {
            // What a line does that isn't a real one opens and closes no real one.
            self.io.lock().apic.set_line(pin, high, |message| self.deliver(message));
        }
        Ok(())
    }

    /// A line goes high and low again: an edge.
    ///
    /// # Errors
    ///
    /// [`NoSuchLine`].
    pub fn pulse(&self, gsi: u32) -> Result<(), NoSuchLine> {
        let pin = pin(gsi)?;
        self.with_io(|io| {
            for high in [true, false] {
                io.set_line(pin, high, |message| self.deliver(message));
            }
        });
        Ok(())
    }

    /// Whether what a line's last edge has asked for is still to be taken by a vCPU that is in its place: until then more edges say nothing that
    /// it won't find out. A host may keep the line masked for so long, if it asks whenever the vCPU has taken something, and before its guest
    /// goes on.
    pub fn is_waiting(&self, vcpu: VcpuId, gsi: u32) -> bool {
        let entry = pin(gsi).ok().and_then(|pin| self.io.lock().apic.entry(pin));
        let (Some(entry), Some(cpu)) = (entry, self.cpu(vcpu)) else { return false };
        let own = cpu.lock();
        let waits = own.apic.is_requested(entry.vector()) || cpu.inbox.has_edge(entry.vector());
        own.entered && !entry.level() && !entry.masked() && waits
    }

    /// Whether the guest has a real line open.
    pub fn is_open(&self, gsi: u32) -> bool {
        pin(gsi).is_ok_and(|pin| self.io.lock().open >> pin & 1 != 0)
    }

    /// A message comes, as from a device.
    ///
    /// # Errors
    ///
    /// [`NotServed`].
    pub fn send_msi(&self, address: u64, data: u32) -> Result<(), NotServed> {
        let message = Message::from_msi(address, data).ok_or(NotServed::NoInterrupt { address, data })?;
        if self.deliver(message) { Ok(()) } else { Err(NotServed::NotTaken { address, data }) }
    }

    /// Reads a register of the I/O APIC.
    pub fn read_io(&self, offset: u64) -> u32 {
        self.io.lock().apic.read(offset)
    }

    /// The same, unless somebody else has it at this moment.
    pub fn try_read_io(&self, offset: u64) -> Option<u32> {
        self.io.try_lock().map(|io| io.apic.read(offset))
    }

    /// Writes a register of the I/O APIC.
    pub fn write_io(&self, offset: u64, value: u32) {
        self.with_io(|io| io.write(offset, value, |message| self.deliver(message)));
    }

    // How it is done.

    /// By a vCPU's own CPU. What has changed is published.
    fn with<R>(&self, vcpu: VcpuId, change: impl FnOnce(&mut Own) -> R) -> Option<R> {
        let cpu = self.cpu(vcpu)?;
        let mut own = cpu.lock();
        cpu.touch();
        let result = change(&mut own);
        cpu.published.set(own.apic.identity());
        Some(result)
    }

    fn change(
        &self,
        vcpu: VcpuId,
        now: u64,
        change: impl FnOnce(&mut LocalApic) -> Result<Written, Refused>,
    ) -> Result<Written, Refused> {
        self.changed(self.cpu(vcpu).ok_or(Refused)?.change(now, change))
    }

    /// A local APIC has been changed.
    fn changed(&self, Changed { written, is_back }: Changed) -> Result<Written, Refused> {
        if is_back {
            self.with_io(|io| io.send_again(|message| self.deliver(message)));
        }
        written
    }

    fn carry_out(&self, vcpu: VcpuId, written: Written) -> Effect {
        match written {
            Written::Nothing | Written::Look | Written::NotServed => Effect::None,
            Written::Ended { vector } => {
                self.with_io(|io| io.end(vector, |message| self.deliver(message)));
                Effect::None
            }
            Written::Send(ipi) => self.send(vcpu, ipi),
        }
    }

    fn send(&self, from: VcpuId, Ipi { target, signal }: Ipi) -> Effect {
        let everybody = Destination { id: u32::MAX, logical: false, narrow: false };
        let all = |but| self.deliver_to(everybody, Delivery::All, signal, but);
        match target {
            Target::Own => self.post(from, signal),
            Target::All => all(None),
            Target::Others => all(Some(from)),
            Target::Named(destination, delivery) => self.deliver_to(destination, delivery, signal, None),
        };
        // Whether one of them is to be started from outside.
        let starts = matches!(signal, Signal::Startup { .. })
            && self.cpus.iter().any(|cpu| cpu.inbox.has_startup() && !cpu.lock().entered);
        if !starts {
            return Effect::None;
        }
        // Whoever has sent it asks for it before it goes on.
        if let Some(cpu) = self.cpu(from) {
            cpu.touch();
        }
        Effect::Startup
    }

    /// Whether any CPU has taken it.
    fn deliver(&self, message: Message) -> bool {
        self.deliver_to(message.destination, message.delivery, message.signal, None)
    }

    fn deliver_to(
        &self,
        destination: Destination,
        delivery: Delivery,
        signal: Signal,
        but: Option<VcpuId>,
    ) -> bool {
        if let Some(number) = destination.one() {
            // Each has its number as its id.
            let Some((vcpu, cpu)) =
                u16::try_from(number).ok().map(VcpuId).and_then(|it| Some((it, self.cpu(it)?)))
            else {
                return false;
            };
            // One that is on is named by its number.
            let takes = match signal {
                Signal::Vector { .. } => cpu.published.takes_vectors(),
                Signal::External => false,
                Signal::Nmi | Signal::Init | Signal::Startup { .. } => cpu.published.is_on(),
            };
            return Some(vcpu) != but && takes && self.hand(vcpu, cpu, signal);
        }
        let named = (0..).map(VcpuId).zip(&self.cpus).filter_map(|(vcpu, cpu)| {
            let identity = cpu.published.get();
            let is_named = Some(vcpu) != but && identity.is_named(vcpu.0.into(), destination);
            (is_named && takes(&identity, signal)).then_some((vcpu, identity.priority))
        });
        match delivery {
            Delivery::All => named.fold(false, |taken, (vcpu, _)| self.post(vcpu, signal) || taken),
            Delivery::Lowest => {
                let lowest = named.min_by_key(|(_, priority)| *priority);
                lowest.is_some_and(|(vcpu, _)| self.post(vcpu, signal))
            }
        }
    }

    /// Leaves a signal with a vCPU, and has its CPU look. Whether it takes it.
    fn post(&self, vcpu: VcpuId, signal: Signal) -> bool {
        let Some(cpu) = self.cpu(vcpu) else { return false };
        takes(&cpu.published.get(), signal) && self.hand(vcpu, cpu, signal)
    }

    /// The same, with one that takes such signals.
    fn hand(&self, vcpu: VcpuId, cpu: &Cpu, signal: Signal) -> bool {
        if self.config.taker == Taker::Host && matches!(signal, Signal::Vector { .. }) {
            if cpu.inbox.leave(signal) {
                self.backend.kick(vcpu);
            }
            return true;
        }
        if signal == Signal::Init {
            let mut own = cpu.lock();
            if !own.entered {
                // It waits already, with nobody to look.
                own.init();
                cpu.touch();
                cpu.inbox.clear();
                cpu.published.set(own.apic.identity());
                return true;
            }
        }
        if matches!(signal, Signal::Startup { .. }) {
            let own = cpu.lock();
            // One that runs doesn't wait for it, and an INIT that it hasn't taken in yet can't come behind its back.
            if own.entered && !own.waits && !cpu.inbox.has_init() {
                return true;
            }
        }
        if let (Taker::Guest, Signal::Vector { vector, level: false }) = (self.config.taker, signal) {
            // While it is in its place its CPU is this VM's: it doesn't leave while this is locked.
            let own = cpu.lock();
            let is_sent = own.entered && vector >= direct::FIRST_SENT;
            if is_sent {
                self.backend.send(vcpu, vector);
            }
            return is_sent;
        }
        let calls = cpu.inbox.leave(signal);
        if matches!(signal, Signal::Startup { .. }) {
            self.startups.store(true, Ordering::SeqCst);
        }
        if calls {
            self.backend.kick(vcpu);
        }
        true
    }

    /// Changes the I/O APIC, then says which real lines that opens and closes.
    fn with_io(&self, change: impl FnOnce(&mut IoApic)) {
        let mut io = self.io.lock();
        change(&mut io.apic);
        self.say_pins(&mut io);
    }

    fn say_pins(&self, io: &mut Io) {
        let open = io.apic.open_of(self.config.physical);
        let changed = open ^ io.open;
        io.open = open;
        for pin in (0..PINS as u8).filter(|pin| changed >> pin & 1 != 0) {
            let to = if open >> pin & 1 != 0 { Pin::Open } else { Pin::Closed };
            self.backend.set_pin(pin, to);
        }
    }
}

/// Whether a local APIC takes a signal at all. There is no 8259 that would say a vector.
fn takes(identity: &Identity, signal: Signal) -> bool {
    match signal {
        Signal::Vector { .. } => identity.takes_vectors(),
        Signal::External => false,
        Signal::Nmi | Signal::Init | Signal::Startup { .. } => true,
    }
}

fn pin(gsi: u32) -> Result<u8, NoSuchLine> {
    let pin = u8::try_from(gsi).ok().filter(|pin| usize::from(*pin) < PINS);
    pin.ok_or(NoSuchLine(gsi))
}
