//! No attack: guests that take turns with one machine. Each looks for what the one before it has left in RAM, in an NVMe controller and among
//! its interrupts, and leaves something itself.

use alloc::format;
use alloc::string::String;

use super::message::comes;
use crate::arch::{Hearing, MESSAGE};
use crate::board::Board;
use crate::edu::{DMA_DONE, RAISE, functions_of};
use crate::machine::{
    Fault, SURELY_S, frequency, load16, load32, load64, now, store16, store32, store64, within,
};

/// What no memory has by itself.
const MARK: u64 = 0x6c65_6674_2062_6168;
/// So far apart words are marked and looked at.
const STRIDE: u64 = 64;
/// What the attacks use of the RAM behind their image.
const SCRATCH: u64 = 1 << 20;

const COMMAND: u64 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const CLASS: u64 = 0x08;
const CLASS_NVME: u32 = 0x01_0802;
const BAR0: u64 = 0x10;
const CAPABILITIES: u64 = 0x34;
const CAPABILITY_MSIX: u32 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;
const NOBODY: u32 = u32::MAX;

/// NVMe 1.4, 3.1.5: CC. The sizes of queue entries, without EN: nothing comes of them, and a reset clears them.
const NVME_CC: u64 = 0x14;
const NVME_MARK: u32 = 0x0046_0000;
/// 3.1.6: CSTS.RDY.
const NVME_CSTS: u64 = 0x1c;
const NVME_READY: u32 = 1 << 0;

/// An NVMe controller's registers, and what its config space was when it was found.
struct Nvme {
    registers: u64,
    config: u64,
    mastered: bool,
    msix_was_on: bool,
}

impl Nvme {
    /// Finds it, gives it an address, and has it decode.
    fn find(board: &Board) -> Result<Option<Self>, Fault> {
        let is_one = |config: u64| load32(config + CLASS).is_ok_and(|it| it >> 8 == CLASS_NVME);
        let Some((_, config)) = functions_of(board).find(|&(_, config)| is_one(config)) else {
            return Ok(None);
        };
        let pci = board.pci().ok_or(Fault)?;
        let mastered = load16(config + COMMAND)? & COMMAND_MASTER != 0;
        let msix_was_on = load32(msix(config)?)? & MSIX_ENABLE != 0;
        // Behind the megabyte that `edu` gets.
        let bar = pci.bars.next_multiple_of(SCRATCH) + 2 * SCRATCH;
        store32(config + BAR0, bar as u32)?;
        store32(config + BAR0 + 4, 0)?;
        store16(config + COMMAND, COMMAND_MEMORY)?;
        let registers = pci.window + (bar - pci.bars);
        Ok(Some(Self { registers, config, mastered, msix_was_on }))
    }
}

/// Where a function's MSI-X capability is (PCIe 7.7.2).
fn msix(config: u64) -> Result<u64, Fault> {
    let mut at = u64::from(load32(config + CAPABILITIES)? & 0xfc);
    for _ in 0..48 {
        let header = load32(config + at)?;
        if at == 0 || header == NOBODY {
            break;
        }
        if header & 0xff == CAPABILITY_MSIX {
            return Ok(config + at);
        }
        at = u64::from(header >> 8 & 0xfc);
    }
    Err(Fault)
}

/// The words of RAM that are marked: all that neither the image nor another attack uses.
fn words(board: &Board) -> impl Iterator<Item = u64> + use<> {
    (board.scratch + SCRATCH..board.memory_end()).step_by(STRIDE as usize)
}

/// Nothing of the last one is left.
pub fn finds(board: &Board) -> String {
    let test = || {
        let mut marked = 0u64;
        for word in words(board) {
            marked += u64::from(load64(word)? == MARK);
        }
        if marked != 0 {
            return Ok(format!("broken: {marked} words of RAM are as another left them"));
        }
        let Some(nvme) = Nvme::find(board)? else { return Ok("skipped: no NVMe controller".into()) };
        let control = load32(nvme.registers + NVME_CC)?;
        Ok(match (control, nvme.mastered, nvme.msix_was_on) {
            (0, false, false) => format!("ok: {} words of RAM", words(board).count()),
            (_, mastered, msix) => {
                format!("broken: CC is {control:#x}, it masters the bus: {mastered}, MSI-X is on: {msix}")
            }
        })
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}

/// Leaves marks wherever it can.
pub fn leaves(board: &Board) -> String {
    let test = || {
        for word in words(board) {
            store64(word, MARK)?;
        }
        let Some(nvme) = Nvme::find(board)? else { return Ok("skipped: no NVMe controller".into()) };
        // One that firmware left on takes nothing but being switched off, and forgets then.
        store32(nvme.registers + NVME_CC, 0)?;
        within(SURELY_S, || load32(nvme.registers + NVME_CSTS).is_ok_and(|status| status & NVME_READY == 0));
        store32(nvme.registers + NVME_CC, NVME_MARK)?;
        store16(nvme.config + COMMAND, COMMAND_MEMORY | COMMAND_MASTER)?;
        let msix = msix(nvme.config)?;
        store32(msix, load32(msix)? | MSIX_ENABLE)?;
        let seen = load32(nvme.registers + NVME_CC)?;
        Ok(if seen == NVME_MARK { "ok".into() } else { format!("broken: CC is {seen:#x}") })
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}

/// No message of the last one's is pending; a message of its own comes; and another one that it doesn't take is left.
pub fn message(board: &Board) -> String {
    let test = || {
        let Some(hearing) = Hearing::begin(board)? else { return Ok("skipped: no edu".into()) };
        let start = now();
        while now() - start < frequency() / 4 {
            if hearing.take() == Some(MESSAGE) {
                return Ok("broken: a message that another has left came".into());
            }
        }
        hearing.open()?;
        let answer = comes(&hearing)?;
        // This one stays pending.
        store32(hearing.edu.registers + RAISE, DMA_DONE)?;
        Ok(answer)
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}
