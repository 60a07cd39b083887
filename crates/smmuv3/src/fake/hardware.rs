//! The SMMU's side of the fake.

use super::{Outcome, State};
use crate::spec::commands::{self, Command};
use crate::spec::events;
use crate::spec::registers::*;
use crate::spec::stream_table::{Entry, level1, word0, word2, word3};

impl State {
    pub fn write_register(&mut self, offset: usize, value: u32) {
        self.writes.push((offset, value.into()));
        let acknowledges = !self.misbehaviour.never_acknowledges;
        match offset {
            gbpa::OFFSET => {
                assert!(gbpa::UPDATE.is_set(value.into()), "GBPA is written without UPDATE");
                let update = gbpa::UPDATE.mask() as u32;
                let settled = if self.misbehaviour.gbpa_stuck {
                    self.register(offset) | update
                } else {
                    value & !update
                };
                self.registers.insert(offset, settled);
                return;
            }
            cr0::OFFSET if acknowledges => {
                self.registers.insert(cr0::ACK_OFFSET, value);
            }
            irq_ctrl::OFFSET if acknowledges => {
                self.registers.insert(irq_ctrl::ACK_OFFSET, value);
            }
            // Page 0 has no event queue indices to be used (6.3.29).
            0xa8 | 0xac => panic!("the event queue's indices are in page 1"),
            _ => {}
        }
        if offset == cmdq::PROD_OFFSET && self.misses() {
            return;
        }
        self.registers.insert(offset, value);
        if offset == eventq::PROD_OFFSET {
            self.event_producer = value;
        }
        if offset == cmdq::PROD_OFFSET || offset == gerror::ACK_OFFSET {
            self.consume();
        }
    }

    /// Whether it misses that there are commands.
    fn misses(&mut self) -> bool {
        let Some(left) = self.misbehaviour.hears else { return false };
        // Past the end of what it hears it misses two: the first would be heard with the second.
        self.misbehaviour.hears = if left == usize::MAX { None } else { Some(left.wrapping_sub(1)) };
        left == 0 || left == usize::MAX
    }

    fn ring(&self, base_offset: usize) -> (u64, u32) {
        let base = u64::from(self.register(base_offset)) | u64::from(self.register(base_offset + 4)) << 32;
        (base & queue_base::ADDR.mask(), 1 << queue_base::LOG2SIZE.get(base))
    }

    fn consume(&mut self) {
        let (base, size) = self.ring(cmdq::BASE_OFFSET);
        loop {
            let active = self.register(gerror::OFFSET) ^ self.register(gerror::ACK_OFFSET);
            let consumer = self.register(cmdq::CONS_OFFSET) & 0xf_ffff;
            let enabled = cr0::CMDQEN.is_set(self.register(cr0::OFFSET).into());
            let stopped = gerror::CMDQ_ERR.is_set(active.into()) || self.misbehaviour.deaf;
            if !enabled || stopped || consumer == self.register(cmdq::PROD_OFFSET) {
                return;
            }
            let entry = base + u64::from(consumer & (size - 1)) * commands::BYTES;
            let command = [self.word(entry), self.word(entry + 8)];
            if let Err(code) = self.execute(command) {
                self.registers.insert(cmdq::CONS_OFFSET, consumer | code << 24);
                let error = self.register(gerror::OFFSET) ^ gerror::CMDQ_ERR.mask() as u32;
                self.registers.insert(gerror::OFFSET, error);
                return;
            }
            self.registers.insert(cmdq::CONS_OFFSET, (consumer + 1) & (size * 2 - 1));
        }
    }

    fn execute(&mut self, command: Command) -> Result<(), u32> {
        let opcode = commands::OPCODE.get(command[0]);
        if let Some((refused, times, code)) = &mut self.misbehaviour.refuses
            && opcode == *refused
            && *times > 0
        {
            *times -= 1;
            return Err(*code);
        }
        self.log.push(command);
        match opcode {
            commands::CFGI_STE
            | commands::CFGI_STE_RANGE
            | commands::TLBI_S12_VMALL
            | commands::TLBI_S2_IPA
            | commands::TLBI_NSNH_ALL => self.waiting.push(command),
            commands::SYNC => {
                for command in core::mem::take(&mut self.waiting) {
                    self.forget(command);
                }
            }
            _ => return Err(1),
        }
        Ok(())
    }

    fn forget(&mut self, [low, high]: Command) {
        let vmid = commands::VMID.get(low) as u16;
        match commands::OPCODE.get(low) {
            commands::CFGI_STE => {
                let stream = commands::STREAM.get(low) as u32;
                self.held_entries.remove(&stream);
                if !commands::LEAF.is_set(high) {
                    self.held_descriptors.remove(&(stream >> 8));
                }
            }
            commands::CFGI_STE_RANGE => {
                assert_eq!(commands::RANGE.get(high), 31);
                self.held_entries.clear();
                self.held_descriptors.clear();
            }
            commands::TLBI_S12_VMALL => self.held_pages.retain(|(tag, _), _| *tag != vmid),
            commands::TLBI_S2_IPA => {
                self.held_pages.remove(&(vmid, commands::ADDRESS.get(high)));
            }
            _ => self.held_pages.clear(),
        }
    }

    fn table(&self) -> (u64, u64, bool) {
        let base = u64::from(self.register(strtab_base::OFFSET))
            | u64::from(self.register(strtab_base::OFFSET + 4)) << 32;
        let config = u64::from(self.register(strtab_base_cfg::OFFSET));
        let two_level = strtab_base_cfg::FMT.get(config) == 1;
        assert!(!two_level || strtab_base_cfg::SPLIT.get(config) == 8);
        (base & strtab_base::ADDR.mask(), strtab_base_cfg::LOG2SIZE.get(config), two_level)
    }

    /// The stream whose entry lies at an address.
    pub fn stream_of(&self, address: u64) -> Option<u32> {
        let (base, bits, two_level) = self.table();
        if base == 0 {
            return None;
        }
        if !two_level {
            return (base..base + (64 << bits)).contains(&address).then(|| ((address - base) / 64) as u32);
        }
        (0..1u64 << (bits - 8)).find_map(|number| {
            let descriptor = self.word(base + number * 8);
            let table = descriptor & level1::L2PTR.mask();
            let inside = level1::SPAN.is_set(descriptor) && (table..table + (64 << 8)).contains(&address);
            inside.then(|| ((number << 8) | ((address - table) / 64)) as u32)
        })
    }

    fn entry(&mut self, stream: u32) -> Result<Entry, Outcome> {
        let (base, bits, two_level) = self.table();
        if u64::from(stream) >> bits != 0 {
            return Err(self.fault(stream, 0x02, None));
        }
        let address = if two_level {
            let fresh = self.word(base + u64::from(stream >> 8) * 8);
            let descriptor = *self.held_descriptors.entry(stream >> 8).or_insert(fresh);
            if !level1::SPAN.is_set(descriptor) {
                return Err(self.fault(stream, 0x02, None));
            }
            assert_eq!(level1::SPAN.get(descriptor), 9);
            (descriptor & level1::L2PTR.mask()) + u64::from(stream & 0xff) * 64
        } else {
            base + u64::from(stream) * 64
        };
        let fresh = core::array::from_fn(|word| self.word(address + word as u64 * 8));
        Ok(*self.held_entries.entry(stream).or_insert(fresh))
    }

    pub fn dma(&mut self, stream: u32, address: u64, write: bool) -> Outcome {
        if !cr0::SMMUEN.is_set(self.register(cr0::OFFSET).into()) {
            let aborts = gbpa::ABORT.is_set(self.register(gbpa::OFFSET).into());
            return if aborts { Outcome::Aborts } else { Outcome::Reaches(address) };
        }
        let entry = match self.entry(stream) {
            Ok(entry) => entry,
            Err(outcome) => return outcome,
        };
        if !word0::V.is_set(entry[0]) {
            return self.fault(stream, 0x04, None);
        }
        match word0::CONFIG.get(entry[0]) {
            0b000 => return Outcome::Aborts,
            0b110 => {}
            other => panic!("stream {stream:#x} has configuration {other}"),
        }
        assert!(
            word2::S2AA64.is_set(entry[2]) && word2::S2R.is_set(entry[2]) && word2::S2TG.get(entry[2]) == 0
        );
        let bits = 64 - word2::S2T0SZ.get(entry[2]) as u32;
        assert_eq!((bits, word2::S2SL0.get(entry[2])), (40, 1), "as the fake's tables are");
        if u64::from(bits) > u64::from(output_bits(word2::S2PS.get(entry[2]))) {
            return self.fault(stream, 0x04, None);
        }
        if address >> bits != 0 {
            return self.fault(stream, 0x10, Some((address, write)));
        }
        let vmid = word2::S2VMID.get(entry[2]) as u16;
        let fresh = self.walk(entry[3] & word3::S2TTB.mask(), address);
        // Only what is mapped is held.
        let page = (vmid, address >> 12);
        let held = self.held_pages.get(&page).copied().or(fresh);
        if let Some(held) = held {
            self.held_pages.insert(page, held);
        }
        match held {
            None => self.fault(stream, 0x10, Some((address, write))),
            Some((start, readable, writable)) if (write && writable) || (!write && readable) => {
                Outcome::Reaches(start | address & 0xfff)
            }
            Some(_) => self.fault(stream, 0x13, Some((address, write))),
        }
    }

    fn fault(&mut self, stream: u32, code: u8, address: Option<(u64, bool)>) -> Outcome {
        let recorded = code != 0x02 || cr2::RECINVSID.is_set(self.register(cr2::OFFSET).into());
        if !recorded {
            return Outcome::Aborts;
        }
        let mut record = [events::STREAM.put(stream.into()) | u64::from(code), 0, 0, 0];
        if let Some((address, write)) = address {
            record[1] = events::S2.mask() | events::CLASS.put(2) | events::RNW.put((!write).into());
            record[2] = address;
            record[3] = address & events::IPA.mask();
        }
        self.record(record);
        Outcome::Faults(code)
    }

    /// A full queue loses the record and says so as QEMU does: by a global error.
    pub fn record(&mut self, record: [u64; 4]) {
        let (base, size) = self.ring(eventq::BASE_OFFSET);
        if !cr0::EVENTQEN.is_set(self.register(cr0::OFFSET).into()) {
            return;
        }
        let producer = self.event_producer & 0x7fff_ffff;
        let consumer = self.register(eventq::CONS_OFFSET) & 0x7fff_ffff;
        let (errors, acknowledged) = (self.register(gerror::OFFSET), self.register(gerror::ACK_OFFSET));
        let pending = gerror::EVENTQ_ABT_ERR.is_set((errors ^ acknowledged).into());
        if producer ^ consumer == size || pending {
            if !pending {
                self.registers.insert(gerror::OFFSET, errors ^ gerror::EVENTQ_ABT_ERR.mask() as u32);
            }
            return;
        }
        let entry = base + u64::from(producer & (size - 1)) * events::BYTES;
        for (n, word) in record.into_iter().enumerate() {
            self.visible.insert(entry + n as u64 * 8, word);
        }
        let flag = self.event_producer & 1 << 31;
        self.event_producer = (producer + 1) & (size * 2 - 1) | flag;
        let producer = self.event_producer;
        self.registers.insert(eventq::PROD_OFFSET, producer);
    }

    /// Says that records were lost, as the architecture has it: by the overflow flag (7.4).
    pub fn overflow(&mut self) {
        self.event_producer ^= 1 << 31;
        let producer = self.event_producer;
        self.registers.insert(eventq::PROD_OFFSET, producer);
    }
}
