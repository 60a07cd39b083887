//! The driver against the fake.

extern crate std;

mod coherence;
mod command_queue;
mod events;
mod properties;
mod set_up;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use axvm_addr::{Gpa, Hpa, Iova, Span};
use axvm_iommu::{OutOfMemory, Shared};
use proptest::prelude::*;

use crate::fake::{Fake, IDR0, IDR1, Outcome, Tables};
use crate::id::StreamId;
use crate::spec::commands::{self, Command, Reason};
use crate::spec::registers::*;
use crate::*;

const PAGE: u64 = 0x1000;

fn smmu(fake: &Fake) -> Smmu<&Fake, &Fake> {
    Smmu::new(fake, fake, options(0xffff)).unwrap()
}

/// As a platform has it whose tree says that the SMMU is coherent.
fn options(most: u32) -> Options {
    Options { coherent: true, ..Options::new(StreamId(most)) }
}

/// Tables that map one page, read and written, to `target`.
fn tables(fake: &Fake, at: u64, target: u64) -> Tables<'_> {
    let tables = Tables::new(fake);
    tables.map(at, target, true, true);
    tables
}

fn domain(vmid: u16, tables: &Tables<'_>) -> Domain {
    Domain { vmid, root: tables.root(), ipa_bits: 40, output_bits: 48 }
}

fn opcodes(log: &[Command]) -> Vec<u64> {
    log.iter().map(|command| commands::OPCODE.get(command[0])).collect()
}

fn position(fake: &Fake, write: (usize, u64)) -> usize {
    let state = fake.0.borrow();
    state
        .writes
        .iter()
        .position(|done| *done == write)
        .unwrap_or_else(|| panic!("{write:x?} was not written"))
}
