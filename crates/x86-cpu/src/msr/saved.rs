//! MSRs that the save area holds.

use crate::vmcb::Save;

fn field(save: &mut Save, msr: u32) -> Option<(&mut u64, Canonical)> {
    use Canonical::{Any, Must};
    Some(match msr {
        0x174 => (&mut save.sysenter_cs, Any),
        0x175 => (&mut save.sysenter_esp, Must),
        0x176 => (&mut save.sysenter_eip, Must),
        0xc000_0081 => (&mut save.star, Any),
        0xc000_0082 => (&mut save.lstar, Must),
        0xc000_0083 => (&mut save.cstar, Must),
        0xc000_0084 => (&mut save.sfmask, Any),
        0xc000_0100 => (&mut save.fs.base, Must),
        0xc000_0101 => (&mut save.gs.base, Must),
        0xc000_0102 => (&mut save.kernel_gs_base, Must),
        _ => return None,
    })
}

/// Whether a value has to be an address that there is.
#[derive(PartialEq, Eq)]
enum Canonical {
    Must,
    Any,
}

/// Its value.
pub(super) fn get(save: &Save, msr: u32) -> Option<u64> {
    Some(match msr {
        0x174 => save.sysenter_cs,
        0x175 => save.sysenter_esp,
        0x176 => save.sysenter_eip,
        0xc000_0081 => save.star,
        0xc000_0082 => save.lstar,
        0xc000_0083 => save.cstar,
        0xc000_0084 => save.sfmask,
        0xc000_0100 => save.fs.base,
        0xc000_0101 => save.gs.base,
        0xc000_0102 => save.kernel_gs_base,
        _ => return None,
    })
}

/// Sets it; no if it is none of them, or the value is none that it may have.
pub(super) fn set(save: &mut Save, msr: u32, value: u64) -> bool {
    let is_canonical = (value << 16) as i64 >> 16 == value as i64;
    match field(save, msr) {
        Some((field, canonical)) if canonical == Canonical::Any || is_canonical => {
            *field = value;
            true
        }
        _ => false,
    }
}
