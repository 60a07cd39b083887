//! Who holds a VM: counted, so that the last to let go of it has it taken apart.

use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use super::Vm;

/// A hold on a VM. Whoever drops the last one hands the VM to the hypervisor's CPU ([`crate::host::Host::retire`]): it is taken apart
/// when nobody can be looking at it any more, and nobody has to ask over and over whether that is so.
pub struct VmRef(ManuallyDrop<Arc<Vm>>);

impl VmRef {
    /// The first hold on a VM.
    pub fn new(vm: Vm) -> Self {
        Self(ManuallyDrop::new(Arc::new(vm)))
    }

    /// Never lets go: the VM stays as it is until the machine is reset.
    pub fn keep(self) {
        core::mem::forget(self);
    }
}

impl Clone for VmRef {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Deref for VmRef {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.0
    }
}

impl Drop for VmRef {
    fn drop(&mut self) {
        // SAFETY: this is the only place that takes it, and nothing uses `self` after its drop.
        let hold = unsafe { ManuallyDrop::take(&mut self.0) };
        // Of several that let go at a time exactly one gets it.
        if let Some(vm) = Arc::into_inner(hold) {
            let host = vm.hal().host();
            host.retire(vm);
        }
    }
}
