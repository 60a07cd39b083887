//! What tables are loaded into and evaluated by.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use crate::code::Code;
use crate::error::Error;
use crate::name::{Name, Path, Root};
use crate::namespace::{Namespace, NodeId, Object};
use crate::run::Frame;
use crate::space::Hardware;
use crate::value::{Data, Reference, Shared, Value};

/// Bytes of the header of a table (ACPI 6.5, 5.2.6).
const HEADER: usize = 36;

/// What all evaluations may take together, and each.
mod most {
    /// Steps: each takes a bounded number of instructions.
    pub const STEPS: u32 = 4 << 20;
    pub const STEPS_EACH: u32 = 100_000;
    /// Steps of loading a table: as many, and so many for each of its bytes.
    pub const STEPS_PER_BYTE: u32 = 8;
    /// Bytes of buffers, texts and packages that each makes.
    pub const BYTES: usize = 256 << 10;
    /// Bytes that loading a table makes, for each of its own.
    pub const BYTES_PER_BYTE: usize = 32;
    /// Expressions and calls within each other.
    pub const DEPTH: u8 = 40;
    /// Failures that are remembered.
    pub const FAILURES: usize = 16;
}

/// What an evaluation gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The value.
    pub value: Data,
    /// Whether nothing of it comes from hardware that was asked and gave no answer: neither a part of it, nor which way a method that made
    /// it has gone. One thing isn't seen: what an earlier evaluation would have stored, had it gone another way.
    pub is_sure: bool,
}

/// What of a table could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where: the scope.
    pub scope: String,
    /// Why; `None`: whether a part of it is there depends on hardware that gave no answer.
    pub error: Option<Error>,
}

/// What is defined by AML, and evaluates it.
pub struct Aml<H> {
    pub(crate) names: Namespace,
    pub(crate) hardware: H,
    /// Whether integers have 64 bits: the DSDT's revision says it.
    pub(crate) wide: bool,
    /// What is being computed, or whether it is, depends on hardware that was asked and gave no answer. Where a value is kept, that is kept
    /// beside it.
    pub(crate) doubt: bool,
    pub(crate) writes: u64,
    /// Whether the function of a region is being looked up.
    pub(crate) looks_up: bool,
    failures: Vec<Failure>,
    is_empty: bool,
    /// Steps that are left at all, and in this evaluation.
    steps: u32,
    steps_now: u32,
    bytes: usize,
    depth: u8,
}

impl<H: Hardware> Aml<H> {
    /// The names that are there before any table is loaded, and who answers for the hardware.
    pub fn new(hardware: H) -> Self {
        let mut names = Namespace::new();
        let scopes = [b"_SB_", b"_GPE", b"_PR_", b"_SI_", b"_TZ_"];
        let mut add = |name: &[u8; 4], object| names.add(NodeId::ROOT, Name(*name), object);
        for name in scopes {
            add(name, Object::Scope);
        }
        add(b"_OSI", Object::AskOs);
        add(b"_GL_", Object::Other);
        add(b"_REV", Object::Value(Value::Integer(2)));
        add(b"_OS_", Object::Value(Value::Text(Shared::new(b"Microsoft Windows NT".to_vec()))));
        Self {
            names,
            hardware,
            wide: true,
            doubt: false,
            writes: 0,
            looks_up: false,
            failures: Vec::new(),
            is_empty: true,
            steps: most::STEPS,
            steps_now: 0,
            bytes: 0,
            depth: 0,
        }
    }

    /// Adds what a table defines: the DSDT first, then each SSDT. What can't be loaded is left out, and said:
    /// [`failures`](Self::failures).
    pub fn load(&mut self, table: &[u8]) {
        if core::mem::replace(&mut self.is_empty, false) {
            self.wide = table.get(8).is_some_and(|revision| *revision >= 2);
        }
        let bytes: Rc<[u8]> = table.into();
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let steps = most::STEPS_EACH.saturating_add(size.saturating_mul(most::STEPS_PER_BYTE));
        self.begin(steps, bytes.len().saturating_mul(most::BYTES_PER_BYTE));
        let code = Code { at: HEADER.min(bytes.len()), end: bytes.len(), bytes };
        let mut frame = Frame::new(NodeId::ROOT, false);
        if let Err(error) = self.run(&mut frame, code, true) {
            self.fail(frame.scope, Some(error));
        }
    }

    /// What could not be loaded. There may be more than is remembered.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// How often AML has written to hardware without effect: nobody took it, or it was in doubt.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Who answers for the hardware.
    pub fn hardware_mut(&mut self) -> &mut H {
        &mut self.hardware
    }

    /// The devices, in the order in which tables define them.
    pub fn devices(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.names
            .ids()
            .filter(|&id| self.names.get(id).is_some_and(|it| matches!(it.object, Object::Device)))
    }

    /// The path of an object, from the top.
    pub fn path(&self, id: NodeId) -> String {
        self.names.path(id)
    }

    /// The object above one.
    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        if id == NodeId::ROOT { None } else { self.names.get(id).map(|node| node.parent) }
    }

    /// The top.
    pub fn root(&self) -> NodeId {
        NodeId::ROOT
    }

    /// The object with a name right below another.
    pub fn child(&self, of: NodeId, name: &[u8; 4]) -> Option<NodeId> {
        self.names.child(of, Name(*name))
    }

    /// The device that a text names, from the top or from where another is: sources in routing tables may be texts.
    pub fn find(&self, from: NodeId, text: &str) -> Option<NodeId> {
        let (root, rest) = match text.strip_prefix('\\') {
            Some(rest) => (Root::Top, rest),
            None => {
                let rest = text.trim_start_matches('^');
                (Root::Here { up: u16::try_from(text.len() - rest.len()).ok()? }, rest)
            }
        };
        let name = |part: &str| {
            let mut name = *b"____";
            let bytes = part.as_bytes();
            name.get_mut(..bytes.len())?.copy_from_slice(bytes);
            (!bytes.is_empty()).then_some(Name(name))
        };
        let names = rest.split('.').map(name).collect::<Option<Vec<_>>>()?;
        self.names.find(from, &Path { root, names })
    }

    /// The value of an object: of a method, what it gives with these arguments.
    ///
    /// # Errors
    ///
    /// [`Error`] says why there is none.
    pub fn evaluate(&mut self, id: NodeId, arguments: &[u64]) -> Result<Answer, Error> {
        self.begin(most::STEPS_EACH, most::BYTES);
        let arguments = arguments.iter().map(|number| Shared::new(Value::Integer(*number))).collect();
        let value = match self.names.get(id).map(|node| node.object.clone()) {
            Some(Object::Method { code, .. }) => self.call(id, code, arguments)?,
            Some(_) => self.dereference(&Reference::Node(id))?,
            None => return Err(Error::NoObject),
        };
        let value = self.export(&value, most::DEPTH)?;
        Ok(Answer { value, is_sure: !self.doubt })
    }

    fn begin(&mut self, steps: u32, bytes: usize) {
        (self.steps_now, self.bytes, self.depth, self.doubt) = (steps, bytes, 0, false);
    }

    pub(crate) fn fail(&mut self, scope: NodeId, error: Option<Error>) {
        if self.failures.len() < most::FAILURES {
            self.failures.push(Failure { scope: self.names.path(scope), error });
        }
    }

    /// Counts steps.
    pub(crate) fn step(&mut self, steps: usize) -> Result<(), Error> {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.steps = self.steps.checked_sub(steps).ok_or(Error::Steps)?;
        self.steps_now = self.steps_now.checked_sub(steps).ok_or(Error::Steps)?;
        Ok(())
    }

    /// Counts memory, and the steps that it takes to fill it.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(Error::Memory)?;
        self.step(bytes / 64)
    }

    /// Does something one level deeper.
    pub(crate) fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth >= most::DEPTH {
            return Err(Error::Depth);
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    /// A method's value.
    pub(crate) fn call(
        &mut self,
        method: NodeId,
        code: Code,
        arguments: Vec<Rc<Shared<Value>>>,
    ) -> Result<Value, Error> {
        let (before, doubt) = (self.names.len(), self.doubt);
        let mut frame = Frame::new(method, doubt);
        for (slot, argument) in frame.arguments().iter_mut().zip(arguments) {
            *slot = Some(argument);
        }
        let result = self.deeper(|aml| aml.run(&mut frame, code, false));
        self.names.truncate(before);
        self.doubt |= doubt;
        result
    }

    /// A value as it is handed out.
    fn export(&mut self, value: &Value, depth: u8) -> Result<Data, Error> {
        let depth = depth.checked_sub(1).ok_or(Error::Depth)?;
        self.step(1)?;
        Ok(match value {
            Value::None => Data::Nothing,
            Value::Integer(number) => Data::Integer(*number),
            Value::Text(text) => Data::Text(String::from_utf8_lossy(&self.bytes_of(text)?).into_owned()),
            Value::Buffer(bytes) => Data::Bytes(self.bytes_of(bytes)?),
            Value::Package(package) => {
                self.doubt |= package.doubtful.get();
                self.take(package.with(Vec::len)? * size_of::<Data>())?;
                let elements = package.get()?;
                Data::List(elements.iter().map(|it| self.export(it, depth)).collect::<Result<_, _>>()?)
            }
            Value::Reference(Reference::Node(id)) if !self.is_value(*id) => Data::Object(*id),
            Value::Reference(reference) => {
                let value = self.dereference(reference)?;
                self.export(&value, depth)?
            }
            Value::Name { scope, path } => match self.names.find(*scope, path) {
                Some(id) => self.export(&Value::Reference(Reference::Node(id)), depth)?,
                None => Data::Unknown,
            },
        })
    }

    fn is_value(&self, id: NodeId) -> bool {
        let object = self.names.get(id).map(|node| &node.object);
        matches!(object, Some(Object::Value(_) | Object::Field(_) | Object::BufferField { .. }))
    }
}
