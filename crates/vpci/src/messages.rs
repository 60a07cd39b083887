//! A function's messages where the bridge has them ([`Messages::Bridge`](crate::Messages)): the guest writes what it takes for the function's
//! MSI capability and MSI-X table, and the function's own hold what the host says.
//!
//! What holds of the function's own: it has an entry unmasked only while the host routes its vector, with what the host gave for it; an entry is
//! masked while it changes; and MSI-X is on only while that holds of all entries. The guest's mask bits are the function's own, so that
//! it notes itself what was pending meanwhile.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{Address, Hpa, PciAddress};
use axvm_pci::spec::msi::{self, MsiLayout};
use axvm_pci::spec::{CONVENTIONAL_SIZE, capability};
use axvm_pci::{Function, Registers, Width};

use crate::backend::{Backend, MsiMessage, Physical};
use crate::bars::ShownBar;

/// Bytes of an entry of an MSI-X table (PCIe 7.7.2.6).
const ENTRY: u64 = 16;
/// In it: the address, its upper half, the data, the mask.
const ADDRESS: u64 = 0;
const ADDRESS_HIGH: u64 = 4;
const DATA: u64 = 8;
const CONTROL: u64 = 12;

/// A register of config space that isn't the function's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// MSI's control, in bits 31:16.
    MsiControl,
    MsiAddress,
    MsiAddressHigh,
    /// In bits 15:0.
    MsiData,
    /// MSI-X's control, in bits 31:16.
    MsixControl,
}

/// The messages of a function.
#[derive(Debug)]
pub(crate) struct FunctionMessages {
    function: PciAddress,
    pub msi: Option<Msi>,
    pub msix: Option<Msix>,
}

#[derive(Debug)]
pub(crate) struct Msi {
    /// Its capability.
    at: u16,
    layout: MsiLayout,
    /// How many vectors it could send, as a power of two.
    capable: u16,
    message: MsiMessage,
    /// What the guest has of the control register: enabled, and how many vectors were given.
    control: u16,
    /// What the function has, while it is enabled there: the guest's message and control, and its own message.
    on: Option<(MsiMessage, u16, MsiMessage)>,
}

#[derive(Debug)]
pub(crate) struct Msix {
    at: u16,
    table: Place,
    pending: Place,
    entries: Vec<Entry>,
    /// What the guest has of the control register: enabled, and all masked.
    control: u16,
    /// It is enabled in the function.
    on: bool,
}

/// Where in a BAR something is.
#[derive(Clone, Debug)]
struct Place {
    bar: u8,
    hpa: Hpa,
    bytes: Range<u64>,
}

#[derive(Clone, Debug)]
struct Entry {
    message: MsiMessage,
    masked: bool,
    /// The message of the guest's that is routed, and the function's for it.
    routed: Option<(MsiMessage, MsiMessage)>,
    /// It isn't masked in the function.
    open: bool,
}

impl Entry {
    /// As after reset (PCIe 7.7.2.9).
    const fn new() -> Self {
        Self { message: MsiMessage { address: 0, data: 0 }, masked: true, routed: None, open: false }
    }
}

/// What is at an offset in a BAR.
enum Region {
    Table(u64),
    Pending,
    Other,
}

impl FunctionMessages {
    /// Those of a function that has none enabled. The pages of `bars` that hold its MSI-X table are kept out of the second stage.
    pub fn new<B: Backend>(backend: &B, function: &Function, bars: &mut [ShownBar]) -> Self {
        let physical = Physical(backend);
        let registers = Registers::new(&physical, function.address);
        let at = |id, size| {
            let at = function.capability(id)?;
            (at.is_multiple_of(4) && at + size <= CONVENTIONAL_SIZE).then_some(at)
        };
        let msi = at(capability::MSI, 0).map(|at| {
            let control = registers.read16(at + msi::CONTROL);
            let capable = (control & msi::MSI_CAPABLE) >> 1;
            let layout = MsiLayout::new(control);
            Msi { at, layout, capable, message: MsiMessage::default(), control: 0, on: None }
        });
        let msix = at(capability::MSIX, msi::MSIX_SIZE).and_then(|at| {
            let vectors = u64::from(registers.read16(at + msi::CONTROL) & msi::MSIX_SIZE_MASK) + 1;
            let mut place = |register, length| {
                let value = registers.read32(at + register);
                let (index, start) = ((value & 7) as u8, u64::from(value & !7));
                let real = function.bars.iter().find(|bar| bar.index == index)?;
                let bar = bars.iter_mut().find(|bar| bar.index == index)?;
                let (hpa, bytes) = (bar.hpa()?, start..start + length);
                // One that reaches out of its BAR isn't where it says.
                (bytes.end <= real.size).then(|| bar.trap(&bytes))?;
                Some(Place { bar: index, hpa, bytes })
            };
            let table = place(msi::MSIX_TABLE, vectors * ENTRY)?;
            let pending = place(msi::MSIX_PENDING, vectors.div_ceil(64) * 8)?;
            let entries = vec![Entry::new(); vectors as usize];
            Some(Msix { at, table, pending, entries, control: 0, on: false })
        });
        Self { function: function.address, msi, msix }
    }

    /// The register of config space at an offset, a multiple of 4, that isn't the function's own.
    pub fn registers(&self) -> impl Iterator<Item = (u16, Register)> {
        let msi = self.msi.iter().flat_map(|msi| {
            let high = msi.layout.wide.then_some((msi.at + msi::MSI_ADDRESS + 4, Register::MsiAddressHigh));
            let always = [
                (msi.at, Register::MsiControl),
                (msi.at + msi::MSI_ADDRESS, Register::MsiAddress),
                (msi.at + msi.layout.data, Register::MsiData),
            ];
            always.into_iter().chain(high)
        });
        msi.chain(self.msix.iter().map(|msix| (msix.at, Register::MsixControl)))
    }

    /// What the guest reads of it, where it is in its 32 bits.
    pub fn read(&self, register: Register) -> u32 {
        let msi = self.msi.as_ref();
        match register {
            Register::MsiControl => msi.map_or(0, |msi| u32::from(msi.control) << 16),
            Register::MsiAddress => msi.map_or(0, |msi| msi.message.address as u32),
            Register::MsiAddressHigh => msi.map_or(0, |msi| (msi.message.address >> 32) as u32),
            Register::MsiData => msi.map_or(0, |msi| msi.message.data),
            Register::MsixControl => self.msix.as_ref().map_or(0, |msix| u32::from(msix.control) << 16),
        }
    }

    /// The guest writes the bits `lanes` of it. Whether all of that is carried out. `decodes`: the function's memory can be reached.
    pub fn write<B: Backend>(
        &mut self,
        backend: &B,
        register: Register,
        lanes: u32,
        value: u32,
        decodes: bool,
    ) -> bool {
        let value = self.read(register) & !lanes | value & lanes;
        if register == Register::MsixControl {
            if let Some(msix) = &mut self.msix {
                msix.control = (value >> 16) as u16 & (msi::MSIX_ENABLE | msi::MSIX_MASK_ALL);
            }
            return self.update_msix(backend, decodes);
        }
        let Some(msi) = &mut self.msi else { return false };
        let mut whole = true;
        match register {
            Register::MsiControl => {
                let mut control = (value >> 16) as u16 & (msi::MSI_ENABLE | msi::MSI_GIVEN);
                if (control & msi::MSI_GIVEN) >> 4 > msi.capable {
                    control = control & !msi::MSI_GIVEN | msi.control & msi::MSI_GIVEN;
                    whole = false;
                }
                msi.control = control;
            }
            Register::MsiAddress => {
                msi.message.address = msi.message.address & !0xffff_ffff | u64::from(value & !3);
            }
            Register::MsiAddressHigh => {
                msi.message.address = msi.message.address & 0xffff_ffff | u64::from(value) << 32;
            }
            Register::MsiData | Register::MsixControl => msi.message.data = value & 0xffff,
        }
        self.update_msi(backend) && whole
    }

    /// The function's memory can be reached again: what waited for that is done. Whether it is.
    pub fn decodes<B: Backend>(&mut self, backend: &B) -> bool {
        self.update_msix(backend, true)
    }

    /// Before a reset, and when it is lost: nothing of it is routed any more.
    pub fn clear<B: Backend>(&mut self, backend: &B) {
        if let Some(msi) = &mut self.msi {
            msi.control = 0;
        }
        self.update_msi(backend);
        if let Some(msi) = &mut self.msi {
            msi.message = MsiMessage::default();
        }
        if let Some(msix) = &mut self.msix {
            msix.control = 0;
        }
        self.update_msix(backend, false);
        if let Some(msix) = &mut self.msix {
            msix.entries.fill(Entry::new());
        }
    }

    /// The guest reads a BAR where it isn't mapped: naturally aligned.
    pub fn bar_read<B: Backend>(
        &self,
        backend: &B,
        bar: u8,
        hpa: Hpa,
        offset: u64,
        width: Width,
    ) -> Option<u64> {
        let Some(msix) = self.msix.as_ref() else {
            return Some(backend.bar_read(self.function, bar, hpa.checked_add(offset)?, width));
        };
        if width == Width::B8 && matches!(msix.region(bar, offset), Region::Table(_)) {
            let half = |offset| self.bar_read(backend, bar, hpa, offset, Width::B4);
            return Some(half(offset)? | half(offset + 4)? << 32);
        }
        match msix.region(bar, offset & !3) {
            Region::Table(at) => Some(u64::from(msix.word(at)) >> (8 * (offset & 3)) & width.mask()),
            Region::Pending | Region::Other => {
                Some(backend.bar_read(self.function, bar, hpa.checked_add(offset)?, width))
            }
        }
    }

    /// The guest writes a BAR where it isn't mapped: naturally aligned. Whether that is carried out.
    pub fn bar_write<B: Backend>(
        &mut self,
        backend: &B,
        bar: u8,
        hpa: Hpa,
        offset: u64,
        width: Width,
        value: u64,
    ) -> bool {
        let function = self.function;
        let region = self.msix.as_ref().map_or(Region::Other, |msix| msix.region(bar, offset & !3));
        if matches!(region, Region::Other) {
            let Some(at) = hpa.checked_add(offset) else { return false };
            backend.bar_write(function, bar, at, width, value);
            return true;
        }
        let Some(msix) = &mut self.msix else { return false };
        match (region, width) {
            (Region::Table(at), Width::B4) => msix.set_word(at, value as u32),
            (Region::Table(at), Width::B8) => {
                msix.set_word(at, value as u32);
                msix.set_word(at + 4, (value >> 32) as u32);
            }
            // Nothing says what narrower ones do (PCIe 7.7.2), and pending bits aren't software's.
            (Region::Table(_) | Region::Pending | Region::Other, _) => return false,
        }
        let index = ((offset - msix.table.bytes.start) / ENTRY) as usize;
        !msix.on || msix.update_entry(backend, function, index)
    }

    /// Has MSI in the function as the guest has it. Whether it is.
    fn update_msi<B: Backend>(&mut self, backend: &B) -> bool {
        let msix_on = self.msix.as_ref().is_some_and(|msix| msix.on);
        let function = self.function;
        let Some(msi) = &mut self.msi else { return true };
        let enabled = msi.control & msi::MSI_ENABLE != 0;
        if let Some((message, control, _)) = msi.on {
            if enabled && message == msi.message && control == msi.control {
                return true;
            }
            // As long as the number of vectors stays, they are routed anew while the function sends what it did.
            if !enabled || control != msi.control {
                msi.turn_off(backend, function);
            }
        }
        // Vectors of both would be the same ones.
        if !enabled || msix_on {
            return !enabled;
        }
        let given = 1 << ((msi.control & msi::MSI_GIVEN) >> 4);
        let mut first = MsiMessage::default();
        for vector in 0..given {
            // The function puts the vector's number into the lower bits (PCI 6.8.1.6).
            let data = msi.message.data & !(u32::from(given) - 1) | u32::from(vector);
            let own = backend.route(function, vector, MsiMessage { data, ..msi.message });
            if vector == 0 {
                first = own.unwrap_or_default();
            }
            let follows = MsiMessage { data: first.data.wrapping_add(vector.into()), ..first };
            let aligned = first.data & (u32::from(given) - 1) == 0;
            if own != Ok(follows)
                || !aligned
                || first.data > 0xffff
                || (first.address >> 32 != 0 && !msi.layout.wide)
            {
                msi.turn_off(backend, function);
                (0..=vector).for_each(|routed| backend.unroute(function, routed));
                return false;
            }
        }
        msi.turn_on(backend, function, first);
        true
    }

    /// Has MSI-X in the function as the guest has it. Whether it is, or waits for `decodes`.
    fn update_msix<B: Backend>(&mut self, backend: &B, decodes: bool) -> bool {
        let function = self.function;
        let msi_on = self.msi.as_ref().is_some_and(|msi| msi.on.is_some());
        let Some(msix) = &mut self.msix else { return true };
        let asked = msix.control & msi::MSIX_ENABLE != 0;
        // Vectors of both would be the same ones.
        let enabled = asked && !msi_on;
        let mut complete = enabled == asked;
        if enabled && !msix.on && decodes {
            for index in 0..msix.entries.len() {
                msix.put(backend, function, index, CONTROL, 1);
                if let Some(entry) = msix.entries.get_mut(index) {
                    entry.open = false;
                }
            }
            for index in 0..msix.entries.len() {
                complete &= msix.update_entry(backend, function, index);
            }
            msix.on = true;
        }
        let turns_off = msix.on && !enabled;
        msix.on &= enabled;
        msix.write_control(backend, function);
        if turns_off {
            for (vector, entry) in (0..).zip(&mut msix.entries) {
                if entry.routed.take().is_some() {
                    backend.unroute(function, vector);
                }
            }
        }
        complete
    }
}

impl Msi {
    fn turn_off<B: Backend>(&mut self, backend: &B, function: PciAddress) {
        let Some((_, control, _)) = self.on.take() else { return };
        self.write_control(backend, function, 0);
        for vector in 0..1 << ((control & msi::MSI_GIVEN) >> 4) {
            backend.unroute(function, vector);
        }
    }

    fn turn_on<B: Backend>(&mut self, backend: &B, function: PciAddress, own: MsiMessage) {
        let has = self.on.map(|(.., has)| has);
        if has.is_some_and(|has| has != own) {
            // It isn't to send half of one and half of the other.
            self.write_control(backend, function, 0);
        }
        if has != Some(own) {
            let physical = Physical(backend);
            let registers = Registers::new(&physical, function);
            registers.write32(self.at + msi::MSI_ADDRESS, own.address as u32);
            if self.layout.wide {
                registers.write32(self.at + msi::MSI_ADDRESS + 4, (own.address >> 32) as u32);
            }
            registers.write16(self.at + self.layout.data, own.data as u16);
            self.write_control(backend, function, self.control);
        }
        self.on = Some((self.message, self.control, own));
    }

    fn write_control<B: Backend>(&self, backend: &B, function: PciAddress, value: u16) {
        let physical = Physical(backend);
        let registers = Registers::new(&physical, function);
        // One that doesn't answer sends nothing either.
        if let Some(before) = registers.control16(self.at + msi::CONTROL) {
            let own = msi::MSI_ENABLE | msi::MSI_GIVEN;
            registers.write16(self.at + msi::CONTROL, before & !own | value & own);
        }
    }
}

impl Msix {
    fn region(&self, bar: u8, offset: u64) -> Region {
        if bar == self.table.bar && self.table.bytes.contains(&offset) {
            Region::Table(offset - self.table.bytes.start)
        } else if bar == self.pending.bar && self.pending.bytes.contains(&offset) {
            Region::Pending
        } else {
            Region::Other
        }
    }

    /// 32 bits of the guest's table.
    fn word(&self, at: u64) -> u32 {
        let Some(entry) = self.entries.get((at / ENTRY) as usize) else { return 0 };
        match at % ENTRY {
            ADDRESS => entry.message.address as u32,
            ADDRESS_HIGH => (entry.message.address >> 32) as u32,
            DATA => entry.message.data,
            _ => entry.masked.into(),
        }
    }

    fn set_word(&mut self, at: u64, value: u32) {
        let Some(entry) = self.entries.get_mut((at / ENTRY) as usize) else { return };
        let address = &mut entry.message.address;
        match at % ENTRY {
            ADDRESS => *address = *address & !0xffff_ffff | u64::from(value & !3),
            ADDRESS_HIGH => *address = *address & 0xffff_ffff | u64::from(value) << 32,
            DATA => entry.message.data = value,
            _ => entry.masked = value & 1 != 0,
        }
    }

    /// Has an entry in the function as the guest has it, masked while it changes. Whether it is.
    fn update_entry<B: Backend>(&mut self, backend: &B, function: PciAddress, index: usize) -> bool {
        let Some(entry) = self.entries.get(index).cloned() else { return false };
        let stays = !entry.masked && entry.routed.is_some_and(|(message, _)| message == entry.message);
        if entry.open && !stays {
            self.put(backend, function, index, CONTROL, 1);
            // A write is on its way for a while; what is read comes behind it.
            self.get(backend, function, index, CONTROL);
            self.note(index, |entry| entry.open = false);
        }
        // Masked it stays routed: most come back with the same message.
        if entry.masked || entry.open && stays {
            return true;
        }
        let own = match entry.routed {
            Some((message, own)) if message == entry.message => own,
            _ => {
                let Ok(own) = backend.route(function, index as u16, entry.message) else {
                    if entry.routed.is_some() {
                        backend.unroute(function, index as u16);
                    }
                    self.note(index, |entry| entry.routed = None);
                    return false;
                };
                self.note(index, |it| it.routed = Some((entry.message, own)));
                own
            }
        };
        self.put(backend, function, index, ADDRESS, own.address as u32);
        self.put(backend, function, index, ADDRESS_HIGH, (own.address >> 32) as u32);
        self.put(backend, function, index, DATA, own.data);
        self.put(backend, function, index, CONTROL, 0);
        self.note(index, |entry| entry.open = true);
        true
    }

    fn note(&mut self, index: usize, what: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(index) {
            what(entry);
        }
    }

    /// Writes 32 bits of an entry of the function's own.
    fn put<B: Backend>(&self, backend: &B, function: PciAddress, index: usize, at: u64, value: u32) {
        let offset = self.table.bytes.start + index as u64 * ENTRY + at;
        if let Some(at) = self.table.hpa.checked_add(offset) {
            backend.bar_write(function, self.table.bar, at, Width::B4, value.into());
        }
    }

    fn get<B: Backend>(&self, backend: &B, function: PciAddress, index: usize, at: u64) {
        let offset = self.table.bytes.start + index as u64 * ENTRY + at;
        if let Some(at) = self.table.hpa.checked_add(offset) {
            backend.bar_read(function, self.table.bar, at, Width::B4);
        }
    }

    fn write_control<B: Backend>(&self, backend: &B, function: PciAddress) {
        let physical = Physical(backend);
        let registers = Registers::new(&physical, function);
        let own = msi::MSIX_ENABLE | msi::MSIX_MASK_ALL;
        let value = self.control & msi::MSIX_MASK_ALL | if self.on { msi::MSIX_ENABLE } else { 0 };
        if let Some(before) = registers.control16(self.at + msi::CONTROL)
            && before & own != value
        {
            registers.write16(self.at + msi::CONTROL, before & !own | value);
        }
    }
}
