//! A guest's RAM as its vCPU's CPU sees it for longer than one reading: windows that stay open on the blocks in which the guest has its page tables
//! and the instructions that it is left at. They are closed when the vCPU leaves the CPU.

use core::cell::Cell;

use axvm_addr::Gpa;
use axvm_x86_cpu::known::Sight;
use axvm_x86_cpu::walk::{Memory, NoMemory};

use super::windows::{self, KEPT};
use crate::memory::GuestRam;
use crate::window::Window;

/// What a window shows.
#[derive(Clone, Copy, Default)]
struct Seen {
    first: u64,
    bytes: u64,
    /// Where `first` is seen.
    at: u64,
}

/// The RAM of the guest whose vCPU has the CPU.
pub struct Sights<'a> {
    ram: &'a GuestRam,
    seen: [Cell<Seen>; KEPT],
    windows: [Cell<Option<Window>>; KEPT],
    count: Cell<usize>,
    /// Windows were closed: what was seen through them isn't any more.
    has_lost: Cell<bool>,
}

impl<'a> Sights<'a> {
    /// With no window open. It stays on the calling CPU.
    pub fn new(ram: &'a GuestRam) -> Self {
        Self {
            ram,
            seen: Default::default(),
            windows: Default::default(),
            count: Cell::new(0),
            has_lost: Cell::new(false),
        }
    }

    /// Whether places that were seen since this was asked last aren't seen any more.
    pub fn take_lost(&self) -> bool {
        self.has_lost.replace(false)
    }

    /// The block around an address, which is seen from now on.
    fn find(&self, address: u64) -> Option<Seen> {
        let open = self.seen.iter().take(self.count.get()).map(Cell::get);
        open.into_iter()
            .find(|seen| address.wrapping_sub(seen.first) < seen.bytes)
            .or_else(|| self.show(address))
    }

    #[inline(never)]
    fn show(&self, address: u64) -> Option<Seen> {
        let (first, bytes, start) = self.ram.around(Gpa(address))?;
        if self.count.get() == KEPT {
            // All begin anew, rather than that one of them is watched.
            self.windows.iter().for_each(|window| drop(window.take()));
            self.count.set(0);
            self.has_lost.set(true);
        }
        let number = self.count.get();
        // SAFETY: the block is this guest's, as all of a `GuestRam` is, and stays so: windows are closed with this, on this CPU.
        let window = unsafe { windows::keep(number, start) }?;
        let seen = Seen { first: first.0, bytes, at: window.at() };
        self.seen.get(number)?.set(seen);
        self.windows.get(number)?.set(Some(window));
        self.count.set(number + 1);
        Some(seen)
    }

    /// Where so many bytes are seen.
    fn at(&self, address: u64, bytes: u64) -> Option<u64> {
        let seen = self.find(address)?;
        let offset = address - seen.first;
        (bytes <= seen.bytes - offset).then_some(seen.at + offset)
    }
}

impl Memory for Sights<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NoMemory> {
        let at = self.at(address, into.len() as u64).ok_or(NoMemory(address))?;
        // SAFETY: so much from there on is guest RAM that a window shows, apart from anything of Rust's. It may change meanwhile: whatever
        // bytes come are as good as others.
        unsafe {
            match <&mut [u8; 8]>::try_from(&mut *into) {
                // An entry of a table, as a whole.
                Ok(word) => *word = look::<0>(at).to_le_bytes(),
                Err(_) => core::ptr::copy(at as *const u8, into.as_mut_ptr(), into.len()),
            }
        }
        Ok(())
    }
}

impl Sight for Sights<'_> {
    type Place = u64;

    fn place(&self, address: u64, bytes: u64) -> Option<u64> {
        self.at(address, bytes)
    }

    #[inline(always)]
    fn look<const FURTHER: usize>(&self, place: u64) -> u64 {
        // SAFETY: what was found out by a place is forgotten where its window is closed (`take_lost`).
        unsafe { look::<FURTHER>(place) }
    }
}

/// Eight bytes of a guest's RAM, so many bytes further on, which may change at any time and needn't be aligned.
///
/// # Safety
///
/// A window must show them.
#[inline(always)]
unsafe fn look<const FURTHER: usize>(at: u64) -> u64 {
    let value;
    // SAFETY: by the caller's promise; a load.
    unsafe {
        core::arch::asm!(
            "mov {}, [{} + {further}]", out(reg) value, in(reg) at, further = const FURTHER,
            options(nostack, readonly, preserves_flags)
        );
    }
    value
}
