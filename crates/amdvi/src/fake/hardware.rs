//! The IOMMU's side of the fake.

extern crate std;

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::{Delivery, Outcome, State};
use crate::spec::commands::{self, Command};
use crate::spec::device_table::{DomainWord, Entry, InterruptControl, InterruptWord, Translation};
use crate::spec::events::Event;
use crate::spec::interrupts::{INDEX_MASK, Narrow, WideHigh, WideLow};
use crate::spec::registers::{DeviceTableBase, POINTER_MASK, RingBase, Status, offset};

impl State {
    pub(super) fn write_register(&mut self, at: usize, value: u64) {
        self.writes.push((at, value));
        let control = self.control();
        match at {
            offset::FEATURES => return,
            offset::STATUS => {
                let clear = Status::from(value);
                self.set_status(|now| {
                    now.with_event_overflow(now.event_overflow() && !clear.event_overflow())
                        .with_event_interrupt(now.event_interrupt() && !clear.event_interrupt())
                });
                return;
            }
            // 3.4.1 to 3.4.3: what is in use isn't exchanged.
            offset::DEVICE_TABLE => {
                assert!(!control.enabled(), "the device table is exchanged while it is used")
            }
            offset::COMMAND_BASE => {
                assert!(!control.commands(), "the command buffer is exchanged while it is used")
            }
            offset::EVENT_BASE => {
                assert!(!control.event_log(), "the event log is exchanged while it is used")
            }
            _ => {}
        }
        self.registers.insert(at, value);
        match at {
            offset::CONTROL => {
                let (now, runs_on) = (self.control(), self.misbehaviour.runs_on);
                let status = self.status();
                let commands = now.enabled() && now.commands();
                self.set_status(|_| {
                    status
                        .with_commands_run(commands || runs_on && status.commands_run())
                        .with_event_log_runs(now.enabled() && now.event_log() && !status.event_overflow())
                });
                self.consume();
            }
            offset::COMMAND_TAIL => self.consume(),
            _ => {}
        }
    }

    fn ring(&self, at: usize) -> (u64, u64) {
        let base = RingBase::from(self.register(at));
        (base.base() << 12, commands::BYTES << base.length())
    }

    fn consume(&mut self) {
        let (base, bytes) = self.ring(offset::COMMAND_BASE);
        while self.status().commands_run() && !self.misbehaviour.deaf {
            let head = self.register(offset::COMMAND_HEAD) & POINTER_MASK;
            if head == self.register(offset::COMMAND_TAIL) & POINTER_MASK {
                return;
            }
            let command = [self.word(base + head), self.word(base + head + 8)];
            if !self.execute(command) {
                // 2.4: it stops there, and says what it was.
                self.set_status(|status| status.with_commands_run(false));
                self.record([5 << 60, base + head]);
                return;
            }
            self.registers.insert(offset::COMMAND_HEAD, (head + commands::BYTES) & (bytes - 1));
        }
    }

    fn execute(&mut self, command: Command) -> bool {
        let opcode = commands::opcode(&command);
        if let Some((refused, times)) = &mut self.misbehaviour.refuses
            && opcode == *refused
            && *times > 0
        {
            *times -= 1;
            return false;
        }
        match opcode {
            commands::COMPLETION_WAIT => {
                for command in core::mem::take(&mut self.waiting) {
                    self.forget(command);
                }
                if command[0] & commands::STORE != 0 {
                    self.visible.insert(command[0] & commands::STORE_ADDRESS, command[1]);
                }
                if let Some(device) = self.misbehaviour.restless {
                    self.dma(device, 0, true);
                }
                return true;
            }
            commands::INVALIDATE_DEVTAB_ENTRY
            | commands::INVALIDATE_IOMMU_PAGES
            | commands::INVALIDATE_INTERRUPT_TABLE
            | commands::INVALIDATE_IOMMU_ALL => self.waiting.push(command),
            _ => return false,
        }
        self.log.push(command);
        true
    }

    fn forget(&mut self, command: Command) {
        let [first, second] = command;
        match commands::opcode(&command) {
            commands::INVALIDATE_DEVTAB_ENTRY => {
                self.held_entries.remove(&(first as u16));
            }
            commands::INVALIDATE_IOMMU_PAGES => {
                let domain = (first >> 32) as u16;
                let everything = second & commands::SIZED != 0;
                assert!(!everything || second & !0xfff == commands::EVERYTHING);
                self.held_pages
                    .retain(|(tag, page), _| *tag != domain || !everything && *page != second >> 12);
            }
            commands::INVALIDATE_INTERRUPT_TABLE => {
                self.held_interrupts.retain(|(device, _), _| *device != first as u16);
            }
            _ => {
                self.held_entries.clear();
                self.held_pages.clear();
                self.held_interrupts.clear();
            }
        }
    }

    fn table(&self) -> (u64, u64) {
        let base = DeviceTableBase::from(self.register(offset::DEVICE_TABLE));
        (base.base() << 12, (u64::from(base.size()) + 1) << 12)
    }

    /// A device's entry; one beyond the table has none.
    fn entry(&mut self, device: u16) -> Option<Entry> {
        let (base, bytes) = self.table();
        let at = u64::from(device) * 32;
        if at >= bytes {
            return None;
        }
        let fresh = core::array::from_fn(|word| self.word(base + at + word as u64 * 8));
        Some(*self.held_entries.entry(device).or_insert(fresh))
    }

    pub(super) fn dma(&mut self, device: u16, address: u64, write: bool) -> Outcome {
        if !self.control().enabled() {
            return Outcome::Reaches(address);
        }
        let Some(entry) = self.entry(device) else { return Outcome::Aborts };
        let (translation, domain) = (Translation::from(entry[0]), DomainWord::from(entry[1]));
        if !translation.valid() {
            return Outcome::Reaches(address);
        }
        let silent = domain.suppress_all();
        if !translation.translation_valid() {
            return self.fault(device, address, write, silent);
        }
        assert!(translation.levels() > 0, "device {device:#x}: addresses pass as they are");
        assert!(!domain.device_cache(), "device {device:#x}: may translate by itself");
        let fresh = self.walk(translation.root() << 12, translation.levels(), address);
        // Only what is mapped is held.
        let page = (domain.domain(), address >> 12);
        let held = self.held_pages.get(&page).copied().or(fresh);
        if let Some(held) = held {
            self.held_pages.insert(page, held);
        }
        match held {
            Some((start, read, may_write)) if write && may_write || !write && read => {
                Outcome::Reaches(start | address & 0xfff)
            }
            _ => self.fault(device, address, write, silent),
        }
    }

    fn fault(&mut self, device: u16, address: u64, write: bool, silent: bool) -> Outcome {
        if silent {
            return Outcome::Aborts;
        }
        self.record(Event::page_fault(device, false, write, address));
        Outcome::Faults
    }

    pub(super) fn msi(&mut self, device: u16, data: u32) -> Delivery {
        if !self.control().enabled() {
            return Delivery::Passes;
        }
        let Some(entry) = self.entry(device) else { return Delivery::Aborts };
        let word = InterruptWord::from(entry[2]);
        if !Translation::from(entry[0]).valid() || !word.valid() {
            return Delivery::Passes;
        }
        let passes = word.init_passes() || word.external_passes() || word.nmi_passes();
        assert!(!passes && !word.lint0_passes() && !word.lint1_passes(), "others than fixed ones pass");
        let abort = |state: &mut Self, silent: bool| {
            if silent {
                return Delivery::Aborts;
            }
            state.record(Event::page_fault(device, true, true, u64::from(data)));
            Delivery::Faults
        };
        match word.control() {
            InterruptControl::Pass => return Delivery::Passes,
            InterruptControl::Remap => {}
            _ => return abort(self, word.ignore()),
        }
        let index = data & INDEX_MASK;
        if index >> word.length() != 0 {
            return abort(self, word.ignore());
        }
        let wide = self.control().wide_interrupts();
        let (base, x2apic) = (word.table() << 6, self.control().x2apic());
        assert!(base.is_multiple_of(128), "2.2.5: the table's alignment");
        let fresh = if wide {
            let at = base + u64::from(index) * 16;
            [self.word(at), self.word(at + 8)]
        } else {
            let at = base + u64::from(index) * 4;
            [self.word(at & !7) >> (at % 8 * 8) & u64::from(u32::MAX), 0]
        };
        let [low, high] = *self.held_interrupts.entry((device, index)).or_insert(fresh);
        if low & 1 == 0 {
            return abort(self, word.ignore());
        }
        if !wide {
            let narrow = Narrow::from(low as u32);
            return Delivery::To { destination: narrow.destination().into(), vector: narrow.vector() };
        }
        let (low, high) = (WideLow::from(low), WideHigh::from(high));
        assert!(!low.guest());
        let destination = low.destination() | u32::from(high.destination()) << 24;
        Delivery::To {
            destination: if x2apic { destination } else { destination & 0xff },
            vector: high.vector(),
        }
    }

    /// A full log loses the record, and says so.
    pub fn record(&mut self, record: [u64; 2]) {
        if !self.status().event_log_runs() {
            return;
        }
        let (base, bytes) = self.ring(offset::EVENT_BASE);
        let tail = self.register(offset::EVENT_TAIL) & POINTER_MASK;
        let next = (tail + commands::BYTES) & (bytes - 1);
        if next == self.register(offset::EVENT_HEAD) & POINTER_MASK {
            self.set_status(|status| status.with_event_overflow(true).with_event_log_runs(false));
            return;
        }
        if !self.misbehaviour.late_records {
            self.visible.insert(base + tail, record[0]);
            self.visible.insert(base + tail + 8, record[1]);
        }
        self.registers.insert(offset::EVENT_TAIL, next);
        self.set_status(|status| status.with_event_interrupt(true));
    }

    /// Makes writes visible. The IOMMU may read the words of an entry in any order, and at any time: of one that it may use only one
    /// word changes between two barriers, and none that the valid ones depend on.
    pub(super) fn barrier(&mut self) {
        let written = core::mem::take(&mut self.written);
        let changed: BTreeMap<u64, u64> =
            written.into_iter().filter(|(address, value)| self.word(*address) != *value).collect();
        let (base, bytes) = self.table();
        let enabled = self.control().enabled();
        let in_table = changed.keys().filter(|at| enabled && (base..base + bytes).contains(*at));
        let entries: BTreeSet<u64> = in_table.map(|at| at & !31).collect();
        for entry in entries {
            let device = ((entry - base) / 32) as u16;
            let held = self.held_entries.get(&device).copied();
            let before: Vec<u64> = (0..4).map(|word| self.word(entry + word * 8)).collect();
            let after: Vec<u64> = (0..4)
                .map(|word| changed.get(&(entry + word * 8)).copied().unwrap_or(before[word as usize]))
                .collect();
            let open = |word: u64| Translation::from(word).translation_valid();
            let may_be_open = open(before[0]) || held.is_some_and(|held| open(held[0]));
            assert!(Translation::from(after[0]).valid(), "device {device:#x}: its requests pass");
            assert!(InterruptWord::from(after[2]).valid(), "device {device:#x}: its interrupts pass");
            if before[1] != after[1] {
                assert!(
                    !may_be_open && !open(after[0]),
                    "device {device:#x}: the domain changes while it is used"
                );
            }
            if open(before[0]) && open(after[0]) {
                assert_eq!(before[0], after[0], "device {device:#x}: tables become other ones");
            }
        }
        self.visible.extend(changed);
    }
}
