//! Random accesses against a simple model: which hardware bits may change, and what is mapped.

use std::vec::Vec;

use axvm_addr::{PciAddress, VcpuId};
use axvm_axdevice::{MmioDevice, Width};
use axvm_pci::BarKind;
use axvm_pci::spec::{capability, express, msi, power};
use proptest::prelude::*;

use super::{
    ACCELERATOR, EDU, FOREIGN, Guest, HPA_OFFSET, IGB, LOW_GPA, LOW_PCI, LOW_SIZE, NIC, NVME, Place, WIDE,
    WIDE_SIZE, Which,
};

/// The hardware bits that a guest's write may change without a reset: offset of 16 bits and mask.
fn changeable(guest: &Guest, address: PciAddress) -> Vec<(u16, u16)> {
    let function = guest.function(address);
    let mut list = [(0x04, 0x0406), (0x06, 0xf900), (0x0c, 0xffff)].to_vec();
    if let Some(at) = function.capability(capability::POWER) {
        list.push((at + power::CONTROL, 0x8003));
    }
    if let Some(at) = function.capability(capability::MSI) {
        list.extend([(at + 2, 0x0071), (at + 4, 0xfffc)]);
        // All of these have 64-bit addresses; igb has masks, which its capability's bit 8 says.
        list.extend([6, 8, 10, 12].map(|offset| (at + offset, 0xffff)));
        if guest.hardware(address, at + 2, Width::B2) & 0x100 != 0 {
            list.extend([(at + 16, 0xffff), (at + 18, 0xffff)]);
        }
    }
    if let Some(at) = function.capability(capability::MSIX) {
        list.push((at + msi::CONTROL, 0xc000));
    }
    if let Some(at) = function.capability(capability::EXPRESS) {
        list.extend([
            (at + express::DEVICE_CONTROL, 0x7810),
            (at + express::DEVICE_STATUS, 0x000f),
            (at + express::LINK_CONTROL, 0x0103),
            (at + express::DEVICE_CONTROL_2, 0x001f),
        ]);
    }
    list
}

/// All of a function's config space.
fn snapshot(guest: &Guest, address: PciAddress) -> Vec<u16> {
    let get = |fake: &mut axvm_pci::fake::FakeFunction| {
        (0..0x800).map(|half| fake.get(half * 2, Width::B2) as u16).collect()
    };
    guest.bridge.backend().bus.function(address, get).unwrap()
}

/// What is to be mapped, from what the guest reads.
fn model(guest: &Guest) -> Vec<(Which, Place)> {
    let mut wanted = Vec::new();
    for function in &guest.functions {
        let address = function.address;
        let d0 = guest
            .capability(address, capability::POWER)
            .is_none_or(|offset| guest.r16(address, offset + power::CONTROL) & 3 == 0);
        if guest.r16(address, 4) & 2 == 0 || !d0 {
            continue;
        }
        for bar in function.bars.iter().filter(|bar| bar.kind != BarKind::Io) {
            let offset = 0x10 + u16::from(bar.index) * 4;
            let mut pci = u64::from(guest.r32(address, offset) & !0xf);
            if bar.kind.is_wide() {
                pci |= u64::from(guest.r32(address, offset + 4)) << 32;
            }
            let size = bar.size.max(0x1000);
            let within = |start: u64, length: u64| pci >= start && pci - start <= length - size;
            let gpa = if within(LOW_PCI, LOW_SIZE) {
                pci - LOW_PCI + LOW_GPA
            } else if within(WIDE, WIDE_SIZE) {
                pci
            } else {
                continue;
            };
            wanted.push(((address, bar.index), (gpa, bar.address.unwrap() + HPA_OFFSET, size)));
        }
    }
    let clash =
        |a: &(Which, Place), b: &(Which, Place)| a.0 != b.0 && a.1.0 < b.1.0 + b.1.2 && b.1.0 < a.1.0 + a.1.2;
    let alone = |entry: &&_| !wanted.iter().any(|other| clash(entry, other));
    wanted.iter().filter(alone).copied().collect()
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, u16, Width),
    Write(usize, u16, Width, u32),
    Bar(usize, u8, u64),
    Quarantine(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let width = prop::sample::select(&[Width::B1, Width::B2, Width::B4, Width::B8][..]);
    let offset = prop_oneof![0u16..0x40, 0u16..0x100, 0x100u16..0x200, 0u16..0x1000];
    let value = prop_oneof![any::<u32>(), Just(u32::MAX), Just(0), 0u32..8];
    let place = prop_oneof![
        (LOW_PCI..LOW_PCI + 0x40_0000),
        (WIDE..WIDE + 0x4000_0000),
        (LOW_PCI + LOW_SIZE - 0x30_0000..LOW_PCI + LOW_SIZE + 0x10_0000),
        any::<u64>(),
    ];
    prop_oneof![
        2 => (0usize..6, offset.clone(), width.clone()).prop_map(|(f, offset, width)| Step::Read(f, offset, width)),
        4 => (0usize..6, offset, width, value).prop_map(|(f, offset, width, value)| {
            let offset = if width == Width::B8 { offset } else { offset & !(width.bytes() as u16 - 1) };
            Step::Write(f, offset, width, value)
        }),
        3 => (0usize..6, Just(4u16), Just(Width::B2), 0u32..8)
            .prop_map(|(f, offset, width, value)| Step::Write(f, offset, width, value)),
        3 => (0usize..6, 0u8..6, place).prop_map(|(f, bar, address)| Step::Bar(f, bar, address)),
        1 => (0usize..60).prop_map(Step::Quarantine),
    ]
}

const ALL: [PciAddress; 6] = [NIC, NVME, IGB, EDU, ACCELERATOR, FOREIGN];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_sequence_of_accesses_changes_what_is_not_the_guests(steps in prop::collection::vec(step(), 1..60)) {
        let guest = Guest::new();
        let mut quarantined = Vec::new();
        for step in steps {
            let before: Vec<_> = ALL.iter().map(|&address| snapshot(&guest, address)).collect();
            let resets: Vec<_> = ALL.iter().map(|&address| guest.resets(address)).collect();
            let offset = |function: usize, register: u16| {
                u64::from(ALL[function].requester_id()) << 12 | u64::from(register)
            };
            let mut touched = None;
            match step {
                Step::Read(function, register, width) => {
                    guest.bridge.read(VcpuId(0), offset(function, register), width);
                }
                Step::Write(function, register, width, value) => {
                    touched = Some(function);
                    let value = u64::from(value) & width.mask();
                    guest.bridge.write(VcpuId(0), offset(function, register), width, value);
                }
                Step::Bar(function, bar, address) => {
                    touched = Some(function);
                    let register = 0x10 + u16::from(bar) * 4;
                    guest.w32(ALL[function], register, address as u32);
                    if bar < 5 && guest.r32(ALL[function], register) & 4 != 0 {
                        guest.w32(ALL[function], register + 4, (address >> 32) as u32);
                    }
                }
                Step::Quarantine(function) => {
                    if let Some(&address) = ALL.get(function) {
                        touched = Some(function);
                        if guest.bridge.quarantine(address).is_ok() {
                            quarantined.push(address);
                        }
                    }
                }
            }
            for (position, &address) in ALL.iter().enumerate() {
                let after = snapshot(&guest, address);
                if touched != Some(position) || address == FOREIGN {
                    prop_assert_eq!(&after, &before[position], "{} changed by itself", address);
                    continue;
                }
                let reset = guest.resets(address) != resets[position];
                let allowed = changeable(&guest, address);
                for (half, (old, new)) in before[position].iter().zip(&after).enumerate() {
                    let offset = half as u16 * 2;
                    let mask = allowed.iter().find(|entry| entry.0 == offset).map_or(0, |entry| entry.1);
                    let bar = (0x10..0x34).contains(&offset);
                    prop_assert!(
                        (old ^ new) & !mask == 0 || (reset && !bar),
                        "{} at {:#x}: {:#x} became {:#x}", address, offset, old, new
                    );
                }
                prop_assert!(!quarantined.contains(&address) || after[2] & 4 == 0);
            }
            let mut expected = model(&guest);
            expected.sort();
            let mapped: Vec<_> =
                guest.bridge.backend().mapped.lock().unwrap().iter().map(|(key, place)| (*key, *place)).collect();
            prop_assert_eq!(mapped, expected);
        }
    }

    #[test]
    fn bars_read_back_what_was_written_with_their_size_and_flags(
        writes in prop::collection::vec((0u8..6, 0u16..4, prop::bool::ANY, any::<u32>()), 1..40),
    ) {
        let guest = Guest::new();
        // The accelerator: BAR 0 has 4K, BAR 2 is 64-bit with 256M, BAR 4 has 512 bytes and so shows a page.
        let masks = [0xffff_f000u32, 0, 0xf000_0000, 0xffff_ffff, 0xffff_f000, 0];
        let flags = [0u32, 0, 0b1100, 0, 0, 0];
        let mut model: Vec<u32> = (0..6).map(|bar| guest.r32(ACCELERATOR, 0x10 + bar * 4)).collect();
        for (bar, byte, whole, value) in writes {
            let (register, index) = (0x10 + u16::from(bar) * 4, usize::from(bar));
            let lanes = if whole {
                guest.w32(ACCELERATOR, register, value);
                u32::MAX
            } else {
                guest.write(ACCELERATOR, register + byte, Width::B1, value & 0xff);
                0xff << (8 * byte)
            };
            let placed = if whole { value } else { (value & 0xff) << (8 * byte) };
            model[index] = (model[index] & !lanes | placed & lanes) & masks[index] | flags[index];
            for other in 0..6 {
                prop_assert_eq!(guest.r32(ACCELERATOR, 0x10 + other * 4), model[usize::from(other)]);
            }
        }
    }
}
