//! Where messages of devices are routed.

use alloc::sync::Arc;

use axvm::msi::{InFunctions, MsiMessage, MsiSink};
use axvm_addr::VmId;
use axvm_plan::{DevicePlan, VmPlan};

use crate::hal::HalError;

/// Functions are told by their guests themselves, and the virtual ITS has what these made of it.
pub struct Messages(InFunctions<HalError>);

impl Messages {
    /// For VMs of these plans.
    pub const fn new(_: &[Arc<VmPlan>]) -> Self {
        Self(InFunctions::new())
    }
}

impl MsiSink for Messages {
    type Error = HalError;

    fn route(
        &self,
        vm: VmId,
        function: &DevicePlan,
        vector: u16,
        message: Option<MsiMessage>,
    ) -> Result<(), HalError> {
        self.0.route(vm, function, vector, message)
    }
}
