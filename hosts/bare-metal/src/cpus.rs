//! The physical CPUs: bringing them up, calling them, and what each runs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axvm_addr::{CpuId, Hpa, VcpuId};
use spin::{Mutex, Once};

use crate::arch::{self, Caller, EntryWork, Irqchip, SecondaryBoot};
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
    /// What the platform calls it.
    pub hardware_id: u64,
    /// How it is called.
    caller: Caller,
    online: AtomicBool,
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

/// Lists the CPUs: what the platform calls each, and the top of its stack. `common`: how their MMUs are set.
pub fn init(cpus: impl Iterator<Item = (u64, Hpa)>, common: &SecondaryBoot) {
    CPUS.call_once(|| {
        (0u16..)
            .zip(cpus)
            .map(|(id, (hardware_id, stack))| Cpu {
                id: CpuId(id),
                caller: Caller::new(hardware_id),
                hardware_id,
                online: AtomicBool::new(false),
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
    of(arch::own_hardware_id())
}

/// The CPU that the platform calls so.
pub fn of(hardware_id: u64) -> Option<&'static Cpu> {
    CPUS.get()?.iter().find(|cpu| cpu.hardware_id == hardware_id)
}

impl Cpu {
    /// Starts it, and waits (bounded) until it says that it runs.
    pub fn start(&'static self) -> Result<(), &'static str> {
        if self.online.load(Ordering::Acquire) {
            return Ok(());
        }
        arch::start_cpu(self.hardware_id, &self.boot).map_err(|_| "the firmware refused to start it")?;
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
        self.kick(&host.irqchip);
    }

    /// Gives it a VM to take apart that all CPUs have left, this one among them.
    pub fn give_to_take_apart(&self, vm: Vm) {
        let host = vm.host();
        *self.estate.lock() = Estate::Waiting(Box::new(vm));
        self.kick(&host.irqchip);
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
    pub fn kick(&self, irqchip: &Irqchip) {
        self.caller.call(irqchip, self.id);
    }

    /// How it is called.
    pub fn caller(&self) -> &Caller {
        &self.caller
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
        if let Err(error) = host.irqchip.init_cpu(self.id) {
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
                arch::take_interrupts(None);
                continue;
            };
            if crate::run::run(&vm, vcpu) {
                continue;
            }
            if vm.is_stopping() {
                if let Err(error) = host.irqchip.leave_cpu(self.id) {
                    log::error!("CPU {}: {error}", self.id);
                }
                *self.vcpu.lock() = None;
                vm.parked(vcpu);
                continue;
            }
            arch::wait_while_off(&vm, vcpu);
        }
    }
}
