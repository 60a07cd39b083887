//! Functions of one group, on a Linux that gives none while a driver has another of them.

use axvm_plan::fixtures;
use axvm_platform::limits::{Limits, LinuxHost, Serves};
use axvm_platform::model::Platform;
use axvm_rebind::fake::Linux;

use super::*;

const DISK: &str = "0000:00:02.0";
const CARD: &str = "0000:00:03.0";

/// Notes what is to be taken.
#[derive(Default)]
struct Taken(Mutex<Vec<PciAddress>>);

impl Binder for Taken {
    fn take(&self, function: PciAddress) -> Result<(), String> {
        crate::lock(&self.0).push(function);
        Ok(())
    }
}

/// What is taken before the first of a VM's devices is opened. The VM has these, by their slots; disk and card are in these groups.
fn taken(devices: &[u8], groups: [u32; 2]) -> Vec<String> {
    let linux = Linux::new().function(DISK, Some("nvme")).function(CARD, Some("e1000e"));
    let linux = linux.in_group(DISK, Some(groups[0])).in_group(CARD, Some(groups[1]));
    let mut functions = sysfs::functions(&linux);
    functions.iter_mut().for_each(|it| it.address = Some(it.linux));
    let devices = devices.iter().map(|slot| fixtures::pci(*slot, 0)).collect();
    let serves = LinuxHost { guests: Serves::Yes, functions: Serves::Yes };
    let platform = Platform { limits: Limits::default().of_linux(serves), ..fixtures::board() };
    let plan = fixtures::planned(&fixtures::system(vec![fixtures::vm("one", &[1], devices)]), &platform);
    let plans: Vec<Arc<VmPlan>> = plan.vms.into_iter().map(Arc::new).collect();
    let binder = Arc::new(Taken::default());
    let vfio = Vfio::new(&functions, &plans, Some(binder.clone()), Source::Groups);
    vfio.unbind(&plans[0].devices[0]).unwrap();
    crate::lock(&binder.0).iter().map(ToString::to_string).collect()
}

#[test]
fn all_of_a_group_are_taken_before_one_is_opened() {
    assert_eq!(taken(&[2, 3], [7, 7]), [DISK, CARD]);
    assert_eq!(taken(&[2, 3], [7, 8]), [DISK]);
}

#[test]
fn a_member_of_a_group_that_no_vm_has_is_left_alone() {
    assert_eq!(taken(&[2], [7, 7]), [DISK]);
}
