//! What the registers of distributor, redistributors and ITS hold before anybody has written them (Arm IHI 0069, chapter 12).
//!
//! Not shown is what says how an implementation is made, in which a VM may differ from its board: GICD_TYPER, GICR_TYPER, GITS_TYPER
//! (how many lines, bits of ids, collections and processors there are, which of the processors is the last), Entry_Size of the
//! ITS's tables, its table of virtual processors (GICv4), IIDR and the identification registers of the chip's maker, of which all but PIDR2 are zero in a VM: a guest isn't
//! to apply what is made for a chip.

use core::fmt::Write as _;

use alloc::string::String;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::gic::Gic;
use axvm_guest_runtime::machine::{Fault, load32, load64, mpidr};
use axvm_guest_runtime::println;

/// GITS_BASER.Entry_Size.
const ENTRY_SIZE: u64 = 0x1f << 48;
/// GITS_BASER.Type: vPEs.
const VIRTUAL_PROCESSORS: u64 = 2;

/// Of a bank's 32-bit words those that aren't zero.
fn words(name: &str, start: u64, count: u64) -> Result<(), Fault> {
    let mut line = String::new();
    for word in 0..count {
        let value = load32(start + word * 4)?;
        if value != 0 {
            let _ = write!(line, " {word}={value:#x}");
        }
    }
    println!("SEEN resets {name} but for zero:{line}");
    Ok(())
}

/// Says all of them; before anything else is done.
pub fn show(board: &Board) {
    match play(board) {
        Ok(()) => println!("CONFORMANCE resets done"),
        Err(Fault) => println!("CONFORMANCE broken: a register doesn't answer"),
    }
}

/// The banks that distributor and redistributor have alike: a bit for each interrupt, a byte, two bits.
const BANKS: [(&str, u64, u64); 11] = [
    ("IGROUPR", 0x080, 32),
    ("ISENABLER", 0x100, 32),
    ("ICENABLER", 0x180, 32),
    ("ISPENDR", 0x200, 32),
    ("ICPENDR", 0x280, 32),
    ("ISACTIVER", 0x300, 32),
    ("ICACTIVER", 0x380, 32),
    ("IPRIORITYR", 0x400, 255),
    ("ICFGR", 0xc00, 64),
    ("IGRPMODR", 0xd00, 32),
    ("NSACR", 0xe00, 64),
];

fn play(board: &Board) -> Result<(), Fault> {
    let gic = Gic::find(&board.platform).ok_or(Fault)?;
    for (name, offset) in [("CTLR", 0x0), ("STATUSR", 0x10)] {
        println!("SEEN resets GICD_{name} {:#x}", load32(gic.distributor + offset)?);
    }
    for (name, offset, count) in BANKS {
        words(name, gic.distributor + offset, count)?;
    }
    words("IROUTER", gic.distributor + 0x6100, 988 * 2)?;
    let own = mpidr();
    let other =
        board.platform.cpus.iter().find(|cpu| cpu.hardware_id != own && cpu.usable).ok_or(Fault)?.hardware_id;
    for mpidr in [own, other] {
        let redistributor = gic.redistributor(mpidr)?;
        let frame = redistributor.control_frame();
        for (name, offset) in [("CTLR", 0x0), ("STATUSR", 0x10), ("WAKER", 0x14)] {
            println!("SEEN resets GICR_{name} {:#x}", load32(frame + offset)?);
        }
        for (name, offset) in [("PROPBASER", 0x70), ("PENDBASER", 0x78)] {
            println!("SEEN resets GICR_{name} {:#x}", load64(frame + offset)?);
        }
        for (name, offset, count) in BANKS {
            words(name, redistributor.own_interrupts() + offset, count.div_ceil(32))?;
        }
    }
    if let Some(its) = gic.its() {
        println!("SEEN resets GITS_CTLR {:#x}", load32(its)?);
        for (name, offset) in [("CBASER", 0x80), ("CWRITER", 0x88), ("CREADR", 0x90)] {
            println!("SEEN resets GITS_{name} {:#x}", load64(its + offset)?);
        }
        for table in 0..8 {
            let baser = load64(its + 0x100 + table * 8)?;
            if baser >> 56 & 7 != VIRTUAL_PROCESSORS {
                println!("SEEN resets GITS_BASER{table} {:#x}", baser & !ENTRY_SIZE);
            }
        }
    }
    Ok(())
}
