//! Against local APICs that tell ends as KVM does: of what was announced, and of nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;

/// Of the redirection table (82093AA, 3.2.4): by its level, masked.
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const PIN: u8 = 22;
const VECTOR: u32 = 0x41;

#[derive(Default)]
struct Shared {
    announced: BTreeMap<u32, MsiMessage>,
    /// What was sent, and whether its end is told.
    sent: Vec<(u32, bool)>,
    /// Nobody takes anything.
    off: bool,
    fails: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Shared>>);

impl Fake {
    fn sent(&self) -> Vec<(u32, bool)> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }
}

impl Bus for Fake {
    fn send(&self, message: MsiMessage) -> bool {
        let mut shared = self.0.lock().unwrap();
        if shared.off {
            return false;
        }
        let told = shared.announced.values().any(|known| *known == message);
        shared.sent.push((message.data & 0xff, told));
        true
    }

    fn announce(&self, pin: u32, message: Option<MsiMessage>) -> io::Result<()> {
        let mut shared = self.0.lock().unwrap();
        if shared.fails {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        match message {
            Some(message) => shared.announced.insert(pin, message),
            None => shared.announced.remove(&pin),
        };
        Ok(())
    }
}

struct Device {
    event: EventFd,
    unmask: EventFd,
}

impl Device {
    fn new() -> Self {
        Self { event: EventFd::new(EFD_NONBLOCK).unwrap(), unmask: EventFd::new(EFD_NONBLOCK).unwrap() }
    }

    fn raise(&self, pins: &Pins<Fake>) {
        self.event.write(1).unwrap();
        pins.heard(self.event.as_raw_fd());
    }

    fn was_unmasked(&self) -> bool {
        self.unmask.read().is_ok()
    }
}

fn pins() -> (Arc<Pins<Fake>>, Fake) {
    let fake = Fake::default();
    (Pins::new(fake.clone(), 0, 1 << PIN).unwrap(), fake)
}

fn write(pins: &Pins<Fake>, register: u8, value: u32) {
    pins.write(VcpuId(0), 0, Width::B4, register.into());
    pins.write(VcpuId(0), 0x10, Width::B4, value.into());
}

fn program(pins: &Pins<Fake>, low: u32) {
    write(pins, 0x10 + 2 * PIN, low);
}

fn with_device() -> (Arc<Pins<Fake>>, Fake, Device) {
    let ((pins, fake), device) = (pins(), Device::new());
    pins.connect(&device.event, &device.unmask, PIN.into()).unwrap();
    (pins, fake, device)
}

#[test]
fn a_line_is_unmasked_when_its_interrupt_has_ended() {
    let (pins, fake, device) = with_device();
    program(&pins, LEVEL | VECTOR);
    device.raise(&pins);
    assert_eq!(fake.sent(), [(VECTOR, true)], "it was announced before it was sent");
    assert!(!device.was_unmasked());
    pins.ended(VECTOR as u8 + 1);
    assert!(!device.was_unmasked(), "another one has ended");
    pins.ended(VECTOR as u8);
    assert!(device.was_unmasked());
    // High still: the device says so again, and only then is it sent again.
    assert!(fake.sent().is_empty());
    device.raise(&pins);
    assert_eq!(fake.sent(), [(VECTOR, true)]);
}

#[test]
fn a_masked_pin_keeps_its_line_and_says_so_when_it_is_unmasked() {
    let (pins, fake, device) = with_device();
    program(&pins, MASKED | LEVEL | VECTOR);
    device.raise(&pins);
    assert!(fake.sent().is_empty() && !device.was_unmasked());
    program(&pins, LEVEL | VECTOR);
    assert!(device.was_unmasked(), "whether it is high still only the device knows");
}

#[test]
fn a_pin_that_counts_edges_does_not_keep_a_device_saying_that_it_is_high() {
    let (pins, fake, device) = with_device();
    program(&pins, VECTOR);
    device.raise(&pins);
    assert_eq!(fake.sent(), [(VECTOR, false)]);
    assert!(!device.was_unmasked());
}

#[test]
fn two_devices_on_a_line_are_heard_both() {
    let (pins, fake, first) = with_device();
    let second = Device::new();
    pins.connect(&second.event, &second.unmask, PIN.into()).unwrap();
    program(&pins, LEVEL | VECTOR);
    first.raise(&pins);
    second.raise(&pins);
    assert_eq!(fake.sent().len(), 1);
    pins.ended(VECTOR as u8);
    assert!(first.was_unmasked() && second.was_unmasked());
}

#[test]
fn who_has_left_is_heard_no_more() {
    let (pins, fake, device) = with_device();
    program(&pins, LEVEL | VECTOR);
    device.raise(&pins);
    pins.disconnect(&device.event);
    pins.ended(VECTOR as u8);
    fake.sent();
    device.raise(&pins);
    assert!(fake.sent().is_empty() && !device.was_unmasked());
}

#[test]
fn an_emulated_line_comes_again_at_each_end_while_it_is_high() {
    let (pins, fake) = pins();
    write(&pins, 0x10 + 2 * 4, LEVEL | VECTOR);
    pins.set_line(4, true);
    pins.ended(VECTOR as u8);
    assert_eq!(fake.sent(), [(VECTOR, true), (VECTOR, true)]);
    pins.set_line(4, false);
    pins.ended(VECTOR as u8);
    assert!(fake.sent().is_empty());
}

#[test]
fn what_nobody_takes_is_sent_again_and_what_cannot_be_announced_is_announced_later() {
    let (pins, fake) = pins();
    fake.0.lock().unwrap().off = true;
    fake.0.lock().unwrap().fails = true;
    write(&pins, 0x10 + 2 * 4, LEVEL | VECTOR);
    pins.set_line(4, true);
    assert!(fake.sent().is_empty() && fake.0.lock().unwrap().announced.is_empty());
    fake.0.lock().unwrap().off = false;
    fake.0.lock().unwrap().fails = false;
    pins.set_line(5, true);
    assert_eq!(fake.sent(), [(VECTOR, true)]);
}

#[test]
fn registers_are_those_of_an_io_apic() {
    let (pins, _) = pins();
    pins.write(VcpuId(0), 0, Width::B4, 1);
    assert_eq!(pins.read(VcpuId(0), 0x10, Width::B4), 0x0017_0020);
    assert_eq!(pins.read(VcpuId(0), 0x12, Width::B1), 0x17);
    // Written in parts it isn't written.
    pins.write(VcpuId(0), 0, Width::B1, 0);
    assert_eq!(pins.read(VcpuId(0), 0, Width::B4), 1);
    assert!(pins.connect(&EventFd::new(0).unwrap(), &EventFd::new(0).unwrap(), 24).is_err());
}

#[test]
fn a_thread_hears_lines_until_the_last_has_gone() {
    let (pins, fake, device) = with_device();
    pins.listen().unwrap();
    program(&pins, LEVEL | VECTOR);
    let within = |what: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !what() {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
    };
    for _ in 0..3 {
        device.event.write(1).unwrap();
        within(&|| fake.sent() == [(VECTOR, true)]);
        pins.ended(VECTOR as u8);
        assert!(device.was_unmasked());
    }
    // Who comes later is heard, too.
    let late = Device::new();
    pins.connect(&late.event, &late.unmask, PIN.into()).unwrap();
    late.event.write(1).unwrap();
    within(&|| fake.sent() == [(VECTOR, true)]);
    drop(pins);
    within(&|| Arc::strong_count(&fake.0) == 1);
}
