//! Walks through tables that are built here by the manual's pictures, and through whatever else there is.

extern crate std;

use super::*;
use crate::vmcb::Attributes;
use core::cell::Cell;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Memory by quadwords; what isn't there is zero, and above `end` there is none.
#[derive(Clone, Default)]
struct Ram {
    quads: BTreeMap<u64, u64>,
    reads: Cell<u32>,
    end: Option<u64>,
}

impl Memory for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NoMemory> {
        self.reads.set(self.reads.get() + 1);
        assert!(address & 0xfff <= 0x1000 - into.len() as u64, "a read crosses a page");
        for (at, byte) in into.iter_mut().enumerate() {
            let at = address + at as u64;
            if self.end.is_some_and(|end| at >= end) {
                return Err(NoMemory(at));
            }
            *byte = self.quads.get(&(at & !7)).map_or(0, |quad| (quad >> (8 * (at & 7))) as u8);
        }
        Ok(())
    }
}

impl Ram {
    fn put(&mut self, address: u64, entry: u64, bytes: u64) {
        if bytes == 8 {
            self.quads.insert(address, entry);
        } else {
            let quad = self.quads.entry(address & !7).or_default();
            let shift = 8 * (address & 7);
            *quad = *quad & !(0xffff_ffff << shift) | entry << shift;
        }
    }
}

/// A way of paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// 32-bit, with PSE.
    Legacy,
    Pae,
    Long,
    Long57,
}

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;
const FULL: u64 = P | RW | US;

/// The tables of one page: the indexes of an address, level by level from the top (5.2, 5.3).
fn indexes(mode: Mode, linear: u64) -> Vec<u64> {
    match mode {
        Mode::Legacy => [22, 12].map(|shift| linear >> shift & 0x3ff).to_vec(),
        Mode::Pae => std::vec![linear >> 30 & 3, linear >> 21 & 0x1ff, linear >> 12 & 0x1ff],
        Mode::Long => [39, 30, 21, 12].map(|shift| linear >> shift & 0x1ff).to_vec(),
        Mode::Long57 => [48, 39, 30, 21, 12].map(|shift| linear >> shift & 0x1ff).to_vec(),
    }
}

const CR3: u64 = 0x1_0000;

/// Maps one page: `entries` are the bits of each level's entry, the last one's with the frame. Fewer than there are levels make it a large page.
fn map(ram: &mut Ram, mode: Mode, linear: u64, entries: &[u64]) {
    let bytes = if mode == Mode::Legacy { 4 } else { 8 };
    let mut table = CR3;
    for (level, (index, entry)) in indexes(mode, linear).into_iter().zip(entries).enumerate() {
        let next = CR3 + 0x1000 * (level as u64 + 1);
        let entry = if level + 1 == entries.len() { *entry } else { next | entry };
        ram.put(table + index * bytes, entry, bytes);
        table = next;
    }
}

fn save(mode: Mode) -> Save {
    let mut save = Save::zero();
    save.cr0 = 1 << 31 | 1 << 16 | 1;
    save.cr3 = CR3;
    save.cr4 = match mode {
        Mode::Legacy => 1 << 4,
        Mode::Pae | Mode::Long => 1 << 5,
        Mode::Long57 => 1 << 5 | 1 << 12,
    };
    if matches!(mode, Mode::Long | Mode::Long57) {
        save.efer = 1 << 8 | 1 << 10;
        save.cs.attributes = Attributes::CODE64;
    }
    save.efer |= 1 << 11;
    save
}

/// The bits of the upper levels' entries: in PAE the first has P only.
fn uppers(mode: Mode, count: usize) -> Vec<u64> {
    (0..count).map(|level| if mode == Mode::Pae && level == 0 { P } else { FULL }).collect()
}

/// How many levels there are, and how far below the top a large page may be, with its size's bits.
fn sizes(mode: Mode) -> &'static [(usize, u32)] {
    match mode {
        Mode::Legacy => &[(2, 12), (1, 22)],
        Mode::Pae => &[(3, 12), (2, 21)],
        Mode::Long => &[(4, 12), (3, 21), (2, 30)],
        Mode::Long57 => &[(5, 12), (4, 21), (3, 30)],
    }
}

const MODES: [Mode; 4] = [Mode::Legacy, Mode::Pae, Mode::Long, Mode::Long57];

fn go(save: &Save, linear: u64, access: Access, ram: &Ram) -> Result<u64, Fault> {
    translate(save, linear, access, 40, ram)
}

fn fault(address: u64, error: u32) -> Result<u64, Fault> {
    Err(Fault::Page(PageFault { address, error }))
}

proptest! {
    #[test]
    fn each_size_of_page_in_each_mode(linear: u64, frame: u64, mode in 0usize..4, size in 0usize..3) {
        let mode = MODES[mode];
        let Some(&(levels, bits)) = sizes(mode).get(size) else { return Ok(()) };
        let linear = match mode {
            Mode::Legacy | Mode::Pae => linear & 0xffff_ffff,
            Mode::Long => (linear << 16) as i64 as u64 >> 16,
            Mode::Long57 => linear >> 7,
        };
        let large = bits > 12;
        let width = if mode == Mode::Legacy && !large { 32 } else { 40 };
        let frame = frame & ((1 << width) - 1) & !((1 << bits) - 1);
        let last = if mode == Mode::Legacy && large {
            frame & 0xffff_ffff | (frame >> 32) << 13
        } else {
            frame
        };
        let mut entries = uppers(mode, levels - 1);
        entries.push(last | FULL | if large { PS } else { 0 });
        let mut ram = Ram::default();
        map(&mut ram, mode, linear, &entries);
        let found = go(&save(mode), linear, Access::Write, &ram);
        prop_assert_eq!(found, Ok(frame | linear & ((1 << bits) - 1)));
        prop_assert_eq!(ram.reads.get() as usize, levels);
    }

    #[test]
    fn whatever_tables_hold_a_walk_ends(
        quads in proptest::collection::vec(any::<u64>(), 512),
        cr3: u64, linear: u64, cr0: u64, cr4: u64, efer: u64, cpl in 0u8..4, rflags: u64, bits: u8, access in 0usize..3
    ) {
        // One page, seen everywhere.
        struct Everywhere(Vec<u64>, Cell<u32>);
        impl Memory for Everywhere {
            fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NoMemory> {
                self.1.set(self.1.get() + 1);
                let bytes = self.0[(address >> 3 & 0x1ff) as usize].to_le_bytes();
                let from = (address & 7) as usize;
                into.copy_from_slice(&bytes[from..from + into.len()]);
                Ok(())
            }
        }
        let mut save = Save::zero();
        (save.cr0, save.cr3, save.cr4, save.efer, save.cpl, save.rflags) = (cr0, cr3, cr4, efer, cpl, rflags);
        let memory = Everywhere(quads, Cell::new(0));
        let access = [Access::Read, Access::Write, Access::Fetch][access];
        let found = translate(&save, linear, access, bits, &memory);
        prop_assert!(memory.1.get() <= 5);
        if cr0 >> 31 & 1 == 1 && let Ok(physical) = found {
            prop_assert!(physical >> 52 == 0);
        }
    }
}

#[test]
fn without_paging_an_address_is_itself() {
    let save = Save::zero();
    assert_eq!(go(&save, 0xfee0_0030, Access::Write, &Ram::default()), Ok(0xfee0_0030));
}

#[test]
fn what_isn_t_present_says_what_was_tried() {
    for mode in MODES {
        let levels = sizes(mode)[0].0;
        for missing in 0..levels {
            let mut entries = uppers(mode, levels);
            entries[missing] &= !P;
            let mut ram = Ram::default();
            map(&mut ram, mode, 0x1234, &entries);
            let mut save = save(mode);
            assert_eq!(go(&save, 0x1234, Access::Read, &ram), fault(0x1234, 0), "{mode:?} {missing}");
            assert_eq!(go(&save, 0x1234, Access::Write, &ram), fault(0x1234, 2));
            // Fetches are told of with NX, which 32-bit paging hasn't got, or SMEP.
            let fetch = if mode == Mode::Legacy { 0 } else { 0x10 };
            assert_eq!(go(&save, 0x1234, Access::Fetch, &ram), fault(0x1234, fetch));
            save.cpl = 3;
            assert_eq!(go(&save, 0x1234, Access::Write, &ram), fault(0x1234, 6));
            save.cr4 |= 1 << 20;
            assert_eq!(go(&save, 0x1234, Access::Fetch, &ram), fault(0x1234, 0x14));
        }
    }
}

/// Rights by 5.6, in every mode: `take` is what one level of the tables lacks.
#[test]
fn rights_are_those_of_all_levels_together() {
    for mode in MODES {
        let levels = sizes(mode)[0].0;
        let first = usize::from(mode == Mode::Pae);
        for level in first..levels {
            let with = |change: fn(u64) -> u64| {
                let mut entries = uppers(mode, levels);
                *entries.last_mut().unwrap() |= 0x7000;
                entries[level] = change(entries[level]);
                let mut ram = Ram::default();
                map(&mut ram, mode, 0x1000, &entries);
                ram
            };
            let mut save = save(mode);
            // Supervisor's page.
            let ram = with(|entry| entry & !US);
            assert_eq!(go(&save, 0x1008, Access::Write, &ram), Ok(0x7008));
            save.cpl = 3;
            assert_eq!(go(&save, 0x1008, Access::Read, &ram), fault(0x1008, 5), "{mode:?} {level}");
            assert_eq!(go(&save, 0x1008, Access::Write, &ram), fault(0x1008, 7));
            // Read-only.
            let ram = with(|entry| entry & !RW);
            assert_eq!(go(&save, 0x1008, Access::Read, &ram), Ok(0x7008));
            assert_eq!(go(&save, 0x1008, Access::Write, &ram), fault(0x1008, 7));
            save.cpl = 0;
            assert_eq!(go(&save, 0x1008, Access::Write, &ram), fault(0x1008, 3));
            save.cr0 &= !(1 << 16);
            assert_eq!(go(&save, 0x1008, Access::Write, &ram), Ok(0x7008), "without CR0.WP");
            save.cpl = 3;
            assert_eq!(go(&save, 0x1008, Access::Write, &ram), fault(0x1008, 7), "a user all the same");
            if mode != Mode::Legacy {
                let ram = with(|entry| entry | NX);
                assert_eq!(go(&save, 0x1008, Access::Read, &ram), Ok(0x7008));
                assert_eq!(go(&save, 0x1008, Access::Fetch, &ram), fault(0x1008, 0x15));
                save.efer &= !(1 << 11);
                assert_eq!(go(&save, 0x1008, Access::Read, &ram), fault(0x1008, 0xd), "reserved without NXE");
            }
        }
    }
}

#[test]
fn a_user_s_page_is_kept_from_the_kernel_by_smep_and_smap() {
    for mode in MODES {
        let mut entries = uppers(mode, sizes(mode)[0].0);
        *entries.last_mut().unwrap() |= 0x7000;
        let mut ram = Ram::default();
        map(&mut ram, mode, 0x1000, &entries);
        let mut save = save(mode);
        assert_eq!(go(&save, 0x1000, Access::Fetch, &ram), Ok(0x7000));
        save.cr4 |= 1 << 21;
        assert_eq!(go(&save, 0x1000, Access::Read, &ram), fault(0x1000, 1));
        assert_eq!(go(&save, 0x1000, Access::Write, &ram), fault(0x1000, 3));
        assert_eq!(go(&save, 0x1000, Access::Fetch, &ram), Ok(0x7000), "SMAP is about data");
        save.rflags |= 1 << 18;
        assert_eq!(go(&save, 0x1000, Access::Write, &ram), Ok(0x7000), "RFLAGS.AC opens it");
        save.cr4 |= 1 << 20;
        assert_eq!(go(&save, 0x1000, Access::Fetch, &ram), fault(0x1000, 0x11));
        save.rflags = 0;
        save.cpl = 3;
        for access in [Access::Read, Access::Write, Access::Fetch] {
            assert_eq!(go(&save, 0x1000, access, &ram), Ok(0x7000), "the user's own");
        }
    }
}

#[test]
fn reserved_bits_fault() {
    let with = |mode: Mode, level: usize, size: usize, bits: u64| {
        let mut entries = uppers(mode, size);
        if size < sizes(mode)[0].0 {
            *entries.last_mut().unwrap() |= PS;
        }
        entries[level] |= bits;
        let mut ram = Ram::default();
        map(&mut ram, mode, 0, &entries);
        go(&save(mode), 0, Access::Read, &ram)
    };
    // Above the physical address.
    for mode in [Mode::Pae, Mode::Long, Mode::Long57] {
        for level in 0..sizes(mode)[0].0 {
            assert_eq!(with(mode, level, sizes(mode)[0].0, 1 << 40), fault(0, 9), "{mode:?} {level}");
            assert_eq!(with(mode, level, sizes(mode)[0].0, 1 << 51), fault(0, 9));
        }
    }
    // Bits 62:52 are anybody's in long mode, and reserved in PAE's.
    assert_eq!(with(Mode::Long, 1, 4, 0x7ff << 52), Ok(0));
    assert_eq!(with(Mode::Pae, 1, 3, 1 << 52), fault(0, 9));
    assert_eq!(with(Mode::Pae, 2, 3, 1 << 62), fault(0, 9));
    // A PDPT entry of PAE's has hardly any bits.
    for bits in [RW, US, 1 << 5, 1 << 8, PS, NX] {
        assert_eq!(with(Mode::Pae, 0, 3, bits), fault(0, 9), "{bits:#x}");
    }
    assert_eq!(with(Mode::Pae, 0, 3, 1 << 3 | 1 << 4 | 7 << 9), Ok(0));
    // Below a large page's frame, but PAT's bit.
    assert_eq!(with(Mode::Long, 2, 3, 1 << 13), fault(0, 9));
    assert_eq!(with(Mode::Long, 2, 3, 1 << 20), fault(0, 9));
    assert_eq!(with(Mode::Long, 2, 3, 1 << 12), Ok(0));
    assert_eq!(with(Mode::Long, 1, 2, 1 << 29), fault(0, 9));
    assert_eq!(with(Mode::Pae, 1, 2, 1 << 13), fault(0, 9));
    // There is no page of 512 GiB.
    assert_eq!(with(Mode::Long, 0, 1, 0), fault(0, 9));
    assert_eq!(with(Mode::Long57, 1, 2, 0), fault(0, 9));
    assert_eq!(with(Mode::Long57, 0, 1, 0), fault(0, 9));
    assert_eq!(with(Mode::Long, 0, 4, PS), fault(0, 9));
    assert_eq!(with(Mode::Long57, 1, 5, PS), fault(0, 9));
    // 32-bit: bit 21 of a 4 MiB page, and frames above the physical address.
    assert_eq!(with(Mode::Legacy, 0, 1, 1 << 21), fault(0, 9));
    assert_eq!(with(Mode::Legacy, 0, 1, 1 << 20), Ok(1 << 39));
    let mut ram = Ram::default();
    map(&mut ram, Mode::Legacy, 0, &[FULL | PS | 1 << 20]);
    assert_eq!(translate(&save(Mode::Legacy), 0, Access::Read, 36, &ram), fault(0, 9));
}

#[test]
fn large_pages_of_32_bit_need_pse() {
    let mut ram = Ram::default();
    map(&mut ram, Mode::Legacy, 0, &[FULL | PS, 0x9000 | FULL]);
    let mut save = save(Mode::Legacy);
    save.cr4 = 0;
    assert_eq!(go(&save, 0x123, Access::Read, &ram), Ok(0x9123));
}

#[test]
fn outside_long_mode_linear_addresses_have_32_bits() {
    for mode in [Mode::Legacy, Mode::Pae] {
        let mut ram = Ram::default();
        let mut entries = uppers(mode, sizes(mode)[0].0);
        *entries.last_mut().unwrap() |= 0x7000;
        map(&mut ram, mode, 0xc000_1000, &entries);
        assert_eq!(go(&save(mode), 0xf_c000_1004, Access::Read, &ram), Ok(0x7004), "{mode:?}");
        assert_eq!(go(&save(mode), 0xf_c000_2004, Access::Read, &ram), fault(0xc000_2004, 0));
    }
}

#[test]
fn tables_outside_memory_are_told_apart_from_faults() {
    for mode in MODES {
        let mut ram = Ram { end: Some(CR3 + 0x1000), ..Ram::default() };
        map(&mut ram, mode, 0x5000, &uppers(mode, sizes(mode)[0].0));
        let found = go(&save(mode), 0x5000, Access::Read, &ram);
        assert!(matches!(found, Err(Fault::Memory(NoMemory(at))) if at > CR3 + 0xfff), "{mode:?} {found:?}");
    }
}

#[test]
fn code_is_as_cs_says() {
    let mut save = Save::zero();
    assert_eq!(code(&save), Code::Bits16);
    save.cs.attributes = Attributes::CODE32;
    assert_eq!(code(&save), Code::Bits32);
    // L counts in long mode only.
    save.cs.attributes = Attributes::CODE64;
    assert_eq!(code(&save), Code::Bits16);
    save.efer = EFER_LMA;
    assert_eq!(code(&save), Code::Bits64);
    save.cs.attributes = Attributes::CODE32;
    assert_eq!(code(&save), Code::Bits32);
}

fn segment_of(base: u64, limit: u32, attributes: u16) -> Segment {
    Segment { selector: 8, attributes: Attributes(attributes), limit, base }
}

#[test]
fn segments_bound_operands() {
    let mut save = Save::zero();
    save.cr0 = 1;
    save.ds = segment_of(0x1000, 0xfff, 0x93);
    let ds = |save: &Save, offset, bytes, access| linear(save, Name::Ds, offset, bytes, access);
    assert_eq!(ds(&save, 0xffc, 4, Access::Write), Ok(0x1ffc));
    assert_eq!(ds(&save, 0xffd, 4, Access::Write), Err(Exception::GP));
    assert_eq!(ds(&save, 0x1_0000_0010, 4, Access::Read), Ok(0x1010), "offsets have 32 bits");
    assert_eq!(ds(&save, 0xffff_ffff, 4, Access::Read), Err(Exception::GP));
    // Read-only data; execute-only code; readable code.
    save.ds.attributes = Attributes(0x91);
    assert_eq!(ds(&save, 0, 4, Access::Read), Ok(0x1000));
    assert_eq!(ds(&save, 0, 4, Access::Write), Err(Exception::GP));
    save.ds.attributes = Attributes(0x99);
    assert_eq!(ds(&save, 0, 4, Access::Read), Err(Exception::GP));
    save.ds.attributes = Attributes(0x9b);
    assert_eq!(ds(&save, 0, 4, Access::Read), Ok(0x1000));
    assert_eq!(ds(&save, 0, 4, Access::Write), Err(Exception::GP));
    // Not present, and a system segment.
    for attributes in [0x13, 0x83] {
        save.ds.attributes = Attributes(attributes);
        assert_eq!(ds(&save, 0, 4, Access::Read), Err(Exception::GP), "{attributes:#x}");
    }
    // Expand-down: above the limit, up to 64 KiB or 4 GiB.
    save.ds = segment_of(0, 0xfff, 0x97);
    assert_eq!(ds(&save, 0xfff, 1, Access::Read), Err(Exception::GP));
    assert_eq!(ds(&save, 0x1000, 4, Access::Read), Ok(0x1000));
    assert_eq!(ds(&save, 0xfffd, 4, Access::Read), Err(Exception::GP));
    save.ds.attributes.0 |= 1 << 10;
    assert_eq!(ds(&save, 0xffff_fffc, 4, Access::Read), Ok(0xffff_fffc));
    assert_eq!(ds(&save, 0xffff_fffd, 4, Access::Read), Err(Exception::GP));
    // The stack's own exception.
    save.ss = segment_of(0, 0xfff, 0x93);
    assert_eq!(linear(&save, Name::Ss, 0x1000, 1, Access::Read), Err(Exception::Stack(0)));
    // Linear addresses have 32 bits.
    save.es = segment_of(0xffff_f000, 0xffff_ffff, 0xc93);
    assert_eq!(linear(&save, Name::Es, 0x2000, 4, Access::Read), Ok(0x1000));
}

#[test]
fn real_mode_has_limits_and_no_rights() {
    let mut save = Save::zero();
    save.cs = segment_of(0xf_0000, 0xffff, 0x9b);
    assert_eq!(linear(&save, Name::Cs, 0x10, 2, Access::Write), Ok(0xf_0010));
    assert_eq!(linear(&save, Name::Cs, 0xffff, 2, Access::Read), Err(Exception::GP));
    // So has virtual-8086 mode.
    save.cr0 = 1;
    assert_eq!(linear(&save, Name::Cs, 0x10, 2, Access::Write), Err(Exception::GP));
    save.rflags = 1 << 17;
    assert_eq!(linear(&save, Name::Cs, 0x10, 2, Access::Write), Ok(0xf_0010));
}

#[test]
fn long_mode_has_bases_of_two_segments_and_canonical_addresses() {
    let mut save = save(Mode::Long);
    save.ds = segment_of(0x1000, 0, 0);
    save.gs = segment_of(0xffff_8880_0000_0000, 0, 0);
    save.fs = segment_of(0x7000, 0, 0);
    let at = |save: &Save, name, offset| linear(save, name, offset, 8, Access::Write);
    assert_eq!(at(&save, Name::Ds, 0x10), Ok(0x10));
    assert_eq!(at(&save, Name::Gs, 0x10), Ok(0xffff_8880_0000_0010));
    assert_eq!(at(&save, Name::Fs, 0x10), Ok(0x7010));
    assert_eq!(at(&save, Name::Ds, 0x8000_0000_0000), Err(Exception::GP));
    assert_eq!(at(&save, Name::Ds, 0x7fff_ffff_fff8), Ok(0x7fff_ffff_fff8));
    assert_eq!(at(&save, Name::Ds, 0x7fff_ffff_fff9), Err(Exception::GP));
    assert_eq!(at(&save, Name::Ss, 0x8000_0000_0000), Err(Exception::Stack(0)));
    assert_eq!(at(&save, Name::Ds, 0xffff_ffff_ffff_fff8), Ok(0xffff_ffff_ffff_fff8));
    assert_eq!(at(&save, Name::Ds, 0xffff_ffff_ffff_fff9), Err(Exception::GP));
    save.cr4 |= 1 << 12;
    assert_eq!(at(&save, Name::Ds, 0x8000_0000_0000), Ok(0x8000_0000_0000));
    // Code of 32 bits has segments again.
    save.cs.attributes = Attributes::CODE32;
    save.ds = segment_of(0x1000, 0xffff_ffff, 0xc93);
    assert_eq!(at(&save, Name::Ds, 0x10), Ok(0x1010));
}
