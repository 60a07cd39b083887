//! The registers and FIFOs, and what an access does to them.

use axvm_axdevice::Transmit;

use crate::fifo::Fifo;
use crate::spec::{self, cr, error, fr, ifls, int, lcr_h};

/// After so many readings of the flags in a row a guest waits for input: one that sends reads them once before a character, and
/// once behind it.
const POLLS: u8 = 3;

/// Everything that changes.
pub(crate) struct State {
    /// Received characters with the error bits that go with them.
    rx: Fifo<u16>,
    tx: Fifo<u8>,
    lcr_h: u16,
    cr: u16,
    ifls: u16,
    imsc: u16,
    ris: u16,
    rsr: u16,
    ilpr: u16,
    ibrd: u16,
    fbrd: u16,
    dmacr: u16,
    /// A character was lost since the last that was received: the next one carries the mark.
    overrun: bool,
    lost: u64,
    /// How often in a row, up to [`POLLS`], the flags were read and told of nothing to wait for but input.
    polls: u8,
    /// There was more input than room, and whoever has it waits to be told of room.
    pub(crate) input_waits: bool,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            rx: Fifo::new(),
            tx: Fifo::new(),
            lcr_h: 0,
            cr: cr::RESET,
            ifls: ifls::RESET,
            imsc: 0,
            ris: 0,
            rsr: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            dmacr: 0,
            overrun: false,
            lost: 0,
            polls: 0,
            input_waits: false,
        }
    }

    /// Whether whoever has more input is to be told now that there is room. Says so once.
    pub(crate) fn calls_for_input(&mut self) -> bool {
        let calls = self.input_waits && self.can_receive() && self.rx.len() <= self.depth() / 2;
        self.input_waits &= !calls;
        calls
    }

    /// Without UARTEN only a guest that polls for input gets some. In loop-back the input is disconnected.
    fn can_receive(&self) -> bool {
        let listens = self.cr & cr::UARTEN != 0 || self.polls >= POLLS;
        listens && self.cr & cr::RXE != 0 && self.cr & cr::LBE == 0
    }

    /// Whether the next reading of the flags may turn the receiver on.
    pub(crate) fn may_listen(&self) -> bool {
        self.cr & cr::UARTEN == 0 && self.polls + 1 == POLLS
    }

    /// The flags, as read by the guest.
    pub(crate) fn read_flags(&mut self) -> u16 {
        if self.tx.is_empty() {
            self.polls = self.polls.saturating_add(1).min(POLLS);
        }
        self.flags()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether something waits in the transmit FIFO.
    pub(crate) fn waits(&self) -> bool {
        !self.tx.is_empty()
    }

    /// UARTINTR: any interrupt behind its mask (2.8.6).
    pub(crate) fn line(&self) -> bool {
        self.ris & self.imsc != 0
    }

    fn fifos_on(&self) -> bool {
        self.lcr_h & lcr_h::FEN != 0
    }

    /// Entries in use: with the FIFOs off each is a one-byte holding register (2.4.3).
    fn depth(&self) -> usize {
        if self.fifos_on() { spec::FIFO_DEPTH } else { 1 }
    }

    fn rx_trigger(&self) -> usize {
        if self.fifos_on() { spec::trigger_level(self.ifls >> 3) } else { 1 }
    }

    /// 2.8.3: at or below this many the transmit interrupt is raised; with the FIFOs off, when the register is empty.
    fn tx_trigger(&self) -> usize {
        if self.fifos_on() { spec::trigger_level(self.ifls) } else { 0 }
    }

    /// A character from the other side; `false`: it doesn't fit, or the receiver is off.
    pub(crate) fn receive(&mut self, byte: u8) -> bool {
        if !self.can_receive() || self.rx.len() >= self.depth() {
            return false;
        }
        self.take(byte);
        true
    }

    /// A character into the receive FIFO, which has room or overruns (2.4.2).
    fn take(&mut self, byte: u8) {
        let entry = u16::from(byte) | if self.overrun { error::DR_OE } else { 0 };
        if self.rx.len() >= self.depth() || self.rx.push(entry).is_err() {
            self.overrun = true;
            self.rsr |= error::RSR_OE;
            self.ris |= int::OE;
            return;
        }
        self.overrun = false;
        if self.rx.len() >= self.rx_trigger() {
            self.ris |= int::RX;
        }
        if self.fifos_on() {
            self.ris |= int::RT;
        }
    }

    /// Moves what the output takes out of the transmit FIFO.
    pub(crate) fn drain(&mut self, output: &dyn Transmit) {
        while let Some(byte) = self.tx.front() {
            if self.cr & cr::LBE != 0 {
                self.take(byte);
            } else if !output.transmit(byte) {
                break;
            }
            self.tx.pop();
            if self.tx.len() <= self.tx_trigger() {
                self.ris |= int::TX;
            }
        }
    }

    /// Whether nothing waits to be transmitted, and the line is low.
    pub(crate) fn is_quiet(&self) -> bool {
        self.tx.is_empty() && !self.line()
    }

    /// Transmits a character that goes out at once and whose interrupt is masked; `false`: it doesn't, or isn't.
    pub(crate) fn pass_on(&mut self, byte: u8, output: &dyn Transmit) -> bool {
        self.polls = 0;
        let plain = self.is_quiet() && self.imsc & int::TX == 0 && self.cr & cr::LBE == 0;
        if !plain || !output.transmit(byte) {
            return false;
        }
        self.ris |= int::TX;
        true
    }

    fn flags(&self) -> u16 {
        let mut flags = fr::CTS | fr::DSR | fr::DCD;
        if self.tx.is_empty() {
            flags |= fr::TXFE;
        } else {
            flags |= fr::BUSY;
        }
        if self.tx.len() >= self.depth() {
            flags |= fr::TXFF;
        }
        if self.rx.is_empty() {
            flags |= fr::RXFE;
        }
        if self.rx.len() >= self.depth() {
            flags |= fr::RXFF;
        }
        flags
    }

    /// 3.3.1, 3.3.11: reading takes the character, lowers the receive interrupt below its level and the timeout when empty.
    fn read_data(&mut self) -> u16 {
        let Some(entry) = self.rx.pop() else { return 0 };
        if self.rx.len() < self.rx_trigger() {
            self.ris &= !int::RX;
        }
        if self.rx.is_empty() {
            self.ris &= !int::RT;
        }
        self.rsr = if entry & error::DR_OE != 0 { error::RSR_OE } else { 0 };
        entry
    }

    fn write_data(&mut self, byte: u8, output: &dyn Transmit) {
        self.polls = 0;
        self.drain(output);
        if self.tx.len() >= self.depth() || self.tx.push(byte).is_err() {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        // 2.8.3: lowered by data above the level; what the output takes at once raises it again.
        if self.tx.len() > self.tx_trigger() {
            self.ris &= !int::TX;
        }
        self.drain(output);
    }

    pub(crate) fn read(&mut self, register: u64, output: &dyn Transmit) -> u16 {
        match register {
            spec::DR => self.read_data(),
            spec::RSR_ECR => self.rsr,
            spec::FR => {
                // A guest that polls for room finds it without the host's help.
                self.drain(output);
                self.read_flags()
            }
            spec::ILPR => self.ilpr,
            spec::IBRD => self.ibrd,
            spec::FBRD => self.fbrd,
            spec::LCR_H => self.lcr_h,
            spec::CR => self.cr,
            spec::IFLS => self.ifls,
            spec::IMSC => self.imsc,
            spec::RIS => self.ris,
            spec::MIS => self.ris & self.imsc,
            spec::DMACR => self.dmacr,
            _ => identification(register),
        }
    }

    pub(crate) fn write(&mut self, register: u64, value: u16, output: &dyn Transmit) {
        match register {
            spec::DR => self.write_data(value as u8, output),
            spec::RSR_ECR => self.rsr = 0,
            spec::ILPR => self.ilpr = value & spec::ILPR_MASK,
            spec::IBRD => self.ibrd = value,
            spec::FBRD => self.fbrd = value & spec::FBRD_MASK,
            spec::LCR_H => self.write_line_control(value & lcr_h::MASK),
            spec::CR => {
                self.cr = value & cr::MASK;
                self.drain(output);
            }
            spec::IFLS => self.ifls = value & ifls::MASK,
            spec::IMSC => self.imsc = value & int::MASK,
            spec::ICR => self.ris &= !value,
            spec::DMACR => self.dmacr = value & spec::DMACR_MASK,
            _ => {}
        }
    }

    fn write_line_control(&mut self, value: u16) {
        if (self.lcr_h ^ value) & lcr_h::FEN != 0 {
            // 3.3.7, FEN: the FIFOs become holding registers or the other way round; what they held is lost. Output that
            // waits for room isn't dropped for that: a wire would have sent it long before.
            self.rx.clear();
            self.ris &= !(int::RX | int::RT);
        }
        self.lcr_h = value;
    }
}

/// The eight identification bytes; zero elsewhere: reserved.
fn identification(register: u64) -> u16 {
    register
        .checked_sub(spec::ID)
        .and_then(|past| usize::try_from(past / 4).ok())
        .and_then(|index| spec::ID_BYTES.get(index))
        .map_or(0, |&byte| u16::from(byte))
}
