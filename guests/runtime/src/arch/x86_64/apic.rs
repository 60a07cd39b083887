//! Drivers of the local APIC, by its page or, where firmware has left it in x2APIC mode, by its model-specific registers (AMD APM 2, 16.3 and
//! 16.9), and of the I/O APIC (Intel 82093AA), as small as a guest for tests can do with.

use core::sync::atomic::{AtomicU64, Ordering};

use super::machine::{Fault, cpuid, frequency, load32, now, read_msr, store32, write_msr};

const ID: u64 = 0x20;
const VERSION: u64 = 0x30;
const END: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const TARGET: u64 = 0x310;
const TIMER: u64 = 0x320;
const TASK_PRIORITY: u64 = 0x80;
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

/// The timer's clock divided by 1, and by 16.
const BY_1: u32 = 0xb;
const BY_16: u32 = 0x3;

/// APIC_BASE, and that the APIC is in x2APIC mode (AMD APM 2, 16.9).
const BASE: u32 = 0x1b;
const X2APIC: u64 = 1 << 10;
/// Where the registers are in that mode: the MSR of the one at offset 0. They are 16 bytes apart in the page.
const FIRST_MSR: u32 = 0x800;
/// The one by which a CPU interrupts itself, which has no place in the page (AMD APM 2, 16.11.3), and how CPUID 1 says in ECX that there is the mode.
const SELF_MSR: u32 = 0x83f;
const HAS_X2APIC: u32 = 1 << 21;
/// The register of the timer's deadline, and how CPUID 1 says in ECX that there is one.
const DEADLINE_REGISTER: u32 = 0x6e0;
const HAS_DEADLINE: u32 = 1 << 24;

/// Ticks of the timer, its clock divided by 16, in 2^20 of the time stamp counter; 0: not measured.
static RATE: AtomicU64 = AtomicU64::new(0);

/// How a local APIC's registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registers {
    /// By the page at this address.
    Page(u64),
    /// By model-specific registers.
    Msrs,
}

/// Where one register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this address.
    Address(u64),
    /// It is this model-specific one.
    Msr(u32),
}

/// What is written where to send an interrupt, once the CPU that it is for has been named ([`Local::aim`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The register.
    pub place: Place,
    /// What is written.
    pub value: u64,
}

/// The local APIC of the calling CPU.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    registers: Registers,
}

impl Local {
    /// In the mode in which it is; `page`: where its page is in the other one.
    pub fn new(page: u64) -> Self {
        let is_x2apic = read_msr(BASE).is_ok_and(|base| base & X2APIC != 0);
        Self { registers: if is_x2apic { Registers::Msrs } else { Registers::Page(page) } }
    }

    /// Switches it to x2APIC mode, where CPUID offers that and it isn't in it. The state of its registers stays.
    pub fn use_x2apic(&mut self) -> Result<(), Fault> {
        if self.registers == Registers::Msrs {
            return Ok(());
        }
        if cpuid(1, 0)[2] & HAS_X2APIC == 0 {
            return Err(Fault);
        }
        write_msr(BASE, read_msr(BASE)? | X2APIC)?;
        self.registers = Registers::Msrs;
        Ok(())
    }

    fn read(&self, register: u64) -> Result<u32, Fault> {
        match self.at(register) {
            Place::Address(address) => load32(address),
            Place::Msr(msr) => Ok(read_msr(msr)? as u32),
        }
    }

    fn write(&self, register: u64, value: u32) -> Result<(), Fault> {
        match self.at(register) {
            Place::Address(address) => store32(address, value),
            Place::Msr(msr) => write_msr(msr, value.into()),
        }
    }

    fn at(&self, register: u64) -> Place {
        match self.registers {
            Registers::Page(page) => Place::Address(page + register),
            Registers::Msrs => Place::Msr(FIRST_MSR + (register >> 4) as u32),
        }
    }

    /// Switches it on.
    pub fn start(&self) -> Result<(), Fault> {
        self.write(SPURIOUS, ON)
    }

    /// The CPU's id.
    pub fn id(&self) -> Result<u8, Fault> {
        let id = self.read(ID)?;
        match self.registers {
            Registers::Page(_) => Ok((id >> 24) as u8),
            Registers::Msrs => id.try_into().map_err(|_| Fault),
        }
    }

    /// A register without side effects.
    pub fn version(&self) -> Place {
        self.at(VERSION)
    }

    /// A register that concerns its CPU alone, and has no side effect when it is read.
    pub fn priority(&self) -> Place {
        self.at(TASK_PRIORITY)
    }

    /// Where an interrupt is ended, for those who let interrupts in: the register's address, or 0 where it is a model-specific one.
    pub fn end(&self) -> u64 {
        match self.at(END) {
            Place::Address(address) => address,
            Place::Msr(_) => 0,
        }
    }

    /// How the CPU interrupts itself: as [`to`](Self::to), or by the register that there is for it.
    pub fn to_itself(&self, id: u8, vector: u8) -> Order {
        match self.registers {
            Registers::Page(_) => self.to(id, vector),
            Registers::Msrs => Order { place: Place::Msr(SELF_MSR), value: vector.into() },
        }
    }

    /// How an interrupt is sent to a CPU, which [`aim`](Self::aim) has named.
    pub fn to(&self, id: u8, vector: u8) -> Order {
        self.order(id, vector.into())
    }

    fn order(&self, id: u8, order: u32) -> Order {
        let target = match self.registers {
            Registers::Page(_) => 0,
            Registers::Msrs => u64::from(id) << 32,
        };
        Order { place: self.at(COMMAND), value: target | u64::from(order) }
    }

    /// Names the CPU that the next interrupt is sent to, where a register of its own does that.
    pub fn aim(&self, id: u8) -> Result<(), Fault> {
        match self.registers {
            Registers::Page(_) => self.write(TARGET, u32::from(id) << 24),
            Registers::Msrs => Ok(()),
        }
    }

    fn send(&self, id: u8, order: u32) -> Result<(), Fault> {
        self.aim(id)?;
        let Order { place, value } = self.order(id, order);
        match place {
            Place::Msr(msr) => return write_msr(msr, value),
            Place::Address(address) => store32(address, value as u32)?,
        }
        for _ in 0..1000 {
            if self.read(COMMAND)? & DELIVERY_PENDING == 0 {
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
        self.write(DIVIDER, BY_1)?;
        self.write(TIMER, vector.into())
    }

    /// Has the timer interrupt once so many ticks of the time stamp counter have gone by: by its deadline, where CPUID offers that, or by its
    /// counter.
    pub fn start_timer(&self, vector: u8, ticks: u64) -> Result<(), Fault> {
        if cpuid(1, 0)[2] & HAS_DEADLINE != 0 {
            self.prepare_deadline(vector)?;
            return write_msr(DEADLINE_REGISTER, now() + ticks);
        }
        let count = (u128::from(ticks) * u128::from(self.rate()?)) >> 20;
        self.write(DIVIDER, BY_16)?;
        self.write(TIMER, vector.into())?;
        self.write(INITIAL, count.clamp(1, u32::MAX.into()) as u32)
    }

    /// The timer's rate, measured the first time.
    fn rate(&self) -> Result<u64, Fault> {
        let known = RATE.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(known);
        }
        self.write(TIMER, MASKED)?;
        self.write(DIVIDER, BY_16)?;
        self.write(INITIAL, u32::MAX)?;
        let start = now();
        while now() - start < frequency() / 100 {}
        let counted = u64::from(u32::MAX - self.read(CURRENT)?);
        let rate = ((counted << 20) / (now() - start)).max(1);
        self.write(INITIAL, 0)?;
        RATE.store(rate, Ordering::Relaxed);
        Ok(rate)
    }

    /// Has the timer interrupt, once the time stamp counter has the value of MSR 0x6e0 (AMD APM 2, 16.4.1).
    pub fn prepare_deadline(&self, vector: u8) -> Result<(), Fault> {
        self.write(TIMER, DEADLINE | u32::from(vector))
    }

    /// Stops the timer.
    pub fn stop_timer(&self) -> Result<(), Fault> {
        self.write(INITIAL, 0)?;
        self.write(TIMER, MASKED)
    }

    /// The register whose writing starts the timer.
    pub fn initial(&self) -> Place {
        self.at(INITIAL)
    }

    /// What the timer has left.
    pub fn current(&self) -> Result<u32, Fault> {
        self.read(CURRENT)
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
