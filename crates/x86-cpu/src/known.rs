//! Instructions at which guests are left over and over, and pages that they reach for: what was found out about one by [`fetch`] and [`walk`]
//! holds as long as all is the same by which it was found out. That is asked each time, and takes a tenth of finding it out.
//!
//! What a walk comes to follows from registers and from the entries that it reads, and what an instruction is follows from its bytes. So both are kept
//! with the answer: where the registers are the same, and the entries and the bytes are read anew and are the same, the answer is what a
//! walk would come to now. Nothing is kept that the guest would have to tell anybody that it has changed.
//!
//! In 64-bit mode with tables of four levels only, and where all bytes that an instruction may have lie in one page.

use core::cell::Cell;

use crate::exit::Exit;
use crate::fetch::{self, Bytes};
use crate::vmcb::{Control, Save};
use crate::walk::{self, Access, Fault, Memory, NoMemory};
use axvm_x86_access::{Code, Instruction, Plain};

/// Memory of a guest's that is seen for longer than one reading of it.
pub trait Sight: Memory {
    /// Where something is seen.
    type Place: Copy;

    /// Where so many bytes are seen, which lie in one page: for as long as whoever has asked keeps what he has found out by it.
    fn place(&self, address: u64, bytes: u64) -> Option<Self::Place>;

    /// The eight bytes `FURTHER` bytes behind a place, as they are now.
    fn look<const FURTHER: usize>(&self, place: Self::Place) -> u64;
}

/// Levels of the tables.
const LEVELS: usize = 4;
/// Bytes of an entry.
const ENTRY: usize = 8;
/// Bytes of an instruction are looked at eight by eight: these, and from here on.
const REST: usize = 7;

/// The registers that instructions and walks go by, beside the address.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Registers {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    cpl: u8,
    attributes: u16,
}

impl Registers {
    #[inline(always)]
    fn of(save: &Save) -> Self {
        let attributes = save.cs.attributes.0;
        Self { cr0: save.cr0, cr3: save.cr3, cr4: save.cr4, efer: save.efer, cpl: save.cpl, attributes }
    }

    /// Whether they are those of a guest now. By differences, of which a compiler doesn't make a call that compares bytes.
    #[inline(always)]
    fn are_of(&self, save: &Save) -> bool {
        let wide =
            (self.cr0 ^ save.cr0) | (self.cr3 ^ save.cr3) | (self.cr4 ^ save.cr4) | (self.efer ^ save.efer);
        let narrow = u16::from(self.cpl ^ save.cpl) | (self.attributes ^ save.cs.attributes.0);
        wide | u64::from(narrow) == 0
    }
}

/// The registers that instructions and walks go by, as they were at an exit: what is known is known by such a state, so that they are compared once for
/// all that is asked of one exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State(u64);

impl State {
    /// A mode of which nothing is known.
    const UNSERVED: Self = Self(0);
}

/// How many states are remembered beside the last one: of address spaces in turn.
const STATES: usize = 8;

/// States that were seen.
#[derive(Default)]
struct States {
    registers: Registers,
    state: State,
    others: [(Registers, State); STATES],
    /// How many there have been.
    count: u64,
}

impl States {
    #[cold]
    #[inline(never)]
    fn change(&mut self, save: &Save) -> State {
        let registers = Registers::of(save);
        if !is_served(save) {
            return State::UNSERVED;
        }
        let seen = self.others.iter().find(|(other, state)| *other == registers && *state != State::UNSERVED);
        let state = match seen {
            Some((_, state)) => *state,
            None => {
                self.count += 1;
                let state = State(self.count);
                // The oldest goes: what is known by it isn't found any more.
                if let Some(oldest) = self.others.get_mut(self.count as usize % STATES) {
                    *oldest = (registers, state);
                }
                state
            }
        };
        (self.registers, self.state) = (registers, state);
        state
    }
}

/// An entry that was read.
#[derive(Clone, Copy)]
struct Entry<P> {
    place: P,
    value: u64,
}

/// A walk's entries. Where it had fewer, for a large page, the last one is here twice.
#[derive(Clone, Copy)]
struct Path<P>([Entry<P>; LEVELS]);

impl<P: Copy> Path<P> {
    #[inline(always)]
    fn is_same<S: Sight<Place = P>>(&self, sight: &S) -> bool {
        let [first, second, third, fourth] = &self.0;
        sight.look::<0>(first.place) == first.value
            && sight.look::<0>(second.place) == second.value
            && sight.look::<0>(third.place) == third.value
            && sight.look::<0>(fourth.place) == fourth.value
    }
}

/// An instruction that has exited.
#[derive(Clone, Copy)]
pub struct Call<P, T> {
    state: State,
    rip: u64,
    path: Path<P>,
    place: P,
    first: u64,
    rest: u64,
    /// What it is.
    pub about: T,
}

impl<P: Copy, T> Call<P, T> {
    /// Whether the guest is at it, and everything is as it was.
    #[inline(always)]
    fn is_same<S: Sight<Place = P>>(&self, state: State, rip: u64, sight: &S) -> bool {
        self.rip == rip
            && self.state == state
            && self.path.is_same(sight)
            && sight.look::<0>(self.place) == self.first
            && sight.look::<REST>(self.place) == self.rest
    }
}

/// An instruction that has reached for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// It.
    pub instruction: Instruction,
    /// The same, if it is a plain load or store.
    pub plain: Option<Plain>,
}

impl<P: Copy> Call<P, Reach> {
    /// Whether these bytes begin as the instruction does.
    #[cold]
    fn begins(&self, bytes: &[u8]) -> bool {
        let mut own = [0; 15];
        for (from, word) in [(0, self.first), (REST, self.rest)] {
            for (to, byte) in own.iter_mut().skip(from).zip(word.to_le_bytes()) {
                *to = byte;
            }
        }
        let whole = own.get(..usize::from(self.about.instruction.length));
        whole.is_some_and(|whole| bytes.starts_with(whole))
    }
}

/// A page that an operand lies in.
#[derive(Clone, Copy)]
struct Page<P> {
    /// The linear address, with what the access does.
    linear: u64,
    access: Access,
    state: State,
    aligns: bool,
    path: Path<P>,
    /// Its guest-physical address.
    frame: u64,
}

const PAGE: u64 = 0x1000;

/// RFLAGS.AC, by which supervisors reach users' pages.
const fn aligns(save: &Save) -> bool {
    save.rflags & 1 << 18 != 0
}

/// Whether all this is for the mode that the guest is in.
fn is_served(save: &Save) -> bool {
    const LA57: u64 = 1 << 12;
    const PAGING: u64 = 1 << 31;
    walk::code(save) == Code::Bits64 && save.cr0 & PAGING != 0 && save.cr4 & LA57 == 0
}

/// How many there are of each kind.
const CALLS: usize = 16;
const ACCESSES: usize = 8;
const PAGES: usize = 8;

/// What is known of a vCPU's instructions and pages.
pub struct Known<P> {
    states: States,
    calls: [Option<Call<P, (u64, u8)>>; CALLS],
    accesses: [Option<Call<P, Reach>>; ACCESSES],
    pages: [Option<Page<P>>; PAGES],
}

impl<P: Copy> Default for Known<P> {
    fn default() -> Self {
        let states = States::default();
        Self { states, calls: [None; CALLS], accesses: [None; ACCESSES], pages: [None; PAGES] }
    }
}

/// What an exit was for, among instructions that have no operand.
pub type Kind = u64;

/// [`kind`] of WRMSR.
pub const WRMSR: Kind = 1 << 32 | MSR;

const MSR: u64 = 0x7c;

/// Why a guest was left: the exit's code, with EXITINFO1's bit by which RDMSR and WRMSR differ.
#[inline(always)]
pub fn kind(control: &Control) -> Kind {
    let code = control.exit_code & 0xffff_ffff;
    if code == MSR { code | (control.exit_info_1 & 1) << 32 } else { code }
}

impl<P: Copy> Known<P> {
    /// Forgets everything: places are seen no more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// The state in which a guest was left.
    #[inline(always)]
    pub fn state(&mut self, save: &Save) -> State {
        if self.states.registers.are_of(save) { self.states.state } else { self.states.change(save) }
    }

    /// How long the instruction is at which a guest was left in this state, if that is known.
    #[inline(always)]
    pub fn length<S: Sight<Place = P>>(&self, state: State, rip: u64, kind: Kind, sight: &S) -> Option<u8> {
        let call = self.calls.get(rip as usize % CALLS)?.as_ref()?;
        let (known, length) = &call.about;
        (*known == kind && call.is_same(state, rip, sight)).then_some(*length)
    }

    /// The instruction that has reached for memory, if it is known. `assisted`: what the processor says of its bytes, if it does.
    #[inline(always)]
    pub fn access<S: Sight<Place = P>>(
        &self,
        state: State,
        rip: u64,
        assisted: &[u8],
        sight: &S,
    ) -> Option<&Reach> {
        let call = self.accesses.get(rip as usize % ACCESSES)?.as_ref()?;
        let is_known = call.is_same(state, rip, sight) && (assisted.is_empty() || call.begins(assisted));
        is_known.then_some(&call.about)
    }

    /// Where an operand lies, if that is known: what [`walk::translate`] says. `save`: the guest's, in this state.
    #[inline(always)]
    pub fn translate<S: Sight<Place = P>>(
        &self,
        state: State,
        save: &Save,
        linear: u64,
        access: Access,
        sight: &S,
    ) -> Option<u64> {
        let page = self.pages.get(page_index(linear))?.as_ref()?;
        (page.linear == linear & !(PAGE - 1)
            && page.access == access
            && page.state == state
            && page.aligns == aligns(save)
            && page.path.is_same(sight))
        .then_some(page.frame | linear & (PAGE - 1))
    }

    /// As [`fetch::bytes`] and [`fetch::decode`], the length of an instruction that has exited, which is known from now on. `None`: it can't be
    /// read, or isn't what has exited.
    pub fn find_length<S: Sight<Place = P>>(
        &mut self,
        save: &Save,
        kind: Kind,
        exit: &Exit,
        physical_bits: u8,
        sight: &S,
    ) -> Option<u8> {
        let notes = Notes::new(sight);
        let bytes = fetch::bytes(save, physical_bits, &notes).ok()?;
        let length = fetch::decode(bytes.as_slice(), walk::code(save), exit).ok()?.length;
        let state = self.state(save);
        if let (Some(slot), Some(call)) =
            (self.calls.get_mut(save.rip as usize % CALLS), notes.call(save, state, &bytes, (kind, length)))
        {
            *slot = Some(call);
        }
        Some(length)
    }

    /// As [`fetch::bytes`]. The instruction is known from now on, if it is one that reaches for memory.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn find_access<S: Sight<Place = P>>(
        &mut self,
        save: &Save,
        physical_bits: u8,
        sight: &S,
    ) -> Result<Bytes, Fault> {
        let notes = Notes::new(sight);
        let bytes = fetch::bytes(save, physical_bits, &notes)?;
        let state = self.state(save);
        if let Ok(instruction) = Instruction::decode(bytes.as_slice(), walk::code(save))
            && let Some(slot) = self.accesses.get_mut(save.rip as usize % ACCESSES)
            && let Some(call) = notes.call(
                save,
                state,
                &bytes,
                Reach { instruction, plain: Plain::of(&instruction, save.rip) },
            )
        {
            *slot = Some(call);
        }
        Ok(bytes)
    }

    /// As [`walk::translate`]. The page is known from now on.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn find_page<S: Sight<Place = P>>(
        &mut self,
        save: &Save,
        linear: u64,
        access: Access,
        physical_bits: u8,
        sight: &S,
    ) -> Result<u64, Fault> {
        let notes = Notes::new(sight);
        let address = walk::translate(save, linear, access, physical_bits, &notes)?;
        let state = self.state(save);
        if let (Some(slot), Some(path)) = (self.pages.get_mut(page_index(linear)), notes.path(save)) {
            *slot = Some(Page {
                linear: linear & !(PAGE - 1),
                access,
                state,
                aligns: aligns(save),
                path,
                frame: address & !(PAGE - 1),
            });
        }
        Ok(address)
    }
}

#[inline(always)]
fn page_index(linear: u64) -> usize {
    (linear / PAGE) as usize % PAGES
}

/// What a walk has read, and what it was.
struct Notes<'a, S> {
    sight: &'a S,
    entries: [Cell<(u64, u64)>; LEVELS],
    count: Cell<usize>,
    /// Where bytes of the instruction were read: all at once.
    code: Cell<Option<u64>>,
    /// Something else was read.
    is_odd: Cell<bool>,
}

impl<'a, S: Sight> Notes<'a, S> {
    fn new(sight: &'a S) -> Self {
        Self {
            sight,
            entries: Default::default(),
            count: Cell::new(0),
            code: Cell::new(None),
            is_odd: Cell::new(false),
        }
    }

    /// The walk's entries, if it is one of those that are kept.
    fn path(&self, save: &Save) -> Option<Path<S::Place>> {
        let count = self.count.get();
        if self.is_odd.get() || count == 0 || !is_served(save) {
            return None;
        }
        let entry = |number: usize| {
            let (address, value) = self.entries.get(number.min(count - 1))?.get();
            Some(Entry { place: self.sight.place(address, ENTRY as u64)?, value })
        };
        Some(Path([entry(0)?, entry(1)?, entry(2)?, entry(3)?]))
    }

    fn call<T>(&self, save: &Save, state: State, bytes: &Bytes, about: T) -> Option<Call<S::Place, T>> {
        let whole: &[u8; 15] = bytes.as_slice().try_into().ok()?;
        let path = self.path(save)?;
        let place = self.sight.place(self.code.get()?, whole.len() as u64)?;
        let word = |from: usize| {
            let part = whole.get(from..from + 8)?;
            Some(u64::from_le_bytes(part.try_into().ok()?))
        };
        Some(Call { state, rip: save.rip, path, place, first: word(0)?, rest: word(REST)?, about })
    }
}

impl<S: Sight> Memory for Notes<'_, S> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NoMemory> {
        self.sight.read(address, into)?;
        let count = self.count.get();
        match (<[u8; ENTRY]>::try_from(&*into), self.entries.get(count)) {
            (Ok(word), Some(entry)) if self.code.get().is_none() => {
                entry.set((address, u64::from_le_bytes(word)));
                self.count.set(count + 1);
            }
            (Err(_), _) if into.len() == 15 && self.code.get().is_none() => self.code.set(Some(address)),
            _ => self.is_odd.set(true),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
