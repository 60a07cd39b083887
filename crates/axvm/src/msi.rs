//! Messages that stand for interrupts, and who has to know where each goes.

use core::fmt;

use axvm_addr::VmId;
use axvm_plan::DevicePlan;

/// A message: what a device writes, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where, as the guest has told the device.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// Where a function's messages lead, vector by vector.
pub trait MsiSink {
    /// Why it can't.
    type Error: fmt::Debug + fmt::Display;

    /// Has a vector of a function send `message`, or none any more. The guest has written so to what it takes for the function's own
    /// table.
    ///
    /// # Errors
    ///
    /// The host has no such vector, or nothing left to route it with. The vector is as it was.
    fn route(
        &self,
        vm: VmId,
        function: &DevicePlan,
        vector: u16,
        message: Option<MsiMessage>,
    ) -> Result<(), Self::Error>;
}

/// For hosts on which a function is told by its guest itself: its id, which the IOMMU vouches for, says whose the message is, and the
/// interrupt controller has what the guest made of it. Nobody else has to know a vector.
#[derive(Clone, Copy, Debug, Default)]
pub struct InFunctions<E>(core::marker::PhantomData<E>);

impl<E> InFunctions<E> {
    /// There is one only.
    pub const fn new() -> Self {
        Self(core::marker::PhantomData)
    }
}

impl<E: fmt::Debug + fmt::Display> MsiSink for InFunctions<E> {
    type Error = E;

    fn route(&self, _: VmId, _: &DevicePlan, _: u16, _: Option<MsiMessage>) -> Result<(), E> {
        Ok(())
    }
}
