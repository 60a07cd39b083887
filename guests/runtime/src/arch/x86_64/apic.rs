//! Drivers of the local APIC by its page (AMD APM 2, 16.3) and of the I/O APIC (Intel 82093AA), as small as a guest for tests can do with.

use super::machine::{Fault, load32, now, store32, write_msr};

const ID: u64 = 0x20;
const VERSION: u64 = 0x30;
const END: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const TARGET: u64 = 0x310;
const TIMER: u64 = 0x320;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDER: u64 = 0x3e0;

/// The APIC is on, and what comes too late for anybody has vector 255.
const ON: u32 = 0x1ff;
const MASKED: u32 = 1 << 16;
const DEADLINE: u32 = 2 << 17;
const DELIVERY_PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;

/// The local APIC of the calling CPU.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    base: u64,
}

impl Local {
    /// By the address of its page.
    pub fn new(base: u64) -> Self {
        Self { base }
    }

    /// Switches it on.
    pub fn start(&self) -> Result<(), Fault> {
        store32(self.base + SPURIOUS, ON)
    }

    /// The CPU's id.
    pub fn id(&self) -> Result<u8, Fault> {
        Ok((load32(self.base + ID)? >> 24) as u8)
    }

    /// The address of a register without side effects.
    pub fn version(&self) -> u64 {
        self.base + VERSION
    }

    /// The address at which an interrupt is ended.
    pub fn end(&self) -> u64 {
        self.base + END
    }

    /// The address of the register whose writing sends interrupts to other CPUs, or to the one that [`aim`](Self::aim) has named.
    pub fn command(&self) -> u64 {
        self.base + COMMAND
    }

    /// Names the CPU that the next interrupt is sent to.
    pub fn aim(&self, id: u8) -> Result<(), Fault> {
        store32(self.base + TARGET, u32::from(id) << 24)
    }

    fn send(&self, id: u8, order: u32) -> Result<(), Fault> {
        self.aim(id)?;
        store32(self.base + COMMAND, order)?;
        for _ in 0..1000 {
            if load32(self.base + COMMAND)? & DELIVERY_PENDING == 0 {
                return Ok(());
            }
        }
        Err(Fault)
    }

    /// Resets another CPU.
    pub fn send_init(&self, id: u8) -> Result<(), Fault> {
        self.send(id, INIT | ASSERT)
    }

    /// Has another CPU that was reset start at a page below 1 MiB.
    pub fn send_startup(&self, id: u8, page: u8) -> Result<(), Fault> {
        self.send(id, STARTUP | ASSERT | u32::from(page))
    }

    /// Has the timer interrupt, once its counter is written. The counter goes down with the APIC's clock, undivided.
    pub fn prepare_timer(&self, vector: u8) -> Result<(), Fault> {
        store32(self.base + DIVIDER, 0xb)?;
        store32(self.base + TIMER, vector.into())
    }

    /// Has the timer interrupt once so many ticks of the time stamp counter have gone by (AMD APM 2, 16.4.1), by the deadline of MSR 0x6e0.
    pub fn start_timer(&self, vector: u8, ticks: u64) -> Result<(), Fault> {
        const DEADLINE_REGISTER: u32 = 0x6e0;
        self.prepare_deadline(vector)?;
        write_msr(DEADLINE_REGISTER, now() + ticks)
    }

    /// Has the timer interrupt, once the time stamp counter has the value of MSR 0x6e0.
    pub fn prepare_deadline(&self, vector: u8) -> Result<(), Fault> {
        store32(self.base + TIMER, DEADLINE | u32::from(vector))
    }

    /// Stops the timer.
    pub fn stop_timer(&self) -> Result<(), Fault> {
        store32(self.base + INITIAL, 0)?;
        store32(self.base + TIMER, MASKED)
    }

    /// The address of the register whose writing starts the timer.
    pub fn initial(&self) -> u64 {
        self.base + INITIAL
    }

    /// What the timer has left.
    pub fn current(&self) -> Result<u32, Fault> {
        load32(self.base + CURRENT)
    }
}

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const VERSION_INDEX: u32 = 1;
const REDIRECTION: u32 = 0x10;
const LOW: u32 = 1 << 13;
const BY_LEVEL: u32 = 1 << 15;

/// How a line tells of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Whether its low level is the active one.
    pub low: bool,
    /// Whether it is the level that counts, not the edge.
    pub by_level: bool,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    base: u64,
}

impl IoApic {
    /// By the address of its page.
    pub fn new(base: u64) -> Self {
        Self { base }
    }

    fn read(&self, index: u32) -> Result<u32, Fault> {
        store32(self.base + SELECT, index)?;
        load32(self.base + WINDOW)
    }

    fn write(&self, index: u32, value: u32) -> Result<(), Fault> {
        store32(self.base + SELECT, index)?;
        store32(self.base + WINDOW, value)
    }

    /// How many pins it has.
    pub fn pins(&self) -> Result<u32, Fault> {
        Ok((self.read(VERSION_INDEX)? >> 16 & 0xff) + 1)
    }

    /// The address of a register that says, once its version is selected, nothing but that.
    pub fn window(&self) -> Result<u64, Fault> {
        store32(self.base + SELECT, VERSION_INDEX)?;
        Ok(self.base + WINDOW)
    }

    /// Routes a pin to a CPU.
    pub fn route(&self, pin: u32, signal: Signal, vector: u8, id: u8) -> Result<(), Fault> {
        let index = REDIRECTION + pin * 2;
        let polarity = if signal.low { LOW } else { 0 };
        let trigger = if signal.by_level { BY_LEVEL } else { 0 };
        self.write(index + 1, u32::from(id) << 24)?;
        self.write(index, polarity | trigger | u32::from(vector))
    }

    /// Masks a pin.
    pub fn mask(&self, pin: u32) -> Result<(), Fault> {
        self.write(REDIRECTION + pin * 2, MASKED)
    }
}
