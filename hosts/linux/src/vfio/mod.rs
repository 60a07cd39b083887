//! Devices by VFIO.
//!
//! | module | what it answers |
//! |---|---|
//! | [`windows`] | what a VM's devices reach |
//! | [`device`] | a function that is open: config space, BARs |
//! | [`signals`], [`routes`] | its interrupts: VFIO's events, which KVM makes messages and lines of |
//! | [`way`] | by which of VFIO's ways it is: by groups, or by nodes of functions and iommufd |
//! | [`ports`] | its BARs of ports |
//! | [`check`] | what keeps a device from being taken |
//! | [`backend`] | the virtual PCI bridge by which its guest sees it |
//!
//! A function is open from the moment that a VM is given it until the VM has been taken apart: only then has nothing of it mapped any more.
//! Linux resets it when it is opened and when it is closed. While it isn't open, and after that, the kernel lets it reach nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use axvm::devices::AxVmDevicesBuilder;
use axvm::hal::{DmaMap, Region, Resource};
use axvm::iommu::{Abilities, DmaFault, Drained, Iommu};
use axvm::msi::{MsiMessage, MsiSink};
use axvm::vm::Ground;
use axvm_addr::{DmaSource, IommuId, Iova, PciAddress, Span, VmId};
use axvm_plan::config::MappingFlags;
use axvm_plan::{DevicePlan, LineRoute, VmPlan};
use axvm_platform::limits::Serves;
use axvm_platform::sysfs;
use kvm_bindings::{kvm_create_device, kvm_device_type_KVM_DEV_TYPE_VFIO};
use kvm_ioctls::VmFd;
use vfio_ioctls::VfioDeviceFd;

use crate::error::Error;
use crate::hal::Hal;
use crate::memory::Place;
use crate::probe::Root;
use routes::Routes;
use way::{Container, Others, Source};
use windows::Windows;

pub mod backend;
pub mod check;
pub mod device;
pub mod ports;
pub mod routes;
pub mod signals;
pub mod way;
pub mod windows;

pub use backend::Bridge;
pub use device::Opened;

/// Why a device isn't a VM's.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// It can't be opened.
    #[error("{function}: VFIO doesn't give it: {error}")]
    Open {
        /// Its address in Linux.
        function: PciAddress,
        /// Its reason.
        error: vfio_ioctls::VfioError,
    },
    /// Nothing keeps its interrupts from being forged.
    #[error(
        "{function}: VFIO doesn't give it: the machine doesn't keep its messages apart from others' (interrupt remapping), so that whoever has it \
         could forge any interrupt: turn that on in the firmware's settings. What has the kernel give it nevertheless, allow_unsafe_interrupts, \
         AxVM never sets"
    )]
    Unsafe {
        /// Its address in Linux.
        function: PciAddress,
    },
    /// Others have its group.
    #[error("{function}: VFIO doesn't give it: {}", who_has(others))]
    NotViable {
        /// Its address in Linux.
        function: PciAddress,
        /// The others.
        others: Others,
    },
    /// Another program has its group.
    #[error("{function}: VFIO doesn't give it: another program has it or its IOMMU group open")]
    Busy {
        /// Its address in Linux.
        function: PciAddress,
    },
    /// It has no node of its own.
    #[error(
        "{function}: VFIO doesn't give it: there is no node of it in /dev/vfio/devices (a container gets the nodes that it is handed)"
    )]
    NoNode {
        /// Its address in Linux.
        function: PciAddress,
    },
    /// Its node can't be opened.
    #[error(
        "{function}: VFIO doesn't give it: its node in /dev/vfio can't be opened: {error}: run it as root, grant it CAP_CHOWN, by which it is handed \
         to this user, or have it be this user's (a rule of udev's for the subsystems vfio and vfio-dev)"
    )]
    Node {
        /// Its address in Linux.
        function: PciAddress,
        /// Linux's reason.
        error: io::Error,
    },
    /// There is no container.
    #[error("VFIO has no container for a VM's devices: {0}")]
    Container(vfio_ioctls::VfioError),
    /// Memory isn't mapped for devices.
    #[error("{iova}: devices can't be let reach it: {error}")]
    Map {
        /// Where they would.
        iova: Span<Iova>,
        /// VFIO's reason.
        error: vfio_ioctls::VfioError,
    },
    /// A BAR can't be mapped.
    #[error("{function}: Linux doesn't let its BAR {bar} be mapped")]
    Unmappable {
        /// The function.
        function: PciAddress,
        /// The BAR.
        bar: u8,
    },
    /// It masters the bus still.
    #[error("{0}: it doesn't leave the bus")]
    Masters(PciAddress),
    /// It isn't reset.
    #[error("{function}: it can't be reset: {error}")]
    Reset {
        /// The function.
        function: PciAddress,
        /// Linux's reason.
        error: io::Error,
    },
    /// More than a process can have.
    #[error("it is more than a process can map")]
    TooLarge,
    /// Linux's.
    #[error(transparent)]
    Io(io::Error),
    /// It can't be taken from its driver.
    #[error("{0}")]
    Unbind(String),
    /// It isn't there.
    #[error("{0}: this machine has no such function")]
    Unknown(PciAddress),
    /// The bridge by which its guest would see it.
    #[error(transparent)]
    Bridge(#[from] axvm_vpci::BridgeError),
}

/// A member of a group, and the driver that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The member, as Linux calls it.
    pub member: PciAddress,
    /// The driver.
    pub driver: String,
}

fn who_has(others: &Others) -> String {
    match others {
        Others::Held(Holder { member, driver }) => format!(
            "{member} is in its IOMMU group, and the driver {driver} has it since that was looked at: give it to the same VM, or free it: \
             echo {member} > /sys/bus/pci/drivers/{driver}/unbind"
        ),
        Others::Free | Others::Nobody => {
            "another program has a member of its IOMMU group, or the machine doesn't keep its messages apart \
                                          from others' (interrupt remapping)"
                .into()
        }
    }
}

/// Takes functions from their drivers, and sees to it that they are given back.
pub trait Binder: Send + Sync {
    /// Has vfio-pci have a function, as Linux calls it.
    ///
    /// # Errors
    ///
    /// A line that says why not.
    fn take(&self, function: PciAddress) -> Result<(), String>;

    /// Has the messages of a function, as Linux calls it, come to these processors, by Linux's numbers.
    ///
    /// # Errors
    ///
    /// A line that says why not.
    fn aim(&self, function: PciAddress, processors: &[usize]) -> Result<Aimed, String>;
}

/// What came of leading messages to processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aimed {
    /// They come there.
    Done,
    /// Who does it does something else: it is to be asked for again.
    Later,
}

/// Whether devices can be given.
pub const SERVES: Serves = Serves::Yes;

/// What a VM has of VFIO.
struct Parts {
    kvm: Arc<VmFd>,
    routes: Arc<Routes>,
    windows: Windows<Container>,
    /// Open functions. They go before the container does.
    opened: Mutex<Vec<Arc<Opened>>>,
    container: Mutex<Option<Container>>,
    lines: Mutex<Lines>,
}

/// The lines of a VM's devices: KVM raises none before it has the VM's interrupt controller.
enum Lines {
    /// Those that are to be raised once it has, with their numbers to KVM.
    Wait(Vec<(Arc<Opened>, u32)>),
    /// It has.
    Raised,
}

impl Parts {
    /// The container of the VM of this number, which is there from its first device on.
    fn container(&self, source: &Source, vm: VmId) -> Result<Container, VfioError> {
        let mut container = crate::lock(&self.container);
        if let Some(container) = &*container {
            return Ok(container.clone());
        }
        let mut device = kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_VFIO, fd: 0, flags: 0 };
        let made = self.kvm.create_device(&mut device);
        let made = made.map_err(|error| VfioError::Io(io::Error::from_raw_os_error(error.errno())))?;
        let new = source.container(vm.0.into(), VfioDeviceFd::new_from_kvm(made))?;
        *container = Some(new.clone());
        Ok(new)
    }

    fn opened(&self, function: PciAddress) -> Option<Arc<Opened>> {
        crate::lock(&self.opened).iter().find(|opened| opened.function == function).cloned()
    }
}

/// A VM's DMA map. With it goes all that the VM has of VFIO.
pub struct Dma(Arc<Parts>);

impl DmaMap for Dma {
    type Backing = Place;
    type Domain = ();
    type Error = Error;

    fn map_dma(&self, iova: Span<Iova>, backing: &Place, flags: MappingFlags) -> Result<(), Error> {
        self.0.windows.map_dma(iova, backing, flags)
    }

    fn unmap_dma(&self, iova: Span<Iova>) -> Result<(), Error> {
        self.0.windows.unmap_dma(iova)
    }

    fn domain(&self, iommu: IommuId) -> Result<(), Error> {
        self.0.windows.domain(iommu)
    }
}

/// The devices that this Linux gives away.
pub struct Vfio {
    /// How Linux calls functions, by their addresses in the platform.
    names: BTreeMap<PciAddress, PciAddress>,
    /// Of those that VMs have, the others of their groups, which are the same VMs': all as Linux calls them.
    together: BTreeMap<PciAddress, Vec<PciAddress>>,
    source: Source,
    binder: Option<Arc<dyn Binder>>,
    vms: Mutex<BTreeMap<VmId, Weak<Parts>>>,
    /// Functions, as Linux calls them, that have messages since, each with the processors of its VM, to which they are to come.
    unaimed: Mutex<BTreeMap<PciAddress, Vec<usize>>>,
}

/// Of each function that a VM has, the others of its group that one has, too.
fn together(functions: &[sysfs::Function], plans: &[Arc<VmPlan>]) -> BTreeMap<PciAddress, Vec<PciAddress>> {
    let planned = |function: &&sysfs::Function| {
        let devices = plans.iter().flat_map(|plan| &plan.devices);
        function.address.is_some() && devices.into_iter().any(|device| device.pci == function.address)
    };
    let of = |function: &sysfs::Function| {
        let is_member = |it: &&sysfs::Function| function.with.contains(&it.linux);
        functions.iter().filter(is_member).filter(planned).map(|it| it.linux).collect()
    };
    functions.iter().filter(planned).map(|it| (it.linux, of(it))).collect()
}

impl Vfio {
    /// Those of a machine, which somebody takes from their drivers; nobody does where no VM is to have one.
    pub fn new(
        functions: &[sysfs::Function],
        plans: &[Arc<VmPlan>],
        binder: Option<Arc<impl Binder + 'static>>,
        source: Source,
    ) -> Self {
        let names = functions.iter().filter_map(|it| Some((it.address?, it.linux))).collect();
        let together = together(functions, plans);
        let binder = binder.map(|binder| -> Arc<dyn Binder> { binder });
        Self { names, together, source, binder, vms: Mutex::default(), unaimed: Mutex::default() }
    }

    fn linux(&self, device: &DevicePlan) -> Result<PciAddress, Error> {
        let address = device.pci.ok_or(Error::Unknown)?;
        Ok(self.names.get(&address).copied().ok_or(VfioError::Unknown(address))?)
    }

    fn parts(&self, vm: VmId) -> Option<Arc<Parts>> {
        crate::lock(&self.vms).get(&vm)?.upgrade()
    }

    /// What KVM makes of a VM's events.
    pub fn routes(&self, vm: VmId) -> Option<Arc<Routes>> {
        Some(self.parts(vm)?.routes.clone())
    }

    /// A function that a VM has open.
    pub fn opened(&self, vm: VmId, function: PciAddress) -> Option<Arc<Opened>> {
        self.parts(vm)?.opened(function)
    }

    /// A function that any VM has open.
    fn anywhere(&self, device: &DevicePlan) -> Option<Arc<Opened>> {
        let address = device.pci?;
        let parts: Vec<Arc<Parts>> = crate::lock(&self.vms).values().filter_map(Weak::upgrade).collect();
        parts.iter().find_map(|parts| parts.opened(address))
    }

    /// An empty DMA map for a VM.
    ///
    /// # Errors
    ///
    /// None.
    pub fn create(&self, plan: &VmPlan, kvm: &Arc<VmFd>) -> Result<Dma, Error> {
        let parts = Arc::new(Parts {
            kvm: kvm.clone(),
            routes: Routes::new(kvm.clone()),
            windows: Windows::default(),
            opened: Mutex::default(),
            container: Mutex::default(),
            lines: Mutex::new(Lines::Wait(Vec::new())),
        });
        crate::lock(&self.vms).insert(plan.id, Arc::downgrade(&parts));
        Ok(Dma(parts))
    }

    /// Takes a device from its driver, and those of its group from theirs: VFIO gives none as long as a driver has another.
    ///
    /// # Errors
    ///
    /// Something keeps it.
    pub fn unbind(&self, device: &DevicePlan) -> Result<(), Error> {
        let function = self.linux(device)?;
        let binder = self.binder.as_ref().ok_or(Error::Unknown)?;
        let others = self.together.get(&function).into_iter().flatten();
        for function in [&function].into_iter().chain(others) {
            binder.take(*function).map_err(VfioError::Unbind)?;
        }
        Ok(())
    }

    /// A function has messages from now on, which are to come to these processors, by Linux's numbers: [`Vfio::lead`] sees to it.
    pub fn note_messages(&self, function: PciAddress, processors: Vec<usize>) {
        if let Some(linux) = self.names.get(&function) {
            crate::lock(&self.unaimed).insert(*linux, processors);
        }
    }

    /// Has messages that came up since come to their VMs' processors. Whether that is to be done again; `said` hears what can't be done.
    pub fn lead(&self, said: impl Fn(&str)) -> bool {
        let Some(binder) = &self.binder else { return false };
        let unaimed = std::mem::take(&mut *crate::lock(&self.unaimed));
        let mut again = false;
        for (function, processors) in unaimed {
            match binder.aim(function, &processors) {
                Ok(Aimed::Done) => {}
                Ok(Aimed::Later) => {
                    again = true;
                    // What came up meanwhile is newer.
                    crate::lock(&self.unaimed).entry(function).or_insert(processors);
                }
                Err(why) => said(&why),
            }
        }
        again
    }

    /// Takes a device off the bus, its interrupts masked. One that isn't open is the kernel's, which lets it do neither.
    ///
    /// # Errors
    ///
    /// Something of it couldn't be confirmed.
    pub fn close(&self, device: &DevicePlan) -> Result<(), Error> {
        Ok(self.anywhere(device).map_or(Ok(()), |opened| opened.close())?)
    }

    /// Resets a device, as far as its plan has a way. Of one that isn't open Linux sees to that, when it is opened and closed.
    ///
    /// # Errors
    ///
    /// Linux's.
    pub fn reset(&self, device: &DevicePlan) -> Result<(), Error> {
        match self.anywhere(device) {
            Some(opened) if device.reset.is_some() => Ok(opened.reset()?),
            _ => Ok(()),
        }
    }

    /// Keeps a device from the bus while its VM goes on.
    ///
    /// # Errors
    ///
    /// It couldn't be confirmed.
    pub fn keep_off_bus(&self, vm: VmId, device: &DevicePlan) -> Result<(), Error> {
        let opened = device.pci.and_then(|function| self.opened(vm, function)).ok_or(Error::Unknown)?;
        Ok(opened.keep_off_bus()?)
    }

    /// Gives a closed device to a VM: from now on its requests pass by the VM's DMA map.
    ///
    /// # Errors
    ///
    /// VFIO's.
    pub fn attach(&self, vm: VmId, device: &DevicePlan) -> Result<(), Error> {
        let parts = self.parts(vm).ok_or(Error::Unknown)?;
        let function = device.pci.ok_or(Error::Unknown)?;
        // As the guest's interrupt controller has it: by what the plan says, or by where the guest sees it.
        let shown = device.shown.map(|it| u32::from(it.requester_id()));
        let id = device.msi.map(|msi| msi.source.id.0).or(shown).unwrap_or(0);
        let (container, linux) = (parts.container(&self.source, vm)?, self.linux(device)?);
        let root = Root::new(Path::new("/"));
        let vfio = container.open(&root, linux);
        let vfio = vfio.map_err(|error| way::refusal(linux, error, Others::of(&root, linux)))?;
        let opened = Opened::new(vm, function, vfio, parts.routes.clone(), id)?;
        // The container has tables now. Its device masters nothing yet.
        parts.windows.open(container)?;
        crate::lock(&parts.opened).push(Arc::new(opened));
        Ok(())
    }

    /// Takes it back: it interrupts nobody. It stays open until nothing of it is mapped any more, which is when its VM's map goes.
    ///
    /// # Errors
    ///
    /// It couldn't be confirmed.
    pub fn detach(&self, vm: VmId, device: &DevicePlan) -> Result<(), Error> {
        let opened = device.pci.and_then(|function| self.opened(vm, function));
        Ok(opened.map_or(Ok(()), |opened| opened.close())?)
    }

    /// What backs a part of a device's registers.
    ///
    /// # Errors
    ///
    /// Linux doesn't let it be mapped.
    pub fn registers(&self, plan: &VmPlan, resource: &Resource<'_>) -> Result<Place, Error> {
        // The plan gives no other registers away.
        let Region::Bar(bar) = resource.region else { return Err(Error::Unknown) };
        let function = resource.device.pci.ok_or(Error::Unknown)?;
        let opened = self.opened(plan.id, function).ok_or(Error::Unknown)?;
        Ok(opened.map(bar, resource.offset, resource.length)?)
    }

    /// The device whose line it is, and the line's number to KVM.
    fn of_line(&self, vm: VmId, plan: &VmPlan, route: &LineRoute) -> Option<(Arc<Opened>, u32)> {
        let device = plan.devices.get(usize::from(route.device))?;
        Some((self.opened(vm, device.pci?)?, crate::arch::pin(route.irq)?))
    }

    /// Sends a device's line to a VM.
    ///
    /// # Errors
    ///
    /// There is no such line, or VFIO's.
    pub fn route_line(&self, vm: VmId, plan: &VmPlan, route: &LineRoute) -> Result<(), Error> {
        let (opened, pin) = self.of_line(vm, plan, route).ok_or(Error::Unknown)?;
        let parts = self.parts(vm).ok_or(Error::Unknown)?;
        match &mut *crate::lock(&parts.lines) {
            Lines::Wait(lines) => lines.push((opened, pin)),
            Lines::Raised => opened.give_line(pin)?,
        }
        Ok(())
    }

    /// Sends it to nobody.
    ///
    /// # Errors
    ///
    /// VFIO's.
    pub fn unroute_line(&self, vm: VmId, plan: &VmPlan, route: &LineRoute) -> Result<(), Error> {
        let Some((opened, pin)) = self.of_line(vm, plan, route) else { return Ok(()) };
        if let Some(parts) = self.parts(vm)
            && let Lines::Wait(lines) = &mut *crate::lock(&parts.lines)
        {
            lines.retain(|(_, known)| *known != pin);
        }
        Ok(opened.take_line()?)
    }

    /// Adds the virtual PCI bridges through which a VM sees its functions; the VM has its interrupt controller.
    ///
    /// # Errors
    ///
    /// The plan doesn't fit the platform.
    pub fn add_bridges(
        &self,
        mut devices: AxVmDevicesBuilder<Place>,
        ground: &Arc<Ground<Hal>>,
    ) -> Result<(AxVmDevicesBuilder<Place>, Vec<Arc<Bridge>>), Error> {
        let parts = self.parts(ground.id()).ok_or(Error::Unknown)?;
        let before = std::mem::replace(&mut *crate::lock(&parts.lines), Lines::Raised);
        if let Lines::Wait(lines) = before {
            lines.into_iter().try_for_each(|(opened, pin)| opened.give_line(pin))?;
        }
        let mut bridges = Vec::new();
        for pci in &ground.plan().pci {
            let bridge = backend::new_bridge(ground, pci).map_err(VfioError::Bridge)?;
            devices = devices.mmio(pci.ecam, bridge.clone());
            devices = ports::add(devices, pci, &bridge);
            bridges.push(bridge);
        }
        if !bridges.is_empty() {
            devices = crate::arch::add_config_ports(devices, &bridges);
        }
        Ok((devices, bridges))
    }
}

impl Iommu for Vfio {
    type Domain = ();
    type Error = Error;

    /// A group joins its VM's container when its device is opened ([`Vfio::attach`]); until then the kernel lets it reach nothing.
    fn attach(&self, _: DmaSource, (): &()) -> Result<(), Error> {
        Ok(())
    }

    /// The kernel has no way of its own while a device is open; its bus mastering is off then ([`Opened::close`], [`Opened::keep_off_bus`]).
    fn block(&self, _: DmaSource) -> Result<(), Error> {
        Ok(())
    }

    fn silence(&self, _: DmaSource) -> Result<(), Error> {
        Ok(())
    }

    fn drain(&self, _: IommuId, _: usize, _: impl FnMut(DmaFault)) -> Drained {
        Drained::default()
    }

    /// VFIO tells nobody what an IOMMU has blocked: the kernel's log does.
    fn abilities(&self, _: IommuId) -> Abilities {
        Abilities { reports_faults: false, cuts_mappings: false }
    }
}

impl MsiSink for Vfio {
    type Error = Error;

    fn route(
        &self,
        vm: VmId,
        function: &DevicePlan,
        vector: u16,
        message: Option<MsiMessage>,
    ) -> Result<(), Error> {
        let opened = function.pci.and_then(|function| self.opened(vm, function)).ok_or(Error::Unknown)?;
        Ok(opened.route(vector, message)?)
    }
}

#[cfg(test)]
mod tests;
