//! CPUID, model-specific registers, control registers.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::guarded;
use axvm_guest_runtime::machine::{self, Fault, VECTOR, cpuid, read_msr, write_msr};

/// A bit of CPUID that leads past the VM: leaf, register, bit, name.
struct Hidden {
    leaf: u32,
    register: usize,
    bit: u32,
    name: &'static str,
}

const fn hidden(leaf: u32, register: usize, bit: u32, name: &'static str) -> Hidden {
    Hidden { leaf, register, bit, name }
}

const HIDDEN: &[Hidden] = &[
    hidden(1, 2, 3, "MONITOR"),
    hidden(1, 2, 5, "VMX"),
    hidden(1, 2, 6, "SMX"),
    hidden(1, 2, 15, "PDCM"),
    hidden(1, 3, 14, "MCA"),
    hidden(7, 1, 2, "SGX"),
    hidden(7, 1, 25, "processor trace"),
    hidden(7, 2, 3, "protection keys"),
    hidden(7, 2, 7, "shadow stacks"),
    hidden(7, 2, 16, "LA57"),
    hidden(0x8000_0001, 2, 2, "SVM"),
    hidden(0x8000_0001, 2, 10, "instruction sampling"),
    hidden(0x8000_0001, 2, 12, "SKINIT"),
    hidden(0x8000_0001, 2, 23, "performance counters"),
    hidden(0x8000_0001, 2, 29, "MWAITX"),
    hidden(0x8000_0008, 1, 3, "INVLPGB"),
    hidden(0x8000_0008, 1, 4, "RDPRU"),
];

/// Every leaf answers, and none shows what leads past the VM.
pub fn identify(_: &Board) -> String {
    let mut leaves = 0u32;
    for base in [0, 0x4000_0000, 0x8000_0000, 0xc000_0000] {
        for leaf in base..base + 0x100 {
            for part in 0..4 {
                let answer = cpuid(leaf, part);
                leaves += u32::from(answer != [0; 4]);
            }
        }
    }
    if let Some(found) = HIDDEN.iter().find(|it| cpuid(it.leaf, 0)[it.register] & 1 << it.bit != 0) {
        return format!("succeeded: {} is shown", found.name);
    }
    for (leaf, name) in [(5, "MONITOR"), (0xa, "counters"), (0x8000_000a, "SVM"), (0x8000_001f, "encryption")]
    {
        if cpuid(leaf, 0) != [0; 4] {
            return format!("succeeded: leaf {leaf:#x} ({name}) is {:x?}", cpuid(leaf, 0));
        }
    }
    format!("blocked: {leaves} leaves are shown, none of them the machine's")
}

/// What a PC's processor has that its operating system may see, by the manuals: first, last.
const SEEN: &[[u32; 2]] = &[
    [0x10, 0x12],
    [0x1b, 0x1b],
    [0x48, 0x48],
    [0x8b, 0x8b],
    [0xfe, 0xfe],
    [0x174, 0x176],
    [0x1a0, 0x1a0],
    [0x1d9, 0x1d9],
    [0x200, 0x20f],
    [0x250, 0x250],
    [0x258, 0x259],
    [0x268, 0x26f],
    [0x277, 0x277],
    [0x2ff, 0x2ff],
    [0x6e0, 0x6e0],
    [0x800, 0x8ff],
    [0x4b56_4d00, 0x4b56_4d01],
    [0xc000_0080, 0xc000_0084],
    [0xc000_0100, 0xc000_0103],
    [0xc001_0010, 0xc001_0010],
    [0xc001_0015, 0xc001_0015],
    [0xc001_001f, 0xc001_001f],
    [0xc001_0055, 0xc001_0055],
    [0xc001_0058, 0xc001_0058],
    [0xc001_0114, 0xc001_0114],
    [0xc001_1022, 0xc001_1022],
    [0xc001_1029, 0xc001_102a],
];

/// Every register in the ranges where processors have some: those that no guest has can neither be read nor written.
pub fn model_specific(_: &Board) -> String {
    let ranges = [0..0x2000, 0x4b56_4d00..0x4b56_4d10, 0xc000_0000..0xc000_2000, 0xc001_0000..0xc001_2000];
    let (mut read, mut refused) = (0, 0);
    for register in ranges.into_iter().flatten() {
        let is_seen = SEEN.iter().any(|[first, last]| (*first..=*last).contains(&register));
        match read_msr(register) {
            Ok(value) if !is_seen => return format!("succeeded: {register:#x} reads as {value:#x}"),
            Ok(_) => read += 1,
            Err(Fault) => refused += 1,
        }
        if !is_seen {
            for value in [0, 1, u64::MAX] {
                if register != 0x49 && write_msr(register, value).is_ok() {
                    return format!("succeeded: {register:#x} takes {value:#x}");
                }
            }
        }
    }
    // SVME, LMSLE; SVM on; what VMRUN would save the host's state in.
    let efer = read_msr(0xc000_0080).unwrap_or(0);
    for (register, value, name) in [
        (0xc000_0080, efer | 1 << 12, "EFER.SVME"),
        (0xc000_0080, efer | 1 << 13, "EFER.LMSLE"),
        (0xc001_0114, 0, "VM_CR"),
    ] {
        if write_msr(register, value).is_ok() {
            return format!("succeeded: {name} can be written");
        }
    }
    match read_msr(0xc000_0080) {
        Ok(value) if value == efer && value & 1 << 12 == 0 => {
            format!("blocked: {read} are there, {refused} aren't")
        }
        other => format!("succeeded: EFER is {other:x?}"),
    }
}

macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        fn $read() -> u64 {
            let value;
            // SAFETY: it is read.
            unsafe { core::arch::asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack)) };
            value
        }

        /// Writes bits that don't change what the program runs on.
        fn $write(value: u64) -> Result<(), Fault> {
            guarded!(concat!("mov ", $name, ", rax"), in("rax") value,)
        }
    };
}

control_register!(cr0, set_cr0, "cr0");
control_register!(cr4, set_cr4, "cr4");
control_register!(cr8, set_cr8, "cr8");
control_register!(dr7, set_dr7, "dr7");

fn set_xcr0(register: u32, value: u64) -> Result<(), Fault> {
    guarded!("xsetbv", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,)
}

/// Bits that a guest has no use for, or that reach further, can't be set.
pub fn control(_: &Board) -> String {
    let kept = cr4();
    // PKE first, which changes nothing where it is let; VMXE, SMXE, LA57, PCIDE, CET, and what nobody has.
    for bit in [22u32, 12, 13, 14, 17, 23, 24, 25, 30, 31, 32, 63] {
        if set_cr4(kept | 1 << bit).is_ok() {
            return format!("succeeded: bit {bit} of CR4 is set: {:#x}", cr4());
        }
    }
    if cr4() != kept {
        return format!("succeeded: CR4 has become {:#x}", cr4());
    }
    let kept = cr0();
    for value in [kept | 1 << 29, kept & !1] {
        if set_cr0(value).is_ok() {
            return format!("succeeded: CR0 takes {value:#x}");
        }
    }
    // Caches off: swallowed, as caches are shared.
    if set_cr0(kept | 1 << 30).is_err() || cr0() != kept {
        return format!("succeeded: CR0 has become {:#x}", cr0());
    }
    if set_cr8(16).is_ok() || cr8() != 0 || set_cr8(15).is_err() || cr8() != 15 || set_cr8(0).is_err() {
        return format!("broken: CR8 is {}", cr8());
    }
    if set_dr7(1 << 32).is_ok() || set_dr7(0x400).is_err() || dr7() != 0x400 {
        return format!("broken: DR7 is {:#x}", dr7());
    }
    // CR4.OSXSAVE, where it is offered: then XSETBV.
    if cpuid(1, 0)[2] & 1 << 26 != 0 {
        if set_cr4(cr4() | 1 << 18).is_err() || cpuid(1, 0)[2] & 1 << 27 == 0 {
            return "broken: OSXSAVE can't be set".into();
        }
        // Without x87; AVX without SSE; MPX; protection keys; LWP; another register.
        for (register, value) in [(0, 0), (0, 5), (0, 0x1f), (0, 0x207), (0, 1 << 62 | 1), (1, 1)] {
            if set_xcr0(register, value).is_ok() {
                return format!("succeeded: XCR{register} takes {value:#x}");
            }
        }
        if set_xcr0(0, 3).is_err() || set_xcr0(0, 1).is_err() {
            return "broken: XCR0 can't be set".into();
        }
    }
    // The last to fault was XSETBV, or DR7: #GP.
    match VECTOR.load(Ordering::Relaxed) {
        13 => format!(
            "blocked: CR0 {:#x}, CR4 {:#x}, {} exceptions",
            cr0(),
            cr4(),
            machine::FAULTS.load(Ordering::Relaxed)
        ),
        other => format!("broken: it was exception {other}"),
    }
}
