#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it says |
//! |---|---|
//! | [`features`] | what a CPU has, by its identification registers |
//! | [`control`] | every bit of the registers that bound a guest, with its reason, the feature that it needs, and what holds without it |
//! | [`debug`] | which of its debug registers a guest gets, and which of their bits |
//! | [`firmware`] | whether the firmware below is reached, and what it says of its workarounds |
//! | [`speculation`] | what it must do against speculation that a guest steers, by its identity and the firmware's answers |
//! | [`walks`] | in which order the two stages of EL1 are exchanged, so that nothing is translated by a mix of them |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod control;
pub mod debug;
pub mod features;
pub mod firmware;
pub mod speculation;
pub mod walks;

/// A system register's place: op0, op1, CRn, CRm, op2.
pub type Encoding = (u8, u8, u8, u8, u8);
