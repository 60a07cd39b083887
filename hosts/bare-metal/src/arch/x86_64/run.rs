//! Into a guest, and what is done when it was left: a vCPU as the core's loop runs it.

use alloc::boxed::Box;
use axvm::devices::Hint;

use axvm::stats::{ExitCounters, ExitReason};
use axvm::vcpu::{Answer, Exit, Slept, Vcpu};
use axvm::vm::Start;
use axvm_addr::{Gpa, VcpuId};
use axvm_vapic::{Activity, AtOnce, News, Pending as Waiting, TimerEnd, Turn};
use axvm_x86_cpu::control::AWAIT_WINDOW;
use axvm_x86_cpu::cr::Allowed;
use axvm_x86_cpu::exit::Exit as Left;
use axvm_x86_cpu::known::Known;
use axvm_x86_cpu::start;
use axvm_x86_cpu::vmcb::Event;

use super::cpu::{self, ticks};
use super::enter::{Entered, enter};
use super::exit::{handle, next_of};
use super::fast::{self, PortsSeen};
use super::irqchip::GuestIrqchip;
use super::irqchip::deliver::{take_interrupts, take_message};
use super::local_apic::{LocalApic, TIMER};
use super::pending::Pending;
use super::percpu::PerCpu;
use super::registers::{IDENTIFIED, Identified};
use super::sight::Sights;
use super::vcpu::Context;
use crate::vm::Vm;

/// How a vCPU begins that another one has started by INIT and STARTUP: in real mode, at the page that `Start::entry` is. The plan's
/// arguments are addresses, so that none is this.
pub const BY_STARTUP: u64 = u64::MAX;

/// A vCPU in its run loop.
pub struct Running<'a> {
    /// Its state.
    pub context: Context,
    /// Its VM.
    pub vm: &'a Vm,
    /// Which it is.
    pub vcpu: VcpuId,
    /// What the core is to answer.
    pub(super) pending: Pending,
    /// What its control registers may have.
    pub(super) allowed: Allowed,
    /// Its instructions and pages that were found before.
    pub(super) known: Box<Known<u64>>,
    /// Ports that it has accessed before.
    pub(super) ports: PortsSeen,
    /// Its VM's RAM, by which they were found.
    pub(super) sights: Sights<'a>,
    /// What CPUID has told it.
    pub(super) identified: [Option<Identified>; IDENTIFIED],
    /// Its VM's interrupt controller.
    pub(super) irqchip: &'a GuestIrqchip,
    /// Of its virtual APIC.
    news: News<'a>,
    /// Where its local APIC has its page; where no register is, if that isn't its own.
    pub(super) local: Gpa,
    /// Its counters.
    exits: Option<&'a ExitCounters>,
    /// When the CPU's timer is to interrupt, as it is set.
    timer: Option<u64>,
    /// Whether the last look at what waits for it found something.
    watch: Watch,
    /// CR8, as its virtual APIC has it.
    cr8: u8,
}

/// What is known of that which waits for a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// Nothing waited when it was looked at last, and nothing is injected: while there is no news of its APIC ([`Apics::has_news`]) there is
    /// nothing to be done before its guest is entered. When its timer ends, the CPU's interrupts it.
    ///
    /// [`Apics::has_news`]: axvm_vapic::Apics::has_news
    Quiet,
    /// It is to be looked.
    Look,
}

/// What a guest goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Injected {
    /// Nothing new.
    None,
    /// An interrupt.
    One,
}

impl<'a> Running<'a> {
    /// A vCPU that is about to be entered.
    pub fn new(vm: &'a Vm, vcpu: VcpuId, context: Context, allowed: Allowed) -> Self {
        Self {
            context,
            vm,
            vcpu,
            pending: Pending::None,
            allowed,
            known: Box::default(),
            ports: PortsSeen::default(),
            identified: [None; IDENTIFIED],
            sights: Sights::new(&vm.ends().ram),
            irqchip: vm.irqchip(),
            news: vm.irqchip().apics().news(vcpu),
            local: vm.irqchip().local_page().unwrap_or(Gpa(!0xfff)),
            exits: vm.exits(vcpu),
            timer: None,
            watch: Watch::Look,
            cr8: 0,
        }
    }

    /// Counts an exit that never gets to the core.
    #[inline(always)]
    pub fn count(&self, reason: ExitReason) {
        if let Some(exits) = self.exits {
            exits.count(reason);
        }
    }

    /// Its time-stamp counter.
    pub fn guest_ticks(&self) -> u64 {
        ticks().wrapping_sub(self.irqchip.zero())
    }

    /// vCPUs that aren't running and were sent STARTUP begin.
    #[inline(always)]
    fn start_others(&self) {
        while let Some(startup) = self.irqchip.apics().next_startup() {
            let start = Start { entry: u64::from(startup.page) << 12, argument: BY_STARTUP };
            // One that is on, or goes off at this moment, has had its STARTUP as a CPU that doesn't wait for one.
            let _ = self.vm.start_vcpu(startup.vcpu, start);
        }
    }

    /// Sleeps until there is something for it, which is taken in.
    fn wait(&mut self) {
        if self.irqchip.takes_interrupts() {
            // What interrupts the CPU is the guest's.
            cpu::wait_for_call();
            PerCpu::own().take_call();
        } else {
            cpu::wait_for_interrupt();
            take_interrupts(Some((self.vm, self.vcpu)));
        }
    }

    /// The CPU has been called, or interrupted.
    fn look_around(&mut self) {
        self.watch = Watch::Look;
        if self.irqchip.takes_interrupts() {
            PerCpu::own().take_call();
        } else {
            take_interrupts(Some((self.vm, self.vcpu)));
        }
    }

    /// The CPU was interrupted between two entries of a quiet vCPU's guest, which hears of it by the hypervisor only. The two that come most are dealt
    /// with here. Calls are shut out there: those that come while interrupts are let in end the loop.
    #[inline(never)]
    pub(super) fn interrupted(&mut self) -> Entered {
        if self.irqchip.takes_interrupts() || self.vm.must_leave() {
            return Entered::Left;
        }
        self.count(ExitReason::Interrupt);
        let own = PerCpu::own();
        cpu::let_calls_in();
        cpu::open_window();
        let is_dealt_with = match own.highest_taken() {
            Some(TIMER) => {
                own.deal_with(TIMER);
                self.timer = None;
                self.end_timer();
                true
            }
            Some(vector) if self.context.takes_interrupts() => {
                let taken = take_message(self.vm, self.vcpu, vector);
                if let Some(vector) = taken {
                    self.context.vmcb.control.inject(Event::interrupt(vector));
                }
                taken.is_some()
            }
            _ => false,
        };
        if !is_dealt_with || own.has_taken() {
            self.look_around();
        }
        cpu::shut_calls_out();
        if own.is_called() { Entered::Answered } else { self.goes_on() }
    }

    /// The CPU's timer has ended: as a rule the guest's has.
    #[inline(always)]
    fn end_timer(&mut self) {
        let ended =
            if self.context.takes_interrupts() { self.irqchip.apics().end_of_timer(self.vcpu) } else { None };
        match ended {
            Some(TimerEnd { vector, deadline }) => {
                self.context.vmcb.control.inject(Event::interrupt(vector));
                if deadline.is_some() {
                    self.set_timer(deadline);
                }
            }
            None => self.watch = Watch::Look,
        }
    }

    /// Has the CPU's timer interrupt when the guest's is to.
    fn set_timer(&mut self, deadline: Option<u64>) {
        if self.irqchip.takes_interrupts() {
            return;
        }
        if PerCpu::own().take_timer_over() {
            // It may have come a little early.
            self.timer = None;
        }
        if self.timer == deadline {
            return;
        }
        self.timer = deadline;
        match deadline {
            Some(deadline) => LocalApic::own().set_timer(deadline.saturating_add(self.irqchip.zero())),
            None => LocalApic::own().stop_timer(),
        }
    }

    /// What has come for it meanwhile: INIT and STARTUP take effect here.
    #[inline(always)]
    fn take_in(&mut self, waiting: &Waiting) {
        if waiting.reset {
            self.context.begin(&start::Start::Reset);
            self.irqchip.reset_own();
        }
        if let Activity::Startup { page } = waiting.activity {
            self.context.begin(&start::Start::Sipi { vector: page });
        }
        self.context.see_ends(waiting.ends);
    }

    /// What is to be done before the guest is entered, where something may have come for it: what comes next is injected, or it is seen to it
    /// that the guest is left when it can take it. Whether it is entered.
    #[inline(never)]
    fn prepare(&mut self) -> bool {
        self.start_others();
        let apics = self.irqchip.apics();
        let is_direct = self.irqchip.takes_interrupts();
        let waits_aside = self.context.inject_aside();
        let accepts = !is_direct && !waits_aside && self.context.takes_interrupts();
        let Turn { taken, waiting, cr8 } = apics.turn(self.vcpu, accepts);
        self.take_in(&waiting);
        if waiting.activity == Activity::WaitsForStartup {
            return false;
        }
        if let Some(vector) = taken {
            self.context.vmcb.control.inject(Event::interrupt(vector));
        }
        if waiting.nmi && self.context.takes_nmis() && apics.take_nmi(self.vcpu) {
            self.context.inject_nmi();
        }
        // What was pushed aside waits for the next moment at which the guest takes interrupts, as an injected one does.
        let wants_window = self.context.has_aside() || !is_direct && waiting.vector.is_some();
        let control = &mut self.context.vmcb.control;
        let mut virtual_interrupt = if wants_window {
            control.intercepts.general |= AWAIT_WINDOW;
            control.virtual_interrupt.open_window()
        } else {
            control.intercepts.general &= !AWAIT_WINDOW;
            control.virtual_interrupt.withdraw()
        };
        if !is_direct {
            self.cr8 = cr8;
            virtual_interrupt = virtual_interrupt.with_tpr(cr8);
        }
        control.virtual_interrupt = virtual_interrupt;
        self.irqchip.open_taken(self.vcpu);
        self.set_timer(waiting.deadline);
        let waits = waiting.nmi || waiting.vector.is_some() || waiting.cr8_below.is_some();
        let is_odd = waits || waiting.reset || self.context.is_at_a_turn() || self.irqchip.keeps_any_closed();
        self.watch = if is_odd { Watch::Look } else { Watch::Quiet };
        true
    }

    /// Whether there is nothing to be done before the guest is entered.
    #[inline(always)]
    fn is_quiet(&self) -> bool {
        self.watch == Watch::Quiet
            && !self.context.is_at_a_turn()
            && !self.irqchip.keeps_any_closed()
            && !self.news.is_there()
    }

    /// Of an exit: whether there was nothing to be done before the guest was entered, nor is by what it has done since.
    #[inline(always)]
    pub(super) fn is_settled(&self) -> bool {
        let cr8 = self.context.vmcb.control.virtual_interrupt.tpr();
        self.watch == Watch::Quiet && (cr8 == self.cr8 || self.irqchip.takes_interrupts())
    }

    /// Of an exit that has been answered: whether something came of it that is to be looked at before its guest goes on. What others have for it has
    /// its CPU called, which ends the next run at once: this is for what it does to itself.
    #[inline(always)]
    pub(super) fn goes_on(&mut self) -> Entered {
        let is_as_before =
            self.watch == Watch::Quiet && self.context.stays_as_it_is() && !self.vm.must_leave();
        if !is_as_before {
            Entered::Answered
        } else if self.news.is_there() {
            self.turn_at_once()
        } else {
            Entered::GoesOn
        }
    }

    /// It has interrupted itself, or ended an interrupt behind which another one waits: as a rule that is all.
    #[inline(never)]
    fn turn_at_once(&mut self) -> Entered {
        match self.take_only() {
            Some(_) => Entered::GoesOn,
            None => Entered::Answered,
        }
    }

    /// There is news of the virtual APIC of a vCPU that is quiet. What comes of it, if that is one interrupt at the most, which is injected; `None`: there is
    /// more to it.
    #[inline(always)]
    fn take_only(&mut self) -> Option<Injected> {
        if self.irqchip.takes_interrupts() || self.irqchip.keeps_any_closed() {
            return None;
        }
        let accepts = self.context.takes_interrupts();
        match self.irqchip.apics().turn_at_once(self.vcpu, self.cr8, accepts) {
            AtOnce::GoesOn { inject, deadline } => {
                self.set_timer(deadline);
                let Some(vector) = inject else { return Some(Injected::None) };
                self.context.vmcb.control.inject(Event::interrupt(vector));
                Some(Injected::One)
            }
            AtOnce::More => None,
        }
    }

    /// The guest may have changed the priority of its task, of which its virtual APIC hears here.
    fn note_priority(&mut self) {
        let cr8 = self.context.vmcb.control.virtual_interrupt.tpr();
        if cr8 != self.cr8 && !self.irqchip.takes_interrupts() {
            self.cr8 = cr8;
            self.irqchip.apics().set_cr8(self.vcpu, cr8);
        }
    }
}

impl Vcpu for Running<'_> {
    fn run(&mut self) -> Exit {
        if let Some(next) = next_of(&self.pending) {
            return next;
        }
        loop {
            if !self.is_quiet() && !self.prepare() {
                return Exit::Halt { deadline: None };
            }
            match enter(self) {
                Entered::Called => {
                    self.look_around();
                    return Exit::Interrupted;
                }
                Entered::GoesOn | Entered::Answered => {}
                Entered::Left => {
                    self.note_priority();
                    let answered = fast::answer(self);
                    // It may have counted itself among those who are in the guest, as between two entries.
                    self.context.come_out();
                    if answered == Entered::Left {
                        break;
                    }
                }
            }
            // What was answered may have been the reason.
            if self.vm.must_leave() {
                return Exit::Interrupted;
            }
        }
        let left = Left::decode(&self.context.vmcb.control, &self.context.features);
        match left {
            Left::Interrupt | Left::Nmi | Left::Smi | Left::Init | Left::Window => {
                self.count(ExitReason::Interrupt);
                self.look_around();
                Exit::Interrupted
            }
            left => {
                // Its tables may have been revoked or shut: what it was left for is no fault of its own, and happens again.
                let moot = self.vm.must_leave()
                    && (self.vm.is_stopping()
                        || matches!(left, Left::NestedFault(_)) && self.vm.is_moot(self.vcpu));
                if moot { Exit::Interrupted } else { handle(self, left) }
            }
        }
    }

    fn complete(&mut self, answer: Answer) {
        super::pending::complete(self, answer);
    }

    fn sleep(&mut self, _: Option<u64>) -> Slept {
        let was_quiet = self.watch == Watch::Quiet && !self.context.is_at_a_turn();
        // As a rule it is woken by one interrupt.
        if was_quiet && self.news.is_there() && self.take_only() == Some(Injected::One) {
            return Slept::Awake;
        }
        self.watch = Watch::Look;
        self.start_others();
        let accepts = self.context.takes_interrupts();
        let waiting = self.irqchip.apics().poll(self.vcpu);
        self.take_in(&waiting);
        if matches!(waiting.activity, Activity::Startup { .. }) || waiting.wakes(accepts) {
            return Slept::Awake;
        }
        self.set_timer(waiting.deadline);
        if was_quiet && waiting.is_nothing_but_a_deadline() {
            self.watch = Watch::Quiet;
        }
        self.wait();
        Slept::Asleep
    }

    fn hold(&mut self) -> Slept {
        self.watch = Watch::Look;
        self.wait();
        Slept::Asleep
    }

    fn let_go(&mut self) {}

    fn hint(&mut self) -> &mut Hint {
        &mut self.context.hint
    }

    fn pc(&self) -> u64 {
        self.context.vmcb.save.rip
    }
}

/// Sleeps while a vCPU is off. What comes for it waits in its virtual APIC.
pub fn wait_while_off(vm: &Vm, vcpu: VcpuId) {
    cpu::wait_for_interrupt();
    take_interrupts(Some((vm, vcpu)));
}
