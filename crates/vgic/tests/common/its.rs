//! The guest's driver of the ITS.

use axvm_addr::{Gpa, VcpuId};
use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::GuestMemory;

use super::{Bench, PENDING_TABLE, PROPERTIES, QUEUE, TABLES, V0};

impl Bench {
    pub fn its_write(&self, offset: u64, value: u64) {
        self.gits.as_ref().unwrap().write(V0, offset, Width::B8, value);
    }

    pub fn its_read(&self, offset: u64) -> u64 {
        self.gits.as_ref().unwrap().read(V0, offset, Width::B8)
    }

    /// Sets the ITS and the LPI tables up as Linux does, but that it says that the pending tables are zero.
    pub fn start_its(&self) {
        for cpu in 0..self.cpus.len() as u64 {
            self.gicr.write(VcpuId(cpu as u16), cpu * 0x2_0000 + 0x70, Width::B8, PROPERTIES | 13);
            let pending = 1 << 62 | (PENDING_TABLE + cpu * 0x1_0000);
            self.gicr.write(VcpuId(cpu as u16), cpu * 0x2_0000 + 0x78, Width::B8, pending);
            self.gicr.write(VcpuId(cpu as u16), cpu * 0x2_0000, Width::B4, 1);
        }
        self.its_write(0x100, 1 << 63 | TABLES);
        self.its_write(0x108, 1 << 63 | (TABLES + 0x1000));
        self.its_write(0x80, 1 << 63 | QUEUE | 0xf);
        self.its_write(0x88, 0);
        self.gits.as_ref().unwrap().write(V0, 0, Width::B4, 1);
    }

    pub fn set_property(&self, lpi: u32, byte: u8) {
        self.machine.write_guest(Gpa(PROPERTIES + u64::from(lpi - 8192)), &[byte]).unwrap();
    }

    /// Writes a command into the queue, at its end; the end behind it.
    pub fn queue(&self, words: [u64; 4]) -> u64 {
        let at = self.its_read(0x88);
        for (position, word) in words.iter().enumerate() {
            self.machine.write_guest(Gpa(QUEUE + at + position as u64 * 8), &word.to_le_bytes()).unwrap();
        }
        (at + 32) % 0x1_0000
    }

    /// Writes a command into the queue, and has it carried out.
    pub fn command(&self, words: [u64; 4]) {
        let end = self.queue(words);
        self.its_write(0x88, end);
        assert_eq!(self.its_read(0x88), self.its_read(0x90), "the command is done");
    }
}
