//! All that touches the machine directly.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::apic::Local;
use super::interrupts;

/// Exceptions that were stepped over so far; the entries count them. Only the first CPU's accesses may fail.
pub static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Where an access that fails is gone on; 0: no access may.
pub static RESUME: AtomicU64 = AtomicU64::new(0);

/// The image's own memory, which the accessors below refuse: it is Rust's.
static IMAGE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(u64::MAX)];

/// An access that ended in an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Says where the image lies: first byte, first byte past it.
pub fn set_image(start: u64, end: u64) {
    let [first, last] = &IMAGE;
    first.store(start, Ordering::Relaxed);
    last.store(end, Ordering::Relaxed);
}

fn check(address: u64) {
    let [first, last] = &IMAGE;
    let own = first.load(Ordering::Relaxed)..last.load(Ordering::Relaxed);
    assert!(!own.contains(&address), "the image's own memory isn't accessed by address");
}

/// The vector of the last exception that was stepped over.
pub static VECTOR: AtomicU64 = AtomicU64::new(0);

/// An instruction that may fail, and the registers that it uses: whether it didn't. What it does to memory and to what the program runs on is
/// its user's affair.
#[macro_export]
macro_rules! guarded {
    ($instruction:expr, $($operands:tt)*) => {{
        let before = $crate::machine::FAULTS.load(core::sync::atomic::Ordering::Relaxed);
        // Operands are the user's, whatever they are: that is what it is for.
        // SAFETY: see the caller; if it faults, the entries go on at the label.
        #[allow(clippy::macro_metavars_in_unsafe)]
        unsafe {
            core::arch::asm!(
                "lea {resume}, [rip + 2f]",
                "mov [{place}], {resume}",
                $instruction,
                "2: mov qword ptr [{place}], 0",
                resume = out(reg) _,
                place = in(reg) $crate::machine::RESUME.as_ptr(),
                $($operands)*
            )
        };
        if $crate::machine::FAULTS.load(core::sync::atomic::Ordering::Relaxed) == before {
            Ok(())
        } else {
            Err($crate::machine::Fault)
        }
    }};
}

macro_rules! accessors {
    ($load:ident, $store:ident, $type:ty, $read:literal, $write:literal) => {
        /// Reads at an address outside the image.
        pub fn $load(address: u64) -> Result<$type, Fault> {
            check(address);
            let mut value = 0u64;
            // One load outside all memory that Rust owns.
            guarded!($read, address = in(reg) address, inout("rax") value,)?;
            Ok(value as $type)
        }

        /// Writes at an address outside the image.
        pub fn $store(address: u64, value: $type) -> Result<(), Fault> {
            check(address);
            // One store outside all memory that Rust owns.
            guarded!($write, address = in(reg) address, in("rax") u64::from(value),)
        }
    };
}

accessors!(load8, store8, u8, "mov al, [{address}]", "mov [{address}], al");
accessors!(load16, store16, u16, "mov ax, [{address}]", "mov [{address}], ax");
accessors!(load32, store32, u32, "mov eax, [{address}]", "mov [{address}], eax");
accessors!(load64, store64, u64, "mov rax, [{address}]", "mov [{address}], rax");

/// The bytes at an address, copied into what Rust owns.
pub fn copy(address: u64, length: usize) -> Option<alloc::vec::Vec<u8>> {
    (0..length as u64).map(|at| load8(address.checked_add(at)?).ok()).collect()
}

macro_rules! ports {
    ($read:ident, $write:ident, $type:ty, $in:literal, $out:literal, $register:tt) => {
        /// Reads a port.
        pub fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: a port is no memory that Rust owns.
            unsafe { asm!($in, in("dx") port, out($register) value, options(nostack)) };
            value
        }

        /// Writes a port.
        pub fn $write(port: u16, value: $type) {
            // SAFETY: a port is no memory that Rust owns.
            unsafe { asm!($out, in("dx") port, in($register) value, options(nostack)) };
        }
    };
}

ports!(in8, out8, u8, "in al, dx", "out dx, al", "al");
ports!(in16, out16, u16, "in ax, dx", "out dx, ax", "ax");
ports!(in32, out32, u32, "in eax, dx", "out dx, eax", "eax");

/// Reads a model-specific register.
pub fn read_msr(register: u32) -> Result<u64, Fault> {
    let (mut low, mut high) = (0u32, 0u32);
    // A read of a register that changes nothing.
    guarded!("rdmsr", in("ecx") register, inout("eax") low, inout("edx") high,)?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register, which must not change what the program runs on.
pub fn write_msr(register: u32, value: u64) -> Result<(), Fault> {
    guarded!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,)
}

/// The answer of CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, part: u32) -> [u32; 4] {
    let answer = __cpuid_count(leaf, part);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// The first leaf of what a hypervisor says by CPUID, and how to know KVM's (Linux, Documentation/virt/kvm/x86/cpuid.rst).
const HYPERVISOR: u32 = 0x4000_0000;
const KVM: &[u8; 12] = b"KVMKVMKVM\0\0\0";

/// The features of KVM's interface; `None`: nobody offers it.
fn kvm_features() -> Option<u32> {
    if cpuid(1, 0)[2] >> 31 == 0 {
        return None;
    }
    let [_, b, c, d] = cpuid(HYPERVISOR, 0);
    let mut said = [0; 12];
    for (bytes, word) in said.chunks_mut(4).zip([b, c, d]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    (said == *KVM).then(|| cpuid(HYPERVISOR + 1, 0)[0])
}

/// What tells the time stamp counter's frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// KVM's paravirtual clock.
    Kvm,
    /// ACPI's timer, at this port.
    PmTimer(u16),
    /// Nothing.
    None,
}

/// KVM_FEATURE_CLOCKSOURCE2, and its register (Linux, Documentation/virt/kvm/x86/msr.rst).
const KVM_CLOCK: u32 = 1 << 3;
const KVM_CLOCK_REGISTER: u32 = 0x4b56_4d01;

/// Where KVM's clock writes its record: version, padding, TSC and time of that moment, multiplier, shift and flags.
#[repr(C, align(32))]
struct Record(UnsafeCell<[u32; 8]>);

// SAFETY: it is written from outside, and read as volatile.
unsafe impl Sync for Record {}

static RECORD: Record = Record(UnsafeCell::new([0; 8]));

/// The counter's ticks a second, found out by [`find_frequency`].
static FREQUENCY: AtomicU64 = AtomicU64::new(0);

/// Finds out the time stamp counter's frequency by whatever tells it; `pm_timer`: the port of ACPI's timer, where there is one.
pub fn find_frequency(pm_timer: Option<u16>) -> Clock {
    let by_kvm = || {
        kvm_features().filter(|features| features & KVM_CLOCK != 0)?;
        write_msr(KVM_CLOCK_REGISTER, RECORD.0.get() as u64 | 1).ok()?;
        // SAFETY: the record is written by the other side of the call above only.
        let record = unsafe { RECORD.0.get().read_volatile() };
        let (multiplier, shift) = (u128::from(record[6]), record[7] as i8);
        // A second of nanoseconds by the record's own arithmetic: ns = (ticks << shift) * multiplier >> 32.
        let ticks = (1_000_000_000u128 << 32).checked_div(multiplier)?;
        u64::try_from(if shift < 0 { ticks << -shift } else { ticks >> shift }).ok()
    };
    if let Some(frequency) = by_kvm() {
        FREQUENCY.store(frequency, Ordering::Relaxed);
        return Clock::Kvm;
    }
    let Some(port) = pm_timer else { return Clock::None };
    // A hundredth of a second of the timer (ACPI 6.5, 4.8.2.1), of which 24 bits count.
    const HZ: u64 = 3_579_545;
    let (start, begin) = (in32(port), now());
    while u64::from(in32(port).wrapping_sub(start) & 0xff_ffff) < HZ / 100 {}
    FREQUENCY.store((now() - begin) * 100, Ordering::Relaxed);
    Clock::PmTimer(port)
}

/// The time stamp counter.
pub fn now() -> u64 {
    // SAFETY: reading the counter has no side effect.
    unsafe { _rdtsc() }
}

/// The counter's ticks a second; where nobody tells, as if it were a fast one.
pub fn frequency() -> u64 {
    match FREQUENCY.load(Ordering::Relaxed) {
        0 => 4_000_000_000,
        frequency => frequency,
    }
}

/// How long is waited for what surely comes: far longer than a machine that is busy with other things takes for anything. It only says
/// when a wait has failed, so that it costs nothing where all is well.
pub const SURELY_S: u64 = 20;

/// Whether it comes true within so many seconds.
pub fn within(seconds: u64, mut what: impl FnMut() -> bool) -> bool {
    let start = now();
    loop {
        // The clock first: who was kept from looking in between doesn't take that for a failure.
        let over = now() - start > frequency() * seconds;
        if what() {
            return true;
        }
        if over {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Lets interrupts in for a moment: the vector of one that came, which is ended at the local APIC. What doesn't come in that moment
/// waits for the next call.
pub fn take_interrupt(apic: &Local) -> Option<u8> {
    let vector: u64;
    // SAFETY: the entry of an interrupt uses what is named here, and the APIC's register; the instruction behind STI is executed before one
    // is taken, so that the second NOP is where one is, and an interrupt's entry has them masked again until it returns to CLI.
    unsafe {
        asm!(
            "sti", "nop", "nop", "cli",
            out("rax") _, out("rdx") _, out("r11") _, inout("r12") 0u64 => vector,
            in("r14") 0u64, in("r15") apic.end(),
        )
    };
    u8::try_from(vector).ok().filter(|vector| *vector != 0)
}

/// Sleeps until an interrupt comes, which is ended at the local APIC: its vector.
pub fn sleep(apic: &Local) -> Option<u8> {
    let vector: u64;
    // SAFETY: as above. What comes before HLT is executed waits until it is: STI lets nothing in before the instruction behind it.
    unsafe {
        asm!(
            "sti", "hlt", "cli",
            out("rax") _, out("rdx") _, out("r11") _, inout("r12") 0u64 => vector,
            in("r14") 0u64, in("r15") apic.end(),
        )
    };
    u8::try_from(vector).ok().filter(|vector| *vector != 0)
}

/// Lets no interrupt reach this CPU by any means that software has.
pub fn mask_everything() {
    // SAFETY: nothing here waits for an interrupt.
    unsafe { asm!("cli", options(nomem, nostack)) }
}

/// The calling CPU comes to a triple fault: there is no table of interrupts any more (AMD APM 2, 8.2.9, 15.14.3).
pub fn triple_fault() -> ! {
    let nothing = [0u8; 10];
    // SAFETY: this is the end of the program, which is what its caller wants.
    unsafe { asm!("lidt [{0}]", "int3", "2: hlt", "jmp 2b", in(reg) nothing.as_ptr(), options(noreturn)) }
}

/// The stack and the function of the CPU that is started next; the first instructions read them.
pub(super) static NEXT_STACK: AtomicU32 = AtomicU32::new(0);
static NEXT_FUNCTION: AtomicU64 = AtomicU64::new(0);

/// Where a CPU that was started goes on in 64-bit mode.
pub(super) extern "C" fn another_cpu() -> ! {
    interrupts::load_here();
    let function = NEXT_FUNCTION.load(Ordering::Acquire);
    // SAFETY: `start_cpu` has put a function of this type there, and starts one CPU at a time.
    let function = unsafe { core::mem::transmute::<u64, extern "C" fn() -> !>(function) };
    function()
}

unsafe extern "C" {
    static secondary_start: u8;
    static secondary_end: u8;
}

/// The page below 1 MiB in which other CPUs start.
const START_PAGE: u64 = 0x8000;

/// Starts another CPU by INIT and startup interrupts (AMD APM 2, 16.5.1): it runs the function, in 64-bit mode with interrupts masked.
/// Whether the local APIC took the orders.
///
/// # Safety
///
/// The stack, whose top is below 4 GiB, must be that CPU's alone, memory that nothing else uses, and the last CPU that was started
/// must be in its function.
pub unsafe fn start_cpu(apic: &Local, id: u8, stack_top: u64, function: extern "C" fn() -> !) -> bool {
    NEXT_STACK.store(stack_top as u32, Ordering::Relaxed);
    NEXT_FUNCTION.store(function as usize as u64, Ordering::Release);
    let first = (&raw const secondary_start) as u64;
    let length = (&raw const secondary_end) as u64 - first;
    for at in 0..length {
        // SAFETY: the bytes between the two labels.
        let byte = unsafe { *((first + at) as *const u8) };
        if store8(START_PAGE + at, byte).is_err() {
            return false;
        }
    }
    let wait = |hundredths: u64| {
        let start = now();
        while now() - start < frequency() / 100 * hundredths {
            core::hint::spin_loop();
        }
    };
    let mut taken = apic.send_init(id).is_ok();
    wait(1);
    for _ in 0..2 {
        taken &= apic.send_startup(id, (START_PAGE >> 12) as u8).is_ok();
        wait(1);
    }
    taken
}

/// What switches the machine off: ACPI's registers PM1a_CNT and PM1b_CNT, and the type of sleep that is S5 for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Power {
    /// PM1a_CNT's port.
    pub control: u16,
    /// SLP_TYP of S5.
    pub off: u8,
}

/// How the machine is switched off, for who doesn't know the board: port, and type of sleep above it. 0: not known yet.
static POWER: AtomicU32 = AtomicU32::new(0);

impl Power {
    /// Keeps it for [`power_off`].
    pub(super) fn remember(self) {
        POWER.store(u32::from(self.off) << 16 | u32::from(self.control), Ordering::Relaxed);
    }
}

/// Switches the machine off (ACPI 6.5, 4.8.3.2), as was found out where nobody says; then waits.
pub fn power_off(power: Option<Power>) -> ! {
    const SLEEP: u16 = 1 << 13;
    let known = POWER.load(Ordering::Relaxed);
    let remembered = || Power { control: known as u16, off: (known >> 16) as u8 };
    if let Some(power) = power.or_else(|| (known != 0).then(remembered)) {
        // SCI_EN and whatever else is on stays.
        let kept = in16(power.control) & !(7 << 10 | SLEEP);
        out16(power.control, kept | u16::from(power.off & 7) << 10 | SLEEP);
    }
    loop {
        // SAFETY: waiting touches nothing.
        unsafe { asm!("cli", "hlt") };
    }
}
