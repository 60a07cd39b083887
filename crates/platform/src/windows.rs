//! Where BARs may be.

use alloc::vec::Vec;

use axvm_addr::{Hpa, PciSpace, PciWindow, Ports, Span};

use crate::model::{PciHost, Platform};

/// Below are the ports of what PCs have had from their beginning, whether anything describes it or not.
const FIRST: u16 = 0x1000;

impl Platform {
    /// Where functions of a host bridge may have BARs: its windows, and of its ports the longest piece that nothing else has, by the same
    /// numbers. Windows of ports are none of the CPU's memory.
    pub fn bus_windows(&self, host: &PciHost) -> Vec<PciWindow<Hpa>> {
        let mut windows = host.windows.clone();
        windows.extend(self.longest_free(&host.ports).and_then(|ports| {
            let cpu = Span::new(Hpa(ports.first().into()), ports.count().into()).ok()?;
            Some(PciWindow { space: PciSpace::Io, prefetchable: false, pci: ports.first().into(), cpu })
        }));
        windows
    }

    fn longest_free(&self, ports: &[Ports]) -> Option<Ports> {
        ports.iter().flat_map(|ports| self.free(*ports)).max_by_key(Ports::count)
    }

    /// The pieces of these ports that nothing else has.
    fn free(&self, ports: Ports) -> Vec<Ports> {
        let of_devices = self.devices.iter().flat_map(|device| &device.ports);
        let mut taken: Vec<Ports> =
            self.kept_ports.iter().map(|kept| &kept.ports).chain(of_devices).copied().collect();
        taken.sort_unstable_by_key(Ports::first);
        let mut free = Vec::new();
        let mut at = u32::from(ports.first().max(FIRST));
        let end = u32::from(ports.last()) + 1;
        for (first, past) in
            taken.iter().map(|it| (u32::from(it.first()), u32::from(it.last()) + 1)).chain([(end, end)])
        {
            let until = first.min(end);
            if let Ok(start) = u16::try_from(at)
                && until > at
            {
                free.extend(Ports::of(start, until - at));
            }
            at = at.max(past);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::*;
    use crate::model::KeptPorts;

    #[test]
    fn bars_of_ports_go_where_nothing_else_is() {
        let ports = |it: &(u16, u16)| Ports::new(it.0, it.1).unwrap();
        let kept_ports = |it: &(u16, u16)| KeptPorts { ports: ports(it), owner: String::new() };
        let longest = |host: &[(u16, u16)], kept: &[(u16, u16)]| {
            let kept_ports = kept.iter().map(kept_ports).collect();
            let platform = Platform { kept_ports, ..Platform::default() };
            let found = platform.longest_free(&host.iter().map(ports).collect::<Vec<_>>());
            found.map(|it| (it.first(), it.last()))
        };
        // QEMU's q35.
        const ALL: [(u16, u16); 2] = [(0, 0xcf7), (0xd00, 0xffff)];
        assert_eq!(longest(&ALL, &[(0x600, 0x67f), (0xcf9, 0xcf9)]), Some((0x1000, 0xffff)));
        assert_eq!(longest(&ALL, &[(0xb000, 0xb03f), (0x5000, 0x5001)]), Some((0x5002, 0xafff)));
        // Taken by two that overlap, up to the last port, and as a whole.
        assert_eq!(longest(&ALL, &[(0x2000, 0xf000), (0x3000, 0xffff)]), Some((0x1000, 0x1fff)));
        assert_eq!(longest(&ALL, &[(0, 0xffff)]), None);
        assert_eq!(longest(&[(0, 0xfff)], &[]), None, "those are a PC's own");
        assert_eq!((longest(&[], &[]), longest(&[(0xffff, 0xffff)], &[])), (None, Some((0xffff, 0xffff))));
    }
}
