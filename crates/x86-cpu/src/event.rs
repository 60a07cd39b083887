//! What a guest is to be interrupted with: exceptions, and what an exit has kept from it (AMD64 APM 2, 8.2, 15.7.2 and 15.20).

use crate::vmcb::{Control, Event, EventKind, Save};
use crate::walk;
use axvm_x86_access::Code;

/// An exception that the guest has earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// #DB. DR6 says why.
    Debug,
    /// #UD.
    Undefined,
    /// #NM.
    NoCoprocessor,
    /// #DF.
    DoubleFault,
    /// #SS with its error code.
    Stack(u32),
    /// #GP with its error code.
    Protection(u32),
    /// #PF.
    Page(PageFault),
    /// #AC.
    Alignment,
    /// #MC.
    MachineCheck,
}

/// A page fault of the guest's first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The linear address, for CR2.
    pub address: u64,
    /// The error code.
    pub error: u32,
}

impl Exception {
    /// #GP(0).
    pub const GP: Self = Self::Protection(0);

    /// The event.
    pub const fn event(self) -> Event {
        let (vector, error) = match self {
            Self::Debug => (1, None),
            Self::Undefined => (6, None),
            Self::NoCoprocessor => (7, None),
            Self::DoubleFault => (8, Some(0)),
            Self::Stack(error) => (12, Some(error)),
            Self::Protection(error) => (13, Some(error)),
            Self::Page(fault) => (14, Some(fault.error)),
            Self::Alignment => (17, Some(0)),
            Self::MachineCheck => (18, None),
        };
        Event { vector, kind: EventKind::Exception, error }
    }
}

/// What becomes of an exception that comes up while something else was being delivered, or waits to be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// The next VMRUN delivers it. What it has pushed aside comes again later: an interrupt or an NMI is to be pended once more, anything else
    /// happens again by itself.
    Delivered {
        /// The interrupt or NMI.
        aside: Option<Event>,
    },
    /// Both together are a double fault, which the next VMRUN delivers.
    DoubleFault,
    /// It is a triple fault: the vCPU is at its end.
    Shutdown,
}

/// How exceptions combine (8.2.9, table 8-3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    Page,
    Double,
}

fn class(event: Event) -> Class {
    match (event.kind, event.vector) {
        (EventKind::Exception, 0 | 10..=13 | 21) => Class::Contributory,
        (EventKind::Exception, 14) => Class::Page,
        (EventKind::Exception, 8) => Class::Double,
        _ => Class::Benign,
    }
}

/// Raises an exception in the guest: the next VMRUN delivers it, or what it becomes together with what was being delivered. Meant for after an
/// exit, once; what [`again`] says is taken into account, and not to be injected by the caller.
pub fn raise(control: &mut Control, save: &mut Save, exception: Exception) -> Raised {
    let new = exception.event();
    let old = control.injected().or_else(|| again(control));
    // What was interrupted is dealt with here.
    control.exit_interrupt = 0;
    if let Some(old) = old {
        let double = match class(old) {
            Class::Double => {
                if class(new) != Class::Benign {
                    control.injection = 0;
                    return Raised::Shutdown;
                }
                false
            }
            Class::Page => matches!(class(new), Class::Page | Class::Contributory),
            Class::Contributory => class(new) == Class::Contributory,
            Class::Benign => false,
        };
        if double {
            control.inject(Exception::DoubleFault.event());
            return Raised::DoubleFault;
        }
    }
    if let Exception::Page(fault) = exception {
        save.cr2 = fault.address;
    }
    control.inject(new);
    let aside = old.filter(|old| matches!(old.kind, EventKind::Interrupt | EventKind::Nmi));
    Raised::Delivered { aside }
}

/// What is to be injected again after an exit: the event whose delivery it has interrupted.
///
/// An instruction's own event (INT n, INT3, INTO) isn't, as the instruction runs again. QEMU says of an interrupt or NMI that it has
/// delivered without an injection that it is an exception (type 3), which VMRUN would refuse: it is what its vector says. A virtual interrupt
/// (V_IRQ) that is still pending comes again by itself.
pub fn again(control: &Control) -> Option<Event> {
    let event = control.interrupted()?;
    let event = match (event.kind, event.vector) {
        (EventKind::Software, _) | (EventKind::Exception, 3 | 4) => return None,
        (EventKind::Exception, 2) => Event::nmi(),
        (EventKind::Exception, vector @ 32..) => Event::interrupt(vector),
        _ => event,
    };
    let pending = control.virtual_interrupt.is_pending()
        && control.interrupt_vector & 0xff == u32::from(event.vector)
        && event.kind == EventKind::Interrupt;
    (!pending).then_some(event)
}

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_RF: u64 = 1 << 16;
const DR6_BS: u64 = 1 << 14;

/// An instruction is done, which the processor didn't do itself: the guest goes on at `next`. Ends an interrupt shadow, and raises the #DB of
/// a guest that takes one step at a time (13.1.4).
pub fn advance(control: &mut Control, save: &mut Save, next: u64) -> Option<Raised> {
    save.rip = if walk::code(save) == Code::Bits64 { next } else { next & 0xffff_ffff };
    save.rflags &= !RFLAGS_RF;
    control.end_shadow();
    (save.rflags & RFLAGS_TF != 0).then(|| {
        save.dr6 |= DR6_BS;
        raise(control, save, Exception::Debug)
    })
}

#[cfg(test)]
mod tests;
