//! What a GIC and an ITS know interrupts and their senders by.

use core::fmt;

use axvm_addr::{Irq, MsiSource};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A GIC interrupt id (Arm IHI 0069, 2.2): SGIs 0-15, PPIs 16-31, SPIs 32-1019, LPIs from 8192.
    Intid
}
id! {
    /// What an ITS knows the sender of an MSI by (Arm IHI 0069, 5.2): by the device tree's `msi-map`.
    ItsDeviceId
}
id! {
    /// Which of a device's interrupts an MSI is (Arm IHI 0069, 5.2): the payload of the write.
    ItsEventId
}

/// A machine with a GIC numbers its interrupts as the GIC does.
impl From<Irq> for Intid {
    fn from(irq: Irq) -> Self {
        Self(irq.0)
    }
}

impl From<Intid> for Irq {
    fn from(intid: Intid) -> Self {
        Self(intid.0)
    }
}

/// At its ITS.
impl From<MsiSource> for ItsDeviceId {
    fn from(source: MsiSource) -> Self {
        Self(source.id.0)
    }
}
