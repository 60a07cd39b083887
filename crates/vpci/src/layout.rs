//! The rules for a function's config space, from what its capabilities are.

use alloc::vec::Vec;

use axvm_addr::PciAddress;
use axvm_pci::spec::express::{self, DeviceControl, PortType};
use axvm_pci::spec::msi::{self, MsiLayout};
use axvm_pci::spec::{CONVENTIONAL_SIZE, EXTENDED_SIZE, capability, extended, header, power};
use axvm_pci::{ConfigSpace, Function, Registers, ResetMethod};

use crate::bars::ShownBar;
use crate::messages::{FunctionMessages, Register};
use crate::rules::{Rules, Special};

/// Error bits of the status register, which a written one clears (PCI 6.2.3).
const STATUS_ERRORS: u32 = 0xf900;
/// In the power management capabilities: D1, D2 and the states in which it signals PME (PM 3.2.3).
const POWER_HIDDEN: u32 = 0xfe00;
/// In link control: ASPM and clock power management (PCIe 7.5.3.7).
const LINK_POWER: u32 = 0x103;
/// In device control 2: completion timeout (PCIe 7.5.3.16).
const COMPLETION_TIMEOUT: u32 = 0x1f;

/// The rules for `function`, of whose BARs `bars` are shown, and its pin if it may raise the line.
///
/// `messages` are its messages if the bridge has them.
pub(crate) fn rules<C: ConfigSpace>(
    config: &C,
    function: &Function,
    bars: &[ShownBar],
    intx: bool,
    messages: Option<&FunctionMessages>,
) -> Rules {
    let mut rules = Rules::default();
    let registers = Registers::new(config, function.address);
    let mut shown = standard(registers, function);
    // Messages that the bridge can't have the guest doesn't either.
    shown.retain(|entry| match (entry.id, messages) {
        (capability::MSI, Some(messages)) => messages.msi.is_some(),
        (capability::MSIX, Some(messages)) => messages.msix.is_some(),
        _ => true,
    });
    head(&mut rules, bars, shown.first().map(|first| first.offset));
    if !intx {
        rules.fix(header::INTERRUPT_PIN, 0xff, 0);
    }
    for (position, entry) in shown.iter().enumerate() {
        let next = shown.get(position + 1).map_or(0, |next| next.offset);
        rules.show(entry.offset, entry.end);
        rules.fix(entry.offset + 1, 0xff, next.into());
        match messages {
            Some(messages) if matches!(entry.id, capability::MSI | capability::MSIX) => {
                kept(&mut rules, registers, messages, entry);
            }
            _ => body(&mut rules, registers, function, entry),
        }
    }
    extended_list(&mut rules, registers, function);
    rules
}

/// What depends on where the guest sees the function: whether others are in its slot, and, if it is shown on the root bus
/// without the port above it, that it is integrated into the root complex (PCIe 7.5.3.2), as functions there are.
pub(crate) fn place(rules: &mut Rules, function: &Function, shown: PciAddress, has_siblings: bool) {
    let multifunction = u32::from(header::MULTIFUNCTION);
    rules.fix(header::HEADER_TYPE, multifunction, if has_siblings { multifunction } else { 0 });
    if shown.bus != function.address.bus
        && function.port == Some(PortType::Endpoint)
        && let Some(offset) = function.capability(capability::EXPRESS)
    {
        rules.fix(offset + express::CAPABILITIES, 0xf0, 0x90);
    }
}

/// The first 64 bytes.
fn head(rules: &mut Rules, bars: &[ShownBar], first: Option<u16>) {
    rules.show(header::VENDOR, header::COMMAND);
    rules.special(header::COMMAND, Special::Command);
    rules.show(header::STATUS, header::BIST);
    rules.fix(header::STATUS, header::STATUS_CAPABILITIES.into(), if first.is_some() { u32::MAX } else { 0 });
    rules.clear(header::STATUS, STATUS_ERRORS);
    rules.write(header::CACHE_LINE, 0xff);
    rules.write(header::LATENCY, 0xff);
    for index in 0..header::BARS {
        let shown = bars.iter().any(|bar| bar.registers().contains(&index));
        rules.special(header::bar(index), if shown { Special::Bar(index) } else { Special::Absent });
    }
    // Subsystem ids.
    rules.show(0x2c, header::ROM);
    rules.special(header::ROM, Special::Absent);
    rules.fix(header::CAPABILITIES, 0xff, first.unwrap_or(0).into());
    rules.special(header::INTERRUPT_LINE, Special::Line);
    rules.show(header::INTERRUPT_PIN, capability::FIRST);
}

/// A capability that the guest sees.
struct Shown {
    id: u8,
    offset: u16,
    /// The first byte past it: its size says so, and the next capability.
    end: u16,
}

/// The capabilities of the standard list that the guest sees.
fn standard<C: ConfigSpace>(registers: Registers<'_, C>, function: &Function) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    for &(id, offset) in &function.capabilities {
        let size = match id {
            capability::POWER => power::SIZE,
            capability::MSI => MsiLayout::new(registers.read16(offset + msi::CONTROL)).size,
            capability::MSIX => msi::MSIX_SIZE,
            capability::EXPRESS => match registers.read16(offset + express::CAPABILITIES) & 0xf {
                0 | 1 => express::SIZE_V1,
                _ => express::SIZE_V2,
            },
            capability::VENDOR => u16::from(registers.read8(offset + 2)).max(4),
            _ => continue,
        };
        // A function has one of each of these but the vendor's (PCI 6.7); a second one is somebody's mistake.
        if id != capability::VENDOR && shown.iter().any(|other| other.id == id) {
            continue;
        }
        let next = function.capabilities.iter().map(|other| other.1).filter(|&other| other > offset).min();
        let end = (offset + size).min(next.unwrap_or(CONVENTIONAL_SIZE)).min(CONVENTIONAL_SIZE);
        // What is cut short by the next one isn't what its id says.
        if end == offset + size {
            shown.push(Shown { id, offset, end });
        }
    }
    shown
}

/// What of a capability may be written.
fn body<C: ConfigSpace>(rules: &mut Rules, registers: Registers<'_, C>, function: &Function, entry: &Shown) {
    let offset = entry.offset;
    match entry.id {
        capability::POWER => {
            rules.fix(offset + 2, POWER_HIDDEN, 0);
            rules.clear(offset + power::CONTROL, power::PME_STATUS.into());
            rules.special(offset + power::CONTROL, Special::Power);
        }
        capability::MSI => {
            let layout = MsiLayout::new(registers.read16(offset + msi::CONTROL));
            rules.write(offset + msi::CONTROL, (msi::MSI_ENABLE | msi::MSI_GIVEN).into());
            rules.special(offset, Special::Msi);
            rules.write(offset + msi::MSI_ADDRESS, !0b11);
            if layout.wide {
                rules.write(offset + msi::MSI_ADDRESS + 4, u32::MAX);
            }
            rules.write(offset + layout.data, 0xffff);
            if let Some(mask) = layout.mask {
                rules.write(offset + mask, u32::MAX);
            }
        }
        capability::MSIX => {
            rules.write(offset + msi::CONTROL, (msi::MSIX_ENABLE | msi::MSIX_MASK_ALL).into());
        }
        capability::EXPRESS => {
            let flr = function.resets.contains(&ResetMethod::FunctionLevel);
            if !flr {
                rules.fix(offset + express::DEVICE_CAPABILITIES, express::FLR_CAPABLE, 0);
            }
            let control =
                DeviceControl::RELAXED_ORDERING | DeviceControl::NO_SNOOP | DeviceControl::READ_REQUEST;
            rules.write(offset + express::DEVICE_CONTROL, control.bits().into());
            rules.clear(offset + express::DEVICE_STATUS, express::STATUS_ERRORS.into());
            rules.special(offset + express::DEVICE_CONTROL, Special::Express);
            rules.lower(offset + express::LINK_CONTROL, LINK_POWER);
            if entry.end == offset + express::SIZE_V2 {
                rules.write(offset + express::DEVICE_CONTROL_2, COMPLETION_TIMEOUT);
            }
        }
        _ => {}
    }
}

/// A capability of messages that the bridge has. Mask bits are the function's own.
fn kept<C: ConfigSpace>(
    rules: &mut Rules,
    registers: Registers<'_, C>,
    messages: &FunctionMessages,
    entry: &Shown,
) {
    for (offset, register) in messages.registers() {
        if !(entry.offset..entry.end).contains(&offset) {
            continue;
        }
        match register {
            Register::MsiControl => {
                rules.fix(offset + msi::CONTROL, (msi::MSI_ENABLE | msi::MSI_GIVEN).into(), 0);
            }
            Register::MsixControl => {
                rules.fix(offset + msi::CONTROL, (msi::MSIX_ENABLE | msi::MSIX_MASK_ALL).into(), 0);
            }
            _ => rules.fix(offset, u32::MAX, 0),
        }
        rules.special(offset, Special::Message(register));
    }
    if entry.id == capability::MSI
        && let Some(mask) = MsiLayout::new(registers.read16(entry.offset + msi::CONTROL)).mask
    {
        rules.write(entry.offset + mask, u32::MAX);
    }
}

/// The extended list. It starts at a fixed place, so if the first one is hidden, an empty entry points on
/// (PCIe 7.6.3).
fn extended_list<C: ConfigSpace>(rules: &mut Rules, registers: Registers<'_, C>, function: &Function) {
    let mut shown: Vec<(u16, u16, u16)> = Vec::new();
    for &(id, offset) in &function.extended_capabilities {
        let size = match id {
            extended::SERIAL_NUMBER => 12,
            extended::VENDOR => ((registers.read32(offset + 4) >> 20) as u16 & !3).max(8),
            _ => continue,
        };
        let next =
            function.extended_capabilities.iter().map(|other| other.1).filter(|&other| other > offset).min();
        let end = offset.saturating_add(size);
        if end <= next.unwrap_or(EXTENDED_SIZE) {
            shown.push((id, offset, end));
        }
    }
    if let Some(&(_, first, _)) = shown.first()
        && first != capability::EXTENDED_FIRST
    {
        rules.fix(capability::EXTENDED_FIRST, u32::MAX, u32::from(first) << 20);
    }
    for (position, &(_, offset, end)) in shown.iter().enumerate() {
        let next = shown.get(position + 1).map_or(0, |next| next.1);
        rules.show(offset, end);
        rules.fix(offset, 0xfff0_0000, u32::from(next) << 20);
    }
}
