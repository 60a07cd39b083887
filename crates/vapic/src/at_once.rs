//! What is done at once on a vCPU's own CPU, between two entries of its guest, where it is one interrupt and nothing else: what [`Apics::turn`] would come
//! to, without its looking for all the rest.

use core::sync::atomic::Ordering;

use axvm_addr::VcpuId;

use crate::apics::{Apics, Backend, Cpu, Own, Taker};
use crate::message::Alone;

/// What a vCPU's guest goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOnce {
    /// With this and nothing else.
    GoesOn {
        /// An interrupt, which is in service, and to be injected.
        inject: Option<u8>,
        /// [`Pending::deadline`](crate::Pending::deadline).
        deadline: Option<u64>,
    },
    /// There is more to it: [`Apics::turn`] is to be asked.
    More,
}

/// The timer's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerEnd {
    /// The interrupt, which is in service, and to be injected. Nothing else waits.
    pub vector: u8,
    /// When the timer ends next.
    pub deadline: Option<u64>,
}

impl Cpu {
    /// The next interrupt is taken, if it is the only one.
    #[inline(always)]
    fn take_only(&self, own: &mut Own) -> Option<u8> {
        let vector = own.apic.take_only()?;
        // Whatever was in service is of a lower class, as is the task's priority.
        self.published.set_priority(vector & 0xf0);
        Some(vector)
    }
}

impl<B: Backend> Apics<B> {
    /// There is news of a vCPU's local APIC ([`Apics::has_news`]), by what its guest has just done: what is it to go on with? `cr8`: what it was entered
    /// with ([`Turn::cr8`](crate::Turn::cr8)). `accepts`: it takes an interrupt now. A timer that has ended by now is left to the CPU's, which is set to
    /// its deadline.
    pub fn turn_at_once(&self, vcpu: VcpuId, cr8: u8, accepts: bool) -> AtOnce {
        let Some(cpu) = self.cpu(vcpu) else { return AtOnce::More };
        if self.config.taker != Taker::Host || self.startups.load(Ordering::SeqCst) {
            return AtOnce::More;
        }
        let mut own = cpu.lock();
        cpu.touched.store(false, Ordering::Relaxed);
        if cpu.inbox.look() {
            let arrived = cpu.inbox.take_vectors();
            own.apic.request_all(arrived.edges, arrived.levels);
        }
        let apic = &own.apic;
        // Signals are left where they are. Who has left one before the inbox was looked at is seen here, and who does from here on calls.
        let is_simple = !cpu.inbox.has_signals() && !own.waits && !own.nmi && apic.tpr() >> 4 == cr8;
        let deadline = apic.deadline();
        let inject = match (is_simple, apic.has_requests()) {
            (true, false) => return AtOnce::GoesOn { inject: None, deadline },
            (true, true) if accepts => cpu.take_only(&mut own),
            _ => None,
        };
        if inject.is_none() {
            cpu.touch();
            cpu.inbox.look_again();
            return AtOnce::More;
        }
        AtOnce::GoesOn { inject, deadline }
    }

    /// A vCPU's guest takes an interrupt now, and one comes for it, as a message of a device, and is injected. From then on that is in
    /// service. `false`: it isn't that vCPU's, or something else comes first; nothing has changed.
    #[inline(always)]
    pub fn take_message(&self, vcpu: VcpuId, message: Alone) -> bool {
        if message.id != vcpu.0.into() || self.config.taker != Taker::Host {
            return false;
        }
        let Some(cpu) = self.cpu(vcpu).filter(|cpu| !cpu.has_news()) else { return false };
        let mut own = cpu.lock();
        let takes = !own.waits && !own.nmi && own.apic.take_at_once(message.vector);
        if takes {
            cpu.published.set_priority(message.vector & 0xf0);
        }
        takes
    }

    /// A vCPU's guest takes an interrupt now, and the CPU's timer has ended, which was set to [`Pending::deadline`](crate::Pending::deadline).
    /// `None`: it hasn't ended by the guest's clock, or there is more to it: [`Apics::turn`] is to be asked.
    #[inline(always)]
    pub fn end_of_timer(&self, vcpu: VcpuId) -> Option<TimerEnd> {
        let cpu = self.cpu(vcpu).filter(|cpu| !cpu.has_news())?;
        if self.config.taker != Taker::Host {
            return None;
        }
        let mut own = cpu.lock();
        let is_alone = !own.waits && !own.nmi && !own.apic.has_requests();
        let now = self.backend.tsc();
        if !is_alone || own.apic.deadline().is_none_or(|deadline| deadline > now) {
            return None;
        }
        let Some(vector) = own.apic.expire_at_once(now) else {
            cpu.touch();
            return None;
        };
        cpu.published.set_priority(vector & 0xf0);
        Some(TimerEnd { vector, deadline: own.apic.deadline() })
    }
}
