//! The planner on QEMU's `virt` board, as its device tree describes it.

mod accepted;
mod base;
mod by_time;
mod console;
mod files;
mod judged;
mod linux;
mod mode;
mod own_machine;
mod own_tree;
mod refused;
mod watchdog;
mod x86_64;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::*;
use axvm_guest::image::*;
use axvm_pci::*;
use axvm_platform::model::*;
use axvm_system::model::*;

use crate::fixtures::*;
use crate::*;
