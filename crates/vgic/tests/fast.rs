//! What the fast path does, without a lock and with the list registers as the guest left them: it must be what the long way
//! would have done, and left to that where anything has changed.

mod common;

use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::spec::Trigger;
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{HardwareLists, Message, Vgic};
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};
use common::{Bench, PRIORITY, TABLES, V0, V1, config, line};

const DEVICE: ItsDeviceId = ItsDeviceId(0x10);
const EVENT: ItsEventId = ItsEventId(0);
const LPI: u32 = 8200;

fn message_again(bench: &mut Bench, message: Message) -> bool {
    bench.on(0, |vgic, lists, hardware| vgic.fast_message(vgic.local(V0).unwrap(), message, lists, hardware))
}

/// Two vCPUs; one enabled LPI of event 0 on vCPU 0, which has taken and ended it once.
fn with_message() -> (Bench, Message) {
    let mut bench = Bench::started(config(2, vec![line(40, Some(50), Trigger::Level)], 4));
    bench.start_its();
    bench.set_property(LPI, PRIORITY | 1);
    let mapc = |collection, target| Command::Mapc { collection, target, valid: true };
    let mapd = Command::Mapd { device: DEVICE, bits: 5, table: TABLES + 0x2000, valid: true };
    let mapti = Command::Mapti { device: DEVICE, event: EVENT, lpi: LPI, collection: 0 };
    for command in [mapc(0, 0), mapc(1, 1), mapd, mapti] {
        bench.command(command.encode());
    }
    assert!(bench.vgic.hardware_lpi(DEVICE, EVENT));
    let message = bench.vgic.message(|| Some((DEVICE, EVENT))).unwrap();
    bench.settle();
    serve(&mut bench);
    (bench, message)
}

fn serve(bench: &mut Bench) {
    assert_eq!(bench.acknowledge(0), Some(LPI));
    bench.end(0);
    assert_eq!(bench.acknowledge(0), None);
}

#[test]
fn a_message_comes_again_any_number_of_times() {
    let (mut bench, message) = with_message();
    for _ in 0..3 {
        assert!(message_again(&mut bench, message));
        serve(&mut bench);
    }
    bench.cycle(0);
    assert_eq!(bench.acknowledge(0), None, "nothing is left of it");
    assert_eq!(bench.vgic.statistics().interrupts_taken, 4);
}

#[test]
fn a_message_whose_last_one_waits_is_one_with_it_and_one_whose_handler_runs_comes_after() {
    let (mut bench, message) = with_message();
    for _ in 0..2 {
        assert!(message_again(&mut bench, message));
    }
    assert_eq!(bench.acknowledge(0), Some(LPI));
    for _ in 0..2 {
        assert!(message_again(&mut bench, message));
    }
    assert_eq!(bench.acknowledge(0), None, "its own priority runs");
    bench.end(0);
    serve(&mut bench);
    bench.exit(0);
    assert_eq!(bench.vgic.statistics().interrupts_taken, 3);
}

#[test]
fn a_message_goes_the_long_way_once_any_command_could_have_changed_it() {
    let of = |command: Command| {
        let (mut bench, message) = with_message();
        bench.command(command.encode());
        // Whatever the command did to the list registers has been done.
        bench.cycle(0);
        let again = message_again(&mut bench, message);
        (again, bench.acknowledge(0))
    };
    let (device, event) = (DEVICE, EVENT);
    for command in [
        Command::Discard { device, event },
        Command::Movi { device, event, collection: 1 },
        Command::Mapti { device, event, lpi: LPI + 1, collection: 0 },
        Command::Mapd { device, bits: 5, table: TABLES + 0x2000, valid: false },
        Command::Mapc { collection: 0, target: 0, valid: false },
        Command::Movall { from: 0, to: 1 },
    ] {
        assert_eq!(of(command), (false, None), "{command:?}");
    }
    // The LPI stays, as another event's.
    let (mut bench, message) = with_message();
    let other = ItsEventId(1);
    for command in [
        Command::Mapti { device, event: other, lpi: LPI, collection: 0 },
        Command::Mapti { device, event, lpi: LPI + 1, collection: 0 },
    ] {
        bench.command(command.encode());
    }
    assert!(!message_again(&mut bench, message), "another event's now");
    assert_eq!(bench.acknowledge(0), None);
    let (mut bench, message) = with_message();
    bench.gits.as_ref().unwrap().write(V0, 0, Width::B4, 0);
    bench.cycle(0);
    assert!(!message_again(&mut bench, message), "the ITS is off");
    assert_eq!(bench.vgic.message(|| Some((DEVICE, EVENT))), None);
}

#[test]
fn a_message_that_the_guest_has_disabled_is_not_made_pending() {
    let (mut bench, message) = with_message();
    bench.set_property(LPI, PRIORITY);
    bench.command(Command::Inv { device: DEVICE, event: EVENT }.encode());
    assert!(!message_again(&mut bench, message));
    let message = bench.vgic.message(|| Some((DEVICE, EVENT))).unwrap();
    assert!(!message_again(&mut bench, message), "the translation is new, the list register isn't");
    bench.cycle(0);
    assert!(!message_again(&mut bench, message));
    assert_eq!(bench.acknowledge(0), None);
}

fn first_message(bench: &mut Bench, event: ItsEventId) -> Option<Message> {
    bench.on(0, |vgic, lists, hardware| {
        vgic.fast_first_message(vgic.local(V0).unwrap(), || Some((DEVICE, event)), lists, hardware)
    })
}

#[test]
fn a_message_that_is_not_known_is_listed_and_known_from_then_on() {
    let (mut bench, _) = with_message();
    emptied(&mut bench);
    let message = first_message(&mut bench, EVENT).unwrap();
    assert_eq!(Some(message), bench.vgic.message(|| Some((DEVICE, EVENT))));
    serve(&mut bench);
    assert!(message_again(&mut bench, message));
    serve(&mut bench);
    bench.cycle(0);
    assert_eq!(bench.acknowledge(0), None, "nothing is left of it");
    assert_eq!(bench.vgic.statistics().interrupts_taken, 3);
}

#[test]
fn a_message_that_is_not_known_goes_the_long_way_where_it_is_not_this_vcpus_or_there_is_no_room() {
    let (mut bench, _) = with_message();
    emptied(&mut bench);
    assert_eq!(first_message(&mut bench, ItsEventId(1)), None, "no such event");
    // Four others wait.
    for event in 1..=4 {
        let lpi = LPI + event;
        bench.set_property(lpi, PRIORITY | 1);
        bench.command(
            Command::Mapti { device: DEVICE, event: ItsEventId(event), lpi, collection: 0 }.encode(),
        );
    }
    emptied(&mut bench);
    for event in 1..=4 {
        assert!(first_message(&mut bench, ItsEventId(event)).is_some());
    }
    assert_eq!(first_message(&mut bench, EVENT), None, "no room");
    // Listed already.
    assert_eq!(first_message(&mut bench, ItsEventId(2)), None);
    for event in 1..=4 {
        assert_eq!(bench.acknowledge(0), Some(LPI + event));
        bench.end(0);
    }
    emptied(&mut bench);
    bench.command(Command::Movi { device: DEVICE, event: EVENT, collection: 1 }.encode());
    emptied(&mut bench);
    assert_eq!(first_message(&mut bench, EVENT), None, "the other vCPU's");
    bench.set_property(LPI + 1, PRIORITY);
    bench.command(Command::Inv { device: DEVICE, event: ItsEventId(1) }.encode());
    emptied(&mut bench);
    assert_eq!(first_message(&mut bench, ItsEventId(1)), None, "disabled");
    assert_eq!(bench.acknowledge(0), None);
}

#[test]
fn a_line_comes_again_until_something_changes() {
    let mut bench = Bench::started(config(1, vec![line(40, Some(50), Trigger::Edge)], 4));
    bench.enable(40);
    let again = |bench: &mut Bench, host| {
        bench.on(0, |vgic, lists, hardware| {
            Vgic::fast_hardware(vgic.local(V0).unwrap(), Intid(host), lists, hardware)
        })
    };
    assert!(!again(&mut bench, 50), "it was never there");
    assert!(bench.vgic.hardware_spi(Intid(50)));
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.end(0);
    assert!(again(&mut bench, 50));
    assert!(!again(&mut bench, 51), "another one");
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.end(0);
    bench.disable(40);
    assert!(!again(&mut bench, 50), "disabled");
}

#[test]
fn a_software_interrupt_to_another_waits_in_its_mailbox() {
    let mut bench = Bench::started(config(2, vec![], 4));
    bench.gicr.write(V0, 0x2_0000 + 0x1_0100, Width::B4, 1 << 3);
    bench.cycle(0);
    bench.cycle(1);
    // To the CPU whose Aff0 is 1.
    let value = 3 << 24 | 1 << 1;
    assert!(bench.on(0, |vgic, lists, hardware| vgic.fast_send_sgi(
        vgic.local(V0).unwrap(),
        value,
        lists,
        hardware
    )));
    assert!(bench.machine.kicked.lock().unwrap().contains(&V1.0));
    let taken = |vgic: &axvm_vgic::Vgic, lists: &mut _, hardware: &common::Hardware| {
        vgic.fast_take_sgis(vgic.local(V1).unwrap(), lists, hardware)
    };
    assert!(!bench.on(1, taken), "it was in no list register yet");
    bench.settle();
    assert_eq!(bench.acknowledge(1), Some(3));
    bench.end(1);
    assert!(bench.on(0, |vgic, lists, hardware| vgic.fast_send_sgi(
        vgic.local(V0).unwrap(),
        value,
        lists,
        hardware
    )));
    assert!(bench.on(1, taken), "now it is");
    assert_eq!(bench.acknowledge(1), Some(3));
    // Two named at once are for the long way.
    let both = 3 << 24 | 0b11;
    assert!(!bench.on(0, |vgic, lists, hardware| vgic.fast_send_sgi(
        vgic.local(V0).unwrap(),
        both,
        lists,
        hardware
    )));
}

/// A hardware line, enabled, taken once and not ended.
fn with_line_active() -> Bench {
    let mut bench = Bench::started(config(
        2,
        vec![line(40, Some(50), Trigger::Level), line(41, None, Trigger::Level)],
        4,
    ));
    bench.enter(0);
    assert!(bench.switch(40, true) && bench.switch(40, false) && bench.switch(40, true));
    bench.machine.set_line(Intid(50), true);
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(40));
    bench
}

#[test]
fn a_line_is_masked_while_it_is_served_and_unmasked_after_its_end() {
    let mut bench = with_line_active();
    let enabled = |bench: &Bench| bench.machine.spis.lock().unwrap()[&50].enabled;
    assert!(bench.switch(40, false) && !enabled(&bench));
    bench.end(0);
    bench.settle();
    assert_eq!(bench.acknowledge(0), None, "it is up, and masked");
    assert!(bench.switch(40, true) && enabled(&bench));
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.machine.set_line(Intid(50), false);
    bench.end(0);
    bench.settle();
    assert_eq!(bench.listed(0), []);
}

/// Nothing in hardware.
struct NoLists;

impl HardwareLists for NoLists {
    fn read(&self, _: usize) -> Option<u64> {
        None
    }

    fn write(&self, _: usize, _: u64) {}
}

#[test]
fn switches_of_one_word_that_two_vcpus_turn_at_once_are_both_turned() {
    const TURNS: u32 = 1_000_000;
    let mut bench =
        Bench::started(config(2, vec![line(40, None, Trigger::Level), line(41, None, Trigger::Level)], 4));
    bench.enter(0);
    bench.enter(1);
    let vgic = &bench.vgic;
    let turn = |cpu: usize, vcpu, bit: u32| {
        let registers = &bench.cpus[cpu].registers;
        let switches = vgic.fast_switches(1).unwrap();
        for turn in 0..=TURNS {
            let enable = turn % 2 == 0;
            let local = vgic.local(vcpu).unwrap();
            // It may have to wait for the other one.
            while !vgic.fast_switch(local, switches, bit, enable, registers, &NoLists) {}
            assert_eq!(switches.read() & bit != 0, enable, "nobody else turns this one");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| turn(0, V0, 1 << 8));
        scope.spawn(|| turn(1, V1, 1 << 9));
    });
}

#[test]
fn a_switch_goes_the_long_way_where_more_follows_from_it() {
    // The hardware has been told nothing of it yet.
    let mut bench = Bench::new(config(1, vec![line(40, Some(50), Trigger::Level)], 4));
    bench.enter(0);
    assert!(!bench.switch(40, true) && bench.switch(40, false));
    // In a list register and not taken.
    let mut bench = with_line_active();
    bench.end(0);
    bench.settle();
    assert_eq!(bench.listed(0), [(40, true, false)]);
    assert!(!bench.switch(40, false));
    bench.cycle(0);
    assert_eq!(bench.acknowledge(0), None);
    // At another CPU.
    let mut bench = with_line_active();
    bench.end(0);
    bench.machine.set_line(Intid(50), false);
    bench.settle();
    bench.route(40, 1);
    bench.machine.set_line(Intid(50), true);
    bench.cycle(0);
    bench.settle();
    assert_eq!(bench.acknowledge(1), Some(40));
    assert!(!bench.switch(40, false));
    // Pending, and in no list register because it is off.
    let mut bench = with_line_active();
    axvm_axdevice::InterruptLine::set_level(&*bench.vgic, axvm_addr::Irq(41), true);
    assert!(!bench.switch(41, true));
    // Several at once, and none of which anything is known.
    assert!(!bench.write_switches(1, 1 << 10 | 1 << 11, true));
    assert!(bench.write_switches(1, 1 << 20, true), "no such line");
    assert!(bench.write_switches(1, 1 << 8, true), "on already");
}

/// With affinity routing the first word, of SGIs and PPIs, reads as zero and ignores what is written (IHI 0069, 12.9.24).
#[test]
fn the_first_word_of_switches_stays_zero() {
    let mut bench = with_line_active();
    bench.gicr.write(V0, 0x1_0100, Width::B4, 1 << 27);
    assert_ne!(bench.gicr.read(V0, 0x1_0100, Width::B4) & 1 << 27, 0, "the redistributor's is the switch");
    assert!(bench.write_switches(0, 1 << 27, true));
    assert!(bench.write_switches(0, 1 << 26, true));
    for register in [0x100, 0x180] {
        assert_eq!(bench.gicd.read(V0, register, Width::B4), 0);
    }
    assert_eq!(bench.vgic.fast_switches(0).map(axvm_vgic::Switches::read), Some(0));
    assert!(bench.vgic.fast_switches(32).is_none(), "there are no more");
}

/// After an exit that had to be looked at, nothing is in the list registers of vCPU 0.
fn emptied(bench: &mut Bench) {
    bench.cycle(0);
    assert_eq!(bench.listed(0), []);
}

#[test]
fn an_spi_that_software_makes_pending_is_listed_and_held_in_hardware() {
    let mut bench = Bench::started(config(
        1,
        vec![line(40, Some(50), Trigger::Level), line(41, None, Trigger::Level)],
        4,
    ));
    bench.enable(40);
    bench.enable(41);
    emptied(&mut bench);
    let active = |bench: &Bench| bench.machine.spis.lock().unwrap()[&50].active;
    assert!(bench.pend(40) && active(&bench));
    assert!(bench.pend(41));
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.end(0);
    assert!(!active(&bench), "its end ended the physical one");
    assert_eq!(bench.acknowledge(0), Some(41));
    bench.end(0);
    bench.settle();
    assert_eq!(bench.acknowledge(0), None, "once each");
}

#[test]
fn the_only_command_in_the_queue_is_carried_out_if_it_raises_an_event() {
    let (mut bench, _) = with_message();
    emptied(&mut bench);
    let send = |bench: &mut Bench, command: Command| {
        let end = bench.queue(command.encode());
        let done = bench
            .on(0, |vgic, lists, hardware| vgic.fast_command(vgic.local(V0).unwrap(), end, lists, hardware));
        (done, end)
    };
    let int = |event| Command::Int { device: DEVICE, event };
    let (done, end) = send(&mut bench, int(EVENT));
    assert!(done);
    assert_eq!((bench.its_read(0x88), bench.its_read(0x90)), (end, end), "it is read");
    serve(&mut bench);
    emptied(&mut bench);
    // Another command, one that is wrong: the long way has it all to do.
    for command in [Command::Sync { target: 0 }, int(ItsEventId(1)), int(ItsEventId(99))] {
        let (done, end) = send(&mut bench, command);
        assert!(!done && bench.its_read(0x90) != end, "{command:?}");
        bench.its_write(0x88, end);
        assert_eq!(bench.its_read(0x90), end);
    }
    assert_eq!(bench.errors(), 2);
    // Two commands: the long way has both to do.
    let first = bench.queue(int(EVENT).encode());
    let end = (first + 32) % 0x1_0000;
    assert!(
        !bench.on(0, |vgic, lists, hardware| {
            vgic.fast_command(vgic.local(V0).unwrap(), end, lists, hardware)
        })
    );
    bench.its_write(0x88, first);
    bench.cycle(0);
    serve(&mut bench);
}
