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

    fn aim(&self, _: PciAddress, _: &[usize]) -> Result<Aimed, String> {
        Ok(Aimed::Done)
    }
}

/// Answers one after the other, and remembers what it was asked for.
struct Leads(Mutex<Vec<Result<Aimed, String>>>, Mutex<Vec<(PciAddress, Vec<usize>)>>);

impl Binder for Leads {
    fn take(&self, _: PciAddress) -> Result<(), String> {
        unreachable!("nothing is taken here")
    }

    fn aim(&self, function: PciAddress, processors: &[usize]) -> Result<Aimed, String> {
        crate::lock(&self.1).push((function, processors.to_vec()));
        crate::lock(&self.0).remove(0)
    }
}

#[test]
fn messages_are_led_once_and_again_only_where_nobody_had_time_for_it() {
    let (here, linux) = (DISK.parse().unwrap(), "0001:00:02.0".parse().unwrap());
    let answers = vec![Ok(Aimed::Later), Ok(Aimed::Done), Err("it can't be written".into())];
    let leads = Arc::new(Leads(Mutex::new(answers), Mutex::default()));
    let none = Vfio::new(&[], &[], Some(leads.clone()), Source::Groups);
    let vfio = Vfio { names: [(here, linux)].into(), ..none };
    let said = Mutex::new(Vec::new());
    let lead = || vfio.lead(|why| crate::lock(&said).push(why.to_owned()));
    assert!(!lead(), "there is nothing to be led");
    vfio.note_messages(here, vec![2]);
    // One that the machine hasn't.
    vfio.note_messages(linux, vec![2]);
    assert!(lead());
    assert!(!lead() && !lead());
    assert_eq!(*crate::lock(&leads.1), [(linux, vec![2]), (linux, vec![2])]);
    assert!(crate::lock(&said).is_empty());
    // It has messages again.
    vfio.note_messages(here, vec![3]);
    assert!(!lead());
    assert_eq!(crate::lock(&leads.1).last(), Some(&(linux, vec![3])));
    assert_eq!(*crate::lock(&said), ["it can't be written"]);
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
