//! KVM, if it is there and has what VMs need.

use std::io;

use kvm_ioctls::{Cap, Kvm};

use crate::arch;

/// Something that KVM must have, by the name that its documentation has for it (Linux, Documentation/virt/kvm/api.rst).
#[derive(Clone, Copy)]
pub struct Needed {
    /// How it is asked for.
    pub cap: Cap,
    /// Its name.
    pub name: &'static str,
}

/// What every architecture needs: memory slots; interrupts by events, whose end is told; messages; devices of the kernel's.
const NEEDED: &[Needed] = &[
    Needed { cap: Cap::UserMemory, name: "KVM_CAP_USER_MEMORY" },
    Needed { cap: Cap::ReadonlyMem, name: "KVM_CAP_READONLY_MEM" },
    Needed { cap: Cap::Irqfd, name: "KVM_CAP_IRQFD" },
    Needed { cap: Cap::IrqfdResample, name: "KVM_CAP_IRQFD_RESAMPLE" },
    Needed { cap: Cap::IrqRouting, name: "KVM_CAP_IRQ_ROUTING" },
    Needed { cap: Cap::SignalMsi, name: "KVM_CAP_SIGNAL_MSI" },
    Needed { cap: Cap::DeviceCtrl, name: "KVM_CAP_DEVICE_CTRL" },
];

/// The first Linux that has all of it, on each architecture.
const SINCE: &str = "4.8";

/// Why no guest can be run.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no KVM.
    #[error("this Linux runs no guests: it has no /dev/kvm: {}", arch::WITHOUT_KVM)]
    Missing,
    /// There is, for others.
    #[error(
        "/dev/kvm can't be opened: {0}: run it as root, or as a member of the group kvm; in a container, hand /dev/kvm in"
    )]
    Denied(io::Error),
    /// It fails otherwise.
    #[error("/dev/kvm can't be opened: {0}")]
    Fails(io::Error),
    /// The kernel is too old.
    #[error(
        "this Linux's KVM lacks {}: its kernel is too old, or was built without: Linux {SINCE} and later has all of it",
        _0.join(", ")
    )]
    Lacks(Vec<&'static str>),
    /// The machine's interrupt controller isn't one that guests can have.
    #[error("this Linux runs no guests as they are planned: {}", arch::WITHOUT_IRQCHIP)]
    NoIrqchip,
}

/// What KVM says of itself.
pub trait Offers {
    /// Whether it has this.
    fn has(&self, cap: Cap) -> bool;
}

impl Offers for Kvm {
    fn has(&self, cap: Cap) -> bool {
        self.check_extension(cap)
    }
}

/// Opens it.
///
/// # Errors
///
/// [`KvmError`].
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| why_not(io::Error::from_raw_os_error(error.errno())))?;
    let lacks = lacks(&kvm);
    if !lacks.is_empty() {
        return Err(KvmError::Lacks(lacks));
    }
    if !arch::has_irqchip(&kvm) {
        return Err(KvmError::NoIrqchip);
    }
    Ok(kvm)
}

fn why_not(error: io::Error) -> KvmError {
    match error.raw_os_error() {
        // Nothing is there, or nobody answers for it.
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KvmError::Missing,
        Some(libc::EACCES | libc::EPERM) => KvmError::Denied(error),
        _ => KvmError::Fails(error),
    }
}

fn lacks(kvm: &impl Offers) -> Vec<&'static str> {
    let needed = NEEDED.iter().chain(arch::NEEDED);
    needed.filter(|needed| !kvm.has(needed.cap)).map(|needed| needed.name).collect()
}

#[cfg(test)]
mod tests {
    use super::{Cap, KvmError, NEEDED, Offers, lacks, why_not};
    use crate::arch;
    use std::io;

    /// A kernel without one thing.
    struct Without(Option<i32>);

    impl Offers for Without {
        fn has(&self, cap: Cap) -> bool {
            self.0 != Some(cap as i32)
        }
    }

    #[test]
    fn a_kernel_that_lacks_something_is_told_which() {
        assert!(lacks(&Without(None)).is_empty());
        for needed in NEEDED.iter().chain(arch::NEEDED) {
            let found = lacks(&Without(Some(needed.cap as i32)));
            assert_eq!(found, [needed.name]);
            let said = KvmError::Lacks(found).to_string();
            assert!(said.contains(needed.name) && said.contains("kernel is too old"), "{said}");
        }
    }

    #[test]
    fn what_keeps_kvm_from_being_opened_is_told_apart() {
        let of = |number| why_not(io::Error::from_raw_os_error(number)).to_string();
        assert!(of(libc::ENOENT).contains("it has no /dev/kvm"));
        assert!(of(libc::ENODEV).contains("it has no /dev/kvm"));
        assert!(of(libc::EACCES).contains("group kvm"));
        assert!(of(libc::EPERM).contains("in a container"));
        assert!(of(libc::EBUSY).starts_with("/dev/kvm can't be opened: "));
    }
}
