//! ITS commands about what isn't the guest's (Arm IHI 0069, 5.3).

use alloc::format;
use alloc::string::String;

use axvm_addr::Address;

use crate::board::Board;
use crate::edu::requester_id;
use crate::machine::{Fault, frequency, load32, load64, now, store32, store64, take_interrupt};

const GITS_CTLR: u64 = 0x00;
const GITS_CBASER: u64 = 0x80;
const GITS_CWRITER: u64 = 0x88;
const GITS_CREADR: u64 = 0x90;
const GITS_BASER: u64 = 0x100;
const VALID: u64 = 1 << 63;
/// One page of 4 KiB holds 128 commands.
const QUEUE: u64 = 0x1000;
const COMMAND: u64 = 32;

const MAPD: u64 = 0x08;
const MAPC: u64 = 0x09;
const MAPTI: u64 = 0x0a;
const MAPI: u64 = 0x0b;
const MOVI: u64 = 0x01;
const INT: u64 = 0x03;
const CLEAR: u64 = 0x04;
const SYNC: u64 = 0x05;
const INV: u64 = 0x0c;
const INVALL: u64 = 0x0d;
const MOVALL: u64 = 0x0e;
const DISCARD: u64 = 0x0f;
const VMAPTI: u64 = 0x2a;
const VMAPP: u64 = 0x29;

struct Queue {
    its: u64,
    memory: u64,
    next: u64,
}

impl Queue {
    fn new(its: u64, memory: u64, tables: u64) -> Result<Self, Fault> {
        store32(its + GITS_CTLR, 0)?;
        for table in 0..8 {
            let baser = load64(its + GITS_BASER + table * 8)?;
            // Type, in bits 58:56, is 0 where there is no table; one 4 KiB page is enough for bad ids.
            if baser >> 56 & 7 != 0 {
                let keep = baser & (7 << 56 | 0x1f << 48);
                store64(its + GITS_BASER + table * 8, VALID | keep | (tables + table * 0x1_0000))?;
            }
        }
        store64(its + GITS_CBASER, VALID | memory)?;
        store64(its + GITS_CWRITER, 0)?;
        store32(its + GITS_CTLR, 1)?;
        Ok(Self { its, memory, next: 0 })
    }

    /// Whether the ITS consumed the command. A stalled one, which the architecture allows, is stepped over
    /// by a restart.
    fn send(&mut self, command: [u64; 4]) -> Result<bool, Fault> {
        for (word, value) in (0u64..).zip(command) {
            store64(self.memory + self.next + word * 8, value)?;
        }
        self.next = (self.next + COMMAND) % QUEUE;
        store64(self.its + GITS_CWRITER, self.next)?;
        let start = now();
        while load64(self.its + GITS_CREADR)? & 0xf_ffe0 != self.next {
            if now() - start > frequency() {
                store32(self.its + GITS_CTLR, 0)?;
                store64(self.its + GITS_CBASER, VALID | self.memory)?;
                store64(self.its + GITS_CWRITER, 0)?;
                store32(self.its + GITS_CTLR, 1)?;
                self.next = 0;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// An interrupt by an own device's id must come, or that none comes by another's would show nothing.
pub fn own_device(board: &Board) -> String {
    match requester_id(&board.platform) {
        None => "skipped: no edu".into(),
        Some(id) => match raise(board, id) {
            Ok(true) => format!("ok: device {id:#x} raised an LPI"),
            Ok(false) => format!("broken: device {id:#x} raised no LPI"),
            Err(Fault) => "broken: the GIC doesn't answer".into(),
        },
    }
}

/// Maps a neighbour's device (`axvm.device`) and raises an interrupt by its id.
pub fn foreign_device(board: &Board) -> String {
    let Some(id) = board.number("axvm.device") else { return "skipped: no axvm.device".into() };
    match raise(board, id) {
        Ok(true) => format!("succeeded: device {id:#x} raised an LPI"),
        Ok(false) => format!("blocked: device {id:#x}"),
        Err(Fault) => "broken: the GIC doesn't answer".into(),
    }
}

/// Maps event 0 of a device to the first LPI, raises it by a command, and says whether it came.
fn raise(board: &Board, id: u64) -> Result<bool, Fault> {
    const LPI: u64 = 8192;
    const GICD_CTLR_GROUP1: u32 = 1 << 1;
    const GICR_CTLR: u64 = 0x00;
    const GICR_WAKER: u64 = 0x14;
    const GICR_PROPBASER: u64 = 0x70;
    const GICR_PENDBASER: u64 = 0x78;
    let gic = board.platform.gic().ok_or(Fault)?;
    let its = gic.its.first().ok_or(Fault)?.registers.start().get();
    let redistributor = gic.redistributors.first().ok_or(Fault)?.start().get();
    let distributor = gic.distributor.start().get();
    let tables = board.scratch.next_multiple_of(0x1_0000);
    let [memory, itt, properties, pending] =
        [0x8_0000, 0x9_0000, 0xa_0000, 0xb_0000].map(|offset| tables + offset);
    // Enabled, in the middle of all priorities.
    store32(properties, 0xa1)?;
    store32(redistributor + GICR_WAKER, 0)?;
    // 14 bits of INTID: 8192 LPIs.
    store64(redistributor + GICR_PROPBASER, properties | 13)?;
    store64(redistributor + GICR_PENDBASER, pending)?;
    store32(redistributor + GICR_CTLR, 1)?;
    store32(distributor, load32(distributor)? | GICD_CTLR_GROUP1)?;
    let mut queue = Queue::new(its, memory, tables)?;
    let device = id << 32;
    let commands = [
        [MAPC, 0, VALID, 0],
        [MAPD | device, 0, VALID | itt, 0],
        [MAPTI | device, LPI << 32, 0, 0],
        [INV | device, 0, 0, 0],
        [SYNC, 0, 0, 0],
        [INT | device, 0, 0, 0],
        [SYNC, 0, 0, 0],
    ];
    for command in commands {
        queue.send(command)?;
    }
    let start = now();
    let mut came = false;
    while !came && now() - start < frequency() {
        came = take_interrupt() == LPI;
    }
    queue.send([MAPD | device, 0, 0, 0])?;
    Ok(came)
}

/// All of them must be refused; and the queue must still work after them.
pub fn bad_commands(board: &Board) -> String {
    let its = board.platform.gic().and_then(|gic| gic.its.first());
    let Some(its) = its.map(|its| its.registers.start().get()) else { return "skipped: no ITS".into() };
    attack(board, its).unwrap_or_else(|Fault| "broken: the ITS doesn't answer".into())
}

fn attack(board: &Board, its: u64) -> Result<String, Fault> {
    // Tables at multiples of 64 KiB, whatever the page size of a BASER is.
    let tables = board.scratch.next_multiple_of(0x1_0000);
    let outside = board.target().unwrap_or(0) & !0xffff;
    let mut queue = Queue::new(its, tables + 0x8_0000, tables)?;
    let itt = tables + 0x9_0000;
    let device = |id: u64| id << 32;
    let mut commands = alloc::vec![
        // Devices that aren't the guest's; tables outside its RAM; sizes that can't be.
        [MAPD | device(0xfff0), 4, VALID | itt, 0],
        [MAPD | device(0), 4, VALID | outside, 0],
        [MAPD | device(0xffff_ffff), 31, VALID | itt, 0],
        // Collections to CPUs that aren't the guest's.
        [MAPC, 0, VALID | 0xffff << 16 | 1, 0],
        [MAPC, 0, VALID | (outside & 0x7_ffff_ffff_0000) | 0xffff, 0],
        // Interrupts that aren't LPIs, or not the guest's.
        [MAPTI | device(0xfff0), 8192 << 32, 0, 0],
        [MAPTI | device(0), 33 << 32 | 0xffff_fff0, 0, 0],
        [MAPI | device(0xfff0), 8192, 0xffff, 0],
        [MOVALL, 0, 0xffff << 16, 0x7 << 16],
        // Virtual interrupts, which are the hypervisor's.
        [VMAPTI | device(0xfff0), 7 << 32, 0, 0],
        [VMAPP, 7 << 32, VALID, VALID | outside],
        // No command at all.
        [0xff, u64::MAX, u64::MAX, u64::MAX],
        [0, 0, 0, 0],
    ];
    for kind in [INT, CLEAR, INV, DISCARD, MOVI] {
        commands.push([kind | device(0xfff0), 0, 0xffff, 0]);
        commands.push([kind | device(0), 0xffff_ffff, 0, 0]);
    }
    commands.push([INVALL, 0, 0xffff, 0]);
    let (mut passed, mut stalled) = (0, 0);
    for &command in &commands {
        if queue.send(command)? {
            passed += 1;
        } else {
            stalled += 1;
        }
    }
    if !queue.send([SYNC, 0, 0, 0])? {
        return Ok("broken: a good command isn't taken any more".into());
    }
    // A queue outside the guest's RAM must not be read.
    store32(its + GITS_CTLR, 0)?;
    store64(its + GITS_CBASER, VALID | outside)?;
    store64(its + GITS_CWRITER, COMMAND)?;
    store32(its + GITS_CTLR, 1)?;
    store32(its + GITS_CTLR, 0)?;
    Ok(format!("ok: {passed} stepped over, {stalled} stalled, the queue works"))
}
