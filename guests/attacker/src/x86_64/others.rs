//! With a second CPU of the VM's: what CPUs send each other, and instructions that one changes while the other is at them.

use alloc::alloc::{Layout, alloc_zeroed};
use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use axvm_guest_runtime::apic::Local;
use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{
    SURELY_S, cpuid, frequency, load32, now, read_msr, start_cpu, store32, within, write_msr,
};

const COMMAND: u64 = 0x300;
const TARGET: u64 = 0x310;
const REQUESTED: u64 = 0x200;
const SPURIOUS: u64 = 0xf0;
const VERSION: u64 = 0x30;
const ASSERT: u32 = 1 << 14;
const ALL_BUT_SELF: u32 = 3 << 18;
const INIT: u32 = 5;
const STARTUP: u32 = 6;
/// What is sent to make an interrupt of it.
const VECTOR: u32 = 0x51;

/// Where the second CPU finds its local APIC, the code that it changes.
static APIC: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicU64 = AtomicU64::new(0);
/// How far the second CPU is, and what its local APIC has to deliver of [`VECTOR`]'s word.
static ROUNDS: AtomicU64 = AtomicU64::new(0);
static WAITING: AtomicU32 = AtomicU32::new(0);

/// Of a local APIC's page.
fn at(register: u64) -> *mut u32 {
    (APIC.load(Ordering::Relaxed) + register) as *mut u32
}

/// Has done something, and never does anything again.
extern "C" fn halt() -> ! {
    ROUNDS.fetch_add(1, Ordering::Relaxed);
    loop {
        // SAFETY: nothing interrupts it.
        unsafe { core::arch::asm!("cli; hlt", options(nomem, nostack)) };
    }
}

/// Both CPUs sleep with their interrupts off.
pub fn halts(board: &Board) -> String {
    match second(board, halt) {
        Ok(_) => halt(),
        Err(why) => why,
    }
}

/// The second CPU waits to be started, and the first one sleeps with its interrupts off.
pub fn waits(board: &Board) -> String {
    let id = match second(board, listen) {
        Ok(id) => u32::from(id),
        Err(why) => return why,
    };
    let base = board.madt.local_apic.0;
    let sent = (store32(base + TARGET, id << 24), store32(base + COMMAND, INIT << 8 | ASSERT));
    if sent != (Ok(()), Ok(())) || !within(SURELY_S, || !goes_on()) {
        return "broken: the second CPU goes on after INIT".into();
    }
    halt()
}

/// Looks what comes for it, which it doesn't take.
extern "C" fn listen() -> ! {
    // SAFETY: registers of its own local APIC.
    unsafe { at(SPURIOUS).write_volatile(0x1ff) };
    loop {
        // SAFETY: the same.
        let word = unsafe { at(REQUESTED + u64::from(VECTOR / 32) * 0x10).read_volatile() };
        WAITING.store(word, Ordering::Relaxed);
        ROUNDS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes of the first CPU's load a store, then nothing, and a load again. Once a while it stays nothing for some time.
extern "C" fn change() -> ! {
    /// It accesses nothing (LEA).
    const NOTHING: u16 = 0x078d;
    const RESTING: u64 = 8;
    let code = CODE.load(Ordering::Relaxed) as *mut u16;
    loop {
        let round = ROUNDS.load(Ordering::Relaxed);
        // Only the first byte changes, so that no processor sees halves of two of them.
        for instruction in [0x078bu16, 0x0789, NOTHING, 0x078b, 0x0787] {
            // SAFETY: the page is for this; each of these two bytes is an instruction.
            unsafe { code.write_volatile(instruction) };
            // A processor may execute for as long what was there before: an emulator that has translated it between hearing of the change and making
            // it (QEMU) does so until the next one.
            if instruction == NOTHING && round.is_multiple_of(RESTING) {
                let start = now();
                while now() - start < frequency() / 1000 {
                    core::hint::spin_loop();
                }
            }
        }
        ROUNDS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes of the first CPU's load by one register (LODS) a store by another one (STOS), and that a load again.
extern "C" fn turn() -> ! {
    const LODSD: u8 = 0xad;
    const STOSD: u8 = 0xab;
    let code = CODE.load(Ordering::Relaxed) as *mut u8;
    loop {
        for instruction in [STOSD, LODSD] {
            // SAFETY: the page is for this; each is an instruction.
            unsafe { code.write_volatile(instruction) };
        }
        ROUNDS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the second CPU goes on.
fn goes_on() -> bool {
    let before = ROUNDS.load(Ordering::Relaxed);
    within(2, || ROUNDS.load(Ordering::Relaxed) > before + 2)
}

/// The second CPU, once it is in its function.
fn second(board: &Board, function: extern "C" fn() -> !) -> Result<u8, String> {
    let local = Local::new(board.madt.local_apic.0);
    APIC.store(board.madt.local_apic.0, Ordering::Relaxed);
    // One that is off sends nothing where it is KVM's.
    let Ok(own) = local.start().and_then(|()| local.id()) else { return Err("broken: no local APIC".into()) };
    let Some(id) = board.cpus().find(|&id| id != own) else { return Err("skipped: no second CPU".into()) };
    let Ok(layout) = Layout::from_size_align(16384, 4096) else { return Err("skipped: no stack".into()) };
    // SAFETY: the layout isn't empty.
    let stack = unsafe { alloc_zeroed(layout) } as u64;
    ROUNDS.store(0, Ordering::Relaxed);
    // SAFETY: the stack is its own, and who was started before is in INIT, or in its function.
    let taken = stack != 0 && unsafe { start_cpu(&local, id, stack + 16384, function) };
    if !taken {
        return Err("broken: the local APIC doesn't take orders".into());
    }
    match within(SURELY_S, || ROUNDS.load(Ordering::Relaxed) != 0) {
        true => Ok(id),
        false => Err("broken: the second CPU doesn't start".into()),
    }
}

/// Everything that can be sent to whoever there may be: the VM's own second CPU has what is for it, and nobody else has anything.
pub fn messages(board: &Board) -> String {
    let base = board.madt.local_apic.0;
    let local = Local::new(base);
    let Ok(own) = local.id() else { return "broken: no local APIC".into() };
    if local.start().is_err() {
        return "broken: no local APIC".into();
    }
    let mut sent = 0u32;
    let mut send = |target: u32, command: u32| {
        let _ = (store32(base + TARGET, target << 24), store32(base + COMMAND, command));
        sent += 1;
    };
    // The second CPU waits to be started: of what else there is for it nothing comes.
    for mode in (0..8u32).filter(|mode| *mode != STARTUP) {
        for logical in [0, 1 << 11] {
            for target in (0..256u32).filter(|target| *target != u32::from(own) && *target != 0xff) {
                send(target, mode << 8 | ASSERT | logical | VECTOR);
                send(target, mode << 8 | ASSERT | 1 << 15 | logical | VECTOR);
            }
            send(0, mode << 8 | ASSERT | ALL_BUT_SELF | logical | VECTOR);
        }
    }
    // Nobody begins at a page of its neighbour's choice.
    for target in
        (0..256u32).filter(|target| !board.cpus().any(|id| u32::from(id) == *target) && *target != 0xff)
    {
        send(target, STARTUP << 8 | ASSERT | 0x08);
    }
    let id = match second(board, listen) {
        Ok(id) => u32::from(id),
        Err(why) => return why,
    };
    let has_come = || WAITING.load(Ordering::Relaxed) & 1 << (VECTOR % 32) != 0;
    if has_come() || !goes_on() {
        return "broken: what was sent before its start has come".into();
    }
    send(id, ASSERT | VECTOR);
    if !within(SURELY_S, has_come) {
        return "broken: the second CPU has no interrupt".into();
    }
    send(id, INIT << 8 | ASSERT);
    if within(SURELY_S, || !goes_on()) {
        match second(board, listen) {
            Ok(_) => {}
            Err(why) => return why,
        }
    } else {
        return "broken: the second CPU goes on after INIT".into();
    }
    if has_come() || !goes_on() {
        return "broken: INIT has left an interrupt".into();
    }
    send(id, INIT << 8 | ASSERT);
    match in_x2apic_mode(own.into()) {
        Ok(more) => format!("blocked: {} commands have reached nobody but its own", sent + more),
        Err(why) => why,
    }
}

/// The same by the registers of x2APIC mode, with ids that only there are some.
fn in_x2apic_mode(own: u32) -> Result<u32, String> {
    const BASE: u32 = 0x1b;
    const X2APIC: u64 = 1 << 10;
    const ICR: u32 = 0x830;
    if cpuid(1, 0)[2] & 1 << 21 == 0 {
        return Ok(0);
    }
    let base = read_msr(BASE).unwrap_or(0);
    if write_msr(BASE, base | X2APIC).is_err() || read_msr(0x802) != Ok(own.into()) {
        return Err("broken: no x2APIC mode".into());
    }
    let mut sent = 0;
    let ids = (0..0x400u32).chain((8..32).map(|bit| 1 << bit)).chain([0x7fff_ffff, 0xffff_fffe]);
    for target in ids.filter(|target| *target != own) {
        for mode in (0..8u32).filter(|mode| *mode != STARTUP) {
            for logical in [0, 1 << 11] {
                // In clusters a CPU's bit is its id's; those of the first are the VM's own.
                if logical != 0 && target >> 16 == 0 {
                    continue;
                }
                let command = u64::from(target) << 32 | u64::from(mode << 8 | ASSERT | logical | VECTOR);
                // Reserved forms are exceptions.
                let _ = write_msr(ICR, command);
                sent += 1;
            }
        }
    }
    for mode in (0..8u32).filter(|mode| *mode != STARTUP) {
        let _ = write_msr(ICR, u64::from(mode << 8 | ASSERT | ALL_BUT_SELF | VECTOR));
        sent += 1;
    }
    match read_msr(0x802) {
        Ok(id) if id == u64::from(own) => Ok(sent),
        other => Err(format!("broken: its id is {other:x?}")),
    }
}

/// For how long instructions are changed each way. Not for so many rounds: while the second CPU stands at what accesses nothing, a round takes
/// no time.
const SECONDS: u64 = 2;

/// An instruction at a register that another CPU changes meanwhile: it is one of those that it has been, and the register stays what it is.
pub fn changing(board: &Board) -> String {
    let Ok(layout) = Layout::from_size_align(4096, 4096) else { return "skipped".into() };
    // SAFETY: the layout isn't empty.
    let page = unsafe { alloc_zeroed(layout) };
    if page.is_null() {
        return "skipped: no memory".into();
    }
    CODE.store(page as u64, Ordering::Relaxed);
    match another_one(board, page).and_then(|changed| Ok((changed, another_place(board, page)?))) {
        Ok((changed, turned)) => {
            format!("ok: it was changed {changed} times, and {turned} times to another place")
        }
        Err(why) => why,
    }
}

/// A load of a register becomes a store, an exchange, nothing.
fn another_one(board: &Board, page: *mut u8) -> Result<u64, String> {
    // mov eax, [rdi]; ret
    for (place, byte) in [0x8bu8, 0x07, 0xc3].into_iter().enumerate() {
        // SAFETY: the page is the caller's.
        unsafe { page.add(place).write_volatile(byte) };
    }
    let version = board.madt.local_apic.0 + VERSION;
    let before = load32(version);
    second(board, change)?;
    let start = now();
    while now() - start < SECONDS * frequency() {
        // SAFETY: whatever the other CPU has made of it: a load from a register that only says its version, a store there, which is ignored, an
        // exchange, or nothing; then it returns.
        unsafe {
            core::arch::asm!(
                "call {code}",
                code = in(reg) page, in("rdi") version, inout("rax") 0u64 => _, clobber_abi("sysv64"),
            );
        }
    }
    let changed = ROUNDS.load(Ordering::Relaxed);
    match (load32(version) == before, goes_on()) {
        (true, true) => Ok(changed),
        _ => Err(format!("broken: the version is {:x?}, not {before:x?}", load32(version))),
    }
}

/// A load of a register becomes a store to memory: the register isn't stored to.
fn another_place(board: &Board, page: *mut u8) -> Result<u64, String> {
    /// The task's priority: a register that can be written, and delays interrupts at the most.
    const PRIORITY: u64 = 0x80;
    const STORED: u64 = 0x30;
    let register = board.madt.local_apic.0 + PRIORITY;
    let has_priority = |value| store32(register, value).is_ok() && load32(register) == Ok(value);
    if !has_priority(STORED as u32) || !has_priority(0) {
        return Err("broken: the task's priority can't be written".into());
    }
    // Where the second CPU isn't, which is still at the first instruction.
    // SAFETY: the page is the caller's.
    let (code, stored) = unsafe { (page.add(1024), page.add(2048)) };
    // lodsd, to begin with; ret
    for (place, byte) in [0xadu8, 0xc3].into_iter().enumerate() {
        // SAFETY: the same.
        unsafe { code.add(place).write_volatile(byte) };
    }
    CODE.store(code as u64, Ordering::Relaxed);
    second(board, turn)?;
    let start = now();
    while now() - start < SECONDS * frequency() {
        // SAFETY: a load from the register, or a store to the page's second half, where nothing is; then it returns.
        unsafe {
            core::arch::asm!(
                "call {code}",
                code = in(reg) code, in("rsi") register, in("rdi") stored, inout("rax") STORED => _,
                clobber_abi("sysv64"),
            );
        }
        if load32(register) != Ok(0) {
            return Err(format!("succeeded: a load has stored {:x?}", load32(register)));
        }
    }
    if goes_on() {
        Ok(ROUNDS.load(Ordering::Relaxed))
    } else {
        Err("broken: the second CPU doesn't go on".into())
    }
}
