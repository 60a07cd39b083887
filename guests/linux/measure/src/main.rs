//! A program for a Linux guest whose work is counted from outside, by `xtask/plugin/count.c`: it works a device a
//! number of times, round after round, and marks the moments between the rounds. It needs no C library, so that it is
//! built as the bare-metal guests are.
//!
//! ```text
//! measure                           as process 1: marks that user space is reached, then runs /measure.sh
//! measure reads DISK COUNT ROUNDS   reads of 4 KiB past the page cache, one after the other
//! measure pings ADDRESS COUNT ROUNDS    echo requests, each answered before the next
//! ```
#![no_std]
#![no_main]

mod arch;
mod arguments;
mod linux;
mod mark;
mod ping;
mod start;
mod work;
