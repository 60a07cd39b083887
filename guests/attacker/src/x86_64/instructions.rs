//! Instructions that are the hypervisor's or the machine's, and such as change or lie across pages while a register is accessed.

use alloc::alloc::{Layout, alloc_zeroed};
use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::guarded;
use axvm_guest_runtime::machine::{Fault, VECTOR};

/// An instruction with rAX, rCX and rDX as it is tried with.
macro_rules! tried {
    ($name:literal, $bytes:literal, $rax:expr) => {
        tried!($name, $bytes, $rax, 6)
    };
    ($name:literal, $bytes:literal, $rax:expr, $vector:literal) => {{
        let run = || -> Result<(), Fault> {
            guarded!(concat!(".byte ", $bytes), inout("rax") $rax as u64 => _, inout("rcx") 0u64 => _, inout("rdx") 0u64 => _,)
        };
        Tried { name: $name, vector: $vector, result: run() }
    }};
}

struct Tried {
    name: &'static str,
    vector: u64,
    result: Result<(), Fault>,
}

/// A page for what takes the address of one.
fn page() -> u64 {
    // SAFETY: the layout isn't empty.
    Layout::from_size_align(4096, 4096).map_or(0, |layout| unsafe { alloc_zeroed(layout) } as u64)
}

/// SVM's, waits that nothing ends, system management: each is the exception that a processor without it takes.
pub fn hidden(_: &Board) -> String {
    let page = page();
    macro_rules! all {
        ($($tried:expr),* $(,)?) => {{
            let mut count = 0;
            $(
                let Tried { name, vector, result } = $tried;
                let found = VECTOR.load(Ordering::Relaxed);
                if result.is_ok() {
                    return format!("succeeded: {name} is no exception");
                }
                // An address that there isn't may be looked at first.
                if found != vector && !(found == 13 && name.starts_with("VM")) {
                    return format!("broken: {name} is exception {found}");
                }
                count += 1;
            )*
            count
        }};
    }
    let count: u32 = all!(
        // Those first that change nothing where they are let.
        tried!("MONITOR", "0x0f, 0x01, 0xc8", page),
        tried!("VMRUN", "0x0f, 0x01, 0xd8", page),
        tried!("VMLOAD", "0x0f, 0x01, 0xda", page),
        tried!("VMSAVE", "0x0f, 0x01, 0xdb", page),
        tried!("VMRUN of 0", "0x0f, 0x01, 0xd8", 0),
        tried!("VMSAVE above", "0x0f, 0x01, 0xdb", u64::MAX << 12),
        tried!("STGI", "0x0f, 0x01, 0xdc", 0),
        tried!("CLGI", "0x0f, 0x01, 0xdd", 0),
        tried!("SKINIT", "0x0f, 0x01, 0xde", 0x10000),
        tried!("INVLPGA", "0x0f, 0x01, 0xdf", 0),
        tried!("MWAIT", "0x0f, 0x01, 0xc9", 0),
        tried!("MONITORX", "0x0f, 0x01, 0xfa", page),
        tried!("MWAITX", "0x0f, 0x01, 0xfb", 0),
        tried!("RSM", "0x0f, 0xaa", 0),
        tried!("VMCALL of Intel's", "0x0f, 0x01, 0xc1", 0),
        tried!("VMXOFF", "0x0f, 0x01, 0xc4", 0),
        tried!("RDPRU", "0x0f, 0x01, 0xfd", 0),
        tried!("INVLPGB", "0x0f, 0x01, 0xfe", 0),
        tried!("RDPMC", "0x0f, 0x33", 0, 13),
    );
    // These are done, or nothing, and the guest goes on.
    // SAFETY: caches are coherent; what is in them reaches memory, or stays.
    unsafe {
        core::arch::asm!("wbinvd", options(nostack));
        core::arch::asm!("invd", options(nostack));
    }
    format!("blocked: {count} instructions aren't there")
}

/// Calls of the hypervisor that there aren't: each comes back.
pub fn calls(_: &Board) -> String {
    let mut answers = 0u32;
    for number in (0u64..0x200).chain([0x8400_0000, 0x8400_0008, 0xc400_0003, u64::MAX, 1 << 63]) {
        let mut value = number;
        let run: Result<(), Fault> = guarded!(
            "xchg rbx, {b}; vmmcall; xchg rbx, {b}",
            b = inout(reg) 0u64 => _,
            inout("rax") value, inout("rcx") u64::MAX => _, inout("rdx") u64::MAX => _, inout("rsi") u64::MAX => _,
        );
        answers += u32::from(run.is_ok());
    }
    format!("blocked: {answers} calls came back")
}

/// A load from the local APIC's version register that lies across two pages, at each of its bytes: it reads what one in a page does.
pub fn crossing(board: &Board) -> String {
    // mov eax, [rdi]; ret: with a prefix that says nothing, so that there are more places to be cut at.
    const CODE: [u8; 7] = [0x3e, 0x3e, 0x3e, 0x3e, 0x8b, 0x07, 0xc3];
    let Ok(layout) = Layout::from_size_align(8192, 4096) else { return "skipped".into() };
    // SAFETY: the layout isn't empty.
    let pages = unsafe { alloc_zeroed(layout) };
    if pages.is_null() {
        return "skipped: no memory".into();
    }
    let version = board.madt.local_apic.0 + 0x30;
    let mut first = None;
    for before in 0..=CODE.len() {
        let from = 4096 - before;
        // SAFETY: the code lies within both pages, which are this function's; it loads from a register of the APIC's, and returns.
        let value = unsafe {
            for (at, byte) in CODE.into_iter().enumerate() {
                // Volatile, as no compiler knows that it is read: it is executed.
                pages.add(from + at).write_volatile(byte);
            }
            let code = core::mem::transmute::<*mut u8, extern "sysv64" fn(u64) -> u32>(pages.add(from));
            code(version)
        };
        match first {
            None => first = Some(value),
            Some(first) if first != value => {
                return format!("broken: {value:#x} with {before} bytes before, not {first:#x}");
            }
            Some(_) => {}
        }
    }
    format!("ok: it reads {:#x}", first.unwrap_or(0))
}
