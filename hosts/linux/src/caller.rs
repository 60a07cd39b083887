//! How a vCPU's thread is called: out of its guest by a signal, and out of its sleep.
//!
//! A signal that comes just before the thread enters its guest is over by then, and the guest wouldn't be left for it. So a call stays one until the
//! thread has heard it, and whoever looks after the VMs repeats the signal meanwhile ([`Caller::repeat`]).

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// How long a call may be unheard before it is repeated.
pub const REPEAT: Duration = Duration::from_millis(2);

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Has the signal do nothing but interrupt.
///
/// # Errors
///
/// The kernel's.
pub fn prepare() -> Result<(), std::io::Error> {
    register_signal_handler(SIGRTMIN(), nothing)
        .map_err(|error| std::io::Error::from_raw_os_error(error.errno()))
}

/// Calls a vCPU's thread.
#[derive(Default)]
pub struct Caller {
    called: AtomicBool,
    /// It is to say whether its vCPU rests.
    asked: AtomicBool,
    /// How often it has said so, in a row.
    rests: AtomicU8,
    thread: Mutex<Option<JoinHandle<()>>>,
    sleep: Mutex<()>,
    bell: Condvar,
}

impl Caller {
    /// The thread is this one.
    pub fn is(&self, thread: JoinHandle<()>) {
        *crate::lock(&self.thread) = Some(thread);
    }

    /// Calls it.
    pub fn call(&self) {
        self.called.store(true, Ordering::SeqCst);
        // Whoever is about to wait has the lock from its look at the call until it waits.
        drop(crate::lock(&self.sleep));
        self.bell.notify_all();
        self.signal();
    }

    fn signal(&self) {
        if let Some(thread) = &*crate::lock(&self.thread) {
            // It has ended, or can be called; there is nothing else.
            let _ = thread.kill(SIGRTMIN());
        }
    }

    /// Repeats a call that wasn't heard. Whether there is one.
    pub fn repeat(&self) -> bool {
        let called = self.has_called();
        if called {
            self.signal();
        }
        called && crate::lock(&self.thread).is_some()
    }

    /// Waits for the thread to end. By the one who looks after the VMs, when the thread has said that it has left.
    pub fn join(&self) {
        let thread = crate::lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        self.called.store(false, Ordering::SeqCst);
        self.asked.store(false, Ordering::SeqCst);
        self.moves();
    }

    /// Asks it whether its vCPU rests: an answer comes, or, where the signal came just before it entered its guest, none before it is asked again.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.signal();
    }

    /// How often in a row it has said that its vCPU rests.
    pub fn rests(&self) -> u8 {
        self.rests.load(Ordering::Relaxed)
    }

    /// By the thread: whether it is to say how its vCPU is.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// By the thread: says it.
    pub fn answer(&self, rests: bool) {
        let times = if rests { self.rests().saturating_add(1) } else { 0 };
        self.rests.store(times, Ordering::Relaxed);
        self.asked.store(false, Ordering::SeqCst);
    }

    /// By the thread: its vCPU has done something.
    pub fn moves(&self) {
        self.rests.store(0, Ordering::Relaxed);
    }

    /// By the thread: whether it was called.
    pub fn has_called(&self) -> bool {
        self.called.load(Ordering::SeqCst)
    }

    /// By the thread: it has heard.
    pub fn heard(&self) {
        self.called.store(false, Ordering::SeqCst);
    }

    /// By the thread: waits until it is called. It has heard that then.
    pub fn wait(&self) {
        let mut sleep = crate::lock(&self.sleep);
        while !self.has_called() {
            sleep = match self.bell.wait(sleep) {
                Ok(sleep) => sleep,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
        drop(sleep);
        self.heard();
    }
}

#[cfg(test)]
mod tests;
