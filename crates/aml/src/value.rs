//! Values while they are worked with, and as they are handed out.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::error::Error;
use crate::name::Path;
use crate::namespace::NodeId;

/// A value as it is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// None.
    Nothing,
    /// A number.
    Integer(u64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A package.
    List(Vec<Data>),
    /// A name that stands for something that isn't a value: a device.
    Object(NodeId),
    /// A name that stands for nothing.
    Unknown,
}

impl Data {
    /// The number that it is.
    pub fn integer(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The list that it is.
    pub fn list(&self) -> Option<&[Data]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// The bytes that it is.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// What several can refer to.
pub(crate) struct Shared<T> {
    data: RefCell<T>,
    /// It was made from what the hardware has been asked and has not answered.
    pub doubtful: Cell<bool>,
}

impl<T: Clone> Shared<T> {
    pub fn new(data: T) -> Rc<Self> {
        Rc::new(Self { data: RefCell::new(data), doubtful: Cell::new(false) })
    }

    pub fn with<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R, Error> {
        self.data.try_borrow().map(|data| f(&data)).map_err(|_| Error::Type)
    }

    pub fn change<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, Error> {
        self.data.try_borrow_mut().map(|mut data| f(&mut data)).map_err(|_| Error::Type)
    }

    pub fn get(&self) -> Result<T, Error> {
        self.with(T::clone)
    }
}

/// A value while it is worked with.
#[derive(Clone)]
pub(crate) enum Value {
    None,
    Integer(u64),
    Text(Rc<Shared<Vec<u8>>>),
    Buffer(Rc<Shared<Vec<u8>>>),
    Package(Rc<Shared<Vec<Value>>>),
    /// Another object.
    Reference(Reference),
    /// A name in a package, looked up when it is needed: what it stands for may be defined later.
    Name {
        scope: NodeId,
        path: Rc<Path>,
    },
}

impl Value {
    /// It, if a package may hold it. References to parts of packages and to variables may not be in one: they could be linked to a chain
    /// without an end, or to a ring.
    pub fn into_element(self) -> Result<Self, Error> {
        match self {
            Self::Reference(Reference::Slot(_) | Reference::Element { .. }) => Err(Error::Type),
            other => Ok(other),
        }
    }
}

/// What can be stored to.
#[derive(Clone)]
pub(crate) enum Reference {
    /// Nowhere: results that nobody wants, and the debugger's.
    Nowhere,
    /// An object of the namespace.
    Node(NodeId),
    /// A local variable or an argument.
    Slot(Rc<Shared<Value>>),
    /// An element of a package.
    Element { package: Rc<Shared<Vec<Value>>>, index: usize },
    /// A byte of a buffer or of a text.
    Byte { bytes: Rc<Shared<Vec<u8>>>, index: usize },
}
