//! What was typed for guests and isn't taken yet.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::VmId;

/// Bytes that wait for a guest at the most.
const MOST: usize = 64 << 10;

/// For how many seconds a guest may take nothing while so many wait.
const PATIENCE_S: u64 = 2;

/// For whom is typed.
pub trait Guests {
    /// Offers a guest something that was typed for it: how many bytes it has taken. None: it has no console that takes any.
    fn offer(&self, vm: VmId, typed: &[u8]) -> Option<usize>;

    /// The name of a VM.
    fn name(&self, vm: VmId) -> &str;

    /// Nanoseconds since some moment.
    fn now_ns(&self) -> u64;

    /// Says something that is not as it should be.
    fn warn(&self, what: fmt::Arguments<'_>);
}

/// What is done with what comes in for the guest in focus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is kept.
    Keeping,
    /// The keys are left unread until that nanosecond.
    Unread(u64),
    /// It is lost.
    Losing,
}

/// What waits for the guests.
#[derive(Debug)]
pub struct Waiting {
    focus: VmId,
    /// By VM: what it hasn't taken yet.
    queues: Vec<VecDeque<u8>>,
    state: State,
    lost: u64,
}

impl Waiting {
    /// Nothing, for so many VMs.
    pub fn new(vms: usize, focus: VmId) -> Self {
        Self { focus, queues: (0..vms).map(|_| VecDeque::new()).collect(), state: State::Keeping, lost: 0 }
    }

    /// For whom is typed now.
    pub fn focus(&self) -> VmId {
        self.focus
    }

    /// From here on it is typed for that one.
    pub fn set_focus(&mut self, focus: VmId, guests: &impl Guests) {
        self.say_lost(guests);
        self.focus = focus;
    }

    /// In how many nanoseconds whether the keys are read has to be asked again, though nothing may call. None: they are read.
    pub fn unread_for(&self, guests: &impl Guests) -> Option<u64> {
        match self.state {
            State::Unread(end) => Some(end.saturating_sub(guests.now_ns())),
            State::Keeping | State::Losing => None,
        }
    }

    /// Whether the keys are to be read.
    pub fn reads(&mut self, guests: &impl Guests) -> bool {
        let full = self.queue().is_some_and(|queue| queue.len() >= MOST);
        match self.state {
            State::Keeping if full => {
                self.state = State::Unread(patience(guests));
                false
            }
            State::Unread(end) if full && guests.now_ns() < end => false,
            State::Unread(_) => {
                if full {
                    let name = guests.name(self.focus);
                    guests.warn(format_args!(
                        "{name}: it has taken nothing for {PATIENCE_S} s: what is typed for it is lost until it does"
                    ));
                }
                self.state = if full { State::Losing } else { State::Keeping };
                true
            }
            State::Keeping | State::Losing => true,
        }
    }

    /// Something was typed for the guest in focus.
    pub fn keep(&mut self, byte: u8) {
        if self.state == State::Losing {
            self.lost = self.lost.saturating_add(1);
        } else if let Some(queue) = self.queue() {
            queue.push_back(byte);
        }
    }

    fn queue(&mut self) -> Option<&mut VecDeque<u8>> {
        self.queues.get_mut(usize::from(self.focus.0))
    }

    /// Offers each guest what waits for it: the one that had the focus before gets what was typed then.
    pub fn offer(&mut self, guests: &impl Guests) {
        for id in (0..).map(VmId).take(self.queues.len()) {
            self.offer_to(id, guests);
        }
    }

    fn offer_to(&mut self, id: VmId, guests: &impl Guests) {
        let Some(queue) = self.queues.get_mut(usize::from(id.0)) else { return };
        let mut taken = false;
        while !queue.is_empty() {
            let part = queue.as_slices().0;
            let offered = part.len();
            let Some(took) = guests.offer(id, part) else {
                // It has stopped, or has a console of its own.
                queue.clear();
                return;
            };
            queue.drain(..took.min(offered));
            taken |= took > 0;
            if took < offered {
                // It calls when it has room.
                break;
            }
        }
        if taken && id == self.focus {
            self.say_lost(guests);
            if let State::Unread(end) = &mut self.state {
                *end = patience(guests);
            }
        }
    }

    /// Says what was lost, and loses no more.
    pub fn say_lost(&mut self, guests: &impl Guests) {
        if self.state == State::Losing {
            self.state = State::Keeping;
            let name = guests.name(self.focus);
            guests.warn(format_args!("{name}: {} bytes that were typed for it are lost", self.lost));
            self.lost = 0;
        }
    }
}

/// When patience with a guest that takes something now is over.
fn patience(guests: &impl Guests) -> u64 {
    guests.now_ns().saturating_add(PATIENCE_S * 1_000_000_000)
}

#[cfg(test)]
mod tests;
