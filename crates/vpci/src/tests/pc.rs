//! A machine whose host has to know each message: the bridge has the functions' messages; and it has ports.
//!
//! The board holds at every write what must hold of the functions' own tables, whatever the guest does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axvm_axdevice::PortDevice;
use axvm_pci::spec::{capability, msi};
use proptest::prelude::*;

use super::*;
use crate::{BarPorts, ConfigPorts, IoWindow, Messages, MsiMessage};

/// The machine, and the host of it.
struct Board {
    bus: FakeBus,
    /// The functions' MSI-X tables: where in memory, and how many entries.
    tables: BTreeMap<PciAddress, (u64, u64)>,
    memory: Mutex<BTreeMap<u64, u32>>,
    resets: Mutex<BTreeMap<PciAddress, u32>>,
    parts: Mutex<Vec<(PciAddress, BarPart)>>,
    ports: Mutex<Vec<(PciAddress, BarPorts)>>,
    routes: Mutex<BTreeMap<(PciAddress, u16), MsiMessage>>,
    port_writes: Mutex<Vec<(u16, Width, u32)>>,
    full: AtomicBool,
    /// The part of a BAR at this offset can't be mapped.
    fails_at: AtomicU64,
    /// Functions whose BARs can't be mapped at all.
    unmappable: Vec<PciAddress>,
}

/// What the host has a function send for a vector.
fn own(vector: u16) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000, data: vector.into() }
}

impl Board {
    fn word(&self, hpa: u64) -> u32 {
        self.memory.lock().unwrap().get(&hpa).copied().unwrap_or(0)
    }

    /// The entries of a function's own table: its message, and whether it is masked.
    fn entries(&self, function: PciAddress) -> Vec<(MsiMessage, bool)> {
        let Some(&(table, count)) = self.tables.get(&function) else { return Vec::new() };
        let entry = |index| {
            let word = |at| self.word(table + 16 * index + at);
            let address = u64::from(word(4)) << 32 | u64::from(word(0));
            (MsiMessage { address, data: word(8) }, word(12) & 1 != 0)
        };
        (0..count).map(entry).collect()
    }

    /// Resets leave every entry masked.
    fn note_resets(&self, function: PciAddress) {
        let now = self.bus.function(function, |fake| fake.resets).unwrap();
        if self.resets.lock().unwrap().insert(function, now) != Some(now) {
            let Some(&(table, count)) = self.tables.get(&function) else { return };
            let mut memory = self.memory.lock().unwrap();
            for word in 0..4 * count {
                memory.insert(table + 4 * word, u32::from(word % 4 == 3));
            }
        }
    }

    fn control(&self, function: PciAddress, id: u8) -> Option<(u16, u16)> {
        let get = |fake: &mut FakeFunction| {
            let at = fake.find(id)?;
            Some((at, fake.get(at + msi::CONTROL, Width::B2) as u16))
        };
        self.bus.function(function, get).unwrap()
    }

    /// What a function can send is routed, and is what the host gave.
    fn check(&self, function: PciAddress) {
        let routes = self.routes.lock().unwrap();
        let is_routed = |vector: u16| routes.contains_key(&(function, vector));
        let mut both = 0;
        if let Some((_, control)) = self.control(function, capability::MSIX)
            && control & msi::MSIX_ENABLE != 0
        {
            both += 1;
            for (vector, (message, masked)) in (0..).zip(self.entries(function)) {
                assert!(
                    masked || is_routed(vector) && message == own(vector),
                    "{function} {vector} {message:?}"
                );
            }
        }
        if let Some((at, control)) = self.control(function, capability::MSI)
            && control & msi::MSI_ENABLE != 0
        {
            both += 1;
            let layout = msi::MsiLayout::new(control);
            let get =
                |offset, width| self.bus.function(function, |fake| fake.get(at + offset, width)).unwrap();
            let high = if layout.wide { u64::from(get(8, Width::B4)) << 32 } else { 0 };
            let address = high | u64::from(get(4, Width::B4));
            assert_eq!(MsiMessage { address, data: get(layout.data, Width::B2) }, own(0), "{function}");
            assert!((0..1 << ((control & msi::MSI_GIVEN) >> 4)).all(is_routed), "{function}");
        }
        assert!(both < 2, "{function} has both");
    }
}

impl Backend for Board {
    fn config_read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        self.bus.read(function, offset, width)
    }

    fn config_write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        self.bus.write(function, offset, width, value);
        self.note_resets(function);
        self.check(function);
    }

    fn map_bar(&self, function: PciAddress, part: &BarPart) -> Result<(), Refused> {
        assert!(!self.unmappable.contains(&function), "{function} has no BAR that can be mapped");
        assert!((part.gpa.0 | part.hpa.0 | part.offset | part.size).is_multiple_of(0x1000));
        if let Some(&(table, count)) = self.tables.get(&function) {
            let end = table + 16 * count;
            assert!(part.hpa.0 + part.size <= table || end <= part.hpa.0, "{function}'s table is mapped");
        }
        if part.offset == self.fails_at.load(Ordering::Relaxed) {
            return Err(Refused);
        }
        self.parts.lock().unwrap().push((function, *part));
        Ok(())
    }

    fn unmap_bar(&self, function: PciAddress, part: &BarPart) {
        let mut all = self.parts.lock().unwrap();
        let at = all.iter().position(|it| *it == (function, *part)).unwrap();
        all.remove(at);
    }

    fn set_bus_master(&self, _: PciAddress, _: bool) -> Result<(), Refused> {
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        false
    }

    fn now_us(&self) -> u64 {
        self.bus.microseconds()
    }

    fn delay_us(&self, microseconds: u64) {
        self.bus.delay(microseconds);
    }

    fn messages(&self) -> Messages {
        Messages::Bridge
    }

    fn is_mappable(&self, function: PciAddress, _: u8) -> bool {
        !self.unmappable.contains(&function)
    }

    fn route(&self, function: PciAddress, vector: u16, message: MsiMessage) -> Result<MsiMessage, Refused> {
        if message.address >> 20 != 0xfee || self.full.load(Ordering::Relaxed) {
            return Err(Refused);
        }
        self.routes.lock().unwrap().insert((function, vector), message);
        Ok(own(vector))
    }

    fn unroute(&self, function: PciAddress, vector: u16) {
        self.routes.lock().unwrap().remove(&(function, vector));
        self.check(function);
    }

    fn bar_read(&self, function: PciAddress, _: u8, at: Hpa, width: Width) -> u64 {
        assert!(self.bus.read(function, 4, Width::B2) & 2 != 0, "it doesn't decode");
        let low = u64::from(self.word(at.0 & !3)) >> (8 * (at.0 & 3));
        (low | u64::from(self.word((at.0 & !3) + 4)) << 32) & width.mask()
    }

    fn bar_write(&self, function: PciAddress, _: u8, at: Hpa, width: Width, value: u64) {
        assert!(self.bus.read(function, 4, Width::B2) & 2 != 0, "it doesn't decode");
        if let Some(&(table, count)) = self.tables.get(&function)
            && (table..table + 16 * count).contains(&at.0)
        {
            assert_eq!(width, Width::B4);
            let (_, masked) = self.entries(function)[((at.0 - table) / 16) as usize];
            assert!(masked || (at.0 - table) % 16 == 12, "an entry changes unmasked");
        }
        self.memory.lock().unwrap().insert(at.0, value as u32);
        self.check(function);
    }

    fn map_ports(&self, function: PciAddress, ports: &BarPorts) -> Result<(), Refused> {
        assert!(self.bus.read(function, 4, Width::B2) & 1 != 0, "it doesn't decode");
        self.ports.lock().unwrap().push((function, *ports));
        Ok(())
    }

    fn unmap_ports(&self, function: PciAddress, ports: &BarPorts) {
        let mut all = self.ports.lock().unwrap();
        let at = all.iter().position(|it| *it == (function, *ports)).unwrap();
        all.remove(at);
    }

    fn port_read(&self, port: u16, width: Width) -> u32 {
        (0xabcd_0000 | u32::from(port)) & width.mask() as u32
    }

    fn port_write(&self, port: u16, width: Width, value: u32) {
        self.port_writes.lock().unwrap().push((port, width, value));
    }
}

/// A guest of that machine.
struct Pc {
    bridge: Arc<HostBridge<Board>>,
    config: ConfigPorts<Board>,
    io: IoWindow<Board>,
}

const IO_FIRST: u16 = 0x1000;
const GUEST: VcpuId = VcpuId(0);
/// Where the guest has a vector go.
const fn wanted(vector: u32) -> MsiMessage {
    MsiMessage { address: 0xfee0_1000, data: 0x40 + vector }
}

impl Pc {
    fn new() -> Self {
        Self::with(|bus| bus)
    }

    fn with(more: impl FnOnce(FakeBus) -> FakeBus) -> Self {
        Self::built(more, Vec::new(), |_| ())
    }

    /// Where BARs of these functions can't be mapped, and functions are assigned with a change.
    fn built(
        more: impl FnOnce(FakeBus) -> FakeBus,
        unmappable: Vec<PciAddress>,
        change: impl FnOnce(&mut Vec<AssignedFunction>),
    ) -> Self {
        let bus = FakeBus::new(0, 0)
            .with(1, 0, FakeFunction::e1000e())
            .with(2, 0, FakeFunction::nvme())
            .with(3, 0, FakeFunction::igb())
            .with(4, 0, FakeFunction::edu());
        let bus = more(bus);
        let window = |space, pci, size| PciWindow {
            space,
            prefetchable: false,
            pci,
            cpu: Span::new(Hpa(pci), size).unwrap(),
        };
        let host = axvm_pci::HostBridge {
            segment: 0,
            buses: PciBuses::new(0, 0),
            windows: vec![
                window(PciSpace::Io, 0x6000, 0x1000),
                window(PciSpace::Memory32, LOW_PCI, LOW_SIZE),
            ],
        };
        let functions = enumerate(&bus, &host, &bus);
        let mut tables = BTreeMap::new();
        for function in &functions {
            if let Some(at) = function.capability(capability::MSIX) {
                let get = |offset| bus.read(function.address, at + offset, Width::B4);
                let count = u64::from(get(0) >> 16 & 0x7ff) + 1;
                let (bar, offset) = ((get(4) & 7) as u8, u64::from(get(4) & !7));
                if let Some(bar) = function.bars.iter().find(|it| it.index == bar) {
                    tables.insert(function.address, (bar.address.unwrap() + HPA_OFFSET + offset, count));
                }
            }
        }
        let board = Board {
            bus,
            tables,
            memory: Mutex::default(),
            resets: Mutex::default(),
            parts: Mutex::default(),
            ports: Mutex::default(),
            routes: Mutex::default(),
            port_writes: Mutex::default(),
            full: AtomicBool::new(false),
            fails_at: AtomicU64::new(u64::MAX),
            unmappable,
        };
        functions.iter().for_each(|function| board.note_resets(function.address));
        let mut assigned: Vec<AssignedFunction> = functions
            .into_iter()
            .map(|function| {
                let of = |io| function.bars.iter().filter(move |bar| (bar.kind == BarKind::Io) == io);
                AssignedFunction {
                    shown: function.address,
                    bars: of(false).map(|bar| (bar.index, Hpa(bar.address.unwrap() + HPA_OFFSET))).collect(),
                    ports: of(true).map(|bar| (bar.index, bar.address.unwrap() as u16)).collect(),
                    intx: true,
                    line: 11,
                    function,
                }
            })
            .collect();
        change(&mut assigned);
        let mut windows = windows();
        let io = Span::new(Gpa(IO_FIRST.into()), 0xf000).unwrap();
        windows.push(PciWindow { space: PciSpace::Io, prefetchable: false, pci: IO_FIRST.into(), cpu: io });
        let config = BridgeConfig { segment: 0, buses: PciBuses::new(0, 0), windows, functions: assigned };
        let bridge = Arc::new(HostBridge::new(config, board).unwrap());
        let (config, io) = (ConfigPorts::new(vec![bridge.clone()]), IoWindow::new(bridge.clone(), IO_FIRST));
        Self { bridge, config, io }
    }

    fn board(&self) -> &Board {
        self.bridge.backend()
    }

    fn read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        self.bridge.config_read(function.requester_id(), offset, width) as u32
    }

    fn write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        self.bridge.config_write(function.requester_id(), offset, width, value);
    }

    fn capability(&self, function: PciAddress, id: u8) -> Option<u16> {
        let mut next = self.read(function, 0x34, Width::B1) as u16;
        while next >= 0x40 {
            let entry = self.read(function, next, Width::B2) as u16;
            if entry as u8 == id {
                return Some(next);
            }
            next = entry >> 8;
        }
        None
    }

    /// Where the guest has the function's MSI-X table, as it finds it.
    fn table(&self, function: PciAddress) -> u64 {
        let at = self.capability(function, capability::MSIX).unwrap();
        let value = self.read(function, at + 4, Width::B4);
        let bar = 0x10 + 4 * (value & 7) as u16;
        u64::from(self.read(function, bar, Width::B4) & !0xf) - LOW_PCI + LOW_GPA + u64::from(value & !7)
    }

    fn load(&self, gpa: u64, width: Width) -> Option<u64> {
        self.bridge.claimed_read(GUEST, Gpa(gpa), width)
    }

    fn store(&self, gpa: u64, width: Width, value: u64) -> bool {
        self.bridge.claimed_write(GUEST, Gpa(gpa), width, value)
    }

    /// Writes an entry as Linux does: masked, its message, unmasked.
    fn set_entry(&self, table: u64, vector: u32, message: MsiMessage, masked: bool) {
        let at = table + 16 * u64::from(vector);
        for (offset, value) in
            [(12, 1), (0, message.address as u32), (4, (message.address >> 32) as u32), (8, message.data)]
        {
            assert!(self.store(at + offset, Width::B4, value.into()));
        }
        self.store(at + 12, Width::B4, masked.into());
    }

    fn route(&self, function: PciAddress, vector: u16) -> Option<MsiMessage> {
        self.board().routes.lock().unwrap().get(&(function, vector)).copied()
    }

    /// The function's MSI-X control, and which of its entries are unmasked.
    fn sends(&self, function: PciAddress) -> (u16, Vec<u16>) {
        let control = self.board().control(function, capability::MSIX).unwrap().1 & 0xc000;
        let open = (0..).zip(self.board().entries(function)).filter(|(_, (_, masked))| !masked);
        (control, open.map(|(vector, _)| vector).collect())
    }
}

#[test]
fn an_msix_table_is_the_guests_to_write_and_the_hosts_to_fill() {
    let pc = Pc::new();
    pc.write(NVME, 4, Width::B2, 6);
    let (table, control) = (pc.table(NVME), pc.capability(NVME, capability::MSIX).unwrap() + 2);
    // Linux: on with all masked, every entry masked, then the function's mask off.
    pc.write(NVME, control, Width::B2, 0xc000);
    assert_eq!((pc.read(NVME, control, Width::B2), pc.sends(NVME)), (0xc040, (0xc000, vec![])));
    assert_eq!(pc.load(table + 12, Width::B4), Some(1), "masked at first");
    pc.set_entry(table, 0, wanted(0), false);
    pc.set_entry(table, 64, wanted(64), false);
    pc.write(NVME, control, Width::B2, 0x8000);
    assert_eq!(pc.sends(NVME), (0x8000, vec![0, 64]));
    assert_eq!((pc.route(NVME, 0), pc.route(NVME, 64)), (Some(wanted(0)), Some(wanted(64))));
    // The guest reads what it wrote; the function has what the host gave.
    assert_eq!(pc.load(table + 64 * 16, Width::B8), Some(wanted(64).address));
    assert_eq!(pc.load(table + 64 * 16 + 8, Width::B4), Some(wanted(64).data.into()));
    assert_eq!(pc.load(table + 8, Width::B1), Some(0x40));
    assert_eq!(pc.board().entries(NVME)[64], (own(64), false));
    // Masked it stays routed, and comes back as it was; another message is another route.
    pc.store(table + 12, Width::B4, 1);
    assert_eq!((pc.sends(NVME).1, pc.route(NVME, 0)), (vec![64], Some(wanted(0))));
    pc.store(table + 12, Width::B4, 0);
    assert_eq!(pc.sends(NVME).1, [0, 64]);
    pc.set_entry(table, 0, wanted(7), false);
    assert_eq!(pc.route(NVME, 0), Some(wanted(7)));
    // Also changed while it isn't masked, by 64 bits.
    assert!(pc.store(table + 8, Width::B8, 0x49));
    assert_eq!((pc.route(NVME, 0), pc.sends(NVME).1), (Some(wanted(9)), vec![0, 64]));
    // What leads nowhere isn't sent; the guest reads what it wrote all the same.
    let refused = pc.bridge.refused();
    pc.set_entry(table, 64, MsiMessage { address: 0x1234_5678, data: 1 }, false);
    assert_eq!((pc.route(NVME, 64), pc.sends(NVME).1), (None, vec![0]));
    assert_eq!(
        (pc.load(table + 64 * 16, Width::B4), pc.load(table + 64 * 16 + 12, Width::B4)),
        (Some(0x1234_5678), Some(0))
    );
    assert!(pc.bridge.refused() > refused);
    pc.board().full.store(true, Ordering::Relaxed);
    pc.set_entry(table, 1, wanted(1), false);
    assert_eq!(pc.sends(NVME).1, [0]);
    // Off, nothing is routed.
    pc.write(NVME, control, Width::B2, 0);
    assert!(pc.board().routes.lock().unwrap().is_empty());
    assert_eq!(pc.sends(NVME).0, 0);
    // On again, those that can be are.
    pc.board().full.store(false, Ordering::Relaxed);
    pc.write(NVME, control, Width::B2, 0x8000);
    assert_eq!((pc.sends(NVME), pc.route(NVME, 1)), ((0x8000, vec![0, 1]), Some(wanted(1))));
}

#[test]
fn only_the_pages_of_the_table_are_trapped() {
    let pc = Pc::new();
    assert_eq!(pc.load(pc.table(NVME), Width::B4), None, "nobody answers");
    pc.write(NVME, 4, Width::B2, 2);
    let bar = pc.table(NVME) - 0x2000;
    // The table at 0x2000 and the pending bits at 0x3000, each in its page.
    let hpa = bar - LOW_GPA + LOW_PCI + HPA_OFFSET;
    let part = BarPart { bar: 0, offset: 0, gpa: Gpa(bar), hpa: Hpa(hpa), size: 0x2000, prefetchable: false };
    assert_eq!(*pc.board().parts.lock().unwrap(), [(NVME, part)]);
    assert_eq!((pc.load(bar, Width::B4), pc.load(bar + 0x1ffc, Width::B4)), (None, None));
    // What shares the page is forwarded, by each width; the table goes no further than its entries.
    assert!(pc.store(bar + 0x2410, Width::B4, 0x1122_3344));
    assert_eq!(pc.board().word(hpa + 0x2410), 0x1122_3344);
    assert_eq!(
        (pc.load(bar + 0x2411, Width::B1), pc.load(bar + 0x2410, Width::B8)),
        (Some(0x33), Some(0x1122_3344))
    );
    assert_eq!(pc.load(bar + 0x240c, Width::B4), Some(1), "the last entry's mask");
    // Pending bits are the function's, and only read.
    pc.board().memory.lock().unwrap().insert(hpa + 0x3000, 5);
    assert_eq!(pc.load(bar + 0x3000, Width::B8), Some(5));
    pc.store(bar + 0x3000, Width::B4, 0);
    assert_eq!(pc.board().word(hpa + 0x3000), 5);
    // What isn't aligned nobody takes, and the table nothing narrower than 32 bits.
    let refused = pc.bridge.refused();
    assert_eq!(pc.load(bar + 0x2002, Width::B4), Some(0xffff_ffff));
    pc.store(bar + 0x2411, Width::B2, 0);
    pc.store(bar + 0x2000, Width::B1, 0x55);
    assert_eq!((pc.board().word(hpa + 0x2410), pc.load(bar + 0x2000, Width::B4)), (0x1122_3344, Some(0)));
    assert!(pc.bridge.refused() > refused);
    // It moves with the BAR, and goes with decoding.
    pc.write(NVME, 0x10, Width::B4, LOW_PCI as u32 + 0x80_0000);
    assert_eq!((pc.load(bar + 0x2000, Width::B4), pc.load(LOW_GPA + 0x80_200c, Width::B4)), (None, Some(1)));
    pc.write(NVME, 4, Width::B2, 0);
    assert_eq!((pc.load(LOW_GPA + 0x80_200c, Width::B4), pc.board().parts.lock().unwrap().len()), (None, 0));
}

#[test]
fn what_is_before_and_behind_the_table_is_mapped() {
    let odd = FakeFunction::new(0x1234, 1, 0).bar(0, 0x1_0000, 0).msix(300, (0, 0x3f80), (0, 0x8000));
    let pc = Pc::with(|bus| bus.with(5, 0, odd));
    pc.write(ACCELERATOR, 4, Width::B2, 2);
    let bar = pc.table(ACCELERATOR) - 0x3f80;
    let parts: Vec<_> = pc.board().parts.lock().unwrap().iter().map(|(_, part)| *part).collect();
    let place = |part: &BarPart| (part.offset, part.size);
    assert_eq!(
        parts.iter().map(place).collect::<Vec<_>>(),
        [(0, 0x3000), (0x6000, 0x2000), (0x9000, 0x7000)]
    );
    for part in parts {
        assert_eq!(
            (part.gpa.0, part.hpa.0),
            (bar + part.offset, bar + part.offset - LOW_GPA + LOW_PCI + HPA_OFFSET)
        );
    }
    // The last entry is in the table's third page.
    assert_eq!(pc.load(bar + 0x3f80 + 299 * 16 + 12, Width::B4), Some(1));
    assert_eq!(pc.load(bar + 0x6000, Width::B4), None);
    // Where the host can't map the second part, nothing of the BAR is mapped.
    pc.write(ACCELERATOR, 4, Width::B2, 0);
    pc.board().fails_at.store(0x6000, Ordering::Relaxed);
    let refused = pc.bridge.refused();
    pc.write(ACCELERATOR, 4, Width::B2, 2);
    assert!(pc.board().parts.lock().unwrap().is_empty() && pc.bridge.refused() > refused);
    assert_eq!(pc.load(bar + 0x3f80, Width::B4), None);
}

#[test]
fn enabled_without_memory_decode_it_waits_for_that() {
    let pc = Pc::new();
    let control = pc.capability(NVME, capability::MSIX).unwrap() + 2;
    pc.write(NVME, control, Width::B2, 0x8000);
    assert_eq!((pc.read(NVME, control, Width::B2), pc.sends(NVME).0), (0x8040, 0));
    pc.write(NVME, 4, Width::B2, 2);
    assert_eq!(pc.sends(NVME).0, 0x8000);
    pc.set_entry(pc.table(NVME), 3, wanted(3), false);
    // Off and on again while it can't be reached.
    pc.write(NVME, 4, Width::B2, 0);
    pc.write(NVME, control, Width::B2, 0);
    assert_eq!((pc.sends(NVME).0, pc.route(NVME, 3)), (0, None));
    pc.write(NVME, control, Width::B2, 0x8000);
    assert_eq!((pc.sends(NVME).0, pc.route(NVME, 3)), (0, None));
    pc.write(NVME, 4, Width::B2, 2);
    assert_eq!((pc.sends(NVME), pc.route(NVME, 3)), ((0x8000, vec![3]), Some(wanted(3))));
}

#[test]
fn a_reset_leaves_no_message() {
    let pc = Pc::new();
    for (reset, function) in [(0, NVME), (1, NVME), (2, NIC)] {
        pc.write(function, 4, Width::B2, 2);
        let control = pc.capability(function, capability::MSIX).unwrap() + 2;
        pc.write(function, control, Width::B2, 0x8000);
        let table = pc.table(function);
        pc.set_entry(table, 2, wanted(2), false);
        assert_eq!(pc.sends(function), (0x8000, vec![2]));
        match reset {
            0 => {
                let express = pc.capability(function, capability::EXPRESS).unwrap();
                pc.write(function, express + 8, Width::B2, 1 << 15);
            }
            1 => pc.bridge.reset_function(function).unwrap(),
            // By D3hot, without what would keep its state.
            _ => {
                let power = pc.capability(function, capability::POWER).unwrap();
                pc.write(function, power + 4, Width::B2, 3);
                pc.write(function, power + 4, Width::B2, 0);
            }
        }
        assert!(pc.board().routes.lock().unwrap().is_empty(), "{reset}");
        assert_eq!((pc.sends(function).0, pc.read(function, control, Width::B2) & 0xc000), (0, 0));
        // Its BARs are gone, too; the guest writes them anew.
        let value = LOW_PCI as u32 + 0x40_0000;
        let bar = pc.read(function, control + 2, Width::B4) as u16 & 7;
        pc.write(function, 0x10 + 4 * bar, Width::B4, value);
        pc.write(function, 4, Width::B2, 2);
        assert_eq!(pc.load(pc.table(function) + 44, Width::B4), Some(1), "{reset}");
        assert_eq!(pc.load(pc.table(function) + 40, Width::B4), Some(0), "{reset}");
        pc.bridge.reset_function(function).unwrap_or_default();
    }
}

#[test]
fn msi_is_the_guests_to_write_and_the_hosts_to_fill() {
    let pc = Pc::with(|bus| bus.with(5, 0, FakeFunction::new(0x1234, 1, 0).bar(0, 0x1000, 0).msi(3, true)));
    let many = ACCELERATOR;
    let at = pc.capability(many, capability::MSI).unwrap();
    let own_control = || pc.board().control(many, capability::MSI).unwrap().1 & 0x71;
    pc.write(many, at + 4, Width::B4, 0xfee0_1000);
    pc.write(many, at + 8, Width::B4, 0);
    pc.write(many, at + 12, Width::B2, 0x45);
    assert_eq!((pc.read(many, at + 4, Width::B4), pc.read(many, at + 12, Width::B2)), (0xfee0_1000, 0x45));
    assert_eq!(own_control(), 0);
    // Four vectors: the lower bits of the data are theirs.
    pc.write(many, at + 2, Width::B2, 0x21);
    assert_eq!((pc.read(many, at + 2, Width::B2), own_control()), (0x01a7, 0x21));
    let routes: Vec<_> = (0..5).map(|vector| pc.route(many, vector).map(|it| it.data)).collect();
    assert_eq!(routes, [Some(0x44), Some(0x45), Some(0x46), Some(0x47), None]);
    // Another message while it is on: another route, and the function sends what it did.
    pc.write(many, at + 12, Width::B2, 0x50);
    assert_eq!((pc.route(many, 3).map(|it| it.data), own_control()), (Some(0x53), 0x21));
    // More than it has, and more than there are routes for.
    let refused = pc.bridge.refused();
    pc.write(many, at + 2, Width::B2, 0x41);
    assert_eq!((pc.read(many, at + 2, Width::B2) & 0x70, own_control()), (0x20, 0x21));
    pc.board().full.store(true, Ordering::Relaxed);
    pc.write(many, at + 2, Width::B2, 0x31);
    assert_eq!((own_control() & 1, pc.board().routes.lock().unwrap().len()), (0, 0));
    assert!(pc.bridge.refused() > refused);
    pc.board().full.store(false, Ordering::Relaxed);
    pc.write(many, at + 2, Width::B2, 0x31);
    assert_eq!((own_control(), pc.board().routes.lock().unwrap().len()), (0x31, 8));
    // Mask bits are the function's own.
    pc.write(many, at + 16, Width::B4, 5);
    assert_eq!(pc.board().bus.function(many, |fake| fake.get(at + 16, Width::B4)), Some(5));
    // An address that leads nowhere ends it.
    pc.write(many, at + 4, Width::B4, 0x1000);
    assert_eq!((own_control() & 1, pc.board().routes.lock().unwrap().len()), (0, 0));
    pc.write(many, at + 4, Width::B4, 0xfee0_2000);
    assert_eq!((own_control(), pc.route(many, 0).map(|it| it.address)), (0x31, Some(0xfee0_2000)));
    pc.write(many, at + 2, Width::B2, 0);
    assert_eq!((own_control(), pc.board().routes.lock().unwrap().len()), (0, 0));
}

#[test]
fn of_msi_and_msix_one_is_on() {
    let pc = Pc::new();
    pc.write(NIC, 4, Width::B2, 2);
    let (msi, msix) = (pc.capability(NIC, capability::MSI), pc.capability(NIC, capability::MSIX));
    let (msi, msix) = (msi.unwrap(), msix.unwrap());
    let own = |id| pc.board().control(NIC, id).unwrap().1;
    pc.write(NIC, msi + 4, Width::B4, 0xfee0_1000);
    pc.write(NIC, msi + 2, Width::B2, 1);
    pc.write(NIC, msix + 2, Width::B2, 0x8000);
    assert_eq!((own(capability::MSI) & 1, own(capability::MSIX) & 0x8000), (1, 0));
    pc.write(NIC, msi + 2, Width::B2, 0);
    pc.write(NIC, msix + 2, Width::B2, 0x8000);
    pc.write(NIC, msi + 2, Width::B2, 1);
    assert_eq!((own(capability::MSI) & 1, own(capability::MSIX) & 0x8000), (0, 0x8000));
}

#[test]
fn a_table_that_is_not_where_it_says_is_not_shown() {
    let odd = |vectors, table, pending| {
        move |bus: FakeBus| {
            bus.with(
                5,
                0,
                FakeFunction::new(0x1234, 1, 0)
                    .bar(0, 0x1000, 0)
                    .bar(2, 0x20, 1)
                    .msix(vectors, table, pending),
            )
        }
    };
    for (vectors, table, pending) in [
        (257, (0, 0), (0, 0)),
        (16, (0, 0xf80), (0, 0)),
        (1, (3, 0), (0, 0)),
        (1, (2, 0), (0, 0)),
        (1, (0, 0), (0, 0xffc)),
    ] {
        let pc = Pc::with(odd(vectors, table, pending));
        assert_eq!(pc.capability(ACCELERATOR, capability::MSIX), None, "{vectors} {table:?}");
        let at = pc.board().control(ACCELERATOR, capability::MSIX).unwrap().0;
        pc.write(ACCELERATOR, at + 2, Width::B2, 0x8000);
        assert_eq!(pc.board().control(ACCELERATOR, capability::MSIX).unwrap().1 & 0x8000, 0);
    }
    assert!(Pc::with(odd(128, (0, 0), (0, 0x800))).capability(ACCELERATOR, capability::MSIX).is_some());
}

#[test]
fn ports_follow_the_guest_and_never_the_hardware() {
    let pc = Pc::new();
    let own = pc.board().bus.function(NIC, |fake| fake.get(0x18, Width::B4)).unwrap();
    let first = (own & !3) as u16;
    assert_eq!((pc.read(NIC, 0x18, Width::B4), first & 0xf000), (own, 0x6000));
    pc.write(NIC, 0x18, Width::B4, u32::MAX);
    assert_eq!(pc.read(NIC, 0x18, Width::B4), 0xffff_ffe1, "its size and kind");
    let io = |offset, width| pc.io.read(GUEST, offset - IO_FIRST, width);
    pc.write(NIC, 0x18, Width::B4, 0x2040);
    assert_eq!(io(0x2040, Width::B4), u32::MAX, "it doesn't decode");
    pc.write(NIC, 4, Width::B2, 1);
    assert_eq!(pc.read(NIC, 4, Width::B2), 1);
    let ports = |guest| BarPorts { bar: 2, guest, host: first, count: 0x20 };
    assert_eq!(*pc.board().ports.lock().unwrap(), [(NIC, ports(0x2040))]);
    // Forwarded to where they are; what doesn't fit is nobody's.
    assert_eq!(io(0x2044, Width::B2), u32::from(first + 4));
    assert_eq!(
        (io(0x205c, Width::B4), io(0x205d, Width::B4), io(0x2060, Width::B1)),
        (0xabcd_0000 | u32::from(first + 0x1c), u32::MAX, u32::MAX)
    );
    assert_eq!(io(0x203f, Width::B2), u32::MAX);
    pc.io.write(GUEST, 0x2050 - IO_FIRST, Width::B1, 7);
    pc.io.write(GUEST, 0x2060 - IO_FIRST, Width::B1, 8);
    assert_eq!(*pc.board().port_writes.lock().unwrap(), [(first + 0x10, Width::B1, 7)]);
    // The machine's own place, out of the window, and over another's.
    pc.write(NIC, 0x18, Width::B4, first.into());
    assert_eq!(*pc.board().ports.lock().unwrap(), [(NIC, ports(first))]);
    for nowhere in [0, 0xfe0, 0x1_0000, 0xffff_f000] {
        pc.write(NIC, 0x18, Width::B4, nowhere);
        assert!(pc.board().ports.lock().unwrap().is_empty(), "{nowhere:#x}");
    }
    pc.write(IGB, 4, Width::B2, 1);
    pc.write(IGB, 0x18, Width::B4, 0x3000);
    pc.write(NIC, 0x18, Width::B4, 0x3000);
    assert!(pc.board().ports.lock().unwrap().is_empty(), "two in one place");
    pc.write(IGB, 4, Width::B2, 0);
    assert_eq!(*pc.board().ports.lock().unwrap(), [(NIC, ports(0x3000))]);
    // Memory decode is another thing, and hardware never moves.
    pc.write(NIC, 4, Width::B2, 2);
    assert!(pc.board().ports.lock().unwrap().is_empty() && !pc.board().parts.lock().unwrap().is_empty());
    assert_eq!(pc.board().bus.function(NIC, |fake| fake.get(0x18, Width::B4)), Some(own));
    // One without ports can't have them decoded.
    pc.write(NVME, 4, Width::B2, 3);
    assert_eq!(pc.read(NVME, 4, Width::B2), 2);
}

#[test]
fn ports_are_let_through_in_their_place_until_the_function_decodes_no_more() {
    let pc = Pc::new();
    // How many there are, and how many of them in their place.
    let open = || {
        let all = pc.board().ports.lock().unwrap();
        (all.len(), all.iter().filter(|(_, ports)| ports.is_in_place()).count())
    };
    let power = |function, state| {
        let at = pc.capability(function, capability::POWER).unwrap() + 4;
        pc.write(function, at, Width::B2, state);
    };
    for (end, function) in [(0, NIC), (1, NIC), (2, NIC), (3, IGB), (4, IGB), (5, NIC)] {
        let first = pc.board().bus.function(function, |fake| fake.get(0x18, Width::B4)).unwrap() & !3;
        pc.write(function, 4, Width::B2, 1);
        pc.write(function, 0x18, Width::B4, first ^ 0x1000);
        assert_eq!(open(), (1, 0), "{end}: somewhere else");
        pc.write(function, 0x18, Width::B4, first);
        assert_eq!(open(), (1, 1), "{end}: in its place");
        match end {
            0 => pc.write(function, 4, Width::B2, 0),
            1 => pc.write(function, 0x18, Width::B4, 0xf000),
            2 => power(function, 3),
            3 => {
                let express = pc.capability(function, capability::EXPRESS).unwrap();
                pc.write(function, express + 8, Width::B2, 1 << 15);
            }
            4 => pc.bridge.reset_function(function).unwrap(),
            // Another one of the VM's comes to the same place.
            _ => {
                pc.write(IGB, 4, Width::B2, 1);
                pc.write(IGB, 0x18, Width::B4, first);
            }
        }
        assert_eq!(open().1, 0, "{end}");
        power(function, 0);
        pc.write(function, 4, Width::B2, 0);
        pc.write(IGB, 4, Width::B2, 0);
    }
}

#[test]
fn the_config_ports_show_what_ecam_shows() {
    let pc = Pc::new();
    let address = |value| pc.config.write(GUEST, 0, Width::B4, value);
    assert_eq!(pc.config.read(GUEST, 4, Width::B4), u32::MAX, "not enabled");
    for function in [NIC, NVME, IGB, EDU, FOREIGN] {
        for register in (0..0x100u16).step_by(4) {
            address(1 << 31 | u32::from(function.requester_id()) << 8 | u32::from(register));
            assert_eq!(pc.config.read(GUEST, 4, Width::B4), pc.read(function, register, Width::B4));
            let upper = pc.config.read(GUEST, 6, Width::B2) & 0xffff;
            assert_eq!(upper, pc.read(function, register + 2, Width::B2) & 0xffff);
        }
    }
    // Writes by bytes, and an address that is read back.
    address(0xff00_103f | 1 << 31);
    assert_eq!(pc.config.read(GUEST, 0, Width::B4), 0x8000_103c);
    assert_eq!(
        pc.config.read(GUEST, 4, Width::B1) & 0xff,
        11,
        "the interrupt line that firmware would leave"
    );
    pc.config.write(GUEST, 4, Width::B1, 5);
    assert_eq!(pc.read(NVME, 0x3c, Width::B1), 5);
    address(0x8000_1004);
    pc.config.write(GUEST, 4, Width::B2, 6);
    assert_eq!(pc.read(NVME, 4, Width::B2), 6);
    // The reset port of PCs lies in between, and isn't the mechanism's.
    pc.config.write(GUEST, 1, Width::B1, 6);
    pc.config.write(GUEST, 0, Width::B2, 0);
    assert_eq!(
        (pc.config.read(GUEST, 0, Width::B4), pc.config.read(GUEST, 1, Width::B1)),
        (0x8000_1004, u32::MAX)
    );
    // Buses that the bridge hasn't got, and no more once it is off.
    address(0x8001_0000);
    assert_eq!(pc.config.read(GUEST, 4, Width::B4), u32::MAX);
    address(0x0000_1000);
    assert_eq!(pc.config.read(GUEST, 4, Width::B4), u32::MAX);
    address(0x8000_1000);
    pc.config.reset();
    assert_eq!(pc.config.read(GUEST, 0, Width::B4), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Config(usize, u16, Width, u32),
    Command(usize, u32),
    Control(usize, u8, u32),
    Table(usize, u64, Width, u64),
    /// Memory decode and MSI-X are turned on, and an entry is written in one go, masked or not.
    Arm(usize, u32, u32, bool),
    Full(bool),
    Reset(usize),
    Quarantine(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let width = prop::sample::select(&[Width::B1, Width::B2, Width::B4][..]);
    let wide = prop::sample::select(&[Width::B4, Width::B4, Width::B8, Width::B1][..]);
    let value = prop_oneof![Just(0xfee0_1000u64), Just(0), Just(1), any::<u64>()];
    let control = prop::sample::select(&[0u32, 1, 0x11, 0x8000, 0xc000, 0x4000][..]);
    let which = 0usize..4;
    prop_oneof![
        2 => (which.clone(), 0u16..0x100, width, any::<u32>()).prop_map(|(f, at, width, value)| {
            Step::Config(f, at & !(width.bytes() as u16 - 1), width, value)
        }),
        3 => (which.clone(), 0u32..8).prop_map(|(f, value)| Step::Command(f, value)),
        4 => (which.clone(), prop::sample::select(&[capability::MSI, capability::MSIX][..]), control)
            .prop_map(|(f, id, value)| Step::Control(f, id, value)),
        8 => (which.clone(), 0u64..0x60, wide, value).prop_map(|(f, at, width, value)| Step::Table(f, at & !(width.bytes() - 1), width, value)),
        4 => (which.clone(), 0u32..5, 0u32..4, any::<bool>()).prop_map(|(f, vector, to, masked)| Step::Arm(f, vector, to, masked)),
        1 => any::<bool>().prop_map(Step::Full),
        1 => which.clone().prop_map(Step::Reset),
        1 => which.prop_map(Step::Quarantine),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The board fails as soon as a function could send what the host hasn't given, or an entry changes unmasked. And what the guest has
    /// armed is what is routed.
    #[test]
    fn no_function_ever_sends_what_the_host_has_not_given(steps in prop::collection::vec(step(), 1..80)) {
        let pc = Pc::new();
        let all = [NIC, NVME, IGB, EDU];
        // Where the guest has put a function's table, if it is anywhere.
        let found = |function| {
            pc.board().tables.get(&function)?;
            let at = pc.capability(function, capability::MSIX)?;
            let place = pc.read(function, at + 4, Width::B4);
            let bar = pc.read(function, 0x10 + 4 * (place & 7) as u16, Width::B4) & !0xf;
            u64::from(bar).checked_sub(LOW_PCI).map(|bar| bar + LOW_GPA + u64::from(place & !7))
        };
        for step in steps {
            match step {
                Step::Config(f, at, width, value) => pc.write(all[f], at, width, value & width.mask() as u32),
                Step::Command(f, value) => pc.write(all[f], 4, Width::B2, value),
                Step::Control(f, id, value) => {
                    if let Some(at) = pc.capability(all[f], id) {
                        pc.write(all[f], at + 2, Width::B2, value);
                    }
                }
                Step::Table(f, at, width, value) => {
                    if let Some(table) = found(all[f]) {
                        pc.store(table + at, width, value & width.mask());
                    }
                }
                Step::Arm(f, vector, to, masked) => {
                    pc.write(all[f], 4, Width::B2, 6);
                    if let Some(at) = pc.capability(all[f], capability::MSIX) {
                        pc.write(all[f], at + 2, Width::B2, 0x8000);
                    }
                    // Without the mask's bit first, as drivers that don't know better do it.
                    for (word, value) in [(0, 0xfee0_1000), (4, 0), (8, 0x40 + to), (12, masked.into())] {
                        if let Some(table) = found(all[f]) {
                            pc.store(table + 16 * u64::from(vector) + word, Width::B4, value.into());
                        }
                    }
                }
                Step::Full(full) => pc.board().full.store(full, Ordering::Relaxed),
                Step::Reset(f) => {
                    let _ = pc.bridge.reset_function(all[f]);
                }
                Step::Quarantine(f) => pc.bridge.quarantine(all[f]).unwrap(),
            }
            for function in all {
                pc.board().check(function);
                let board = pc.board();
                let sends = |id, bit| board.control(function, id).is_some_and(|(_, control)| control & bit != 0);
                if !sends(capability::MSI, msi::MSI_ENABLE) && !sends(capability::MSIX, msi::MSIX_ENABLE) {
                    let routes = board.routes.lock().unwrap();
                    prop_assert!(routes.keys().all(|(routed, _)| *routed != function), "routed, and off");
                }
                // What is routed is what the guest has in its table, where it could be looked at.
                let Some(at) = pc.capability(function, capability::MSIX) else { continue };
                let on = pc.board().control(function, capability::MSIX).unwrap().1 & 0x8000 != 0;
                if !on || pc.read(function, at + 2, Width::B2) & 0x8000 == 0 {
                    prop_assert!(!on, "on in the function, and not to the guest");
                    continue;
                }
                for (vector, (_, masked)) in (0..).zip(pc.board().entries(function)) {
                    if !masked {
                        prop_assert!(pc.route(function, vector).is_some());
                    }
                }
            }
        }
    }
}

/// NVMe of QEMU has its MSI-X table among its registers; an edu has no MSI-X. Both are reached all the same.
#[test]
fn a_bar_that_cannot_be_mapped_is_forwarded_and_its_table_is_the_bridge_s() {
    let (nvme, edu): (PciAddress, PciAddress) =
        ("0000:00:02.0".parse().unwrap(), "0000:00:04.0".parse().unwrap());
    let pc = Pc::built(|bus| bus, vec![nvme, edu], |_| ());
    for function in [nvme, edu] {
        pc.write(function, 4, Width::B2, 0b010);
        let bar = u64::from(pc.read(function, 0x10, Width::B4) & !0xf) - LOW_PCI + LOW_GPA;
        assert!(pc.store(bar + 0x1c, Width::B4, 0x1234_5678), "{function}: nobody answers");
        assert_eq!(pc.load(bar + 0x1c, Width::B4), Some(0x1234_5678));
        assert_eq!(pc.load(bar + 0x1e, Width::B2), Some(0x1234));
        // Its registers are the hardware's.
        let hpa = bar - LOW_GPA + LOW_PCI + HPA_OFFSET;
        assert_eq!(pc.board().word(hpa + 0x1c), 0x1234_5678);
    }
    assert!(pc.board().parts.lock().unwrap().is_empty());
    let table = pc.table(nvme);
    assert!(pc.store(table, Width::B4, wanted(0).address));
    assert_eq!(pc.load(table, Width::B4), Some(wanted(0).address));
    assert_ne!(
        pc.board().entries(nvme)[0].0.address,
        wanted(0).address,
        "the guest's table is the function's"
    );
}

/// Of two BARs of 256 bytes that share a page each has only its own.
#[test]
fn a_bar_that_shares_its_page_is_reached_and_its_neighbour_is_not() {
    const SIZE: u64 = 0x100;
    let edu: PciAddress = "0000:00:04.0".parse().unwrap();
    let mut place = 0;
    let small = |all: &mut Vec<AssignedFunction>| {
        let it = all.iter_mut().find(|it| it.function.address == edu).unwrap();
        let bar = &mut it.function.bars[0];
        let address = bar.address.unwrap() + 3 * SIZE;
        (bar.size, bar.address, place) = (SIZE, Some(address), address + HPA_OFFSET);
        it.bars = vec![(0, Hpa(place))];
    };
    let pc = Pc::built(|bus| bus, vec![edu], small);
    pc.write(edu, 0x10, Width::B4, u32::MAX);
    assert_eq!(pc.read(edu, 0x10, Width::B4) & !0xf, 0xffff_f000, "the guest sees a page");
    pc.write(edu, 0x10, Width::B4, LOW_PCI as u32 + 0x8000);
    pc.write(edu, 4, Width::B2, 0b010);
    let bar = LOW_GPA + 0x8000;
    assert!(pc.store(bar + 8, Width::B4, 7));
    assert_eq!((pc.load(bar + 8, Width::B4), pc.board().word(place + 8)), (Some(7), 7));
    // Behind its end is what others have.
    pc.board().memory.lock().unwrap().insert(place + SIZE, 0x5ec2_e700);
    assert_eq!(pc.load(bar + SIZE, Width::B4), Some(0xffff_ffff));
    assert!(pc.store(bar + SIZE, Width::B4, 0));
    assert_eq!(pc.board().word(place + SIZE), 0x5ec2_e700);
}
