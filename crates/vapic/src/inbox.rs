//! What comes for a local APIC from other CPUs, until its own takes it in: a bit each, so that nobody waits for a lock.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::message::Signal;
use crate::vectors::Vectors;

/// A STARTUP has come; its page is in the lower bits.
const STARTUP: u32 = 1 << 8;

/// What has come.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// By the kind of trigger: edge, level.
    vectors: [[AtomicU64; 4]; 2],
    nmi: AtomicBool,
    init: AtomicBool,
    startup: AtomicU32,
    /// There is something, and whoever has put the first of it here has had the CPU called.
    noted: AtomicBool,
}

/// Vectors that have come, by the kind of trigger.
pub(crate) struct Arrived {
    pub edges: Vectors,
    pub levels: Vectors,
}

impl Inbox {
    /// Leaves a signal. Whether the CPU is to be called: it hasn't been since it looked last.
    pub fn leave(&self, signal: Signal) -> bool {
        match signal {
            Signal::Vector { vector, level } => {
                let words = self.vectors.get(usize::from(level));
                if let Some(word) = words.and_then(|words| words.get(usize::from(vector / 64))) {
                    word.fetch_or(1 << (vector % 64), Ordering::SeqCst);
                }
            }
            Signal::Nmi => self.nmi.store(true, Ordering::SeqCst),
            // What came before it has no effect any more.
            Signal::Init => {
                self.startup.store(0, Ordering::SeqCst);
                self.init.store(true, Ordering::SeqCst);
            }
            Signal::Startup { page } => self.startup.store(STARTUP | u32::from(page), Ordering::SeqCst),
            // Nobody can take one.
            Signal::External => return false,
        }
        !self.noted.swap(true, Ordering::SeqCst)
    }

    /// By its own CPU: whether there is something, which waits on.
    pub fn has_something(&self) -> bool {
        self.noted.load(Ordering::Relaxed)
    }

    /// By its own CPU: whether there is something. What comes from here on calls again.
    pub fn look(&self) -> bool {
        self.noted.load(Ordering::Relaxed) && self.noted.swap(false, Ordering::SeqCst)
    }

    /// By its own CPU, which has looked: there is something still.
    pub fn look_again(&self) {
        self.noted.store(true, Ordering::SeqCst);
    }

    /// By its own CPU: whether what has come is more than vectors.
    #[inline(always)]
    pub fn has_signals(&self) -> bool {
        self.nmi.load(Ordering::SeqCst) || self.has_init() || self.has_startup()
    }

    /// Takes the vectors out.
    pub fn take_vectors(&self) -> Arrived {
        let [edges, levels] = &self.vectors;
        let take = |words: &[AtomicU64; 4]| {
            Vectors::new(core::array::from_fn(|number| match words.get(number) {
                Some(word) if word.load(Ordering::Relaxed) != 0 => word.swap(0, Ordering::SeqCst),
                _ => 0,
            }))
        };
        Arrived { edges: take(edges), levels: take(levels) }
    }

    /// Whether this vector waits, as an edge.
    pub fn has_edge(&self, vector: u8) -> bool {
        let [edges, _] = &self.vectors;
        edges
            .get(usize::from(vector / 64))
            .is_some_and(|word| word.load(Ordering::SeqCst) >> (vector % 64) & 1 != 0)
    }

    /// Takes an NMI out. Those that come before it is taken are one.
    pub fn take_nmi(&self) -> bool {
        self.nmi.load(Ordering::Relaxed) && self.nmi.swap(false, Ordering::SeqCst)
    }

    /// Takes an INIT out.
    pub fn take_init(&self) -> bool {
        self.init.load(Ordering::Relaxed) && self.init.swap(false, Ordering::SeqCst)
    }

    /// Takes a STARTUP out: its page.
    pub fn take_startup(&self) -> Option<u8> {
        let value = self.startup.swap(0, Ordering::SeqCst);
        (value & STARTUP != 0).then_some(value as u8)
    }

    /// Whether an INIT waits.
    pub fn has_init(&self) -> bool {
        self.init.load(Ordering::SeqCst)
    }

    /// Whether a STARTUP waits.
    pub fn has_startup(&self) -> bool {
        self.startup.load(Ordering::SeqCst) & STARTUP != 0
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.look();
        self.take_vectors();
        self.take_nmi();
        self.take_init();
        self.take_startup();
    }
}
