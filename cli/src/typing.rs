//! What is typed, on its way to the machine: by a user at the keys, or by a program.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use axvm_system::wire::{Key, Keys};

/// Pieces of what is typed that wait for a machine that doesn't read. At a terminal more than anybody pastes: whoever sits there must
/// be heard, if only to be obeyed when he ends the run. A pipe just has to wait.
const QUEUE: usize = 64;
const TERMINAL_QUEUE: usize = 1 << 14;

/// How long what waits to be typed keeps its turn when the run is to end: a machine that reads has read it by then.
const PATIENCE: Duration = Duration::from_millis(300);

/// Ctrl-] q. Twice: after a Ctrl-] of the user's the first is but a Ctrl-] itself.
const QUIT: &[u8] = b"\x1dq\x1dq";

/// What is typed, on its way to the machine.
pub struct Typing {
    queue: SyncSender<Vec<u8>>,
    /// Nothing that still waits counts any more.
    quitting: Arc<AtomicBool>,
}

impl Typing {
    /// Has a thread write to the machine what is queued. At a terminal more may wait.
    pub fn to(machine: impl Write + Send + 'static, interactive: bool) -> Self {
        Self::of(machine, if interactive { TERMINAL_QUEUE } else { QUEUE })
    }

    /// So many pieces may wait.
    fn of(mut machine: impl Write + Send + 'static, most: usize) -> Self {
        let (queue, received) = mpsc::sync_channel::<Vec<u8>>(most);
        let quitting = Arc::new(AtomicBool::new(false));
        let told = quitting.clone();
        thread::spawn(move || {
            while let Ok(bytes) = received.recv() {
                let bytes = if told.load(Ordering::SeqCst) { QUIT.to_vec() } else { bytes };
                if machine.write_all(&bytes).and_then(|()| machine.flush()).is_err() || bytes == QUIT {
                    return;
                }
            }
        });
        Self { queue, quitting }
    }

    /// Ends the run at the hypervisor: after what was typed before, or past it if the machine doesn't read that soon.
    pub fn quit(&self) {
        // If the queue is full the thread finds the mark at its next piece.
        let _ = self.queue.try_send(QUIT.to_vec());
        let quitting = self.quitting.clone();
        thread::spawn(move || {
            thread::sleep(PATIENCE);
            quitting.store(true, Ordering::SeqCst);
        });
    }

    /// Has the machine read something. Whether there is room for it.
    pub fn write(&self, bytes: Vec<u8>) -> bool {
        self.queue.try_send(bytes).is_ok()
    }

    /// Passes the user's keys on; the hypervisor reads the commands among them, this only takes note of the last one: `quit` is called, which
    /// says whether somebody has heard it.
    pub fn read_keys(&self, quit: impl Fn() -> bool + Send + 'static) {
        let to = self.queue.clone();
        thread::spawn(move || {
            let mut keys = Whole::default();
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
                let (bytes, quits) = keys.take(&buffer[..length]);
                let gone = if quits {
                    // What came before has its turn first, unless the queue is full of what the machine doesn't read.
                    let _ = to.try_send(bytes);
                    !quit()
                } else {
                    !bytes.is_empty() && to.send(bytes).is_err()
                };
                if gone {
                    return;
                }
            }
        });
    }
}

/// The user's keys, none of them cut in two, so that a program's command can come between any two of them. Commands of the form that
/// programs' have are left out: their answers would be taken for those to others.
#[derive(Default)]
struct Whole {
    keys: Keys,
    /// What was begun.
    begun: Vec<u8>,
}

impl Whole {
    /// What is to be passed on, and whether the run is to end.
    fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let (mut whole, mut quit) = (Vec::new(), false);
        for &byte in bytes {
            match self.keys.push(byte) {
                Some(Key::Command(_) | Key::CommandEnd) => self.begun.clear(),
                key => {
                    quit |= key == Some(Key::Quit);
                    self.begun.push(byte);
                    if self.keys.is_plain() {
                        whole.append(&mut self.begun);
                    }
                }
            }
        }
        (whole, quit)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;

    /// A machine that reads when it is let to.
    struct Slow {
        gate: Receiver<()>,
        read: SyncSender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.gate.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.read.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_typed_before_the_end_arrives_at_a_machine_that_reads() {
        let (open, gate) = mpsc::sync_channel(100);
        let (read, seen) = mpsc::sync_channel(100);
        let typing = Typing::of(Slow { gate, read }, 4);
        typing.queue.send(b"one".to_vec()).unwrap();
        typing.quit();
        for _ in 0..2 {
            open.send(()).unwrap();
        }
        let soon = Duration::from_secs(10);
        let all: Vec<Vec<u8>> = std::iter::from_fn(|| seen.recv_timeout(soon).ok()).collect();
        assert_eq!(all, [b"one".to_vec(), QUIT.to_vec()]);
    }

    #[test]
    fn what_is_typed_arrives_in_order_and_quitting_passes_all_that_waits() {
        let (open, gate) = mpsc::sync_channel(100);
        let (read, seen) = mpsc::sync_channel(100);
        let typing = Typing::of(Slow { gate, read }, 4);
        let soon = Duration::from_secs(10);
        typing.queue.send(b"one".to_vec()).unwrap();
        open.send(()).unwrap();
        assert_eq!(seen.recv_timeout(soon).unwrap(), b"one");
        // The machine reads no more; what it was about to get, and what the queue holds.
        typing.queue.send(b"two".to_vec()).unwrap();
        while typing.queue.try_send(b"more".to_vec()).is_ok() {}
        typing.quit();
        while !typing.quitting.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(10));
        }
        // The machine is gone once it has been told.
        for _ in 0..10 {
            let _ = open.send(());
        }
        let rest: Vec<Vec<u8>> = std::iter::from_fn(|| seen.recv_timeout(soon).ok()).collect();
        assert_eq!(rest.last().map(Vec::as_slice), Some(QUIT), "{rest:?}");
        assert!(rest.len() <= 3, "what waited came first: {rest:?}");
    }

    #[test]
    fn keys_are_not_cut_in_two_and_programs_commands_are_not_the_users() {
        let mut keys = Whole::default();
        assert_eq!(keys.take(b"ab\x1d"), (b"ab".to_vec(), false));
        assert_eq!(keys.take(b"nc\x1d\x1d"), (b"\x1dnc\x1d\x1d".to_vec(), false));
        assert_eq!(keys.take(b"d\x1d:off"), (b"d".to_vec(), false));
        assert_eq!(keys.take(b"\ne\x1dqf"), (b"e\x1dqf".to_vec(), true));
    }
}
