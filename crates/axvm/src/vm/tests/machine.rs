//! A small VM runs to its end on each host: its vCPUs are threads, the test is the hypervisor's CPU.

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::events::Kind;
use crate::restart::{Afterwards, Restarts};
use crate::vcpu::{Answer, PowerAnswer, PowerRequest};
use script::Step;

const VALUE: fn(u64) -> Answer = Answer::Value;
const TAKEN: Answer = Answer::Value(0);
const SECOND: u64 = RAM + 0x1000;
const UNLISTED: u64 = 0x0666_0000;
const START_SECOND: PowerRequest =
    PowerRequest::CpuOn { target: 1, start: Start { entry: SECOND, argument: 0x5ec } };

/// Runs every vCPU on a thread of its own until the VM has stopped, and meanwhile does what else there is.
fn run<H: Fake>(vm: &AxVM<H>, meanwhile: impl FnOnce()) {
    thread::scope(|scope| {
        for (vcpu, _) in vm.vcpus() {
            scope.spawn(move || {
                loop {
                    match vm.run_vcpu(vcpu) {
                        Ok(Turn::NotStarted) if vm.is_stopping() => break,
                        Ok(Turn::NotStarted) => vm.hal().lab().bells.wait(vcpu),
                        Ok(Turn::Over) => {}
                        Err(error) => vm.hal().lab().complaints.borrow_mut().push(error.to_string()),
                    }
                }
                vm.vcpu_gone(vcpu);
            });
        }
        let _ends = Ends(vm);
        meanwhile();
    });
}

/// A test that fails ends its VM: nobody waits for its threads.
struct Ends<'a, H: Fake>(&'a AxVM<H>);

impl<H: Fake> Drop for Ends<'_, H> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.hal().lab().stuck.set(false);
            self.0.stop(StopReason::RunEnded);
        }
    }
}

/// Waits until something is so. If it never is the VM is stopped, so that the test ends and says why.
fn until<H: Fake>(vm: &AxVM<H>, what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        if Instant::now() > end {
            vm.stop(StopReason::RunEnded);
            panic!("{}: {what} never comes: {:?}", H::NAME, vm.hal().lab().complaints.borrow());
        }
        thread::yield_now();
    }
}

fn say(text: &str) -> impl Iterator<Item = Step> {
    text.bytes().map(|byte| Step::Store(CONSOLE, byte.into(), TAKEN))
}

/// What the first vCPU does.
fn first() -> Vec<Step> {
    let mut program: Vec<Step> = say("hi").collect();
    program.extend([
        // Registers: emulated, trapped and forwarded, mapped, not there, not listed.
        Step::Load(CONSOLE + 8, VALUE(0xf08)),
        Step::Load(TRAPPED + 4, VALUE(0xc10c_0004)),
        Step::Store(TRAPPED + 8, 0x77, TAKEN),
        Step::StoreTwo(TRAPPED + 0x10, [1, 2]),
        Step::Load(TRAPPED + 0xffc, VALUE(0xffff_ffff)),
        Step::Load(CLOCK, VALUE(0x600d)),
        Step::Load(UNLISTED, Answer::Nobody),
        Step::Store(UNLISTED, 1, Answer::Nobody),
        Step::Fetch(UNLISTED),
        // What there isn't.
        Step::Unknown,
        Step::Register(1, Answer::Nobody),
        Step::PortIn(CLOCK_PORT + 4, Answer::Nobody),
        Step::PortOut(CLOCK_PORT - 1, 7, Answer::Nobody),
        // Ports: emulated, and forwarded to where they are in the machine, also by a string instruction.
        Step::PortOut(CONSOLE_PORT, b'p', TAKEN),
        Step::PortIn(CLOCK_PORT + 3, VALUE(0x73)),
        Step::PortOutTwo(CLOCK_PORT + 1, [8, 9]),
        // A vector of the disk's.
        Step::Store(BAR + 16, MSI_ADDRESS, TAKEN),
        Step::Store(BAR + 24, 2, TAKEN),
        Step::Store(BAR + 28, 0, TAKEN),
        // The other vCPU.
        Step::Power(PowerRequest::CpuState { target: 1 }, &[Answer::Power(PowerAnswer::State(Power::Off))]),
        Step::Power(
            PowerRequest::CpuOn { target: 9, start: Start { entry: SECOND, argument: 0 } },
            &[Answer::Power(PowerAnswer::NoSuchCpu)],
        ),
        Step::Power(
            PowerRequest::CpuOn { target: 1, start: Start { entry: CLOCK, argument: 0 } },
            &[Answer::Power(PowerAnswer::NotMemory)],
        ),
        Step::Power(START_SECOND, &[Answer::Power(PowerAnswer::Done)]),
        Step::Power(
            START_SECOND,
            &[Answer::Power(PowerAnswer::IsOn), Answer::Power(PowerAnswer::IsStarting)],
        ),
        // It has greeted.
        Step::Await(TIMER),
        Step::Store(CONSOLE, b'!'.into(), TAKEN),
        Step::Await(CONSOLE_IRQ),
        Step::Store(CONSOLE + 4, 1, TAKEN),
        Step::Await(Irq(34)),
        Step::Await(Irq(FIRST_MESSAGE + 2)),
        Step::Ipi(1),
        Step::Await(TIMER),
        Step::Power(PowerRequest::SystemOff, &[]),
    ]);
    program
}

/// What the second does.
fn second() -> Vec<Step> {
    let mut program = vec![Step::Argument(0x5ec)];
    program.extend(say("2"));
    program.extend([Step::Ipi(0), Step::Await(TIMER), Step::Ipi(0)]);
    // And it is off.
    program
}

fn a_small_vm_runs_to_its_end<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    let lab = hal.lab();
    lab.programs.borrow_mut().extend([(RAM, first()), (SECOND, second())]);
    lab.memory.borrow_mut().insert(CLOCK, 0x600d);
    hal.offer_table(&vm);
    vm.start().unwrap();
    run(&vm, || {
        until(&vm, "its greeting", || lab.console.borrow().ends_with('!'));
        vm.set_irq_level(CONSOLE_IRQ, true).unwrap();
        vm.inject(VcpuId(0), Irq(34)).unwrap();
        hal.fire(&vm, 1).unwrap();
    });
    assert_eq!(*lab.complaints.borrow(), Vec::<String>::new(), "{}", H::NAME);
    assert_eq!(vm.state(), State::Stopped { reason: StopReason::SystemOff });
    assert_eq!(*lab.console.borrow(), "hip2!");
    assert_eq!(*lab.forwarded.borrow(), [(8, 0x77), (0x10, 1), (0x14, 2)]);
    let port = CLOCK_PORT + 0x1001;
    assert_eq!(*lab.forwarded_ports.borrow(), [(port, 8), (port, 9)]);

    let report = vm.report();
    let by = &report.exits.by_reason;
    // Where each vector has to be known the table is emulated.
    let table = if hal.told_messages() > 0 { 3 } else { 0 };
    assert_eq!(by.mmio_emulated, 6 + table, "{}: {by:?}", H::NAME);
    assert_eq!((by.mmio_forwarded, by.stage2_fault), (4, 3), "{}: {by:?}", H::NAME);
    assert_eq!((by.sysreg, by.port), (1, 5), "{}: {by:?}", H::NAME);
    // The second one's way off may come when the first has switched all off.
    assert!(matches!(by.hypercall, 7 | 8), "{}: {by:?}", H::NAME);
    assert_eq!(by.sgi, 3);
    assert_eq!((report.refused.hypercall, report.refused.sysreg, report.refused.port), (1, 1, 2));
    assert_eq!(report.devices[1].exits.registers, 8, "each access to them");
    let tried: Vec<_> = lab.violations.borrow().iter().map(|it| (it.kind, it.device, it.address)).collect();
    let of_cpu = |kind| (kind, None, Some(UNLISTED));
    assert_eq!(
        tried,
        [
            (Kind::RegisterAbort, Some(1), Some(TRAPPED + 0xffc)),
            of_cpu(Kind::CpuRead),
            of_cpu(Kind::CpuWrite),
            of_cpu(Kind::CpuExecute)
        ]
    );
    let left = vm.dispose(&registry).unwrap();
    assert!(left.stuck.is_empty() && !left.ram_withheld);
    is_clean(&*hal);
    assert!(registry.registry.borrow().iter().all(|(_, slot)| matches!(slot, Slot::Quarantined { .. })));
    assert_eq!(hal.ram_out(), 0);
}

fn a_guest_that_resets_itself_starts_again_from_the_same_plan<H: Fake>() {
    const TIMES: usize = 3;
    let (mut vm, hal, registry) = created::<H>();
    let mut restarts = Restarts::default();
    let mut report: Option<VmReport> = None;
    let mut program: Vec<Step> = say("r").collect();
    program.push(Step::Power(PowerRequest::SystemReset, &[]));
    hal.lab().programs.borrow_mut().insert(RAM, program);
    for start in 1.. {
        vm.start().unwrap();
        run(&vm, || {});
        let State::Stopped { reason } = vm.state() else { panic!("{}: it has stopped", H::NAME) };
        let now = vm.report();
        report = Some(report.take().map_or(now.clone(), |before| before.followed_by(now)));
        let left = vm.dispose(&registry).unwrap();
        is_clean(&*hal);
        if restarts.after(reason, &left.plan, 0) == Afterwards::Stays {
            break;
        }
        vm = AxVM::new(left.plan, hal.clone(), &registry).unwrap();
        assert_eq!((vm.state(), vm.report().starts.len()), (State::Built, 0));
        if start == TIMES {
            let off = vec![Step::Power(PowerRequest::SystemOff, &[])];
            hal.lab().programs.borrow_mut().insert(RAM, off);
        }
    }
    let report = report.unwrap();
    let reasons: Vec<&str> = report.starts.iter().map(|start| start.reason.as_str()).collect();
    assert_eq!(reasons, ["system-reset", "system-reset", "system-reset", "system-off"], "{}", H::NAME);
    assert_eq!((report.reason.as_str(), report.exits.by_reason.mmio_emulated), ("system-off", 3));
    assert_eq!(*hal.lab().console.borrow(), "rrr");
}

fn a_guest_that_never_leaves_is_stopped<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    hal.lab().programs.borrow_mut().insert(RAM, vec![Step::Spin]);
    // Where a guest can keep calls out it does: without its memory it leaves all the same.
    hal.lab().bells.deaf.set(!hal.comes_when_called());
    vm.start().unwrap();
    run(&vm, || {
        until(&vm, "its start", || !hal.lab().resident.borrow().is_empty());
        vm.stop(StopReason::RunEnded);
    });
    assert_eq!(vm.state(), State::Stopped { reason: StopReason::RunEnded });
    assert!(hal.lab().violations.borrow().is_empty(), "{}: what it left for is no fault of its own", H::NAME);
    vm.dispose(&registry).unwrap();
    is_clean(&*hal);
}

fn a_guest_that_sleeps_is_stopped<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    hal.lab().programs.borrow_mut().insert(RAM, vec![Step::Await(Irq(34))]);
    vm.start().unwrap();
    run(&vm, || {
        until(&vm, "its start", || !hal.lab().resident.borrow().is_empty());
        vm.stop(StopReason::Violation);
    });
    assert_eq!(vm.state(), State::Stopped { reason: StopReason::Violation });
    vm.dispose(&registry).unwrap();
    is_clean(&*hal);
}

fn who_asks_why_a_vm_was_stopped_hears_where_its_vcpus_were<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    let first = vec![Step::Power(START_SECOND, &[Answer::Power(PowerAnswer::Done)]), Step::Spin];
    let second = vec![Step::Await(Irq(34))];
    hal.lab().programs.borrow_mut().extend([(RAM, first), (SECOND, second)]);
    vm.start().unwrap();
    assert_eq!(vm.whereabouts(VcpuId(0)), None);
    run(&vm, || {
        until(&vm, "its sleep", || vm.exits(VcpuId(1)).is_some_and(|exits| exits.read().wfi > 0));
        vm.stop(StopReason::Watchdog);
    });
    assert_eq!(vm.whereabouts(VcpuId(0)), Some(Whereabouts::Executing { pc: RAM + 4 }), "{}", H::NAME);
    let waits = Whereabouts::Waiting { pc: SECOND, deadline: None };
    assert_eq!(vm.whereabouts(VcpuId(1)), Some(waits), "{}", H::NAME);
    let report = vm.report();
    assert_eq!((&*report.state, &*report.reason), ("stopped", "watchdog"));
    vm.dispose(&registry).unwrap();
}

fn a_machine_that_sleeps_goes_on_where_it_said_when_its_interrupt_comes<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    let lab = hal.lab();
    let suspend = |entry| PowerRequest::SystemSuspend { start: Start { entry, argument: 0xa9a } };
    const REFUSED: &[&[Answer]] =
        &[&[Answer::Power(PowerAnswer::NotMemory)], &[Answer::Power(PowerAnswer::OthersOn)]];
    let mut first: Vec<Step> = vec![
        Step::Power(suspend(CLOCK), REFUSED[0]),
        Step::Power(START_SECOND, &[Answer::Power(PowerAnswer::Done)]),
        Step::Power(suspend(SECOND + 0x1000), REFUSED[1]),
        Step::Ipi(1),
        Step::Await(Irq(34)),
        Step::Power(suspend(SECOND + 0x1000), &[]),
    ];
    first.extend(say("never"));
    let mut woken = vec![Step::Argument(0xa9a)];
    woken.extend(say("w"));
    // What has woken it is still there.
    woken.extend([Step::Await(Irq(34)), Step::Power(PowerRequest::SystemOff, &[])]);
    let mut second = vec![Step::Await(TIMER)];
    second.extend(say("o"));
    lab.programs.borrow_mut().extend([(RAM, first), (SECOND, second), (SECOND + 0x1000, woken)]);
    let mut asleep = std::string::String::new();
    vm.start().unwrap();
    run(&vm, || {
        let is_off = || vm.power(VcpuId(1)) == Power::Off && !lab.console.borrow().is_empty();
        until(&vm, "the second's way off", is_off);
        vm.inject(VcpuId(0), Irq(34)).unwrap();
        until(&vm, "its sleep", || vm.exits(VcpuId(0)).is_some_and(|exits| exits.read().hypercall == 4));
        thread::sleep(Duration::from_millis(50));
        asleep.push_str(&lab.console.borrow());
        vm.inject(VcpuId(0), Irq(34)).unwrap();
    });
    assert_eq!(*lab.complaints.borrow(), Vec::<String>::new(), "{}", H::NAME);
    assert_eq!(vm.state(), State::Stopped { reason: StopReason::SystemOff });
    assert_eq!((asleep.as_str(), lab.console.borrow().as_str()), ("o", "ow"), "{}", H::NAME);
    vm.dispose(&registry).unwrap();
    is_clean(&*hal);
}

/// Suspends it, and waits until it is.
fn suspend<H: Fake>(vm: &AxVM<H>) {
    vm.suspend().unwrap();
    until(vm, "its suspension", || vm.suspension(u64::MAX) == Suspension::Complete);
    assert_eq!((vm.state(), vm.suspend()), (State::Suspended, Err(WrongState(State::Suspended))));
}

/// How long is looked whether anything goes on.
const A_WHILE: Duration = Duration::from_millis(20);

/// A guest that works is suspended over and over: it does nothing meanwhile, and all of it in the end.
fn a_guest_is_suspended_at_its_work_and_does_all_of_it<H: Fake>() {
    const TIMES: usize = 30;
    let (vm, hal, registry) = created::<H>();
    let lab = hal.lab();
    // Memory, registers of each kind, an interrupt to the other vCPU and back.
    let round = |own: u64, last: [Step; 2]| {
        let work = [
            Step::Store(RAM + 8 * own, own, TAKEN),
            Step::Store(CONSOLE, u64::from(b'0') + own, TAKEN),
            Step::Load(TRAPPED + 4, VALUE(0xc10c_0004)),
            Step::StoreTwo(TRAPPED + 0x10, [1, 2]),
        ];
        work.into_iter().chain(last)
    };
    let mut first = vec![Step::Power(START_SECOND, &[Answer::Power(PowerAnswer::Done)])];
    first.extend((0..400).flat_map(|_| round(0, [Step::Ipi(1), Step::Await(TIMER)])));
    first.push(Step::Await(Irq(34)));
    first.push(Step::Power(PowerRequest::SystemOff, &[]));
    let second = (0..400).flat_map(|_| round(1, [Step::Await(TIMER), Step::Ipi(0)])).collect();
    lab.programs.borrow_mut().extend([(RAM, first), (SECOND, second)]);
    vm.start().unwrap();
    run(&vm, || {
        for _ in 0..TIMES {
            suspend(&vm);
            assert_eq!(hal.cpu_reaches(RAM), hal.comes_when_called(), "{}", H::NAME);
            assert!(hal.device_reaches(RAM), "{}: devices work on", H::NAME);
            let done = || (lab.console.borrow().len(), lab.forwarded.borrow().len(), vm.report().exits.total);
            let before = done();
            thread::sleep(A_WHILE / 10);
            assert_eq!(done(), before, "{}: it is suspended, and does something", H::NAME);
            vm.resume().unwrap();
            assert_eq!(vm.resume(), Err(WrongState(State::Running)));
            thread::yield_now();
        }
        vm.inject(VcpuId(0), Irq(34)).unwrap();
    });
    assert_eq!(*lab.complaints.borrow(), Vec::<String>::new(), "{}", H::NAME);
    assert!(lab.violations.borrow().is_empty(), "{}: {:?}", H::NAME, lab.violations.borrow());
    assert_eq!(vm.state(), State::Stopped { reason: StopReason::SystemOff });
    assert_eq!((lab.console.borrow().len(), lab.forwarded.borrow().len()), (800, 1600), "{}", H::NAME);
    vm.dispose(&registry).unwrap();
    is_clean(&*hal);
}

/// One that sleeps, in each way, sleeps on when it is resumed; what came meanwhile wakes it then, and not before.
fn a_guest_that_sleeps_is_suspended_and_woken_by_what_came_meanwhile<H: Fake>() {
    let suspend_machine = PowerRequest::SystemSuspend { start: Start { entry: SECOND, argument: 0x5ec } };
    let sleeps = [
        vec![Step::Await(Irq(34))],
        vec![Step::Power(PowerRequest::CpuSuspend, &[Answer::Power(PowerAnswer::Done)])],
        vec![Step::Power(suspend_machine, &[])],
    ];
    for sleep in sleeps {
        let (vm, hal, registry) = created::<H>();
        let lab = hal.lab();
        let mut woken: Vec<Step> = say("w").collect();
        woken.push(Step::Power(PowerRequest::SystemOff, &[]));
        let first: Vec<Step> = sleep.into_iter().chain(woken.clone()).collect();
        lab.programs.borrow_mut().extend([(RAM, first), (SECOND, woken)]);
        vm.start().unwrap();
        run(&vm, || {
            let exits = || vm.report().exits.by_reason;
            until(&vm, "its sleep", || exits().wfi + exits().hypercall > 0);
            suspend(&vm);
            vm.resume().unwrap();
            thread::sleep(A_WHILE);
            assert_eq!(*lab.console.borrow(), "", "{}: nothing has woken it", H::NAME);
            suspend(&vm);
            vm.inject(VcpuId(0), Irq(34)).unwrap();
            thread::sleep(A_WHILE);
            assert_eq!(*lab.console.borrow(), "", "{}: it is suspended", H::NAME);
            vm.resume().unwrap();
        });
        assert_eq!(*lab.complaints.borrow(), Vec::<String>::new(), "{}", H::NAME);
        assert_eq!(*lab.console.borrow(), "w", "{}", H::NAME);
        vm.dispose(&registry).unwrap();
        is_clean(&*hal);
    }
}

/// It is stopped, which takes no vCPU back into its guest, and starts again as others do.
fn a_suspended_vm_is_stopped<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    let first = vec![Step::Power(START_SECOND, &[Answer::Power(PowerAnswer::Done)]), Step::Spin];
    hal.lab().programs.borrow_mut().extend([(RAM, first), (SECOND, vec![Step::Await(Irq(34))])]);
    assert_eq!((vm.suspend(), vm.resume()), (Err(WrongState(State::Built)), Err(WrongState(State::Built))));
    vm.start().unwrap();
    run(&vm, || {
        until(&vm, "its sleep", || vm.exits(VcpuId(1)).is_some_and(|exits| exits.read().wfi > 0));
        suspend(&vm);
        assert_eq!((vm.report().state.as_str(), vm.report().reason.as_str()), ("suspended", ""));
        assert!(vm.stop(StopReason::Stopped));
        assert!(vm.resume().is_err() && vm.suspend().is_err());
    });
    assert_eq!(vm.state(), State::Stopped { reason: StopReason::Stopped });
    assert!(hal.lab().violations.borrow().is_empty(), "{}", H::NAME);
    let left = vm.dispose(&registry).unwrap();
    is_clean(&*hal);
    let again = AxVM::new(left.plan, hal.clone(), &registry).unwrap();
    assert!(again.start().is_ok() && hal.cpu_reaches(RAM));
}

/// Where a vCPU doesn't come its VM runs on, and what was taken away from it meanwhile is no fault of its own.
fn a_vm_whose_vcpu_does_not_come_runs_on<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    let lab = hal.lab();
    let first = vec![Step::Power(START_SECOND, &[Answer::Power(PowerAnswer::Done)]), Step::Spin];
    lab.programs.borrow_mut().extend([(RAM, first), (SECOND, vec![Step::Await(Irq(34))])]);
    vm.start().unwrap();
    run(&vm, || {
        until(&vm, "its sleep", || vm.exits(VcpuId(1)).is_some_and(|exits| exits.read().wfi > 0));
        // It stays where it is, whatever it is told.
        lab.stuck.set(true);
        until(&vm, "its being stuck", || lab.is_stuck.get());
        vm.suspend().unwrap();
        until(&vm, "the other", || vm.suspension(u64::MAX) == Suspension::Underway && lab.held.get() > 0);
        lab.clock.set(10);
        assert_eq!(vm.suspension(9), Suspension::Overdue(vec![VcpuId(0)]), "{}", H::NAME);
        assert_eq!((vm.state(), hal.cpu_reaches(RAM)), (State::Running, true), "{}", H::NAME);
        assert_eq!(vm.suspension(9), Suspension::NotAsked);
        lab.stuck.set(false);
        until(&vm, "its way back", || !vm.must_leave());
        suspend(&vm);
        vm.stop(StopReason::Stopped);
    });
    assert!(lab.violations.borrow().is_empty(), "{}: {:?}", H::NAME, lab.violations.borrow());
    vm.dispose(&registry).unwrap();
    is_clean(&*hal);
}

on_both_hosts! {
    a_guest_is_suspended_at_its_work_and_does_all_of_it,
    a_guest_that_sleeps_is_suspended_and_woken_by_what_came_meanwhile,
    a_suspended_vm_is_stopped,
    a_vm_whose_vcpu_does_not_come_runs_on,
    a_machine_that_sleeps_goes_on_where_it_said_when_its_interrupt_comes,
    a_small_vm_runs_to_its_end,
    a_guest_that_resets_itself_starts_again_from_the_same_plan,
    a_guest_that_never_leaves_is_stopped,
    a_guest_that_sleeps_is_stopped,
    who_asks_why_a_vm_was_stopped_hears_where_its_vcpus_were,
}
