//! What is refused, and how it is said: one line a fault.

mod devices;
mod functions;
mod general;
mod limits;
mod memory;
mod regions;
mod sharing;

use axvm_addr::{DmaSource, Irq, SourceId};
use axvm_guest::image::ImageError;
use axvm_pci::{Lack, Reach};
use axvm_platform::model::{Kept, Provider};

use super::*;

fn given(device: Device) -> System {
    system(vec![vm("linux", &[1], vec![device])])
}

/// Items of the first VM and its first device.
fn of_vm(key: &str) -> Item {
    Item::Vm(0, key.into())
}

fn of_device(key: &str) -> Item {
    Item::Device(0, 0, key.into())
}
