//! A host with page tables: it knows every page, and its interrupt controller is its own.

use super::*;

type Pages = Arc<Shared<BTreeMap<u64, (u64, MappingFlags)>>>;

pub(super) struct BareMetal {
    lab: Arc<Lab>,
    stage2: Pages,
    dma: Pages,
    alive: Cell<i32>,
    revoked: Cell<bool>,
    shut: Cell<bool>,
    attached: Shared<BTreeMap<String, VmId>>,
    routed: Shared<Vec<u32>>,
    ram: Shared<BTreeMap<u64, u64>>,
    iommu: Streams,
    messages: InFunctions<&'static str>,
}

impl Default for BareMetal {
    fn default() -> Self {
        let lab = Arc::new(Lab::default());
        Self {
            iommu: Streams { lab: lab.clone(), ..Streams::default() },
            lab,
            stage2: Pages::default(),
            dma: Pages::default(),
            alive: Cell::default(),
            revoked: Cell::default(),
            shut: Cell::default(),
            attached: Shared::default(),
            routed: Shared::default(),
            ram: Shared::default(),
            messages: InFunctions::default(),
        }
    }
}

/// An IOMMU that knows each stream, and tells what it has blocked.
#[derive(Default)]
pub(super) struct Streams {
    lab: Arc<Lab>,
    open: Shared<BTreeMap<DmaSource, VmId>>,
    silent: Shared<Vec<DmaSource>>,
    faults: Shared<VecDeque<DmaFault>>,
    /// Not recorded yet: blocking a source waits for them.
    under_way: Shared<VecDeque<DmaFault>>,
}

impl Iommu for Streams {
    type Domain = VmId;
    type Error = &'static str;

    fn attach(&self, source: DmaSource, vm: &VmId) -> Result<(), &'static str> {
        self.lab.faults.step("open a source")?;
        if source.id.0 > 0xff {
            return Err("there is no such stream");
        }
        self.open.borrow_mut().insert(source, *vm);
        self.silent.borrow_mut().retain(|it| *it != source);
        Ok(())
    }

    fn block(&self, source: DmaSource) -> Result<(), &'static str> {
        self.lab.faults.step("block a source")?;
        self.open.borrow_mut().remove(&source);
        let (late, others): (VecDeque<_>, _) =
            self.under_way.borrow_mut().drain(..).partition(|fault| fault.source == source);
        *self.under_way.borrow_mut() = others;
        self.faults.borrow_mut().extend(late);
        Ok(())
    }

    fn silence(&self, source: DmaSource) -> Result<(), &'static str> {
        self.silent.borrow_mut().push(source);
        Ok(())
    }

    fn drain(&self, _: IommuId, limit: usize, mut each: impl FnMut(DmaFault)) -> Drained {
        let mut faults = self.faults.borrow_mut();
        let taken = faults.len().min(limit);
        faults.drain(..taken).for_each(&mut each);
        Drained { more: !faults.is_empty(), lost: false }
    }

    fn abilities(&self, _: IommuId) -> Abilities {
        Abilities { reports_faults: true, cuts_mappings: true }
    }
}

/// One set of tables.
pub(super) struct Tables {
    pages: Pages,
    lab: Arc<Lab>,
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
        self.lab.faults.step("map")?;
        self.insert(gpa.start().0, gpa.size(), *backing, flags);
        Ok(())
    }

    fn unmap(&self, gpa: Span<Gpa>) -> Result<(), &'static str> {
        self.lab.faults.step("unmap")?;
        self.remove(gpa.start().0, gpa.size());
        Ok(())
    }
}

impl DmaMap for Tables {
    type Backing = Hpa;
    type Domain = VmId;
    type Error = &'static str;

    fn domain(&self, _: IommuId) -> Result<VmId, &'static str> {
        Ok(VmId(0))
    }

    fn map_dma(&self, iova: Span<Iova>, backing: &Hpa, flags: MappingFlags) -> Result<(), &'static str> {
        self.lab.faults.step("map dma")?;
        self.insert(iova.start().0, iova.size(), *backing, flags);
        Ok(())
    }

    fn unmap_dma(&self, iova: Span<Iova>) -> Result<(), &'static str> {
        self.lab.faults.step("unmap dma")?;
        self.remove(iova.start().0, iova.size());
        Ok(())
    }
}

impl DeviceOps for BareMetal {
    type Error = &'static str;

    fn unbind(&self, _: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("unbind")
    }

    fn close(&self, device: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("close")?;
        self.attached.borrow_mut().remove(&device.name);
        Ok(())
    }

    fn charge(&self, vm: VmId, device: &DevicePlan) {
        self.lab.faults.lends("charge");
        let its = |fault: &DmaFault| device.sources.contains(&fault.source);
        let (charged, others) = self.iommu.faults.borrow_mut().drain(..).partition(its);
        *self.iommu.faults.borrow_mut() = others;
        let charged: VecDeque<DmaFault> = charged;
        for fault in charged {
            self.record(Violation::of(vm, Some(0), Kind::DmaWrite, fault.address, 0));
        }
    }

    fn keep_off_bus(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("keep off the bus")
    }

    fn reset(&self, device: &DevicePlan) -> Result<(), &'static str> {
        assert!(!self.attached.borrow().contains_key(&device.name), "reset while it masters the bus");
        self.lab.faults.step("reset")
    }

    fn attach(&self, vm: VmId, device: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("attach")?;
        self.attached.borrow_mut().insert(device.name.clone(), vm);
        Ok(())
    }

    fn detach(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        self.lab.faults.step("detach")
    }
}

impl Forward for BareMetal {
    type Backing = Hpa;

    fn forward_read(&self, at: &Hpa, offset: u64, _: Width) -> Result<u64, Aborted> {
        assert_eq!(*at, Hpa(CLOCK), "the block that is trapped");
        super::forwarded_read(offset)
    }

    fn forward_write(&self, _: &Hpa, offset: u64, _: Width, value: u64) -> Result<(), Aborted> {
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

impl AxVMHal for BareMetal {
    type Space = Tables;
    type Dma = Tables;
    type Iommu = Streams;
    type Messages = InFunctions<&'static str>;
    type Irqchip = Chip;
    type Vcpu<'a> = Script<'a, Self>;
    type Ends = ();

    fn create(&self, _: &VmPlan) -> Result<(Tables, Tables), &'static str> {
        self.lab.faults.step("create")?;
        self.alive.set(self.alive.get() + 1);
        self.revoked.set(false);
        self.shut.set(false);
        let tables = |pages: &Pages| Tables { pages: pages.clone(), lab: self.lab.clone() };
        Ok((tables(&self.stage2), tables(&self.dma)))
    }

    fn revoke(&self, _: VmId, _: &Tables) {
        self.revoked.set(true);
    }

    fn shut(&self, _: VmId, _: &Tables) {
        self.shut.set(true);
    }

    fn open(&self, _: VmId, _: &Tables) {
        self.shut.set(false);
    }

    fn destroy(&self, _: VmId, space: Tables, dma: Tables) {
        self.lab.faults.lends("destroy");
        assert!(space.pages.borrow().is_empty() && dma.pages.borrow().is_empty());
        self.alive.set(self.alive.get() - 1);
    }

    fn withhold(&self, _: VmId, _: Tables, _: Tables, ram: Vec<Hpa>) {
        self.lab.faults.lends("withhold");
        let known = self.ram.borrow();
        let bytes: u64 = ram.iter().filter_map(|hpa| known.get(&hpa.0)).sum();
        self.lab.withheld.set(self.lab.withheld.get() + bytes);
    }

    fn ram(&self, _: VmId, piece: &RamPiece) -> Result<Hpa, &'static str> {
        let (hpa, bytes) = (piece.hpa, piece.gpa.size());
        self.lab.faults.step("ram")?;
        assert!(self.ram.borrow_mut().insert(hpa.0, bytes).is_none(), "given twice");
        Ok(hpa)
    }

    fn release_ram(&self, _: VmId, backing: Hpa, bytes: u64) {
        self.lab.faults.lends("release_ram");
        let within = backing.0..backing.0 + bytes;
        let mapped = |pages: &Pages| pages.borrow().values().any(|(hpa, _)| within.contains(hpa));
        assert!(!mapped(&self.stage2) && !mapped(&self.dma), "released while it is mapped");
        assert!(self.attached.borrow().is_empty(), "released while a device masters the bus");
        assert_eq!(self.ram.borrow_mut().remove(&backing.0), Some(bytes));
    }

    fn registers(&self, plan: &VmPlan, resource: &Resource<'_>) -> Result<Hpa, &'static str> {
        self.lab.faults.step("registers")?;
        match resource.region {
            Region::Registers(_) => resource.planned(plan).ok_or("there is no such block"),
            Region::Bar(bar) => Ok(Hpa(0x2000_0000 + (u64::from(bar) << 16) + resource.offset)),
        }
    }

    fn doorbell(&self, _: VmId, doorbell: &Doorbell) -> Result<Option<Hpa>, &'static str> {
        self.lab.faults.step("doorbell")?;
        Ok(Some(doorbell.hpa))
    }

    fn route_line(&self, _: VmId, route: &LineRoute) -> Result<(), &'static str> {
        self.lab.faults.step("route")?;
        self.routed.borrow_mut().push(route.irq.0);
        Ok(())
    }

    fn unroute_line(&self, _: VmId, route: &LineRoute) {
        self.lab.faults.lends("unroute_line");
        self.routed.borrow_mut().retain(|irq| *irq != route.irq.0);
    }

    fn iommu(&self) -> &Streams {
        &self.iommu
    }

    fn messages(&self) -> &InFunctions<&'static str> {
        &self.messages
    }

    fn equip(&self, ground: &Arc<Ground<Self>>) -> Result<Equipment<Self>, &'static str> {
        self.lab.faults.step("equip")?;
        let irqchip = Arc::new(Chip::new(self.lab.clone(), ground.plan().cpus.len(), Told::BySender(SENDER)));
        let devices = super::emulated(ground, &self.lab, &irqchip)?;
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

impl BareMetal {
    pub(super) fn dma_flags(&self, iova: u64) -> Option<MappingFlags> {
        self.dma.borrow().get(&iova).map(|(_, flags)| *flags)
    }
}

impl Fake for BareMetal {
    const NAME: &'static str = "bare metal";

    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn opened(&self) -> Vec<DmaSource> {
        self.iommu.open.borrow().keys().copied().collect()
    }

    fn stray(&self, source: DmaSource, address: u64) {
        if !self.iommu.silent.borrow().contains(&source) {
            let fault = DmaFault { source, write: Some(true), address: Some(address) };
            self.iommu.faults.borrow_mut().push_back(fault);
        }
    }

    fn stray_late(&self, source: DmaSource, address: u64) {
        let fault = DmaFault { source, write: Some(true), address: Some(address) };
        self.iommu.under_way.borrow_mut().push_back(fault);
    }

    fn offer_table(&self, vm: &AxVM<Self>) {
        let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
        vm.map_registers(0, Region::Bar(0), 0, Gpa(BAR), PAGE_SIZE, flags).unwrap();
    }

    fn fire(&self, vm: &AxVM<Self>, vector: u16) -> Result<(), &'static str> {
        // The function has its table itself.
        let entry = BAR + 16 * u64::from(vector);
        let word = |offset| self.lab.memory.borrow().get(&(entry + offset)).copied().unwrap_or(0);
        if word(0) == 0 {
            return Err("it isn't armed");
        }
        vm.send_msi(Some(SENDER), MsiMessage { address: word(0), data: word(8) as u32 })
    }

    fn told_messages(&self) -> usize {
        0
    }

    fn cpu_reaches(&self, gpa: u64) -> bool {
        !self.revoked.get() && !self.shut.get() && self.stage2.borrow().contains_key(&(gpa & !0xfff))
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
}
