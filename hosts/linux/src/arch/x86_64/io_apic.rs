//! A VM's I/O APIC. Local APICs are KVM's; between lines and them stands `axvm_vapic`'s, as on bare metal: with KVM's own there would be 8259s and
//! an 8254, which the VM's machine hasn't got.
//!
//! What a pin sends KVM is given as a message, and tells the end of what counts by its level: of the vectors that it finds in its table. Lines of
//! devices a thread of the VM's hears: VFIO masks a line when it says that it was raised, and unmasks it when it is asked to, which is when the
//! interrupt has ended. A line that is high still says so again.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use axvm::msi::MsiMessage;
use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, Width};
use axvm_vapic::spec::PINS;
use axvm_vapic::{IoApic, Message, Signal};
use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::vfio::routes::{OwnLines, Routes};

/// Who has the local APICs.
pub trait Bus: Send + Sync + 'static {
    /// Sends a message. Whether a local APIC takes it.
    fn send(&self, message: MsiMessage) -> bool;

    /// Has the ends of what a pin sends told from now on, or of nothing.
    ///
    /// # Errors
    ///
    /// The kernel's: it is as before.
    fn announce(&self, pin: u32, message: Option<MsiMessage>) -> io::Result<()>;
}

/// KVM.
pub struct Kernel {
    /// The VM.
    pub vm: Arc<VmFd>,
    /// Its table.
    pub routes: Arc<Routes>,
}

impl Bus for Kernel {
    fn send(&self, message: MsiMessage) -> bool {
        let MsiMessage { address, data } = message;
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..kvm_msi::default()
        };
        self.vm.signal_msi(msi).is_ok_and(|taken| taken > 0)
    }

    fn announce(&self, pin: u32, message: Option<MsiMessage>) -> io::Result<()> {
        self.routes.announce(pin, message)
    }
}

/// A device whose line leads to a pin.
struct Source {
    /// By which it is known: its event, as whoever has it calls it.
    key: RawFd,
    pin: u8,
    event: Arc<EventFd>,
    unmask: EventFd,
    /// It was raised, and says nothing until it is unmasked.
    masked: bool,
}

struct State {
    chip: IoApic,
    announced: [Option<MsiMessage>; PINS],
    sources: Vec<Source>,
}

/// The I/O APIC with its lines.
pub struct Pins<B> {
    bus: B,
    state: Mutex<State>,
    /// Who listens looks anew to whom.
    changed: Arc<EventFd>,
}

impl<B: Bus> Pins<B> {
    /// As after reset, with this id. Lines of devices lead to these pins, a bit each.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn new(bus: B, id: u8, devices: u32) -> io::Result<Arc<Self>> {
        let chip = IoApic::new(id).with_resampled(devices);
        let state = State { chip, announced: [None; PINS], sources: Vec::new() };
        let changed = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        Ok(Arc::new(Self { bus, state: Mutex::new(state), changed }))
    }

    /// Has lines of devices heard, by a thread that ends with the last that refers to this.
    ///
    /// # Errors
    ///
    /// There is no thread.
    pub fn listen(self: &Arc<Self>) -> io::Result<()> {
        let (pins, changed) = (Arc::downgrade(self), self.changed.clone());
        thread::Builder::new().name("lines".into()).spawn(move || listen(&pins, &changed)).map(drop)
    }

    /// A line becomes active, or not.
    pub fn set_line(&self, pin: u8, active: bool) {
        self.change(|chip, send| chip.set_line(pin, active, send));
    }

    /// A local APIC has ended an interrupt that counts by its level.
    pub fn ended(&self, vector: u8) {
        self.change(|chip, send| chip.end(vector, send));
    }

    fn change(&self, change: impl FnOnce(&mut IoApic, &mut dyn FnMut(Message) -> bool)) {
        let mut state = crate::lock(&self.state);
        change(&mut state.chip, &mut |message| self.send_early(message));
        self.settle(&mut state);
    }

    /// What has an end that is to be told waits until that is announced, and is sent by [`Self::settle`].
    fn send_early(&self, message: Message) -> bool {
        !matches!(message.signal, Signal::Vector { level: true, .. }) && self.send(message)
    }

    fn send(&self, message: Message) -> bool {
        let Some((address, data)) = message.to_msi() else { return false };
        self.bus.send(MsiMessage { address, data })
    }

    /// Brings KVM and VFIO to what follows from it.
    fn settle(&self, state: &mut State) {
        let State { chip, announced, sources } = state;
        for (pin, known) in (0..).zip(announced) {
            let by_level = chip.entry(pin).is_some_and(|entry| entry.level());
            let message = chip.sends(pin).filter(|_| by_level).and_then(Message::to_msi);
            let message = message.map(|(address, data)| MsiMessage { address, data });
            if message != *known && self.bus.announce(pin.into(), message).is_ok() {
                *known = message;
            }
        }
        chip.send_again(|message| self.send(message));
        let open = chip.open();
        for source in sources.iter_mut().filter(|source| source.masked && open >> source.pin & 1 != 0) {
            // At a pin that counts edges it would be raised again and again, and nobody would notice.
            if chip.entry(source.pin).is_some_and(|entry| entry.level()) {
                source.masked = source.unmask.write(1).is_err();
            }
        }
    }

    /// A device has raised its line.
    fn heard(&self, key: RawFd) {
        let mut state = crate::lock(&self.state);
        let State { chip, sources, .. } = &mut *state;
        let Some(source) = sources.iter_mut().find(|source| source.key == key) else { return };
        if source.event.read().is_err() {
            return;
        }
        source.masked = true;
        chip.set_line(source.pin, true, |message| self.send_early(message));
        self.settle(&mut state);
    }

    fn sources(&self) -> Vec<(RawFd, Arc<EventFd>)> {
        crate::lock(&self.state).sources.iter().map(|source| (source.key, source.event.clone())).collect()
    }
}

fn file(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: it is open as long as `event` is there.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Hears lines until the I/O APIC is gone.
fn listen<B: Bus>(pins: &Weak<Pins<B>>, changed: &EventFd) {
    while let Some(sources) = pins.upgrade().map(|pins| pins.sources()) {
        let events = std::iter::once(changed).chain(sources.iter().map(|(_, event)| &**event));
        let polled = events.map(|event| PollFd::from_borrowed_fd(file(event), PollFlags::IN));
        let mut polled: Vec<PollFd<'_>> = polled.collect();
        if poll(&mut polled, None).is_err() {
            // A signal.
            continue;
        }
        // Reading it resets it; that it was changed before doesn't matter any more.
        let _ = changed.read();
        let Some(pins) = pins.upgrade() else { return };
        for ((key, _), _) in
            sources.iter().zip(polled.iter().skip(1)).filter(|(_, polled)| !polled.revents().is_empty())
        {
            pins.heard(*key);
        }
    }
}

impl<B: Bus> OwnLines for Pins<B> {
    fn connect(&self, event: &EventFd, unmask: &EventFd, line: u32) -> io::Result<()> {
        let pin = u8::try_from(line).ok().filter(|pin| usize::from(*pin) < PINS);
        let pin = pin.ok_or(io::ErrorKind::NotFound)?;
        let source = Source {
            key: event.as_raw_fd(),
            pin,
            event: Arc::new(event.try_clone()?),
            unmask: unmask.try_clone()?,
            masked: false,
        };
        crate::lock(&self.state).sources.push(source);
        self.changed.write(1)
    }

    fn disconnect(&self, event: &EventFd) {
        let mut state = crate::lock(&self.state);
        let State { chip, sources, .. } = &mut *state;
        let Some(position) = sources.iter().position(|source| source.key == event.as_raw_fd()) else {
            return;
        };
        let gone = sources.remove(position);
        if !sources.iter().any(|other| other.pin == gone.pin && other.masked) {
            chip.set_line(gone.pin, false, |_| false);
        }
        let _ = self.changed.write(1);
    }
}

impl<B> Drop for Pins<B> {
    fn drop(&mut self) {
        let _ = self.changed.write(1);
    }
}

/// Registers are of 32 bits: reads are of parts of one, writes of whole ones.
impl<B: Bus> MmioDevice for Pins<B> {
    fn name(&self) -> &str {
        "io-apic"
    }

    fn read(&self, _: VcpuId, offset: u64, width: Width) -> u64 {
        let value = crate::lock(&self.state).chip.read(offset & !3);
        u64::from(value) >> (8 * (offset & 3)) & width.mask()
    }

    fn write(&self, _: VcpuId, offset: u64, width: Width, value: u64) {
        if offset.is_multiple_of(4) && width == Width::B4 {
            self.change(|chip, send| chip.write(offset, value as u32, send));
        }
    }
}

#[cfg(test)]
mod tests;
