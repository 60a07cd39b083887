//! Enumeration: finds every function of a host bridge, silences it, and gives it bus numbers and addresses.

use alloc::vec::Vec;

use axvm_addr::PciAddress;

use crate::clock::{Clock, wait_until};
use crate::config::{ConfigSpace, Registers};
use crate::function::{Function, ResetMethod};
use crate::host_bridge::HostBridge;
use crate::spec::express::{self, PortType};
use crate::spec::extended;
use crate::spec::header::{self, Command};
use crate::spec::{capability, msi, power};
use crate::{acs, assign, bars, capabilities, settle, virtio};

/// The bridges on bridges that are followed; buses deeper than that stay closed.
const MAX_DEPTH: u8 = 16;
/// How long a function may ask to be tried again (PCIe 6.6.1).
const RETRY_US: u64 = 1_000_000;

/// Finds the functions below `host`, by address.
///
/// Afterwards no function masters the bus, sends an MSI or asserts a line, and none but the bridges that are
/// needed decodes; ROMs, virtual functions, ATS, page requests, PASIDs and multicast are off; what ports and
/// functions are capable of against traffic between peers (ACS) is on; BARs have the addresses that the result says, and the windows of
/// bridges fit them; errors are told to nobody ([`Function::stuck`] says where that can't be had). Bridges forward nothing up until [`Forwarding`](crate::Forwarding) has them do so. The same machine gives the same result, whatever was in these registers before.
pub fn enumerate<C: ConfigSpace + ?Sized>(config: &C, host: &HostBridge, clock: &dyn Clock) -> Vec<Function> {
    let mut scan = Scan { config, host, clock, last: host.buses.first, functions: Vec::new() };
    scan.bus(host.buses.first, None, 0);
    let mut functions = scan.functions;
    functions.sort_unstable_by_key(|function| function.address);
    add_bus_resets(&mut functions);
    assign::assign(config, host, &mut functions);
    for function in &mut functions {
        function.virtio = virtio::examine(config, function, clock);
    }
    functions
}

struct Scan<'a, C: ?Sized> {
    config: &'a C,
    host: &'a HostBridge,
    clock: &'a dyn Clock,
    /// The highest bus number given out.
    last: u8,
    functions: Vec<Function>,
}

impl<C: ConfigSpace + ?Sized> Scan<'_, C> {
    fn bus(&mut self, bus: u8, parent: Option<(PciAddress, bool)>, depth: u8) {
        // A link ends in one device, which some take to be every device number (PCIe 7.3.1).
        let devices = if matches!(parent, Some((_, true))) { 1 } else { 32 };
        let first = self.functions.len();
        for device in 0..devices {
            self.device(bus, device, parent.map(|parent| parent.0));
        }
        // Only now: what firmware has numbered behind one bridge must not be what another one is given.
        let found = self.functions.get(first..).unwrap_or(&[]).iter().filter(|function| function.bridge);
        let bridges: Vec<Bridge> = found
            .map(|it| Bridge { address: it.address, link: it.port.is_some_and(PortType::has_link_below) })
            .collect();
        for bridge in bridges {
            self.behind(&bridge, depth);
        }
    }

    /// Finds a device's functions. Behind bridges nobody is reached after that.
    fn device(&mut self, bus: u8, device: u8, parent: Option<PciAddress>) {
        let mut multifunction = false;
        for number in 0..8 {
            let Some(address) = PciAddress::new(self.host.segment, bus, device, number) else { return };
            let registers = Registers::new(self.config, address);
            if self.is_there(registers) {
                if number == 0 {
                    multifunction = registers.read8(header::HEADER_TYPE) & header::MULTIFUNCTION != 0;
                }
                let mut function = inspect(registers, address, parent, multifunction);
                function.bars = bars::size(registers, function.bridge);
                function.stuck = silence(registers, &function);
                if function.bridge {
                    set_buses(registers, 0, 0, 0);
                }
                self.functions.push(function);
            }
            if number == 0 && !multifunction {
                return;
            }
        }
    }

    /// Whether a function is there. One that asks to be tried again, where its root port makes that visible as vendor
    /// 1 (PCIe 2.3.2), gets a second.
    fn is_there(&self, registers: Registers<'_, C>) -> bool {
        let mut vendor = registers.read16(header::VENDOR);
        if vendor == header::RETRY {
            wait_until(self.clock, self.clock.now_us() + RETRY_US, || {
                vendor = registers.read16(header::VENDOR);
                vendor != header::RETRY
            });
        }
        !matches!(vendor, u16::MAX | 0 | header::RETRY)
    }

    /// Gives the bridge its bus numbers and goes on behind it.
    fn behind(&mut self, bridge: &Bridge, depth: u8) {
        if self.last >= self.host.buses.last || depth >= MAX_DEPTH {
            return;
        }
        let registers = Registers::new(self.config, bridge.address);
        let primary = bridge.address.bus;
        self.last += 1;
        let secondary = self.last;
        set_buses(registers, primary, secondary, self.host.buses.last);
        self.bus(secondary, Some((bridge.address, bridge.link)), depth + 1);
        set_buses(registers, primary, secondary, self.last);
    }
}

/// A bridge that nothing is known of but where it is.
struct Bridge {
    address: PciAddress,
    /// Whether a link is below it.
    link: bool,
}

/// Sets a bridge's bus numbers; all 0: it passes on no access to config space (PCI-to-PCI Bridge Architecture 1.2, 3.2.5.2).
fn set_buses<C: ConfigSpace + ?Sized>(
    registers: Registers<'_, C>,
    primary: u8,
    secondary: u8,
    subordinate: u8,
) {
    registers.write8(header::PRIMARY_BUS, primary);
    registers.write8(header::SECONDARY_BUS, secondary);
    registers.write8(header::SUBORDINATE_BUS, subordinate);
}

/// Reads what a function is and turns its decoding and bus mastering off.
pub(crate) fn inspect<C: ConfigSpace + ?Sized>(
    registers: Registers<'_, C>,
    address: PciAddress,
    parent: Option<PciAddress>,
    multifunction: bool,
) -> Function {
    registers.write16(header::COMMAND, Command::INTX_DISABLE.bits());
    let intx_disable = registers.read16(header::COMMAND) & Command::INTX_DISABLE.bits() != 0;
    let class = registers.read32(header::REVISION);
    let capabilities = capabilities::standard(registers);
    let of = |id: u8| capabilities.iter().find(|found| found.0 == id).map(|found| found.1);
    // Without an Express capability there is no extended config space; some bridges show the first 256 bytes
    // again.
    let extended_capabilities = match of(capability::EXPRESS) {
        Some(_) => capabilities::extended(registers),
        None => Vec::new(),
    };
    let pin = registers.read8(header::INTERRUPT_PIN);
    let mut function = Function {
        address,
        parent,
        vendor: registers.read16(header::VENDOR),
        device: registers.read16(header::DEVICE),
        class: class >> 8,
        revision: class as u8,
        bridge: registers.read8(header::HEADER_TYPE) & header::LAYOUT == header::LAYOUT_BRIDGE,
        port: of(capability::EXPRESS)
            .map(|offset| PortType::from_capabilities(registers.read16(offset + express::CAPABILITIES))),
        multifunction,
        bars: Vec::new(),
        msix: of(capability::MSIX).map(|offset| capabilities::msix(registers, offset)),
        msi_vectors: of(capability::MSI).map(|offset| capabilities::msi_vectors(registers, offset)),
        interrupt_pin: if pin <= 4 { pin } else { 0 },
        virtio: None,
        intx_disable,
        stuck: None,
        resets: Vec::new(),
        capabilities,
        extended_capabilities,
    };
    function.resets = resets(registers, &function);
    function
}

/// The resets that the function itself has. What is behind a bridge would be reset with it, so a bridge has
/// none.
fn resets<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) -> Vec<ResetMethod> {
    let mut methods = Vec::new();
    if function.bridge {
        return methods;
    }
    let express = function.capability(capability::EXPRESS).is_some_and(|offset| {
        registers.read32(offset + express::DEVICE_CAPABILITIES) & express::FLR_CAPABLE != 0
    });
    let advanced = function.capability(capability::ADVANCED).is_some_and(|offset| {
        let both = capability::AF_FLR | capability::AF_PENDING;
        registers.read8(offset + capability::AF_CAPABILITIES) & both == both
    });
    if express || advanced {
        methods.push(ResetMethod::FunctionLevel);
    }
    if let Some(offset) = function.capability(capability::POWER)
        && registers.read16(offset + power::CONTROL) & power::NO_SOFT_RESET == 0
    {
        methods.push(ResetMethod::PowerState);
    }
    methods
}

/// A function behind a bridge can be reset with its bus, unless another bridge is there: that one would
/// forget what is behind it.
fn add_bus_resets(functions: &mut [Function]) {
    let resettable: Vec<bool> = functions
        .iter()
        .map(|function| {
            function.parent.is_some()
                && !functions.iter().any(|other| other.parent == function.parent && other.bridge)
        })
        .collect();
    for (function, resettable) in functions.iter_mut().zip(resettable) {
        if resettable {
            function.resets.push(ResetMethod::SecondaryBus);
        }
    }
}

/// Turns off everything that a function could do by itself, and puts the isolation on that it is capable of.
/// Says which control register doesn't keep what it is set to, or doesn't say what it holds.
fn silence<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) -> Option<u16> {
    registers.write32(if function.bridge { header::BRIDGE_ROM } else { header::ROM }, 0);
    let mut unheard = None;
    let mut off = |offset: u16, bits: u16| {
        if !registers.update16(offset, bits, 0) {
            unheard.get_or_insert(offset);
        }
    };
    for &(id, offset) in &function.capabilities {
        match id {
            capability::MSI => off(offset + msi::CONTROL, msi::MSI_ENABLE),
            capability::MSIX => off(offset + msi::CONTROL, msi::MSIX_ENABLE | msi::MSIX_MASK_ALL),
            _ => {}
        }
    }
    for &(id, offset) in &function.extended_capabilities {
        match id {
            extended::SRIOV => off(offset + extended::SRIOV_CONTROL, 0b1001),
            extended::ATS => off(offset + extended::ATS_CONTROL, 1 << 15),
            extended::PRI => off(offset + extended::PRI_CONTROL, 1),
            // It sends copies to whichever ports want them.
            extended::MULTICAST => off(offset + extended::MULTICAST_CONTROL, 1 << 15),
            extended::PASID => off(offset + extended::PASID_CONTROL, 1),
            _ => {}
        }
    }
    acs::enable(registers, function);
    let stuck = settle::settle(registers, function);
    unheard.or(stuck)
}
