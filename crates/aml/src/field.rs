//! Fields of the hardware's registers: in regions of address spaces, and behind a register that says which (ACPI 6.5, 5.5.2.4 and 19.6.46,
//! 19.6.64).

use alloc::vec::Vec;

use crate::error::Error;
use crate::machine::Aml;
use crate::namespace::{NodeId, Object};
use crate::space::{Hardware, PciFunction, Space};
use crate::value::Value;

/// A field of more bits is neither read nor written.
const MOST_BITS: u64 = 1 << 16;

/// A field.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub registers: Registers,
    /// Its first bit.
    pub at: u64,
    pub bits: u64,
    pub access: Access,
    pub update: Update,
}

/// Which registers a field is in.
#[derive(Clone, Copy)]
pub(crate) enum Registers {
    /// Those of a region.
    Region(NodeId),
    /// Those that are seen in the field `data`, one at a time, by what is written to the field `index`.
    Indexed { index: NodeId, data: NodeId },
    /// Some that can't be reached: of a region that isn't there, or of a bank that has to be chosen.
    Nowhere,
}

/// How wide an access is (20.2.5.2, AccessType).
#[derive(Clone, Copy)]
pub(crate) struct Access {
    pub bytes: u8,
}

impl Access {
    pub fn new(flags: u8) -> Self {
        let bytes = match flags & 0xf {
            2 => 2,
            3 => 4,
            4 => 8,
            _ => 1,
        };
        Self { bytes }
    }
}

/// What becomes of a register's bits around those that are written (20.2.5.2, UpdateRule).
#[derive(Clone, Copy)]
pub(crate) enum Update {
    Preserve,
    Ones,
    Zeros,
}

impl Update {
    pub fn new(flags: u8) -> Self {
        match flags >> 5 & 3 {
            1 => Self::Ones,
            2 => Self::Zeros,
            _ => Self::Preserve,
        }
    }
}

/// Where a register is.
#[derive(Clone, Copy)]
enum Place {
    At { space: Space, address: u64 },
    Config { function: PciFunction, offset: u16 },
}

/// Where a field's registers are, found once for all of them.
#[derive(Clone, Copy)]
struct Found {
    space: Space,
    start: u64,
    length: u64,
    function: Option<PciFunction>,
}

impl Found {
    /// The register at an offset, if all of it is within the region.
    fn place(&self, offset: u64, bytes: u8) -> Option<Place> {
        let unit = u64::from(bytes);
        let end = offset.checked_add(unit)?;
        if end > self.length.checked_next_multiple_of(unit)? {
            return None;
        }
        let address = self.start.checked_add(offset)?;
        if self.space != Space::PciConfig {
            return Some(Place::At { space: self.space, address });
        }
        let offset = u16::try_from(address).ok().filter(|offset| *offset < 4096)?;
        let is_natural = bytes <= 4 && offset.is_multiple_of(u16::from(bytes));
        is_natural.then_some(Place::Config { function: self.function?, offset })
    }
}

/// Units of a field: the registers that it is in.
struct Units {
    /// Where the first begins, in bytes.
    first: u64,
    count: u64,
    bytes: u8,
}

impl Units {
    /// Where each begins.
    fn offsets(&self) -> impl Iterator<Item = u64> + use<> {
        let (first, bytes) = (self.first, u64::from(self.bytes));
        (0..self.count).map(move |number| first + number * bytes)
    }
}

impl<H: Hardware> Aml<H> {
    /// What a field has.
    #[inline(never)]
    pub(crate) fn read_field(&mut self, field: &Field) -> Result<Value, Error> {
        let units = self.units(field)?;
        let found = self.found(field.registers)?;
        let mut bytes = Vec::new();
        for offset in units.offsets() {
            let read = self.read_unit(field.registers, found, offset, units.bytes)?;
            self.doubt |= read.is_none();
            bytes.extend(read.unwrap_or(0).to_le_bytes().into_iter().take(units.bytes.into()));
        }
        let at = usize::try_from(field.at - units.first * 8).map_err(|_| Error::Index)?;
        self.bits_of(&bytes, at, usize::try_from(field.bits).map_err(|_| Error::Index)?)
    }

    /// Stores bytes in a field, with zeros after them; not if it is in doubt what, or whether.
    #[inline(never)]
    pub(crate) fn write_field(&mut self, field: &Field, from: &[u8]) -> Result<(), Error> {
        let units = self.units(field)?;
        if self.doubt {
            self.writes = self.writes.saturating_add(1);
            return Ok(());
        }
        let found = self.found(field.registers)?;
        let end = field.at + field.bits;
        for offset in units.offsets() {
            // The bits of this register that are the field's.
            let (start, width) = (offset * 8, u32::from(units.bytes) * 8);
            let within = |bit: u32| (field.at..end).contains(&(start + u64::from(bit)));
            let bit = |number: u64| {
                let byte = usize::try_from(number / 8).ok().and_then(|at| from.get(at));
                byte.is_some_and(|byte| byte >> (number % 8) & 1 != 0)
            };
            let own = (0..width).filter(|bit| within(*bit)).fold(0u64, |mask, bit| mask | 1 << bit);
            let all = u64::MAX >> (64 - width);
            let value = (0..width)
                .filter(|place| within(*place) && bit(start + u64::from(*place) - field.at))
                .fold(0u64, |value, place| value | 1 << place);
            let others = match field.update {
                _ if own == all => Some(0),
                Update::Preserve => self.read_unit(field.registers, found, offset, units.bytes)?,
                Update::Ones => Some(all),
                Update::Zeros => Some(0),
            };
            let is_taken = match others {
                Some(others) => {
                    self.write_unit(field.registers, found, offset, units.bytes, value | others & all & !own)?
                }
                None => false,
            };
            if !is_taken {
                self.writes = self.writes.saturating_add(1);
            }
        }
        Ok(())
    }

    /// The registers that a field is in. Counts what accessing them takes.
    fn units(&mut self, field: &Field) -> Result<Units, Error> {
        let end = field.at.checked_add(field.bits).ok_or(Error::Index)?;
        if field.bits > MOST_BITS {
            return Err(Error::Memory);
        }
        let unit = u64::from(field.access.bytes);
        let first = field.at / 8 / unit * unit;
        let count = (end.div_ceil(8).saturating_sub(first)).div_ceil(unit);
        self.take(usize::try_from(count * unit).unwrap_or(usize::MAX))?;
        self.step(usize::try_from(count).unwrap_or(usize::MAX))?;
        Ok(Units { first, count, bytes: field.access.bytes })
    }

    /// Where a region is; `None`: that isn't known.
    fn found(&mut self, registers: Registers) -> Result<Option<Found>, Error> {
        let Registers::Region(id) = registers else { return Ok(None) };
        let Some(node) = self.names.get(id) else { return Ok(None) };
        let Object::Region { space, offset, length } = node.object else { return Ok(None) };
        if node.doubtful {
            return Ok(None);
        }
        let mut function = None;
        if space == Space::PciConfig {
            // As long as looking it up takes.
            self.step(64)?;
            function = self.function_of(id);
        }
        Ok(Some(Found { space, start: offset, length, function }))
    }

    fn read_unit(
        &mut self,
        registers: Registers,
        found: Option<Found>,
        offset: u64,
        bytes: u8,
    ) -> Result<Option<u64>, Error> {
        if let Registers::Indexed { index, data } = registers {
            return match self.choose(index, offset)? {
                true => self.seen_in(data),
                false => Ok(None),
            };
        }
        let place = found.and_then(|found| found.place(offset, bytes));
        Ok(place.and_then(|place| match place {
            Place::At { space, address } => self.hardware.read(space, address, bytes),
            Place::Config { function, offset } => self.hardware.config(function, offset, bytes),
        }))
    }

    fn write_unit(
        &mut self,
        registers: Registers,
        found: Option<Found>,
        offset: u64,
        bytes: u8,
        value: u64,
    ) -> Result<bool, Error> {
        if let Registers::Indexed { index, data } = registers {
            return Ok(self.choose(index, offset)? && self.put(data, value)?);
        }
        let place = found.and_then(|found| found.place(offset, bytes));
        Ok(place.is_some_and(|place| match place {
            Place::At { space, address } => self.hardware.write(space, address, bytes, value),
            Place::Config { function, offset } => self.hardware.set_config(function, offset, bytes, value),
        }))
    }

    /// Chooses the register that is seen in the data field: by the offset of its first byte (19.6.64).
    fn choose(&mut self, index: NodeId, offset: u64) -> Result<bool, Error> {
        self.put(index, offset)
    }

    /// A field of a region, by which another's registers are reached. It may not itself be behind an index.
    fn of_region(&self, id: NodeId) -> Option<Field> {
        let node = self.names.get(id).filter(|node| !node.doubtful)?;
        match node.object {
            Object::Field(field) if matches!(field.registers, Registers::Region(_)) => Some(field),
            _ => None,
        }
    }

    /// Writes such a field; gives whether all of it was taken.
    fn put(&mut self, id: NodeId, value: u64) -> Result<bool, Error> {
        let Some(field) = self.of_region(id) else { return Ok(false) };
        let before = self.writes;
        self.write_field(&field, &value.to_le_bytes())?;
        Ok(core::mem::replace(&mut self.writes, before) == before)
    }

    /// What such a field has, if somebody answers for it.
    fn seen_in(&mut self, id: NodeId) -> Result<Option<u64>, Error> {
        let Some(field) = self.of_region(id) else { return Ok(None) };
        let doubt = core::mem::replace(&mut self.doubt, false);
        let value = self.read_field(&field)?;
        let is_sure = !core::mem::replace(&mut self.doubt, doubt);
        Ok(match value {
            Value::Integer(number) if is_sure => Some(number),
            _ => None,
        })
    }
}
