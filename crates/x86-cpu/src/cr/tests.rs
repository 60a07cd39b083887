//! Writes of control registers.

use super::*;
use crate::control::{Interrupts, Own, area};
use crate::features::{Features, Leaf};
use crate::start::{Gdt, Start};
use crate::vmcb::{Attributes, Vmcb};
use proptest::prelude::*;

const GP: Exception = Exception::GP;

const ALLOWED: Allowed =
    Allowed { cr4: 0x7ff | 1 << 18 | 1 << 20, efer: 1 | EFER_LME | EFER_NXE, xcr0: 0b111 };

fn real() -> Save {
    Start::Reset.state(0).save
}

fn long() -> Save {
    Start::Linux64 { entry: 0x1000, boot_params: 0, cr3: 0x8000, gdt: Gdt { base: 0, limit: 31 } }
        .state(0)
        .save
}

#[test]
fn cr0_refuses_what_the_manual_does() {
    for value in [1 << 32, 1 << 63, CR0_PG, CR0_PE | CR0_NW] {
        let mut save = real();
        assert_eq!(write_cr0(&mut save, value), Err(GP), "{value:#x}");
        assert_eq!(save, real(), "nothing has changed");
    }
    // Paging off in 64-bit code; on in 64-bit code, or without PAE, where LME is set.
    let mut save = long();
    assert_eq!(write_cr0(&mut save, CR0_PE), Err(GP));
    save.cs.attributes = Attributes::CODE32;
    assert_eq!(write_cr0(&mut save, CR0_PE), Ok(Flush::Guest));
    assert_eq!(save.efer & (EFER_LMA | EFER_LME), EFER_LME, "LMA goes with paging");
    save.cs.attributes = Attributes::CODE64;
    assert_eq!(write_cr0(&mut save, CR0_PE | CR0_PG), Err(GP));
    save.cs.attributes = Attributes::CODE32;
    save.cr4 &= !CR4_PAE;
    assert_eq!(write_cr0(&mut save, CR0_PE | CR0_PG), Err(GP));
    save.cr4 |= CR4_PAE;
    assert_eq!(write_cr0(&mut save, CR0_PE | CR0_PG), Ok(Flush::Guest));
    assert_eq!(save.efer & EFER_LMA, EFER_LMA, "and comes with it");
}

#[test]
fn paging_without_lme_is_no_long_mode() {
    let mut save = real();
    assert_eq!(write_cr0(&mut save, CR0_PE | CR0_PG), Ok(Flush::Guest));
    assert_eq!((save.efer, save.cr0), (EFER_SVME, CR0_PE | CR0_PG | CR0_ET));
}

#[test]
fn caches_stay_on_and_reserved_bits_don_t_count() {
    let mut save = real();
    assert_eq!(
        write_cr0(&mut save, CR0_CD | CR0_NW | 0x1ff8_ffc0 & !CR0_WP & !(1 << 18) | CR0_TS),
        Ok(Flush::No)
    );
    assert_eq!(save.cr0, CR0_ET | CR0_TS);
    clear_task_switched(&mut save);
    assert_eq!(save.cr0, CR0_ET);
    assert_eq!(write_cr0(&mut save, CR0_WP), Ok(Flush::Guest));
}

#[test]
fn lmsw_sets_four_bits_and_clears_three() {
    let mut save = real();
    assert_eq!(load_status(&mut save, 0xffff), Ok(Flush::Guest));
    assert_eq!(save.cr0, CR0_ET | 0xf);
    assert_eq!(load_status(&mut save, 0), Ok(Flush::No));
    assert_eq!(save.cr0, CR0_ET | CR0_PE, "protection can't be left so");
}

#[test]
fn cr4_has_what_cpuid_shows_and_mce_always() {
    let (mut save, mut shown) = (real(), Shown::default());
    assert_eq!(read_cr4(&save, &shown), 0);
    for bit in 0..64 {
        let (mut save, mut shown) = (save, shown);
        let found = write_cr4(&mut save, &mut shown, 1 << bit, &ALLOWED);
        if ALLOWED.cr4 & 1 << bit != 0 {
            assert!(found.is_ok(), "{bit}");
            assert_eq!(read_cr4(&save, &shown), 1 << bit);
            assert_eq!(save.cr4, 1 << bit | CR4_MCE);
        } else {
            assert_eq!((found, save.cr4), (Err(GP), CR4_MCE), "{bit}");
        }
    }
    assert_eq!(write_cr4(&mut save, &mut shown, CR4_PAE | CR4_MCE, &ALLOWED), Ok(Flush::Guest));
    assert_eq!(write_cr4(&mut save, &mut shown, CR4_PAE, &ALLOWED), Ok(Flush::No));
    assert_eq!((save.cr4, read_cr4(&save, &shown)), (CR4_PAE | CR4_MCE, CR4_PAE));
    let mut save = long();
    assert_eq!(write_cr4(&mut save, &mut shown, 0, &ALLOWED), Err(GP), "PAE is needed in long mode");
    for bit in [4, 5, 7, 20] {
        let mut save = real();
        assert_eq!(write_cr4(&mut save, &mut shown, 1 << bit, &ALLOWED), Ok(Flush::Guest), "{bit}");
    }
}

#[test]
fn efer_has_what_cpuid_shows_and_svme_never() {
    for bit in 0..64 {
        let mut save = real();
        let found = write_efer(&mut save, 1 << bit, &ALLOWED);
        match 1 << bit {
            EFER_LMA => {
                assert_eq!((found, read_efer(&save)), (Ok(Flush::No), 0), "it is what CR0.PG makes it")
            }
            allowed if ALLOWED.efer & allowed != 0 => {
                assert!(found.is_ok());
                assert_eq!((read_efer(&save), save.efer), (allowed, allowed | EFER_SVME));
            }
            _ => assert_eq!((found, save.efer), (Err(GP), EFER_SVME), "{bit}"),
        }
    }
    let mut save = long();
    let as_it_is = read_efer(&save);
    assert_eq!(write_efer(&mut save, as_it_is, &ALLOWED), Ok(Flush::No));
    assert_eq!(write_efer(&mut save, as_it_is | EFER_NXE, &ALLOWED), Ok(Flush::Guest));
    assert_eq!(write_efer(&mut save, 0, &ALLOWED), Err(GP), "LME stays while paging is on");
    assert_eq!(read_efer(&save), as_it_is | EFER_NXE);
}

#[test]
fn xcr0_enables_what_is_allowed_and_fits_together() {
    let allowed = Allowed { xcr0: 0b1110_0111, ..ALLOWED };
    let mut save = real();
    for (value, holds) in [
        (1, true),
        (3, true),
        (7, true),
        (0xe7, true),
        (0, false),
        (2, false),
        (5, false),
        (0x27, false),
        (0xe3, false),
        (0x47, false),
        (0x207, false),
        (1 << 63 | 1, false),
        (0x1f, false),
    ] {
        assert_eq!(xcr0(&save, 0, value, &allowed), if holds { Ok(value) } else { Err(GP) }, "{value:#x}");
    }
    assert_eq!(xcr0(&save, 0, 0xe7, &ALLOWED), Err(GP));
    assert_eq!(xcr0(&save, 1, 1, &allowed), Err(GP));
    save.cpl = 3;
    assert_eq!(xcr0(&save, 0, 1, &allowed), Err(GP));
    assert_eq!(xcr0(&real(), 0, 1, &Allowed { xcr0: 0, ..ALLOWED }), Err(GP), "without XSAVE");
}

#[test]
fn what_is_allowed_is_what_is_shown() {
    let nothing = Allowed::by(|_, _| Leaf::default());
    assert_eq!(nothing, Allowed { cr4: 0x7ff, efer: EFER_LME, xcr0: 0 });
    let all = Allowed::by(|leaf, _| match leaf {
        0xd => Leaf { eax: 7, edx: 1, ..Leaf::default() },
        _ => Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX },
    });
    // Neither LA57, PCIDE, PKE, CET nor SMXE, VMXE; neither SVME, LMSLE, TCE, MCOMMIT nor automatic IBRS.
    assert_eq!(all.cr4, 0x7ff | 1 << 11 | 1 << 16 | 1 << 18 | 1 << 20 | 1 << 21);
    assert_eq!(all.efer, 1 | 1 << 8 | 1 << 11 | 1 << 14);
    assert_eq!(all.xcr0, 1 << 32 | 7);
}

proptest! {
    #[test]
    fn no_writes_make_a_state_that_vmrun_refuses(
        writes in proptest::collection::vec((0u8..5, any::<u64>(), any::<bool>()), 0..40),
        attributes in proptest::sample::select(&[Attributes::CODE16, Attributes::CODE32, Attributes::CODE64][..])
    ) {
        let own = Own { io_permissions: 0, msr_permissions: 0, nested_cr3: 0, asid: 1, tsc_offset: 0 };
        let mut vmcb = Vmcb::zero();
        vmcb.control = area(Interrupts::Emulated, &Features::default(), &own);
        vmcb.save = real();
        let mut shown = Shown::default();
        for (register, value, is_likely) in writes {
            // Bits that mean something, so that writes get through.
            let value = if is_likely { value & (CR0_DEFINED | 0x7ff | EFER_LME | EFER_NXE) } else { value };
            let save = &mut vmcb.save;
            let before = *save;
            let done = match register {
                0 => write_cr0(save, value & 0xffff_ffff),
                1 => write_cr4(save, &mut shown, value & ALLOWED.cr4, &ALLOWED),
                2 => write_efer(save, value & ALLOWED.efer, &ALLOWED),
                3 => load_status(save, value as u16),
                // A far jump, which the processor makes: 64-bit code in long mode only.
                _ => {
                    if attributes != Attributes::CODE64 || save.efer & EFER_LMA != 0 {
                        save.cs.attributes = attributes;
                    }
                    continue;
                }
            };
            if done.is_err() {
                prop_assert_eq!(&vmcb.save, &before);
            }
            prop_assert_eq!(vmcb.check(40), Ok(()));
            let save = &vmcb.save;
            let long = save.cr0 & CR0_PG != 0 && save.efer & EFER_LME != 0;
            prop_assert_eq!(save.efer & EFER_LMA != 0, long);
            prop_assert_eq!(save.cr0 & (CR0_CD | CR0_NW), 0);
            prop_assert_eq!(save.cr4 & CR4_MCE, CR4_MCE);
        }
    }
}
