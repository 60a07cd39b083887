//! LPIs, many at once (Arm IHI 0069, chapter 5 and 4.1). The guest makes them pending by commands of the ITS, for a device that has
//! as many events as it takes and is otherwise left alone: an NVMe controller. There is another for what it takes two for.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use axvm_guest_runtime::edu;
use axvm_guest_runtime::gic::{Gic, LPI, Redistributor};
use axvm_guest_runtime::its::Its;
use axvm_guest_runtime::machine::{Fault, load32};
use axvm_guest_runtime::{icc, println};

use super::Scene;
use crate::arch::cpu::{self, let_in, send_here, settle};
use crate::arch::second::{self, Ask, spin_wait::within};

/// The LPI of the first event.
pub const EVENT_LPI: u32 = LPI as u32;
/// Of the device: 32.
const EVENT_BITS: u64 = 5;
/// Class, subclass and programming interface of an NVMe controller, in a function's third word.
const NVME: u32 = 0x01_0802;

/// The messages of two devices, the first at first.
pub struct Messages<'a>(pub(super) Its<'a>, [u64; 2]);

fn number(intid: u32) -> u64 {
    u64::from(intid - EVENT_LPI)
}

impl Messages<'_> {
    /// Plays with them, nothing mapped yet: collection 0 is the first CPU's, 1 the other's.
    pub fn with(scene: &Scene<'_>, play: impl FnOnce(Messages<'_>)) {
        match start(scene) {
            Ok((gic, devices, targets)) => {
                let memory = scene.board.scratch.next_multiple_of(0x1_0000);
                match Its::start(&gic, devices[0], EVENT_BITS, &targets, memory) {
                    Ok(its) => play(Messages(its, devices)),
                    Err(Fault) => println!("CONFORMANCE broken: the ITS doesn't answer"),
                }
            }
            Err(why) => println!("CONFORMANCE broken: {why}"),
        }
    }

    /// Says so if a command or an access failed.
    pub(super) fn done(result: Result<(), Fault>) {
        if result.is_err() {
            println!("CONFORMANCE broken: a command of the ITS");
        }
    }

    /// Maps an LPI to the first CPU, with a priority in steps of 16, switched on.
    pub fn set_up(&mut self, intid: u32, priority: u32) {
        Self::done(self.0.set(number(intid), priority as u8, true));
        Self::done(self.0.map(number(intid), 0));
    }

    /// A message.
    pub fn raise(&mut self, intid: u32) {
        Self::done(self.0.raise(number(intid)));
    }

    /// Takes a pending one away.
    pub fn clear(&mut self, intid: u32) {
        Self::done(self.0.clear(number(intid)));
    }

    /// Switches one on or off.
    pub fn enable(&mut self, intid: u32, enabled: bool) {
        Self::done(self.0.enable(number(intid), enabled));
    }

    /// Gives one another priority.
    pub fn set_priority(&mut self, intid: u32, priority: u32) {
        Self::done(self.0.prioritize(number(intid), priority as u8));
    }

    /// Unmaps one and maps it anew: what was pending is not, any more.
    pub fn remap(&mut self, intid: u32) {
        Self::done(self.0.discard(number(intid)));
        Self::done(self.0.map(number(intid), 0));
    }

    /// Maps the second device, and turns to it.
    fn map_second(&mut self) {
        Self::done(self.0.map_device(self.1[1], 1));
    }

    /// Commands are about the first device from here on, or about the second.
    fn turn_to(&mut self, place: usize) {
        self.0.turn_to(self.1[place & 1]);
    }

    pub(super) fn discard(&mut self, intid: u32) {
        Self::done(self.0.discard(number(intid)));
    }

    fn unmap_device(&mut self) {
        Self::done(self.0.unmap_device());
    }

    fn map(&mut self, intid: u32, cpu: u64) {
        Self::done(self.0.map(number(intid), cpu));
    }

    pub(super) fn move_to(&mut self, intid: u32, cpu: u64) {
        Self::done(self.0.move_to(number(intid), cpu));
    }
}

type Parts = (Gic, [u64; 2], [Redistributor; 2]);

fn start(scene: &Scene<'_>) -> Result<Parts, &'static str> {
    let platform = &scene.board.platform;
    let gic = Gic::find(platform).ok_or("no GIC")?;
    let mut devices = edu::functions(platform)
        .filter(|&(_, config)| load32(config + 8).is_ok_and(|class| class >> 8 == NVME))
        .map(|((device, function), _)| u64::from(device) << 3 | u64::from(function));
    let (Some(first), Some(second)) = (devices.next(), devices.next()) else {
        return Err("not two NVMe controllers");
    };
    let [own, other] = scene.frames.mpidrs.map(|mpidr| gic.redistributor(mpidr));
    let targets = [own.map_err(|_| "no redistributor")?, other.map_err(|_| "no redistributor")?];
    Ok((gic, [first, second], targets))
}

/// Takes and ends interrupts until there are no more: which came, in order of their numbers.
pub(super) fn drain_sorted(scene: &Scene<'_>) -> Vec<u64> {
    let mut came = Vec::new();
    for _ in 0..64 {
        let intid = scene.take();
        if intid == icc::NONE {
            break;
        }
        came.push(intid);
        icc::end(intid);
    }
    came.sort_unstable();
    came
}

/// 20 at once come by priority, each once; again with those of one priority; again while one of them is served.
pub fn many(scene: &Scene<'_>) {
    Messages::with(scene, |mut messages| {
        let all = EVENT_LPI..EVENT_LPI + 20;
        for intid in all.clone() {
            messages.set_up(intid, 0xa0);
        }
        for _ in 0..2 {
            all.clone().for_each(|intid| messages.raise(intid));
        }
        scene.say(format_args!("of one priority {:?}", drain_sorted(scene)));
        for intid in all.clone().take(15) {
            messages.set_priority(intid, ((intid - EVENT_LPI) * 7 % 15) << 4);
            messages.raise(intid);
        }
        scene.drain("by priority");
        for intid in all.clone() {
            messages.set_priority(intid, 0xa0);
        }
        // The one that is served leaves its list register to those that wait, and comes again.
        for round in 0..4 {
            let served = EVENT_LPI + round * 5;
            messages.raise(served);
            let taken = scene.take();
            scene.say(format_args!("served {taken} running {:02x}", icc::running_priority()));
            all.clone().skip(round as usize).for_each(|intid| messages.raise(intid));
            settle();
            scene.say(format_args!("meanwhile {}", scene.take()));
            icc::end(taken);
            scene.say(format_args!("then running {:02x} {:?}", icc::running_priority(), drain_sorted(scene)));
        }
        scene.say(format_args!("then {}", scene.take()));
    });
}

/// In a handler that lets more urgent ones in: eight deep, each made pending again while it is served.
pub fn nested(scene: &Scene<'_>) {
    Messages::with(scene, |mut messages| {
        for place in 0..8 {
            // Never 0xf0, which is the lowest of all where half of the priorities are the hypervisor's: nothing passes that.
            messages.set_up(EVENT_LPI + place, (14 - place) << 4);
        }
        // No two have one priority: which of them comes first then is left open (IHI 0069, 4.8).
        for sgi in 1..8 {
            scene.frames.set_up(0, sgi, (7 - sgi) << 4);
        }
        let mut taken = Vec::new();
        for place in 0..8 {
            messages.raise(EVENT_LPI + place);
            taken.push(scene.take());
            // Not more urgent than itself.
            messages.raise(EVENT_LPI + place);
            settle();
            scene.say(format_args!(
                "in {} running {:02x} then {}",
                place,
                icc::running_priority(),
                scene.take()
            ));
        }
        while let Some(intid) = taken.pop() {
            icc::end(intid);
            let again = scene.take();
            scene.say(format_args!("ended {intid} running {:02x}: {again}", icc::running_priority()));
            if again != icc::NONE {
                icc::end(again);
            }
        }
        scene.say(format_args!("then {}", scene.take()));
        cpu::cpu(0).nest.store(true, Ordering::Relaxed);
        for place in 0..8 {
            messages.raise(EVENT_LPI + place);
            if place > 0 {
                send_here(place.into());
            }
        }
        let_in();
        scene.say_events();
    });
}

/// The end in two steps: of software interrupts both, in an order of their own, and of LPIs the first.
pub fn split(scene: &Scene<'_>) {
    icc::set_control(icc::control() | icc::EOI_MODE);
    Messages::with(scene, |mut messages| {
        for place in 0..8 {
            messages.set_up(EVENT_LPI + place, place << 5);
            scene.frames.set_up(0, place, place << 5 | 0x10);
        }
        for round in 0..3u64 {
            for place in 0..8 {
                messages.raise(EVENT_LPI + place);
                send_here(place.into());
            }
            let mut line = String::new();
            for _ in 0..16 {
                let taken = scene.take();
                let _ = write!(line, " {taken}/{:02x}", icc::running_priority());
                if taken != icc::NONE {
                    icc::end(taken);
                }
            }
            scene.say(format_args!("round {round}:{line}"));
            // Dropped and not deactivated: an LPI comes all the same, a software interrupt doesn't.
            for place in [6, 1, 4] {
                messages.raise(EVENT_LPI + place);
                send_here(place.into());
            }
            let mut line = String::new();
            for step in 0..8u64 {
                let sgi = (step * 5 + 3 + round) % 8;
                let came = scene.take();
                let _ = write!(line, " {came}");
                if came != icc::NONE {
                    icc::end(came);
                    icc::deactivate(came);
                }
                icc::deactivate(LPI + sgi);
                icc::deactivate(sgi);
            }
            scene.say(format_args!("again:{line}"));
            let mut line = String::new();
            for _ in 0..32 {
                let came = scene.take();
                if came == icc::NONE {
                    break;
                }
                let _ = write!(line, " {came}");
                icc::end(came);
                icc::deactivate(came);
            }
            scene.say(format_args!("left:{line}"));
        }
    });
}

/// Those that wait at one CPU and are moved to the other.
pub fn moved(scene: &Scene<'_>) {
    Messages::with(scene, |mut messages| {
        for place in 0..8 {
            messages.set_up(EVENT_LPI + place, place << 5);
        }
        for round in 0..2 {
            (0..8).for_each(|place| messages.raise(EVENT_LPI + place));
            let served = scene.take();
            (0..8).for_each(|place| messages.move_to(EVENT_LPI + place, 1));
            // What is served here is pending there, if it comes again.
            messages.raise(EVENT_LPI);
            scene.say(format_args!("round {round}: served here {served}, then {}", scene.take()));
            let mut there = Vec::new();
            for _ in 0..8 {
                there.push(second::do_it(Ask::Take));
                second::do_it(Ask::End);
            }
            icc::end(served);
            scene.say(format_args!("there {there:?}, here {}", scene.take()));
            // Back, from a CPU that lets nothing in.
            messages.raise(EVENT_LPI + 3);
            messages.move_to(EVENT_LPI + 3, 0);
            let mut came = icc::NONE;
            within(|| {
                came = icc::acknowledge();
                came != icc::NONE
            });
            icc::end(came);
            scene.say(format_args!("back {came}"));
            (0..8).for_each(|place| messages.move_to(EVENT_LPI + place, 0));
        }
    });
}

/// An LPI that was one device's and is the other's: what becomes of the first doesn't matter to it.
pub fn renumbered(scene: &Scene<'_>) {
    Messages::with(scene, |mut messages| {
        let [moved, discarded, unmapped, pending] = [0, 1, 2, 3].map(|place| EVENT_LPI + place);
        for intid in [moved, discarded, unmapped, pending] {
            messages.set_up(intid, 0xa0);
        }
        messages.move_to(moved, 1);
        messages.discard(moved);
        messages.discard(discarded);
        messages.raise(pending);
        messages.discard(pending);
        scene.say(format_args!("discarded {}", scene.take()));
        messages.map_second();
        for intid in [moved, discarded, pending] {
            messages.map(intid, 0);
        }
        scene.say(format_args!("mapped {}", scene.take()));
        let all = [moved, discarded, pending];
        all.iter().for_each(|intid| messages.raise(*intid));
        scene.say(format_args!("the second's {:?}", drain_sorted(scene)));
        messages.turn_to(0);
        messages.raise(unmapped);
        scene.say(format_args!("the first's {:?}", drain_sorted(scene)));
        messages.unmap_device();
        messages.turn_to(1);
        all.iter().for_each(|intid| messages.raise(*intid));
        scene.say(format_args!("without the first {:?}", drain_sorted(scene)));
        messages.map(unmapped, 0);
        messages.raise(unmapped);
        scene.say(format_args!("and the first's last {:?}", drain_sorted(scene)));
        messages.unmap_device();
    });
}

/// The handler of an LPI raises software interrupts at its own CPU, fewer than list registers, as many, and more; then it comes
/// again, time after time.
pub fn raising(scene: &Scene<'_>) {
    Messages::with(scene, |mut messages| {
        let own = cpu::cpu(0);
        for (ends, split) in [("one step", false), ("two steps", true)] {
            let control = icc::control() & !icc::EOI_MODE;
            icc::set_control(if split { control | icc::EOI_MODE } else { control });
            for (way, nest, spread) in
                [("after it", false, false), ("by priority", false, true), ("in it", true, true)]
            {
                messages.set_up(EVENT_LPI, 0xe0);
                for count in [1u32, 2, 3, 4, 5, 8, 15] {
                    own.reset();
                    own.nest.store(nest, Ordering::Relaxed);
                    own.split.store(split, Ordering::Relaxed);
                    own.message_raises.store((1 << count) - 1, Ordering::Relaxed);
                    for sgi in 0..count {
                        // Each more urgent than the LPI. Of one priority they come in any order.
                        scene.frames.set_up(0, sgi, if spread { (13 - sgi.min(13)) << 4 } else { 0xd0 });
                    }
                    let mut came = [0; 2];
                    for _ in 0..5 {
                        messages.raise(EVENT_LPI);
                        // A few times: each takes its moment.
                        (0..3).for_each(|_| let_in());
                    }
                    for event in own.events().filter(|event| !event.end) {
                        came[usize::from(event.intid < 16)] += 1;
                    }
                    scene.say(format_args!(
                        "{ends}, {count} {way}: the LPI {} times, software interrupts {}, then {}",
                        came[0],
                        came[1],
                        scene.take()
                    ));
                    if spread && count < 8 {
                        scene.say_events();
                    }
                }
            }
        }
    });
}

/// More events than its device sends by itself: mapped all the same, since the ITS took them, and raised by commands.
pub fn beyond(scene: &Scene<'_>) {
    let Some(device) = edu::requester_id(&scene.board.platform) else {
        return println!("CONFORMANCE broken: no edu");
    };
    Messages::with(scene, |mut messages| {
        messages.1[1] = device;
        messages.map_second();
        let all = [0, 1, 2, 20, 31].map(|place| EVENT_LPI + place);
        for round in 0..2 {
            for intid in all {
                if round == 0 {
                    messages.set_up(intid, 0xa0);
                }
                messages.raise(intid);
            }
            scene.say(format_args!("round {round}: {:?}", drain_sorted(scene)));
        }
        messages.unmap_device();
    });
}
