//! An instruction that accesses ports: done in the guest's place, an element at a time.

use axvm::vcpu::PortAccess;
use axvm_addr::Gpa;
use axvm_axdevice::Width as AccessWidth;
use axvm_x86_access::{Register, Segment, Width};
use axvm_x86_cpu::event::Exception;
use axvm_x86_cpu::exit::{Direction, Exit as Left, Port, StringPort};
use axvm_x86_cpu::fetch::{self, About};
use axvm_x86_cpu::walk::{self, Access, Fault as WalkFault};

use super::emulate::{Next, Ram, physical_bits};
use super::run::Running;
use super::vcpu::Context;
use crate::memory::GuestRam;

/// An instruction that is being done.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    port: Port,
    string: Option<Text>,
    /// What is written to the port.
    value: u32,
    /// Elements that were done without going back into the guest.
    done: u16,
}

/// Of INS and OUTS.
#[derive(Clone, Copy, Debug)]
struct Text {
    repeat: bool,
    segment: Segment,
    address: Width,
}

/// So many elements in a row, then the guest is entered again, which goes on with the rest: interrupts get their turn.
const AT_ONCE: u16 = 64;

const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;

impl Transfer {
    /// The instruction at which the guest was left. `None`: the guest runs it again.
    pub fn begin(running: &mut Running<'_>, left: &Left, port: Port) -> Result<Option<Self>, Exception> {
        let context = &running.context;
        let string = match port.string {
            None => None,
            Some(string) => match text(running, left, string) {
                Some(text) => Some(text),
                None => return Ok(None),
            },
        };
        let mut transfer = Self { port, string, value: 0, done: 0 };
        if let Some(text) = string
            && text.repeat
            && context.register(RCX) & text.address.mask() == 0
        {
            // Nothing to do: the instruction is over.
            running.context.go_on_at(port.next_rip);
            return Ok(None);
        }
        if string.is_none() {
            transfer.value = Register::whole(0).get(context.register(0), port.width) as u32;
            return Ok(Some(transfer));
        }
        let ram = &running.vm.ends().ram;
        transfer.load(context, ram)
    }

    /// The access that it makes now.
    pub fn access(&self) -> PortAccess {
        let width = match self.port.width {
            Width::B1 => AccessWidth::B1,
            Width::B2 => AccessWidth::B2,
            Width::B4 | Width::B8 => AccessWidth::B4,
        };
        let write = (self.port.direction == Direction::Write).then_some(self.value & width.mask() as u32);
        PortAccess { port: self.port.port, width, write, continues: self.done != 0 }
    }

    /// For a string: where its element is, which is found before the access is made, and what OUTS writes. `None`: what the
    /// guest has there can't be reached, and it finds out itself.
    fn load(mut self, context: &Context, ram: &GuestRam) -> Result<Option<Self>, Exception> {
        let Some(text) = self.string else { return Ok(Some(self)) };
        let bytes = u64::from(self.port.width.bytes());
        let mut value = [0; 4];
        for (at, byte) in (0..bytes).zip(&mut value) {
            let Some(place) = self.place(context, ram, text, at)? else { return Ok(None) };
            if self.port.direction == Direction::Write
                && ram.read(place, core::slice::from_mut(byte)).is_err()
            {
                return Ok(None);
            }
        }
        self.value = u32::from_le_bytes(value);
        Ok(Some(self))
    }

    /// Where a byte of the element is.
    fn place(
        &self,
        context: &Context,
        ram: &GuestRam,
        text: Text,
        at: u64,
    ) -> Result<Option<Gpa>, Exception> {
        let save = &context.vmcb.save;
        let (pointer, access) = match self.port.direction {
            Direction::Read => (RDI, Access::Write),
            Direction::Write => (RSI, Access::Read),
        };
        let offset = context.register(pointer) & text.address.mask();
        let linear = walk::linear(save, text.segment, offset.wrapping_add(at), 1, access)?;
        match Ram::with(ram, |ram| walk::translate(save, linear, access, physical_bits(), ram)) {
            Ok(place) => Ok(Some(Gpa(place))),
            Err(WalkFault::Page(fault)) => Err(Exception::Page(fault)),
            Err(WalkFault::Memory(_)) => Ok(None),
        }
    }

    /// Its access was answered.
    pub fn answered(&mut self, running: &mut Running<'_>, value: u64) -> Next {
        let ram = &running.vm.ends().ram;
        let context = &mut running.context;
        let width = self.port.width;
        let Some(text) = self.string else {
            if self.port.direction == Direction::Read {
                let whole = context.register(0);
                context.set_register(0, Register::whole(0).put(whole, value, width));
            }
            context.go_on_at(self.port.next_rip);
            return Next::Done;
        };
        if self.port.direction == Direction::Read {
            for (at, byte) in (0..u64::from(width.bytes())).zip(value.to_le_bytes()) {
                // It was there before the access. If the guest has taken it away meanwhile, what was read is lost.
                if let Ok(Some(place)) = self.place(context, ram, text, at) {
                    let _ = ram.write(place, &[byte]);
                }
            }
        }
        if self.step(context, text) {
            context.go_on_at(self.port.next_rip);
            return Next::Done;
        }
        self.done += 1;
        if self.done >= AT_ONCE {
            // The registers say how far it is: the guest runs the rest of it.
            return Next::Done;
        }
        match self.load(context, ram) {
            Ok(Some(next)) => {
                *self = next;
                Next::Access
            }
            // The guest finds out itself.
            Ok(None) | Err(_) => Next::Done,
        }
    }

    /// Pointer and count move on. Whether it is over.
    fn step(&self, context: &mut Context, text: Text) -> bool {
        /// RFLAGS.DF.
        const DOWN: u64 = 1 << 10;
        let bytes = u64::from(self.port.width.bytes());
        let step = if context.vmcb.save.rflags & DOWN != 0 { bytes.wrapping_neg() } else { bytes };
        let mut add = |number: u8, value: u64| {
            let whole = context.register(number);
            let new = whole.wrapping_add(value) & text.address.mask();
            context.set_register(number, Register::whole(number).put(whole, new, text.address));
            new
        };
        add(if self.port.direction == Direction::Read { RDI } else { RSI }, step);
        !text.repeat || add(RCX, u64::MAX) == 0
    }
}

/// What a string instruction's operand is: as the processor says it, else as the instruction does.
fn text(running: &Running<'_>, left: &Left, string: StringPort) -> Option<Text> {
    if let (Some(address), Some(segment)) = (string.address, string.segment) {
        return Some(Text { repeat: string.repeat, segment, address });
    }
    let save = &running.context.vmcb.save;
    let bytes = Ram::with(&running.vm.ends().ram, |ram| fetch::bytes(save, physical_bits(), ram)).ok()?;
    match fetch::decode(bytes.as_slice(), walk::code(save), left).ok()?.about {
        About::Ports { segment, address } => Some(Text { repeat: string.repeat, segment, address }),
        _ => None,
    }
}
