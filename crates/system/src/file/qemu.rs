//! Which arguments for QEMU are refused: those that the tool gives itself, and those that would let a guest end or forge a run.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// An option and why it is refused.
const REFUSED: &[(&str, &str)] = &[
    ("kernel", "the hypervisor is the kernel"),
    ("initrd", "the bundle is the initial RAM disk"),
    ("append", "the hypervisor takes no command line"),
    ("display", "the tool shows the consoles"),
    ("nographic", "the tool shows the consoles"),
    ("curses", "the tool shows the consoles"),
    ("serial", "the first serial line is the tool's"),
    ("no-reboot", "the tool gives it"),
    ("no-shutdown", "the run ends when the machine is off"),
    ("action", "the run ends when the machine is off"),
    ("daemonize", "the tool waits for it"),
    ("semihosting", "a guest could end the run by it"),
    ("semihosting-config", "a guest could end the run by it"),
];

/// Properties of `-M` that say the same as refused options.
const MACHINE: &[&str] = &["kernel", "initrd", "append"];

/// The position of each refused argument and what is wrong with it.
pub fn refused_arguments(arguments: &[&str]) -> Vec<(usize, String)> {
    let mut refused = Vec::new();
    for (position, argument) in arguments.iter().enumerate() {
        let Some(option) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            continue;
        };
        if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == option) {
            refused.push((position, format!("`{argument}` can't be given to QEMU here: {why}")));
        }
        if matches!(option, "M" | "machine") {
            let properties = arguments.get(position + 1).map_or("", |value| *value);
            for property in properties.split(',') {
                let name = property.split('=').next().unwrap_or("");
                if MACHINE.contains(&name) {
                    let why = format!(
                        "`{property}` can't be given to QEMU's machine here: the tool says it itself"
                    );
                    refused.push((position + 1, why));
                }
            }
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tool_gives_itself_is_refused_in_every_spelling() {
        let arguments = ["-M", "virt,kernel=x,iommu=smmuv3", "--kernel", "x", "-no-reboot", "-m", "2G"];
        let positions: Vec<usize> = refused_arguments(&arguments).into_iter().map(|(at, _)| at).collect();
        assert_eq!(positions, [1, 2, 4]);
    }
}
