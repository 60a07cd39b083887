//! What the program was started with.

use core::ffi::{CStr, c_char};

/// The arguments and the environment, as the kernel puts them on the stack.
pub struct Arguments {
    count: usize,
    list: *const *const c_char,
}

impl Arguments {
    /// # Safety
    ///
    /// The list must have so many pointers to terminated strings, then a null pointer, then the environment, for as long as the program
    /// runs.
    pub unsafe fn new(count: usize, list: *const *const c_char) -> Self {
        Self { count, list }
    }

    /// One of them; the program's own name is the first.
    pub fn get(&self, index: usize) -> Option<&CStr> {
        if index >= self.count {
            return None;
        }
        // SAFETY: there are `count` pointers, each to a terminated string (`new`).
        unsafe { Some(CStr::from_ptr(*self.list.add(index))) }
    }

    /// The list from one on, as `execve` wants it, ended by a null pointer. Past its end it is empty.
    pub fn list_from(&self, index: usize) -> *const *const c_char {
        // SAFETY: there are `count` pointers and a null pointer (`new`).
        unsafe { self.list.add(if index < self.count { index } else { self.count }) }
    }

    /// The environment, which follows the list's end.
    pub fn environment(&self) -> *const *const c_char {
        // SAFETY: the environment is behind `count` arguments and one null pointer (`new`).
        unsafe { self.list.add(self.count + 1) }
    }
}
