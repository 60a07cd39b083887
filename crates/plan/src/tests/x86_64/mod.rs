//! The planner on QEMU's q35 with AMD's IOMMU.

mod accepted;
mod refused;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::*;
use axvm_guest::image::*;
use axvm_pci::*;
use axvm_platform::model::*;
use axvm_system::model::*;

use crate::fixtures::x86_64::*;
use crate::fixtures::{endpoint, node, pci, region};
use crate::*;

fn span(start: u64, size: u64) -> Span<Gpa> {
    Span::new(Gpa(start), size).unwrap()
}

/// The demo's file, of one VM that has these.
fn given(devices: Vec<Device>) -> System {
    let mut system = demo();
    system.vms[0].devices = devices;
    system
}
