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

type Slots = Rc<RefCell<Vec<(u64, u64, Place)>>>;

#[derive(Default)]
pub(super) struct Kvm {
    faults: Rc<Faults>,
    slots: Slots,
    container: Slots,
    machines: Cell<i32>,
    /// RAM's files and their sizes.
    files: RefCell<BTreeMap<u32, u64>>,
    next_file: Cell<u32>,
    /// Devices whose group is in the container.
    groups: RefCell<Vec<String>>,
    /// The kernel's routing table: line to eventfd.
    irqfds: RefCell<BTreeMap<u32, u32>>,
    signalled: RefCell<Vec<u16>>,
    pended: RefCell<Vec<(u16, u32)>>,
    levels: RefCell<Vec<(u32, bool)>>,
}

/// A VM's file descriptor.
pub(super) struct Machine {
    slots: Slots,
    faults: Rc<Faults>,
}

/// A VFIO container.
pub(super) struct Container {
    windows: Slots,
    faults: Rc<Faults>,
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
        self.faults.step("slot")?;
        assert!(gpa.size() <= backing.length, "past the file's end");
        self.slots.borrow_mut().push((gpa.start().0, gpa.size(), backing.clone()));
        Ok(())
    }

    fn unmap(&self, gpa: Span<Gpa>) -> Result<(), &'static str> {
        self.faults.lends("unmap");
        remove(&self.slots, gpa.start().0, gpa.size())
    }
}

impl DmaMap for Container {
    type Backing = Place;
    type Error = &'static str;

    fn map_dma(&self, iova: Span<Iova>, backing: &Place, _: MappingFlags) -> Result<(), &'static str> {
        self.faults.step("vfio map")?;
        self.windows.borrow_mut().push((iova.start().0, iova.size(), backing.clone()));
        Ok(())
    }

    fn unmap_dma(&self, iova: Span<Iova>) -> Result<(), &'static str> {
        self.faults.lends("unmap_dma");
        remove(&self.windows, iova.start().0, iova.size())
    }
}

impl DeviceOps for Kvm {
    type Error = &'static str;

    fn unbind(&self, _: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("unbind")
    }

    fn close(&self, device: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("close")?;
        self.groups.borrow_mut().retain(|name| *name != device.name);
        Ok(())
    }

    fn keep_off_bus(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("keep off the bus")
    }

    fn reset(&self, _: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("reset")
    }

    fn attach(&self, _: VmId, device: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("attach")?;
        self.groups.borrow_mut().push(device.name.clone());
        Ok(())
    }

    fn detach(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        Ok(())
    }
}

impl Forward for Kvm {
    fn forward_read(&self, _: Hpa, _: Width) -> Result<u64, Aborted> {
        Err(Aborted)
    }

    fn forward_write(&self, _: Hpa, _: Width, _: u64) -> Result<(), Aborted> {
        Err(Aborted)
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
    type Backing = Place;
    type Space = Machine;
    type Dma = Container;

    fn create(&self, _: &VmPlan) -> Result<(Machine, Container), &'static str> {
        self.faults.step("create")?;
        self.machines.set(self.machines.get() + 1);
        let machine = Machine { slots: self.slots.clone(), faults: self.faults.clone() };
        Ok((machine, Container { windows: self.container.clone(), faults: self.faults.clone() }))
    }

    fn revoke(&self, _: VmId, _: &Machine) {
        // A vCPU leaves its guest when its thread is signalled.
    }

    fn destroy(&self, _: VmId, _: Machine, _: Container) {
        self.faults.lends("destroy");
        self.machines.set(self.machines.get() - 1);
    }

    fn withhold(&self, _: VmId, _: Machine, _: Container, _: Vec<Place>) {
        self.faults.lends("withhold");
    }

    fn ram(&self, _: VmId, _: Hpa, bytes: u64) -> Result<Place, &'static str> {
        // Where bare metal would have put it is of no interest here.
        self.faults.step("memfd")?;
        let place = self.open(bytes);
        self.files.borrow_mut().insert(place.file, bytes);
        Ok(place)
    }

    fn release_ram(&self, _: VmId, backing: Place, bytes: u64) {
        self.faults.lends("release_ram");
        assert_eq!(self.files.borrow_mut().remove(&backing.file), Some(bytes));
    }

    fn registers(&self, _: &DevicePlan, _: Hpa, bytes: u64) -> Result<Place, &'static str> {
        self.faults.step("vfio region")?;
        Ok(self.open(bytes))
    }

    fn doorbell(&self, _: VmId, _: &Doorbell) -> Result<Option<Place>, &'static str> {
        Ok(None)
    }

    fn route_line(&self, _: VmId, route: &LineRoute) -> Result<(), &'static str> {
        self.faults.step("irqfd")?;
        self.irqfds.borrow_mut().insert(route.irq.0, 100);
        Ok(())
    }

    fn unroute_line(&self, _: VmId, route: &LineRoute) {
        self.faults.lends("unroute_line");
        self.irqfds.borrow_mut().remove(&route.irq.0);
    }

    fn inject_irq_to_vcpu(&self, _: VmId, vcpu: VcpuId, irq: Irq) -> Result<(), &'static str> {
        if vcpu.0 > 1 {
            return Err("no such vCPU");
        }
        self.pended.borrow_mut().push((vcpu.0, irq.0));
        Ok(())
    }

    fn set_irq_level(&self, _: VmId, irq: Irq, high: bool) -> Result<(), &'static str> {
        self.levels.borrow_mut().push((irq.0, high));
        Ok(())
    }

    fn kick(&self, _: VmId, vcpu: VcpuId) {
        self.signalled.borrow_mut().push(vcpu.0);
    }

    fn now_ns(&self) -> u64 {
        0
    }

    fn record(&self, _: Violation) {}
}

fn holds(slots: &Slots, address: u64) -> bool {
    slots.borrow().iter().any(|&(start, size, _)| (start..start + size).contains(&address))
}

impl Fake for Kvm {
    const NAME: &'static str = "KVM";

    fn faults(&self) -> &Faults {
        &self.faults
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

    fn kicked(&self) -> Vec<u16> {
        self.signalled.borrow().clone()
    }

    fn levels(&self) -> Vec<(u32, bool)> {
        self.levels.borrow().clone()
    }

    fn injected(&self) -> Vec<(u16, u32)> {
        self.pended.borrow().clone()
    }
}
