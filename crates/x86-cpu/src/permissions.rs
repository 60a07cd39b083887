//! Which ports and MSRs a guest reaches without an exit (AMD64 APM 2, 15.10 and 15.11): a bit that is set is an exit.

use core::sync::atomic::{AtomicU8, Ordering};

/// The I/O permission map: a bit per port, and those that an access at the last ports reaches beyond them. 12 KiB. One serves all of a guest's
/// CPUs, which look into it at each access: a port that opens is open at once. One that closes is closed to who enters from then on, and to who is
/// inside once he has been brought out.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct IoPermissions([AtomicU8; 0x3000]);

impl IoPermissions {
    /// No port is open.
    pub const fn closed() -> Self {
        Self([const { AtomicU8::new(0xff) }; 0x3000])
    }

    /// The byte of a port, and its bit there.
    fn bit(&self, port: u16) -> (Option<&AtomicU8>, u8) {
        (self.0.get(usize::from(port) / 8), 1 << (port % 8))
    }

    /// The guest may access the port.
    pub fn open_port(&self, port: u16) {
        if let (Some(byte), bit) = self.bit(port) {
            byte.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// It may no longer.
    pub fn close_port(&self, port: u16) {
        if let (Some(byte), bit) = self.bit(port) {
            byte.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// It may access none any longer.
    pub fn close_all(&self) {
        self.0.iter().for_each(|byte| byte.store(0xff, Ordering::SeqCst));
    }

    /// Whether an access of so many bytes at the port is the guest's own: all of its ports are open.
    pub fn is_open(&self, port: u16, bytes: u8) -> bool {
        (usize::from(port)..usize::from(port) + usize::from(bytes)).all(|port| {
            self.0.get(port / 8).is_some_and(|byte| byte.load(Ordering::SeqCst) & 1 << (port % 8) == 0)
        })
    }
}

/// The MSR permission map: two bits per MSR, one for reads and one for writes. 8 KiB, of which the last quarter is reserved. MSRs that it
/// doesn't cover always exit.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct MsrPermissions([u8; 0x2000]);

/// An MSR that the permission map doesn't cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MSR {0:#x} isn't in the permission map")]
pub struct NotCovered(pub u32);

impl MsrPermissions {
    /// No MSR is open.
    pub const fn closed() -> Self {
        Self([0xff; 0x2000])
    }

    /// The bit of reads of an MSR; that of writes is the next.
    const fn bit(msr: u32) -> Result<usize, NotCovered> {
        let first = match msr & !0x1fff {
            0 => 0,
            0xc000_0000 => 0x800,
            0xc001_0000 => 0x1000,
            _ => return Err(NotCovered(msr)),
        };
        Ok(first * 8 + (msr & 0x1fff) as usize * 2)
    }

    const fn clear(&mut self, bit: usize) {
        self.0[bit / 8] &= !(1 << (bit % 8));
    }

    /// The guest may read the MSR.
    ///
    /// # Errors
    ///
    /// The map doesn't cover it.
    pub const fn open_read(&mut self, msr: u32) -> Result<(), NotCovered> {
        match Self::bit(msr) {
            Ok(bit) => self.clear(bit),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The guest may write the MSR.
    ///
    /// # Errors
    ///
    /// The map doesn't cover it.
    pub const fn open_write(&mut self, msr: u32) -> Result<(), NotCovered> {
        match Self::bit(msr) {
            Ok(bit) => self.clear(bit + 1),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The guest may no longer write the MSR.
    ///
    /// # Errors
    ///
    /// The map doesn't cover it.
    pub const fn close_write(&mut self, msr: u32) -> Result<(), NotCovered> {
        match Self::bit(msr) {
            Ok(bit) => self.0[(bit + 1) / 8] |= 1 << ((bit + 1) % 8),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the guest may read it.
    pub fn may_read(&self, msr: u32) -> bool {
        Self::bit(msr).is_ok_and(|bit| self.0[bit / 8] & 1 << (bit % 8) == 0)
    }

    /// Whether the guest may write it.
    pub fn may_write(&self, msr: u32) -> bool {
        Self::bit(msr).is_ok_and(|bit| self.0[bit / 8] & 2 << (bit % 8) == 0)
    }
}

const _: () = {
    assert!(size_of::<IoPermissions>() == 0x3000);
    assert!(size_of::<MsrPermissions>() == 0x2000);
};

#[cfg(test)]
mod tests;
