//! Statements: what defines objects, and what decides which code is next (ACPI 6.5, 20.2.5).
//!
//! Blocks within blocks are kept in a list, not on the stack: firmware has long chains of `Else`.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::code::Code;
use crate::error::Error;
use crate::field::{Access, Field, Registers, Update};
use crate::machine::Aml;
use crate::namespace::{NodeId, Object};
use crate::space::{Hardware, Space};
use crate::value::{Shared, Value};

/// What a method has for itself while it runs.
pub(crate) struct Frame {
    pub scope: NodeId,
    /// Whether it runs at all, or comes to where it is, is in doubt.
    doubt: bool,
    /// Eight local variables and seven arguments.
    slots: [Option<Rc<Shared<Value>>>; 15],
}

const LOCALS: usize = 8;

impl Frame {
    pub fn new(scope: NodeId, doubt: bool) -> Self {
        Self { scope, doubt, slots: Default::default() }
    }

    pub fn arguments(&mut self) -> &mut [Option<Rc<Shared<Value>>>] {
        self.slots.get_mut(LOCALS..).unwrap_or_default()
    }

    /// The variable or argument of an opcode, 0x60 to 0x6e.
    pub fn slot(&mut self, opcode: u16) -> Result<&Rc<Shared<Value>>, Error> {
        let at = usize::from(opcode).checked_sub(0x60).ok_or(Error::Opcode(opcode))?;
        let slot = self.slots.get_mut(at).ok_or(Error::Opcode(opcode))?;
        Ok(slot.get_or_insert_with(|| Shared::new(Value::None)))
    }
}

/// A block that is being run.
struct Block {
    kind: Kind,
    /// Where what it is in ends.
    outer: usize,
    /// Whether it is run at all is in doubt.
    doubtful: bool,
}

enum Kind {
    If,
    Else,
    /// Where its opcode is.
    While(usize),
    /// The scope that it is in.
    Scope(NodeId),
}

/// What a statement asks for.
enum Next {
    Statement,
    Return(Value),
    Break,
    Continue,
}

impl<H: Hardware> Aml<H> {
    /// Runs statements to their end, or to a `Return`. While a table is loaded, a scope with something that can't be understood is left
    /// there, and the rest goes on.
    pub(crate) fn run(&mut self, frame: &mut Frame, mut code: Code, loading: bool) -> Result<Value, Error> {
        let mut blocks: Vec<Block> = Vec::new();
        loop {
            if code.is_at_end() {
                match blocks.pop() {
                    Some(block) => leave(frame, &mut code, &block),
                    None => {
                        self.doubt = frame.doubt;
                        return Ok(Value::None);
                    }
                }
                continue;
            }
            self.step(1)?;
            self.doubt = frame.doubt || blocks.iter().any(|block| block.doubtful);
            let start = code.clone();
            let next = match self.statement(frame, &mut code, &mut blocks, loading) {
                Ok(next) => next,
                Err(error @ (Error::Steps | Error::Memory)) => return Err(error),
                Err(error) if loading => {
                    // One that says where it ends is passed by; of another it isn't known what follows.
                    if let Some(end) = end_of(start) {
                        self.fail(frame.scope, Some(error));
                        code.at = end;
                        continue;
                    }
                    let block = blocks.pop().ok_or(error)?;
                    self.fail(frame.scope, Some(error));
                    code.at = code.end;
                    leave(frame, &mut code, &block);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match next {
                Next::Statement => {}
                Next::Return(value) => return Ok(value),
                Next::Break | Next::Continue => loop {
                    let block = blocks.pop().ok_or(Error::Opcode(0xa5))?;
                    let is_loop = matches!(block.kind, Kind::While(_));
                    let end = code.end;
                    leave(frame, &mut code, &block);
                    if is_loop {
                        if matches!(next, Next::Break) {
                            code.at = end;
                        }
                        break;
                    }
                },
            }
        }
    }

    fn statement(
        &mut self,
        frame: &mut Frame,
        code: &mut Code,
        blocks: &mut Vec<Block>,
        loading: bool,
    ) -> Result<Next, Error> {
        let start = code.at;
        if code.is_at_name() {
            self.expression(frame, code)?;
            return Ok(Next::Statement);
        }
        let opcode = code.opcode()?;
        let mut enter = |code: &mut Code, kind, end, doubtful| {
            blocks.push(Block { kind, outer: code.end, doubtful });
            code.end = end;
        };
        match opcode {
            0xa0 | 0xa2 => {
                let end = code.package_end()?;
                let mut inner = code.until(end);
                let decided = self.integer_of(frame, &mut inner)? != 0;
                match loading {
                    true if self.doubt => self.fail(frame.scope, None),
                    true => {}
                    // What comes after it depends on what it would have done.
                    false => frame.doubt |= self.doubt,
                }
                match (opcode, decided) {
                    (0xa0, true) => {
                        code.at = inner.at;
                        enter(code, Kind::If, end, self.doubt);
                    }
                    (0xa0, false) => {
                        code.at = end;
                        if code.peek() == Some(0xa1) {
                            code.at += 1;
                            let end = code.package_end()?;
                            enter(code, Kind::Else, end, self.doubt);
                        }
                    }
                    (_, true) => {
                        code.at = inner.at;
                        enter(code, Kind::While(start), end, self.doubt);
                    }
                    (_, false) => code.at = end,
                }
            }
            // Noop, BreakPoint.
            0xa3 | 0xcc => {}
            0xa4 => return Ok(Next::Return(self.expression(frame, code)?)),
            0xa5 => return Ok(Next::Break),
            0x9f => return Ok(Next::Continue),
            0x10 | 0x5b82..=0x5b85 => {
                let end = code.package_end()?;
                let path = code.path()?;
                let scope = if opcode == 0x10 {
                    self.names.find(frame.scope, &path).ok_or(Error::NoObject)?
                } else {
                    let (object, more) = match opcode {
                        0x5b82 => (Object::Device, 0),
                        0x5b83 => (Object::Processor, 6),
                        0x5b84 => (Object::Other, 3),
                        _ => (Object::Other, 0),
                    };
                    let id = self.define_at(frame.scope, &path, object)?;
                    code.number(more)?;
                    id
                };
                enter(code, Kind::Scope(core::mem::replace(&mut frame.scope, scope)), end, self.doubt);
            }
            0x06 | 0x08 | 0x14 | 0x15 | 0x5b01 | 0x5b02 | 0x5b80 | 0x5b88 => {
                self.definition(frame, code, opcode)?;
            }
            0x5b81 | 0x5b86 | 0x5b87 => self.fields(frame, code, opcode)?,
            0x8a..=0x8d | 0x8f | 0x5b13 => self.buffer_field(frame, code, opcode)?,
            0xa1 => return Err(Error::Opcode(opcode)),
            _ => {
                code.at = start;
                self.expression(frame, code)?;
            }
        }
        Ok(Next::Statement)
    }

    /// A new object, in doubt if what has led to it is.
    pub(crate) fn define_at(
        &mut self,
        scope: NodeId,
        path: &crate::name::Path,
        object: Object,
    ) -> Result<NodeId, Error> {
        let (parent, name) = self.names.place(scope, path).ok_or(Error::NoObject)?;
        self.take(64)?;
        let id = self.names.add(parent, name, object).ok_or(Error::Memory)?;
        let doubt = self.doubt;
        if let Some(node) = self.names.get_mut(id) {
            node.doubtful = doubt;
        }
        Ok(id)
    }

    fn definition(&mut self, frame: &mut Frame, code: &mut Code, opcode: u16) -> Result<(), Error> {
        match opcode {
            0x06 => {
                let (of, path) = (code.path()?, code.path()?);
                let of = self.names.find(frame.scope, &of).ok_or(Error::NoObject)?;
                self.define_at(frame.scope, &path, Object::Alias(of))?;
            }
            0x08 => {
                let path = code.path()?;
                let value = self.expression(frame, code)?;
                self.define_at(frame.scope, &path, Object::Value(value))?;
            }
            0x14 => {
                let end = code.package_end()?;
                let path = code.path()?;
                let arguments = code.byte()? & 7;
                let method = Object::Method { code: code.until(end), arguments };
                self.define_at(frame.scope, &path, method)?;
                code.at = end;
            }
            0x15 => {
                let path = code.path()?;
                let (_, arguments) = (code.byte()?, code.byte()? & 7);
                // It may be there already, or come, or be in a place that isn't there.
                if self.names.find(frame.scope, &path).is_none() {
                    let _ = self.define_at(frame.scope, &path, Object::External { arguments });
                }
            }
            0x5b01 | 0x5b02 => {
                let path = code.path()?;
                code.number(if opcode == 0x5b01 { 1 } else { 0 })?;
                self.define_at(frame.scope, &path, Object::Other)?;
            }
            0x5b80 => {
                let path = code.path()?;
                let space = Space::new(code.byte()?);
                let (offset, length) = (self.integer_of(frame, code)?, self.integer_of(frame, code)?);
                self.define_at(frame.scope, &path, Object::Region { space, offset, length })?;
            }
            _ => {
                let path = code.path()?;
                for _ in 0..3 {
                    self.expression(frame, code)?;
                }
                self.define_at(frame.scope, &path, Object::Other)?;
            }
        }
        Ok(())
    }

    /// The fields of a region, of an index and a data register, or of a bank (20.2.5.2).
    fn fields(&mut self, frame: &mut Frame, code: &mut Code, opcode: u16) -> Result<(), Error> {
        let end = code.package_end()?;
        let outer = core::mem::replace(&mut code.end, end);
        let first = code.path()?;
        let first = self.names.find(frame.scope, &first);
        let registers = match opcode {
            0x5b81 => first.map(Registers::Region),
            0x5b86 => {
                let data = code.path()?;
                let data = self.names.find(frame.scope, &data);
                first.zip(data).map(|(index, data)| Registers::Indexed { index, data })
            }
            _ => {
                code.path()?;
                self.expression(frame, code)?;
                None
            }
        }
        .unwrap_or(Registers::Nowhere);
        let flags = code.byte()?;
        let (mut access, update) = (Access::new(flags), Update::new(flags));
        let mut at = 0u64;
        while !code.is_at_end() {
            self.step(1)?;
            match code.peek() {
                Some(0) => {
                    code.at += 1;
                    at = at.checked_add(code.bits()?).ok_or(Error::Cut)?;
                }
                Some(kind @ (1 | 3)) => {
                    code.at += 1;
                    access = Access::new(code.byte()?);
                    code.number(if kind == 1 { 1 } else { 2 })?;
                }
                Some(2) => {
                    code.at += 1;
                    if code.is_at_name() {
                        code.path()?;
                    } else {
                        self.expression(frame, code)?;
                    }
                }
                _ => {
                    let name = code.segment()?;
                    let bits = code.bits()?;
                    let path = crate::name::Path {
                        root: crate::name::Root::Here { up: 0 },
                        names: alloc::vec![name],
                    };
                    let field = Field { registers, at, bits, access, update };
                    self.define_at(frame.scope, &path, Object::Field(field))?;
                    at = at.checked_add(bits).ok_or(Error::Cut)?;
                }
            }
        }
        (code.at, code.end) = (end, outer);
        Ok(())
    }

    /// A field of a buffer.
    fn buffer_field(&mut self, frame: &mut Frame, code: &mut Code, opcode: u16) -> Result<(), Error> {
        let buffer = self.expression(frame, code)?;
        let index = usize::try_from(self.integer_of(frame, code)?).map_err(|_| Error::Index)?;
        let bytes = |bytes: usize| (index.checked_mul(8), bytes * 8);
        let (at, bits) = match opcode {
            0x8a => bytes(4),
            0x8b => bytes(2),
            0x8c => bytes(1),
            0x8f => bytes(8),
            0x8d => (Some(index), 1),
            _ => {
                let bits = usize::try_from(self.integer_of(frame, code)?).map_err(|_| Error::Index)?;
                (Some(index), bits)
            }
        };
        let path = code.path()?;
        let of = match self.real(&buffer)? {
            Value::Buffer(bytes) | Value::Text(bytes) => bytes,
            _ => return Err(Error::Type),
        };
        let at = at.ok_or(Error::Index)?;
        let end = at.checked_add(bits).ok_or(Error::Index)?;
        if end > of.with(Vec::len)?.saturating_mul(8) {
            return Err(Error::Index);
        }
        self.define_at(frame.scope, &path, Object::BufferField { of, at, bits })?;
        Ok(())
    }
}

/// Where a statement ends that says it.
fn end_of(mut code: Code) -> Option<usize> {
    match code.opcode().ok()? {
        0x10 | 0x14 | 0x5b81..=0x5b87 | 0xa0..=0xa2 => code.package_end().ok(),
        _ => None,
    }
}

/// Goes on after a block.
fn leave(frame: &mut Frame, code: &mut Code, block: &Block) {
    code.end = block.outer;
    match block.kind {
        Kind::If => {
            // What is otherwise isn't.
            if code.peek() == Some(0xa1) {
                let mut skipped = code.clone();
                skipped.at += 1;
                if let Ok(end) = skipped.package_end() {
                    code.at = end;
                }
            }
        }
        Kind::Else => {}
        Kind::While(start) => code.at = start,
        Kind::Scope(scope) => frame.scope = scope,
    }
}
