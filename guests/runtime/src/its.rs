//! A driver of the ITS (Arm IHI 0069, chapter 5) for a device, whose event N is the N-th LPI, or two that have the same LPIs by turns.
//! Each command has been carried out when its function returns.

use crate::gic::{Gic, LPI, PRIORITY, Redistributor};
use crate::machine::{self, Fault, load8, load64, store8, store32, store64};

const CTLR: u64 = 0x00;
const CBASER: u64 = 0x80;
const CWRITER: u64 = 0x88;
const CREADR: u64 = 0x90;
const BASER: u64 = 0x100;
const VALID: u64 = 1 << 63;
/// One page of 4 KiB holds 128 commands.
const QUEUE: u64 = 0x1000;
const COMMAND: u64 = 32;

const MOVI: u64 = 0x01;
const INT: u64 = 0x03;
const CLEAR: u64 = 0x04;
const SYNC: u64 = 0x05;
const MAPD: u64 = 0x08;
const MAPC: u64 = 0x09;
const MAPTI: u64 = 0x0a;
const INV: u64 = 0x0c;
const DISCARD: u64 = 0x0f;

impl Gic {
    /// Makes event 0 of a device the first LPI, at the CPU with this redistributor. Takes 1 MiB of memory at a multiple
    /// of 64 KiB.
    pub fn map_msi(&self, device: u64, target: &Redistributor, memory: u64) -> Result<(), Fault> {
        let mut its = Its::start(self, device, 1, core::slice::from_ref(target), memory)?;
        its.set(0, PRIORITY, true)?;
        its.map(0, 0)
    }
}

/// An ITS with a device.
pub struct Its<'a> {
    registers: u64,
    queue: u64,
    next: u64,
    /// The device that commands are about, in its place in them.
    device: u64,
    event_bits: u64,
    translations: u64,
    properties: u64,
    targets: &'a [Redistributor],
}

impl<'a> Its<'a> {
    /// Starts it: collection N goes to the N-th of at most two redistributors, the device has so many bits of events, none of them
    /// mapped. Takes 1 MiB of memory at a multiple of 64 KiB.
    pub fn start(
        gic: &Gic,
        device: u64,
        event_bits: u64,
        targets: &'a [Redistributor],
        memory: u64,
    ) -> Result<Self, Fault> {
        let registers = gic.its().ok_or(Fault)?;
        let [queue, translations, properties, pending] =
            [0x8_0000, 0x9_0000, 0xa_0000, 0xb_0000].map(|offset| memory + offset);
        for (target, pending) in targets.iter().zip([pending, pending + 0x1_0000]) {
            target.enable_lpis(properties, pending)?;
        }
        store32(registers + CTLR, 0)?;
        for table in 0..8 {
            let baser = load64(registers + BASER + table * 8)?;
            // Type, in bits 58:56, is 0 where there is no table; a 64 KiB page (bits 9:8) is enough for ids below 8192.
            if baser >> 56 & 7 != 0 {
                let keep = baser & (7 << 56 | 0x1f << 48);
                store64(registers + BASER + table * 8, VALID | keep | (memory + table * 0x1_0000) | 2 << 8)?;
            }
        }
        store64(registers + CBASER, VALID | queue)?;
        store64(registers + CWRITER, 0)?;
        store32(registers + CTLR, 1)?;
        let mut its =
            Self { registers, queue, next: 0, device: 0, event_bits, translations, properties, targets };
        for (collection, target) in (0u64..).zip(targets) {
            its.send([MAPC, 0, VALID | target.target() | collection, 0])?;
        }
        for event in 0..1u64 << event_bits {
            store8(properties + event, 0)?;
        }
        its.map_device(device, 0)?;
        Ok(its)
    }

    /// Maps a device, the first or the second, none of whose events is mapped then. Commands are about it from here on.
    pub fn map_device(&mut self, device: u64, place: u64) -> Result<(), Fault> {
        let table = self.translations + place * 0x8000;
        self.turn_to(device);
        // Nobody uses the table while it is emptied.
        self.unmap_device()?;
        for event in 0..1u64 << self.event_bits {
            store64(table + event * 8, 0)?;
        }
        self.send([MAPD | self.device, self.event_bits - 1, VALID | table, 0])
    }

    /// Commands are about this device from here on.
    pub fn turn_to(&mut self, device: u64) {
        self.device = device << 32;
    }

    /// Unmaps the device with all its events.
    pub fn unmap_device(&mut self) -> Result<(), Fault> {
        self.send([MAPD | self.device, 0, 0, 0])?;
        self.sync()
    }

    /// Maps an event, at a collection.
    pub fn map(&mut self, event: u64, collection: u64) -> Result<(), Fault> {
        self.send([MAPTI | self.device, (LPI + event) << 32 | event, collection, 0])?;
        self.send([INV | self.device, event, 0, 0])?;
        self.sync()
    }

    /// Gives an event's LPI a priority, a multiple of 4, and switches it on or off: from the next [`Its::map`] on.
    pub fn set(&self, event: u64, priority: u8, enabled: bool) -> Result<(), Fault> {
        store8(self.properties + event, priority | u8::from(enabled))
    }

    /// The same of one that is mapped.
    pub fn configure(&mut self, event: u64, priority: u8, enabled: bool) -> Result<(), Fault> {
        self.set(event, priority, enabled)?;
        self.send([INV | self.device, event, 0, 0])?;
        self.sync()
    }

    /// Switches an event's LPI on or off.
    pub fn enable(&mut self, event: u64, enabled: bool) -> Result<(), Fault> {
        let priority = load8(self.properties + event)? & !3;
        self.configure(event, priority, enabled)
    }

    /// Gives an event's LPI another priority.
    pub fn prioritize(&mut self, event: u64, priority: u8) -> Result<(), Fault> {
        let enabled = load8(self.properties + event)? & 1 != 0;
        self.configure(event, priority, enabled)
    }

    /// Makes an event's LPI pending, as its device would.
    pub fn raise(&mut self, event: u64) -> Result<(), Fault> {
        self.send([INT | self.device, event, 0, 0])?;
        self.sync()
    }

    /// Writes the command that does so into the queue. What has it carried out, once, is a write of a register: its address, its value.
    pub fn prepare_to_raise(&mut self, event: u64) -> Result<(u64, u64), Fault> {
        self.wait()?;
        self.put([INT | self.device, event, 0, 0])?;
        Ok((self.registers + CWRITER, self.next))
    }

    /// Ends the pending state of an event's LPI.
    pub fn clear(&mut self, event: u64) -> Result<(), Fault> {
        self.send([CLEAR | self.device, event, 0, 0])?;
        self.sync()
    }

    /// Moves an event to another collection.
    pub fn move_to(&mut self, event: u64, collection: u64) -> Result<(), Fault> {
        self.send([MOVI | self.device, event, collection, 0])?;
        self.sync()
    }

    /// Unmaps an event.
    pub fn discard(&mut self, event: u64) -> Result<(), Fault> {
        self.send([DISCARD | self.device, event, 0, 0])?;
        self.sync()
    }

    /// The LPI pending table of a collection's redistributor: a bit for each INTID, from 0.
    pub fn pending_table(&self, collection: u64) -> u64 {
        self.properties + 0x1_0000 + collection * 0x1_0000
    }

    /// The redistributors of its collections.
    pub fn targets(&self) -> &'a [Redistributor] {
        self.targets
    }

    fn sync(&mut self) -> Result<(), Fault> {
        for target in self.targets {
            self.send([SYNC, 0, target.target(), 0])?;
        }
        Ok(())
    }

    fn send(&mut self, command: [u64; 4]) -> Result<(), Fault> {
        self.put(command)?;
        store64(self.registers + CWRITER, self.next)?;
        self.wait()
    }

    /// Puts a command into the queue.
    fn put(&mut self, command: [u64; 4]) -> Result<(), Fault> {
        for (word, value) in (0u64..).zip(command) {
            store64(self.queue + self.next + word * 8, value)?;
        }
        self.next = (self.next + COMMAND) % QUEUE;
        Ok(())
    }

    /// Until all commands have been carried out.
    fn wait(&self) -> Result<(), Fault> {
        let is_done = || load64(self.registers + CREADR).map(|read| read & 0xf_ffe0 == self.next);
        if machine::within(machine::SURELY_S, || is_done() != Ok(false)) && is_done()? {
            Ok(())
        } else {
            Err(Fault)
        }
    }
}
