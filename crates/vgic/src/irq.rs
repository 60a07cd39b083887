//! The state of one interrupt (IHI 0069, chapter 4).

use axvm_addr::VcpuId;

use crate::backend::Physical;
use crate::id::Intid;
use crate::spec::{Group, SPI_FIRST, Trigger};

/// What sort of interrupt it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Software generated, one set for each vCPU.
    Sgi,
    /// Private, one set for each vCPU.
    Ppi,
    /// Shared.
    Spi {
        /// GICD_IROUTER.
        route: u64,
    },
    /// A message by the ITS.
    Lpi(Mapped),
    /// A number that nothing stands behind.
    Absent,
}

/// Why an LPI exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// So many events are mapped to it. With none it is gone as soon as no list register holds it.
    Events(u32),
    /// None is, but it was pending in the guest's table: it exists until it is taken.
    Stray,
}

/// Where an interrupt comes from and how it reaches the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// From software, by a list register: an SGI, a message, or the line of an emulated device.
    Emulated {
        /// The line is high.
        high: bool,
    },
    /// From a physical interrupt, by a list register. It is taken at EL2 and kept from coming again until the guest ends this one.
    Injected {
        host: Host,
        hold: Hold,
        /// The guest has made the physical interrupt pending by a write to ISPENDR: what has arrived, or will, may have no level
        /// behind it.
        pended: bool,
    },
    /// The guest takes the physical interrupt itself. What is pending or active is the hardware's to know.
    Direct { host: Host, raised: Raised },
}

/// The physical interrupt that one of the guest's stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) intid: Intid,
    /// The hardware has been told how the guest has set it up.
    pub(crate) told: bool,
}

impl Host {
    pub(crate) fn new(intid: Intid) -> Self {
        Self { intid, told: false }
    }
}

/// How a physical interrupt is kept from coming again while the guest serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It stays active, and the list register names it: the guest's end of interrupt ends it too.
    Active,
    /// It is masked meanwhile.
    Mask {
        /// It is masked now.
        masked: bool,
    },
}

/// Who makes a physical interrupt pending that the guest takes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    /// A device, a timer, or another vCPU.
    ByHardware,
    /// The hypervisor, for an emulated device.
    BySoftware {
        /// The device's line is high.
        high: bool,
    },
}

/// What a guest's end of an interrupt that is in a list register does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It ends this physical interrupt, which the list register names.
    EndsPhysical(Intid),
    /// It leaves the guest, since something is to be done: the level of an emulated line is looked at again, or a masked line is
    /// unmasked.
    Exit,
    /// Nothing that anyone has to know of.
    Unnoticed,
}

/// What the pending state that an interrupt had in its list register stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It went in as active only.
    Nothing,
    /// A line that was high, which is looked at again.
    Level,
    /// The latch, which comes back if the guest hasn't taken the interrupt.
    Latch,
    /// The latch of a physical interrupt that the guest has made pending since: if it was taken before that, it is to come once
    /// more.
    LatchAndAgain,
    /// Something that was cleared since.
    Cancelled,
}

/// What the state was when the interrupt went into a list register, and what has been asked of it since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// The vCPU whose list register it is in.
    pub(crate) vcpu: VcpuId,
    pub(crate) waiting: Waiting,
    /// The active state was set or cleared since.
    pub(crate) force_active: Option<bool>,
}

impl Held {
    /// Whether it is pending there, as far as known.
    #[inline(always)]
    pub(crate) fn is_pending(&self) -> bool {
        !matches!(self.waiting, Waiting::Nothing | Waiting::Cancelled)
    }

    /// Clears the pending state.
    pub(crate) fn cancel(&mut self) {
        if self.waiting != Waiting::Nothing {
            self.waiting = Waiting::Cancelled;
        }
    }

    /// Makes a physical interrupt pending once more that is pending there. Whether it is.
    pub(crate) fn ask_again(&mut self) -> bool {
        if self.is_pending() {
            self.waiting = Waiting::LatchAndAgain;
        }
        self.is_pending()
    }
}

/// An interrupt.
#[derive(Clone, Debug)]
pub(crate) struct Irq {
    pub(crate) intid: Intid,
    pub(crate) kind: Kind,
    pub(crate) delivery: Delivery,
    pub(crate) priority: u8,
    pub(crate) enabled: bool,
    pub(crate) group: Group,
    pub(crate) trigger: Trigger,
    /// Made pending by an edge, a message, a write to ISPENDR, or the physical interrupt.
    pub(crate) latch: bool,
    /// Where it is active, as far as known: what is in a list register may have moved on.
    pub(crate) active: Option<VcpuId>,
    /// The vCPU that it goes to.
    pub(crate) target: Option<VcpuId>,
    /// The vCPU in whose list it is.
    pub(crate) queued: Option<VcpuId>,
    pub(crate) held: Option<Held>,
}

impl Irq {
    /// An interrupt in its reset state, which is that of QEMU's GIC where the architecture leaves it open: disabled, SGIs too, and
    /// of group 0. GICD_CTLR.DS is 1: software sets the group. LPIs are of group 1.
    pub(crate) fn new(intid: Intid, kind: Kind, target: Option<VcpuId>) -> Self {
        Self {
            intid,
            kind,
            delivery: Delivery::Emulated { high: false },
            priority: 0,
            enabled: false,
            group: if matches!(kind, Kind::Lpi(_)) { Group::One } else { Group::Zero },
            trigger: if matches!(kind, Kind::Sgi | Kind::Lpi(_)) { Trigger::Edge } else { Trigger::Level },
            latch: false,
            active: None,
            target,
            queued: None,
            held: None,
        }
    }

    #[inline(always)]
    pub(crate) fn is_lpi(&self) -> bool {
        matches!(self.kind, Kind::Lpi(_))
    }

    /// Whether it is an LPI that no event is mapped to, which exists until it is taken.
    #[inline(always)]
    pub(crate) fn is_stray(&self) -> bool {
        matches!(self.kind, Kind::Lpi(Mapped::Stray))
    }

    /// Whether it is active from where a vCPU takes it until that vCPU ends it. An LPI has no active state: taken, it is over, and
    /// the next message makes it pending whatever its handler is at (IHI 0069, 4.1). The CPU interface keeps the running priority
    /// by itself, and counts no end of an LPI that is in no list register (ICH_HCR_EL2.EOIcount): nobody would ever tell of it.
    #[inline(always)]
    pub(crate) fn has_active_state(&self) -> bool {
        !self.is_lpi()
    }

    /// Whether it is private to a vCPU.
    #[inline(always)]
    pub(crate) fn is_private(&self) -> bool {
        self.intid.0 < SPI_FIRST
    }

    /// Whether it is pending, list registers left aside.
    #[inline(always)]
    pub(crate) fn is_pending(&self) -> bool {
        self.latch || (self.trigger == Trigger::Level && self.is_high())
    }

    /// Whether it is the line of an emulated device, and high.
    #[inline(always)]
    pub(crate) fn is_high(&self) -> bool {
        match self.delivery {
            Delivery::Emulated { high } | Delivery::Direct { raised: Raised::BySoftware { high }, .. } => {
                high
            }
            Delivery::Injected { .. } | Delivery::Direct { raised: Raised::ByHardware, .. } => false,
        }
    }

    /// What ISPENDR shows: an interrupt that waits in a list register is pending.
    #[inline(always)]
    pub(crate) fn shows_pending(&self) -> bool {
        self.is_pending() || self.held.is_some_and(|held| held.is_pending())
    }

    /// What ISACTIVER shows.
    #[inline(always)]
    pub(crate) fn shows_active(&self) -> bool {
        self.held.and_then(|held| held.force_active).unwrap_or(self.active.is_some())
    }

    /// The physical interrupt that it stands for.
    #[inline(always)]
    pub(crate) fn host(&self) -> Option<Host> {
        match self.delivery {
            Delivery::Emulated { .. } => None,
            Delivery::Injected { host, .. } | Delivery::Direct { host, .. } => Some(host),
        }
    }

    /// The same, as the hypervisor is told of it.
    #[inline(always)]
    pub(crate) fn physical(&self) -> Option<Physical> {
        let host = self.host()?.intid;
        match (self.kind, self.target) {
            (Kind::Spi { .. }, _) => Some(Physical::Spi(host)),
            (Kind::Sgi | Kind::Ppi, Some(vcpu)) => Some(Physical::Private(vcpu, host)),
            _ => None,
        }
    }

    /// The hardware is told how the guest has set it up.
    pub(crate) fn note_told(&mut self) {
        if let Delivery::Injected { host, .. } | Delivery::Direct { host, .. } = &mut self.delivery {
            host.told = true;
        }
    }

    /// Notes whether the guest has made the physical interrupt pending by a write.
    #[inline(always)]
    pub(crate) fn note_pended(&mut self, by_write: bool) {
        if let Delivery::Injected { pended, .. } = &mut self.delivery {
            *pended = by_write;
        }
    }

    /// How the physical interrupt is held while the guest serves this one.
    #[inline(always)]
    pub(crate) fn hold(&self) -> Option<Hold> {
        match self.delivery {
            Delivery::Injected { hold, .. } => Some(hold),
            Delivery::Emulated { .. } | Delivery::Direct { .. } => None,
        }
    }

    /// Whether the physical interrupt is masked while the guest serves this one.
    #[inline(always)]
    pub(crate) fn is_held_by_mask(&self) -> bool {
        matches!(self.hold(), Some(Hold::Mask { .. }))
    }

    /// Whether the physical interrupt is masked now.
    #[inline(always)]
    pub(crate) fn is_masked(&self) -> bool {
        self.hold() == Some(Hold::Mask { masked: true })
    }

    /// What the guest's end of it does.
    #[inline(always)]
    pub(crate) fn end(&self) -> End {
        match self.delivery {
            Delivery::Injected { host, hold: Hold::Active, .. } => End::EndsPhysical(host.intid),
            Delivery::Injected { hold: Hold::Mask { .. }, .. } => End::Exit,
            Delivery::Emulated { .. } if self.trigger == Trigger::Level => End::Exit,
            Delivery::Emulated { .. } | Delivery::Direct { .. } => End::Unnoticed,
        }
    }

    /// Whether the guest has nothing more to do with what was last taken from the physical interrupt.
    #[inline(always)]
    pub(crate) fn is_done(&self) -> bool {
        !self.latch && self.active.is_none() && self.held.is_none()
    }
}
