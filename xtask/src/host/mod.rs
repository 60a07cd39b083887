//! The machine that xtask runs on: its packages, compilers and QEMU.

pub mod sources;
