//! Accesses to trapped registers that the syndrome doesn't describe (ESR_EL2.ISV is 0): pairs, writeback, vectors. The
//! instruction says what they are.
//!
//! Another vCPU may change the code between the fault and the fetch. So what the instruction says is believed as far as the
//! fault bears it out (`LoadStore::at_fault`). Whatever it says, each byte goes the way of every trapped access, through the
//! VM's own devices.

use core::arch::asm;

use axvm::vcpu::MmioAccess;
use axvm_addr::{Gpa, PAGE_SIZE};
use axvm_axdevice::Width;
use axvm_loadstore::{Access, Bank, Direction, LoadStore, Mismatch};
use axvm_syndrome::{is_aarch32, is_el0};

use super::guarded::probe_translation;
use super::sysreg::{mrs, msr};
use super::vcpu::Context;
use crate::vm::Vm;

/// A stage-2 fault on a load or store.
pub struct Fault {
    /// Whether it was a store (WnR).
    pub write: bool,
    /// The virtual address (FAR_EL2).
    pub far: u64,
    /// The guest-physical one (HPFAR_EL2, with the page offset of the virtual one).
    pub gpa: Gpa,
}

/// Why an access isn't performed. No part of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The instruction isn't one that is served, or isn't the one that faulted any more.
    Instruction,
    /// The address isn't a multiple of the width, as device memory wants it.
    Misaligned,
    /// Part of it goes where no device answers.
    NoDevice(Gpa),
}

/// An access is moved in pieces of at most eight bytes: two for each register of a pair of Q.
const MOST_PIECES: usize = 4;

/// An access that is performed piece by piece: each is an exit to the VM's devices.
pub struct Pieces {
    it: LoadStore,
    access: Access,
    start: Gpa,
    width: Width,
    far: u64,
    values: [u64; MOST_PIECES],
    done: usize,
}

/// Makes out the access that faulted. Nothing of it is performed yet.
///
/// # Errors
///
/// [`Refused`].
pub fn begin(vm: &Vm, context: &Context, fault: &Fault) -> Result<Pieces, Refused> {
    let it = decode(vm, context).ok_or(Refused::Instruction)?;
    let base = if it.base() == 31 { stack_pointer(context) } else { context.x(it.base().into()) };
    let index = it.index().map_or(0, |index| context.x(index.into()));
    let cause = axvm_loadstore::Fault { write: fault.write, address: fault.far };
    let access = it.at_fault(base, index, cause).map_err(|mismatch| match mismatch {
        Mismatch::Access => Refused::Instruction,
        Mismatch::Misaligned => Refused::Misaligned,
    })?;
    let start = Gpa(fault.gpa.0 & !(PAGE_SIZE - 1) | access.address & (PAGE_SIZE - 1));
    let width = Width::from_bytes(it.bytes().min(8)).ok_or(Refused::Instruction)?;
    let mut pieces = Pieces { it, access, start, width, far: fault.far, values: [0; MOST_PIECES], done: 0 };
    let mut all = (0..pieces.count()).map(|number| pieces.place(number));
    if let Some(outside) = all.find(|&gpa| !vm.devices().answers(gpa, width)) {
        return Err(Refused::NoDevice(outside));
    }
    if pieces.is_write() {
        gather(context, &it, &mut pieces.values);
    }
    Ok(pieces)
}

impl Pieces {
    fn count(&self) -> usize {
        (self.it.total() / self.width.bytes()) as usize
    }

    fn place(&self, number: usize) -> Gpa {
        Gpa(self.start.0 + number as u64 * self.width.bytes())
    }

    /// Whether it is a store.
    pub fn is_write(&self) -> bool {
        self.it.direction() == Direction::Store
    }

    /// The virtual address that faulted.
    pub fn far(&self) -> u64 {
        self.far
    }

    /// The piece whose turn it is.
    pub fn next(&self) -> MmioAccess {
        let write = self.values.get(self.done).copied().filter(|_| self.is_write());
        MmioAccess { gpa: self.place(self.done), width: self.width, write, continues: self.done != 0 }
    }

    /// That piece was performed: what a load has read. Whether it was the last.
    pub fn take(&mut self, value: u64) -> bool {
        if let Some(place) = self.values.get_mut(self.done).filter(|_| self.it.direction() == Direction::Load)
        {
            *place = value;
        }
        self.done += 1;
        self.done >= self.count()
    }

    /// All were performed: the guest has what it loaded, and goes past the instruction.
    pub fn finish(&self, context: &mut Context) {
        let it = &self.it;
        if !self.is_write() {
            scatter(context, it, &self.values);
        }
        match self.access.writeback {
            Some(moved) if it.base() == 31 => set_stack_pointer(context, moved),
            Some(moved) => context.set_x(it.base().into(), moved),
            None => {}
        }
        context.skip();
    }
}

/// The instruction at the guest's PC, if it is one that is served.
fn decode(vm: &Vm, context: &Context) -> Option<LoadStore> {
    let pstate = context.frame.pstate;
    // A 32-bit program at EL0 may be in the middle of an IT block, whose state would have to be moved on: not served.
    if is_aarch32(pstate) || is_big_endian(pstate) {
        return None;
    }
    let it = LoadStore::decode(fetch(vm, context.frame.pc)?)?;
    (it.bank() == Bank::General || may_use_vectors(pstate)).then_some(it)
}

/// The instruction of AArch64 at the guest's PC.
pub fn instruction(vm: &Vm, context: &Context) -> Option<u32> {
    fetch(vm, context.frame.pc).filter(|_| !is_aarch32(context.frame.pstate))
}

/// Reads an instruction as the guest would: its first stage translates, and what it translates to is RAM of the VM.
fn fetch(vm: &Vm, pc: u64) -> Option<u32> {
    let at = translate(pc).filter(|_| pc.is_multiple_of(4))?;
    let mut bytes = [0; 4];
    vm.ends().ram.read(at, &mut bytes).ok()?;
    Some(u32::from_le_bytes(bytes))
}

/// Where the guest's first stage leads, for a read at EL1. It may be anywhere.
pub fn translate(address: u64) -> Option<Gpa> {
    /// PAR_EL1.F: no translation; PA, bits 51:12 (Arm ARM, D24.2.133).
    const F: u64 = 1;
    const PA: u64 = 0x000f_ffff_ffff_f000;
    let par = probe_translation(address).ok().filter(|par| par & F == 0)?;
    Some(Gpa(par & PA | address & (PAGE_SIZE - 1)))
}

/// Whether data are big-endian at the level that was left (SCTLR_EL1.EE, E0E).
fn is_big_endian(pstate: u64) -> bool {
    let bit = if is_el0(pstate) { 24 } else { 25 };
    mrs!("sctlr_el1") >> bit & 1 != 0
}

/// Whether vector registers are there and the level that was left may use them (CPACR_EL1.FPEN).
fn may_use_vectors(pstate: u64) -> bool {
    let there = mrs!("id_aa64pfr0_el1") >> 16 & 0xf != 0xf;
    let enabled = match mrs!("cpacr_el1") >> 20 & 3 {
        0b11 => true,
        0b01 => !is_el0(pstate),
        _ => false,
    };
    there && enabled
}

/// Brings a store's data together, in the order of their addresses.
fn gather(context: &Context, it: &LoadStore, values: &mut [u64; MOST_PIECES]) {
    let mut to = values.iter_mut();
    for register in it.registers() {
        let [low, high] = match it.bank() {
            Bank::General => [context.x(register.into()), 0],
            Bank::Vector => read_vector(register),
        };
        let halves = if it.bytes() == 16 { &[low, high][..] } else { &[low][..] };
        // In this order: the other way round the last half would cost one more place.
        for (half, value) in halves.iter().zip(to.by_ref()) {
            *value = *half;
        }
    }
}

/// Puts a load's data into their registers.
fn scatter(context: &mut Context, it: &LoadStore, values: &[u64; MOST_PIECES]) {
    let mut from = values.iter().copied();
    for register in it.registers() {
        let low = from.next().unwrap_or(0);
        match it.bank() {
            Bank::General => context.set_x(register.into(), it.loaded(low)),
            Bank::Vector if it.bytes() == 16 => write_vector(register, [low, from.next().unwrap_or(0)]),
            Bank::Vector => write_vector(register, [it.loaded(low), 0]),
        }
    }
}

/// The stack pointer of the level that was left (PSTATE.SP).
fn stack_pointer(context: &Context) -> u64 {
    if context.frame.pstate & 1 == 0 { mrs!("sp_el0") } else { mrs!("sp_el1") }
}

fn set_stack_pointer(context: &Context, value: u64) {
    // SAFETY: the guest's own stack pointers; the hypervisor runs on SP_EL2.
    unsafe {
        if context.frame.pstate & 1 == 0 {
            msr!("sp_el0", value);
        } else {
            msr!("sp_el1", value);
        }
    }
}

/// One of 32 instructions, by the register that it names: eight bytes each, a branch to the end among them.
macro_rules! by_vector {
    ($instruction:literal, $number:expr, $place:expr) => {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "adr {to}, 2f",
            "add {to}, {to}, {number}, lsl #3",
            "br {to}",
            "2:",
            ".irp v, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            concat!($instruction, " q\\v, [{place}]"),
            "b 3f",
            ".endr",
            "3:",
            to = out(reg) _,
            number = in(reg) u64::from($number & 31),
            place = in(reg) $place,
            options(nostack),
        )
    };
}

/// A vector register of the guest's: the hypervisor uses none, so they are where the guest left them.
fn read_vector(number: u8) -> [u64; 2] {
    let mut value = [0u64; 2];
    // SAFETY: stores 16 bytes into a local; the branch goes to one of the 32 places below it.
    unsafe { by_vector!("str", number, &raw mut value) };
    value
}

fn write_vector(number: u8, value: [u64; 2]) {
    // SAFETY: loads 16 bytes of a local into a register that only the guest uses.
    unsafe { by_vector!("ldr", number, &raw const value) };
}
