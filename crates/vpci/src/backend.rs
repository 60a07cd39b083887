//! What the host bridge needs from the host.

use axvm_addr::{Gpa, Hpa, PciAddress};
use axvm_pci::{Clock, ConfigSpace, Width};

/// The host's side of a virtual host bridge.
///
/// The bridge calls with the lock of the function held, so several calls are under way at a time only for
/// different functions; `map_bar` and `unmap_bar` are called one at a time. None may call back into the
/// bridge.
pub trait Backend: Send + Sync {
    /// Reads the config space of a physical function: naturally aligned, at most four bytes; all ones if
    /// nobody answers. Survives an abort.
    fn config_read(&self, function: PciAddress, offset: u16, width: Width) -> u32;

    /// Writes the config space of a physical function.
    fn config_write(&self, function: PciAddress, offset: u16, width: Width, value: u32);

    /// Maps a part of a BAR, or all of it, into the guest's second stage: whole pages, nothing else there.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the host can't or won't; the BAR then stays unmapped.
    fn map_bar(&self, function: PciAddress, part: &BarPart) -> Result<(), Refused>;

    /// Takes it out of the guest's second stage. When this returns, no vCPU reaches it any more.
    fn unmap_bar(&self, function: PciAddress, part: &BarPart);

    /// Asks whether a function may master the bus from now on, or says that it doesn't any more. The bridge
    /// writes the command register itself: after this call to turn it on, before it to turn it off.
    ///
    /// # Errors
    ///
    /// [`Refused`] if its stream isn't attached, or is blocked. Turning off is never refused: nobody looks at
    /// the answer.
    fn set_bus_master(&self, function: PciAddress, on: bool) -> Result<(), Refused>;

    /// Whether the VM is being stopped. From then on no access is carried out: those that waited for another, which may be a
    /// reset that takes a second, leave at once, and don't begin one of their own.
    fn is_stopping(&self) -> bool;

    /// Microseconds since some time that doesn't change.
    fn now_us(&self) -> u64;

    /// Waits this many microseconds.
    fn delay_us(&self, microseconds: u64);

    /// Who has the messages of the VM's functions. Always the same.
    fn messages(&self) -> Messages {
        Messages::Functions
    }

    /// Where the bridge has the messages: has a vector of a function lead where the guest wants it, and says what the function is to send for
    /// that. The guest's message may be anything. Vectors of MSI, of which a function has one message, are to give data that follow each other.
    ///
    /// # Errors
    ///
    /// [`Refused`]: it leads nowhere, or the host has nothing to route it with. The function doesn't send the vector then.
    fn route(
        &self,
        _function: PciAddress,
        _vector: u16,
        _message: MsiMessage,
    ) -> Result<MsiMessage, Refused> {
        Err(Refused)
    }

    /// Where the bridge has the messages: a vector leads nowhere from now on. The function doesn't send it any more.
    fn unroute(&self, _function: PciAddress, _vector: u16) {}

    /// Where the bridge has the messages: whether a memory BAR can be in the guest's second stage at all. If not, the guest has it all the same: each of its
    /// accesses is trapped and forwarded ([`Backend::bar_read`]). Always the same.
    fn is_mappable(&self, _function: PciAddress, _bar: u8) -> bool {
        true
    }

    /// Where the bridge has the messages: reads a BAR of a function, at `at`. Naturally aligned; survives an abort.
    fn bar_read(&self, _function: PciAddress, _bar: u8, _at: Hpa, width: Width) -> u64 {
        width.mask()
    }

    /// Where the bridge has the messages: writes a BAR of a function, at `at`. Naturally aligned; survives an abort.
    fn bar_write(&self, _function: PciAddress, _bar: u8, _at: Hpa, _width: Width, _value: u64) {}

    /// An I/O BAR's ports answer where the guest has them. If these are the machine's own ([`BarPorts::is_in_place`]) the guest may be let through to
    /// them; else, and whenever it isn't, the bridge forwards what is trapped ([`crate::IoWindow`]).
    ///
    /// # Errors
    ///
    /// [`Refused`] if the host can't or won't; nobody answers there then.
    fn map_ports(&self, _function: PciAddress, _ports: &BarPorts) -> Result<(), Refused> {
        Err(Refused)
    }

    /// They don't any more. When this returns, no vCPU reaches them without a trap.
    fn unmap_ports(&self, _function: PciAddress, _ports: &BarPorts) {}

    /// Reads a port of the machine's.
    fn port_read(&self, _port: u16, width: Width) -> u32 {
        width.mask() as u32
    }

    /// Writes a port of the machine's.
    fn port_write(&self, _port: u16, _width: Width, _value: u32) {}
}

/// Who has the messages that functions send as interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// The functions: the guest writes their tables itself. That is closed where whoever takes the messages knows the function by more than
    /// what it writes.
    Functions,
    /// The bridge: the guest writes what it takes for the tables, and the host says what functions send.
    Bridge,
}

/// A message: what a function writes, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// A part of a memory BAR that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarPart {
    /// The BAR's (lower) register.
    pub bar: u8,
    /// Where in the BAR it begins.
    pub offset: u64,
    /// Where the guest has it.
    pub gpa: Gpa,
    /// Where it is.
    pub hpa: Hpa,
    /// Its bytes.
    pub size: u64,
    /// Whether the host may read ahead.
    pub prefetchable: bool,
}

/// The ports of an I/O BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarPorts {
    /// The BAR's register.
    pub bar: u8,
    /// The first of them, to the guest.
    pub guest: u16,
    /// The first of them in the machine.
    pub host: u16,
    /// How many there are.
    pub count: u16,
}

impl BarPorts {
    /// Whether the guest has them where the machine does: then, and only then, it can be let through to them.
    pub const fn is_in_place(&self) -> bool {
        self.guest == self.host
    }
}

/// The host says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused by the host")]
pub struct Refused;

/// A backend's config space and clock, for the parts of `axvm-pci`.
pub(crate) struct Physical<'a, B>(pub &'a B);

impl<B: Backend> Physical<'_, B> {
    /// The config space, for slow work: one copy of the code for all backends.
    pub fn config(&self) -> &dyn ConfigSpace {
        self
    }
}

impl<B: Backend> ConfigSpace for Physical<'_, B> {
    fn read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        self.0.config_read(function, offset, width)
    }

    fn write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        self.0.config_write(function, offset, width, value);
    }
}

impl<B: Backend> Clock for Physical<'_, B> {
    fn now_us(&self) -> u64 {
        self.0.now_us()
    }

    fn delay_us(&self, microseconds: u64) {
        self.0.delay_us(microseconds);
    }
}
