//! What the virtual GIC asks of the hypervisor.

use axvm_addr::{Gpa, Intid, ItsDeviceId, ItsEventId, VcpuId};

/// What the guest has set up for an SPI that stands for a physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpiSettings {
    /// Whether the guest has enabled it.
    pub enabled: bool,
    /// The guest's priority.
    pub priority: u8,
    /// Edge triggered; else by level.
    pub edge: bool,
    /// The vCPU it is routed to; `None` if the guest named a processor that doesn't exist.
    pub target: Option<VcpuId>,
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

/// A guest reached for what isn't its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An ITS command on a device id that isn't the VM's.
    ForeignItsDevice(ItsDeviceId),
}

/// The hypervisor's side: physical interrupts, the guest's memory, the other vCPUs.
///
/// The methods may be called with a lock of the virtual GIC held: they must not call back into it, nor wait
/// for another vCPU. The lock is the VM's own, so a method that takes long holds up that VM only.
pub trait Backend: Send + Sync {
    /// Makes `vcpu` leave the guest (or its sleep in WFI) soon, so that it calls [`crate::Vgic::flush`]
    /// again. Called with the lock of the interrupts' state dropped. For the vCPU of the calling CPU, which
    /// is out of the guest already, there is nothing to do. The effect must not get lost between that vCPU's
    /// `flush` and its entry into the guest.
    fn kick(&self, vcpu: VcpuId);

    /// Brings the physical SPI `host` in line with what the guest set up.
    fn configure_spi(&self, host: Intid, settings: &SpiSettings);

    /// Enables or disables the physical SPI `host`, and nothing else of it: its trigger and target are as
    /// [`Backend::configure_spi`] left them. When it returns from disabling,
    /// the SPI is signalled to no CPU any more; one that a CPU has acknowledged just before may still arrive.
    fn set_spi_enabled(&self, host: Intid, enabled: bool);

    /// Sets or clears the pending state of the physical SPI `host`.
    fn set_spi_pending(&self, host: Intid, pending: bool);

    /// Sets or clears the active state of the physical SPI `host`.
    fn set_spi_active(&self, host: Intid, active: bool);

    /// Brings the PPI `host` of the CPU that runs `vcpu` in line with what the guest set up; with direct
    /// delivery SGIs too.
    fn configure_private(&self, vcpu: VcpuId, host: Intid, enabled: bool, priority: u8);

    /// Sets or clears the pending state of the PPI (or, delivered directly, SGI) `host` of the CPU that runs
    /// `vcpu`.
    fn set_private_pending(&self, vcpu: VcpuId, host: Intid, pending: bool);

    /// Sets or clears the active state of the PPI (or, delivered directly, SGI) `host` of the CPU that runs
    /// `vcpu`.
    fn set_private_active(&self, vcpu: VcpuId, host: Intid, active: bool);

    /// Reads the state of the physical SPI `host`: asked only with direct delivery.
    fn spi_state(&self, host: Intid) -> PhysicalState;

    /// Reads the state of the SGI or PPI `host` of the CPU that runs `vcpu`: asked only with direct delivery.
    fn private_state(&self, vcpu: VcpuId, host: Intid) -> PhysicalState;

    /// Raises the physical SGI `sgi` at the CPU that runs `vcpu`: asked only with direct delivery.
    fn raise_sgi(&self, vcpu: VcpuId, sgi: Intid);

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

    /// Maps an event to a physical LPI, which stands for the guest's `lpi`, on the CPU of `vcpu`: one of the
    /// hypervisor's choice, or, with direct delivery, that of the same number. It starts disabled;
    /// [`Backend::configure_event`] follows.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done; the event then stays unmapped.
    fn map_event(
        &self,
        device: ItsDeviceId,
        event: ItsEventId,
        lpi: Intid,
        vcpu: VcpuId,
    ) -> Result<(), BackendError>;

    /// Moves an event's physical LPI to the CPU of `vcpu`.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn move_event(&self, device: ItsDeviceId, event: ItsEventId, vcpu: VcpuId) -> Result<(), BackendError>;

    /// Unmaps an event and frees its physical LPI.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn discard_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError>;

    /// Drops the pending state of an event's physical LPI.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn clear_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError>;

    /// Raises an event as if the device had: asked only where LPIs reach the guest from the hardware.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn trigger_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError>;

    /// Enables or disables an event's physical LPI and sets its priority.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if it couldn't be done.
    fn configure_event(
        &self,
        device: ItsDeviceId,
        event: ItsEventId,
        enabled: bool,
        priority: u8,
    ) -> Result<(), BackendError>;

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

    /// Reads the VM's RAM.
    ///
    /// # Errors
    ///
    /// [`NotGuestMemory`] if any byte isn't RAM of this VM.
    fn read_guest(&self, address: Gpa, bytes: &mut [u8]) -> Result<(), NotGuestMemory>;

    /// Writes the VM's RAM.
    ///
    /// # Errors
    ///
    /// [`NotGuestMemory`] if any byte isn't RAM of this VM.
    fn write_guest(&self, address: Gpa, bytes: &[u8]) -> Result<(), NotGuestMemory>;

    /// Records that the guest reached for what isn't its own.
    fn violation(&self, kind: Violation);
}
