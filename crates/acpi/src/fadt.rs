//! FADT: power, reset, and which ports are ACPI's own (ACPI 6.5, 5.2.9).

use alloc::vec::Vec;

use axvm_addr::Hpa;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::root::{Memory, table};
use crate::table::{GenericAddress, Header, RawGenericAddress, Space, Table, Word};

/// What resets the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The register, of 8 bits.
    pub register: GenericAddress,
    /// What is written to it.
    pub value: u8,
}

/// Registers that are ACPI's: whoever has them switches the machine's power, or has the firmware do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// What they are called.
    pub name: &'static str,
    /// Where they begin.
    pub at: GenericAddress,
    /// How many bytes they have.
    pub bytes: u32,
}

/// What the FADT says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fadt {
    /// Where the DSDT is.
    pub dsdt: Hpa,
    /// The global system interrupt of ACPI's own events.
    pub sci: u16,
    /// There are no PM registers (HW_REDUCED_ACPI).
    pub hardware_reduced: bool,
    /// There are devices on ISA that software takes for granted (LEGACY_DEVICES).
    pub legacy_devices: bool,
    /// There is a keyboard controller (8042).
    pub keyboard_controller: bool,
    /// MSIs must not be used (MSI_NOT_SUPPORTED).
    pub no_msi: bool,
    /// There is no clock at the CMOS's ports (CMOS_RTC_NOT_PRESENT).
    pub no_cmos_clock: bool,
    /// What resets the machine, where the FADT knows that.
    pub reset: Option<Reset>,
    /// PM1a_CNT and PM1b_CNT, which switch the power off.
    pub pm1_control: [Option<GenericAddress>; 2],
    /// Bits of the PM timer: 24 or 32 (TMR_VAL_EXT).
    pub timer_bits: u8,
    /// SLEEP_CONTROL_REG, which switches a machine off that has no PM registers.
    pub sleep_control: Option<GenericAddress>,
    /// Every block of registers that it names, those among them.
    pub blocks: Vec<Block>,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    _header: Header,
    _facs: U32,
    dsdt: U32,
    _reserved: u8,
    _profile: u8,
    sci: Word,
    smi_command: U32,
    _acpi: [u8; 4],
    /// PM1a_EVT, PM1b_EVT, PM1a_CNT, PM1b_CNT, PM2_CNT, PM_TMR, GPE0, GPE1: ports.
    ports: [U32; 8],
    /// PM1_EVT, PM1_CNT, PM2_CNT, PM_TMR, GPE0, GPE1.
    lengths: [u8; 6],
    _gpe1_base: u8,
    _states: [u8; 14],
    boot: Word,
    _reserved2: u8,
    flags: U32,
    reset: RawGenericAddress,
    reset_value: u8,
    _arm: Word,
    _minor: u8,
    _wide_facs: U64,
    wide_dsdt: U64,
    /// The same eight in their wide form, which counts where it says something (5.2.9).
    wide: [RawGenericAddress; 8],
    sleep_control: RawGenericAddress,
    sleep_status: RawGenericAddress,
}

const _: () = assert!(core::mem::offset_of!(Fixed, boot) == 109);
const _: () = assert!(core::mem::offset_of!(Fixed, reset) == 116);
const _: () = assert!(core::mem::offset_of!(Fixed, wide) == 148);
const _: () = assert!(core::mem::offset_of!(Fixed, sleep_control) == 244);

/// Bytes of the table of ACPI 1.0; what a table doesn't reach is taken for zero.
const LEAST: usize = 116;

/// IAPC_BOOT_ARCH (table 5.11).
mod boot {
    pub const LEGACY_DEVICES: u16 = 1;
    pub const KEYBOARD_CONTROLLER: u16 = 1 << 1;
    pub const NO_MSI: u16 = 1 << 3;
    pub const NO_CMOS_CLOCK: u16 = 1 << 5;
}

/// The flags (table 5.10).
mod flags {
    pub const TIMER_32: u32 = 1 << 8;
    pub const RESET: u32 = 1 << 10;
    pub const HARDWARE_REDUCED: u32 = 1 << 20;
}

/// What the eight blocks are called, and which of the lengths is theirs.
const BLOCKS: [(&str, usize); 8] = [
    ("PM1a_EVT", 0),
    ("PM1b_EVT", 0),
    ("PM1a_CNT", 1),
    ("PM1b_CNT", 1),
    ("PM2_CNT", 2),
    ("PM_TMR", 3),
    ("GPE0", 4),
    ("GPE1", 5),
];

impl Fadt {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It isn't a FADT, or shorter than that of ACPI 1.0.
    pub fn read(table: &Table) -> Result<Self, Error> {
        table.fixed::<Header>(b"FACP")?;
        let has = table.bytes();
        if has.len() < LEAST {
            return Err(Error::Short { table: table.signature(), has: has.len(), needs: LEAST });
        }
        let mut bytes = [0; size_of::<Fixed>()];
        bytes.iter_mut().zip(has).for_each(|(to, from)| *to = *from);
        let short = |_| Error::Short { table: table.signature(), has: has.len(), needs: LEAST };
        let raw = Fixed::read_from_bytes(&bytes).map_err(short)?;
        let (boot, flags) = (raw.boot.get(), raw.flags.get());
        let is = |flag: u32| flags & flag != 0;
        let wide_dsdt = raw.wide_dsdt.get();
        let reset = raw.reset.get().filter(|_| is(flags::RESET));
        let place = |number: usize| {
            let port = raw.ports.get(number).map_or(0, |port| u64::from(port.get()));
            let length = BLOCKS.get(number).and_then(|(_, length)| raw.lengths.get(*length));
            let length = length.copied().unwrap_or(0);
            let narrow = || {
                let bits = length.saturating_mul(8);
                let at = GenericAddress { space: Space::Port, bits, access_bytes: 0, address: port };
                (port != 0).then_some(at)
            };
            Some((raw.wide.get(number)?.get().or_else(narrow)?, u32::from(length)))
        };
        let mut blocks: Vec<Block> = BLOCKS
            .iter()
            .enumerate()
            .filter_map(|(number, (name, _))| {
                let (at, bytes) = place(number)?;
                Some(Block { name, at, bytes })
            })
            .collect();
        let byte = |name, at| Block { name, at, bytes: 1 };
        blocks.extend(reset.map(|at| byte("RESET_REG", at)));
        blocks.extend(raw.sleep_control.get().map(|at| byte("SLEEP_CONTROL_REG", at)));
        blocks.extend(raw.sleep_status.get().map(|at| byte("SLEEP_STATUS_REG", at)));
        let smi = u64::from(raw.smi_command.get());
        if smi != 0 {
            let at = GenericAddress { space: Space::Port, bits: 8, access_bytes: 1, address: smi };
            blocks.push(byte("SMI_CMD", at));
        }
        Ok(Self {
            dsdt: Hpa(if wide_dsdt == 0 { raw.dsdt.get().into() } else { wide_dsdt }),
            sci: raw.sci.get(),
            hardware_reduced: is(flags::HARDWARE_REDUCED),
            legacy_devices: boot & boot::LEGACY_DEVICES != 0,
            keyboard_controller: boot & boot::KEYBOARD_CONTROLLER != 0,
            no_msi: boot & boot::NO_MSI != 0,
            no_cmos_clock: boot & boot::NO_CMOS_CLOCK != 0,
            reset: reset.map(|register| Reset { register, value: raw.reset_value }),
            timer_bits: if is(flags::TIMER_32) { 32 } else { 24 },
            sleep_control: raw.sleep_control.get(),
            pm1_control: [place(2).map(|(at, _)| at), place(3).map(|(at, _)| at)],
            blocks,
        })
    }

    /// The DSDT.
    ///
    /// # Errors
    ///
    /// It can't be read, or is damaged.
    pub fn dsdt(&self, memory: &impl Memory) -> Result<Table, Error> {
        table(memory, self.dsdt)
    }
}
