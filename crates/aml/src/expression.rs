//! Expressions: whatever has a value (ACPI 6.5, 20.2.5.4).

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::code::Code;
use crate::error::Error;
use crate::machine::Aml;
use crate::namespace::{NodeId, Object};
use crate::operator;
use crate::run::Frame;
use crate::space::Hardware;
use crate::value::{Reference, Shared, Value};

impl<H: Hardware> Aml<H> {
    /// The value of the expression here.
    pub(crate) fn expression(&mut self, frame: &mut Frame, code: &mut Code) -> Result<Value, Error> {
        self.step(1)?;
        self.deeper(|aml| {
            if code.is_at_name() {
                return aml.named(frame, code);
            }
            let opcode = code.opcode()?;
            match opcode {
                0x00 | 0x01 | 0xff | 0x0a..=0x0c | 0x0e | 0x0d | 0x5b30 | 0x5b31 => {
                    aml.constant(code, opcode)
                }
                0x60..=0x6e => {
                    let slot = frame.slot(opcode)?.clone();
                    aml.doubt |= slot.doubtful.get();
                    slot.get()
                }
                0x11 => aml.buffer(frame, code),
                0x12 | 0x13 => aml.package(frame, code, opcode),
                0x71 | 0x5b12 | 0x88 | 0x83 => aml.reference_operator(frame, code, opcode),
                0x70 | 0x9d => aml.store_operator(frame, code, opcode),
                0x72 | 0x74 | 0x77..=0x82 | 0x85 | 0x5b28 | 0x5b29 => aml.arithmetic(frame, code, opcode),
                0x75 | 0x76 => aml.increment(frame, code, opcode),
                0x90..=0x95 => aml.logic(frame, code, opcode),
                0x73 | 0x84 | 0x96..=0x99 | 0x9c | 0x9e => aml.conversion(frame, code, opcode),
                0x87 | 0x89 | 0x8e => aml.question(frame, code, opcode),
                0x86 | 0x5b21..=0x5b27 | 0x5b32 | 0x5b33 => aml.without_effect(frame, code, opcode),
                other => Err(Error::Opcode(other)),
            }
        })
    }

    /// The number that the expression here is.
    pub(crate) fn integer_of(&mut self, frame: &mut Frame, code: &mut Code) -> Result<u64, Error> {
        let value = self.expression(frame, code)?;
        self.integer(&value)
    }

    #[inline(never)]
    fn constant(&mut self, code: &mut Code, opcode: u16) -> Result<Value, Error> {
        Ok(match opcode {
            0x00 => Value::Integer(0),
            0x01 => Value::Integer(1),
            0xff => Value::Integer(self.mask()),
            0x0a => Value::Integer(code.number(1)?),
            0x0b => Value::Integer(code.number(2)?),
            0x0c => Value::Integer(code.number(4)?),
            0x0e => Value::Integer(code.number(8)?),
            0x0d => {
                let mut text = Vec::new();
                loop {
                    self.take(1)?;
                    match code.byte()? {
                        0 => break,
                        byte => text.push(byte),
                    }
                }
                Value::Text(Shared::new(text))
            }
            0x5b30 => Value::Integer(2),
            _ => Value::Reference(Reference::Nowhere),
        })
    }

    #[inline(never)]
    fn buffer(&mut self, frame: &mut Frame, code: &mut Code) -> Result<Value, Error> {
        let end = code.package_end()?;
        let mut inner = code.until(end);
        let size = usize::try_from(self.integer_of(frame, &mut inner)?).map_err(|_| Error::Memory)?;
        let given = inner.bytes.get(inner.at..end).ok_or(Error::Cut)?;
        let size = size.max(given.len());
        self.take(size)?;
        let mut bytes = given.to_vec();
        bytes.resize(size, 0);
        code.at = end;
        Ok(Value::Buffer(Shared::new(bytes)))
    }

    #[inline(never)]
    fn package(&mut self, frame: &mut Frame, code: &mut Code, opcode: u16) -> Result<Value, Error> {
        let end = code.package_end()?;
        let mut inner = code.until(end);
        let count = if opcode == 0x12 { inner.number(1)? } else { self.integer_of(frame, &mut inner)? };
        let count = usize::try_from(count).map_err(|_| Error::Memory)?;
        self.take(count.checked_mul(size_of::<Value>()).ok_or(Error::Memory)?)?;
        let mut elements = Vec::with_capacity(count);
        while !inner.is_at_end() && elements.len() < count {
            elements.push(if inner.is_at_name() {
                Value::Name { scope: frame.scope, path: Rc::new(inner.path()?) }
            } else {
                self.expression(frame, &mut inner)?.into_element()?
            });
        }
        elements.resize(count, Value::None);
        code.at = end;
        let package = Shared::new(elements);
        package.doubtful.set(self.doubt);
        Ok(Value::Package(package))
    }

    /// What a name stands for: a value, or what a method gives.
    #[inline(never)]
    fn named(&mut self, frame: &mut Frame, code: &mut Code) -> Result<Value, Error> {
        let path = code.path()?;
        let id = self.names.find(frame.scope, &path).ok_or(Error::NoObject)?;
        match self.names.get(id).map(|node| &node.object) {
            Some(Object::Method { code: method, arguments }) => {
                let (method, count) = (method.clone(), *arguments);
                let arguments = self.arguments(frame, code, count)?;
                self.call(id, method, arguments)
            }
            Some(Object::AskOs) => match self.expression(frame, code)? {
                // Whatever Linux answers so too.
                Value::Text(text) => {
                    let known = text.with(|text| text.starts_with(b"Windows 20"))?;
                    Ok(Value::Integer(if known { self.mask() } else { 0 }))
                }
                _ => Ok(Value::Integer(0)),
            },
            Some(&Object::External { arguments }) => {
                self.arguments(frame, code, arguments)?;
                Err(Error::NoObject)
            }
            _ => self.value_of(id),
        }
    }

    /// The arguments of a call. Whether one is in doubt goes with it; the call itself isn't because of that.
    fn arguments(
        &mut self,
        frame: &mut Frame,
        code: &mut Code,
        count: u8,
    ) -> Result<Vec<Rc<Shared<Value>>>, Error> {
        let before = self.doubt;
        let mut arguments = Vec::new();
        for _ in 0..count {
            let argument = Shared::new(self.expression(frame, code)?);
            argument.doubtful.set(core::mem::replace(&mut self.doubt, before));
            arguments.push(argument);
        }
        Ok(arguments)
    }

    /// The value of an object, or a reference to one that has none.
    pub(crate) fn value_of(&mut self, id: NodeId) -> Result<Value, Error> {
        let node = self.names.get(id).ok_or(Error::NoObject)?;
        self.doubt |= node.doubtful;
        match &node.object {
            Object::Value(value) => Ok(value.clone()),
            Object::Field(field) => {
                let field = *field;
                self.read_field(&field)
            }
            Object::BufferField { of, at, bits } => {
                let (of, at, bits) = (of.clone(), *at, *bits);
                let bytes = self.bytes_of(&of)?;
                self.bits_of(&bytes, at, bits)
            }
            _ => Ok(Value::Reference(Reference::Node(id))),
        }
    }

    /// Where a result goes.
    pub(crate) fn target(&mut self, frame: &mut Frame, code: &mut Code) -> Result<Reference, Error> {
        self.step(1)?;
        if code.is_at_name() {
            let path = code.path()?;
            return self.names.find(frame.scope, &path).map(Reference::Node).ok_or(Error::NoObject);
        }
        match code.peek().ok_or(Error::Cut)? {
            0 => {
                code.at += 1;
                Ok(Reference::Nowhere)
            }
            opcode @ 0x60..=0x6e => {
                code.at += 1;
                let slot = frame.slot(opcode.into())?.clone();
                // An argument that refers to something stands for that (19.6: by-reference arguments).
                match slot.get()? {
                    Value::Reference(reference) if opcode >= 0x68 => Ok(reference),
                    _ => Ok(Reference::Slot(slot)),
                }
            }
            _ => match self.expression(frame, code)? {
                Value::Reference(reference) => Ok(reference),
                _ => Err(Error::Type),
            },
        }
    }

    #[inline(never)]
    fn reference_operator(
        &mut self,
        frame: &mut Frame,
        code: &mut Code,
        opcode: u16,
    ) -> Result<Value, Error> {
        match opcode {
            0x71 => Ok(Value::Reference(self.target(frame, code)?)),
            0x5b12 => {
                let found = if code.is_at_name() {
                    let path = code.path()?;
                    let found = self.names.find(frame.scope, &path);
                    let is_there = |id: &NodeId| {
                        let object = self.names.get(*id).map(|node| &node.object);
                        !matches!(object, None | Some(Object::External { .. }))
                    };
                    found.filter(is_there).map(Reference::Node)
                } else {
                    Some(self.target(frame, code)?)
                };
                let into = self.target(frame, code)?;
                let is_there = found.is_some();
                if let Some(found) = found {
                    self.store(&into, &Value::Reference(found), false)?;
                }
                Ok(self.truth(is_there))
            }
            0x83 => {
                let value = self.expression(frame, code)?;
                match self.real_name(&value)? {
                    Value::Reference(reference) => self.dereference(&reference),
                    // A text names what is meant (19.6.30); firmware doesn't do it where it matters here.
                    _ => Err(Error::Type),
                }
            }
            _ => {
                let of = self.expression(frame, code)?;
                let index = usize::try_from(self.integer_of(frame, code)?).map_err(|_| Error::Index)?;
                let element = match self.real(&of)? {
                    Value::Package(package) => {
                        let count = package.with(Vec::len)?;
                        (index < count).then_some(Reference::Element { package, index })
                    }
                    Value::Buffer(bytes) | Value::Text(bytes) => {
                        let count = bytes.with(Vec::len)?;
                        (index < count).then_some(Reference::Byte { bytes, index })
                    }
                    _ => return Err(Error::Type),
                };
                let element = Value::Reference(element.ok_or(Error::Index)?);
                let into = self.target(frame, code)?;
                self.store(&into, &element, false)?;
                Ok(element)
            }
        }
    }

    #[inline(never)]
    fn store_operator(&mut self, frame: &mut Frame, code: &mut Code, opcode: u16) -> Result<Value, Error> {
        let value = self.expression(frame, code)?;
        let into = self.target(frame, code)?;
        self.store(&into, &value, opcode == 0x9d)?;
        Ok(value)
    }

    #[inline(never)]
    fn arithmetic(&mut self, frame: &mut Frame, code: &mut Code, opcode: u16) -> Result<Value, Error> {
        let first = self.integer_of(frame, code)?;
        if matches!(opcode, 0x80..=0x82 | 0x5b28 | 0x5b29) {
            let result = operator::one(opcode, first)?;
            return self.result(frame, code, result);
        }
        let second = self.integer_of(frame, code)?;
        if opcode == 0x78 {
            let remainder = first.checked_rem(second).ok_or(Error::Division)?;
            self.result(frame, code, remainder)?;
            return self.result(frame, code, first / second);
        }
        let result = operator::two(opcode, first, second, self.mask())?;
        self.result(frame, code, result)
    }

    /// Puts a number where the code says.
    fn result(&mut self, frame: &mut Frame, code: &mut Code, number: u64) -> Result<Value, Error> {
        let value = Value::Integer(number & self.mask());
        let into = self.target(frame, code)?;
        self.store(&into, &value, false)?;
        Ok(value)
    }

    #[inline(never)]
    fn increment(&mut self, frame: &mut Frame, code: &mut Code, opcode: u16) -> Result<Value, Error> {
        let into = self.target(frame, code)?;
        let value = self.dereference(&into)?;
        let number = self.integer(&value)?;
        let number = if opcode == 0x75 { number.wrapping_add(1) } else { number.wrapping_sub(1) };
        let value = Value::Integer(number & self.mask());
        self.store(&into, &value, false)?;
        Ok(value)
    }

    #[inline(never)]
    fn logic(&mut self, frame: &mut Frame, code: &mut Code, opcode: u16) -> Result<Value, Error> {
        let first = self.expression(frame, code)?;
        if opcode == 0x92 {
            let is = self.integer(&first)? == 0;
            return Ok(self.truth(is));
        }
        let second = self.expression(frame, code)?;
        let is = if matches!(opcode, 0x90 | 0x91) {
            let (first, second) = (self.integer(&first)? != 0, self.integer(&second)? != 0);
            if opcode == 0x90 { first && second } else { first || second }
        } else {
            let order = self.compare(&first, &second)?;
            match opcode {
                0x93 => order.is_eq(),
                0x94 => order.is_gt(),
                _ => order.is_lt(),
            }
        };
        Ok(self.truth(is))
    }

    /// What has an effect on hardware, or waits: nothing happens.
    #[inline(never)]
    fn without_effect(&mut self, frame: &mut Frame, code: &mut Code, opcode: u16) -> Result<Value, Error> {
        match opcode {
            // Notify.
            0x86 => {
                self.target(frame, code)?;
                self.expression(frame, code)?;
            }
            // Stall, Sleep.
            0x5b21 | 0x5b22 => drop(self.expression(frame, code)?),
            // Acquire: it has it.
            0x5b23 => {
                self.target(frame, code)?;
                code.number(2)?;
            }
            // Signal, Reset, Release.
            0x5b24 | 0x5b26 | 0x5b27 => drop(self.target(frame, code)?),
            // Wait: it has come.
            0x5b25 => {
                self.target(frame, code)?;
                self.expression(frame, code)?;
            }
            0x5b32 => return Err(Error::Fatal),
            // Timer.
            _ => self.doubt = true,
        }
        Ok(Value::Integer(0))
    }

    pub(crate) fn truth(&self, is: bool) -> Value {
        Value::Integer(if is { self.mask() } else { 0 })
    }

    /// Every bit of an integer.
    pub(crate) fn mask(&self) -> u64 {
        if self.wide { u64::MAX } else { u32::MAX.into() }
    }
}
