//! `axvm release`: gives PCI functions back that a run has left with vfio-pci, since whoever was to give them back was killed.

use std::path::Path;
use std::process::ExitCode;

use axvm_linux::guard::{self, Duty, Released};
use axvm_linux::probe::Root;
use axvm_linux::vfio::way::Way;
use serde_json::json;

use crate::args::{LinuxGuard, Release};
use crate::output::{print, print_json};

/// Gives them back, and says which.
pub fn release(arguments: &Release) -> ExitCode {
    let found = guard::release(&Root::new(Path::new("/")), Path::new(guard::FOLDER));
    let failed = found.iter().any(|it| matches!(it, Released::Not(_)));
    if arguments.json {
        let of =
            |pick: &dyn Fn(&Released) -> Option<String>| found.iter().filter_map(pick).collect::<Vec<_>>();
        print_json(&json!({
            "back": of(&|it| match it { Released::Back(function) => Some(function.to_string()), _ => None }),
            "in_use": of(&|it| match it { Released::InUse(path) => Some(path.display().to_string()), _ => None }),
            "problems": of(&|it| match it { Released::Not(why) => Some(why.clone()), _ => None }),
        }));
    } else {
        let mut text = String::new();
        for it in &found {
            match it {
                Released::Back(function) => text += &format!("{function}: given back\n"),
                Released::InUse(path) => text += &format!("{}: a run has these still\n", path.display()),
                Released::Not(why) => eprintln!("axvm: {why}"),
            }
        }
        if found.is_empty() {
            text += "nothing is left to be given back\n";
        }
        print(&text);
    }
    if failed { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// Does what a guard does, for whoever has the other ends of standard input and output.
pub fn guard(arguments: &LinuxGuard) -> ExitCode {
    let read = |texts: &[String]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>();
    let (Ok(functions), Ok(in_use)) = (read(&arguments.functions), read(&arguments.in_use)) else {
        return ExitCode::from(2);
    };
    let way = if arguments.devices { Way::Devices } else { Way::Groups };
    let processors = arguments.processors.clone();
    match guard::run(&Duty { functions, in_use, way, user: arguments.user, processors }) {
        Ok(true) => ExitCode::SUCCESS,
        // Who asked has heard why, or is no more.
        Ok(false) | Err(_) => ExitCode::from(2),
    }
}
