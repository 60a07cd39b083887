//! A host that is a process: guest memory is its own (a file and an offset), the second stage a list of memory slots, the
//! IOMMU a container of windows, and the interrupt controller the kernel's: lines are routed by number.

use super::*;

/// A place in a file: a memfd for RAM, a VFIO device's file for registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: u32,
    offset: u64,
    length: u64,
}

impl Backing for Place {
    fn advance(&self, bytes: u64) -> Option<Self> {
        let offset = self.offset.checked_add(bytes)?;
        let length = self.length.checked_sub(bytes)?;
        Some(Self { file: self.file, offset, length })
    }
}

type Slots = Arc<Shared<Vec<(u64, u64, Place)>>>;

pub(super) struct Kvm {
    lab: Arc<Lab>,
    slots: Slots,
    container: Slots,
    machines: Cell<i32>,
    /// RAM's files and their sizes.
    files: Shared<BTreeMap<u32, u64>>,
    next_file: Cell<u32>,
    /// Devices whose group is in the container.
    groups: Shared<Vec<String>>,
    /// The kernel's routing table: line to eventfd.
    irqfds: Shared<BTreeMap<u32, u32>>,
    iommu: Containers,
    messages: Vectors,
}

impl Default for Kvm {
    fn default() -> Self {
        let lab = Arc::new(Lab::default());
        Self {
            iommu: Containers { lab: lab.clone(), ..Containers::default() },
            lab,
            slots: Slots::default(),
            container: Slots::default(),
            machines: Cell::default(),
            files: Shared::default(),
            next_file: Cell::default(),
            groups: Shared::default(),
            irqfds: Shared::default(),
            messages: Vectors::default(),
        }
    }
}

/// The IOMMU by way of containers: it tells nobody what it has blocked.
#[derive(Default)]
pub(super) struct Containers {
    lab: Arc<Lab>,
    open: Shared<Vec<DmaSource>>,
}

impl Iommu for Containers {
    /// There is one container a VM.
    type Domain = ();
    type Error = &'static str;

    fn attach(&self, source: DmaSource, (): &()) -> Result<(), &'static str> {
        self.lab.faults.step("open a source")?;
        if source.id.0 > 0xff {
            return Err("there is no such group");
        }
        self.open.borrow_mut().push(source);
        Ok(())
    }

    fn block(&self, source: DmaSource) -> Result<(), &'static str> {
        self.lab.faults.step("block a source")?;
        self.open.borrow_mut().retain(|it| *it != source);
        Ok(())
    }

    fn silence(&self, _: DmaSource) -> Result<(), &'static str> {
        Ok(())
    }

    fn drain(&self, _: IommuId, _: usize, _: impl FnMut(DmaFault)) -> Drained {
        Drained::default()
    }

    fn abilities(&self, _: IommuId) -> Abilities {
        Abilities { reports_faults: false, cuts_mappings: false }
    }
}

/// An eventfd and a route for each vector of each function.
#[derive(Default)]
pub(super) struct Vectors(Shared<BTreeMap<(String, u16), MsiMessage>>);

/// So many vectors a function has.
const VECTORS: u16 = 4;

impl MsiSink for Vectors {
    type Error = &'static str;

    fn route(
        &self,
        _: VmId,
        function: &DevicePlan,
        vector: u16,
        message: Option<MsiMessage>,
    ) -> Result<(), &'static str> {
        if vector >= VECTORS {
            return Err("there is no such vector");
        }
        let (mut routes, key) = (self.0.borrow_mut(), (function.name.clone(), vector));
        match message {
            Some(message) => routes.insert(key, message),
            None => routes.remove(&key),
        };
        Ok(())
    }
}

/// A VM's file descriptor.
pub(super) struct Machine {
    slots: Slots,
    lab: Arc<Lab>,
}

/// A VFIO container.
pub(super) struct Container {
    windows: Slots,
    lab: Arc<Lab>,
}

/// Slots can't be split: what is taken away must be a whole slot.
fn remove(slots: &Slots, start: u64, size: u64) -> Result<(), &'static str> {
    let mut slots = slots.borrow_mut();
    let at = slots.iter().position(|slot| (slot.0, slot.1) == (start, size)).ok_or("no such slot")?;
    slots.remove(at);
    Ok(())
}

impl Materialise for Machine {
    type Backing = Place;
    type Error = &'static str;

    fn map(&self, gpa: Span<Gpa>, backing: &Place, _: MappingFlags) -> Result<(), &'static str> {
        self.lab.faults.step("slot")?;
        assert!(gpa.size() <= backing.length, "past the file's end");
        self.slots.borrow_mut().push((gpa.start().0, gpa.size(), backing.clone()));
        Ok(())
    }

    fn unmap(&self, gpa: Span<Gpa>) -> Result<(), &'static str> {
        self.lab.faults.step("unmap")?;
        remove(&self.slots, gpa.start().0, gpa.size())
    }
}

impl DmaMap for Container {
    type Backing = Place;
    type Domain = ();
    type Error = &'static str;

    fn domain(&self, _: IommuId) -> Result<(), &'static str> {
        Ok(())
    }

    fn map_dma(&self, iova: Span<Iova>, backing: &Place, _: MappingFlags) -> Result<(), &'static str> {
        self.lab.faults.step("vfio map")?;
        self.windows.borrow_mut().push((iova.start().0, iova.size(), backing.clone()));
        Ok(())
    }

    fn unmap_dma(&self, iova: Span<Iova>) -> Result<(), &'static str> {
        self.lab.faults.step("unmap dma")?;
        remove(&self.windows, iova.start().0, iova.size())
    }
}

impl DeviceOps for Kvm {
    type Error = &'static str;

    fn unbind(&self, _: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("unbind")
    }

    fn close(&self, device: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("close")?;
        self.groups.borrow_mut().retain(|name| *name != device.name);
        Ok(())
    }

    fn charge(&self, vm: VmId, device: &DevicePlan) {
        // Nobody hears of what was refused; a container that is closed has none of it under way.
        self.lab.faults.lends("charge");
        let _ = (vm, device);
    }

    fn keep_off_bus(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("keep off the bus")
    }

    fn reset(&self, _: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("reset")
    }

    fn attach(&self, _: VmId, device: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("attach")?;
        self.groups.borrow_mut().push(device.name.clone());
        Ok(())
    }

    fn detach(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        Ok(())
    }
}

impl Forward for Kvm {
    type Backing = Place;

    fn forward_read(&self, at: &Place, offset: u64, _: Width) -> Result<u64, Aborted> {
        assert_eq!((at.offset, at.length), (0, PAGE_SIZE), "a region of the device's file");
        super::forwarded_read(offset)
    }

    fn forward_write(&self, _: &Place, offset: u64, _: Width, value: u64) -> Result<(), Aborted> {
        self.lab.forwarded.borrow_mut().push((offset, value));
        Ok(())
    }

    fn forward_port_read(&self, port: u16, width: Width) -> u32 {
        super::forwarded_port_read(port, width)
    }

    fn forward_port_write(&self, port: u16, _: Width, value: u32) {
        self.lab.forwarded_ports.borrow_mut().push((port, value));
    }
}

impl Kvm {
    fn open(&self, length: u64) -> Place {
        let file = self.next_file.get();
        self.next_file.set(file + 1);
        Place { file, offset: 0, length }
    }
}

impl AxVMHal for Kvm {
    type Space = Machine;
    type Dma = Container;
    type Iommu = Containers;
    type Messages = Vectors;
    type Irqchip = Chip;
    type Vcpu<'a> = Script<'a, Self>;
    type Ends = ();

    fn create(&self, _: &VmPlan) -> Result<(Machine, Container), &'static str> {
        self.lab.faults.step("create")?;
        self.machines.set(self.machines.get() + 1);
        let machine = Machine { slots: self.slots.clone(), lab: self.lab.clone() };
        Ok((machine, Container { windows: self.container.clone(), lab: self.lab.clone() }))
    }

    fn revoke(&self, _: VmId, _: &Machine) {
        // A vCPU leaves its guest when its thread is signalled.
    }

    fn shut(&self, _: VmId, _: &Machine) {
        // For the same reason.
    }

    fn open(&self, _: VmId, _: &Machine) {}

    fn destroy(&self, _: VmId, _: Machine, _: Container) {
        self.lab.faults.lends("destroy");
        self.machines.set(self.machines.get() - 1);
    }

    fn withhold(&self, _: VmId, _: Machine, _: Container, ram: Vec<Place>) {
        self.lab.faults.lends("withhold");
        let bytes: u64 = ram.iter().map(|place| place.length).sum();
        self.lab.withheld.set(self.lab.withheld.get() + bytes);
    }

    fn ram(&self, _: VmId, piece: &RamPiece) -> Result<Place, &'static str> {
        // Where bare metal would have put it is of no interest here.
        let bytes = piece.gpa.size();
        self.lab.faults.step("memfd")?;
        let place = self.open(bytes);
        self.files.borrow_mut().insert(place.file, bytes);
        Ok(place)
    }

    fn release_ram(&self, _: VmId, backing: Place, bytes: u64) {
        self.lab.faults.lends("release_ram");
        assert_eq!(self.files.borrow_mut().remove(&backing.file), Some(bytes));
    }

    fn registers(&self, _: &VmPlan, resource: &Resource<'_>) -> Result<Place, &'static str> {
        self.lab.faults.step("vfio region")?;
        Ok(Place { offset: resource.offset, ..self.open(resource.length) })
    }

    fn doorbell(&self, _: VmId, _: &Doorbell) -> Result<Option<Place>, &'static str> {
        Ok(None)
    }

    fn route_line(&self, _: VmId, route: &LineRoute) -> Result<(), &'static str> {
        self.lab.faults.step("irqfd")?;
        self.irqfds.borrow_mut().insert(route.irq.0, 100);
        Ok(())
    }

    fn unroute_line(&self, _: VmId, route: &LineRoute) {
        self.lab.faults.lends("unroute_line");
        self.irqfds.borrow_mut().remove(&route.irq.0);
    }

    fn iommu(&self) -> &Containers {
        &self.iommu
    }

    fn messages(&self) -> &Vectors {
        &self.messages
    }

    fn equip(&self, ground: &Arc<Ground<Self>>) -> Result<Equipment<Self>, &'static str> {
        self.lab.faults.step("equip")?;
        let irqchip = Arc::new(Chip::new(self.lab.clone(), ground.plan().cpus.len(), Told::ByAddress));
        let mut devices = super::emulated(ground, &self.lab, &irqchip)?;
        // The kernel has to know each vector, so that the guest's table isn't the function's.
        let armed = {
            let ground = ground.clone();
            move |vector, message| {
                let _ = ground.route_message(0, vector, Some(message));
            }
        };
        let table = Table { words: Shared::default(), armed, name: "the disk's table".into() };
        devices = devices.mmio(Span::new(Gpa(BAR), PAGE_SIZE).map_err(|_| "no span")?, Arc::new(table));
        let devices = devices.build().map_err(|_| "they overlap")?;
        Ok(Equipment { irqchip, devices, ends: () })
    }

    fn reside<'a>(
        &'a self,
        vm: &'a AxVM<Self>,
        vcpu: VcpuId,
        start: Start,
        seat: VcpuId,
        run: impl FnOnce(&mut Script<'a, Self>),
    ) -> Resided<Self> {
        script::reside(self, vm, vcpu, start, seat, run)
    }

    fn kick(&self, _: VmId, vcpu: VcpuId) {
        self.lab.kicked.borrow_mut().push(vcpu.0);
        self.lab.bells.ring(vcpu);
    }

    fn now_ns(&self) -> u64 {
        self.lab.clock.get()
    }

    fn record(&self, violation: Violation) {
        self.lab.violations.borrow_mut().push(violation);
    }
}

fn holds(slots: &Slots, address: u64) -> bool {
    slots.borrow().iter().any(|&(start, size, _)| (start..start + size).contains(&address))
}

impl Fake for Kvm {
    const NAME: &'static str = "KVM";

    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn opened(&self) -> Vec<DmaSource> {
        self.iommu.open.borrow().clone()
    }

    fn stray(&self, _: DmaSource, _: u64) {
        // Nobody hears of it.
    }

    fn stray_late(&self, _: DmaSource, _: u64) {}

    fn offer_table(&self, _: &AxVM<Self>) {}

    fn fire(&self, vm: &AxVM<Self>, vector: u16) -> Result<(), &'static str> {
        let key = ("disk".into(), vector);
        let message = self.messages.0.borrow().get(&key).copied().ok_or("it has no route")?;
        vm.send_msi(None, message)
    }

    fn told_messages(&self) -> usize {
        self.messages.0.borrow().len()
    }

    fn cpu_reaches(&self, gpa: u64) -> bool {
        holds(&self.slots, gpa)
    }

    fn device_reaches(&self, iova: u64) -> bool {
        holds(&self.container, iova)
    }

    fn attached(&self) -> Vec<String> {
        let mut names = self.groups.borrow().clone();
        names.sort();
        names
    }

    fn routed(&self) -> Vec<u32> {
        self.irqfds.borrow().keys().copied().collect()
    }

    fn ram_out(&self) -> u64 {
        self.files.borrow().values().sum()
    }

    fn destroyed(&self) -> bool {
        self.machines.get() == 0
    }

    fn comes_when_called(&self) -> bool {
        true
    }
}
