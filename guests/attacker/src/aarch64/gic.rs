//! The GIC (Arm IHI 0069): lines and software interrupts of others.

use alloc::format;
use alloc::string::String;

use axvm_addr::Address;

use crate::board::Board;
use crate::machine::{frequency, load32, load64, now, send_sgi, store32, store64};
use crate::println;

const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
/// The SGI frame of a redistributor, 64 KiB above its control frame.
const SGI_FRAME: u64 = 0x1_0000;

/// Whether the device tree, or the command line, gives this line to the guest.
fn is_own(board: &Board, intid: u32) -> bool {
    let devices = board.platform.devices.iter().flat_map(|device| &device.interrupts).map(|line| line.irq.0);
    let slots = board.platform.pci_hosts.iter().flat_map(|host| &host.lines).map(|route| route.line.irq.0);
    // A map of lines that tells functions of a slot apart, as a guest's does, isn't read.
    let said = board.number("axvm.line") == Some(intid.into());
    said || devices.chain(slots).any(|own| own == intid)
}

/// Enables and raises every SPI; only the guest's own may take it.
pub fn distributor(board: &Board) -> String {
    let Some(gic) = board.platform.gic() else { return "skipped: no GIC".into() };
    let base = gic.distributor.start().get();
    let mut taken = String::new();
    let mut own = 0;
    for word in 1..32u32 {
        let offset = u64::from(word) * 4;
        let mine =
            (0..32).filter(|bit| is_own(board, word * 32 + bit)).fold(0u32, |mask, bit| mask | 1 << bit);
        own += mine.count_ones();
        // Enabled and pending are looked at one at a time, so that nothing is delivered meanwhile.
        for (set, clear) in [(ISENABLER, ICENABLER), (ISPENDR, ICPENDR)] {
            let before = load32(base + set + offset).unwrap_or(0);
            let _ = store32(base + set + offset, !mine);
            let after = load32(base + set + offset).unwrap_or(0);
            let _ = store32(base + clear + offset, !mine & !before);
            if after & !mine != 0 {
                taken.push_str(&format!(" {:#x}:{:#010x}", set + offset, after & !mine));
            }
        }
    }
    if taken.is_empty() { format!("blocked: {own} own lines") } else { format!("succeeded:{taken}") }
}

/// Software interrupts to everybody, by broadcast and by name. Whether others got them, they must say.
pub fn software_interrupts(_: &Board) -> String {
    const ALL_BUT_SELF: u64 = 1 << 40;
    let mut accepted = 0;
    for intid in [0u64, 7, 15] {
        accepted += u32::from(send_sgi(intid << 24 | ALL_BUT_SELF));
        for affinity1 in 0..4u64 {
            accepted += u32::from(send_sgi(intid << 24 | affinity1 << 16 | 0xffff));
        }
        // Aff2 and Aff3 that nobody has.
        accepted += u32::from(send_sgi(intid << 24 | 1 << 32 | 1 << 48 | 0xffff));
    }
    format!("ok: {accepted} writes accepted; whether one came, a `victim` says")
}

/// A neighbour: its RAM keeps what it wrote, and no software interrupt comes.
pub fn victim(board: &Board) -> String {
    const MARK: u64 = 0x7365_6372_6574_2121;
    let Some(gic) = board.platform.gic() else { return "skipped: no GIC".into() };
    let Some(redistributor) = gic.redistributors.first() else { return "skipped: no redistributor".into() };
    let frame = redistributor.start().get() + SGI_FRAME;
    let _ = store32(frame + ICPENDR, 0xffff);
    let secret = board.number("axvm.secret").unwrap_or(MARK);
    // In many places, 2 MiB apart: RAM lies at another address for the host, at a distance that is a multiple of that.
    let first = board.number("axvm.target").unwrap_or(board.scratch);
    let words = || (0..16u64).flat_map(move |place| (0..8).map(move |word| first + (place << 21) + word * 8));
    for word in words() {
        let _ = store64(word, secret);
    }
    println!("ATTACK victim waits");
    let (start, seconds) = (now(), board.number("axvm.seconds").unwrap_or(10));
    let mut seen: Option<String> = None;
    // To the end even then: with its VM its RAM would go, and with that what an attacker looks for there.
    while now() - start < seconds * frequency() {
        if seen.is_some() {
            continue;
        }
        let pending = load32(frame + ISPENDR).unwrap_or(0) & 0xffff;
        if pending != 0 {
            seen = Some(format!("broken: software interrupts {pending:#x} came"));
        } else if let Some(word) = words().find(|&word| load64(word) != Ok(secret)) {
            seen = Some(format!("broken: {word:#x} changed"));
        }
    }
    seen.unwrap_or_else(|| "ok".into())
}
