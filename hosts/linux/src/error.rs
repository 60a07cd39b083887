//! What goes wrong on a Linux host.

use crate::memory::MemoryError;

/// Why the host couldn't do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("{what}: {error}")]
    Kernel {
        /// The request.
        what: &'static str,
        /// Its reason.
        error: std::io::Error,
    },
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A device can't be had, or not taken back.
    #[error(transparent)]
    Vfio(#[from] crate::vfio::VfioError),
    /// Two of a VM's own devices answer at one address.
    #[error(transparent)]
    Devices(#[from] axvm::devices::BuildError),
    /// A thread can't be started, or not on its CPU.
    #[error("a thread for a vCPU can't be had on CPU {cpu}: {error}")]
    Thread {
        /// The CPU.
        cpu: axvm_addr::CpuId,
        /// The kernel's reason.
        error: std::io::Error,
    },
    /// A VM, a vCPU, a device or an interrupt that isn't there.
    #[error("there is no such VM, vCPU, device or interrupt")]
    Unknown,
}

/// Results of requests to the kernel.
pub trait Kernel<T> {
    /// The same, with what was asked.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`].
    fn kernel(self, what: &'static str) -> Result<T, Error>;
}

impl<T> Kernel<T> for Result<T, kvm_ioctls::Error> {
    fn kernel(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error::Kernel { what, error: std::io::Error::from_raw_os_error(error.errno()) })
    }
}
