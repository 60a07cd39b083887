//! What is decided about the registers of an AArch64 CPU, as values: nothing here reads or writes one.
//!
//! | module | what it says |
//! |---|---|
//! | [`features`] | what a CPU has, by its identification registers |
//! | [`control`] | every bit of the registers that bound a guest, with its reason, the feature that it needs, and what holds without it |
//! | [`debug`] | which of its debug registers a guest gets, and which of their bits |
//! | [`speculation`] | what it must do against speculation that a guest steers, by its identity and the firmware's answers |
//!
//! Whoever runs on the CPU asks and carries out. So the rules run on any host, and their tests need no CPU of the kind.
//!
//! ```
//! use axvm_cpu::control::{Interrupts, Register, value};
//! use axvm_cpu::features::Features;
//!
//! // Without FEAT_FGT the debug channel has no trap of its own: the one of all debug registers holds (MDCR_EL2.TDA).
//! let plain = Features::default();
//! assert_eq!(value(Register::Mdcr, Interrupts::Emulated, plain) >> 27 & 1, 0);
//! assert_eq!(value(Register::Mdcr, Interrupts::Emulated, plain) >> 9 & 1, 1);
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod control;
pub mod debug;
pub mod features;
pub mod speculation;

/// A system register's place: op0, op1, CRn, CRm, op2.
pub type Encoding = (u8, u8, u8, u8, u8);
