//! One function as the guest sees it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axvm_addr::{Gpa, Hpa, PciAddress, PciWindow};
use axvm_pci::spec::express::{self, DeviceControl};
use axvm_pci::spec::header::{self, Command};
use axvm_pci::spec::{capability, msi, power};
use axvm_pci::{
    Bar, BarKind, Function, Kept, Registers, ResetError, ResetMethod, Width, is_no_answer, quarantine, reset,
};
use spin::Mutex;

use crate::backend::{Backend, Messages, Physical};
use crate::bars::{Decode, Decoding, ShownBar, Trapped, Values};
use crate::bridge::AssignedFunction;
use crate::layout;
use crate::messages::FunctionMessages;
use crate::rules::{Access, Rules, Special};

/// How long going to D3hot or back takes (PM 5.4).
const POWER_US: u64 = 10_000;

/// What a guest may turn on in the command register. Parity and system errors are reports to the machine.
const COMMAND: Command =
    Command::IO.union(Command::MEMORY).union(Command::BUS_MASTER).union(Command::INTX_DISABLE);

/// What the functions of a bridge share.
pub(crate) struct Shared<B> {
    pub backend: B,
    pub windows: Vec<PciWindow<Gpa>>,
    pub decode: Mutex<Decode>,
    pub refused: AtomicU64,
}

impl<B> Shared<B> {
    fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// A function of the VM.
pub(crate) struct VirtualFunction {
    function: Function,
    /// Where the guest sees it.
    shown: PciAddress,
    bars: Vec<ShownBar>,
    rules: Rules,
    /// What the host had set when the function was handed over.
    kept: Kept,
    /// Memory and ports, if all its BARs of that kind have a place, so that it may decode.
    decodable: Command,
    /// What its interrupt line register says at first.
    line: u8,
    /// Whether it may raise its line.
    intx: bool,
    accesses: AtomicU64,
    /// Asked for, from any CPU, whoever holds the lock.
    quarantine: AtomicBool,
    state: Mutex<State>,
}

struct State {
    command: Command,
    line: u8,
    values: Values,
    d3: bool,
    /// It didn't come back from a reset.
    gone: bool,
    /// The quarantine that was asked for is in the hardware.
    quarantined: bool,
    /// Its messages, if the bridge has them.
    messages: Option<FunctionMessages>,
}

impl State {
    fn decodes(&self, what: Command) -> bool {
        self.command.contains(what) && !self.d3 && !self.gone
    }

    /// Its messages, if the bridge has them. A backend's answer never changes, so that an image in which functions have theirs has no code
    /// for the other case.
    fn messages<B: Backend>(&mut self, backend: &B) -> Option<&mut FunctionMessages> {
        match backend.messages() {
            Messages::Functions => None,
            Messages::Bridge => self.messages.as_mut(),
        }
    }
}

impl VirtualFunction {
    /// Takes over a function that is quarantined and reset.
    pub fn new<B: Backend>(shared: &Shared<B>, assigned: AssignedFunction, has_siblings: bool) -> Self {
        let AssignedFunction { function, shown, bars: memory, ports, intx, line } = assigned;
        let mut bars = shown_bars(&shared.backend, &function, &memory, &ports);
        let physical = Physical(&shared.backend);
        let messages = match shared.backend.messages() {
            Messages::Functions => None,
            Messages::Bridge => Some(FunctionMessages::new(&shared.backend, &function, &mut bars)),
        };
        let mut rules = layout::rules(&physical, &function, &bars, intx, messages.as_ref());
        layout::place(&mut rules, &function, shown, has_siblings);
        let kept = Kept::save(physical.config(), &function);
        let mut decodable = Command::IO | Command::MEMORY;
        for bar in &function.bars {
            let kind = if bar.kind == BarKind::Io { Command::IO } else { Command::MEMORY };
            if !bars.iter().any(|shown| shown.index == bar.index) {
                decodable.remove(kind);
            }
        }
        if !bars.iter().any(ShownBar::is_io) {
            decodable.remove(Command::IO);
        }
        shared.decode.lock().add(function.address, &bars);
        let state = State {
            command: Command::empty(),
            line,
            values: Values::initial(&bars),
            d3: false,
            gone: false,
            quarantined: false,
            messages,
        };
        let new = Self {
            decodable,
            line,
            intx,
            function,
            shown,
            bars,
            rules,
            kept,
            accesses: AtomicU64::new(0),
            quarantine: AtomicBool::new(false),
            state: Mutex::new(state),
        };
        new.with(shared, |state| new.write_command(shared, state));
        new
    }

    /// Where it is in the machine.
    pub fn address(&self) -> PciAddress {
        self.function.address
    }

    /// Where the guest sees it.
    pub fn shown(&self) -> PciAddress {
        self.shown
    }

    /// How often its config space was accessed.
    pub fn accesses(&self) -> u64 {
        self.accesses.load(Ordering::Relaxed)
    }

    /// Works on the state. A quarantine that was asked for meanwhile is done before anyone else has it.
    fn with<B: Backend, R>(&self, shared: &Shared<B>, work: impl FnOnce(&mut State) -> R) -> R {
        let result = {
            let mut state = self.state.lock();
            self.pending(shared, &mut state);
            work(&mut state)
        };
        self.settle_quarantine(shared);
        result
    }

    /// Does a quarantine that was asked for, unless someone holds the lock, who then will.
    fn settle_quarantine<B: Backend>(&self, shared: &Shared<B>) {
        // Whoever asks sets the flag first and tries the lock then; whoever unlocks looks at the flag after
        // that. So one of the two sees the other.
        while self.quarantine.load(Ordering::SeqCst) {
            match self.state.try_lock() {
                Some(state) if state.quarantined => return,
                Some(mut state) => self.pending(shared, &mut state),
                None => return,
            }
        }
    }

    fn pending<B: Backend>(&self, shared: &Shared<B>, state: &mut State) {
        if self.quarantine.load(Ordering::SeqCst) && !state.quarantined {
            state.quarantined = true;
            self.stop_mastering(shared, state);
        }
    }

    /// Bus mastering off, and off it stays until the VM starts anew.
    pub fn quarantine<B: Backend>(&self, shared: &Shared<B>) {
        self.quarantine.store(true, Ordering::SeqCst);
        self.settle_quarantine(shared);
    }

    /// Resets the function and everything that the guest sees of it, for a new start.
    pub fn restart<B: Backend>(&self, shared: &Shared<B>) -> Result<(), ResetError> {
        self.with(shared, |state| {
            self.silence(shared, state);
            let physical = Physical(&shared.backend);
            // In D3hot only the power state can be relied on (PM 5.4.1).
            let awake = !state.d3 || self.write_power(shared, 0).is_some();
            state.d3 = false;
            let done = match self.function.resets.first() {
                _ if !awake => {
                    Err(ResetError::Absent { function: self.address(), method: ResetMethod::PowerState })
                }
                // With its bus others would be reset too, which a function alone can't decide.
                Some(&method @ ResetMethod::SecondaryBus) => {
                    Err(ResetError::Unsupported { function: self.address(), method })
                }
                Some(&method) => reset(physical.config(), &self.function, &[], method, &physical),
                None => {
                    quarantine(physical.config(), &self.function);
                    self.kept.restore(physical.config(), &self.function)
                }
            };
            state.gone = done.is_err();
            state.values = Values::initial(&self.bars);
            state.line = self.line;
            if done.is_ok() {
                self.quarantine.store(false, Ordering::SeqCst);
                state.quarantined = false;
                self.write_command(shared, state);
            }
            done
        })
    }

    /// A read by the guest.
    pub fn read<B: Backend>(&self, shared: &Shared<B>, offset: u16, width: Width) -> u64 {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let Some(access) = Access::new(offset, width) else {
            shared.refuse();
            return width.mask();
        };
        let value = self.with(shared, |state| {
            if state.gone || shared.backend.is_stopping() {
                return access.extract(u32::MAX);
            }
            self.visible(shared, state, access)
        });
        value.into()
    }

    /// What the accessed bits read.
    fn visible<B: Backend>(&self, shared: &Shared<B>, state: &State, access: Access) -> u32 {
        let rule = self.rules.get(access.register);
        let mut value = rule.fixed;
        if rule.shown & access.lanes != 0 {
            value |=
                self.registers(&shared.backend, |registers| registers.read32(access.register)) & rule.shown;
        }
        match rule.special {
            Some(Special::Command) => value |= u32::from(state.command.bits()),
            Some(Special::Bar(index)) => value |= state.values.read(&self.bars, index),
            Some(Special::Line) => value |= u32::from(state.line),
            Some(Special::Message(register)) => {
                let messages =
                    state.messages.as_ref().filter(|_| shared.backend.messages() == Messages::Bridge);
                value |= messages.map_or(0, |messages| messages.read(register));
            }
            Some(Special::Absent | Special::Power | Special::Express | Special::Msi) | None => {}
        }
        access.extract(value)
    }

    /// A write by the guest.
    pub fn write<B: Backend>(&self, shared: &Shared<B>, offset: u16, width: Width, value: u32) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let Some(access) = Access::new(offset, width) else { return shared.refuse() };
        self.with(shared, |state| {
            // Asked with the lock had: a vCPU may have waited for it while another had the function reset, and after a stop a
            // CPU has little time to leave.
            if state.gone || shared.backend.is_stopping() {
                return;
            }
            let value = access.place(value);
            if !self.perform(shared, state, access, value) {
                shared.refuse();
            }
        });
    }

    /// Does what of a write is allowed, and says whether that was all of it.
    fn perform<B: Backend>(&self, shared: &Shared<B>, state: &mut State, access: Access, value: u32) -> bool {
        let rule = self.rules.get(access.register);
        let special = rule.special.map_or(0, Special::bits);
        let done = match rule.special {
            Some(Special::Command) if access.lanes & 0xffff != 0 => {
                self.command(shared, state, access.lanes as u16, value as u16)
            }
            Some(Special::Bar(index)) => {
                state.values.write(&self.bars, index, access.lanes, value);
                self.decode(shared, state)
            }
            Some(Special::Line) if access.lanes & 0xff != 0 => {
                state.line = value as u8;
                true
            }
            Some(Special::Message(register)) if access.lanes & special != 0 => {
                let decodes = state.decodes(Command::MEMORY);
                let messages = state.messages(&shared.backend);
                messages.is_some_and(|messages| {
                    messages.write(&shared.backend, register, access.lanes & special, value, decodes)
                })
            }
            Some(Special::Power) if access.lanes & 0xff != 0 => {
                self.power(shared, state, value as u16 & power::STATE)
            }
            Some(Special::Express) if value & Special::Express.bits() != 0 => {
                if self.function_level_reset(shared, state) {
                    // It takes everything else in this register with it.
                    return true;
                }
                false
            }
            _ => true,
        };
        if access.lanes & !special == 0 || state.gone {
            return done;
        }
        let before = self.registers(&shared.backend, |registers| registers.read32(access.register));
        // A function in a reset that its driver has begun takes writes, but answers no reads. Written back, what the
        // root port made up in its place would turn on all that belongs to the hypervisor. No register of which
        // the guest has a part reads so, and a look at the ids could find a function that is back since. A register that
        // is the guest's as a whole may hold anything.
        if is_no_answer(before) && (rule.written != u32::MAX || !self.answers(shared)) {
            return false;
        }
        let (mut writable, mut refused) = (rule.written, false);
        if rule.special == Some(Special::Msi)
            && !given_is_possible(before, value & access.lanes, access.lanes)
        {
            writable &= !(u32::from(msi::MSI_GIVEN) << 16);
            refused = true;
        }
        let lowered = rule.lowered & !value;
        let changed = access.lanes & (writable | lowered);
        let cleared = access.lanes & rule.cleared & value;
        // It reads as zero (PCIe 7.5.3.4), of a function that answers what it should.
        let initiates = if rule.special == Some(Special::Express) { special } else { 0 };
        // Registers are 16 bits wide where bits that a written one clears are near; those of the other half
        // stay alone.
        self.registers(&shared.backend, |registers| {
            let value = before & !changed & !rule.cleared & !initiates | value & changed | cleared;
            let touched = access.lanes & (writable | rule.lowered | rule.cleared);
            match (touched & 0xffff != 0, touched >> 16 != 0) {
                (true, true) => registers.write32(access.register, value),
                (true, false) => registers.write16(access.register, value as u16),
                (false, true) => registers.write16(access.register + 2, (value >> 16) as u16),
                (false, false) => {}
            }
        });
        let kept = access.lanes & !(writable | lowered | rule.cleared | special);
        let seen = before & rule.shown | rule.fixed;
        done && !refused && (seen ^ value) & kept == 0
    }

    /// The guest writes these bits of the command register.
    fn command<B: Backend>(&self, shared: &Shared<B>, state: &mut State, lanes: u16, value: u16) -> bool {
        let before = state.command;
        let asked = Command::from_bits_retain(before.bits() & !lanes | value & lanes);
        let mut new = asked & COMMAND;
        new.remove((Command::IO | Command::MEMORY).difference(self.decodable));
        let starts = new.contains(Command::BUS_MASTER) && !before.contains(Command::BUS_MASTER);
        if starts && (state.quarantined || shared.backend.set_bus_master(self.address(), true).is_err()) {
            new.remove(Command::BUS_MASTER);
        }
        state.command = new;
        // A BAR is unmapped before its function stops to answer, and mapped after it has begun to.
        self.decode_while(shared, state, before);
        self.write_command(shared, state);
        if before.contains(Command::BUS_MASTER) && !new.contains(Command::BUS_MASTER) {
            let _ = shared.backend.set_bus_master(self.address(), false);
        }
        let mapped = self.decode(shared, state);
        let decodes = state.decodes(Command::MEMORY);
        let sent = match state.messages(&shared.backend) {
            Some(messages) if decodes => messages.decodes(&shared.backend),
            _ => true,
        };
        mapped && sent && new == asked
    }

    /// Maps or unmaps BARs as the state says.
    fn decode<B: Backend>(&self, shared: &Shared<B>, state: &State) -> bool {
        self.decode_while(shared, state, Command::all())
    }

    /// Maps BARs as the state says, but only those that the function has decoded before.
    fn decode_while<B: Backend>(&self, shared: &Shared<B>, state: &State, before: Command) -> bool {
        let decodes = |what| state.decodes(what) && before.contains(what);
        let decoding =
            Decoding { values: &state.values, memory: decodes(Command::MEMORY), io: decodes(Command::IO) };
        shared.decode.lock().set(&shared.backend, &shared.windows, self.address(), decoding)
    }

    /// The guest reads a BAR where it isn't mapped.
    pub fn bar_read<B: Backend>(&self, shared: &Shared<B>, at: Trapped, width: Width) -> u64 {
        let value = self.with(shared, |state| {
            let hpa = self.trapped_bar(shared, state, at, width)?;
            state.messages(&shared.backend)?.bar_read(&shared.backend, at.bar, hpa, at.offset, width)
        });
        value.unwrap_or(width.mask()) & width.mask()
    }

    /// The guest writes a BAR where it isn't mapped.
    pub fn bar_write<B: Backend>(&self, shared: &Shared<B>, at: Trapped, width: Width, value: u64) {
        let done = self.with(shared, |state| {
            let hpa = self.trapped_bar(shared, state, at, width)?;
            let messages = state.messages(&shared.backend)?;
            Some(messages.bar_write(&shared.backend, at.bar, hpa, at.offset, width, value))
        });
        if done == Some(false) {
            shared.refuse();
        }
    }

    /// Where a BAR is that the guest reaches by a trap, if the function decodes and the access is one that it would take.
    fn trapped_bar<B: Backend>(
        &self,
        shared: &Shared<B>,
        state: &State,
        at: Trapped,
        width: Width,
    ) -> Option<Hpa> {
        let answers = state.decodes(Command::MEMORY) && !shared.backend.is_stopping();
        let taken = answers && at.offset.is_multiple_of(width.bytes());
        let bar = self.bars.iter().find(|bar| bar.index == at.bar && taken)?;
        let inside = at.offset.checked_add(width.bytes()).is_some_and(|end| end <= bar.bytes);
        bar.hpa().filter(|_| inside)
    }

    /// The guest asks for a power state.
    fn power<B: Backend>(&self, shared: &Shared<B>, state: &mut State, asked: u16) -> bool {
        match (state.d3, asked) {
            (false, 0) | (true, power::D3HOT) => true,
            (false, power::D3HOT) => {
                state.d3 = true;
                let unmapped = self.decode(shared, state);
                if self.write_power(shared, power::D3HOT).is_none() {
                    state.d3 = false;
                    self.decode(shared, state);
                    return false;
                }
                unmapped
            }
            (true, 0) => {
                let Some(keeps) = self.write_power(shared, 0) else {
                    // It stays in D3hot, with no BAR mapped.
                    return false;
                };
                if !self.answers(shared) {
                    self.lose(shared, state);
                    return true;
                }
                state.d3 = false;
                if keeps {
                    return self.decode(shared, state);
                }
                self.silence(shared, state);
                self.initialise(shared, state);
                true
            }
            // D1 and D2 aren't shown.
            _ => false,
        }
    }

    /// Writes the power state and waits; says whether the function keeps its state on the way back to D0.
    /// `None`: it doesn't answer, and nothing was written.
    fn write_power<B: Backend>(&self, shared: &Shared<B>, value: u16) -> Option<bool> {
        let Some(offset) = self.function.capability(capability::POWER) else { return Some(true) };
        let at = offset + power::CONTROL;
        let keeps = self.registers(&shared.backend, |registers| {
            let before = registers.control16(at)?;
            registers.write16(at, before & !(power::STATE | power::PME_STATUS) | value);
            Some(before & power::NO_SOFT_RESET != 0)
        })?;
        shared.backend.delay_us(POWER_US);
        Some(keeps)
    }

    /// The guest initiates a function-level reset.
    fn function_level_reset<B: Backend>(&self, shared: &Shared<B>, state: &mut State) -> bool {
        let method = ResetMethod::FunctionLevel;
        if !self.function.resets.contains(&method) {
            return false;
        }
        self.silence(shared, state);
        let physical = Physical(&shared.backend);
        match reset(physical.config(), &self.function, &[], method, &physical) {
            Ok(()) => {
                state.d3 = false;
                self.initialise(shared, state);
            }
            Err(_) => self.lose(shared, state),
        }
        true
    }

    /// Takes the function off the bus and its BARs from the guest.
    fn silence<B: Backend>(&self, shared: &Shared<B>, state: &mut State) {
        let mastered = state.command.contains(Command::BUS_MASTER);
        if let Some(messages) = state.messages(&shared.backend) {
            messages.clear(&shared.backend);
        }
        state.command = Command::empty();
        self.decode(shared, state);
        self.write_command(shared, state);
        if mastered {
            let _ = shared.backend.set_bus_master(self.address(), false);
        }
    }

    /// Brings the registers to what the guest expects after a reset, whatever of it the hardware did, and
    /// what belongs to the host to what it was. A function of which what is known doesn't hold any more is lost.
    fn initialise<B: Backend>(&self, shared: &Shared<B>, state: &mut State) {
        let physical = Physical(&shared.backend);
        quarantine(physical.config(), &self.function);
        if self.kept.restore(physical.config(), &self.function).is_err() {
            return self.lose(shared, state);
        }
        state.values = Values::default();
        state.line = 0;
        self.write_command(shared, state);
    }

    /// The function doesn't answer any more: from now on it doesn't to the guest either.
    fn lose<B: Backend>(&self, shared: &Shared<B>, state: &mut State) {
        state.gone = true;
        self.silence(shared, state);
    }

    fn answers<B: Backend>(&self, shared: &Shared<B>) -> bool {
        let ids = self.registers(&shared.backend, |registers| registers.read32(header::VENDOR));
        ids == u32::from(self.function.vendor) | u32::from(self.function.device) << 16
    }

    fn stop_mastering<B: Backend>(&self, shared: &Shared<B>, state: &mut State) {
        let mastered = state.command.contains(Command::BUS_MASTER);
        state.command.remove(Command::BUS_MASTER);
        self.write_command(shared, state);
        if mastered {
            let _ = shared.backend.set_bus_master(self.address(), false);
        }
    }

    /// The hardware has of the command register what the guest has, and nothing else but a line that is kept
    /// off.
    fn write_command<B: Backend>(&self, shared: &Shared<B>, state: &State) {
        let kept = if self.intx { Command::empty() } else { Command::INTX_DISABLE };
        let command = (state.command | kept).bits();
        self.registers(&shared.backend, |registers| registers.write16(header::COMMAND, command));
    }

    fn registers<B: Backend, R>(
        &self,
        backend: &B,
        work: impl FnOnce(Registers<'_, Physical<'_, B>>) -> R,
    ) -> R {
        work(Registers::new(&Physical(backend), self.address()))
    }
}

/// The BARs that a guest sees of a function: those that have a place.
fn shown_bars<B: Backend>(
    backend: &B,
    function: &Function,
    memory: &[(u8, Hpa)],
    ports: &[(u8, u16)],
) -> Vec<ShownBar> {
    let may_map =
        |bar| backend.messages() == Messages::Functions || backend.is_mappable(function.address, bar);
    let shown = |bar: &Bar| {
        let hpa = || memory.iter().find(|(index, _)| *index == bar.index).map(|(_, hpa)| *hpa);
        match bar.kind {
            BarKind::Io => {
                let first = ports.iter().find(|(index, _)| *index == bar.index).map(|(_, first)| *first);
                ShownBar::ports(bar, first)
            }
            _ if may_map(bar.index) => ShownBar::new(bar, hpa()),
            _ => ShownBar::unmappable(bar, hpa()),
        }
    };
    function.bars.iter().filter_map(shown).collect()
}

/// Whether an MSI control register with this value before gives no more vectors than there are.
fn given_is_possible(before: u32, value: u32, lanes: u32) -> bool {
    let after = ((before & !lanes | value) >> 16) as u16;
    (after & msi::MSI_GIVEN) >> 4 <= ((before >> 16) as u16 & msi::MSI_CAPABLE) >> 1
}

const _: () = assert!(Special::Express.bits() == DeviceControl::INITIATE_FLR.bits() as u32);
const _: () = assert!(express::DEVICE_CONTROL.is_multiple_of(4) && power::CONTROL.is_multiple_of(4));
