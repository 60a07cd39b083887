//! The places of registers that trap, as instructions name them (Op0, Op1, CRn, CRm, Op2), and fields that several have.

use axvm_cpu::Encoding;

/// ACTLR_EL1.
pub const ACTLR: Encoding = (3, 0, 1, 0, 1);
/// ICC_PMR_EL1.
pub const ICC_PMR: Encoding = (3, 0, 4, 6, 0);
/// ICC_DIR_EL1.
pub const ICC_DIR: Encoding = (3, 0, 12, 11, 1);
/// ICC_RPR_EL1.
pub const ICC_RPR: Encoding = (3, 0, 12, 11, 3);
/// ICC_SGI1R_EL1.
pub const ICC_SGI1R: Encoding = (3, 0, 12, 11, 5);
/// ICC_ASGI1R_EL1.
pub const ICC_ASGI1R: Encoding = (3, 0, 12, 11, 6);
/// ICC_SGI0R_EL1.
pub const ICC_SGI0R: Encoding = (3, 0, 12, 11, 7);
/// ICC_CTLR_EL1.
pub const ICC_CTLR: Encoding = (3, 0, 12, 12, 4);

/// The INTID in the registers of the interrupt controller's CPU interface that have one (IHI 0069, 12.2).
pub const INTID: u32 = 0xff_ffff;
