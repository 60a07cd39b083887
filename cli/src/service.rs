//! What a service manager that has started the tool hears of it (sd_notify(3)): that the VMs have started, and from then on that whatever runs them is alive.
//!
//! Both are answers of that itself: it is asked for the shell's `vms`, as a program at the run's socket may ask. Where it doesn't answer, nothing is said, and
//! the service manager's watchdog does what its unit says.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use axvm_system::wire;
use sd_notify::NotifyState;

use crate::control::Request;

/// What is asked, since it changes nothing.
const QUESTION: &str = "vms";

/// How often is asked where nobody expects to hear more than that it has started.
const AT_FIRST: Duration = Duration::from_millis(500);

/// Tells the service manager, if one has started this process. `pass_on` hands a request on, and says whether somebody takes requests still.
pub fn tell(pass_on: impl Fn(Request) -> bool + Send + 'static) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled();
    thread::spawn(move || ask(watchdog, &pass_on, &say));
}

/// The run ends.
pub fn tell_end() {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        say(&NotifyState::Stopping);
    }
}

fn say(state: &NotifyState<'_>) {
    // Who doesn't hear it acts as if it hadn't been said.
    let _ = sd_notify::notify(std::slice::from_ref(state));
}

/// Asks until nobody takes requests any more. `watchdog`: so often at least something must be heard.
fn ask(watchdog: Option<Duration>, pass_on: &impl Fn(Request) -> bool, say: &impl Fn(&NotifyState<'_>)) {
    let Some(bytes) = wire::command(QUESTION) else { return };
    let pause = watchdog.map_or(AT_FIRST, |most| most / 3);
    let mut ready = false;
    loop {
        let (answer, answered) = mpsc::sync_channel(1);
        if !pass_on(Request { bytes: bytes.clone(), answer }) {
            return;
        }
        // As long as it takes: who doesn't answer isn't asked again.
        if answered.recv().is_err() {
            return;
        }
        if !std::mem::replace(&mut ready, true) {
            say(&NotifyState::Ready);
        }
        if watchdog.is_none() {
            return;
        }
        say(&NotifyState::Watchdog);
        thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, NotifyState, Request, ask};
    use std::cell::RefCell;

    /// What is said where so many questions are answered, and no more are taken.
    fn said(watchdog: Option<Duration>, answers: usize) -> Vec<String> {
        let (left, said) = (RefCell::new(answers), RefCell::new(Vec::new()));
        let pass_on = |request: Request| {
            assert!(String::from_utf8_lossy(&request.bytes).contains("vms"));
            let answers = *left.borrow() > 0;
            if answers {
                *left.borrow_mut() -= 1;
                request.answer.send("{}\n".into()).unwrap();
            }
            answers
        };
        ask(watchdog, &pass_on, &|state: &NotifyState<'_>| said.borrow_mut().push(state.to_string()));
        said.into_inner()
    }

    #[test]
    fn it_is_ready_when_it_answers_and_alive_as_often_as_it_does() {
        let often = Some(Duration::from_millis(3));
        assert_eq!(said(often, 3), ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
        assert_eq!(said(None, 3), ["READY=1"]);
    }

    #[test]
    fn of_what_does_not_answer_nothing_is_said() {
        assert!(said(Some(Duration::from_millis(3)), 0).is_empty());
        // A question that is dropped: the run has ended.
        let said = RefCell::new(Vec::new());
        let drops = |request: Request| {
            drop(request);
            true
        };
        ask(None, &drops, &|state: &NotifyState<'_>| said.borrow_mut().push(state.to_string()));
        assert!(said.into_inner().is_empty());
    }
}
