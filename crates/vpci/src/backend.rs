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

    /// Maps a BAR into the guest's second stage: whole pages, nothing else there.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the host can't or won't; the BAR then stays unmapped.
    fn map_bar(
        &self,
        function: PciAddress,
        bar: u8,
        gpa: Gpa,
        hpa: Hpa,
        size: u64,
        prefetchable: bool,
    ) -> Result<(), Refused>;

    /// Takes a BAR out of the guest's second stage. When this returns, no vCPU reaches it any more.
    fn unmap_bar(&self, function: PciAddress, bar: u8, gpa: Gpa, size: u64);

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
