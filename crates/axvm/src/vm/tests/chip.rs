//! The interrupt controller of both fakes' guests, and the devices that are emulated for them.

use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

use axvm_addr::{Irq, MsiSource, VcpuId};
use axvm_axdevice::{InterruptLine, MmioDevice, PortDevice, Width};

use super::lab::{Lab, Shared};
use super::{CONSOLE_IRQ, FIRST_MESSAGE, MESSAGES, MSI_ADDRESS, TIMER};
use crate::irqchip::{Irqchip, Lines};
use crate::msi::MsiMessage;
use crate::vcpu::IpiRequest;

/// How a host finds out which interrupt a message is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// By who sends it and what it says.
    BySender(MsiSource),
    /// By where it goes and what it says; who sends it, the host has seen to itself.
    ByAddress,
}

#[derive(Default)]
struct Pins {
    pending: Vec<(VcpuId, Irq)>,
    high: Vec<Irq>,
    seated: Vec<VcpuId>,
}

/// An interrupt controller with a few lines and messages, all of which go to vCPU 0, and interrupts between vCPUs.
pub struct Chip {
    lab: Arc<Lab>,
    vcpus: u16,
    told: Told,
    pins: Shared<Pins>,
}

impl Chip {
    pub fn new(lab: Arc<Lab>, vcpus: usize, told: Told) -> Self {
        lab.chips.set(lab.chips.get() + 1);
        Self { lab, vcpus: vcpus as u16, told, pins: Shared::default() }
    }

    fn pend(&self, vcpu: VcpuId, irq: Irq) {
        let mut pins = self.pins.borrow_mut();
        if !pins.pending.contains(&(vcpu, irq)) {
            pins.pending.push((vcpu, irq));
        }
        drop(pins);
        self.lab.bells.ring(vcpu);
    }

    /// Whether something waits for a vCPU.
    pub fn has_pending(&self, vcpu: VcpuId) -> bool {
        self.pins.borrow().pending.iter().any(|(it, _)| *it == vcpu)
    }

    /// The guest takes an interrupt, if it is pending, and ends it: a line that is high still comes again.
    pub fn take(&self, vcpu: VcpuId, irq: Irq) -> bool {
        let mut pins = self.pins.borrow_mut();
        assert!(pins.seated.contains(&vcpu), "it takes interrupts and isn't there");
        let before = pins.pending.len();
        let stays = pins.high.contains(&irq);
        pins.pending.retain(|it| *it != (vcpu, irq) || stays);
        stays || pins.pending.len() != before
    }
}

impl Drop for Chip {
    fn drop(&mut self) {
        self.lab.chips.set(self.lab.chips.get() - 1);
    }
}

impl Irqchip for Chip {
    type Error = &'static str;
    type Seat = VcpuId;

    fn enter(&self, vcpu: VcpuId) -> Result<VcpuId, &'static str> {
        self.lab.faults.step("enter")?;
        let mut pins = self.pins.borrow_mut();
        if vcpu.0 >= self.vcpus || pins.seated.contains(&vcpu) {
            return Err("there is no such vCPU, or it is there already");
        }
        pins.seated.push(vcpu);
        Ok(vcpu)
    }

    fn leave(&self, vcpu: VcpuId, seat: VcpuId) {
        assert_eq!(seat, vcpu);
        self.pins.borrow_mut().seated.retain(|it| *it != vcpu);
    }

    fn set_level(&self, irq: Irq, high: bool) -> Result<(), &'static str> {
        if irq != CONSOLE_IRQ {
            return Err("there is no such line");
        }
        let mut pins = self.pins.borrow_mut();
        let was = pins.high.contains(&irq);
        pins.high.retain(|it| *it != irq);
        pins.pending.retain(|(_, it)| *it != irq);
        if high {
            pins.high.push(irq);
            pins.pending.push((VcpuId(0), irq));
        }
        drop(pins);
        if high && !was {
            self.lab.bells.ring(VcpuId(0));
        }
        Ok(())
    }

    fn inject_irq_to_vcpu(&self, vcpu: VcpuId, irq: Irq) -> Result<(), &'static str> {
        if vcpu.0 >= self.vcpus || irq.0 >= FIRST_MESSAGE {
            return Err("there is no such vCPU or interrupt");
        }
        self.pend(vcpu, irq);
        Ok(())
    }

    fn send_msi(&self, source: Option<MsiSource>, message: MsiMessage) -> Result<(), &'static str> {
        let known = match self.told {
            Told::BySender(sender) => source == Some(sender),
            Told::ByAddress => message.address == MSI_ADDRESS,
        };
        if !known || message.data >= MESSAGES {
            return Err("nobody has set that up");
        }
        self.pend(VcpuId(0), Irq(FIRST_MESSAGE + message.data));
        Ok(())
    }

    fn send_ipi(&self, _: VcpuId, request: IpiRequest) {
        // The vCPU that is named, if there is one.
        if request.0 < u64::from(self.vcpus) {
            self.pend(VcpuId(request.0 as u16), TIMER);
        }
    }

    fn reset(&self) {
        let mut pins = self.pins.borrow_mut();
        assert!(pins.seated.is_empty(), "reset while a vCPU is there");
        *pins = Pins::default();
    }

    fn release(self) -> bool {
        true
    }
}

/// An emulated console: what is written to its first register is shown, 1 written to its second lowers its line.
pub struct Console {
    pub lab: Arc<Lab>,
    pub lines: Lines<Chip>,
}

impl PortDevice for Console {
    fn name(&self) -> &str {
        "console"
    }

    fn read(&self, _: VcpuId, _: u16, width: Width) -> u32 {
        width.mask() as u32
    }

    fn write(&self, _: VcpuId, _: u16, _: Width, value: u32) {
        self.lab.console.borrow_mut().push(char::from(value as u8));
    }
}

impl MmioDevice for Console {
    fn name(&self) -> &str {
        "console"
    }

    fn read(&self, _: VcpuId, offset: u64, _: Width) -> u64 {
        0xf00 | offset
    }

    fn write(&self, _: VcpuId, offset: u64, _: Width, value: u64) {
        match offset {
            0 => self.lab.console.borrow_mut().push(char::from(value as u8)),
            _ => self.lines.set_level(CONSOLE_IRQ, false),
        }
    }
}

/// A table of messages of which the host has to know each entry: one of 16 bytes for each vector, the last word of which arms it.
pub struct Table<F: Fn(u16, MsiMessage) + Send + Sync> {
    pub words: Shared<[u32; 16]>,
    pub armed: F,
    pub name: String,
}

impl<F: Fn(u16, MsiMessage) + Send + Sync> MmioDevice for Table<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, _: VcpuId, offset: u64, _: Width) -> u64 {
        self.words.borrow().get(offset as usize / 4).copied().unwrap_or(0).into()
    }

    fn write(&self, _: VcpuId, offset: u64, _: Width, value: u64) {
        let index = offset as usize / 4;
        let entry = {
            let mut words = self.words.borrow_mut();
            let Some(word) = words.get_mut(index) else { return };
            *word = value as u32;
            let first = index & !3;
            (words[first], words[first + 2])
        };
        if index & 3 == 3 {
            (self.armed)((index / 4) as u16, MsiMessage { address: entry.0.into(), data: entry.1 });
        }
    }
}
