//! From the tool's bundle to running VMs: the machine is found, all is planned, and the VMs are started.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axvm::report::Report;
use axvm_plan::files::Files;
use axvm_plan::problem::{Problem, Rule};
use axvm_plan::{own_tree, plan};
use axvm_platform::sysfs::Machine;
use axvm_system::bundle::Bundle;
use axvm_system::model::Item;
use kvm_ioctls::Kvm;

use crate::guard::Guard;
use crate::host::{Host, Parts};
use crate::link::Link;
use crate::output::Bell;
use crate::{caller, confine, probe, serve, vfio};

/// What keeps the host from even saying what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bundle can't be read.
    #[error("the bundle can't be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is none.
    #[error("the bundle can't be used: {0}")]
    Bundle(#[from] axvm_system::bundle::BundleError),
    /// No tool wants to hear of it.
    #[error("the bundle has no number for what is said to the tool: `axvm run` writes it")]
    NoNonce,
}

/// Runs the VMs of a bundle, and says by frames on standard output how it goes. Keys and commands come by standard input; its end ends the run.
///
/// # Errors
///
/// [`StartError`]. All else is in the report.
pub fn run(path: &Path) -> Result<(), StartError> {
    let start = Instant::now();
    // The images are used as long as this process is there: VMs may start again.
    let bytes: &'static [u8] = Vec::leak(std::fs::read(path)?);
    let bundle = Bundle::parse(bytes)?;
    let nonce = bundle.run().nonce.ok_or(StartError::NoNonce)?;
    let link = Link::new(&nonce, Box::new(io::stdout()));
    match prepare(&bundle, start, link) {
        Ok(host) => {
            for note in &host.1 {
                host.0.link.info(format_args!("{note}"));
            }
            if let Err(error) = confine::confine() {
                let problem = Problem::new(Item::Board(String::new()), Rule::Platform, error.to_string());
                host.0.link.report(&Report::bad_input(vec![problem]));
                return Ok(());
            }
            host.0.start_vms();
            serve::serve(host.0);
            host.0.give_back();
        }
        Err((link, problems)) => {
            for problem in &problems {
                link.error(format_args!("{problem}"));
            }
            link.report(&Report::bad_input(problems));
        }
    }
    Ok(())
}

type Refused = (Link, Vec<Problem>);

/// Finds the machine, and plans. The notes of the plan come with it.
fn prepare(
    bundle: &Bundle<'static>,
    start: Instant,
    link: Link,
) -> Result<(&'static Host, Vec<String>), Refused> {
    let refuse = |link, what: String| {
        Err((link, vec![Problem::new(Item::Board(String::new()), Rule::Platform, what)]))
    };
    let Machine { platform, functions } = match probe::found() {
        Ok(machine) => machine,
        Err(error) => return refuse(link, error.to_string()),
    };
    let files = Files::of(bundle);
    let planned = plan(bundle.system(), &platform, &files.images).and_then(|mut plan| {
        own_tree::check_memory(bundle.system(), &mut plan, &files.trees()).map(|()| plan)
    });
    let plan = match planned {
        Ok(plan) => plan,
        Err(problems) => return Err((link, problems)),
    };
    let root = probe::Root::new(Path::new("/"));
    let problems = vfio::check::problems(&root, &functions, &plan);
    if !problems.is_empty() {
        return Err((link, problems));
    }
    let gives = plan.vms.iter().any(|vm| vm.devices.iter().any(|device| device.pci.is_some()));
    let guard = match gives.then(Guard::start).transpose() {
        Ok(guard) => guard.map(Arc::new),
        Err(error) => return refuse(link, format!("devices can't be taken from their drivers: {error}")),
    };
    let made = Kvm::new().map_err(|error| io::Error::from_raw_os_error(error.errno()));
    let made = made.and_then(|kvm| Ok((kvm, Bell::new()?))).and_then(|made| caller::prepare().map(|()| made));
    let (kvm, bell) = match made {
        Ok(made) => made,
        Err(error) => return refuse(link, format!("this Linux runs no guests: {error}")),
    };
    let cpus = probe::cpus(&root, &platform);
    let notes = plan.notes.clone();
    let host = Host::new(Parts {
        kvm,
        platform,
        functions,
        guard,
        cpus,
        plan,
        files: files.vms,
        link,
        bell: Arc::new(bell),
        start,
    });
    Ok((Box::leak(Box::new(host)), notes))
}
