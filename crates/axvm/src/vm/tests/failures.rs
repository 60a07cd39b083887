//! Each step of a VM's making, of its making anew and of its end fails, by itself and with the ones after it: it leaves all as before, or
//! what it couldn't be sure of withheld, and says so.

use super::*;
use crate::ownership::{AssignError, Registry};

/// A host, and where its registry is.
struct Bench<H> {
    hal: Arc<H>,
    shelf: Shelf,
}

impl<H: Fake> Bench<H> {
    /// One on which a VM has lived so many times.
    fn after(lives: usize) -> Self {
        let hal = Arc::new(H::default());
        let shelf = Shelf::new(&vm_plan(), &hal.lab().faults);
        let bench = Self { hal, shelf };
        for _ in 0..lives {
            let vm = bench.build().unwrap();
            bench.run(&vm);
            bench.end(vm);
        }
        bench
    }

    fn build(&self) -> Result<AxVM<H>, CreateError<&'static str>> {
        AxVM::new(vm_plan(), self.hal.clone(), &self.shelf)
    }

    /// It has run and stopped, and what its guest has set up is there still.
    fn run(&self, vm: &AxVM<H>) {
        vm.start().unwrap();
        vm.route_message(0, 1, Some(MsiMessage { address: MSI_ADDRESS, data: 1 })).unwrap();
        let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
        vm.map_registers(0, Region::Bar(2), 0, Gpa(BAR_2), 0x4000, flags).unwrap();
        vm.stop(StopReason::SystemOff);
        (0..2).map(VcpuId).for_each(|vcpu| {
            vm.vcpu_gone(vcpu);
        });
    }

    fn end(&self, vm: AxVM<H>) -> Disposed {
        vm.dispose(&self.shelf).unwrap()
    }

    fn steps(&self) -> usize {
        self.hal.lab().faults.operations.get()
    }

    fn fail(&self, at: Option<usize>) {
        self.hal.lab().faults.fail_at.set(at);
    }

    fn failed_last(&self) -> Option<&'static str> {
        self.hal.lab().faults.failed.get()
    }

    fn with_registry<R>(&self, look: impl FnOnce(&Registry) -> R) -> R {
        look(&self.shelf.registry.borrow())
    }

    /// Nobody has anything of the VM's: all of it is free again, or what may be in use still is given to nobody. Whether it is free.
    fn is_whole(&self, why: &str) -> bool {
        let (hal, lab) = (&*self.hal, self.hal.lab());
        let devices = |slot: &Slot| matches!(slot, Slot::Assigned { .. });
        assert!(self.with_registry(|all| all.iter().all(|(_, slot)| !devices(slot))), "{why}");
        assert!(hal.routed().is_empty() && hal.told_messages() == 0 && lab.chips.get() == 0, "{why}");
        assert_eq!(hal.ram_out(), lab.withheld.get(), "{why}: RAM is free or withheld");
        if self.with_registry(|all| all.may_reach(VmId(0))) {
            assert!(!hal.destroyed(), "{why}: a device may use its map still");
        } else {
            assert!(hal.opened().is_empty() && hal.attached().is_empty(), "{why}");
        }
        if hal.destroyed() {
            is_clean(hal);
        }
        hal.destroyed()
    }

    /// All works: a VM can be made again, unless its device is broken, which is said then.
    fn works(&self, why: &str) {
        self.fail(None);
        let broken =
            self.with_registry(|all| all.iter().any(|(_, slot)| matches!(slot, Slot::Failed { .. })));
        match self.build() {
            Ok(vm) => {
                assert!(!broken, "{why}: a broken device is given");
                self.run(&vm);
                let left = self.end(vm);
                assert!(left.stuck.is_empty() && !left.ram_withheld, "{why}");
            }
            Err(CreateError::Device(AssignError::Broken { why: told, .. })) => {
                assert!(broken && told.contains("the host failed"), "{why}: {told}");
            }
            Err(error) => panic!("{why}: {error}"),
        }
        is_clean(&*self.hal);
    }
}

/// So many steps in a row fail: fewer than a closing is tried, and more.
const IN_A_ROW: [usize; 3] = [1, 2, 4];

fn whatever_fails_of_building_nothing_is_left_of_the_attempt<H: Fake>() {
    for (lives, in_a_row) in [0, 1].into_iter().flat_map(|lives| IN_A_ROW.map(|it| (lives, it))) {
        let bench = Bench::<H>::after(lives);
        let before = bench.steps();
        drop(bench.build());
        let steps = bench.steps() - before;
        assert!(steps > 12, "{}: {steps}", H::NAME);
        for step in 0..steps {
            let bench = Bench::<H>::after(lives);
            bench.hal.lab().faults.and_more.set(in_a_row - 1);
            bench.fail(Some(bench.steps() + step));
            let result = bench.build();
            let why = alloc::format!(
                "{}, life {lives}, step {step} and {in_a_row}: {:?} failed last",
                H::NAME,
                bench.failed_last()
            );
            bench.fail(None);
            match result {
                Err(error) => {
                    assert!(error.to_string().contains("the host failed"), "{why}: {error}");
                    if bench.is_whole(&why) {
                        bench.works(&why);
                    }
                }
                // That is tried again, and done then.
                Ok(vm) => {
                    assert!(matches!(bench.failed_last(), Some("close" | "block a source")), "{why}");
                    bench.end(vm);
                    is_clean(&*bench.hal);
                }
            }
        }
    }
}

fn whatever_fails_of_the_end_what_is_not_sure_is_given_to_nobody<H: Fake>() {
    for in_a_row in IN_A_ROW {
        let bench = Bench::<H>::after(0);
        let vm = bench.build().unwrap();
        bench.run(&vm);
        let before = bench.steps();
        bench.end(vm);
        let steps = bench.steps() - before;
        let mut withheld = 0;
        for step in 0..steps {
            let bench = Bench::<H>::after(0);
            let vm = bench.build().unwrap();
            bench.run(&vm);
            bench.hal.lab().faults.and_more.set(in_a_row - 1);
            bench.fail(Some(bench.steps() + step));
            let left = bench.end(vm);
            let why = alloc::format!(
                "{}, step {step} and {in_a_row}: {:?} failed last",
                H::NAME,
                bench.failed_last()
            );
            bench.fail(None);
            let free = bench.is_whole(&why);
            assert_eq!(free, !left.ram_withheld, "{why}: and it is said");
            let stuck = bench
                .with_registry(|all| all.iter().filter(|(_, it)| matches!(it, Slot::Failed { .. })).count());
            assert_eq!(stuck, left.stuck.len(), "{why}: each that is stuck is named");
            if free {
                bench.works(&why);
            } else {
                withheld += 1;
                assert_eq!(bench.hal.ram_out(), 4 << 20, "{why}: all of it or none");
            }
        }
        assert!(withheld > 2, "{}: {withheld} of {steps}", H::NAME);
    }
}

on_both_hosts! {
    whatever_fails_of_building_nothing_is_left_of_the_attempt,
    whatever_fails_of_the_end_what_is_not_sure_is_given_to_nobody,
}
