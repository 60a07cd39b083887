//! Which PCI function a region of config space belongs to (ACPI 6.5, 5.5.2.4 and 6.1.1): the device that it is declared in, below a host
//! bridge, by the addresses of all that are between.

use alloc::vec::Vec;

use crate::code::Code;
use crate::eisa_id;
use crate::machine::Aml;
use crate::name::Name;
use crate::namespace::{NodeId, Object};
use crate::space::{Hardware, PciFunction};
use crate::value::Value;

/// The hardware ids of host bridges.
const HOST_BRIDGES: [&str; 2] = ["PNP0A03", "PNP0A08"];
/// Registers of a bridge's config space (PCI-to-PCI Bridge Architecture 1.2, 3.2.5): which layout it has, and the bus behind it.
const HEADER_TYPE: u16 = 0x0e;
const SECONDARY_BUS: u16 = 0x19;
/// More bridges than there are buses.
const MOST: usize = 32;

impl<H: Hardware> Aml<H> {
    /// The function of the device that a region is declared in, in a method of it or not.
    pub(crate) fn function_of(&mut self, region: NodeId) -> Option<PciFunction> {
        let mut at = region;
        while !matches!(self.names.get(at)?.object, Object::Device) {
            at = self.parent(at)?;
        }
        // The addresses below the host bridge, the lowest first.
        let mut steps = Vec::new();
        while !self.is_host_bridge(at) {
            steps.push(self.number(at, b"_ADR")??);
            at = self.parent(at)?;
            if steps.len() > MOST {
                return None;
            }
        }
        // What a host bridge declares itself is in its own first function.
        let root = if steps.is_empty() { self.number(at, b"_ADR")?.unwrap_or(0) } else { steps.pop()? };
        let segment = u16::try_from(self.number(at, b"_SEG")?.unwrap_or(0)).ok()?;
        let bus = u8::try_from(self.number(at, b"_BBN")?.unwrap_or(0)).ok()?;
        let mut function = function(segment, bus, root)?;
        for address in steps.into_iter().rev() {
            let layout = self.hardware.config(function, HEADER_TYPE, 1)?;
            let behind = u8::try_from(self.hardware.config(function, SECONDARY_BUS, 1)?).ok()?;
            if layout & 0x7f != 1 || behind == 0 {
                return None;
            }
            function = self::function(segment, behind, address)?;
        }
        Some(function)
    }

    /// Whether a device is a host bridge of PCI.
    fn is_host_bridge(&self, device: NodeId) -> bool {
        let is_one = |value: &Value| match value {
            Value::Integer(id) => {
                u32::try_from(*id).is_ok_and(|id| HOST_BRIDGES.contains(&eisa_id(id).as_str()))
            }
            Value::Text(text) => {
                text.with(|text| HOST_BRIDGES.iter().any(|id| id.as_bytes() == text)).unwrap_or(false)
            }
            _ => false,
        };
        [b"_HID", b"_CID"].into_iter().filter_map(|name| self.names.child(device, Name(*name))).any(|id| {
            match self.names.get(id).map(|node| &node.object) {
                Some(Object::Value(Value::Package(list))) => {
                    list.with(|list| list.iter().any(is_one)).unwrap_or(false)
                }
                Some(Object::Value(value)) => is_one(value),
                _ => false,
            }
        })
    }

    /// A number that a device has right below it, or that a method of it gives: firmware has `_BBN` as such where buses are numbered anew.
    /// `None` inside: it has none; outside: it has one that isn't known.
    fn number(&mut self, device: NodeId, name: &[u8; 4]) -> Option<Option<u64>> {
        let Some(id) = self.names.child(device, Name(*name)) else { return Some(None) };
        let node = self.names.get(id)?;
        let (is_doubtful, object) = (node.doubtful, node.object.clone());
        match object {
            _ if is_doubtful => None,
            Object::Value(Value::Integer(number)) => Some(Some(number)),
            Object::Method { code, .. } => self.number_by_method(id, code).map(Some),
            _ => None,
        }
    }

    /// What a method gives that is asked in the middle of another evaluation, and leaves that as it was.
    fn number_by_method(&mut self, method: NodeId, code: Code) -> Option<u64> {
        // It may ask config space itself, whose function is being looked up.
        if core::mem::replace(&mut self.looks_up, true) {
            return None;
        }
        let before = core::mem::take(&mut self.doubt);
        let called = self.call(method, code, Vec::new());
        self.looks_up = false;
        let is_sure = !core::mem::replace(&mut self.doubt, before);
        match called {
            Ok(Value::Integer(number)) if is_sure => Some(number),
            _ => None,
        }
    }
}

/// The function at an address of ACPI's: the device number in the upper half, the function's in the lower (6.1.1).
fn function(segment: u16, bus: u8, address: u64) -> Option<PciFunction> {
    let device = u8::try_from(address >> 16).ok().filter(|device| *device < 32)?;
    let function = u8::try_from(address & 0xffff).ok().filter(|function| *function < 8)?;
    Some(PciFunction { segment, bus, device, function })
}
