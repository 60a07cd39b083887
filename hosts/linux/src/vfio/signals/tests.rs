//! Against a function and a guest that count as eventfds, VFIO and KVM do.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use axvm::msi::MsiMessage;

use super::{Function, Guest, Kind, Signals};

/// A counter: what was raised while nobody listened is there when somebody does.
#[derive(Clone, Default)]
struct Event(Rc<Cell<u32>>);

#[derive(Default)]
struct Shared {
    enabled: Option<(Kind, Vec<Event>)>,
    listening: Vec<(Event, u32)>,
    routes: Vec<(u32, MsiMessage)>,
    unmasks: u32,
    /// Messages that arrived, lines that were raised.
    arrived: Vec<MsiMessage>,
    lines: Vec<u32>,
    next: u32,
    fails: bool,
}

#[derive(Clone, Default)]
struct Machine(Rc<RefCell<Shared>>);

impl Machine {
    /// The function raises a vector.
    fn raise(&self, vector: usize) {
        let event = self.0.borrow().enabled.as_ref().and_then(|(_, events)| events.get(vector).cloned());
        if let Some(event) = event {
            event.0.set(event.0.get() + 1);
        }
        self.deliver();
    }

    fn deliver(&self) {
        let mut shared = self.0.borrow_mut();
        for (event, number) in shared.listening.clone() {
            if event.0.take() > 0 {
                match shared.routes.iter().find(|(known, _)| *known == number) {
                    Some((_, message)) => {
                        let message = *message;
                        shared.arrived.push(message);
                    }
                    None => shared.lines.push(number),
                }
            }
        }
    }

    fn arrived(&self) -> Vec<u32> {
        std::mem::take(&mut self.0.borrow_mut().arrived).into_iter().map(|message| message.data).collect()
    }

    fn kind(&self) -> Option<Kind> {
        self.0.borrow().enabled.as_ref().map(|(kind, _)| *kind)
    }

    fn result(&self) -> io::Result<()> {
        if self.0.borrow().fails { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }
}

impl Function for Machine {
    type Event = Event;

    fn enable(&self, kind: Kind, events: &[&Event]) -> io::Result<()> {
        self.result()?;
        // VFIO refuses another kind while one is enabled.
        let mut shared = self.0.borrow_mut();
        if shared.enabled.as_ref().is_some_and(|(other, _)| *other != kind) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        shared.enabled = Some((kind, events.iter().map(|event| (*event).clone()).collect()));
        Ok(())
    }

    fn disable(&self, kind: Kind) -> io::Result<()> {
        let mut shared = self.0.borrow_mut();
        if shared.enabled.as_ref().is_none_or(|(other, _)| *other != kind) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        shared.enabled = None;
        Ok(())
    }

    fn unmask_by(&self, _: &Event) -> io::Result<()> {
        self.0.borrow_mut().unmasks += 1;
        Ok(())
    }
}

impl Guest for Machine {
    type Event = Event;

    fn number(&self) -> io::Result<u32> {
        let mut shared = self.0.borrow_mut();
        shared.next += 1;
        Ok(1000 + shared.next)
    }

    fn route(&self, number: u32, message: MsiMessage) -> io::Result<()> {
        self.result()?;
        let mut shared = self.0.borrow_mut();
        shared.routes.retain(|(known, _)| *known != number);
        shared.routes.push((number, message));
        Ok(())
    }

    fn connect(&self, event: &Event, number: u32) -> io::Result<()> {
        self.0.borrow_mut().listening.push((event.clone(), number));
        self.deliver();
        Ok(())
    }

    fn disconnect(&self, _: &Event, number: u32) -> io::Result<()> {
        let mut shared = self.0.borrow_mut();
        let before = shared.listening.len();
        shared.listening.retain(|(_, known)| *known != number);
        if shared.listening.len() == before { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    fn connect_line(&self, event: &Event, _: &Event, line: u32) -> io::Result<()> {
        self.0.borrow_mut().listening.push((event.clone(), line));
        Ok(())
    }

    fn free(&self, number: u32) {
        self.0.borrow_mut().routes.retain(|(known, _)| *known != number);
    }
}

fn signals(vectors: usize) -> (Machine, Signals<Machine, Machine>) {
    let machine = Machine::default();
    let events = (0..vectors).map(|_| Event::default()).collect();
    let signals = Signals::new(machine.clone(), machine.clone(), events).unwrap();
    (machine, signals)
}

fn message(data: u32) -> Option<MsiMessage> {
    Some(MsiMessage { address: 0x808_0040, data })
}

#[test]
fn each_vector_sends_the_message_that_it_has() {
    let (machine, mut signals) = signals(3);
    signals.turn_on(Kind::Msix, 3).unwrap();
    signals.route(0, message(10)).unwrap();
    signals.route(2, message(12)).unwrap();
    machine.raise(0);
    machine.raise(1);
    machine.raise(2);
    assert_eq!(machine.arrived(), [10, 12]);
    // Another message, by the same vector.
    signals.route(2, message(99)).unwrap();
    machine.raise(2);
    assert_eq!(machine.arrived(), [99]);
    signals.route(2, None).unwrap();
    machine.raise(2);
    assert!(machine.arrived().is_empty());
    assert!(signals.route(3, message(1)).is_err());
}

#[test]
fn what_comes_while_a_vector_is_masked_comes_when_it_is_not_any_more() {
    let (machine, mut signals) = signals(1);
    signals.turn_on(Kind::Msix, 1).unwrap();
    signals.route(0, message(7)).unwrap();
    signals.mask(0, true).unwrap();
    machine.raise(0);
    machine.raise(0);
    assert!(machine.arrived().is_empty());
    signals.mask(0, false).unwrap();
    assert_eq!(machine.arrived(), [7]);
}

#[test]
fn a_message_that_cannot_be_routed_leaves_none_connected() {
    let (machine, mut signals) = signals(1);
    signals.turn_on(Kind::Msix, 1).unwrap();
    signals.route(0, message(7)).unwrap();
    machine.0.borrow_mut().fails = true;
    assert!(signals.route(0, message(8)).is_err());
    machine.raise(0);
    assert!(machine.arrived().is_empty());
}

#[test]
fn the_line_is_raised_while_there_are_no_messages_and_again_afterwards() {
    let (machine, mut signals) = signals(2);
    signals.give_line(Event::default(), Event::default(), 35).unwrap();
    assert_eq!((machine.kind(), machine.0.borrow().unmasks), (Some(Kind::Line), 1));
    machine.raise(0);
    assert_eq!(machine.0.borrow().lines, [35]);
    signals.turn_on(Kind::Msix, 2).unwrap();
    assert_eq!(machine.kind(), Some(Kind::Msix));
    assert!(machine.0.borrow().listening.is_empty());
    signals.turn_back(Kind::Msix).unwrap();
    assert_eq!(machine.kind(), Some(Kind::Line));
    // One kind that isn't on is nobody's to turn off.
    signals.turn_back(Kind::Msi).unwrap();
    assert_eq!(machine.kind(), Some(Kind::Line));
    signals.take_line().unwrap();
    assert_eq!(machine.kind(), None);
    assert!(machine.0.borrow().listening.is_empty());
}

#[test]
fn silence_leaves_nothing_connected_and_numbers_are_given_back() {
    let (machine, mut signals) = signals(2);
    signals.turn_on(Kind::Msi, 1).unwrap();
    signals.route(0, message(1)).unwrap();
    signals.route(1, message(2)).unwrap();
    signals.silence().unwrap();
    assert_eq!(machine.kind(), None);
    assert!(machine.0.borrow().listening.is_empty());
    signals.route(0, message(3)).unwrap();
    drop(signals);
    let shared = machine.0.borrow();
    assert!(shared.listening.is_empty() && shared.routes.is_empty());
}
