//! Trapped registers: every width and form of access, blocks smaller than a page, registers that don't answer.
//!
//! The accesses are made on a PL031 (Arm DDI 0224), of which QEMU's takes what comes at a register's offset, whatever its
//! width: of two neighbouring registers that keep what is written, each form can be told from another.

use alloc::format;
use alloc::string::String;
use core::arch::asm;
use core::sync::atomic::Ordering;

use crate::board::Board;
use crate::machine::{FAULTS, Fault, load16, load32, load64, store16, store32, store64};

/// Match register.
const MR: u64 = 0x04;
/// Load register.
const LR: u64 = 0x08;
/// Control register, 1 whatever is written.
const CR: u64 = 0x0c;

/// Patterns with a sign bit at each width.
const A: u32 = 0x89ab_cdef;
const B: u32 = 0xfedc_ba98;

/// Instructions on addresses outside of what Rust owns: whether none of them faulted.
macro_rules! attempt {
    ($($asm:tt)*) => {{
        let before = FAULTS.load(Ordering::Relaxed);
        // SAFETY: accesses outside all memory that Rust owns, to registers that change none of it; if one faults, the vectors
        // step over it. No compiled code uses vector registers.
        unsafe { asm!("dsb sy", ".arch_extension fp", ".arch_extension simd", ".arch_extension lse", $($asm)*) };
        FAULTS.load(Ordering::Relaxed) == before
    }};
}

/// What was seen against what must be.
#[derive(Default)]
struct Checks {
    done: u32,
    wrong: Option<String>,
}

impl Checks {
    fn same(&mut self, what: &str, seen: impl Into<u64>, expected: impl Into<u64>) {
        let (seen, expected) = (seen.into(), expected.into());
        self.holds(seen == expected, || format!("{what} gave {seen:#x} and not {expected:#x}"));
    }

    fn done(&mut self, what: &str, done: bool) {
        self.holds(done, || format!("{what} gave an exception"));
    }

    fn holds(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.done += 1;
        if !holds && self.wrong.is_none() {
            self.wrong = Some(otherwise());
        }
    }

    fn verdict(self) -> String {
        match self.wrong {
            None => format!("ok: {} checks", self.done),
            Some(wrong) => format!("broken: {wrong}"),
        }
    }
}

/// One register: `what` loads or stores it.
macro_rules! load {
    ($checks:ident, $text:literal, $address:expr, $expected:expr) => {{
        let value: u64;
        let done = attempt!($text, value = inout(reg) 0x5555_5555_5555_5555u64 => value, at = in(reg) $address);
        $checks.done($text, done);
        $checks.same($text, value, $expected as u64);
    }};
}

macro_rules! store {
    ($checks:ident, $text:literal, $address:expr, $value:expr) => {{
        let done = attempt!($text, "dsb sy", value = in(reg) $value as u64, at = in(reg) $address);
        $checks.done($text, done);
    }};
}

/// Every width, with and without sign: what a syndrome describes.
pub fn widths(board: &Board) -> String {
    let Some(clock) = board.number("axvm.clock") else { return "skipped: no axvm.clock".into() };
    let mut checks = Checks::default();
    let (mr, lr) = (clock + MR, clock + LR);
    store!(checks, "str {value:w}, [{at}]", mr, A);
    load!(checks, "ldr {value:w}, [{at}]", mr, A);
    load!(checks, "ldrsw {value}, [{at}]", mr, 0xffff_ffff_89ab_cdefu64);
    load!(checks, "ldrh {value:w}, [{at}]", mr, 0xcdef);
    load!(checks, "ldrsh {value:w}, [{at}]", mr, 0xffff_cdefu32);
    load!(checks, "ldrsh {value}, [{at}]", mr, 0xffff_ffff_ffff_cdefu64);
    load!(checks, "ldrb {value:w}, [{at}]", mr, 0xef);
    load!(checks, "ldrsb {value:w}, [{at}]", mr, 0xffff_ffefu32);
    load!(checks, "ldrsb {value}, [{at}]", mr, 0xffff_ffff_ffff_ffefu64);
    load!(checks, "ldar {value:w}, [{at}]", mr, A);
    store!(checks, "strh {value:w}, [{at}]", mr, B);
    load!(checks, "ldr {value:w}, [{at}]", mr, 0xba98);
    store!(checks, "strb {value:w}, [{at}]", mr, B);
    load!(checks, "ldr {value:w}, [{at}]", mr, 0x98);
    store!(checks, "stlr {value:w}, [{at}]", mr, B);
    load!(checks, "ldur {value:w}, [{at}]", mr, B);
    store!(checks, "str {value}, [{at}]", lr, A);
    load!(checks, "ldr {value}, [{at}]", lr, u64::from(A) | 1 << 32);
    checks.verdict()
}

/// Pairs: what a syndrome doesn't describe.
macro_rules! load_pair {
    ($checks:ident, $text:literal, $base:expr, [$first:expr, $second:expr], $moved:expr) => {{
        let (first, second, base): (u64, u64, u64);
        let done = attempt!(
            $text, first = out(reg) first, second = out(reg) second, at = inout(reg) $base => base
        );
        $checks.done($text, done);
        $checks.same($text, first, $first as u64);
        $checks.same($text, second, $second as u64);
        $checks.same($text, base, $moved as u64);
    }};
}

macro_rules! store_pair {
    ($checks:ident, $text:literal, $base:expr, [$first:expr, $second:expr], $moved:expr) => {{
        let base: u64;
        let done = attempt!(
            $text, "dsb sy",
            first = in(reg) $first as u64, second = in(reg) $second as u64, at = inout(reg) $base => base
        );
        $checks.done($text, done);
        $checks.same($text, base, $moved as u64);
    }};
}

/// One register with writeback.
macro_rules! load_moving {
    ($checks:ident, $text:literal, $base:expr, $expected:expr, $moved:expr) => {{
        let (value, base): (u64, u64);
        let done = attempt!($text, value = out(reg) value, at = inout(reg) $base => base);
        $checks.done($text, done);
        $checks.same($text, value, $expected as u64);
        $checks.same($text, base, $moved as u64);
    }};
}

macro_rules! store_moving {
    ($checks:ident, $text:literal, $base:expr, $value:expr, $moved:expr) => {{
        let base: u64;
        let done = attempt!($text, "dsb sy", value = in(reg) $value as u64, at = inout(reg) $base => base);
        $checks.done($text, done);
        $checks.same($text, base, $moved as u64);
    }};
}

/// Both registers, as plain loads see them.
fn expect(checks: &mut Checks, clock: u64, what: &str, mr: u32, lr: u32) {
    checks.same(what, load32(clock + MR).unwrap_or(0), mr);
    checks.same(what, load32(clock + LR).unwrap_or(0), lr);
}

/// Pairs, writeback, the stack pointer as base.
pub fn pairs(board: &Board) -> String {
    let Some(clock) = board.number("axvm.clock") else { return "skipped: no axvm.clock".into() };
    let mut checks = Checks::default();
    let c = &mut checks;
    store_pair!(c, "stp {first:w}, {second:w}, [{at}, #4]", clock, [A, B], clock);
    expect(c, clock, "stp", A, B);
    load_pair!(c, "ldp {first:w}, {second:w}, [{at}, #4]", clock, [A, B], clock);
    load_pair!(c, "ldnp {first:w}, {second:w}, [{at}, #4]", clock, [A, B], clock);
    load_pair!(c, "ldp {second:w}, {first:w}, [{at}], #-252", clock + MR, [B, A], clock + MR - 252);
    load_pair!(c, "ldp {first:w}, {second:w}, [{at}, #252]!", clock + MR - 252, [A, B], clock + MR);
    let signed = |value: u32| i64::from(value.cast_signed());
    load_pair!(c, "ldpsw {first}, {second}, [{at}], #8", clock + MR, [signed(A), signed(B)], clock + CR);
    store_pair!(c, "stp {first:w}, {second:w}, [{at}, #4]!", clock, [B, A], clock + MR);
    expect(c, clock, "stp with pre-index", B, A);
    store_pair!(c, "stp {first:w}, {second:w}, [{at}], #8", clock + MR, [A, 7], clock + CR);
    expect(c, clock, "stp with post-index", A, 7);
    store_pair!(c, "stnp {first:w}, wzr, [{at}, #4] // {second}", clock, [B, 0], clock);
    expect(c, clock, "stnp with wzr", B, 0);
    store_pair!(c, "stp {first}, {second}, [{at}]", clock, [u64::from(A) << 32, B], clock);
    expect(c, clock, "stp of 64 bits", A, B);
    load_moving!(c, "ldp xzr, {value}, [{at}]", clock, u64::from(B) | 1 << 32, clock);
    load_moving!(c, "ldr {value:w}, [{at}], #4", clock + MR, A, clock + LR);
    load_moving!(c, "ldr {value:w}, [{at}, #-4]!", clock + LR, A, clock + MR);
    load_moving!(c, "ldrsw {value}, [{at}, #4]!", clock, signed(A), clock + MR);
    load_moving!(c, "ldrsh {value:w}, [{at}], #2", clock + MR, 0xffff_cdefu32, clock + MR + 2);
    load_moving!(c, "ldrsb {value}, [{at}], #-1", clock + MR, -17i64, clock + MR - 1);
    load_moving!(c, "ldr {value}, [{at}], #8", clock + LR, u64::from(B) | 1 << 32, clock + 0x10);
    store_moving!(c, "strb {value:w}, [{at}], #1", clock + MR, B, clock + MR + 1);
    store_moving!(c, "strh {value:w}, [{at}, #8]!", clock, B, clock + LR);
    expect(c, clock, "strb and strh with writeback", 0x98, 0xba98);
    let (first, second, moved): (u64, u64, u64);
    // The stack pointer isn't where the vectors could push, for one instruction, which doesn't fault.
    let done = attempt!(
        "mov {keep}, sp", "mov sp, {at}", "ldp {first:w}, {second:w}, [sp], #16", "mov {moved}, sp", "mov sp, {keep}",
        keep = out(reg) _, first = out(reg) first, second = out(reg) second, moved = out(reg) moved, at = in(reg) clock,
    );
    c.done("ldp by sp", done);
    c.same("ldp by sp", second, 0x98u32);
    c.same("sp", moved, clock + 0x10);
    let _ = first;
    checks.verdict()
}

/// Vector registers.
pub fn vectors(board: &Board) -> String {
    let Some(clock) = board.number("axvm.clock") else { return "skipped: no axvm.clock".into() };
    let mut checks = Checks::default();
    let (low, high): (u64, u64);
    let (s, top): (u64, u64);
    let done = attempt!(
        "mrs {scratch}, cpacr_el1", "orr {scratch}, {scratch}, #3 << 20", "msr cpacr_el1, {scratch}", "isb",
        // DR (read only), MR, LR, CR (stays 1): a store of 16 bytes, seen by plain loads below.
        "fmov d0, {dr_mr}", "mov v0.d[1], {lr}", "str q0, [{at}]",
        "movi v31.16b, #0xff", "ldr q31, [{at}]",
        "mov {low}, v31.d[0]", "mov {high}, v31.d[1]",
        "movi v17.16b, #0xff", "ldr s17, [{at}, #4]",
        "mov {s}, v17.d[0]", "mov {top}, v17.d[1]",
        scratch = out(reg) _, dr_mr = in(reg) u64::from(A) << 32, lr = in(reg) u64::from(B), at = in(reg) clock,
        low = out(reg) low, high = out(reg) high, s = out(reg) s, top = out(reg) top,
    );
    checks.done("str q, ldr q, ldr s", done);
    expect(&mut checks, clock, "str q", A, B);
    checks.same("ldr q, low half", low >> 32, A);
    checks.same("ldr q, high half", high, u64::from(B) | 1 << 32);
    checks.same("ldr s", s, A);
    checks.same("ldr s, the rest", top, 0u32);
    let (s, top, d, b, moved): (u64, u64, u64, u64, u64);
    let done = attempt!(
        "ldp s3, s4, [{at}], #-4", "ldp d5, d6, [{at}, #0]!", "ldp q7, q8, [{at}]",
        "mov {d}, v6.d[0]", "mov {b}, v7.d[1]", "mov {s}, v4.d[0]",
        "ldr b9, [{at}, #4]", "mov {top}, v9.d[0]",
        at = inout(reg) clock + MR => moved, d = out(reg) d, b = out(reg) b, s = out(reg) s, top = out(reg) top,
    );
    checks.done("ldp s, d, q, ldr b", done);
    checks.same("ldp s", s, B);
    checks.same("ldp d", d, u64::from(B) | 1 << 32);
    checks.same("ldp q", b, u64::from(B) | 1 << 32);
    checks.same("ldr b", top, 0xefu32);
    checks.same("writeback of vectors", moved, clock);
    let moved: u64;
    let done = attempt!(
        "fmov d10, {value}", "str s10, [{at}, #4]!", "str h10, [{at}, #4]", "stp s10, s10, [{at}]", "str b10, [{at}], #4",
        "str d10, [{at}]", "dsb sy",
        value = in(reg) u64::from(A), at = inout(reg) clock => moved,
    );
    checks.done("str s, h, b, d, stp s", done);
    expect(&mut checks, clock, "str b and str d", 0xef, A);
    checks.same("writeback of stores", moved, clock + LR);
    checks.verdict()
}

/// What can't be taken apart into plain accesses gives an abort, and changes nothing.
pub fn refused(board: &Board) -> String {
    let Some(clock) = board.number("axvm.clock") else { return "skipped: no axvm.clock".into() };
    let mut checks = Checks::default();
    let _ = store32(clock + MR, A);
    let base = clock + MR;
    let mut refuse = |what: &str, done: bool| checks.holds(!done, || format!("{what} went through"));
    refuse("ldxr", attempt!("ldxr {v:w}, [{at}]", v = out(reg) _, at = in(reg) base));
    refuse("ldadd", attempt!("ldadd {v:w}, {v:w}, [{at}]", v = inout(reg) 1u64 => _, at = in(reg) base));
    refuse("swp", attempt!("swp wzr, {v:w}, [{at}]", v = out(reg) _, at = in(reg) base));
    refuse("ld1", attempt!("ld1 {{ v0.4s }}, [{at}]", at = in(reg) base));
    checks.same("what it had", load32(base).unwrap_or(0), A);
    checks.verdict()
}

/// A block smaller than a page: its bytes, and none beside them. A PL061's (Arm DDI 0190) registers from GPIODIR (0x400) to
/// GPIOIC (0x41c).
pub fn block(board: &Board) -> String {
    const BYTES: u64 = 0x20;
    const MARK: u32 = 0x5a;
    let Some(pins) = board.number("axvm.pins") else { return "skipped: no axvm.pins".into() };
    if store32(pins, MARK).and_then(|()| load32(pins)) != Ok(MARK) || load32(pins + BYTES - 4).is_err() {
        return "broken: its own registers don't answer".into();
    }
    let page = pins & !0xfff;
    let mut reached = String::new();
    let mut tried = 0;
    let mut outside = |what: &str, done: bool| {
        tried += 1;
        if done {
            reached.push_str(&format!(" {what}"));
        }
    };
    for place in [pins - 4, pins + BYTES, page, page + 0xfe0, page + 0xffc] {
        outside(&format!("load of {place:#x}"), load32(place).is_ok());
    }
    outside("store before", store32(pins - 4, 0).is_ok());
    outside("store behind", store32(pins + BYTES, 0).is_ok());
    outside("8 bytes before", load64(pins - 8).is_ok());
    outside("2 bytes behind", load16(pins + BYTES).is_ok());
    let pair =
        |at: u64| attempt!("ldp {a:w}, {b:w}, [{at}]", a = out(reg) _, b = out(reg) _, at = in(reg) at);
    outside("ldp over the start", pair(pins - 4));
    outside("ldp over the end", pair(pins + BYTES - 4));
    outside(
        "ldp x over the end",
        attempt!("ldp {a}, {b}, [{at}]", a = out(reg) _, b = out(reg) _, at = in(reg) pins + BYTES - 8),
    );
    outside("ldp q over the end", attempt!("ldp q0, q1, [{at}]", at = in(reg) pins + BYTES - 16));
    let over = |at: u64| attempt!("stp {a:w}, {a:w}, [{at}]", "dsb sy", a = in(reg) 0xa5u64, at = in(reg) at);
    outside("stp over the start", over(pins - 4));
    let kept = load32(pins) == Ok(MARK);
    outside("stp over the end", over(pins + BYTES - 4));
    if !reached.is_empty() {
        format!("succeeded:{reached}")
    } else if !kept {
        "broken: half of a store was performed".into()
    } else {
        format!("blocked: {tried} accesses")
    }
}

/// Registers that don't answer: all ones or an abort, and the guest goes on.
pub fn silence(board: &Board) -> String {
    let holes = ["axvm.hole", "axvm.trapped-hole"].map(|name| board.number(name));
    let [Some(mapped), Some(trapped)] = holes else { return "skipped: no holes".into() };
    for hole in [mapped, trapped] {
        let reads = [
            load16(hole).map(|value| value == u16::MAX),
            load32(hole + 4).map(|value| value == u32::MAX),
            load64(hole + 8).map(|value| value == u64::MAX),
        ];
        if let Some(Ok(false)) = reads.iter().find(|read| **read == Ok(false)) {
            return format!("broken: {hole:#x} has a value");
        }
        let _ = store16(hole, 1);
        let _ = store32(hole + 4, 1);
        let _ = store64(hole + 8, 1);
        let (a, b): (u64, u64);
        let done =
            attempt!("ldp {a}, {b}, [{at}], #16", a = out(reg) a, b = out(reg) b, at = inout(reg) hole => _);
        if done && (a, b) != (u64::MAX, u64::MAX) {
            return format!("broken: a pair at {hole:#x} has a value");
        }
    }
    match (load32(mapped), load32(trapped)) {
        (Err(Fault), Ok(u32::MAX)) => "ok: mapped an abort, trapped all ones".into(),
        other => format!("ok: {other:x?}"),
    }
}
