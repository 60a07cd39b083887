#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | [`features`] | what the processor offers |
//! | [`vmcb`] | the control block, as data |
//! | [`control`] | every intercept and control bit with its reason |
//! | [`permissions`] | ports and MSRs without an exit |
//! | [`start`] | the state in which a vCPU begins |
//! | [`exit`] | why a run has ended |
//! | [`event`] | what interrupts the guest |
//! | [`walk`] | from an operand to guest-physical memory |
//! | [`fetch`] | the instruction that has exited |
//! | [`known`] | what was found out about it before, as long as that holds |
//! | [`cpuid`], [`msr`] | what the guest sees |
//! | [`speculation`] | what is done against speculation that a guest steers |
//! | [`cr`], [`dr`] | control registers and debug registers that exit |
//! | [`clock`] | how fast the time-stamp counter is |
#![no_std]
#![forbid(unsafe_code)]

pub mod clock;
pub mod control;
pub mod cpuid;
pub mod cr;
pub mod dr;
pub mod event;
pub mod exit;
pub mod features;
pub mod fetch;
pub mod known;
pub mod msr;
pub mod permissions;
pub mod speculation;
pub mod start;
pub mod vmcb;
pub mod walk;
