//! The two stages of EL1 while the hypervisor runs: the order in which they are brought in, taken out, and exchanged for a moment.
//!
//! A guest's own first stage stays in the CPU's registers (TTBR0_EL1, TCR_EL1, SCTLR_EL1 ...) while the hypervisor runs, and out of
//! context nothing may be translated by it. On some cores an address translation instruction that is only speculated does it
//! nevertheless, and leaves in the TLB what it finds (errata 1165522 of Cortex-A76, 1530923 of A55, 1319367 of A72, 1319537 of A57; Arm's
//! errata notices). So at no moment, whatever of two writes counts first, may one VM's first stage stand before another's second
//! stage, or before none: meanwhile walks are off (TCR_EL1.EPD0 and EPD1) with translation on (SCTLR_EL1.M), so that nothing is
//! translated at all. That is done on every core: what isn't known counts as affected, and these moments are rare.
//!
//! Whoever runs on the CPU gives the registers ([`Stages`]). Between two [`Stages::barrier`]s writes may count in any order.

/// TCR_EL1.EPD0 and EPD1: no walk by TTBR0_EL1, none by TTBR1_EL1.
const WALKS_OFF: u64 = 1 << 7 | 1 << 23;
/// SCTLR_EL1.M: the first stage is on.
const FIRST_STAGE_ON: u64 = 1;

/// The registers of the calling CPU that the two stages of EL1 are in.
pub trait Stages {
    /// TCR_EL1.
    fn tcr(&self) -> u64;
    /// Writes TCR_EL1.
    fn set_tcr(&mut self, value: u64);
    /// SCTLR_EL1.
    fn sctlr(&self) -> u64;
    /// Writes SCTLR_EL1.
    fn set_sctlr(&mut self, value: u64);
    /// VTTBR_EL2: the second stage's root, and the VMID.
    fn vttbr(&self) -> u64;
    /// Writes VTTBR_EL2.
    fn set_vttbr(&mut self, value: u64);
    /// Clears HCR_EL2.VM: there is no second stage.
    fn second_stage_off(&mut self);
    /// ISB: what was written counts.
    fn barrier(&mut self);
    /// Forgets, on all CPUs, what is translated for the VMID in VTTBR_EL2, and waits for it.
    fn forget(&mut self);
}

/// What of a first stage [`shut`] changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStage {
    /// TCR_EL1.
    pub tcr: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
}

/// From now on the first stage translates nothing. Answers what it was.
pub fn shut(cpu: &mut impl Stages) -> FirstStage {
    let was = FirstStage { tcr: cpu.tcr(), sctlr: cpu.sctlr() };
    cpu.set_tcr(was.tcr | WALKS_OFF);
    cpu.barrier();
    cpu.set_sctlr(was.sctlr | FIRST_STAGE_ON);
    cpu.barrier();
    was
}

/// The end of [`shut`], once the second stage is the one that belongs to this first stage.
fn open(cpu: &mut impl Stages, to: FirstStage) {
    cpu.barrier();
    cpu.set_sctlr(to.sctlr);
    cpu.barrier();
    cpu.set_tcr(to.tcr);
    cpu.barrier();
}

/// Brings a vCPU in: its second stage, and what bounds it (`bound`, HCR_EL2.VM among it); then the rest of its first stage (`reset`,
/// all but SCTLR_EL1 and TCR_EL1), and at last `first`.
pub fn enter<C: Stages>(
    cpu: &mut C,
    vttbr: u64,
    bound: impl FnOnce(&mut C),
    reset: impl FnOnce(&mut C),
    first: FirstStage,
) {
    shut(cpu);
    cpu.set_vttbr(vttbr);
    cpu.barrier();
    bound(cpu);
    cpu.barrier();
    reset(cpu);
    open(cpu, first);
}

/// Takes it out. Nothing is translated at EL1 until the next [`enter`].
pub fn leave(cpu: &mut impl Stages) {
    shut(cpu);
    cpu.second_stage_off();
    cpu.set_vttbr(0);
    cpu.barrier();
}

/// Forgets on all CPUs what is translated for a VM, whichever is in this CPU.
pub fn forget(cpu: &mut impl Stages, vttbr: u64) {
    let before = cpu.vttbr();
    if before == vttbr {
        return cpu.forget();
    }
    let first = shut(cpu);
    cpu.set_vttbr(vttbr);
    cpu.barrier();
    cpu.forget();
    cpu.set_vttbr(before);
    open(cpu, first);
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;

    /// A register of which some write may not count yet.
    struct Register(Vec<u64>);

    impl Register {
        fn now(&self) -> u64 {
            *self.0.last().unwrap()
        }
    }

    /// A CPU with the erratum, which at any moment translates by whatever may count then. `owner`: whose first stage is in it.
    struct Cpu {
        tcr: Register,
        sctlr: Register,
        vttbr: Register,
        second_stage: Register,
        owner: Register,
        forgotten: Vec<u64>,
    }

    impl Cpu {
        fn with(owner: u64, sctlr: u64, second_stage: u64) -> Self {
            let register = |value| Register(vec![value]);
            Self {
                tcr: register(0x10),
                sctlr: register(sctlr),
                vttbr: register(owner),
                second_stage: register(second_stage),
                owner: register(owner),
                forgotten: Vec::new(),
            }
        }

        fn speculate(&self) {
            for tcr in &self.tcr.0 {
                for sctlr in &self.sctlr.0 {
                    if sctlr & FIRST_STAGE_ON != 0 && tcr & WALKS_OFF == WALKS_OFF {
                        continue;
                    }
                    let owners = self.owner.0.iter().all(|owner| self.vttbr.0.iter().all(|it| it == owner));
                    assert!(owners, "one VM's first stage before another's second");
                    assert!(
                        self.second_stage.0.iter().all(|&on| on == 1),
                        "a first stage before no second one"
                    );
                }
            }
        }

        fn write(&mut self, register: impl FnOnce(&mut Self) -> &mut Register, value: u64) {
            register(self).0.push(value);
            self.speculate();
        }
    }

    impl Stages for Cpu {
        fn tcr(&self) -> u64 {
            self.tcr.now()
        }
        fn set_tcr(&mut self, value: u64) {
            self.write(|it| &mut it.tcr, value);
        }
        fn sctlr(&self) -> u64 {
            self.sctlr.now()
        }
        fn set_sctlr(&mut self, value: u64) {
            self.write(|it| &mut it.sctlr, value);
        }
        fn vttbr(&self) -> u64 {
            self.vttbr.now()
        }
        fn set_vttbr(&mut self, value: u64) {
            self.write(|it| &mut it.vttbr, value);
        }
        fn second_stage_off(&mut self) {
            self.write(|it| &mut it.second_stage, 0);
        }
        fn barrier(&mut self) {
            for it in
                [&mut self.tcr, &mut self.sctlr, &mut self.vttbr, &mut self.second_stage, &mut self.owner]
            {
                it.0 = vec![it.now()];
            }
            self.speculate();
        }
        fn forget(&mut self) {
            assert_eq!(self.vttbr.0.len(), 1, "whose is forgotten isn't sure");
            self.forgotten.push(self.vttbr.now());
        }
    }

    const OWN: u64 = 5;
    const OTHER: u64 = 9;

    #[test]
    fn another_vm_is_forgotten_while_nothing_is_translated() {
        // A guest with its first stage on, and one that hasn't turned it on.
        for sctlr in [0x30d0_0981, 0x30d0_0980] {
            let mut cpu = Cpu::with(OWN, sctlr, 1);
            forget(&mut cpu, OTHER);
            forget(&mut cpu, OWN);
            assert_eq!(cpu.forgotten, [OTHER, OWN]);
            assert_eq!((cpu.tcr(), cpu.sctlr(), cpu.vttbr()), (0x10, sctlr, OWN));
        }
    }

    #[test]
    fn a_vcpu_comes_and_goes_while_nothing_is_translated() {
        for sctlr in [0x30d0_0981, 0x30d0_0980] {
            let mut cpu = Cpu::with(OWN, sctlr, 1);
            leave(&mut cpu);
            assert_eq!((cpu.vttbr(), cpu.second_stage.now()), (0, 0));
            // By a CPU that has nobody.
            forget(&mut cpu, OWN);
            enter(
                &mut cpu,
                OTHER,
                |cpu| cpu.write(|it| &mut it.second_stage, 1),
                |cpu| cpu.write(|it| &mut it.owner, OTHER),
                FirstStage { tcr: 0, sctlr: 0x30d0_0980 },
            );
            assert_eq!((cpu.tcr(), cpu.sctlr(), cpu.vttbr()), (0, 0x30d0_0980, OTHER));
        }
    }

    #[test]
    fn a_cpu_that_comes_up_has_nothing_of_the_boot_loader_s_translated() {
        let mut cpu = Cpu::with(OWN, 0x30d0_0981, 1);
        shut(&mut cpu);
        cpu.write(|it| &mut it.second_stage, 0);
        cpu.write(|it| &mut it.owner, OTHER);
    }
}
