//! What the parts of a virtual GIC share: its configuration, the hypervisor, and the interrupts' state.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axvm_addr::VcpuId;
use spin::Mutex;

use crate::backend::Backend;
use crate::config::VgicConfig;
use crate::interrupts::{Handle, Interrupts};
use crate::lpi_tables::LpiTables;
use crate::signal::Signal;
use crate::statistics::Counters;
use crate::switches::Switches;
use crate::vcpu_set::VcpuSet;

/// What the ITS, the register frames and the fast path work on.
///
/// Of its locks the LPI tables' is never held while another is taken.
pub(crate) struct Shared {
    pub(crate) config: VgicConfig,
    backend: Arc<dyn Backend>,
    pub(crate) signals: Arc<[Signal]>,
    pub(crate) switches: Arc<Switches>,
    interrupts: Mutex<Interrupts>,
    pub(crate) lpi_tables: Mutex<LpiTables>,
    /// The ITS has commands left from an exit that had enough to do.
    pub(crate) its_backlog: AtomicBool,
    /// Counts what may have changed which LPI an event stands for. Written with the ITS's lock held.
    its_generation: AtomicU32,
    pub(crate) counters: Counters,
}

impl Shared {
    pub(crate) fn new(config: VgicConfig, backend: Arc<dyn Backend>) -> Self {
        let vcpus = config.vcpus.len();
        let signals: Arc<[Signal]> = core::iter::repeat_with(Signal::default).take(vcpus).collect();
        let switches = Arc::new(Switches::default());
        Self {
            interrupts: Mutex::new(Interrupts::new(
                &config,
                signals.clone(),
                switches.clone(),
                backend.clone(),
            )),
            lpi_tables: Mutex::new(LpiTables::new(vcpus)),
            config,
            backend,
            signals,
            switches,
            its_backlog: AtomicBool::new(false),
            its_generation: AtomicU32::new(0),
            counters: Counters::default(),
        }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Does something with the interrupts' state, and then kicks the vCPUs that this concerns. `current` is
    /// the vCPU that does it: it is out of the guest and needs no kick.
    pub(crate) fn with<R>(&self, current: Option<VcpuId>, f: impl FnOnce(&mut Interrupts) -> R) -> R {
        let mut state = self.interrupts.lock();
        state.current = current;
        let result = f(&mut state);
        // Whoever takes the lock by itself is nobody in particular.
        state.current = None;
        if state.kicks.is_empty() {
            return result;
        }
        let kicks = core::mem::take(&mut state.kicks);
        drop(state);
        self.kick(&kicks);
        result
    }

    #[inline(never)]
    fn kick(&self, kicks: &VcpuSet) {
        kicks.iter().for_each(|vcpu| self.backend.kick(vcpu));
    }

    /// The interrupts' state, if nobody else has it: for what kicks no vCPU.
    #[inline(always)]
    pub(crate) fn try_lock(&self) -> Option<impl core::ops::DerefMut<Target = Interrupts> + '_> {
        self.interrupts.try_lock()
    }

    /// Makes an interrupt pending. Whether there is such an interrupt.
    pub(crate) fn latch(
        &self,
        current: Option<VcpuId>,
        find: impl FnOnce(&Interrupts) -> Option<Handle>,
    ) -> bool {
        self.with(current, |state| match find(state) {
            Some(handle) => {
                state.latch(handle);
                true
            }
            None => false,
        })
    }

    pub(crate) fn signal(&self, vcpu: VcpuId) -> Option<&Signal> {
        self.signals.get(usize::from(vcpu.0))
    }

    /// Whether something is in the mailbox of `vcpu`.
    pub(crate) fn has_mail(&self, vcpu: VcpuId) -> bool {
        self.signal(vcpu).is_some_and(|signal| signal.sgis.load(Ordering::Acquire) != 0)
    }

    /// What no message that is known from before a change of the ITS's tables has.
    #[inline(always)]
    pub(crate) fn its_generation(&self) -> u32 {
        self.its_generation.load(Ordering::Acquire)
    }

    /// An event may stand for another LPI from now on, or for none.
    pub(crate) fn next_its_generation(&self) {
        self.its_generation.fetch_add(1, Ordering::AcqRel);
    }
}
