//! An instruction that reached for registers: decoded, and done in the guest's place, access by access.

use core::cell::Cell;

use axvm::vcpu::MmioAccess;
use axvm_addr::Gpa;
use axvm_axdevice::Width as AccessWidth;
use axvm_x86_access::{Extend, Instruction, NotDecoded, Operation, Register, StringKind, Value, Width};
use axvm_x86_cpu::event::Exception;
use axvm_x86_cpu::walk::{self, Access, Fault as WalkFault, Memory, NoMemory};

use super::protection;
use super::vcpu::Context;
use crate::memory::GuestRam;
use crate::window::Window;

/// The guest's memory, for who walks its tables and reads its instructions. What was read last stays in the CPU's window, as most of what is
/// read next lies beside it.
pub struct Ram<'a> {
    ram: &'a GuestRam,
    seen: Cell<Seen>,
    window: Cell<Option<Window>>,
}

/// What the window shows.
#[derive(Clone, Copy, Default)]
struct Seen {
    first: u64,
    bytes: u64,
    /// Where `first` is seen.
    at: u64,
}

impl<'a> Ram<'a> {
    /// Does something with the memory of a guest. As long as it does, it opens no other window.
    pub fn with<R>(ram: &'a GuestRam, f: impl FnOnce(&Self) -> R) -> R {
        f(&Self { ram, seen: Cell::default(), window: Cell::default() })
    }

    #[inline(never)]
    fn look_at(&self, address: u64) -> Result<Seen, NoMemory> {
        let (first, bytes, start) = self.ram.around(Gpa(address)).ok_or(NoMemory(address))?;
        // One at a time.
        self.seen.set(Seen::default());
        drop(self.window.take());
        // SAFETY: the block is this guest's, as all of a `GuestRam` is.
        let window = unsafe { Window::open(start) }.ok_or(NoMemory(address))?;
        let seen = Seen { first: first.0, bytes, at: window.at() };
        self.window.set(Some(window));
        self.seen.set(seen);
        Ok(seen)
    }
}

impl Memory for Ram<'_> {
    #[inline(always)]
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NoMemory> {
        let mut seen = self.seen.get();
        if address.wrapping_sub(seen.first) >= seen.bytes {
            seen = self.look_at(address)?;
        }
        let offset = address - seen.first;
        if into.len() as u64 > seen.bytes - offset {
            return Err(NoMemory(address));
        }
        let at = seen.at + offset;
        // SAFETY: so much from there on is guest RAM that the window shows, apart from anything of Rust's. It may change meanwhile: whatever
        // bytes come are as good as others.
        unsafe {
            match <&mut [u8; 8]>::try_from(&mut *into) {
                // An entry of a table.
                Ok(word) if at.is_multiple_of(8) => *word = (at as *const u64).read_volatile().to_le_bytes(),
                _ => core::ptr::copy(at as *const u8, into.as_mut_ptr(), into.len()),
            }
        }
        Ok(())
    }
}

/// Guest-physical addresses have as many bits as the host's.
pub fn physical_bits() -> u8 {
    super::cpu::physical_address_bits()
}

/// Why an instruction can't be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The guest takes this first.
    Exception(Exception),
    /// It isn't one that talks to a device, or can't be read.
    Instruction,
    /// The guest has changed it meanwhile, or its tables: it runs again.
    Changed,
}

impl From<Exception> for Refused {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

impl From<WalkFault> for Refused {
    fn from(fault: WalkFault) -> Self {
        match fault {
            WalkFault::Page(fault) => Self::Exception(Exception::Page(fault)),
            WalkFault::Memory(_) => Self::Instruction,
        }
    }
}

/// Where an instruction stands.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It is to read.
    Read,
    /// It is to write this; then these are its effects.
    Write { value: u64, after: Effects },
}

/// What it does to registers when it is done.
#[derive(Clone, Copy, Debug, Default)]
struct Effects {
    register: Option<Put>,
    rflags: Option<u64>,
}

/// A register's new value.
#[derive(Clone, Copy, Debug)]
struct Put {
    register: Register,
    value: u64,
    width: Width,
}

/// An instruction that is being done.
#[derive(Clone, Copy, Debug)]
pub struct Emulation {
    instruction: Instruction,
    gpa: Gpa,
    step: Step,
    /// It has made an access.
    begun: bool,
}

/// What comes next of it.
pub enum Next {
    /// An access.
    Access,
    /// It is done.
    Done,
}

const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// A width, as devices are told it.
#[inline(always)]
pub fn access_width(width: Width) -> AccessWidth {
    match width {
        Width::B1 => AccessWidth::B1,
        Width::B2 => AccessWidth::B2,
        Width::B4 => AccessWidth::B4,
        Width::B8 => AccessWidth::B8,
    }
}

/// The guest-physical address of an operand, which must lie in one page.
fn place(
    context: &Context,
    ram: &GuestRam,
    instruction: &Instruction,
    memory: &axvm_x86_access::Memory,
    access: Access,
) -> Result<Gpa, Refused> {
    let save = &context.vmcb.save;
    let next = save.rip.wrapping_add(instruction.length.into());
    let offset = memory.offset(|number| context.register(number), next);
    let bytes = u64::from(instruction.width.bytes());
    let linear = walk::linear(save, memory.segment, offset, bytes, access)?;
    if linear & 0xfff > 0x1000 - bytes && !protection::takes_for_one_page() {
        return Err(Refused::Instruction);
    }
    Ok(Gpa(Ram::with(ram, |ram| walk::translate(save, linear, access, physical_bits(), ram))?))
}

impl Emulation {
    /// The instruction at which the guest was left, which reached for `gpa`.
    pub fn begin(context: &Context, ram: &GuestRam, gpa: Gpa, bytes: &[u8]) -> Result<Self, Refused> {
        let save = &context.vmcb.save;
        let instruction = Instruction::decode(bytes, walk::code(save)).map_err(|why| match why {
            // Another CPU has made that of it: the processor executes what is there now. One that takes its time with that comes back as often (QEMU: a
            // translation that was begun between hearing of the change and storing it is executed until the next change).
            NotDecoded::NoMemory => Refused::Changed,
            _ => Refused::Instruction,
        })?;
        let write = |value| Step::Write { value, after: Effects::default() };
        let step = match instruction.operation {
            Operation::Store { value } => write(operand(context, value, instruction.width)),
            Operation::String { kind: StringKind::Store, .. } => {
                write(context.register(0) & instruction.width.mask())
            }
            _ => Step::Read,
        };
        let emulation = Self { instruction, gpa, step, begun: false };
        match (instruction.operation, instruction.source) {
            (Operation::String { kind: StringKind::Move, .. }, Some(source)) => {
                emulation.begin_move(context, ram, &source)
            }
            _ => {
                let access = if matches!(step, Step::Read) { Access::Read } else { Access::Write };
                let place = place(context, ram, &instruction, &instruction.memory, access)?;
                if place == gpa || protection::takes_whatever_is_there() {
                    Ok(emulation)
                } else {
                    Err(Refused::Changed)
                }
            }
        }
    }

    /// MOVS: one of its two places is registers, and the other one is RAM.
    fn begin_move(
        mut self,
        context: &Context,
        ram: &GuestRam,
        source: &axvm_x86_access::Memory,
    ) -> Result<Self, Refused> {
        let instruction = self.instruction;
        let from = place(context, ram, &instruction, source, Access::Read)?;
        let to = place(context, ram, &instruction, &instruction.memory, Access::Write)?;
        if from == self.gpa {
            return Ok(self);
        }
        if to != self.gpa {
            return Err(Refused::Changed);
        }
        let mut bytes = [0; 8];
        let part = bytes.get_mut(..instruction.width.bytes().into()).ok_or(Refused::Instruction)?;
        ram.read(from, part).map_err(|_| Refused::Instruction)?;
        self.step = Step::Write { value: u64::from_le_bytes(bytes), after: Effects::default() };
        Ok(self)
    }

    /// The access that it makes now.
    pub fn access(&self) -> MmioAccess {
        let width = access_width(self.instruction.width);
        let write = match self.step {
            Step::Read => None,
            Step::Write { value, .. } => Some(value & width.mask()),
        };
        MmioAccess { gpa: self.gpa, width, write, continues: self.begun }
    }

    /// Its access was answered: by what was read, or anything for a write.
    pub fn answered(&mut self, context: &mut Context, ram: &GuestRam, value: u64) -> Next {
        self.begun = true;
        match self.step {
            Step::Write { after, .. } => {
                self.finish(context, after);
                Next::Done
            }
            Step::Read => self.read(context, ram, value & self.instruction.width.mask()),
        }
    }

    /// It has read: what it makes of that.
    fn read(&mut self, context: &mut Context, ram: &GuestRam, value: u64) -> Next {
        let width = self.instruction.width;
        let rflags = context.vmcb.save.rflags;
        let put = |register, value, width| Some(Put { register, value, width });
        let held = |register: Register| register.get(context.register(register.number), width);
        let mut after = Effects::default();
        let mut written = None;
        match self.instruction.operation {
            Operation::Load { to, extend } => {
                after.register = match extend {
                    Extend::No => put(to, value, width),
                    Extend::Zero(wide) => put(to, value, wide),
                    Extend::Sign(wide) => put(to, width.sign_extend(value), wide),
                };
            }
            Operation::Change { with, value: second } => {
                let outcome = with.compute(value, operand(context, second, width), width, rflags);
                after.rflags = Some(outcome.rflags);
                written = with.writes().then_some(outcome.value);
            }
            Operation::Combine { with, to } => {
                let outcome = with.compute(held(to), value, width, rflags);
                after.rflags = Some(outcome.rflags);
                if with.writes() {
                    after.register = put(to, outcome.value, width);
                }
            }
            Operation::Alone { with } => {
                let outcome = with.compute(value, width, rflags);
                after.rflags = Some(outcome.rflags);
                written = Some(outcome.value);
            }
            Operation::Bit { with, number } => {
                let outcome = with.compute(value, number, width, rflags);
                after.rflags = Some(outcome.rflags);
                written = (with != axvm_x86_access::BitTest::Test).then_some(outcome.value);
            }
            Operation::Exchange { with } => {
                written = Some(held(with));
                after.register = put(with, value, width);
            }
            Operation::ExchangeAdd { with } => {
                let outcome = axvm_x86_access::Two::Add.compute(value, held(with), width, rflags);
                after = Effects { register: put(with, value, width), rflags: Some(outcome.rflags) };
                written = Some(outcome.value);
            }
            Operation::CompareExchange { with } => {
                let accumulator = Register::whole(0);
                let outcome = axvm_x86_access::Two::Cmp.compute(held(accumulator), value, width, rflags);
                after.rflags = Some(outcome.rflags);
                if held(accumulator) == value {
                    written = Some(held(with));
                } else {
                    // The memory is written in any case, with what it was.
                    written = Some(value);
                    after.register = put(accumulator, value, width);
                }
            }
            Operation::String { kind: StringKind::Move, .. } => {
                let to = place(context, ram, &self.instruction, &self.instruction.memory, Access::Write);
                let bytes = value.to_le_bytes();
                let part = bytes.get(..width.bytes().into()).unwrap_or(&[]);
                // What it was to become may be registers again, or nothing any more, as the guest changed its tables meanwhile: lost.
                if let Ok(to) = to {
                    let _ = ram.write(to, part);
                }
            }
            Operation::String { .. } => after.register = put(Register::whole(0), value, width),
            // These don't read.
            Operation::Store { .. } => {}
        }
        match written {
            Some(value) => {
                self.step = Step::Write { value, after };
                Next::Access
            }
            None => {
                self.finish(context, after);
                Next::Done
            }
        }
    }

    fn finish(&self, context: &mut Context, after: Effects) {
        if let Some(Put { register, value, width }) = after.register {
            let whole = context.register(register.number);
            context.set_register(register.number, register.put(whole, value, width));
        }
        if let Some(rflags) = after.rflags {
            context.vmcb.save.rflags = rflags;
        }
        if let Operation::String { kind, repeat } = self.instruction.operation
            && !self.step_string(context, kind, repeat)
        {
            return;
        }
        context.go_on_at(context.vmcb.save.rip.wrapping_add(self.instruction.length.into()));
    }

    /// A string instruction's pointers and count move on. Whether it is over.
    fn step_string(&self, context: &mut Context, kind: StringKind, repeat: bool) -> bool {
        /// RFLAGS.DF.
        const DOWN: u64 = 1 << 10;
        let address = self.instruction.memory.address;
        let bytes = u64::from(self.instruction.width.bytes());
        let step = if context.vmcb.save.rflags & DOWN != 0 { bytes.wrapping_neg() } else { bytes };
        let mut add = |number: u8, value: u64| {
            let whole = context.register(number);
            let new = whole.wrapping_add(value) & address.mask();
            context.set_register(number, Register::whole(number).put(whole, new, address));
            new
        };
        if kind != StringKind::Store {
            add(RSI, step);
        }
        if kind != StringKind::Load {
            add(RDI, step);
        }
        !repeat || add(RCX, u64::MAX) == 0
    }
}

fn operand(context: &Context, value: Value, width: Width) -> u64 {
    match value {
        Value::Register(register) => register.get(context.register(register.number), width),
        Value::Immediate(value) => value & width.mask(),
    }
}
