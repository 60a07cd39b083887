//! Instructions that are the hypervisor's or the machine's, and such as change or lie across pages while a register is accessed.

use alloc::alloc::{Layout, alloc_zeroed};
use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::guarded;
use axvm_guest_runtime::machine::{Fault, VECTOR, load32, read_msr, write_msr};

use super::memory;

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

/// The processor's own way to a host's memory: what a guest has no address of is read and written as if it were the state of another guest.
pub fn state(board: &Board) -> String {
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    const MARK: u64 = 0x4158_564d;
    let Some(target) = board.target() else { return "skipped: no target".into() };
    let place = target & !0xfff;
    // The register's place in what is loaded and saved (AMD APM 2, appendix B) is where the neighbour has its words.
    let loaded: Result<(), Fault> = guarded!(".byte 0x0f, 0x01, 0xda", in("rax") place,);
    let found = read_msr(KERNEL_GS_BASE).unwrap_or(0);
    let _ = write_msr(KERNEL_GS_BASE, MARK);
    let saved: Result<(), Fault> = guarded!(".byte 0x0f, 0x01, 0xdb", in("rax") place,);
    match (loaded, saved) {
        (Err(Fault), Err(Fault)) => "blocked: VMLOAD and VMSAVE aren't there".into(),
        (_, saved) => format!("succeeded: {place:#x} has {found:#x}, saved: {}", saved.is_ok()),
    }
}

/// What a call gives back that there isn't, or that does nothing: an error, or none.
const NOTHING: core::ops::RangeInclusive<i64> = -4095..=0;

/// Calls of the hypervisor that there aren't: each comes back, with such an answer and all else as it was.
pub fn calls(_: &Board) -> String {
    let (mut answers, mut exceptions) = (0u32, 0u32);
    for number in (0u64..0x200).chain([0x8400_0000, 0x8400_0008, 0xc400_0003, u64::MAX, 1 << 63]) {
        let (mut value, mut others) = (number, [u64::MAX; 3]);
        let [rcx, rdx, rsi] = &mut others;
        let mut rbx = 0u64;
        let run: Result<(), Fault> = guarded!(
            "xchg rbx, {b}; vmmcall; xchg rbx, {b}",
            b = inout(reg) rbx, inout("rax") value, inout("rcx") *rcx, inout("rdx") *rdx, inout("rsi") *rsi,
        );
        match run {
            Err(Fault) => exceptions += 1,
            Ok(()) if NOTHING.contains(&(value as i64)) && others == [u64::MAX; 3] && rbx == 0 => {
                answers += 1
            }
            Ok(()) => return format!("succeeded: {number:#x} gives {value:#x}, {others:x?}, {rbx:#x}"),
        }
    }
    match exceptions {
        0 => format!("blocked: {answers} calls came back"),
        _ => format!("broken: {answers} calls came back, {exceptions} are exceptions"),
    }
}

/// A load from the local APIC's version register that lies across two pages, at each of its bytes: it reads what one in a page does. The
/// second page is another one than that which lies behind the first, where another instruction waits. And loads that lie across two pages
/// themselves, of which one is the local APIC's: no device has such a register, so that they are exceptions, or made of two.
pub fn crossing(board: &Board) -> String {
    /// mov eax, [rdi]; ret: with a prefix that says nothing, so that there are more places to be cut at.
    const CODE: [u8; 7] = [0x3e, 0x3e, 0x3e, 0x3e, 0x8b, 0x07, 0xc3];
    /// mov ecx, [rdi]; ret.
    const OTHER: [u8; 7] = [0x3e, 0x3e, 0x3e, 0x3e, 0x8b, 0x0f, 0xc3];
    const PAGE: usize = 4096;
    const UNTOUCHED: u64 = 0x756e_746f;
    let Ok(layout) = Layout::from_size_align(4 * PAGE, PAGE) else { return "skipped".into() };
    // SAFETY: the layout isn't empty.
    let pages = unsafe { alloc_zeroed(layout) };
    if pages.is_null() {
        return "skipped: no memory".into();
    }
    let apic = board.madt.local_apic.0;
    let (first, behind, second) = (pages as u64, 1, 3);
    let frames = [first, first + second as u64 * PAGE as u64, first, apic, first];
    let Some(mapped) = memory::map_pages(&frames) else { return "skipped: no memory".into() };
    let version = apic + 0x30;
    let Ok(expected) = load32(version) else { return "broken: no local APIC".into() };
    for before in 0..=CODE.len() {
        let place =
            |at: usize, page: usize| if at < before { PAGE - before + at } else { page * PAGE + at - before };
        for (at, (byte, other)) in CODE.into_iter().zip(OTHER).enumerate() {
            // SAFETY: the pages are this function's. Volatile, as no compiler knows that they are read: they are executed.
            unsafe {
                pages.add(place(at, behind)).write_volatile(other);
                pages.add(place(at, second)).write_volatile(byte);
            }
        }
        let mut value = UNTOUCHED;
        // SAFETY: the code lies within both pages as they are mapped; it loads from a register of the APIC's, and returns.
        unsafe {
            core::arch::asm!(
                "call {code}",
                code = in(reg) mapped + (PAGE - before) as u64, in("rdi") version, inout("rax") value,
                clobber_abi("sysv64"),
            );
        }
        if value == UNTOUCHED {
            return format!("succeeded: with {before} bytes before, what lies behind the page was done");
        }
        if value != expected.into() {
            return format!("broken: {value:#x} with {before} bytes before, not {expected:#x}");
        }
    }
    // The APIC's page is the fourth of those that are mapped: from RAM into it, and out of it.
    let edges =
        [3, 4].into_iter().flat_map(|edge| (1..4).map(move |before| mapped + edge * PAGE as u64 - before));
    let exceptions = edges.filter(|&at| load32(at).is_err()).count();
    format!("ok: it reads {expected:#x}, and {exceptions} of 6 loads are exceptions")
}
