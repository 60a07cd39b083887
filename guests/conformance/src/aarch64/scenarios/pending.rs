//! LPI pending tables (Arm IHI 0069, 5.1.2 and GICR_CTLR.EnableLPIs): what is pending there when LPIs are enabled comes, and what
//! is pending when they are disabled is there.
//!
//! The bare board and a VM do all of it alike, but that where a VM takes LPIs from the hardware only what is mapped comes out of the
//! table.

use axvm_guest_runtime::gic::PENDING_IS_ZERO;
use axvm_guest_runtime::icc;
use axvm_guest_runtime::machine::{Fault, load8, store8};

use super::Scene;
use super::messages::{EVENT_LPI, Messages, drain_sorted};
use crate::arch::second::{self, Ask};

/// Beyond those of the device's events: no event is mapped to it.
const UNMAPPED: u32 = EVENT_LPI + 40;

impl Messages<'_> {
    fn bit(&self, collection: u64, intid: u32) -> (u64, u8) {
        (self.0.pending_table(collection) + u64::from(intid / 8), 1 << (intid % 8))
    }

    fn put(&self, collection: u64, intid: u32) -> Result<(), Fault> {
        let (at, bit) = self.bit(collection, intid);
        store8(at, load8(at)? | bit)
    }

    fn is_put(&self, collection: u64, intid: u32) -> bool {
        let (at, bit) = self.bit(collection, intid);
        load8(at).is_ok_and(|byte| byte & bit != 0)
    }

    /// With the LPIs of a CPU disabled.
    fn disabled(
        &mut self,
        collection: u64,
        zero: u64,
        play: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let target = *self.0.targets().get(collection as usize).ok_or(Fault)?;
        target.disable_lpis()?;
        let played = play(self);
        target.enable_lpis_again(self.0.pending_table(collection) | zero)?;
        played
    }
}

/// Those of mapped events, and of one that is mapped afterwards.
pub fn mapped(scene: &Scene<'_>) {
    Messages::with(scene, |mut messages| Messages::done(play_mapped(scene, &mut messages)));
}

fn play_mapped(scene: &Scene<'_>, messages: &mut Messages<'_>) -> Result<(), Fault> {
    for place in 0..32 {
        messages.set_up(EVENT_LPI + place, 0xa0);
    }
    for round in 0..3 {
        messages.disabled(0, 0, |messages| {
            (0..32).step_by(3 - round).try_for_each(|place| messages.put(0, EVENT_LPI + place))
        })?;
        scene.say(format_args!("round {round}: {:?}", drain_sorted(scene)));
        let left = (0..32).filter(|place| messages.is_put(0, EVENT_LPI + place)).count();
        scene.say(format_args!("round {round}: left in the table {left}, then {:?}", drain_sorted(scene)));
    }
    // As any other that is pending: taken away, off, and on again.
    messages.enable(EVENT_LPI + 1, false);
    messages.disabled(0, 0, |messages| (0..3).try_for_each(|place| messages.put(0, EVENT_LPI + place)))?;
    messages.clear(EVENT_LPI + 2);
    scene.say(format_args!("one is off, one cleared: {:?}", drain_sorted(scene)));
    messages.enable(EVENT_LPI + 1, true);
    scene.say(format_args!("on again: {:?}", drain_sorted(scene)));
    // Mapped when LPIs are enabled already.
    messages.discard(EVENT_LPI + 5);
    messages.0.set(5, 0xa0, false)?;
    messages.disabled(0, 0, |messages| messages.put(0, EVENT_LPI + 5))?;
    scene.say(format_args!("unmapped and off: {:?}", drain_sorted(scene)));
    messages.set_up(EVENT_LPI + 5, 0xa0);
    scene.say(format_args!("mapped: {:?}", drain_sorted(scene)));
    // The other CPU has a table of its own.
    messages.move_to(EVENT_LPI + 7, 1);
    messages.disabled(1, 0, |messages| messages.put(1, EVENT_LPI + 7))?;
    let there = second::do_it(Ask::Take);
    second::do_it(Ask::End);
    scene.say(format_args!("there {there:?}, here {}", scene.take()));
    messages.move_to(EVENT_LPI + 7, 0);
    // Nothing is pending, the guest says, and that is so.
    messages.disabled(0, PENDING_IS_ZERO, |_| Ok(()))?;
    scene.say(format_args!("zero: {:?}", drain_sorted(scene)));
    messages.raise(EVENT_LPI + 9);
    scene.say(format_args!("and one is raised: {:?}", drain_sorted(scene)));
    Ok(())
}

/// Those that no event is mapped to.
pub fn unmapped(scene: &Scene<'_>) {
    Messages::with(scene, |mut messages| Messages::done(play_unmapped(scene, &mut messages)));
}

fn play_unmapped(scene: &Scene<'_>, messages: &mut Messages<'_>) -> Result<(), Fault> {
    let all = || UNMAPPED..UNMAPPED + 150;
    for intid in all() {
        messages.0.set((intid - EVENT_LPI).into(), 0xa0, intid % 3 != 0)?;
    }
    messages.disabled(0, 0, |messages| all().try_for_each(|intid| messages.put(0, intid)))?;
    for part in 0..3 {
        scene.say(format_args!("part {part}: {:?}", drain_sorted(scene)));
    }
    let left = all().filter(|&intid| messages.is_put(0, intid)).count();
    scene.say(format_args!("left in the table {left}"));
    messages.disabled(0, 0, |messages| {
        all().try_for_each(|intid| {
            let (at, bit) = messages.bit(0, intid);
            store8(at, load8(at)? & !bit)
        })
    })?;
    scene.say(format_args!("taken out of it: {:?}", drain_sorted(scene)));
    Ok(())
}

/// What is pending when LPIs are disabled is in the table; what comes meanwhile is lost.
pub fn stored(scene: &Scene<'_>) {
    Messages::with(scene, |mut messages| Messages::done(play_stored(scene, &mut messages)));
}

fn play_stored(scene: &Scene<'_>, messages: &mut Messages<'_>) -> Result<(), Fault> {
    for place in 0..8 {
        messages.set_up(EVENT_LPI + place, place << 4);
    }
    for round in 0..2 {
        (0..7).for_each(|place| messages.raise(EVENT_LPI + place));
        let served = scene.take();
        messages.disabled(0, 0, |messages| {
            let put: alloc::vec::Vec<_> =
                (0..8).filter(|place| messages.is_put(0, EVENT_LPI + place)).collect();
            scene.say(format_args!(
                "round {round}: served {served}, in the table {put:?}, here {}",
                scene.take()
            ));
            messages.raise(EVENT_LPI + 7);
            // One that is taken out of it is over.
            let (at, bit) = messages.bit(0, EVENT_LPI + 3);
            store8(at, load8(at)? & !bit)
        })?;
        icc::end(served);
        scene.drain("then");
    }
    Ok(())
}
