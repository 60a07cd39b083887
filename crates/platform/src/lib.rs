//! What hardware there is: [`Platform`](model::Platform) and its readers.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod model;
