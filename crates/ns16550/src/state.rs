//! The registers and FIFOs, and what an access does to them.

use alloc::collections::VecDeque;

use axvm_axdevice::Transmit;

use crate::spec::{self, FIFO_DEPTH, fcr, ier, iir, lcr, lsr, mcr, msr};

/// After so many readings of the line status in a row a guest waits for input: one that sends reads it once before a character, and
/// once behind it.
const POLLS: u8 = 3;

/// What the other side of the line has: it is there, and ready.
const CONNECTED: u8 = msr::CTS | msr::DSR | msr::DCD;

/// Everything that changes.
pub(crate) struct State {
    /// Neither FIFO ever holds more than its depth, for which there is room from the start.
    rx: VecDeque<u8>,
    tx: VecDeque<u8>,
    divisor: [u8; 2],
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    /// Something that was received is lost, and the line status hasn't been read since.
    overrun: bool,
    /// What the modem status says.
    msr: u8,
    /// The transmitter has become empty, and that hasn't been identified yet.
    empty_pending: bool,
    lost: u64,
    /// How often in a row, up to [`POLLS`], the line status was read and told of nothing to wait for but input.
    polls: u8,
    /// There was more input than room, and whoever has it waits to be told of room.
    pub(crate) input_waits: bool,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            rx: VecDeque::with_capacity(FIFO_DEPTH),
            tx: VecDeque::with_capacity(FIFO_DEPTH),
            divisor: [0; 2],
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scratch: 0,
            overrun: false,
            msr: CONNECTED,
            empty_pending: false,
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

    /// A guest gets input if it wants to be interrupted for it, or polls. In loop-back the input is disconnected.
    fn can_receive(&self) -> bool {
        let listens = self.ier & ier::RECEIVED != 0 || self.polls >= POLLS;
        listens && self.mcr & mcr::LOOP == 0
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether something waits to be transmitted.
    pub(crate) fn waits(&self) -> bool {
        !self.tx.is_empty()
    }

    /// INTR: an interrupt is pending that is enabled.
    pub(crate) fn line(&self) -> bool {
        self.ier != 0 && self.pending() != iir::NONE
    }

    /// What is pending, enabled, and of the highest priority (8.6).
    fn pending(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(ier::LINE) && self.overrun {
            iir::LINE
        } else if enabled(ier::RECEIVED) && self.rx.len() >= self.trigger() {
            iir::RECEIVED
        } else if enabled(ier::RECEIVED) && !self.rx.is_empty() {
            iir::TIMEOUT
        } else if enabled(ier::EMPTY) && self.empty_pending {
            iir::EMPTY
        } else if enabled(ier::MODEM) && self.msr & 0xf != 0 {
            iir::MODEM
        } else {
            iir::NONE
        }
    }

    fn fifos_on(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    /// Entries in use: with the FIFOs off each is one register.
    fn depth(&self) -> usize {
        if self.fifos_on() { FIFO_DEPTH } else { 1 }
    }

    fn trigger(&self) -> usize {
        if self.fifos_on() { fcr::trigger(self.fcr) } else { 1 }
    }

    /// A character from the other side; `false`: it doesn't fit, or nobody waits for it.
    pub(crate) fn receive(&mut self, byte: u8) -> bool {
        let takes = self.can_receive() && self.rx.len() < self.depth();
        if takes {
            self.rx.push_back(byte);
        }
        takes
    }

    /// What the transmitter sends in loop-back: a character for which there is no room is lost, or takes the last one's place (8.4, bit 1).
    fn loop_back(&mut self, byte: u8) {
        if self.rx.len() >= self.depth() {
            self.overrun = true;
            if self.fifos_on() {
                return;
            }
            self.rx.clear();
        }
        self.rx.push_back(byte);
    }

    /// Moves what the output takes out of the transmitter.
    pub(crate) fn drain(&mut self, output: &dyn Transmit) {
        while let Some(byte) = self.tx.front().copied() {
            if self.mcr & mcr::LOOP != 0 {
                self.loop_back(byte);
            } else if !output.transmit(byte) {
                break;
            }
            self.tx.pop_front();
            self.empty_pending |= self.tx.is_empty();
        }
    }

    /// A read by which neither the line changes nor anything moves, nor anybody is to be told of something: most of what a driver reads.
    pub(crate) fn read_quietly(&mut self, register: u8) -> Option<u8> {
        match register {
            spec::LSR if self.tx.is_empty() && !self.overrun && !self.input_waits => Some(self.line_status()),
            spec::LCR => Some(self.lcr),
            spec::MCR => Some(self.mcr),
            spec::SCR => Some(self.scratch),
            _ => None,
        }
    }

    pub(crate) fn read(&mut self, register: u8, output: &dyn Transmit) -> u8 {
        let latched = self.lcr & lcr::DLAB != 0;
        match register {
            spec::DATA if latched => self.divisor[0],
            spec::DATA => self.rx.pop_front().unwrap_or(0),
            spec::IER if latched => self.divisor[1],
            spec::IER => self.ier,
            spec::IIR_FCR => {
                let pending = self.pending();
                // Once identified it is over (table IV).
                self.empty_pending &= pending != iir::EMPTY;
                pending | if self.fifos_on() { iir::FIFOS } else { 0 }
            }
            spec::LCR => self.lcr,
            spec::MCR => self.mcr,
            spec::LSR => {
                // A guest that polls for room finds it without the host's help.
                self.drain(output);
                self.line_status()
            }
            spec::MSR => {
                let value = self.msr;
                self.msr &= 0xf0;
                value
            }
            spec::SCR => self.scratch,
            _ => 0xff,
        }
    }

    fn line_status(&mut self) -> u8 {
        let mut status = 0;
        if !self.rx.is_empty() {
            status |= lsr::READY;
        }
        if self.overrun {
            status |= lsr::OVERRUN;
        }
        if self.tx.is_empty() {
            status |= lsr::HOLDING_EMPTY | lsr::EMPTY;
            self.polls = self.polls.saturating_add(1).min(POLLS);
        }
        self.overrun = false;
        status
    }

    pub(crate) fn write(&mut self, register: u8, value: u8, output: &dyn Transmit) {
        let latched = self.lcr & lcr::DLAB != 0;
        match register {
            spec::DATA if latched => self.divisor[0] = value,
            spec::DATA => self.transmit(value, output),
            spec::IER if latched => self.divisor[1] = value,
            spec::IER => {
                // Enabled while the transmitter is empty, the interrupt comes at once: drivers start sending by that.
                if value & !self.ier & ier::EMPTY != 0 && self.tx.is_empty() {
                    self.empty_pending = true;
                }
                self.ier = value & ier::MASK;
            }
            spec::IIR_FCR => self.write_fifo_control(value),
            spec::LCR => self.lcr = value,
            spec::MCR => {
                self.mcr = value & mcr::MASK;
                self.set_modem_inputs();
                self.drain(output);
            }
            spec::SCR => self.scratch = value,
            // LSR and MSR are the factory's to write.
            _ => {}
        }
    }

    fn transmit(&mut self, byte: u8, output: &dyn Transmit) {
        self.polls = 0;
        self.drain(output);
        if self.tx.len() >= self.depth() {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        self.empty_pending = false;
        self.tx.push_back(byte);
        self.drain(output);
    }

    fn write_fifo_control(&mut self, value: u8) {
        let on = value & fcr::ENABLE != 0;
        // Output that waits for room isn't dropped: a wire would have sent it long before. It may be more than one register then.
        if on != self.fifos_on() || on && value & fcr::CLEAR_RECEIVER != 0 {
            self.rx.clear();
        }
        self.fcr = if on { value } else { 0 };
    }

    /// In loop-back the modem's inputs are the outputs (8.8, bit 4).
    fn set_modem_inputs(&mut self) {
        let mut inputs = CONNECTED;
        if self.mcr & mcr::LOOP != 0 {
            let pairs =
                [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)];
            inputs =
                pairs.iter().filter(|(out, _)| self.mcr & out != 0).fold(0, |sum, (_, input)| sum | input);
        }
        let before = self.msr & 0xf0;
        let mut changes = (before ^ inputs) >> 4;
        // Of RI only its end counts.
        if before & msr::RI == 0 {
            changes &= !msr::RING_ENDED;
        }
        self.msr = inputs | self.msr & 0xf | changes;
    }
}
