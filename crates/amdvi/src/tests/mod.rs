//! The driver against the fake.

extern crate std;

mod commands;
mod devices;
mod events;
mod interrupts;
mod properties;
mod set_up;

use std::vec::Vec;

use axvm_addr::{Hpa, Iova, Span};
use proptest::prelude::*;

use crate::fake::{Delivery, FEATURES, Fake, Outcome, Tables};
use crate::spec::commands::{self as command, Command};
use crate::spec::registers::offset;
use crate::*;

const PAGE: u64 = 0x1000;
/// 00:02.0 and the function behind it.
const DEVICE: DeviceId = DeviceId(0x10);
const OTHER: DeviceId = DeviceId(0x11);

fn iommu(fake: &Fake) -> Iommu<&Fake, &Fake> {
    Iommu::new(fake, fake, Options { x2apic: true, ..Options::new(DeviceId(0xffff)) }).unwrap()
}

/// Tables that map one page, read and written, to `target`.
fn tables(fake: &Fake, at: u64, target: u64) -> Tables<'_> {
    let tables = Tables::new(fake);
    tables.map(at, target, true, true);
    tables
}

fn opcodes(log: &[Command]) -> Vec<u8> {
    log.iter().map(command::opcode).collect()
}

fn fixed(vector: u8, cpu: u32) -> Option<Interrupt> {
    Some(Interrupt { vector, destination: Destination::Physical(cpu), kind: InterruptKind::Fixed })
}

fn drain(iommu: &mut Iommu<&Fake, &Fake>) -> Vec<Event> {
    let mut events = Vec::new();
    let drained = iommu.drain_events(usize::MAX, |event| events.push(event));
    assert_eq!((drained.events, drained.more), (events.len(), false));
    events
}
