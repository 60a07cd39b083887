//! What a vCPU waits to be answered, and what the answer does to it.

use axvm::vcpu::Answer;
use axvm_syndrome::{DataAbort, SystemAccess};

use super::emulate::Pieces;
use super::fast::Running;
use super::guest_psci;

/// What the last exit has to be answered for.
pub enum Pending {
    /// Nothing.
    None,
    /// A load or store that the syndrome describes.
    Access {
        /// The syndrome.
        abort: DataAbort,
        /// The virtual address (FAR_EL2).
        far: u64,
    },
    /// One that only the instruction describes, in pieces.
    Pieces(Pieces),
    /// A system register.
    System(SystemAccess),
    /// A call.
    Call,
}

/// Answers the last exit.
pub fn complete(running: &mut Running<'_>, answer: Answer) {
    let context = &mut running.context;
    if let (Pending::Pieces(pieces), Answer::Value(value)) = (&mut running.pending, answer)
        && !pieces.take(value)
    {
        return;
    }
    match (core::mem::replace(&mut running.pending, Pending::None), answer) {
        (Pending::Access { abort, .. }, Answer::Value(value)) => {
            if !abort.is_write() {
                context.set_x(abort.register(), abort.loaded(value));
            }
            context.skip();
        }
        (Pending::Access { abort, far }, _) => context.inject_abort(far, abort.is_write()),
        (Pending::Pieces(pieces), Answer::Value(_)) => pieces.finish(context),
        (Pending::Pieces(pieces), _) => context.inject_abort(pieces.far(), pieces.is_write()),
        (Pending::System(access), Answer::Value(value)) => {
            if access.is_read() {
                context.set_x(access.register(), value);
            }
            context.skip();
        }
        (Pending::System(_), _) => context.inject_undefined(),
        (Pending::Call, answer) => guest_psci::answer(context, answer),
        (Pending::None, _) => {}
    }
}
