//! The physical CPUs: bringing them up, calling them, and what each runs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axvm_addr::{CpuId, Hpa, VcpuId};
use axvm_vgic::Intid;
use spin::{Mutex, Once};

use crate::arch::direct::Direct;
use crate::arch::gic::{GicError, PhysicalGic};
use crate::arch::{self, EntryWork, SecondaryBoot};
use crate::host::{self, Host};
use crate::log;
use crate::vm::Vm;

/// The bytes of a stack. Each lies at an odd multiple of its size, and nothing is mapped below it; the exception vectors rely on
/// both.
pub const STACK_BYTES: u64 = 0x1_0000;

/// A physical CPU.
pub struct Cpu {
    /// Its position among the device tree's CPUs.
    pub id: CpuId,
    /// Its affinity.
    pub mpidr: u64,
    /// What names it when it is called.
    call_target: u64,
    online: AtomicBool,
    /// Its interrupt interface is a guest's: calls have to be let through first.
    given_away: AtomicBool,
    /// What it does at each way in from a guest.
    entry_work: AtomicU64,
    /// The vCPU whose CPU it is.
    vcpu: Mutex<Option<(Arc<Vm>, VcpuId)>>,
    /// A VM that it is to take apart, or takes apart just now.
    estate: Mutex<Estate>,
    /// What it starts with; the address goes to the firmware.
    boot: SecondaryBoot,
}

/// What a CPU has to do for a VM that is gone.
enum Estate {
    /// Nothing.
    None,
    /// To take it apart.
    Waiting(Box<Vm>),
    /// It is at it.
    Underway,
}

static CPUS: Once<Vec<Cpu>> = Once::new();

/// Lists the CPUs: affinity and the top of the stack of each. `common`: how their MMUs are set.
pub fn init(cpus: impl Iterator<Item = (u64, Hpa)>, common: &SecondaryBoot) {
    CPUS.call_once(|| {
        (0u16..)
            .zip(cpus)
            .map(|(id, (mpidr, stack))| Cpu {
                id: CpuId(id),
                call_target: arch::gic::sgi_target(mpidr),
                mpidr,
                online: AtomicBool::new(false),
                given_away: AtomicBool::new(false),
                entry_work: AtomicU64::new(0),
                vcpu: Mutex::new(None),
                estate: Mutex::new(Estate::None),
                boot: SecondaryBoot { stack: stack.0, argument: u64::from(id), ..*common },
            })
            .collect()
    });
}

/// A CPU.
#[inline(always)]
pub fn get(id: CpuId) -> Option<&'static Cpu> {
    CPUS.get()?.get(usize::from(id.0))
}

/// Whether a VM that is gone isn't taken apart yet.
pub fn any_takes_apart() -> bool {
    CPUS.get().is_some_and(|all| all.iter().any(|cpu| !matches!(*cpu.estate.lock(), Estate::None)))
}

/// The CPU that runs this.
pub fn current() -> Option<&'static Cpu> {
    of(arch::mpidr())
}

/// The CPU with this affinity.
pub fn of(mpidr: u64) -> Option<&'static Cpu> {
    CPUS.get()?.iter().find(|cpu| cpu.mpidr == mpidr)
}

impl Cpu {
    /// Starts it, and waits (bounded) until it says that it runs.
    pub fn start(&self) -> Result<(), &'static str> {
        if self.online.load(Ordering::Acquire) {
            return Ok(());
        }
        let boot = &raw const self.boot as u64;
        // It reads this with its caches off.
        arch::clean_to_memory(Hpa(boot), size_of::<SecondaryBoot>() as u64);
        arch::psci::cpu_on(self.mpidr, arch::secondary_entry().0, boot)
            .map_err(|_| "the firmware refused to start it")?;
        let end = arch::ticks() + arch::tick_hz() * 5;
        while !self.online.load(Ordering::Acquire) {
            if arch::ticks() > end {
                return Err("it did not come up within 5 s");
            }
            core::hint::spin_loop();
        }
        Ok(())
    }

    /// What it does at each way in from a guest.
    pub fn entry_work(&self) -> EntryWork {
        EntryWork::from_bits(self.entry_work.load(Ordering::Relaxed))
    }

    /// Gives it a vCPU to run; it stays with it until the VM stops.
    pub fn give(&self, vm: Arc<Vm>, vcpu: VcpuId) {
        let host = vm.host();
        *self.vcpu.lock() = Some((vm, vcpu));
        self.kick(&host.gic);
    }

    /// Gives it a VM to take apart that all CPUs have left, this one among them.
    pub fn give_to_take_apart(&self, vm: Vm) {
        let host = vm.host();
        *self.estate.lock() = Estate::Waiting(Box::new(vm));
        self.kick(&host.gic);
    }

    /// Takes the VM apart that it was given, if any.
    fn take_apart(&self, host: &'static Host) {
        let vm = {
            let mut estate = self.estate.lock();
            match core::mem::replace(&mut *estate, Estate::None) {
                Estate::Waiting(vm) => {
                    *estate = Estate::Underway;
                    vm
                }
                other => {
                    *estate = other;
                    return;
                }
            }
        };
        crate::serve::take_apart(*vm);
        *self.estate.lock() = Estate::None;
        // The run may end with it.
        host.call_hypervisor_cpu();
    }

    /// Makes it leave its guest or its sleep, and look around.
    pub fn kick(&self, gic: &PhysicalGic) {
        if self.given_away.load(Ordering::SeqCst) {
            gic.let_calls_through(self.id);
        }
        arch::gic::kick(self.call_target);
    }

    /// Raises a software interrupt of Group 1 there.
    pub fn raise_sgi(&self, sgi: Intid) {
        arch::gic::raise_sgi(self.call_target, sgi);
    }

    /// Gives the calling CPU's interrupt interface to a guest. Whoever stops the VM sets its flag first and calls then, so that a
    /// call that comes too early for [`Cpu::kick`] to know of this is one whose flag is seen before the guest is entered.
    pub fn give_interrupts(&self, gic: &PhysicalGic) -> Result<Direct, GicError> {
        self.given_away.store(true, Ordering::SeqCst);
        Direct::give(gic, self.id)
    }

    /// Takes it back.
    pub fn take_interrupts_back(&self, gic: &PhysicalGic) {
        self.given_away.store(false, Ordering::SeqCst);
        Direct::take_back(gic, self.id);
    }
}

/// What every CPU but the first does.
pub fn secondary_main(id: u16) -> ! {
    let Some(cpu) = get(CpuId(id)) else { arch::halt() };
    let host = host::get();
    cpu.bring_up(host);
    if host.hypervisor_cpu() == cpu.id {
        crate::serve::serve(host)
    }
    cpu.run_vcpus(host)
}

impl Cpu {
    /// Sets up what the calling CPU has for itself, and says that it runs.
    pub fn bring_up(&self, host: &Host) {
        self.entry_work.store(arch::establish(self.id).bits(), Ordering::Relaxed);
        if let Err(error) = host.init_cpu(self.id) {
            crate::boot::last_words(&format_args!("CPU {}: {error}", self.id))
        }
        self.online.store(true, Ordering::Release);
    }

    /// Runs the vCPU that it was given, over and over.
    pub fn run_vcpus(&self, host: &'static Host) -> ! {
        loop {
            let work = self.vcpu.lock().clone();
            let Some((vm, vcpu)) = work else {
                self.take_apart(host);
                arch::wait_for_interrupt();
                crate::run::take_interrupts(None);
                continue;
            };
            if crate::run::run(&vm, vcpu) {
                continue;
            }
            if vm.is_stopping() {
                if let Err(error) = host.leave_cpu(self.id) {
                    log::error!("CPU {}: {error}", self.id);
                }
                *self.vcpu.lock() = None;
                vm.parked(vcpu);
                continue;
            }
            wait_for_start(&vm, vcpu);
        }
    }
}

/// Sleeps while a vCPU is off. What comes for it waits until it is on again, or until the guest sends it elsewhere.
fn wait_for_start(vm: &Vm, vcpu: VcpuId) {
    if vm.takes_interrupts() {
        // In the physical GIC, which knows what the guest makes of it.
        arch::gic::close_interface();
        arch::wait_for_interrupt();
        crate::run::take_interrupts(None);
    } else {
        // In the virtual one.
        arch::wait_for_interrupt();
        crate::run::take_interrupts(Some((vm, vcpu)));
        vm.vgic().take_mail(vcpu);
    }
}
