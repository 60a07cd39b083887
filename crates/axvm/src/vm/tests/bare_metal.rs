//! A host with page tables: it knows every page, and its interrupt controller is its own.

use super::*;

type Pages = Rc<RefCell<BTreeMap<u64, (u64, MappingFlags)>>>;

#[derive(Default)]
pub(super) struct BareMetal {
    faults: Rc<Faults>,
    stage2: Pages,
    dma: Pages,
    alive: Cell<i32>,
    revoked: Cell<bool>,
    attached: RefCell<BTreeMap<String, VmId>>,
    routed: RefCell<Vec<u32>>,
    ram: RefCell<BTreeMap<u64, u64>>,
    kicked: RefCell<Vec<u16>>,
    injected: RefCell<Vec<(u16, u32)>>,
    levels: RefCell<Vec<(u32, bool)>>,
}

/// One set of tables.
pub(super) struct Tables {
    pages: Pages,
    faults: Rc<Faults>,
}

impl Tables {
    fn insert(&self, start: u64, size: u64, hpa: Hpa, flags: MappingFlags) {
        for page in (0..size).step_by(PAGE_SIZE as usize) {
            let old = self.pages.borrow_mut().insert(start + page, (hpa.0 + page, flags));
            assert!(old.is_none(), "mapped over");
        }
    }

    fn remove(&self, start: u64, size: u64) {
        for page in (0..size).step_by(PAGE_SIZE as usize) {
            assert!(self.pages.borrow_mut().remove(&(start + page)).is_some(), "unmapped what wasn't there");
        }
    }
}

impl Materialise for Tables {
    type Backing = Hpa;
    type Error = &'static str;

    fn map(&self, gpa: Span<Gpa>, backing: &Hpa, flags: MappingFlags) -> Result<(), &'static str> {
        self.faults.step("map")?;
        self.insert(gpa.start().0, gpa.size(), *backing, flags);
        Ok(())
    }

    fn unmap(&self, gpa: Span<Gpa>) -> Result<(), &'static str> {
        self.faults.lends("unmap");
        self.remove(gpa.start().0, gpa.size());
        Ok(())
    }
}

impl DmaMap for Tables {
    type Backing = Hpa;
    type Error = &'static str;

    fn map_dma(&self, iova: Span<Iova>, backing: &Hpa, flags: MappingFlags) -> Result<(), &'static str> {
        self.faults.step("map dma")?;
        self.insert(iova.start().0, iova.size(), *backing, flags);
        Ok(())
    }

    fn unmap_dma(&self, iova: Span<Iova>) -> Result<(), &'static str> {
        self.faults.lends("unmap_dma");
        self.remove(iova.start().0, iova.size());
        Ok(())
    }
}

impl DeviceOps for BareMetal {
    type Error = &'static str;

    fn unbind(&self, _: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("unbind")
    }

    fn close(&self, device: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("close")?;
        self.attached.borrow_mut().remove(&device.name);
        Ok(())
    }

    fn keep_off_bus(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("keep off the bus")
    }

    fn reset(&self, device: &DevicePlan) -> Result<(), &'static str> {
        assert!(!self.attached.borrow().contains_key(&device.name), "reset while it masters the bus");
        self.faults.step("reset")
    }

    fn attach(&self, vm: VmId, device: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("attach")?;
        self.attached.borrow_mut().insert(device.name.clone(), vm);
        Ok(())
    }

    fn detach(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        self.faults.step("detach")
    }
}

impl Forward for BareMetal {
    fn forward_read(&self, _: Hpa, _: Width) -> Result<u64, Aborted> {
        Err(Aborted)
    }

    fn forward_write(&self, _: Hpa, _: Width, _: u64) -> Result<(), Aborted> {
        Err(Aborted)
    }
}

impl AxVMHal for BareMetal {
    type Backing = Hpa;
    type Space = Tables;
    type Dma = Tables;

    fn create(&self, _: &VmPlan) -> Result<(Tables, Tables), &'static str> {
        self.faults.step("create")?;
        self.alive.set(self.alive.get() + 1);
        self.revoked.set(false);
        let tables = |pages: &Pages| Tables { pages: pages.clone(), faults: self.faults.clone() };
        Ok((tables(&self.stage2), tables(&self.dma)))
    }

    fn revoke(&self, _: VmId, _: &Tables) {
        self.revoked.set(true);
    }

    fn destroy(&self, _: VmId, space: Tables, dma: Tables) {
        self.faults.lends("destroy");
        assert!(space.pages.borrow().is_empty() && dma.pages.borrow().is_empty());
        self.alive.set(self.alive.get() - 1);
    }

    fn withhold(&self, _: VmId, _: Tables, _: Tables, _: Vec<Hpa>) {
        self.faults.lends("withhold");
    }

    fn ram(&self, _: VmId, hpa: Hpa, bytes: u64) -> Result<Hpa, &'static str> {
        self.faults.step("ram")?;
        assert!(self.ram.borrow_mut().insert(hpa.0, bytes).is_none(), "given twice");
        Ok(hpa)
    }

    fn release_ram(&self, _: VmId, backing: Hpa, bytes: u64) {
        self.faults.lends("release_ram");
        let within = backing.0..backing.0 + bytes;
        let mapped = |pages: &Pages| pages.borrow().values().any(|(hpa, _)| within.contains(hpa));
        assert!(!mapped(&self.stage2) && !mapped(&self.dma), "released while it is mapped");
        assert!(self.attached.borrow().is_empty(), "released while a device masters the bus");
        assert_eq!(self.ram.borrow_mut().remove(&backing.0), Some(bytes));
    }

    fn registers(&self, _: &DevicePlan, hpa: Hpa, _: u64) -> Result<Hpa, &'static str> {
        self.faults.step("registers")?;
        Ok(hpa)
    }

    fn doorbell(&self, _: VmId, doorbell: &Doorbell) -> Result<Option<Hpa>, &'static str> {
        self.faults.step("doorbell")?;
        Ok(Some(doorbell.hpa))
    }

    fn route_line(&self, _: VmId, route: &LineRoute) -> Result<(), &'static str> {
        self.faults.step("route")?;
        self.routed.borrow_mut().push(route.irq.0);
        Ok(())
    }

    fn unroute_line(&self, _: VmId, route: &LineRoute) {
        self.faults.lends("unroute_line");
        self.routed.borrow_mut().retain(|irq| *irq != route.irq.0);
    }

    fn inject_irq_to_vcpu(&self, _: VmId, vcpu: VcpuId, irq: Irq) -> Result<(), &'static str> {
        if vcpu.0 > 1 {
            return Err("no such vCPU");
        }
        self.injected.borrow_mut().push((vcpu.0, irq.0));
        Ok(())
    }

    fn set_irq_level(&self, _: VmId, irq: Irq, high: bool) -> Result<(), &'static str> {
        self.levels.borrow_mut().push((irq.0, high));
        Ok(())
    }

    fn kick(&self, _: VmId, vcpu: VcpuId) {
        self.kicked.borrow_mut().push(vcpu.0);
    }

    fn now_ns(&self) -> u64 {
        0
    }

    fn record(&self, _: Violation) {}
}

impl BareMetal {
    pub(super) fn dma_flags(&self, iova: u64) -> Option<MappingFlags> {
        self.dma.borrow().get(&iova).map(|(_, flags)| *flags)
    }
}

impl Fake for BareMetal {
    const NAME: &'static str = "bare metal";

    fn faults(&self) -> &Faults {
        &self.faults
    }

    fn cpu_reaches(&self, gpa: u64) -> bool {
        !self.revoked.get() && self.stage2.borrow().contains_key(&(gpa & !0xfff))
    }

    fn device_reaches(&self, iova: u64) -> bool {
        self.dma.borrow().contains_key(&(iova & !0xfff))
    }

    fn attached(&self) -> Vec<String> {
        self.attached.borrow().keys().cloned().collect()
    }

    fn routed(&self) -> Vec<u32> {
        self.routed.borrow().clone()
    }

    fn ram_out(&self) -> u64 {
        self.ram.borrow().values().sum()
    }

    fn destroyed(&self) -> bool {
        self.alive.get() == 0
    }

    fn comes_when_called(&self) -> bool {
        false
    }

    fn kicked(&self) -> Vec<u16> {
        self.kicked.borrow().clone()
    }

    fn levels(&self) -> Vec<(u32, bool)> {
        self.levels.borrow().clone()
    }

    fn injected(&self) -> Vec<(u16, u32)> {
        self.injected.borrow().clone()
    }
}
