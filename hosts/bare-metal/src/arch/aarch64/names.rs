//! What syndromes say, in words.

use axvm_syndrome::{Kind, Status};

/// What an exception class says, in words (Arm ARM, ESR_EL2.EC).
pub fn class_name(class: u8) -> &'static str {
    match class {
        0x00 => "unknown reason",
        0x01 => "WFI or WFE",
        0x07 => "access to SIMD or floating point",
        0x0e => "illegal execution state",
        0x15 => "SVC",
        0x16 => "HVC",
        0x17 => "SMC",
        0x18 => "MSR, MRS or system instruction",
        0x19 => "access to SVE",
        0x1a => "ERET",
        0x20 => "instruction abort from a lower level",
        0x21 => "instruction abort",
        0x22 => "PC alignment fault",
        0x24 => "data abort from a lower level",
        0x25 => "data abort",
        0x26 => "SP alignment fault",
        0x2f => "SError",
        0x30 | 0x31 => "breakpoint",
        0x3c => "BRK",
        _ => "other",
    }
}

/// What a fault status says, in words.
pub fn status_name(status: Status) -> &'static str {
    match status.kind() {
        Kind::AddressSize => "address size fault",
        Kind::Translation => "translation fault",
        Kind::AccessFlag => "access flag fault",
        Kind::Permission => "permission fault",
        Kind::External => "synchronous external abort",
        Kind::ExternalInWalk => "external abort on a table walk",
        Kind::Parity | Kind::ParityInWalk => "damaged memory",
        Kind::Alignment => "alignment fault",
        Kind::Other => "other fault",
    }
}
