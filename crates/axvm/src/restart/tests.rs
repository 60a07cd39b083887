//! Which ends a start follows.

use axvm_plan::{fixtures, plan};
use axvm_system::model::AfterEnd::{Restart, Stop};

use alloc::vec::Vec;

use super::*;

fn planned(on_reset: AfterEnd, on_crash: AfterEnd) -> VmPlan {
    let plan = plan(&fixtures::demo(), &fixtures::board(), &fixtures::images(1)).unwrap();
    VmPlan { on_reset, on_crash, ..plan.vms[0].clone() }
}

#[test]
fn a_reset_and_a_crash_are_followed_by_what_the_file_says_and_an_end_by_nothing() {
    for (on_reset, on_crash) in [(Stop, Stop), (Restart, Stop), (Stop, Restart), (Restart, Restart)] {
        let plan = planned(on_reset, on_crash);
        for &reason in StopReason::ALL {
            let again = match reason {
                StopReason::SystemOff | StopReason::Stopped | StopReason::RunEnded => false,
                StopReason::Restarted => true,
                StopReason::SystemReset => on_reset == Restart,
                StopReason::Watchdog => false,
                _ => on_crash == Restart,
            };
            let expected = if again { Afterwards::Again } else { Afterwards::Stays };
            assert_eq!(Restarts::default().after(reason, &plan, 0), expected, "{reason:?}");
        }
    }
}

#[test]
fn an_expired_watchdog_is_followed_by_what_the_file_says_at_a_bounded_rate() {
    let page = axvm_addr::Span::default();
    for then in [Stop, Restart] {
        let watchdog = axvm_plan::WatchdogPlan { control: page, refresh: page, irq: None, then };
        let plan = VmPlan { watchdog: Some(watchdog), ..planned(Stop, Stop) };
        let mut restarts = Restarts::default();
        let ends: Vec<_> =
            (0..=MOST_CRASHES).map(|_| restarts.after(StopReason::Watchdog, &plan, 0)).collect();
        let expected =
            if then == Restart { [Afterwards::Again, Afterwards::TooOften] } else { [Afterwards::Stays; 2] };
        assert_eq!([ends[0], ends[MOST_CRASHES as usize]], expected);
    }
}

#[test]
fn one_that_crashes_over_and_over_stays_stopped_and_one_that_resets_itself_goes_on() {
    let plan = planned(Restart, Restart);
    let mut restarts = Restarts::default();
    for second in 0..u64::from(MOST_CRASHES) {
        assert_eq!(restarts.after(StopReason::CpusOff, &plan, second), Afterwards::Again);
    }
    assert_eq!(restarts.after(StopReason::GuestFault, &plan, WINDOW_NS - 1), Afterwards::TooOften);
    for _ in 0..100 {
        assert_eq!(restarts.after(StopReason::SystemReset, &plan, WINDOW_NS - 1), Afterwards::Again);
    }
    assert_eq!(restarts.after(StopReason::GuestFault, &plan, WINDOW_NS), Afterwards::Again, "later it may");
}
