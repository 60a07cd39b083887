//! What the virtual GIC asks of the hypervisor: a trait for each of its parts that asks, and [`Backend`] for all of them.

use axvm_addr::{Gpa, VcpuId};

use crate::id::{Intid, ItsDeviceId, ItsEventId};
use crate::spec::Trigger;
use crate::spec::redistributor::LpiProperty;

/// A physical interrupt that one of the guest's stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Physical {
    /// An SPI.
    Spi(Intid),
    /// A PPI, or with direct delivery an SGI, of the CPU that runs this vCPU.
    Private(VcpuId, Intid),
}

/// What the guest has set up for an SPI that stands for a physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpiSettings {
    /// Whether the guest has enabled it.
    pub enabled: bool,
    /// The guest's priority.
    pub priority: u8,
    /// What makes it pending.
    pub trigger: Trigger,
    /// The vCPU it is routed to; `None` if the guest named a processor that doesn't exist.
    pub target: Option<VcpuId>,
}

/// What the guest has set up for a private interrupt that stands for the CPU's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateSettings {
    /// Whether the guest has enabled it.
    pub enabled: bool,
    /// The guest's priority.
    pub priority: u8,
}

/// What the hardware says of an interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysicalState {
    /// Pending.
    pub pending: bool,
    /// Active.
    pub active: bool,
}

/// How many LPIs' pending state is moved at once.
pub const LPI_PIECE: usize = 512;

/// The address isn't in the VM's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not in the guest's memory")]
pub struct NotGuestMemory(pub Gpa);

/// The hypervisor could not do in hardware what the guest's ITS command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// No physical LPI is left.
    #[error("no physical LPI is left")]
    NoLpi,
    /// No memory is left for the physical ITS's tables.
    #[error("no memory is left for ITS tables")]
    NoMemory,
    /// The physical ITS did not take the command in time.
    #[error("the physical ITS did not answer")]
    Timeout,
    /// The hypervisor doesn't know this device or event.
    #[error("no such device or event")]
    Unknown,
}

/// What changes of an event of a device at the physical ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventChange {
    /// It is mapped to a physical LPI, which stands for the guest's `lpi`, on the CPU of `vcpu`: one of the hypervisor's choice, or,
    /// where the hardware delivers it to the guest, that of the same number. The LPI starts disabled, and
    /// [`EventChange::Configure`] follows. If it can't be done, the event stays unmapped.
    Map {
        /// The guest's LPI.
        lpi: Intid,
        /// Where it goes.
        vcpu: VcpuId,
    },
    /// Its physical LPI moves to the CPU of this vCPU.
    Move(VcpuId),
    /// It is unmapped, and its physical LPI freed.
    Discard,
    /// The pending state of its physical LPI is dropped.
    Clear,
    /// Its physical LPI is enabled or disabled, and gets this priority.
    Configure(LpiProperty),
}

/// A guest reached for what isn't its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An ITS command on a device id that isn't the VM's.
    ForeignItsDevice(ItsDeviceId),
}

/// The physical interrupts that a VM's lines and private interrupts stand for. Asked with the lock of the interrupts' state held.
pub trait HardwareInterrupts: Send + Sync {
    /// Brings the physical SPI `host` in line with what the guest set up.
    fn configure_spi(&self, host: Intid, settings: &SpiSettings);

    /// Brings the PPI `host` of the CPU that runs `vcpu` in line with what the guest set up; with direct delivery SGIs too.
    fn configure_private(&self, vcpu: VcpuId, host: Intid, settings: PrivateSettings);

    /// Enables or disables the physical SPI `host`, and nothing else of it: its trigger and target are as
    /// [`HardwareInterrupts::configure_spi`] left them. When it returns from disabling,
    /// the SPI is signalled to no CPU any more; one that a CPU has acknowledged just before may still arrive.
    fn set_spi_enabled(&self, host: Intid, enabled: bool);

    /// Sets or clears the pending state.
    fn set_pending(&self, interrupt: Physical, pending: bool);

    /// Sets or clears the active state.
    fn set_active(&self, interrupt: Physical, active: bool);

    /// Reads the state.
    fn state(&self, interrupt: Physical) -> PhysicalState;

    /// Raises the physical SGI `sgi` at the CPU that runs `vcpu`: asked only with direct delivery.
    fn raise_sgi(&self, vcpu: VcpuId, sgi: Intid);
}

/// The physical ITS behind a VM's, and the LPIs that the hardware delivers to its vCPUs. Asked with the lock of the virtual ITS held, as its commands are carried out.
pub trait HardwareIts: Send + Sync {
    /// Gives `device` a physical interrupt translation table for `event_bits` bits of event id.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done; the device then stays unmapped.
    fn map_device(&self, device: ItsDeviceId, event_bits: u32) -> Result<(), BackendError>;

    /// Unmaps `device` and all its events.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn unmap_device(&self, device: ItsDeviceId) -> Result<(), BackendError>;

    /// Changes something of one event of a mapped device.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn change_event(
        &self,
        device: ItsDeviceId,
        event: ItsEventId,
        change: EventChange,
    ) -> Result<(), BackendError>;

    /// Raises an event as if the device had: asked only where LPIs reach the guest from the hardware.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn raise_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError>;

    /// Has LPIs reach `vcpu`, which none do at first: asked only where they reach the guest from the hardware. Nothing is pending
    /// there but what comes from now on.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn start_lpis(&self, vcpu: VcpuId) -> Result<(), BackendError>;

    /// Has no LPIs reach `vcpu` any more, and takes what is pending there: `pending` is told, of [`LPI_PIECE`] LPIs from a first one
    /// on, which were, a bit each. It is the virtual GIC's, which may use the guest's memory meanwhile, and nothing else of this.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn stop_lpis(
        &self,
        vcpu: VcpuId,
        pending: &mut dyn FnMut(Intid, &[u8; LPI_PIECE / 8]),
    ) -> Result<(), BackendError>;
}

/// The VM's RAM: the ITS's queue of commands, and the tables of LPIs.
pub trait GuestMemory: Send + Sync {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`NotGuestMemory`] if any byte isn't RAM of this VM.
    fn read_guest(&self, address: Gpa, bytes: &mut [u8]) -> Result<(), NotGuestMemory>;

    /// Writes it.
    ///
    /// # Errors
    ///
    /// [`NotGuestMemory`] if any byte isn't RAM of this VM.
    fn write_guest(&self, address: Gpa, bytes: &[u8]) -> Result<(), NotGuestMemory>;
}

/// The hypervisor's side.
///
/// The methods may be called with a lock of the virtual GIC held: they must not call back into it, nor wait
/// for another vCPU. The lock is the VM's own, so a method that takes long holds up that VM only.
pub trait Backend: HardwareInterrupts + HardwareIts + GuestMemory {
    /// Makes `vcpu` leave the guest (or its sleep in WFI) soon, so that it calls [`crate::Vgic::flush`]
    /// again. Called with the lock of the interrupts' state dropped. For the vCPU of the calling CPU, which
    /// is out of the guest already, there is nothing to do. The effect must not get lost between that vCPU's
    /// `flush` and its entry into the guest.
    fn kick(&self, vcpu: VcpuId);

    /// Records that the guest reached for what isn't its own.
    fn violation(&self, kind: Violation);
}
