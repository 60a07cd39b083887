//! Waiting with a deadline (FEAT_WFxT): a CPU that waits for an interrupt that doesn't come goes on at the deadline, or earlier, and
//! not when something else happens.

use axvm_guest_runtime::machine;

use super::Scene;

/// A millisecond is waited for; the timer ends what would be waited for in vain.
pub fn deadline(scene: &Scene<'_>) {
    if !machine::has_deadlines() {
        return scene.say(format_args!("there are none"));
    }
    let (frames, second) = (&scene.frames, machine::frequency());
    let (wait, end) = (second / 1000, second * 2);
    frames.set_up(0, frames.timer, 0xa0);
    type Way = (&'static str, fn(u64));
    let ways: [Way; 2] =
        [("an interrupt", machine::wait_for_interrupt_until), ("an event", machine::wait_for_event_until)];
    for (what, until) in ways {
        machine::start_timer(end);
        let start = machine::now();
        let mut times = 0;
        // It may be left early, over and over.
        while machine::now() - start < wait && times < 1_000_000 {
            until(start + wait);
            times += 1;
        }
        let took = machine::now() - start;
        scene.say(format_args!("for {what}: {}, before the timer: {}", took >= wait, took < end / 2));
        let start = machine::now();
        until(start);
        scene.say(format_args!("for {what}, over already: {}", machine::now() - start < end / 2));
        machine::stop_timer();
    }
}
