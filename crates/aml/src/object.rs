//! What is done with objects: read, stored to, compared, converted (ACPI 6.5, 19.3.5).

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt::Write;

use crate::code::Code;
use crate::error::Error;
use crate::machine::Aml;
use crate::namespace::{NodeId, Object};
use crate::run::Frame;
use crate::space::Hardware;
use crate::value::{Reference, Shared, Value};

impl<H: Hardware> Aml<H> {
    /// The bytes of a buffer or text, copied.
    pub(crate) fn bytes_of(&mut self, bytes: &Shared<Vec<u8>>) -> Result<Vec<u8>, Error> {
        self.doubt |= bytes.doubtful.get();
        self.take(bytes.with(Vec::len)?)?;
        bytes.get()
    }

    /// A value that is no name.
    pub(crate) fn real_name(&mut self, value: &Value) -> Result<Value, Error> {
        match value {
            Value::Name { scope, path } => {
                let id = self.names.find(*scope, path).ok_or(Error::NoObject)?;
                self.value_of(id)
            }
            other => Ok(other.clone()),
        }
    }

    /// A value that is neither name nor reference.
    pub(crate) fn real(&mut self, value: &Value) -> Result<Value, Error> {
        let mut value = self.real_name(value)?;
        for _ in 0..4 {
            let Value::Reference(reference) = &value else { return Ok(value) };
            let next = self.dereference(&reference.clone())?;
            value = self.real_name(&next)?;
        }
        Err(Error::Type)
    }

    /// What is where a reference leads.
    pub(crate) fn dereference(&mut self, reference: &Reference) -> Result<Value, Error> {
        match reference {
            Reference::Nowhere => Err(Error::Type),
            Reference::Node(id) => self.value_of(*id),
            Reference::Slot(slot) => {
                self.doubt |= slot.doubtful.get();
                slot.get()
            }
            Reference::Element { package, index } => {
                self.doubt |= package.doubtful.get();
                let element = package.with(|package| package.get(*index).cloned())?.ok_or(Error::Index)?;
                self.real_name(&element)
            }
            Reference::Byte { bytes, index } => {
                self.doubt |= bytes.doubtful.get();
                let byte = bytes.with(|bytes| bytes.get(*index).copied())?.ok_or(Error::Index)?;
                Ok(Value::Integer(byte.into()))
            }
        }
    }

    /// The number that a value is, or stands for (19.3.5.4).
    pub(crate) fn integer(&mut self, value: &Value) -> Result<u64, Error> {
        match self.real(value)? {
            Value::Integer(number) => Ok(number),
            Value::Buffer(bytes) => {
                let most = if self.wide { 8 } else { 4 };
                let bytes = self.bytes_of(&bytes)?;
                Ok(bytes.iter().take(most).rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
            }
            Value::Text(text) => {
                let text = self.bytes_of(&text)?;
                let digits = text.iter().map_while(|byte| char::from(*byte).to_digit(16)).take(16);
                Ok(digits.fold(0, |number, digit| number << 4 | u64::from(digit)))
            }
            _ => Err(Error::Type),
        }
    }

    /// The bytes that a value is, or stands for.
    fn as_bytes(&mut self, value: &Value) -> Result<Vec<u8>, Error> {
        match self.real(value)? {
            Value::Integer(number) => {
                let bytes = if self.wide { 8 } else { 4 };
                Ok(number.to_le_bytes().into_iter().take(bytes).collect())
            }
            Value::Buffer(bytes) | Value::Text(bytes) => self.bytes_of(&bytes),
            _ => Err(Error::Type),
        }
    }

    /// Compares as the first one's type has it.
    pub(crate) fn compare(&mut self, first: &Value, second: &Value) -> Result<Ordering, Error> {
        match self.real(first)? {
            Value::Integer(first) => Ok(first.cmp(&self.integer(second)?)),
            Value::Buffer(bytes) | Value::Text(bytes) => {
                let first = self.bytes_of(&bytes)?;
                Ok(first.cmp(&self.as_bytes(second)?))
            }
            _ => Err(Error::Type),
        }
    }

    /// A value of its own, that nothing else refers to.
    fn copy(&mut self, value: &Value, depth: u8) -> Result<Value, Error> {
        let depth = depth.checked_sub(1).ok_or(Error::Depth)?;
        Ok(match value {
            Value::Text(text) => Value::Text(Shared::new(self.bytes_of(text)?)),
            Value::Buffer(bytes) => Value::Buffer(Shared::new(self.bytes_of(bytes)?)),
            Value::Package(package) => {
                self.doubt |= package.doubtful.get();
                self.take(package.with(Vec::len)?.saturating_mul(size_of::<Value>()))?;
                let elements = package.get()?;
                let copies = elements.iter().map(|it| self.copy(it, depth)).collect::<Result<_, _>>()?;
                Value::Package(Shared::new(copies))
            }
            other => other.clone(),
        })
    }

    /// Stores a value, converted to the type of what is there, unless it is put in the place of that (CopyObject).
    pub(crate) fn store(&mut self, into: &Reference, value: &Value, replace: bool) -> Result<(), Error> {
        self.step(1)?;
        match into {
            Reference::Nowhere => Ok(()),
            Reference::Slot(slot) => {
                let value = self.copy(value, 8)?;
                slot.doubtful.set(self.doubt);
                slot.change(|slot| *slot = value)
            }
            Reference::Element { package, index } => {
                let value = self.copy(value, 8)?.into_element()?;
                package.doubtful.set(package.doubtful.get() | self.doubt);
                package.change(|package| match package.get_mut(*index) {
                    Some(element) => {
                        *element = value;
                        Ok(())
                    }
                    None => Err(Error::Index),
                })?
            }
            Reference::Byte { bytes, index } => {
                let byte = self.integer(value)? as u8;
                bytes.doubtful.set(bytes.doubtful.get() | self.doubt);
                bytes.change(|bytes| match bytes.get_mut(*index) {
                    Some(place) => {
                        *place = byte;
                        Ok(())
                    }
                    None => Err(Error::Index),
                })?
            }
            Reference::Node(id) => self.store_named(*id, value, replace),
        }
    }

    #[inline(never)]
    fn store_named(&mut self, id: NodeId, value: &Value, replace: bool) -> Result<(), Error> {
        let had = match &self.names.get(id).ok_or(Error::NoObject)?.object {
            Object::Value(had) => had.clone(),
            Object::Field(field) => {
                let field = *field;
                let from = self.as_bytes(value)?;
                return self.write_field(&field, &from);
            }
            Object::BufferField { of, at, bits } => {
                let (of, at, bits) = (of.clone(), *at, *bits);
                let from = self.as_bytes(value)?;
                self.step(bits / 8)?;
                of.doubtful.set(of.doubtful.get() | self.doubt);
                return of.change(|bytes| put_bits(bytes, at, bits, &from));
            }
            _ => return Err(Error::Type),
        };
        let value = match had {
            _ if replace => self.copy(value, 8)?,
            Value::Integer(_) => Value::Integer(self.integer(value)? & self.mask()),
            Value::Buffer(bytes) => {
                // It stays as long as it is.
                let mut from = self.as_bytes(value)?;
                from.resize(bytes.with(Vec::len)?, 0);
                self.take(from.len())?;
                bytes.doubtful.set(bytes.doubtful.get() | self.doubt);
                return bytes.change(|bytes| *bytes = from);
            }
            Value::Text(_) => match self.real(value)? {
                Value::Text(text) => Value::Text(Shared::new(self.bytes_of(&text)?)),
                Value::Integer(number) => Value::Text(Shared::new(digits(number, 16))),
                Value::Buffer(bytes) => Value::Text(Shared::new(self.bytes_of(&bytes)?)),
                _ => return Err(Error::Type),
            },
            _ => self.copy(value, 8)?,
        };
        let doubt = self.doubt;
        if let Some(node) = self.names.get_mut(id) {
            node.object = Object::Value(value);
            node.doubtful = doubt;
        }
        Ok(())
    }

    /// Bits of bytes: a number, if they fit into one.
    pub(crate) fn bits_of(&mut self, bytes: &[u8], at: usize, bits: usize) -> Result<Value, Error> {
        self.take(bits / 8)?;
        let bit = |number: usize| bytes.get(number / 8).is_some_and(|byte| byte >> (number % 8) & 1 != 0);
        let byte = |from: usize, count: usize| {
            (0..count).fold(0u8, |byte, place| byte | u8::from(bit(at + from + place)) << place)
        };
        let taken: Vec<u8> = (0..bits.div_ceil(8)).map(|it| byte(it * 8, (bits - it * 8).min(8))).collect();
        if bits > 64 {
            return Ok(Value::Buffer(Shared::new(taken)));
        }
        Ok(Value::Integer(taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))))
    }

    /// Concatenation, conversions, parts.
    #[inline(never)]
    pub(crate) fn conversion(
        &mut self,
        frame: &mut Frame,
        code: &mut Code,
        opcode: u16,
    ) -> Result<Value, Error> {
        let first = self.expression(frame, code)?;
        let first = self.real(&first)?;
        let value = match opcode {
            0x73 => {
                let second = self.expression(frame, code)?;
                self.concatenate(&first, &second)?
            }
            0x84 => {
                let second = self.expression(frame, code)?;
                let (mut all, more) = (self.as_bytes(&first)?, self.as_bytes(&second)?);
                // Each ends with an end tag of two bytes, of which the sum keeps one.
                all.truncate(all.len().saturating_sub(2));
                all.extend(more.iter().take(more.len().saturating_sub(2)));
                all.extend([0x79, 0]);
                self.take(all.len())?;
                Value::Buffer(Shared::new(all))
            }
            0x96 => {
                let mut bytes = self.as_bytes(&first)?;
                if matches!(first, Value::Text(_)) {
                    bytes.push(0);
                }
                Value::Buffer(Shared::new(bytes))
            }
            0x97 | 0x98 => match &first {
                Value::Text(text) => Value::Text(Shared::new(self.bytes_of(text)?)),
                Value::Integer(number) => {
                    Value::Text(Shared::new(digits(*number, if opcode == 0x97 { 10 } else { 16 })))
                }
                _ => Value::Text(Shared::new(self.as_bytes(&first)?)),
            },
            0x99 => Value::Integer(self.integer(&first)?),
            0x9c => {
                let most = self.integer_of(frame, code)?;
                let most = usize::try_from(most & self.mask()).unwrap_or(usize::MAX);
                let bytes = self.as_bytes(&first)?;
                let text = bytes.into_iter().take(most).take_while(|byte| *byte != 0).collect();
                Value::Text(Shared::new(text))
            }
            _ => {
                let (index, count) = (self.integer_of(frame, code)?, self.integer_of(frame, code)?);
                let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
                let bytes = self.as_bytes(&first)?;
                let part = bytes.into_iter().skip(number(index)).take(number(count)).collect();
                match first {
                    Value::Text(_) => Value::Text(Shared::new(part)),
                    _ => Value::Buffer(Shared::new(part)),
                }
            }
        };
        let into = self.target(frame, code)?;
        self.store(&into, &value, false)?;
        Ok(value)
    }

    fn concatenate(&mut self, first: &Value, second: &Value) -> Result<Value, Error> {
        let mut all = self.as_bytes(first)?;
        let second = match (first, self.real(second)?) {
            (Value::Text(_), Value::Integer(number)) => digits(number, 16),
            (Value::Integer(_), second) => {
                let number = self.integer(&second)?;
                self.as_bytes(&Value::Integer(number))?
            }
            (_, second) => self.as_bytes(&second)?,
        };
        self.take(second.len())?;
        all.extend(second);
        Ok(match first {
            Value::Text(_) => Value::Text(Shared::new(all)),
            _ => Value::Buffer(Shared::new(all)),
        })
    }

    /// Size, type, and search.
    #[inline(never)]
    pub(crate) fn question(
        &mut self,
        frame: &mut Frame,
        code: &mut Code,
        opcode: u16,
    ) -> Result<Value, Error> {
        if opcode == 0x89 {
            return self.search(frame, code);
        }
        let of = self.target(frame, code)?;
        let value = match &of {
            Reference::Node(id) => self.value_of(*id)?,
            other => self.dereference(other)?,
        };
        let number = match (opcode, &value) {
            (0x87, _) => match self.real(&value)? {
                Value::Text(bytes) | Value::Buffer(bytes) => bytes.with(Vec::len)?,
                Value::Package(package) => package.with(Vec::len)?,
                _ => return Err(Error::Type),
            },
            (_, Value::None) => 0,
            (_, Value::Integer(_)) => 1,
            (_, Value::Text(_)) => 2,
            (_, Value::Buffer(_)) => 3,
            (_, Value::Package(_)) => 4,
            (_, Value::Reference(Reference::Node(id))) => match self.names.get(*id).map(|it| &it.object) {
                Some(Object::Device) => 6,
                Some(Object::Method { .. } | Object::AskOs) => 8,
                Some(Object::Region { .. }) => 10,
                Some(Object::Processor) => 12,
                _ => 0,
            },
            _ => 0,
        };
        Ok(Value::Integer(number as u64))
    }

    /// Match (19.6.83): the first element of a package of which two comparisons hold.
    fn search(&mut self, frame: &mut Frame, code: &mut Code) -> Result<Value, Error> {
        let package = self.expression(frame, code)?;
        let Value::Package(package) = self.real(&package)? else { return Err(Error::Type) };
        let kinds =
            (code.byte()?, self.integer_of(frame, code)?, code.byte()?, self.integer_of(frame, code)?);
        let (kind, than, also, also_than) = kinds;
        let start = usize::try_from(self.integer_of(frame, code)?).map_err(|_| Error::Index)?;
        self.doubt |= package.doubtful.get();
        self.take(package.with(Vec::len)?.saturating_mul(size_of::<Value>()))?;
        for (position, element) in package.get()?.iter().enumerate().skip(start) {
            let Ok(number) = self.integer(element) else { continue };
            if holds(kind, number, than)? && holds(also, number, also_than)? {
                return Ok(Value::Integer(position as u64));
            }
        }
        Ok(Value::Integer(self.mask()))
    }
}

/// MTR, MEQ, MLE, MLT, MGE, MGT.
fn holds(kind: u8, number: u64, than: u64) -> Result<bool, Error> {
    Ok(match kind {
        0 => true,
        1 => number == than,
        2 => number <= than,
        3 => number < than,
        4 => number >= than,
        5 => number > than,
        other => return Err(Error::Opcode(other.into())),
    })
}

fn digits(number: u64, base: u8) -> Vec<u8> {
    let mut text = alloc::string::String::new();
    // Writing to a text doesn't fail.
    let _ = if base == 10 { write!(text, "{number}") } else { write!(text, "{number:X}") };
    text.into_bytes()
}

fn put_bits(bytes: &mut [u8], at: usize, bits: usize, from: &[u8]) {
    for number in 0..bits {
        let set = from.get(number / 8).is_some_and(|byte| byte >> (number % 8) & 1 != 0);
        if let Some(byte) = bytes.get_mut((at + number) / 8) {
            let bit = 1 << ((at + number) % 8);
            *byte = if set { *byte | bit } else { *byte & !bit };
        }
    }
}

/// What packages refer to is shared; nothing else is.
const _: fn(Rc<Shared<Value>>) = drop;
