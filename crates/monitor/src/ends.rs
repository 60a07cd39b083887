//! What is said of VMs that have ended.

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::report::VmReport;
use axvm_addr::VmId;
use axvm_plan::VmPlan;

/// By VM: the report of one that is no more, with what was said of its earlier starts.
#[derive(Clone, Debug, Default)]
pub struct Ends(Vec<Option<VmReport>>);

impl Ends {
    /// Of so many VMs, none has ended.
    pub fn new(vms: usize) -> Self {
        Self((0..vms).map(|_| None).collect())
    }

    /// A VM has ended.
    pub fn note(&mut self, vm: VmId, report: VmReport) {
        if let Some(slot) = self.0.get_mut(usize::from(vm.0)) {
            *slot = Some(joined(slot.take(), report));
        }
    }

    /// The report of one that is no more.
    pub fn get(&self, vm: VmId) -> Option<&VmReport> {
        self.0.get(usize::from(vm.0))?.as_ref()
    }

    /// What is said of all of them in the end. `there`: the report of a VM that there still is.
    pub fn at_end(self, plans: &[Arc<VmPlan>], there: impl Fn(VmId) -> Option<VmReport>) -> Vec<VmReport> {
        let ends = self.0.into_iter().zip(plans);
        ends.map(|(gone, plan)| match there(plan.id) {
            Some(now) => joined(gone, now),
            None => gone.unwrap_or_else(|| VmReport::not_built(plan)),
        })
        .collect()
    }
}

fn joined(earlier: Option<VmReport>, now: VmReport) -> VmReport {
    match earlier {
        Some(earlier) => earlier.followed_by(now),
        None => now,
    }
}

#[cfg(test)]
mod tests {
    use axvm_plan::fixtures;

    use super::*;

    #[test]
    fn of_each_vm_all_its_starts_are_told_once() {
        let planned = fixtures::planned(&fixtures::demo(), &fixtures::for_the_whole_run(fixtures::board()));
        let plan = planned.vms.into_iter().next().unwrap();
        let plans = [plan.clone(), VmPlan { id: VmId(1), ..plan.clone() }, VmPlan { id: VmId(2), ..plan }];
        let plans = plans.map(Arc::new);
        let report = |reason: &str, injected| {
            let mut report = VmReport { reason: reason.into(), ..VmReport::not_built(&plans[0]) };
            report.interrupts_injected = injected;
            report
        };
        let mut ends = Ends::new(3);
        ends.note(VmId(0), report("system-reset", 1));
        ends.note(VmId(0), report("system-off", 2));
        ends.note(VmId(1), report("system-reset", 4));
        assert_eq!(ends.get(VmId(0)).map(|it| it.interrupts_injected), Some(3));
        assert!(ends.get(VmId(2)).is_none());
        let there = |id| (id == VmId(1)).then(|| report("stopped", 8));
        let said = ends.at_end(&plans, there);
        let said: Vec<_> = said.iter().map(|it| (it.reason.as_str(), it.interrupts_injected)).collect();
        assert_eq!(said, [("system-off", 3), ("stopped", 12), ("host-error", 0)]);
    }
}
