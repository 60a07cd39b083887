//! What firmware may write when it is told of I/O APICs: what leads PCI's lines on AMD's chipsets, and nothing else.

use std::cell::RefCell;
use std::collections::BTreeMap;

use axvm_addr::PciAddress;
use axvm_platform::acpi::{self, Chipset, Lead, MemoryMap};
use axvm_platform::fake;

/// A chipset with the registers that such have: the router's behind two ports, and the northbridge's behind two pairs in the config space
/// of its first function.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registers {
    vendor: u64,
    /// The router's, and which is chosen.
    router: BTreeMap<u8, u8>,
    line: u8,
    /// By die and address, and which are chosen.
    smn: BTreeMap<(u32, u32), u32>,
    die: u32,
    address: u32,
    /// Those before there was that network, and which is chosen.
    old: BTreeMap<u32, u32>,
    number: u32,
    /// How often anything was written.
    writes: u32,
}

const FEATURES: u32 = 0x1430_0000;
const FEATURES_OF_DESKTOPS: u32 = 0x1460_0000;

impl Registers {
    fn new(vendor: u64) -> Self {
        let features = |address| move |die| ((die, address), 0x74);
        Self {
            vendor,
            router: (0..8).map(|line| (line, 5)).chain([(8, 0xf0), (0x10, 9)]).collect(),
            line: 0x33,
            smn: (0..4)
                .map(features(FEATURES))
                .chain([(0, FEATURES_OF_DESKTOPS)].map(|(die, address)| ((die, address), 0x34)))
                .chain([((0, 0x1_c604), 0x2), ((0, 0x13b1_02f0), 0xfec0_0001)])
                .collect(),
            die: 0,
            address: 0x1234,
            old: [(0, 0x14), (1, 0xfec2_0001)].into(),
            number: 7,
            writes: 0,
        }
    }

    fn seen(&self, offset: u16) -> u32 {
        match offset {
            0 => self.vendor as u32 | 0x1480 << 16,
            4 => 0x0010_0007,
            0xb4 => self.die,
            0xb8 => self.address,
            0xbc => self.smn.get(&(self.die, self.address)).copied().unwrap_or(0xdead_beef),
            0xf8 => self.number,
            0xfc => self.old.get(&self.number).copied().unwrap_or(0xdead_beef),
            _ => 0,
        }
    }
}

struct Machine(RefCell<Registers>);

impl Chipset for Machine {
    fn config(&self, function: PciAddress, offset: u16, bytes: u8) -> Option<u64> {
        if function != PciAddress::new(0, 0, 0, 0).unwrap() {
            return Some(u64::MAX >> (64 - 8 * u32::from(bytes)));
        }
        let register = u64::from(self.0.borrow().seen(offset & !3)) >> (8 * (offset & 3));
        Some(register & u64::MAX >> (64 - 8 * u32::from(bytes)))
    }

    fn lead(&self, lead: Lead) -> bool {
        let it = &mut *self.0.borrow_mut();
        it.writes += 1;
        match lead {
            Lead::Port { port: 0xc00, value } => it.line = value,
            Lead::Port { port: 0xc01, value } => drop(it.router.insert(it.line, value)),
            Lead::Config { offset: 0xb4, value, .. } => it.die = value,
            Lead::Config { offset: 0xb8, value, .. } => it.address = value,
            Lead::Config { offset: 0xbc, value, .. } => drop(it.smn.insert((it.die, it.address), value)),
            Lead::Config { offset: 0xf8, value, .. } => it.number = value,
            Lead::Config { offset: 0xfc, value, .. } => drop(it.old.insert(it.number, value)),
            other => panic!("{other:?}"),
        }
        true
    }
}

/// What becomes of the registers when firmware that has this case in its `_PIC` is told.
fn told(case: u8, before: &Registers) -> Registers {
    let mut dsdt = include_bytes!("acpi/lines.dat").to_vec();
    let at = dsdt.windows(6).position(|it| it == b"WHAT\x0a\x7f").unwrap();
    dsdt[at + 5] = case;
    dsdt[9] = 0;
    dsdt[9] = 0u8.wrapping_sub(dsdt.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)));
    let mut pc = fake::q35_amd();
    pc.contents[0].1 = dsdt;
    let machine = Machine(RefCell::new(before.clone()));
    acpi::read(&pc, pc.rsdp, &MemoryMap::Ranges(&pc.map), &machine).unwrap();
    machine.0.into_inner()
}

fn amd() -> Registers {
    Registers::new(0x1022)
}

#[test]
fn the_router_leads_lines_away_from_the_8259s_and_to_the_io_apic() {
    let after = told(1, &amd());
    let mut router = amd().router;
    router.extend([(0, 0x1f), (1, 0x1f), (7, 0x1f), (0x80, 0x10), (0x81, 0x11)]);
    assert_eq!(after.router, router);
    assert_eq!((after.smn, after.old), (amd().smn, amd().old));
    assert_eq!(after.writes, 10);
}

#[test]
fn a_line_that_is_masked_at_the_northbridge_does_not_go_to_the_southbridge() {
    // By the address of its config space; what was chosen before is chosen again.
    let after = told(2, &amd());
    assert_eq!(after.smn[&(0, FEATURES)], 0x64);
    assert_eq!(after.address, 0x1234);
    // By its config space, and with the register of desktops.
    assert_eq!(told(3, &amd()).smn[&(0, FEATURES_OF_DESKTOPS)], 0x24);
    // Of two dies, of which one more register says how many there are.
    let after = told(4, &amd());
    let of_dies: Vec<u32> = (0..4).map(|die| after.smn[&(die, FEATURES)]).collect();
    assert_eq!((of_dies, after.die), (vec![0x64, 0x64, 0x74, 0x74], 0));
    // Before there was that network.
    let after = told(5, &amd());
    assert_eq!(after.old, [(0, 0x04), (1, 0xfec2_0001)].into());
}

/// The reset and power management ports, the router's other registers, an input that there isn't, the I/O APIC's address, more than one bit
/// of a register, what is in doubt, and all of it before firmware is told.
#[test]
fn nothing_else_is_written() {
    for case in [10, 11, 12, 13, 14, 15, 16] {
        let (before, after) = (amd(), told(case, &amd()));
        assert_eq!(
            (&after.router, &after.smn, &after.old),
            (&before.router, &before.smn, &before.old),
            "{case}"
        );
    }
    // What chooses is written only where what it chooses may be.
    assert_eq!([10, 12, 13, 15, 16].map(|case| told(case, &amd()).writes), [0; 5]);
}

#[test]
fn another_maker_s_chipset_has_other_registers_at_these_places() {
    let intel = Registers::new(0x8086);
    for case in 1..=5 {
        assert_eq!(told(case, &intel), intel, "{case}");
    }
    assert_ne!(told(1, &Registers::new(0x1d94)), Registers::new(0x1d94), "Hygon's are AMD's");
}
