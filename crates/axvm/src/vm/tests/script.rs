//! A vCPU whose guest is a list of steps.

use std::format;
use std::vec::Vec;

use axvm_addr::{Gpa, Irq, VcpuId};
use axvm_axdevice::{SysReg, Width};

use super::chip::Chip;
use super::{Fake, RAM};
use crate::devices::Hint;
use crate::hal::Resided;
use crate::vcpu::{
    Answer, Exit, Fault, IpiRequest, MmioAccess, PortAccess, PowerRequest, Slept, SystemAccess, Vcpu,
};
use crate::vm::{AxVM, Start};

/// What a guest does next.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// It loads from there, and expects this.
    Load(u64, Answer),
    /// It stores a word.
    Store(u64, u64, Answer),
    /// It stores two words by one instruction.
    StoreTwo(u64, [u64; 2]),
    /// It reads a system register, and expects this.
    Register(u32, Answer),
    /// It reads a byte from a port, and expects this.
    PortIn(u16, Answer),
    /// It writes a byte to a port.
    PortOut(u16, u8, Answer),
    /// It writes two bytes to a port by one instruction.
    PortOutTwo(u16, [u8; 2]),
    /// It makes a call that nobody knows.
    Unknown,
    /// It asks its firmware.
    Power(PowerRequest, &'static [Answer]),
    /// It fetches an instruction from there.
    Fetch(u64),
    /// It interrupts a vCPU of its own.
    Ipi(u64),
    /// It sleeps until this interrupt comes, and takes it.
    Await(Irq),
    /// It finds this in its first register when it starts.
    Argument(u64),
    /// It reads its memory for ever.
    Spin,
}

/// A vCPU whose guest is a list of steps.
pub struct Script<'a, H: Fake> {
    vm: &'a AxVM<H>,
    hal: &'a H,
    vcpu: VcpuId,
    start: Start,
    program: Vec<Step>,
    at: usize,
    /// The second half of an instruction, once the first is done.
    half: bool,
    hint: Hint,
}

/// Has a vCPU run its program.
pub fn reside<'a, H: Fake<Irqchip = Chip, Vcpu<'a> = Script<'a, H>>>(
    hal: &'a H,
    vm: &'a AxVM<H>,
    vcpu: VcpuId,
    start: Start,
    seat: VcpuId,
    run: impl FnOnce(&mut Script<'a, H>),
) -> Resided<H> {
    let lab = hal.lab();
    if let Err(error) = lab.faults.step("reside") {
        return Resided { seat, result: Err(error) };
    }
    let program = lab.programs.borrow().get(&start.entry).cloned().unwrap_or_default();
    lab.resident.borrow_mut().push(vcpu);
    run(&mut Script { vm, hal, vcpu, start, program, at: 0, half: false, hint: Hint::default() });
    lab.resident.borrow_mut().retain(|it| *it != vcpu);
    Resided { seat, result: Ok(()) }
}

impl<H: Fake<Irqchip = Chip>> Script<'_, H> {
    fn next(&mut self) {
        self.at += 1;
        self.half = false;
    }

    fn expect(&mut self, what: Answer, expected: &[Answer]) {
        if !expected.contains(&what) {
            let complaint = format!("vCPU {} at {}: {what:?} and not {expected:?}", self.vcpu, self.at);
            self.hal.lab().complaints.borrow_mut().push(complaint);
        }
        self.next();
    }

    fn mmio(gpa: u64, write: Option<u64>, continues: bool) -> Exit {
        Exit::Mmio(MmioAccess { gpa: Gpa(gpa), width: Width::B4, write, continues })
    }

    fn port(port: u16, write: Option<u8>, continues: bool) -> Exit {
        Exit::Port(PortAccess { port, width: Width::B1, write: write.map(u32::from), continues })
    }
}

impl<H: Fake<Irqchip = Chip>> Vcpu for Script<'_, H> {
    fn run(&mut self) -> Exit {
        let (lab, hal) = (self.hal.lab(), self.hal);
        loop {
            if self.program.get(self.at).is_some_and(|step| matches!(step, Step::Spin)) {
                while lab.stuck.get() {
                    lab.is_stuck.set(true);
                    std::thread::yield_now();
                }
            }
            if lab.bells.answer(self.vcpu) {
                return Exit::Interrupted;
            }
            let Some(step) = self.program.get(self.at).copied() else {
                return Exit::Power(PowerRequest::CpuOff);
            };
            // What it would reach may have been taken away.
            if !hal.cpu_reaches(RAM) && self.vm.is_moot(self.vcpu) {
                return Exit::Interrupted;
            }
            match step {
                // What is mapped is no exit.
                Step::Load(gpa, expected) if hal.cpu_reaches(gpa) => {
                    let value = lab.memory.borrow().get(&gpa).copied().unwrap_or(0);
                    self.expect(Answer::Value(value), &[expected]);
                }
                Step::Store(gpa, value, _) if hal.cpu_reaches(gpa) => {
                    lab.memory.borrow_mut().insert(gpa, value);
                    self.next();
                }
                Step::Spin if hal.cpu_reaches(RAM) => std::thread::yield_now(),
                // It may have been taken away since the last look, which is no fault of the guest's.
                Step::Load(..) | Step::Store(..) | Step::Spin if self.vm.is_moot(self.vcpu) => {
                    return Exit::Interrupted;
                }
                Step::Load(gpa, _) => return Self::mmio(gpa, None, false),
                Step::Store(gpa, value, _) => return Self::mmio(gpa, Some(value), false),
                Step::StoreTwo(gpa, [first, _]) if !self.half => return Self::mmio(gpa, Some(first), false),
                Step::StoreTwo(gpa, [_, second]) => return Self::mmio(gpa + 4, Some(second), true),
                Step::Register(register, _) => {
                    return Exit::SystemRegister(SystemAccess { register: SysReg(register), write: None });
                }
                Step::PortIn(port, _) => return Self::port(port, None, false),
                Step::PortOut(port, value, _) => return Self::port(port, Some(value), false),
                Step::PortOutTwo(port, [first, second]) => {
                    let value = if self.half { second } else { first };
                    return Self::port(port, Some(value), self.half);
                }
                Step::Unknown => return Exit::Hypercall,
                Step::Power(request, _) => return Exit::Power(request),
                Step::Fetch(gpa) => {
                    self.next();
                    return Exit::Fault(Fault::Fetch { gpa: Some(Gpa(gpa)) });
                }
                Step::Ipi(target) => {
                    self.next();
                    return Exit::Ipi(IpiRequest(target));
                }
                Step::Await(irq) if self.vm.irqchip().take(self.vcpu, irq) => self.next(),
                Step::Await(_) => return Exit::Halt { deadline: None },
                Step::Argument(expected) => {
                    self.expect(Answer::Value(self.start.argument), &[Answer::Value(expected)]);
                }
                Step::Spin => return Self::mmio(RAM, None, false),
            }
        }
    }

    fn complete(&mut self, answer: Answer) {
        match self.program.get(self.at).copied() {
            Some(Step::StoreTwo(..) | Step::PortOutTwo(..)) if !self.half => self.half = true,
            Some(Step::StoreTwo(..) | Step::PortOutTwo(..)) => self.expect(answer, &[Answer::Value(0)]),
            Some(Step::Unknown) => self.expect(answer, &[Answer::Nobody]),
            Some(Step::Power(_, expected)) => self.expect(answer, expected),
            Some(
                Step::Load(_, expected)
                | Step::Store(_, _, expected)
                | Step::Register(_, expected)
                | Step::PortIn(_, expected)
                | Step::PortOut(_, _, expected),
            ) => self.expect(answer, &[expected]),
            step => self.hal.lab().complaints.borrow_mut().push(format!("{answer:?} to {step:?}")),
        }
    }

    fn sleep(&mut self, _: Option<u64>) -> Slept {
        if self.vm.irqchip().has_pending(self.vcpu) {
            return Slept::Awake;
        }
        self.hal.lab().bells.wait(self.vcpu);
        Slept::Asleep
    }

    fn hold(&mut self) -> Slept {
        let held = &self.hal.lab().held;
        held.set(held.get() + 1);
        self.hal.lab().bells.wait(self.vcpu);
        Slept::Asleep
    }

    fn let_go(&mut self) {
        self.hal.lab().bells.forget(self.vcpu);
    }

    fn hint(&mut self) -> &mut Hint {
        &mut self.hint
    }

    fn pc(&self) -> u64 {
        self.start.entry + 4 * self.at as u64
    }
}
