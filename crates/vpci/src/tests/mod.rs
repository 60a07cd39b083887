//! The host bridge on functions made up for it.

mod config;
mod decode;
mod pc;
mod property;
mod reset;
mod shown;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec;
use std::vec::Vec;

use axvm_addr::{Gpa, Hpa, PciAddress, PciBuses, PciSpace, PciWindow, Span, VcpuId};
use axvm_axdevice::{MmioDevice, Width};
use axvm_pci::fake::{FakeBus, FakeFunction};
use axvm_pci::{BarKind, ConfigSpace, Function, enumerate};

use crate::{AssignedFunction, Backend, BarPart, BridgeConfig, HostBridge, Refused};

const NIC: PciAddress = at(1);
const NVME: PciAddress = at(2);
const IGB: PciAddress = at(3);
const EDU: PciAddress = at(4);
const ACCELERATOR: PciAddress = at(5);
/// There in the machine, but not the VM's.
const FOREIGN: PciAddress = at(6);

/// PCI address 0x1000_0000 is at this guest-physical address: not the same, so that they can't be mixed up.
const LOW_GPA: u64 = 0x5000_0000;
const LOW_PCI: u64 = 0x1000_0000;
const LOW_SIZE: u64 = 0x2eff_0000;
const WIDE: u64 = 0x80_0000_0000;
const WIDE_SIZE: u64 = 0x80_0000_0000;
/// And at this host-physical one.
const HPA_OFFSET: u64 = 0x100_0000_0000;

const fn at(device: u8) -> PciAddress {
    PciAddress::from_requester_id(0, (device as u16) << 3)
}

/// A BAR.
type Which = (PciAddress, u8);
/// Its guest-physical and host-physical address and its size in the second stage.
type Place = (u64, u64, u64);

/// A backend that notes what is mapped.
struct Fake {
    bus: FakeBus,
    mapped: Mutex<BTreeMap<Which, Place>>,
    masters: Mutex<Vec<PciAddress>>,
    stream_blocked: AtomicBool,
    stopping: AtomicBool,
    /// The VM is told to stop when it next waits.
    stops: AtomicBool,
}

impl Fake {
    fn new(bus: FakeBus) -> Self {
        Self {
            bus,
            mapped: Mutex::default(),
            masters: Mutex::default(),
            stream_blocked: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            stops: AtomicBool::new(false),
        }
    }
}

impl Backend for Fake {
    fn config_read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        self.bus.read(function, offset, width)
    }

    fn config_write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        self.bus.write(function, offset, width, value);
    }

    fn map_bar(&self, function: PciAddress, part: &BarPart) -> Result<(), Refused> {
        let BarPart { bar, offset, gpa, hpa, size, .. } = *part;
        assert_eq!(offset, 0, "the whole of it");
        let mut mapped = self.mapped.lock().unwrap();
        let span = Span::new(gpa, size).unwrap();
        assert!(span.is_aligned(0x1000) && hpa.0.is_multiple_of(0x1000));
        for &(start, _, size) in mapped.values() {
            assert!(!span.overlaps(&Span::new(Gpa(start), size).unwrap()), "two BARs at {span}");
        }
        let command = self.bus.read(function, 4, Width::B2);
        assert!(command & 2 != 0, "{function} doesn't decode, but is mapped");
        assert!(mapped.insert((function, bar), (gpa.0, hpa.0, size)).is_none());
        Ok(())
    }

    fn unmap_bar(&self, function: PciAddress, part: &BarPart) {
        let BarPart { bar, gpa, size, .. } = *part;
        let (start, _, length) = self.mapped.lock().unwrap().remove(&(function, bar)).unwrap();
        assert_eq!((start, length), (gpa.0, size));
        assert!(self.bus.read(function, 4, Width::B2) & 2 != 0, "decoding went first");
    }

    fn set_bus_master(&self, function: PciAddress, on: bool) -> Result<(), Refused> {
        if on && self.stream_blocked.load(Ordering::Relaxed) {
            return Err(Refused);
        }
        let mut masters = self.masters.lock().unwrap();
        masters.retain(|&other| other != function);
        if on {
            masters.push(function);
        }
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn now_us(&self) -> u64 {
        self.bus.microseconds()
    }

    fn delay_us(&self, microseconds: u64) {
        assert!(self.mapped.lock().unwrap().len() < 100);
        if self.stops.load(Ordering::SeqCst) {
            self.stopping.store(true, Ordering::SeqCst);
        }
        self.bus.delay(microseconds);
    }
}

fn windows() -> Vec<PciWindow<Gpa>> {
    let span = |start, size| Span::new(Gpa(start), size).unwrap();
    vec![
        PciWindow {
            space: PciSpace::Memory32,
            pci: LOW_PCI,
            cpu: span(LOW_GPA, LOW_SIZE),
            prefetchable: false,
        },
        PciWindow { space: PciSpace::Memory64, pci: WIDE, cpu: span(WIDE, WIDE_SIZE), prefetchable: false },
    ]
}

/// A machine's functions, enumerated.
fn machine() -> (FakeBus, Vec<Function>) {
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::e1000e())
        .with(2, 0, FakeFunction::nvme())
        .with(3, 0, FakeFunction::igb())
        .with(4, 0, FakeFunction::edu())
        .with(5, 0, FakeFunction::accelerator())
        .with(6, 0, FakeFunction::nvme());
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
            window(PciSpace::Io, 0, 0x1_0000),
            window(PciSpace::Memory32, LOW_PCI, LOW_SIZE),
            window(PciSpace::Memory64, WIDE, WIDE_SIZE),
        ],
    };
    let functions = enumerate(&bus, &host, &bus);
    bus.take_writes();
    (bus, functions)
}

struct Guest {
    bridge: HostBridge<Fake>,
    functions: Vec<Function>,
}

impl Guest {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// A guest that has all functions but one; `change` has them before.
    fn with(change: impl FnOnce(&mut Vec<Function>)) -> Self {
        let (bus, mut functions) = machine();
        functions.retain(|function| function.address != FOREIGN);
        change(&mut functions);
        let backend = Fake::new(bus);
        let assigned = functions
            .iter()
            .map(|function| {
                let memory = function.bars.iter().filter(|bar| bar.kind != BarKind::Io);
                let place = |bar: &axvm_pci::Bar| Some((bar.index, Hpa(bar.address? + HPA_OFFSET)));
                AssignedFunction {
                    function: function.clone(),
                    shown: function.address,
                    bars: memory.filter_map(place).collect(),
                    ports: Vec::new(),
                    line: 0,
                    intx: function.address != ACCELERATOR,
                }
            })
            .collect();
        let config =
            BridgeConfig { segment: 0, buses: PciBuses::new(0, 1), windows: windows(), functions: assigned };
        Self { bridge: HostBridge::new(config, backend).unwrap(), functions }
    }

    fn read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        let offset = u64::from(function.requester_id()) << 12 | u64::from(offset);
        self.bridge.read(VcpuId(0), offset, width) as u32
    }

    fn write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        let offset = u64::from(function.requester_id()) << 12 | u64::from(offset);
        self.bridge.write(VcpuId(0), offset, width, u64::from(value) & width.mask());
    }

    fn r16(&self, function: PciAddress, offset: u16) -> u16 {
        self.read(function, offset, Width::B2) as u16
    }

    fn r32(&self, function: PciAddress, offset: u16) -> u32 {
        self.read(function, offset, Width::B4)
    }

    fn w16(&self, function: PciAddress, offset: u16, value: u16) {
        self.write(function, offset, Width::B2, value.into());
    }

    fn w32(&self, function: PciAddress, offset: u16, value: u32) {
        self.write(function, offset, Width::B4, value);
    }

    /// The capability's offset as the guest finds it, walking the list as Linux does.
    fn capability(&self, function: PciAddress, id: u8) -> Option<u16> {
        self.capabilities(function).into_iter().find(|found| found.0 == id).map(|found| found.1)
    }

    fn capabilities(&self, function: PciAddress) -> Vec<(u8, u16)> {
        let mut found = Vec::new();
        if self.r16(function, 6) & 0x10 == 0 {
            return found;
        }
        let mut next = self.read(function, 0x34, Width::B1) as u16;
        while next >= 0x40 && found.len() < 48 {
            let entry = self.r16(function, next);
            found.push((entry as u8, next));
            next = entry >> 8;
        }
        found
    }

    /// The extended capabilities, the same way.
    fn extended(&self, function: PciAddress) -> Vec<u16> {
        let (mut found, mut next) = (Vec::new(), 0x100);
        loop {
            let header = self.r32(function, next);
            if header == 0 {
                return found;
            }
            if header & 0xffff != 0 {
                found.push(header as u16);
            }
            next = (header >> 20) as u16 & 0xffc;
            if next < 0x100 {
                return found;
            }
        }
    }

    fn hardware(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        self.bridge.backend().bus.function(function, |fake| fake.get(offset, width)).unwrap()
    }

    fn resets(&self, function: PciAddress) -> u32 {
        self.bridge.backend().bus.function(function, |fake| fake.resets).unwrap()
    }

    fn mapped(&self, function: PciAddress) -> Vec<(u8, u64)> {
        let mapped = self.bridge.backend().mapped.lock().unwrap();
        mapped.iter().filter(|entry| entry.0.0 == function).map(|(key, place)| (key.1, place.0)).collect()
    }

    fn masters(&self) -> Vec<PciAddress> {
        self.bridge.backend().masters.lock().unwrap().clone()
    }

    fn function(&self, address: PciAddress) -> &Function {
        self.functions.iter().find(|function| function.address == address).unwrap()
    }

    /// The GPA of a PCI address in the low window.
    fn low(pci: u64) -> u64 {
        pci - LOW_PCI + LOW_GPA
    }
}
