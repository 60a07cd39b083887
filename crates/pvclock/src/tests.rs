//! What a guest makes of it: Linux's arithmetic (arch/x86/kernel/pvclock.c, arch/x86/include/asm/pvclock.h), written from what its records mean.

use proptest::prelude::*;

use super::*;

const SYSTEM: u32 = 0x4b56_4d01;
const WALL: u32 = 0x4b56_4d00;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn double(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// pvclock_scale_delta by a processor without 128 bits, and what __pvclock_read_cycles adds.
fn read_cycles(record: &[u8], tsc: u64) -> u64 {
    assert_eq!(word(record, 0) & 1, 0, "its version is even, or the guest waits");
    let mut delta = tsc.wrapping_sub(double(record, 8));
    let (multiplier, shift) = (word(record, 24), record[28] as i8);
    if shift < 0 {
        delta >>= -shift
    } else {
        delta <<= shift
    }
    let low = u64::from(multiplier) * (delta & 0xffff_ffff);
    let high = u64::from(multiplier) * (delta >> 32);
    high.wrapping_add(low >> 32).wrapping_add(double(record, 16))
}

/// pvclock_tsc_khz.
fn tsc_khz(record: &[u8]) -> u64 {
    let khz = (1_000_000u64 << 32) / u64::from(word(record, 24));
    let shift = record[28] as i8;
    if shift < 0 { khz << -shift } else { khz >> shift }
}

fn record(hz: u64) -> Record {
    PvClock::new(hz, 0).unwrap().system_time(Gpa(0))
}

#[test]
fn a_guest_finds_the_clock_and_nothing_else_of_kvm() {
    let leaf = cpuid(0x4000_0000).unwrap();
    let name: [[u8; 4]; 3] = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    assert_eq!((name.concat().as_slice(), leaf.eax), (&b"KVMKVMKVM\0\0\0"[..], 0x4000_0001));
    let leaf = cpuid(0x4000_0001).unwrap();
    assert_eq!((leaf.eax, leaf.edx), (0x0100_0009, 1));
    assert!(cpuid(0x4000_0002).is_none() && cpuid(1).is_none());
}

#[test]
fn linux_takes_the_frequency_that_there_is() {
    for khz in [
        1_000, 1_000_000, 1_000_001, 999_999, 1_999_999, 2_000_000, 2_112_003, 2_500_000, 3_193_998,
        5_700_000,
    ] {
        let record = record(khz * 1000);
        assert!(tsc_khz(record.bytes()).abs_diff(khz) <= 1 + khz / 1_000_000, "{khz} kHz");
    }
}

#[test]
fn the_registers_are_each_vcpus_own_and_a_record_is_told_where_it_is_wanted() {
    let wall_ns = 1_700_000_000_123_456_789;
    let msrs = ClockMsrs::new(2, PvClock::new(2_000_000_000, wall_ns).unwrap());
    let (a, b) = (VcpuId(0), VcpuId(1));
    assert_eq!(
        (msrs.read(a, SYSTEM), msrs.read(a, 0x10), msrs.read(VcpuId(2), SYSTEM)),
        (Some(0), None, None)
    );
    let Some(Done::Store(system)) = msrs.write(b, SYSTEM, 0x1041) else { panic!() };
    assert_eq!((system.at, system.bytes().len(), system.bytes()[29]), (Gpa(0x1040), 32, 1));
    assert_eq!((msrs.read(a, SYSTEM), msrs.read(b, SYSTEM)), (Some(0), Some(0x1041)));
    assert_eq!(msrs.write(b, 0x12, 0x1040), Some(Done::Nothing), "turned off");
    let Some(Done::Store(wall)) = msrs.write(a, 0x11, 0x2000) else { panic!() };
    let (seconds, nanoseconds) = (word(wall.bytes(), 4), word(wall.bytes(), 8));
    assert_eq!((wall.at, wall.bytes().len()), (Gpa(0x2000), 12));
    assert_eq!((word(wall.bytes(), 0), seconds, nanoseconds), (2, 1_700_000_000, 123_456_789));
    assert_eq!(msrs.read(b, WALL), Some(0x2000), "one for all");
    assert_eq!((msrs.write(a, 0x10, 1), msrs.write(VcpuId(2), SYSTEM, 1)), (None, None));
    msrs.reset();
    assert_eq!((msrs.read(b, SYSTEM), msrs.read(b, WALL)), (Some(0), Some(0)));
}

#[test]
fn counters_that_there_are_not_are_refused() {
    for hz in [0, 1, 999_999, 1_000_000_000_001, u64::MAX] {
        assert_eq!(Scale::new(hz), None, "{hz}");
    }
}

proptest! {
    /// A day, to a millionth: what a guest reads is the time that has passed, and it never goes back.
    #[test]
    fn time_passes_as_it_does(hz in 1_000_000u64..=1_000_000_000_000, seconds in 0u64..86_400, past in any::<u64>()) {
        let record = record(hz);
        prop_assert!(word(record.bytes(), 24) >> 31 == 1, "as exact as can be");
        let ticks = hz * seconds + past % hz;
        let expected = (u128::from(ticks) * 1_000_000_000 / u128::from(hz)) as u64;
        let found = read_cycles(record.bytes(), ticks);
        prop_assert!(found.abs_diff(expected) <= 1_100 + expected / 1_000_000, "{found} {expected}");
        prop_assert!(read_cycles(record.bytes(), ticks + 1) >= found);
        prop_assert_eq!(Scale::new(hz).unwrap().ns(ticks), found);
    }
}
