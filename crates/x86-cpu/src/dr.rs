//! Debug registers (AMD64 APM 2, 13.1.1). VMRUN switches DR6 and DR7 only, so that the guest's DR0 to DR3 are values until it has use for them.

use crate::event::Exception;
use crate::fetch::alias;
use crate::vmcb::Save;

/// Local and global enable bits of the four breakpoints.
const ENABLED: u64 = 0xff;
/// Bits of DR7 that can be written: enable bits, LE, GE, GD, and the conditions.
const DR7_DEFINED: u64 = 0xffff_23ff;
/// Bits of DR6 that can be written: B0 to B3, BD, BS, BT.
const DR6_DEFINED: u64 = 0xe00f;

/// A guest's breakpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakpoints {
    addresses: [u64; 4],
}

impl Breakpoints {
    /// MOV from a debug register.
    pub fn read(&self, save: &Save, number: u8) -> u64 {
        match alias(number) {
            6 => save.dr6,
            7 => save.dr7,
            number => self.addresses.get(usize::from(number)).copied().unwrap_or(0),
        }
    }

    /// MOV to a debug register.
    ///
    /// # Errors
    ///
    /// #GP: bits 63:32 of DR6 or DR7; #UD: no register of this number.
    pub fn write(&mut self, save: &mut Save, number: u8, value: u64) -> Result<(), Exception> {
        match alias(number) {
            6 | 7 if value >> 32 != 0 => return Err(Exception::GP),
            6 => save.dr6 = value & DR6_DEFINED | 0xffff_0ff0,
            7 => save.dr7 = value & DR7_DEFINED | 0x400,
            number => {
                *self.addresses.get_mut(usize::from(number)).ok_or(Exception::Undefined)? = value;
            }
        }
        Ok(())
    }

    /// What DR0 to DR3 have to be while the guest runs, if it matters: DR7 enables one.
    pub fn armed(&self, save: &Save) -> Option<[u64; 4]> {
        (save.dr7 & ENABLED != 0).then_some(self.addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_stays_as_it_is() {
        let (mut save, mut breakpoints) = (Save::zero(), Breakpoints::default());
        breakpoints.write(&mut save, 7, 0xffff_ffff).unwrap();
        assert_eq!(save.dr7, 0xffff_27ff);
        breakpoints.write(&mut save, 6, 0xffff_ffff).unwrap();
        assert_eq!(save.dr6, 0xffff_efff);
        assert_eq!(breakpoints.write(&mut save, 7, 1 << 32), Err(Exception::GP));
        assert_eq!(breakpoints.write(&mut save, 6, 1 << 63), Err(Exception::GP));
        assert_eq!(breakpoints.write(&mut save, 8, 0), Err(Exception::Undefined));
        assert_eq!((save.dr6, save.dr7), (0xffff_efff, 0xffff_27ff));
    }

    #[test]
    fn dr4_and_dr5_are_dr6_and_dr7() {
        let (mut save, mut breakpoints) = (Save::zero(), Breakpoints::default());
        breakpoints.write(&mut save, 5, 0x155).unwrap();
        assert_eq!((save.dr7, breakpoints.read(&save, 5), breakpoints.read(&save, 7)), (0x555, 0x555, 0x555));
        breakpoints.write(&mut save, 4, 1).unwrap();
        assert_eq!(breakpoints.read(&save, 4), breakpoints.read(&save, 6));
    }

    #[test]
    fn breakpoints_matter_once_dr7_enables_one() {
        let (mut save, mut breakpoints) = (Save::zero(), Breakpoints::default());
        breakpoints.write(&mut save, 2, 0xffff_8000_dead_0000).unwrap();
        assert_eq!(breakpoints.armed(&save), None);
        breakpoints.write(&mut save, 7, 0x700).unwrap();
        assert_eq!(breakpoints.armed(&save), None);
        for bit in 0..8 {
            breakpoints.write(&mut save, 7, 1 << bit).unwrap();
            assert_eq!(breakpoints.armed(&save), Some([0, 0, 0xffff_8000_dead_0000, 0]));
        }
        assert_eq!(breakpoints.read(&save, 2), 0xffff_8000_dead_0000);
    }
}
