//! The dispatcher against a plain list.

extern crate std;

use std::cell::RefCell;
use std::format;
use std::string::{String, ToString};
use std::sync::Mutex;
use std::vec;

use axvm_addr::Hpa;
use proptest::prelude::*;

use super::*;

/// Answers with its number and remembers what was written.
struct Fake {
    name: String,
    number: u64,
    writes: Mutex<Vec<(u64, u64)>>,
}

fn fake(number: u64) -> Arc<Fake> {
    Arc::new(Fake { name: format!("device{number}"), number, writes: Mutex::default() })
}

impl MmioDevice for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, _: VcpuId, offset: u64, _: Width) -> u64 {
        self.number << 32 | offset
    }

    fn write(&self, _: VcpuId, offset: u64, _: Width, value: u64) {
        self.writes.lock().unwrap().push((offset, value));
    }
}

impl PortDevice for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, _: VcpuId, offset: u16, _: Width) -> u32 {
        (self.number << 16) as u32 | u32::from(offset)
    }

    fn write(&self, _: VcpuId, offset: u16, _: Width, value: u32) {
        self.writes.lock().unwrap().push((offset.into(), value.into()));
    }
}

impl SysRegDevice for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, _: VcpuId, register: SysReg) -> Option<u64> {
        (register.0.is_multiple_of(2)).then_some(self.number)
    }

    fn write(&self, _: VcpuId, _: SysReg, _: u64) -> Option<()> {
        None
    }
}

/// Registers that echo their address; those at 0xdead000 abort.
#[derive(Default)]
struct Bus(RefCell<Vec<(Hpa, Width, u64)>>, RefCell<Vec<(u16, Width, u32)>>);

impl Forward for Bus {
    type Backing = Hpa;

    fn forward_read(&self, at: &Hpa, offset: u64, _: Width) -> Result<u64, Aborted> {
        let hpa = Hpa(at.0 + offset);
        if hpa.page() == Hpa(0x0dea_d000) { Err(Aborted) } else { Ok(hpa.0) }
    }

    fn forward_write(&self, at: &Hpa, offset: u64, width: Width, value: u64) -> Result<(), Aborted> {
        let hpa = Hpa(at.0 + offset);
        if hpa.page() == Hpa(0x0dea_d000) {
            return Err(Aborted);
        }
        self.0.borrow_mut().push((hpa, width, value));
        Ok(())
    }

    fn forward_port_read(&self, port: u16, _: Width) -> u32 {
        0xabcd_0000 | u32::from(port)
    }

    fn forward_port_write(&self, port: u16, width: Width, value: u32) {
        self.1.borrow_mut().push((port, width, value));
    }
}

fn span(start: u64, size: u64) -> Span<Gpa> {
    Span::new(Gpa(start), size).unwrap()
}

const VCPU: VcpuId = VcpuId(0);

#[test]
fn an_access_reaches_the_device_at_its_address_with_the_offset_in_it() {
    let (a, b) = (fake(1), fake(2));
    let devices = AxVmDevices::<Hpa>::builder()
        .mmio(span(0x2000, 0x1000), b.clone())
        .mmio(span(0x1000, 0x800), a)
        .build()
        .unwrap();
    let (bus, mut hint) = (Bus::default(), Hint::default());
    let mut read = |gpa, width| devices.mmio_read(VCPU, Gpa(gpa), width, &mut hint, &bus);
    assert_eq!(read(0x1010, Width::B8), Some((1 << 32 | 0x10, Handled::Emulated)));
    assert_eq!(read(0x2ff8, Width::B8), Some((2 << 32 | 0xff8, Handled::Emulated)));
    assert_eq!(read(0x2004, Width::B2), Some((4, Handled::Emulated)), "only the bits of the width");
    assert_eq!(read(0x1800, Width::B1), None);
    assert_eq!(read(0xfff, Width::B1), None);
    let wrote = devices.mmio_write(VCPU, Gpa(0x2004), Width::B1, 0x1ff, &mut Hint::default(), &bus);
    assert_eq!(wrote, Some(Handled::Emulated));
    assert_eq!(*b.writes.lock().unwrap(), [(4, 0xff)]);
}

#[test]
fn trapped_registers_are_forwarded_to_where_they_are_and_an_abort_reads_all_ones() {
    let devices = AxVmDevices::<Hpa>::builder()
        .forwarded(span(0x1200, 0x200), Hpa(0x0a00_0400), 3, "half a page")
        .forwarded(span(0x3000, 0x1000), Hpa(0x0dea_d000), 4, "dead")
        .build()
        .unwrap();
    let (bus, mut hint) = (Bus::default(), Hint::default());
    let read = devices.mmio_read(VCPU, Gpa(0x1208), Width::B4, &mut hint, &bus);
    assert_eq!(read, Some((0x0a00_0408, Handled::Forwarded { device: 3, aborted: false })));
    assert_eq!(
        devices.mmio_read(VCPU, Gpa(0x1400), Width::B4, &mut hint, &bus),
        None,
        "its neighbour in the page"
    );
    assert_eq!(devices.mmio_read(VCPU, Gpa(0x13fe), Width::B4, &mut hint, &bus), None, "across its end");
    let read = devices.mmio_read(VCPU, Gpa(0x3000), Width::B2, &mut hint, &bus);
    assert_eq!(read, Some((0xffff, Handled::Forwarded { device: 4, aborted: true })));
    devices.mmio_write(VCPU, Gpa(0x1210), Width::B2, 0x1_2345, &mut hint, &bus).unwrap();
    assert_eq!(*bus.0.borrow(), [(Hpa(0x0a00_0410), Width::B2, 0x2345)]);
}

/// A bus with places where nobody is now.
struct BusHead;

impl MmioDevice for BusHead {
    fn name(&self) -> &str {
        "bus"
    }

    fn read(&self, _: VcpuId, _: u64, _: Width) -> u64 {
        7
    }

    fn write(&self, _: VcpuId, _: u64, _: Width, _: u64) {}

    fn claims(&self, gpa: Gpa) -> bool {
        (0x8000..0x9000).contains(&gpa.0)
    }

    // A device on the bus, for now.

    fn claimed_read(&self, _: VcpuId, gpa: Gpa, _: Width) -> Option<u64> {
        (0x8100..0x8200).contains(&gpa.0).then_some(0xf_0000 | gpa.0)
    }

    fn claimed_write(&self, _: VcpuId, gpa: Gpa, _: Width, value: u64) -> bool {
        assert_eq!(value, 1, "of the width");
        (0x8100..0x8200).contains(&gpa.0)
    }
}

#[test]
fn where_a_devices_bus_has_nothing_now_reads_are_all_ones_and_writes_are_lost() {
    let devices =
        AxVmDevices::<Hpa>::builder().mmio(span(0x1000, 0x1000), Arc::new(BusHead)).build().unwrap();
    let (bus, mut hint) = (Bus::default(), Hint::default());
    let mut read = |gpa| devices.mmio_read(VCPU, Gpa(gpa), Width::B2, &mut hint, &bus);
    assert_eq!(read(0x1000), Some((7, Handled::Emulated)));
    assert_eq!(read(0x8ffe), Some((0xffff, Handled::Silent)));
    assert_eq!(read(0x9000), None);
    assert_eq!(read(0x8104), Some((0x8104, Handled::Emulated)), "what is there now answers");
    let written = devices.mmio_write(VCPU, Gpa(0x81fc), Width::B2, 0x1_0001, &mut hint, &bus);
    assert_eq!(written, Some(Handled::Emulated));
    let written = devices.mmio_write(VCPU, Gpa(0x8000), Width::B2, 1, &mut hint, &bus);
    assert_eq!(written, Some(Handled::Silent));
    assert!(devices.answers(Gpa(0x8000), Width::B8) && devices.is_device(Gpa(0x8000)));
    assert!(!devices.is_device(Gpa(0x7fff)) && !devices.overlaps(span(0x8000, 1)));
}

#[test]
fn overlaps_are_refused_naming_both_and_empty_ranges_naming_one() {
    let error = AxVmDevices::<Hpa>::builder()
        .mmio(span(0x1000, 0x1000), fake(1))
        .forwarded(span(0x1800, 0x10), Hpa(0), 0, "clock")
        .build()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("device1") && error.contains("clock") && error.contains("0x1800-0x180f"),
        "{error}"
    );
    assert!(AxVmDevices::<Hpa>::builder().mmio(span(0x1000, 0), fake(1)).build().is_err());
    assert!(AxVmDevices::<Hpa>::builder().ports(0x10, 0, fake(1)).build().is_err());
    assert!(AxVmDevices::<Hpa>::builder().ports(0xffff, 2, fake(1)).build().is_err());
    let ports = AxVmDevices::<Hpa>::builder().ports(0x2f8, 8, fake(1)).ports(0x2ff, 1, fake(2)).build();
    assert!(ports.unwrap_err().to_string().contains("ports 0x2f8-0x2ff of device1"));
}

#[test]
fn ports_reach_their_devices_or_the_machine() {
    let com = fake(1);
    let devices = AxVmDevices::<Hpa>::builder()
        .forwarded_ports(0xfff0, 16, 0x2f0, 4, "moved")
        .forwarded_ports(0x70, 2, 0x70, 3, "rtc")
        .ports(0x2f8, 8, com.clone())
        .build()
        .unwrap();
    let emulated = |port, width| match devices.port_place(port, width) {
        PortPlace::Emulated { entry, offset } => Some((entry, offset)),
        _ => None,
    };
    let read = |port, width| {
        emulated(port, width).map(|(entry, offset)| devices.port_read(VCPU, entry, offset, width))
    };
    assert_eq!(read(0x2fa, Width::B1), Some(2));
    assert_eq!(read(0x2fc, Width::B4), Some(1 << 16 | 4));
    let forwarded = |device, at| PortPlace::Forwarded { device, at };
    for (port, width, place) in [
        (0x2ff, Width::B2, PortPlace::Nobody),
        (0x300, Width::B1, PortPlace::Nobody),
        (0x2f7, Width::B2, PortPlace::Nobody),
        (0, Width::B1, PortPlace::Nobody),
        (0x71, Width::B1, forwarded(3, 0x71)),
        (0x71, Width::B2, PortPlace::Nobody),
        (0xfffc, Width::B4, forwarded(4, 0x2fc)),
        (0xffff, Width::B2, PortPlace::Nobody),
    ] {
        assert_eq!(devices.port_place(port, width), place, "{port:#x}, {width:?}");
    }
    let (entry, offset) = emulated(0x2f8, Width::B1).unwrap();
    devices.port_write(VCPU, entry, offset, Width::B1, 0x103);
    assert_eq!(*com.writes.lock().unwrap(), [(0, 3)]);
    // Places that aren't this table's reach nobody.
    for entry in [0, 2, 3, u16::MAX] {
        let read = devices.port_read(VCPU, entry, 0, Width::B2);
        devices.port_write(VCPU, entry, 0, Width::B2, 1);
        assert!(entry == 1 || read == 0xffff, "{entry}");
    }
    assert_eq!(com.writes.lock().unwrap().len(), 1);
    assert!(devices.has_ports(0x2ff, 0x400) && devices.has_ports(0, 0x70) && !devices.has_ports(0x72, 0x2f7));
}

/// Every port there is, by every width, against a list.
#[test]
fn no_port_that_is_not_listed_is_reached() {
    let devices = AxVmDevices::<Hpa>::builder()
        .ports(0x3f8, 8, fake(1))
        .forwarded_ports(0x70, 2, 0x1070, 3, "rtc")
        .forwarded_ports(0xffff, 1, 0xffff, 5, "last")
        .build()
        .unwrap();
    for port in 0..=0xffff {
        for width in [Width::B1, Width::B2, Width::B4] {
            let last = u32::from(port) + width.bytes() as u32 - 1;
            let within = |first, end| u32::from(port) >= first && last <= end;
            let expected = within(0x3f8, 0x3ff) || within(0x70, 0x71) || within(0xffff, 0xffff);
            assert_eq!(devices.port_place(port, width) != PortPlace::Nobody, expected, "{port:#x} {width:?}");
        }
    }
}

#[test]
fn ranges_of_ports_that_are_none_are_refused() {
    let builder = AxVmDevices::<Hpa>::builder;
    assert!(builder().ports(0, 0, fake(1)).build().is_err(), "empty, and not all");
    assert!(builder().forwarded_ports(0, 0, 0, 1, "none").build().is_err());
    assert!(builder().forwarded_ports(0xfffe, 3, 0, 1, "past the last").build().is_err());
    assert!(builder().forwarded_ports(0, 3, 0xfffe, 1, "past the machine's last").build().is_err());
    let both = builder().forwarded_ports(0x70, 2, 0x70, 1, "rtc").ports(0x71, 1, fake(2)).build();
    let error = both.unwrap_err().to_string();
    assert!(error.contains("0x70-0x71 of rtc") && error.contains("0x71-0x71 of device2"), "{error}");
}

#[test]
fn system_registers_reach_their_devices() {
    let devices = AxVmDevices::<Hpa>::builder().sysregs(SysReg(10), SysReg(20), fake(7)).build().unwrap();
    assert_eq!(devices.handle_sysreg(VCPU, SysReg(20), None), Some(7));
    assert_eq!(devices.handle_sysreg(VCPU, SysReg(11), None), None, "the device refuses");
    assert_eq!(devices.handle_sysreg(VCPU, SysReg(20), Some(1)), None);
    assert_eq!(devices.handle_sysreg(VCPU, SysReg(21), None), None);
}

proptest! {
    #[test]
    fn the_search_finds_what_a_list_finds_whatever_the_hint(
        sizes in proptest::collection::vec((0u64..0x40, 1u64..0x40), 0..20),
        accesses in proptest::collection::vec((0u64..0x900, 0u64..4, 0usize..40), 1..100),
    ) {
        let mut builder = AxVmDevices::<Hpa>::builder();
        let mut list = vec![];
        let mut at = 0;
        for (number, (gap, size)) in (0u64..).zip(sizes) {
            at += gap;
            list.push((number, span(at, size)));
            builder = builder.mmio(span(at, size), fake(number));
            at += size;
        }
        let devices = builder.build().unwrap();
        let mut hint = Hint::default();
        for (gpa, log, forged) in accesses {
            let width = Width::from_bytes(1 << log).unwrap();
            if forged >= 20 {
                hint = Hint(forged);
            }
            let access = span(gpa, width.bytes());
            let expected = list.iter().find(|(_, span)| span.encloses(&access));
            let found = devices.mmio_read(VCPU, Gpa(gpa), width, &mut hint, &Bus::default());
            let expected = expected.map(|(number, span)| (number << 32 | (gpa - span.start().0)) & width.mask());
            prop_assert_eq!(found.map(|(value, _)| value), expected);
        }
    }
}
