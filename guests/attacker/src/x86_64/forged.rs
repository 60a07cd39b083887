//! Messages that are interrupts of others: written by a device's DMA to where messages go, and sent by a device whose message is changed.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::apic::Local;
use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::edu::{ACKNOWLEDGE, RAISE};
use axvm_guest_runtime::machine::{Fault, SURELY_S, store32, within};

use super::hears::{Hearing, MESSAGE};
use crate::carry::with_edu;

/// Where messages go (Intel SDM 3, 11.11.1): the CPU in bits 19:12.
const MESSAGES: u64 = 0xfee0_0000;
/// The first vector that is no exception's.
const FIRST: u32 = 0x20;
/// CPUs of the machine, by their ids, the hypervisor's and a neighbour's among them.
const CPUS: core::ops::Range<u32> = 0..4;
/// What a message has above its vector: the ordinary kinds of delivery, or more of an index into an IOMMU's table.
const ABOVE: core::ops::Range<u32> = 0..2;

/// By DMA, half of the vectors in one transfer. Each has 32 bytes of addresses: with VT-d's bit for its own format (4) and without, and with
/// each mode of destinations (2). `axvm.first` is the first, where exceptions' are to be tried.
pub fn by_dma(board: &Board) -> String {
    const PAGE: u64 = 4096;
    const EACH: u64 = 32;
    let first = board.number("axvm.first").map_or(FIRST, |first| first as u32);
    with_edu(board, |edu| {
        let mut sent = 0u64;
        for (cpu, above) in CPUS.flat_map(|cpu| ABOVE.map(move |above| (cpu, above))) {
            for half in [0, 0x80u32] {
                for at in (0..PAGE).step_by(4) {
                    let vector = first.max(half + (at / EACH) as u32);
                    store32(board.scratch + at, above << 8 | vector)?;
                }
                edu.read_bytes(board.scratch, PAGE)?;
                edu.write_bytes(MESSAGES | u64::from(cpu) << 12, PAGE)?;
                sent += PAGE / 4;
            }
        }
        Ok(format!("ok: {sent} were written"))
    })
}

/// By its own message.
pub fn by_configuration(board: &Board) -> String {
    with_edu(board, |edu| {
        let mut sent = 0u32;
        for (cpu, above) in CPUS.flat_map(|cpu| ABOVE.map(move |above| (cpu, above))) {
            for vector in FIRST..0x100 {
                edu.enable_msi(MESSAGES | u64::from(cpu) << 12, (above << 8 | vector) as u16)?;
                store32(edu.registers + RAISE, 1)?;
                store32(edu.registers + ACKNOWLEDGE, 1)?;
                sent += 1;
            }
        }
        Ok(format!("ok: {sent} were sent"))
    })
}

/// Kinds of delivery that are no ordinary interrupts (Intel SDM 3, 11.11.2): SMI, one that there isn't, NMI, INIT, STARTUP, ExtINT.
const KINDS: core::ops::Range<u32> = 2..8;
/// How each is tried: vector or page, and whether a level is said to be up.
const FORMS: [u32; 3] = [0x61, 0x08, 1 << 15 | 1 << 14 | 0x61];

/// Those kinds, by DMA, with each of a message's formats.
pub fn kinds_by_dma(board: &Board) -> String {
    const BYTES: u64 = 32;
    with_edu(board, |edu| {
        let mut sent = 0u64;
        for (cpu, kind, form) in kinds() {
            for at in (0..BYTES).step_by(4) {
                store32(board.scratch + at, kind << 8 | form)?;
            }
            edu.read_bytes(board.scratch, BYTES)?;
            edu.write_bytes(MESSAGES | u64::from(cpu) << 12, BYTES)?;
            sent += BYTES / 4;
        }
        Ok(format!("ok: {sent} were written"))
    })
}

/// The same kinds, by its own message. But for an NMI and an INIT of its own CPU: these it may have.
pub fn kinds_by_configuration(board: &Board) -> String {
    /// How a message names its CPUs: by an id, by a hint, by bits.
    const NAMED: [u64; 3] = [0, 1 << 3, 3 << 2];
    const OWN: [u32; 2] = [4, 5];
    let Ok(own) = Local::new(board.madt.local_apic.0).id() else { return "broken: no local APIC".into() };
    with_edu(board, |edu| {
        let mut sent = 0u32;
        for (cpu, kind, form) in kinds().filter(|(cpu, kind, _)| *cpu != own.into() || !OWN.contains(kind)) {
            for named in NAMED {
                edu.enable_msi(MESSAGES | u64::from(cpu) << 12 | named, (kind << 8 | form) as u16)?;
                store32(edu.registers + RAISE, 1)?;
                store32(edu.registers + ACKNOWLEDGE, 1)?;
                sent += 1;
            }
        }
        Ok(format!("ok: {sent} were sent"))
    })
}

/// Each of these to each CPU.
fn kinds() -> impl Iterator<Item = (u32, u32, u32)> {
    CPUS.flat_map(|cpu| KINDS.flat_map(move |kind| FORMS.map(|form| (cpu, kind, form))))
}

/// The device's own message still comes, whatever was forged before.
pub fn heard(board: &Board) -> String {
    let hear = |hearing: &Hearing| -> Result<String, Fault> {
        // What has come of those that were forged.
        let others = (0..0x100).take_while(|_| hearing.take().is_some()).count();
        hearing.open()?;
        store32(hearing.edu.registers + RAISE, 1)?;
        let has_come = within(SURELY_S, || hearing.take() == Some(MESSAGE));
        store32(hearing.edu.registers + ACKNOWLEDGE, 1)?;
        Ok(if has_come { format!("ok, after {others} others") } else { "broken: it doesn't come".into() })
    };
    match Hearing::begin(board) {
        Ok(None) => "skipped: no edu".into(),
        Ok(Some(hearing)) => {
            hear(&hearing).unwrap_or_else(|Fault| "broken: edu's registers don't answer".into())
        }
        Err(Fault) => "broken: no local APIC".into(),
    }
}
