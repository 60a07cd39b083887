//! The interrupts of a function: what VFIO says by an event, KVM makes an interrupt of, and nobody else runs in between.
//!
//! Each vector has an event of its own, whatever the guest makes of it. A vector is connected while it has a message and isn't masked. What
//! comes while it isn't, the event keeps, as a pending bit does: who connects it gets that at once.

use std::io;

use axvm::msi::MsiMessage;

/// What a function interrupts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The line of its pin.
    Line,
    /// MSI.
    Msi,
    /// MSI-X.
    Msix,
}

/// What is asked of VFIO.
pub trait Function {
    /// Something that is counted.
    type Event;

    /// Has interrupts of a kind, of which there are others' none, counted by these.
    fn enable(&self, kind: Kind, events: &[&Self::Event]) -> io::Result<()>;

    /// Has none of the kind any more.
    fn disable(&self, kind: Kind) -> io::Result<()>;

    /// Has the line, which is masked when it was raised, unmasked whenever this is counted.
    fn unmask_by(&self, event: &Self::Event) -> io::Result<()>;
}

/// What is asked of KVM.
pub trait Guest {
    /// What VFIO counts.
    type Event;

    /// A number for a vector, by which it is known from now on.
    fn number(&self) -> io::Result<u32>;

    /// Has the number stand for a message of a device that the guest knows by this id.
    fn route(&self, number: u32, message: MsiMessage) -> io::Result<()>;

    /// Has what is counted become the number's message; what has been counted, at once.
    fn connect(&self, event: &Self::Event, number: u32) -> io::Result<()>;

    /// Has it no more. What is counted from now on is kept.
    fn disconnect(&self, event: &Self::Event, number: u32) -> io::Result<()>;

    /// Has what is counted raise a line, whose end `resample` counts.
    fn connect_line(&self, event: &Self::Event, resample: &Self::Event, line: u32) -> io::Result<()>;

    /// Gives a number back.
    fn free(&self, number: u32);
}

struct Vector<E> {
    event: E,
    number: u32,
    message: Option<MsiMessage>,
    masked: bool,
    connected: bool,
}

struct Line<E> {
    event: E,
    resample: E,
    number: u32,
    connected: bool,
}

/// A function's interrupts.
pub struct Signals<F: Function, G: Guest<Event = F::Event>> {
    function: F,
    guest: G,
    vectors: Vec<Vector<F::Event>>,
    line: Option<Line<F::Event>>,
    on: Option<Kind>,
}

impl<F: Function, G: Guest<Event = F::Event>> Signals<F, G> {
    /// Of a function that interrupts by nothing yet, with an event for each vector.
    ///
    /// # Errors
    ///
    /// KVM has no numbers left.
    pub fn new(function: F, guest: G, events: Vec<F::Event>) -> io::Result<Self> {
        let mut new = Self { function, guest, vectors: Vec::new(), line: None, on: None };
        for event in events {
            let number = new.guest.number()?;
            new.vectors.push(Vector { event, number, message: None, masked: false, connected: false });
        }
        Ok(new)
    }

    /// The function.
    pub const fn function(&self) -> &F {
        &self.function
    }

    /// Has a vector send a message, or none. On failure it sends none.
    ///
    /// # Errors
    ///
    /// There is no such vector, or KVM's.
    pub fn route(&mut self, vector: u16, message: Option<MsiMessage>) -> io::Result<()> {
        let Some(known) = self.vectors.get_mut(usize::from(vector)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        known.message = None;
        if let Some(message) = message {
            if let Err(error) = self.guest.route(known.number, message) {
                // Nothing of what it was before is left.
                let _ = self.update(vector);
                return Err(error);
            }
            if let Some(known) = self.vectors.get_mut(usize::from(vector)) {
                known.message = Some(message);
            }
        }
        self.update(vector)
    }

    /// Has a vector masked, or not any more.
    ///
    /// # Errors
    ///
    /// There is no such vector, or KVM's.
    pub fn mask(&mut self, vector: u16, masked: bool) -> io::Result<()> {
        let known = self.vectors.get_mut(usize::from(vector)).ok_or(io::ErrorKind::NotFound)?;
        known.masked = masked;
        self.update(vector)
    }

    /// Connects a vector, or disconnects it.
    fn update(&mut self, vector: u16) -> io::Result<()> {
        let known = self.vectors.get_mut(usize::from(vector)).ok_or(io::ErrorKind::NotFound)?;
        let wanted = known.message.is_some() && !known.masked;
        match (known.connected, wanted) {
            (false, true) => self.guest.connect(&known.event, known.number)?,
            (true, false) => self.guest.disconnect(&known.event, known.number)?,
            _ => {}
        }
        known.connected = wanted;
        Ok(())
    }

    /// Has the line, of this number to KVM, raised by the function's pin; while it has no messages.
    ///
    /// # Errors
    ///
    /// VFIO's or KVM's.
    pub fn give_line(&mut self, event: F::Event, resample: F::Event, number: u32) -> io::Result<()> {
        self.line = Some(Line { event, resample, number, connected: false });
        if self.on.is_none() { self.turn_line_on() } else { Ok(()) }
    }

    /// Has it raised by nobody.
    ///
    /// # Errors
    ///
    /// VFIO's or KVM's; what could be done is done.
    pub fn take_line(&mut self) -> io::Result<()> {
        let off = if self.on == Some(Kind::Line) { self.turn_off(Kind::Line) } else { Ok(()) };
        self.line = None;
        off
    }

    fn turn_line_on(&mut self) -> io::Result<()> {
        let Some(line) = &mut self.line else { return Ok(()) };
        self.guest.connect_line(&line.event, &line.resample, line.number)?;
        line.connected = true;
        self.function.enable(Kind::Line, &[&line.event])?;
        self.on = Some(Kind::Line);
        self.function.unmask_by(&line.resample)
    }

    /// Has messages of a kind, in the place of all others.
    ///
    /// # Errors
    ///
    /// VFIO's: it has none then.
    pub fn turn_on(&mut self, kind: Kind, count: usize) -> io::Result<()> {
        if self.on == Some(kind) {
            return Ok(());
        }
        if let Some(other) = self.on {
            self.turn_off(other)?;
        }
        let events: Vec<&F::Event> = self.vectors.iter().take(count).map(|vector| &vector.event).collect();
        self.function.enable(kind, &events)?;
        self.on = Some(kind);
        Ok(())
    }

    /// Has no messages of a kind any more: the line, if there is one, is raised again.
    ///
    /// # Errors
    ///
    /// VFIO's or KVM's.
    pub fn turn_back(&mut self, kind: Kind) -> io::Result<()> {
        if self.on != Some(kind) {
            return Ok(());
        }
        self.turn_off(kind)?;
        self.turn_line_on()
    }

    fn turn_off(&mut self, kind: Kind) -> io::Result<()> {
        self.on = None;
        let off = self.function.disable(kind);
        if let (Kind::Line, Some(line)) = (kind, &mut self.line)
            && std::mem::take(&mut line.connected)
        {
            self.guest.disconnect(&line.event, line.number)?;
        }
        off
    }

    /// Has nothing any more: no vector has a message, no line is raised.
    ///
    /// # Errors
    ///
    /// VFIO's or KVM's, the first; what could be done is done.
    pub fn silence(&mut self) -> io::Result<()> {
        let mut first = match self.on {
            Some(kind) => self.turn_off(kind),
            None => Ok(()),
        };
        self.line = None;
        for vector in 0..self.vectors.len() as u16 {
            let routed = self.route(vector, None);
            first = first.and(routed);
            let masked = self.mask(vector, false);
            first = first.and(masked);
        }
        first
    }
}

impl<F: Function, G: Guest<Event = F::Event>> Drop for Signals<F, G> {
    fn drop(&mut self) {
        for vector in &self.vectors {
            if vector.connected {
                // The event goes, and with it what it was connected to.
                let _ = self.guest.disconnect(&vector.event, vector.number);
            }
            self.guest.free(vector.number);
        }
        if let Some(line) = self.line.take_if(|line| line.connected) {
            let _ = self.guest.disconnect(&line.event, line.number);
        }
    }
}

#[cfg(test)]
mod tests;
