//! The driver against the fake.

extern crate std;

mod devices;
mod faults;
mod interrupts;
mod properties;
mod queue;
mod set_up;

use std::vec::Vec;

use axvm_addr::{Hpa, Iova, Span};
use proptest::prelude::*;

use crate::fake::{CAPABILITY, Delivery, EXTENDED, Fake, Outcome, Tables};
use crate::spec::commands::{self, Command};
use crate::spec::registers::offset;
use crate::*;

const PAGE: u64 = 0x1000;
/// 00:02.0 and the function behind it.
const DEVICE: DeviceId = DeviceId(0x10);
const OTHER: DeviceId = DeviceId(0x11);

fn unit(fake: &Fake) -> Unit<&Fake, &Fake> {
    Unit::new(fake, fake, Options { x2apic: true, ..Options::default() }).unwrap()
}

/// Tables that map one page, read and written, to `target`.
fn tables(fake: &Fake, at: u64, target: u64) -> Tables<'_> {
    let tables = Tables::new(fake);
    tables.map(at, target, true, true);
    tables
}

fn kinds(log: &[Command]) -> Vec<u8> {
    log.iter().map(commands::kind).collect()
}

fn fixed(vector: u8, cpu: u32) -> Interrupt {
    Interrupt { vector, destination: Destination::Physical(cpu), kind: InterruptKind::Fixed, level: false }
}

fn drain(unit: &mut Unit<&Fake, &Fake>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let drained = unit.drain_faults(usize::MAX, |fault| faults.push(fault));
    assert_eq!((drained.faults, drained.more), (faults.len(), false));
    faults
}
