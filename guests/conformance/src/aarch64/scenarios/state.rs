//! Pending and active state, and what changes it by the way.

use axvm_guest_runtime::icc;

use super::Scene;
use crate::arch::cpu::{send_here, settle};
use crate::arch::frames::{GROUP0, GROUP1, ICACTIVER, ICENABLER, ICPENDR, ISACTIVER, ISENABLER, ISPENDR};

const PRIORITY: u32 = 0xa0;

impl Scene<'_> {
    /// Says what the first CPU shows of an interrupt, after a name of the moment.
    fn show(&self, moment: &str, intid: u32) {
        settle();
        let bit = |bank| u32::from(self.frames.get(0, bank, intid));
        self.say(format_args!(
            "{moment}: pending {} active {} enabled {} running {:02x}",
            bit(ISPENDR),
            bit(ISACTIVER),
            bit(ISENABLER),
            icc::running_priority()
        ));
    }

    /// Makes an interrupt pending by software.
    fn pend(&self, intid: u32) {
        if intid < 16 { send_here(intid.into()) } else { self.frames.set(0, ISPENDR, intid) }
    }

    /// An SGI, a line of a device, and the console's.
    fn three(&self) -> [(&'static str, u32); 3] {
        let [line, console] = self.frames.quiet;
        [("sgi", 3), ("line", line), ("console", console)]
    }
}

/// One that is made pending while it is active comes once more after its end, and no more.
pub fn again(scene: &Scene<'_>) {
    for (name, intid) in scene.three() {
        scene.say(format_args!("{name}"));
        scene.frames.set_up(0, intid, PRIORITY);
        scene.show("at rest", intid);
        scene.pend(intid);
        scene.pend(intid);
        scene.show("pended", intid);
        let first = scene.take();
        scene.show("taken", intid);
        scene.pend(intid);
        scene.show("pended while active", intid);
        scene.say(format_args!("meanwhile {}", scene.take()));
        icc::end(first);
        scene.show("ended", intid);
        let second = scene.take();
        scene.show("taken again", intid);
        scene.say(format_args!("the same: {}", first == second && first == u64::from(intid)));
        icc::end(second);
        scene.show("ended again", intid);
        scene.say(format_args!("then {}", scene.take()));
    }
}

/// What is disabled stays pending and doesn't come; enabled again it does.
pub fn disabled(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for (name, intid) in scene.three() {
        scene.say(format_args!("{name}"));
        frames.set_up(0, intid, PRIORITY);
        frames.set(0, ICENABLER, intid);
        scene.pend(intid);
        scene.show("pended", intid);
        scene.say(format_args!("comes {}", scene.take()));
        frames.set(0, ISENABLER, intid);
        scene.show("enabled", intid);
        frames.set(0, ICENABLER, intid);
        scene.show("disabled", intid);
        scene.say(format_args!("comes {}", scene.take()));
        frames.set(0, ISENABLER, intid);
        let taken = scene.take();
        scene.say(format_args!("comes: {}", taken == u64::from(intid)));
        // Disabled while it is active: it still has to be ended.
        frames.set(0, ICENABLER, intid);
        scene.show("disabled while active", intid);
        scene.pend(intid);
        icc::end(taken);
        scene.show("ended", intid);
        scene.say(format_args!("comes {}", scene.take()));
        frames.set(0, ISENABLER, intid);
        scene.drain_one("enabled", intid);
    }
}

impl Scene<'_> {
    /// Takes and ends one interrupt, and says whether it was this one.
    fn drain_one(&self, moment: &str, intid: u32) {
        let taken = self.take();
        if taken != icc::NONE {
            icc::end(taken);
        }
        self.say(format_args!("{moment}: comes {}, then {}", taken == u64::from(intid), self.take()));
    }
}

/// What was made pending and cleared doesn't come. More than there are list registers, so that some of them are in one and
/// some aren't.
pub fn cleared(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for sgi in 0..16 {
        frames.set_up(0, sgi, sgi << 4);
        send_here(sgi.into());
    }
    settle();
    for sgi in [0, 3, 4, 9, 15] {
        frames.set(0, ICPENDR, sgi);
    }
    settle();
    scene.say(format_args!("pending {:04x}", frames.word(0, ISPENDR, 0) & 0xffff));
    scene.drain("come");
    for (name, intid) in scene.three() {
        frames.set_up(0, intid, PRIORITY);
        scene.pend(intid);
        frames.set(0, ICPENDR, intid);
        scene.show(name, intid);
        scene.say(format_args!("comes {}", scene.take()));
        // While it is active, the clearing takes the second one only.
        scene.pend(intid);
        let taken = scene.take();
        scene.pend(intid);
        frames.set(0, ICPENDR, intid);
        scene.show("cleared while active", intid);
        icc::end(taken);
        scene.show("ended", intid);
        scene.say(format_args!("comes {}", scene.take()));
    }
}

/// A priority that changes while its interrupt waits counts as it is at last.
pub fn priority(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for sgi in 0..16 {
        frames.set_up(0, sgi, sgi << 4);
        send_here(sgi.into());
    }
    for sgi in 0..16 {
        frames.set_priority(0, sgi, (15 - sgi) << 4);
    }
    settle();
    scene.say(format_args!("first {}", icc::highest_pending()));
    scene.drain("come");
    let lines = frames.lines();
    for (place, line) in (1..).zip(lines) {
        frames.set_up(0, line, place << 5);
        frames.set(0, ISPENDR, line);
    }
    frames.set_priority(0, lines[2], 0x10);
    settle();
    for _ in lines {
        let taken = scene.take();
        let place = lines.iter().position(|line| u64::from(*line) == taken);
        scene.say(format_args!("line {place:?} at {:02x}", icc::running_priority()));
        if taken != icc::NONE {
            icc::end(taken);
        }
    }
}

/// The distributor's switch of the group, and interrupts that move to the other group.
pub fn groups(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for (name, intid) in scene.three() {
        scene.say(format_args!("{name}"));
        frames.set_up(0, intid, PRIORITY);
        frames.set_groups(0);
        scene.pend(intid);
        scene.show("switched off", intid);
        scene.say(format_args!("comes {}", scene.take()));
        frames.set_groups(GROUP1);
        scene.drain_one("switched on", intid);
    }
    // One of Group 0 is not for those who ask for Group 1.
    frames.set_up(0, 4, PRIORITY);
    send_here(4);
    settle();
    frames.set_group(0, 4, false);
    scene.show("moved to Group 0", 4);
    scene.say(format_args!("comes {}", scene.take()));
    frames.set_groups(GROUP0 | GROUP1);
    icc::set_group0(1);
    settle();
    scene.say(format_args!("Group 1 {}", icc::acknowledge()));
    let taken = icc::acknowledge_group0();
    scene.say(format_args!("Group 0 {taken} running {:02x}", icc::running_priority()));
    scene.show("taken", 4);
    icc::end_group0(taken);
    scene.show("ended", 4);
    // ICC_SGI1R_EL1 raises no SGI of Group 0.
    send_here(4);
    scene.show("raised", 4);
    icc::set_group0(0);
    frames.set_groups(GROUP1);
    frames.set(0, ICPENDR, 4);
    frames.set_group(0, 4, true);
    send_here(4);
    scene.drain_one("in Group 1 again", 4);
}

/// Active by a write to ISACTIVER: it doesn't come until a write to ICACTIVER ends that.
pub fn set_active(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for (name, intid) in scene.three() {
        scene.say(format_args!("{name}"));
        frames.set_up(0, intid, PRIORITY);
        frames.set(0, ISACTIVER, intid);
        scene.show("made active", intid);
        scene.pend(intid);
        scene.show("pended", intid);
        scene.say(format_args!("comes {}", scene.take()));
        frames.set(0, ICACTIVER, intid);
        scene.show("made inactive", intid);
        scene.drain_one("then", intid);
        // Taken, and ended by the register before the end of interrupt.
        scene.pend(intid);
        let taken = scene.take();
        frames.set(0, ICACTIVER, intid);
        scene.show("made inactive when taken", intid);
        icc::end(taken);
        scene.show("ended", intid);
    }
}
