//! From the tool's bundle to running VMs: the machine is found, all is planned, and the VMs are started.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axvm::report::Report;
use axvm_addr::{CpuId, PciAddress};
use axvm_plan::problem::{Problem, Rule};
use axvm_plan::{Plan, own_tree, plan};
use axvm_platform::sysfs::{self, Machine};
use axvm_system::bundle::Bundle;
use axvm_system::model::Item;

use crate::confine::Keeps;
use crate::guard::{Duty, Guard};
use crate::host::{Host, Parts};
use crate::images::{Beside, Images};
use crate::link::Link;
use crate::output::Bell;
use crate::vfio::way::{Source, Way};
use crate::{caller, confine, kvm, probe, rights, serve, vfio};

/// What keeps the host from even saying what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bundle can't be read.
    #[error("the bundle can't be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is none.
    #[error("the bundle can't be used: {0}")]
    Bundle(#[from] axvm_system::bundle::BundleError),
    /// What stands behind it can't be read.
    #[error("the bundle can't be used: {0}")]
    Beside(String),
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
    let bytes = std::fs::read(path)?;
    let bundle = Bundle::parse(&bytes)?;
    let beside = Beside::behind(&bytes).map_err(StartError::Beside)?;
    // SAFETY: the tool has opened them for this process, which has just begun.
    let images = unsafe { Images::take(beside) }?;
    let nonce = bundle.run().nonce.ok_or(StartError::NoNonce)?;
    let link = Link::new(&nonce, Box::new(io::stdout()));
    match prepare(images, &bundle, start, link) {
        Ok(Prepared { host, notes, keeps }) => {
            for note in &notes {
                host.link.info(format_args!("{note}"));
            }
            match confine::confine(keeps) {
                Ok(held) => {
                    for what in &held.lacks {
                        host.link
                            .info(format_args!("the process that runs the VMs isn't confined by {what}"));
                    }
                    host.note_confinement(held);
                }
                Err(error) => {
                    let problem = Problem::new(Item::Board(String::new()), Rule::Platform, error.to_string());
                    host.link.report(&Report::bad_input(vec![problem]));
                    return Ok(());
                }
            }
            host.start_vms();
            serve::serve(host);
            host.give_back();
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

/// All that is there before anything is given up.
struct Prepared {
    host: &'static Host,
    /// The plan's.
    notes: Vec<String>,
    /// What is still needed then.
    keeps: Keeps,
}

/// Finds the machine, and plans.
fn prepare(images: Images, bundle: &Bundle<'_>, start: Instant, link: Link) -> Result<Prepared, Refused> {
    let refuse = |link, what: String| {
        Err((link, vec![Problem::new(Item::Board(String::new()), Rule::Platform, what)]))
    };
    let kvm = match kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => return refuse(link, error.to_string()),
    };
    let Machine { platform, functions } = match probe::found() {
        Ok(machine) => machine,
        Err(error) => return refuse(link, error.to_string()),
    };
    let trees = match images.trees() {
        Ok(trees) => trees,
        Err(error) => return refuse(link, error.to_string()),
    };
    let planned = plan(bundle.system(), &platform, images.known()).and_then(|mut plan| {
        let trees: Vec<(u16, &[u8])> = trees.iter().map(|(vm, bytes)| (*vm, bytes.as_slice())).collect();
        own_tree::check_memory(bundle.system(), &mut plan, &trees).map(|()| plan)
    });
    let plan = match planned {
        Ok(plan) => plan,
        Err(problems) => return Err((link, problems)),
    };
    let root = probe::Root::new(Path::new("/"));
    let found = vfio::check::check(&root, &functions, bundle.system(), &plan);
    if !found.problems.is_empty() {
        return Err((link, found.problems));
    }
    // Without one the plan gives no function.
    let way = Way::of(&root).unwrap_or_default();
    let cpus = probe::cpus(&root, &platform);
    let duty = duty(&plan, &functions, found.in_use, way, &cpus);
    let gives = !duty.functions.is_empty();
    let source = match gives.then(|| Source::open(way, plan.vms.len())).transpose() {
        Ok(source) => source.unwrap_or(Source::Groups),
        Err(error) => {
            return refuse(link, format!("/dev/iommu, by which devices are given, can't be opened: {error}"));
        }
    };
    let keeps = Keeps { vfio: gives, user: confine::own_user(Path::new("/"), way) };
    let guard = match gives.then(|| Guard::start(&duty)).transpose() {
        Ok(guard) => guard.map(Arc::new),
        Err(error) => return refuse(link, format!("devices can't be taken from their drivers: {error}")),
    };
    let made = Bell::new().and_then(|bell| caller::prepare().map(|()| bell));
    let bell = match made {
        Ok(made) => made,
        Err(error) => return refuse(link, format!("this Linux runs no guests: {error}")),
    };
    let notes = plan.notes.iter().cloned().chain(found.notes).collect();
    let host = Host::new(Parts {
        kvm,
        platform,
        functions,
        guard,
        source,
        cpus,
        plan,
        images,
        link,
        bell: Arc::new(bell),
        start,
    });
    Ok(Prepared { host: Box::leak(Box::new(host)), notes, keeps })
}

/// What a guard is there for: the plan's functions, as Linux calls them, who opens them, and to which processors they may interrupt.
fn duty(
    plan: &Plan,
    functions: &[sysfs::Function],
    in_use: BTreeSet<PciAddress>,
    way: Way,
    cpus: &[(CpuId, usize)],
) -> Duty {
    let named = plan.vms.iter().flat_map(|vm| &vm.devices).filter_map(|device| device.pci);
    let mut linux: Vec<PciAddress> = named
        .filter_map(|address| functions.iter().find(|it| it.address == Some(address)))
        .map(|it| it.linux)
        .collect();
    linux.sort_unstable();
    linux.dedup();
    let has = |cpu: &CpuId| plan.vms.iter().flat_map(|vm| &vm.cpus).any(|vcpu| vcpu.cpu == *cpu);
    Duty {
        functions: linux,
        in_use: in_use.into_iter().collect(),
        way,
        user: confine::own_user(Path::new("/"), way).or_else(rights::handed_to),
        processors: cpus.iter().filter(|(cpu, _)| has(cpu)).map(|(_, number)| *number).collect(),
    }
}
