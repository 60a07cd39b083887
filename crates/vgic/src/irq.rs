//! The state of one interrupt (IHI 0069, chapter 4).

use axvm_addr::{Intid, VcpuId};

use crate::spec::SPI_FIRST;

/// What sort of interrupt it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Software generated, one set for each vCPU.
    Sgi,
    /// Private, one set for each vCPU.
    Ppi,
    /// Shared.
    Spi,
    /// A message by the ITS.
    Lpi,
    /// A number that nothing stands behind.
    Absent,
}

/// What the state was when the interrupt went into a list register, and what has been asked of it since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// The vCPU whose list register it is in.
    pub(crate) vcpu: VcpuId,
    /// It went in as pending.
    pub(crate) pending: bool,
    /// Its latch went in with it: the latch comes back if the guest hasn't taken the interrupt.
    pub(crate) latch: bool,
    /// The pending state was cleared since.
    pub(crate) cancel: bool,
    /// The guest has made a physical interrupt pending since: if this one was taken before that, it is to come once more.
    pub(crate) again: bool,
    /// The active state was set or cleared since.
    pub(crate) force_active: Option<bool>,
}

/// An interrupt.
#[derive(Clone, Debug)]
pub(crate) struct Irq {
    pub(crate) intid: Intid,
    pub(crate) kind: Kind,
    /// The physical interrupt that it stands for. From the time that one is taken at EL2 until the guest ends
    /// this one it is active, or masked.
    pub(crate) host: Option<Intid>,
    /// The physical interrupt is masked, not left active, while the guest serves this one.
    pub(crate) by_mask: bool,
    /// It is masked now.
    pub(crate) masked: bool,
    /// The hardware has been told how the guest has set it up.
    pub(crate) told: bool,
    pub(crate) priority: u8,
    pub(crate) enabled: bool,
    pub(crate) group1: bool,
    pub(crate) edge: bool,
    /// The level of an emulated line.
    pub(crate) level: bool,
    /// With direct delivery: the line of an emulated device, for which `host` is made pending by software.
    pub(crate) by_software: bool,
    /// Made pending by an edge, a message, a write to ISPENDR, or the physical interrupt.
    pub(crate) latch: bool,
    /// The guest made the physical interrupt pending by a write to ISPENDR: what has arrived, or will, may have no level behind it.
    pub(crate) host_pended: bool,
    /// Active, as far as known: what is in a list register may have moved on.
    pub(crate) active: bool,
    /// Where it is active.
    pub(crate) active_on: VcpuId,
    /// The vCPU that it goes to.
    pub(crate) target: Option<VcpuId>,
    /// GICD_IROUTER, for an SPI.
    pub(crate) route: u64,
    /// The vCPU in whose list it is.
    pub(crate) queued: Option<VcpuId>,
    pub(crate) held: Option<Held>,
    /// How many events are mapped to it, for an LPI. At zero it is gone as soon as no list register holds it.
    pub(crate) mappings: u32,
    /// No event is mapped to it: it was pending in the guest's table, and counts as mapped until it is taken.
    pub(crate) stray: bool,
}

impl Irq {
    /// An interrupt in its reset state, which is that of QEMU's GIC where the architecture leaves it open: disabled, SGIs too, and
    /// of group 0. GICD_CTLR.DS is 1: software sets the group. LPIs are of group 1.
    pub(crate) fn new(intid: Intid, kind: Kind, target: Option<VcpuId>) -> Self {
        Self {
            intid,
            kind,
            host: None,
            by_mask: false,
            masked: false,
            told: false,
            priority: 0,
            enabled: false,
            group1: kind == Kind::Lpi,
            edge: matches!(kind, Kind::Sgi | Kind::Lpi),
            level: false,
            by_software: false,
            latch: false,
            host_pended: false,
            active: false,
            active_on: VcpuId(0),
            target,
            route: 0,
            queued: None,
            held: None,
            mappings: 0,
            stray: false,
        }
    }

    /// Whether it is active from where a vCPU takes it until that vCPU ends it. An LPI has no active state: taken, it is over, and
    /// the next message makes it pending whatever its handler is at (IHI 0069, 4.1). The CPU interface keeps the running priority
    /// by itself, and counts no end of an LPI that is in no list register (ICH_HCR_EL2.EOIcount): nobody would ever tell of it.
    pub(crate) fn has_active_state(&self) -> bool {
        self.kind != Kind::Lpi
    }

    /// Whether it is private to a vCPU.
    pub(crate) fn is_private(&self) -> bool {
        self.intid.0 < SPI_FIRST
    }

    /// Whether it is pending, list registers left aside.
    pub(crate) fn is_pending(&self) -> bool {
        self.latch || (!self.edge && self.level)
    }

    /// What ISPENDR shows: an interrupt that waits in a list register is pending.
    pub(crate) fn shows_pending(&self) -> bool {
        self.is_pending() || self.held.is_some_and(|h| h.pending && !h.cancel)
    }

    /// What ISACTIVER shows.
    pub(crate) fn shows_active(&self) -> bool {
        self.held.and_then(|h| h.force_active).unwrap_or(self.active)
    }

    /// The physical interrupt that its list register names: the guest's end of interrupt then ends that one.
    pub(crate) fn linked_host(&self) -> Option<Intid> {
        self.host.filter(|_| !self.by_mask)
    }

    /// Whether something is to be done when the guest ends it: the level of an emulated line is looked at
    /// again, and a masked line is unmasked.
    pub(crate) fn wants_its_end(&self) -> bool {
        if self.host.is_none() { !self.edge } else { self.by_mask }
    }

    /// Whether the guest has nothing more to do with what was last taken from the physical interrupt.
    pub(crate) fn is_done(&self) -> bool {
        !self.latch && !self.active && self.held.is_none()
    }
}
