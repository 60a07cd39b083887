//! No function masters the bus while the IOMMUs are off.

use axvm_addr::PciAddress;
use axvm_axdevice::Width;
use axvm_pci::ConfigSpace;
use axvm_platform::model::Platform;

use crate::pci::Config;

/// Turns bus mastering off at every function that there is: what enumeration finds later is the same.
pub fn all_functions(platform: &Platform, config: &Config) {
    /// Command register, and its bit that lets a function, or a bridge for those behind it, master the bus (PCI 3.0, 6.2.2).
    const COMMAND: u16 = 4;
    const BUS_MASTER: u32 = 1 << 2;
    /// Header type, and its bit that says that there are more functions.
    const HEADER_TYPE: u16 = 0xe;
    const MORE: u32 = 0x80;
    for host in &platform.pci_hosts {
        for bus in host.buses.first..=host.buses.last {
            for device in config.devices(host.segment, bus) {
                for function in 0..8 {
                    let Some(address) = PciAddress::new(host.segment, bus, device, function) else {
                        continue;
                    };
                    if config.read(address, 0, Width::B2) == 0xffff {
                        if function == 0 {
                            break;
                        }
                        continue;
                    }
                    let command = config.read(address, COMMAND, Width::B2);
                    if command & BUS_MASTER != 0 {
                        config.write(address, COMMAND, Width::B2, command & !BUS_MASTER);
                    }
                    if function == 0 && config.read(address, HEADER_TYPE, Width::B1) & MORE == 0 {
                        break;
                    }
                }
            }
        }
    }
}
