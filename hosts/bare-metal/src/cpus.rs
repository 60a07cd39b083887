//! The physical CPUs: bringing them up, calling them, and what each runs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use axvm::vm::Turn;
use axvm_addr::{CpuId, Hpa, VcpuId};
use axvm_plan::VmPlan;
use spin::{Mutex, Once};

use crate::arch::{self, Caller, EntryWork, Irqchip, SecondaryBoot};
use crate::host::{self, Host};
use crate::log;
use crate::vm::{Vm, VmRef};

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
    /// What it does at each way in from a guest.
    entry_work: AtomicU64,
    duty: Mutex<Duty>,
    /// What it starts with; the address goes to the firmware.
    boot: SecondaryBoot,
}

/// What a CPU is there for.
enum Duty {
    /// It hasn't come up.
    Offline,
    /// Nothing, or to be the hypervisor's own.
    None,
    /// It is this vCPU's, as long as its VM runs.
    Vcpu(VmRef, VcpuId),
    /// To take apart a VM that has stopped.
    TakeApart(Box<Vm>),
    /// To build a VM of this plan, and start it.
    Start(Arc<VmPlan>),
}

/// What a CPU does next.
enum Task {
    Wait,
    Run(VmRef, VcpuId),
    TakeApart(Box<Vm>),
    Start(Arc<VmPlan>),
}

static CPUS: Once<Vec<Cpu>> = Once::new();

/// Ticks that starting CPUs was waited for.
static WAITED: AtomicU64 = AtomicU64::new(0);

/// Ticks spent so far on waiting for CPUs that were started.
pub fn waited_ticks() -> u64 {
    WAITED.load(Ordering::Relaxed)
}

/// Lists the CPUs: what the platform calls each, and the top of its stack. `common`: how their MMUs are set.
pub fn init(cpus: impl Iterator<Item = (u64, Hpa)>, common: &SecondaryBoot) {
    CPUS.call_once(|| {
        (0u16..)
            .zip(cpus)
            .map(|(id, (hardware_id, stack))| Cpu {
                id: CpuId(id),
                caller: Caller::new(hardware_id),
                hardware_id,
                entry_work: AtomicU64::new(0),
                duty: Mutex::new(Duty::Offline),
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
        if self.is_online() {
            return Ok(());
        }
        let begun = arch::ticks();
        arch::start_cpu(self.hardware_id, &self.boot).map_err(|_| "the firmware refused to start it")?;
        let end = arch::ticks() + arch::tick_hz() * 5;
        while !self.is_online() {
            if arch::ticks() > end {
                return Err("it did not come up within 5 s");
            }
            core::hint::spin_loop();
        }
        WAITED.fetch_add(arch::ticks().saturating_sub(begun), Ordering::Relaxed);
        Ok(())
    }

    /// Whether it has come up.
    fn is_online(&self) -> bool {
        !matches!(*self.duty.lock(), Duty::Offline)
    }

    /// What it does at each way in from a guest.
    #[cfg_attr(
        target_arch = "x86_64",
        expect(dead_code, reason = "there the code at the way in is the same on all CPUs")
    )]
    pub fn entry_work(&self) -> EntryWork {
        EntryWork::from_bits(self.entry_work.load(Ordering::Relaxed))
    }

    /// Gives it a vCPU to run; it stays with it until the VM stops.
    pub fn give(&self, vm: VmRef, vcpu: VcpuId) {
        let host = vm.hal().host();
        self.set_duty(Duty::Vcpu(vm, vcpu));
        self.kick(&host.irqchip);
    }

    /// Gives it a VM to take apart that all CPUs have left, this one among them.
    pub fn give_to_take_apart(&self, vm: Vm) {
        let host = vm.hal().host();
        self.set_duty(Duty::TakeApart(Box::new(vm)));
        self.kick(&host.irqchip);
    }

    /// Gives it a VM to build, of which it is one of the CPUs.
    pub fn give_to_start(&self, plan: Arc<VmPlan>, irqchip: &Irqchip) {
        self.set_duty(Duty::Start(plan));
        self.kick(irqchip);
    }

    /// The former duty ends, and with it perhaps the last hold on a VM: without the lock.
    fn set_duty(&self, duty: Duty) {
        drop(core::mem::replace(&mut *self.duty.lock(), duty));
    }

    /// What it is to do now. A VM that is to be taken apart or built is handed over.
    fn next(&self) -> Task {
        let mut duty = self.duty.lock();
        match &*duty {
            Duty::Vcpu(vm, vcpu) => Task::Run(vm.clone(), *vcpu),
            Duty::Offline | Duty::None => Task::Wait,
            Duty::TakeApart(_) | Duty::Start(_) => match core::mem::replace(&mut *duty, Duty::None) {
                Duty::TakeApart(vm) => Task::TakeApart(vm),
                Duty::Start(plan) => Task::Start(plan),
                _ => Task::Wait,
            },
        }
    }

    /// Makes it leave its guest or its sleep, and look around.
    pub fn kick(&self, irqchip: &Irqchip) {
        self.caller.call(irqchip, self.id);
    }

    /// How it is called.
    #[cfg_attr(
        target_arch = "x86_64",
        expect(dead_code, reason = "there a CPU's interrupts stay the hypervisor's")
    )]
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
        self.set_duty(Duty::None);
    }

    /// Does what it was given to do, over and over.
    pub fn run_vcpus(&self, host: &'static Host) -> ! {
        loop {
            let (vm, vcpu) = match self.next() {
                Task::Run(vm, vcpu) => (vm, vcpu),
                Task::TakeApart(vm) => {
                    crate::serve::take_apart(*vm);
                    continue;
                }
                Task::Start(plan) => {
                    host.note_between();
                    host.start_again(&plan);
                    host.note_settled(plan.id, None);
                    continue;
                }
                Task::Wait => {
                    arch::wait_for_interrupt();
                    arch::take_interrupts(None);
                    continue;
                }
            };
            match vm.run_vcpu(vcpu) {
                Ok(Turn::NotStarted) => {}
                Ok(Turn::Over) => continue,
                Err(error) => {
                    log::error!("{}: vCPU {vcpu} can't run: {error}", vm.name());
                    continue;
                }
            }
            if vm.is_stopping() {
                if let Err(error) = host.irqchip.leave_cpu(self.id) {
                    log::error!("CPU {}: {error}", self.id);
                }
                self.set_duty(Duty::None);
                vm.vcpu_gone(vcpu);
                host.call_hypervisor_cpu();
                continue;
            }
            arch::wait_while_off(&vm, vcpu);
        }
    }
}
