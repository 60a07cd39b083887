//! The unit's side of the fake.

extern crate std;

use std::collections::BTreeMap;

use super::{Delivery, FAULTS, FAULTS_AT, Outcome, State};
use crate::spec::commands::{self, Command};
use crate::spec::faults::{self, Fault};
use crate::spec::interrupts::{High, Low};
use crate::spec::registers::{
    Extended, FaultStatus, Global, InterruptTable, POINTER_MASK, PROTECTED_ENABLE, PROTECTED_STATUS,
    QueueAddress, RootTable, offset,
};
use crate::spec::tables::{ContextHigh, ContextLow, Root};

impl State {
    pub(super) fn write32(&mut self, at: usize, value: u32) {
        self.writes.push((at, value.into()));
        match at {
            offset::COMMAND => self.command(Global::from(value)),
            offset::FAULT_STATUS => {
                let (clear, now) = (FaultStatus::from(value), self.fault_status());
                let left = now
                    .with_overflow(now.overflow() && !clear.overflow())
                    .with_queue_error(now.queue_error() && !clear.queue_error());
                self.registers.insert(at, left.into());
            }
            offset::PROTECTED => {
                let status = if value & PROTECTED_ENABLE != 0 { PROTECTED_STATUS } else { 0 };
                self.registers.insert(at, value & PROTECTED_ENABLE | status);
            }
            _ if (FAULTS_AT..FAULTS_AT + FAULTS * faults::BYTES).contains(&at) => {
                // F is cleared by writing a one.
                if at % faults::BYTES == 12 && value >> 31 != 0 {
                    let left = self.register(at) & !(1 << 31);
                    self.registers.insert(at, left);
                }
                let pending = (0..FAULTS).any(|number| self.is_recorded(number));
                let status = self.fault_status().with_pending(pending);
                self.registers.insert(offset::FAULT_STATUS, status.into());
            }
            _ => {
                self.registers.insert(at, value);
            }
        }
    }

    pub(super) fn write64(&mut self, at: usize, value: u64) {
        self.writes.push((at, value));
        assert!(
            at != offset::QUEUE_ADDRESS || !self.status().queue(),
            "the queue is exchanged while it is used"
        );
        self.put64(at, value);
        if at == offset::QUEUE_TAIL {
            self.consume();
        }
    }

    /// 11.4.4.1: one change at a time.
    fn command(&mut self, command: Global) {
        if self.misbehaviour.never_follows {
            return;
        }
        let before = self.status();
        let stays =
            |it: Global| it.with_root_table(false).with_interrupt_table(false).with_write_buffer(false);
        let changes = u32::from(stays(command)) ^ u32::from(stays(before));
        let once = [command.root_table(), command.interrupt_table(), command.write_buffer()];
        let pointers = once.into_iter().filter(|it| *it).count() as u32;
        let compatibility = u32::from(Global::new().with_compatibility(true));
        assert!((changes & !compatibility).count_ones() + pointers <= 1, "several commands at once");
        if command.root_table() {
            let root = RootTable::from(self.register64(offset::ROOT_TABLE));
            assert_eq!(root.mode(), 0, "legacy mode");
            self.root = root.address() << 12;
        }
        if command.interrupt_table() {
            self.interrupts = self.register64(offset::INTERRUPT_TABLE);
        }
        let status = command
            .with_root_table(before.root_table() || command.root_table())
            .with_interrupt_table(before.interrupt_table() || command.interrupt_table())
            .with_write_buffer(false);
        self.registers.insert(offset::STATUS, status.into());
        if status.queue() && !before.queue() {
            self.put64(offset::QUEUE_HEAD, 0);
        }
        self.consume();
    }

    fn fault_status(&self) -> FaultStatus {
        FaultStatus::from(self.register(offset::FAULT_STATUS))
    }

    fn consume(&mut self) {
        let address = QueueAddress::from(self.register64(offset::QUEUE_ADDRESS));
        let (base, bytes) = (address.address() << 12, 0x1000u64 << address.pages());
        while self.status().queue() && !self.misbehaviour.deaf && !self.fault_status().queue_error() {
            let head = self.register64(offset::QUEUE_HEAD) & POINTER_MASK;
            if head == self.register64(offset::QUEUE_TAIL) & POINTER_MASK {
                return;
            }
            let command = [self.word(base + head), self.word(base + head + 8)];
            if !self.execute(command) {
                let status = self.fault_status().with_queue_error(true);
                self.registers.insert(offset::FAULT_STATUS, status.into());
                return;
            }
            self.put64(offset::QUEUE_HEAD, (head + commands::BYTES) & (bytes - 1));
        }
    }

    fn execute(&mut self, command: Command) -> bool {
        let kind = commands::kind(&command);
        if let Some((refused, times)) = &mut self.misbehaviour.refuses
            && kind == *refused
            && *times > 0
        {
            *times -= 1;
            return false;
        }
        match kind {
            commands::WAIT => {
                for command in core::mem::take(&mut self.waiting) {
                    self.forget(command);
                }
                assert_ne!(command[0] & commands::STORE, 0);
                self.visible.insert(command[1] & !7, command[0] >> 32);
                if let Some(device) = self.misbehaviour.restless {
                    self.dma(device, 0, true);
                }
                return true;
            }
            commands::CONTEXT | commands::IOTLB | commands::INTERRUPTS => self.waiting.push(command),
            _ => return false,
        }
        self.log.push(command);
        true
    }

    fn forget(&mut self, command: Command) {
        let [first, second] = command;
        let granularity = first >> commands::GRANULARITY_SHIFT & 3;
        let (domain, upper) = ((first >> 16) as u16, (first >> 32) as u16);
        match (commands::kind(&command), granularity) {
            (commands::CONTEXT, commands::GLOBAL) => {
                self.held_roots.clear();
                self.held_contexts.clear();
            }
            // 6.5.2.1: by the domain that it is tagged with.
            (commands::CONTEXT, commands::SELECTIVE) => {
                let tagged = |held: &[u64; 2]| ContextHigh::from(held[1]).domain() == domain;
                if self.held_contexts.get(&upper).is_some_and(tagged) {
                    self.held_contexts.remove(&upper);
                }
                self.held_roots.remove(&((upper >> 8) as u8));
            }
            (commands::IOTLB, commands::GLOBAL) => self.held_pages.clear(),
            (commands::IOTLB, commands::DOMAIN) => self.held_pages.retain(|(tag, _), _| *tag != domain),
            (commands::IOTLB, commands::SELECTIVE) => {
                assert_eq!(second & 0xfff, 0, "one page, and what leads to it");
                self.held_pages.remove(&(domain, second >> 12));
            }
            (commands::INTERRUPTS, 0) => self.held_interrupts.clear(),
            (commands::INTERRUPTS, 1) => {
                self.held_interrupts.remove(&upper);
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn dma(&mut self, device: u16, address: u64, write: bool) -> Outcome {
        if !self.status().translation() {
            return Outcome::Reaches(address);
        }
        let bus = (device >> 8) as u8;
        let fresh = self.word(self.root + u64::from(bus) * 16);
        // Only what is present is held (CAP.CM = 0).
        let root = self.held_roots.get(&bus).copied().unwrap_or(fresh);
        if !Root::from(root).present() {
            return self.fault(device, 1, !write, address, false);
        }
        self.held_roots.insert(bus, root);
        let at = (Root::from(root).table() << 12) + u64::from(device & 0xff) * 16;
        let fresh = [self.word(at), self.word(at + 8)];
        let entry = self.held_contexts.get(&device).copied().unwrap_or(fresh);
        let (low, high) = (ContextLow::from(entry[0]), ContextHigh::from(entry[1]));
        if !low.present() {
            return self.fault(device, 2, !write, address, low.silent());
        }
        self.held_contexts.insert(device, entry);
        assert_eq!(low.kind(), 0, "device {device:#x}: may translate by itself, or not at all");
        let levels = u64::from(high.width()) + 2;
        let page = (high.domain(), address >> 12);
        let fresh = self.walk(low.root() << 12, levels, address);
        let held = self.held_pages.get(&page).copied().or(fresh);
        if let Some(held) = held {
            self.held_pages.insert(page, held);
        }
        match held {
            Some((start, read, may_write)) if write && may_write || !write && read => {
                Outcome::Reaches(start | address & 0xfff)
            }
            _ => self.fault(device, if write { 5 } else { 6 }, !write, address, low.silent()),
        }
    }

    fn fault(&mut self, device: u16, reason: u8, read: bool, address: u64, silent: bool) -> Outcome {
        if silent {
            return Outcome::Blocked;
        }
        self.record(Fault::encode(device, reason, read, address & !0xfff));
        Outcome::Faults
    }

    pub(super) fn msi(&mut self, device: u16, address: u32, data: u16) -> Delivery {
        let status = self.status();
        let remappable = address >> 4 & 1 != 0;
        if !status.interrupts() || !remappable && status.compatibility() {
            return Delivery::Passes;
        }
        let handle = (address >> 5 & 0x7fff | (address >> 2 & 1) << 15) as u16;
        // 5.1.2.2, SHV: the data's lower half is added.
        let index = if address >> 3 & 1 != 0 { handle.wrapping_add(data) } else { handle };
        let blocked = |state: &mut Self, reason| {
            state.record(Fault::encode(device, reason, false, u64::from(index) << 48));
            Delivery::Faults
        };
        if !remappable {
            return blocked(self, 0x25);
        }
        let table = InterruptTable::from(self.interrupts);
        if u32::from(index) >= 2 << table.size() {
            return blocked(self, 0x21);
        }
        let at = (table.address() << 12) + u64::from(index) * 16;
        let fresh = [self.word(at), self.word(at + 8)];
        let entry = self.held_interrupts.get(&index).copied().unwrap_or(fresh);
        let (low, high) = (Low::from(entry[0]), High::from(entry[1]));
        if !low.present() {
            return blocked(self, 0x22);
        }
        self.held_interrupts.insert(index, entry);
        assert_eq!((high.verify(), high.qualifier()), (1, 0), "anybody could send it");
        if high.source() != device {
            return blocked(self, 0x26);
        }
        let x2apic = table.x2apic() && Extended::from(self.register64(offset::EXTENDED)).x2apic();
        let destination = if x2apic { low.destination() } else { low.destination() >> 8 & 0xff };
        Delivery::To { destination, vector: low.vector() }
    }

    fn is_recorded(&self, number: usize) -> bool {
        self.register(FAULTS_AT + number * faults::BYTES + 12) >> 31 != 0
    }

    /// Where the next place is taken the fault is lost, and that is said.
    fn record(&mut self, [first, second]: [u64; 2]) {
        let number = self.next_fault;
        let status = self.fault_status();
        if self.is_recorded(number) {
            self.registers.insert(offset::FAULT_STATUS, status.with_overflow(true).into());
            return;
        }
        // While one of them overflowed nothing more is recorded (7.3.1).
        if status.overflow() {
            return;
        }
        let at = FAULTS_AT + number * faults::BYTES;
        self.put64(at, first);
        self.put64(at + 8, second);
        self.next_fault = (number + 1) % FAULTS;
        let status =
            if status.pending() { status } else { status.with_pending(true).with_first(number as u8) };
        self.registers.insert(offset::FAULT_STATUS, status.into());
    }

    /// Makes writes visible, of a unit that isn't coherent only those that were flushed. The unit may read both words of an entry in any
    /// order, and at any time: the second of one that it may use doesn't change.
    pub(super) fn barrier(&mut self) {
        let coherent = Extended::from(self.register64(offset::EXTENDED)).coherent();
        let flushed = core::mem::take(&mut self.flushed);
        let all = core::mem::take(&mut self.written);
        let (seen, stays): (BTreeMap<_, _>, _) =
            all.into_iter().partition(|(at, _)| coherent || flushed.contains(at));
        self.written = stays;
        for (at, value) in &seen {
            if at % 16 != 8 || self.word(*at) == *value {
                continue;
            }
            let first = self.word(at - 8);
            let in_context = self.held_roots.values().any(|root| {
                let table = Root::from(*root).table() << 12;
                Root::from(*root).present() && (table..table + 0x1000).contains(at)
            });
            let in_interrupts = self.interrupts != 0 && {
                let table = InterruptTable::from(self.interrupts);
                let base = table.address() << 12;
                (base..base + (32 << table.size())).contains(at)
            };
            assert!(!(in_context || in_interrupts) || first & 1 == 0, "{at:#x}: changes while it is used");
        }
        self.visible.extend(seen);
    }
}
