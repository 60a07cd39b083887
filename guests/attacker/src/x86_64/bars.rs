//! BARs of ports: moved to every place that there is, they are the VM's own device's, or nobody's.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{frequency, in8, load32, now, out8, store16, store32};
use axvm_guest_runtime::println;

/// QEMU's `pci-serial`: a 16550 whose eight ports are its first BAR.
const SERIAL: u32 = 0x0002_1b36;
const COMMAND: u64 = 0x04;
const DECODE_IO: u16 = 1;
const BAR: u64 = 0x10;
const PORTS: usize = 8;
/// A 16550's register that keeps what is written to it, and does nothing else.
const SCRATCH: u16 = 7;
/// Where a guest's BARs may be.
const WINDOW: u16 = 0x1000;

/// The VM's device: its config space, and its first port.
fn device(board: &Board) -> Option<(u64, u16)> {
    let config = (0..32u64).map(|device| board.ecam.unwrap_or(0) + (device << 15));
    let config = config.into_iter().find(|&config| load32(config) == Ok(SERIAL))?;
    store16(config + COMMAND, DECODE_IO).ok()?;
    Some((config, load32(config + BAR).ok()? as u16 & !3))
}

/// Moves it over all other ports.
pub fn moved(board: &Board) -> String {
    const MARK: u8 = 0x5a;
    const ANOTHER: u8 = 0xa5;
    let Some((config, home)) = device(board) else { return "skipped: no device with ports".into() };
    out8(home + SCRATCH, MARK);
    if in8(home + SCRATCH) != MARK {
        return format!("broken: at {home:#x} it doesn't answer");
    }
    let move_to = |place: u16| store32(config + BAR, place.into()).is_ok();
    let (mut own, mut nobody) = (0u32, 0u32);
    for place in (WINDOW..=u16::MAX - PORTS as u16 + 1).step_by(PORTS) {
        move_to(place);
        match in8(place + SCRATCH) {
            MARK => own += 1,
            _ => {
                out8(place + SCRATCH, ANOTHER);
                if in8(place + SCRATCH) == ANOTHER {
                    return format!("succeeded: at {place:#x} it is another device");
                }
                nobody += 1;
            }
        }
    }
    // Over what the VM has emulated, and what nobody has: these stay what they are.
    for place in [0x60u16, 0x600, board.console as u16, 0xcf8] {
        move_to(place);
        out8(place + SCRATCH, ANOTHER);
        // Nor does it answer where it isn't any more.
        if in8(home + SCRATCH) != u8::MAX {
            return format!("succeeded: at {place:#x} it is at {home:#x}, too");
        }
    }
    move_to(home);
    match (in8(home + SCRATCH), nobody) {
        (MARK, 0) => format!("blocked: at {own} places it is itself"),
        (MARK, _) => format!("broken: at {nobody} places nobody answers"),
        (other, _) => format!("broken: it has {other:#x} at home"),
    }
}

/// A neighbour with such a device: it keeps what it was written.
pub fn victim(board: &Board) -> String {
    const SECRET: u8 = 0x77;
    let Some((_, home)) = device(board) else { return "skipped: no device with ports".into() };
    out8(home + SCRATCH, SECRET);
    println!("ATTACK victim waits at {home:#x}");
    let (start, seconds) = (now(), board.number("axvm.seconds").unwrap_or(10));
    while now() - start < seconds * frequency() {
        let value = in8(home + SCRATCH);
        if value != SECRET {
            return format!("broken: it has {value:#x}");
        }
    }
    "ok".into()
}
