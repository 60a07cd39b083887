//! The static tables: FADT, MADT, MCFG, SPCR.

use alloc::vec::Vec;

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;
use axvm_addr::Ports;

use super::{AcpiWriteError, OEM, OEM_REVISION, Polarity, TABLE, aml, level_lines, table};
use crate::description::{AcpiDescription, Description};

/// IAPC_BOOT_ARCH (5.2.9.3).
const LEGACY_DEVICES: u16 = 1 << 0;
const NO_VGA: u16 = 1 << 2;
const NO_ASPM: u16 = 1 << 4;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// The CMOS's clock has its registers there.
const CMOS_CLOCK: u16 = 0x70;

/// Latencies of C2 and C3 above those that there can be: neither is there.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

fn ports(ports: Ports, access: AccessSize) -> GAS {
    let bits = (ports.count() * 8).min(u8::MAX.into()) as u8;
    GAS::new(AddressSpace::SystemIo, bits, 0, access, ports.first().into())
}

/// FADT (5.2.9): always in ACPI's mode, power and reset by ports, a power button without a device.
pub(super) fn fadt(description: &Description, acpi: &AcpiDescription, facs: u64, dsdt: u64) -> Vec<u8> {
    let power = &acpi.power;
    let mut fadt = FADTBuilder::new(OEM, TABLE, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // That these two are set says that they are no buttons of the fixed kind; the power button's isn't.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    // Both forms say the same, for those that read one of the two.
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = (power.sci.0 as u16).into();
    fadt.pm1a_evt_blk = u32::from(power.event.first()).into();
    fadt.pm1_evt_len = power.event.count() as u8;
    fadt.x_pm1a_evt_blk = ports(power.event, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(power.control.first()).into();
    fadt.pm1_cnt_len = power.control.count() as u8;
    fadt.x_pm1a_cnt_blk = ports(power.control, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(power.timer.first()).into();
    fadt.pm_tmr_len = power.timer.count() as u8;
    fadt.x_pm_tmr_blk = ports(power.timer, AccessSize::DwordAccess);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.reset_reg = ports(Ports::one(power.reset), AccessSize::ByteAccess);
    fadt.reset_value = power.reset_value;
    let given =
        |port| description.devices.iter().any(|device| device.ports.iter().any(|it| it.contains(port)));
    let clock = if given(CMOS_CLOCK) { 0 } else { NO_CMOS_CLOCK };
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA | NO_ASPM | clock).into();
    aml(&fadt.finalize())
}

/// The bus ISA's interrupts are on, and flags of an override (5.2.12.5, table 5.26).
const ISA: u8 = 0;
const ACTIVE_HIGH: u16 = 0b01;
const ACTIVE_LOW: u16 = 0b11;
const LEVEL: u16 = 0b11 << 2;

/// A processor that can be started (table 5.22).
const ENABLED: u32 = 1;

/// An id from this on needs an x2APIC's record (5.2.12.12); this uid is all processors'.
const WIDE_ID: u64 = 255;
const ALL: u8 = 0xff;

/// The input of a local APIC to which an NMI comes, if one does.
const NMI_INPUT: u8 = 1;

/// MADT (5.2.12): the processors, and their interrupt controllers. No 8259 is beside them.
pub(super) fn madt(description: &Description, acpi: &AcpiDescription) -> Result<Sdt, AcpiWriteError> {
    let low = |at: axvm_addr::Gpa| {
        u32::try_from(at.0)
            .map_err(|_| AcpiWriteError::TooMuch("an APIC lies above 4 GiB, where no MADT can say it"))
    };
    let mut madt = table(*b"APIC", 5);
    madt.append_slice(&low(acpi.local_apic)?.to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    for (uid, &id) in (0u32..).zip(&description.cpus) {
        let small = u8::try_from(id).ok().zip(u8::try_from(uid).ok()).filter(|_| id < WIDE_ID);
        match small {
            Some((id, uid)) => {
                madt.append_slice(&[0, 8, uid, id]);
                madt.append_slice(&ENABLED.to_le_bytes());
            }
            None => {
                let id = u32::try_from(id)
                    .map_err(|_| AcpiWriteError::TooMuch("a processor's id has more than 32 bits"))?;
                madt.append_slice(&[9, 16, 0, 0]);
                for field in [id, ENABLED, uid] {
                    madt.append_slice(&field.to_le_bytes());
                }
            }
        }
    }
    madt.append_slice(&[1, 12, acpi.io_apic.id, 0]);
    madt.append_slice(&low(acpi.io_apic.registers)?.to_le_bytes());
    madt.append_slice(&acpi.io_apic.first.0.to_le_bytes());
    for (irq, polarity) in level_lines(description, acpi) {
        let active = if polarity == Polarity::High { ACTIVE_HIGH } else { ACTIVE_LOW };
        madt.append_slice(&[2, 10, ISA, irq.0 as u8]);
        madt.append_slice(&irq.0.to_le_bytes());
        madt.append_slice(&(active | LEVEL).to_le_bytes());
    }
    madt.append_slice(&[4, 6, ALL, 0, 0, NMI_INPUT]);
    Ok(madt)
}

/// MCFG (PCI Firmware 3.3, 4.1.2): config space, by the address that bus 0 would have.
pub(super) fn mcfg(description: &Description) -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM, TABLE, OEM_REVISION);
    for host in &description.pci {
        let base = host.ecam.start().0.saturating_sub(u64::from(host.buses.first) << 20);
        mcfg.add_ecam(base, host.segment, host.buses.first, host.buses.last);
    }
    aml(&mcfg)
}

/// SPCR (Microsoft's specification, revision 2): the console, a 16550 with its interrupt at an I/O APIC, 115200 bits a second, 8N1, ANSI.
pub(super) fn spcr(description: &Description) -> Option<Sdt> {
    let console = description.console.as_ref()?;
    let at = console.at.ports()?;
    let mut spcr = table(*b"SPCR", 2);
    spcr.append_slice(&[0; 4]);
    spcr.append_slice(&aml(&GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        at.first().into(),
    )));
    spcr.append_slice(&[0b10, console.irq.0 as u8]);
    spcr.append_slice(&console.irq.0.to_le_bytes());
    spcr.append_slice(&[7, 0, 1, 0, 3, 0]);
    // It is no PCI function.
    spcr.append_slice(&[0xff; 4]);
    spcr.append_slice(&[0; 12]);
    Some(spcr)
}
