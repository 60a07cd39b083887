//! Firmware that has the CPUs and the power.

use axvm_addr::{Hpa, Interrupt, PciAddress};
use serde::{Deserialize, Serialize};

/// The firmware that starts CPUs and switches the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// PSCI, and how it is called.
    Psci(PsciConduit),
    /// ACPI's registers. CPUs are started by their local APICs.
    Acpi(AcpiFirmware),
}

/// How PSCI is called (Arm DEN 0022, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PsciConduit {
    /// `smc`.
    Smc,
    /// `hvc`.
    Hvc,
}

/// What ACPI says of the machine's power and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiFirmware {
    /// What switches the machine off: the state S5.
    pub power_off: Option<PowerOff>,
    /// What starts it again.
    pub reset: Option<AcpiReset>,
    /// The PM timer, which counts at 3,579,545 Hz: of so many bits.
    pub timer: Option<Register>,
    /// The line of ACPI's own events (SCI).
    pub event: Option<Interrupt>,
}

/// What switches a machine off (ACPI 6.5, 4.8.3.2 and 4.8.3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerOff {
    /// PM1a_CNT, and PM1b_CNT where there is one: each gets its sleep type in bits 12:10, and SLP_EN, bit 13.
    Pm1 {
        /// The first.
        a: SleepRegister,
        /// The second.
        b: Option<SleepRegister>,
    },
    /// SLEEP_CONTROL_REG of a machine without PM registers: the type in bits 4:2, and SLP_EN, bit 5.
    SleepControl(SleepRegister),
}

/// A register that a sleep type is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SleepRegister {
    /// The register.
    pub register: Register,
    /// The type, three bits.
    pub sleep_type: u8,
}

/// What starts a machine again: a value that is written to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiReset {
    /// The register, of 8 bits.
    pub register: Register,
    /// The value.
    pub value: u8,
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Where it is.
    pub place: Place,
    /// How many bits it has.
    pub bits: u8,
}

/// Where a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In memory.
    Memory(Hpa),
    /// At a port.
    Port(u16),
    /// In the config space of a PCI function.
    PciConfig {
        /// The function.
        function: PciAddress,
        /// Where in it.
        offset: u16,
    },
}
