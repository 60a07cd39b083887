//! The shell: a line is looked up and carried out, and answered.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::AxVM;
use axvm::claims::Claims;
use axvm::hal::AxVMHal;
use axvm::ownership::{Registry, Slot};
use axvm::report::VmReport;
use axvm::vm::{State, StopReason, WrongState};
use axvm_addr::VmId;
use axvm_plan::{DeviceId, Refusal, Thing, VmPlan};
use axvm_shell::{Answer, Command, Editor, Event, Kind, Names, Operand, Reason, Table, nearest};
use axvm_system::wire::{Channel, MAX_COMMAND};

use crate::{Machine, UNSETTLED, served};

/// What is said when it is opened.
const WELCOME: &str = "the hypervisor's shell: `help` says what can be typed; Ctrl-D or Ctrl-] s leaves\n";

/// What is to be done next, by whoever has the keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    Stay,
    /// That VM gets the focus.
    Focus(VmId),
    /// The run ends.
    End,
}

/// The shell.
#[derive(Default)]
pub(crate) struct Shell {
    editor: Editor,
    is_open: bool,
    /// What has come of a program's command.
    command: Vec<u8>,
}

impl Shell {
    /// Whether it has the keys.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Gives it the keys.
    pub fn open(&mut self, machine: &impl Machine) {
        self.is_open = true;
        machine.say(Channel::ShellFocus, &[]);
        self.editor.say(WELCOME);
        self.show(machine);
    }

    /// Takes them away. The line stays as it is.
    pub fn close(&mut self) {
        self.is_open = false;
    }

    /// Draws the line again if others have spoken in the middle of it, once they have ended their own.
    pub fn attend(&mut self, machine: &impl Machine) {
        if self.is_open && machine.take_disturbed(false) {
            self.editor.draw();
            self.show(machine);
        }
    }

    /// Takes a byte that was typed.
    pub fn byte(&mut self, byte: u8, machine: &impl Machine, focus: VmId) -> Then {
        if machine.take_disturbed(true) {
            self.editor.draw();
        }
        let then = match self.editor.push(byte, &On { machine, focus }) {
            Event::Typing => Then::Stay,
            Event::Leave => Then::Focus(focus),
            Event::Line(line) => {
                let (answer, then) = On { machine, focus }.answer(&line);
                if let Some(answer) = answer {
                    self.editor.say(&answer.text());
                }
                then
            }
        };
        self.show(machine);
        then
    }

    fn show(&mut self, machine: &impl Machine) {
        let bytes = self.editor.shown();
        if !bytes.is_empty() {
            machine.say(Channel::Shell, &bytes);
        }
    }

    /// Takes a byte of a program's command.
    pub fn command_byte(&mut self, byte: u8) {
        // One more than it may have is enough to see that it has more.
        if self.command.len() <= MAX_COMMAND {
            self.command.push(byte);
        }
    }

    /// Carries a program's command out.
    pub fn command_end(&mut self, machine: &impl Machine, focus: VmId) -> Then {
        let command = core::mem::take(&mut self.command);
        let (answer, then) = match str::from_utf8(&command) {
            Ok(line) if line.len() <= MAX_COMMAND => On { machine, focus }.answer(line),
            _ => (Some(Answer::error(Reason::BadCommand, "it is too long, or no text")), Then::Stay),
        };
        let answer = answer.unwrap_or_else(|| Answer::error(Reason::BadCommand, "the line is empty"));
        machine.say(Channel::Answer, &postcard::to_allocvec(&answer).unwrap_or_default());
        machine.say(Channel::AnswerEnd, &[]);
        then
    }
}

/// A command's lookups.
struct On<'a, M> {
    machine: &'a M,
    focus: VmId,
}

impl<M: Machine> Names for On<'_, M> {
    fn each(&self, kind: Operand, each: &mut dyn FnMut(&str)) {
        for plan in self.machine.plans() {
            match kind {
                Operand::Vm => each(&plan.name),
                Operand::Device => plan.devices.iter().for_each(|device| each(&device.name)),
            }
        }
    }
}

/// A VM as a command finds it.
enum Found<'a, H: AxVMHal> {
    There(&'a AxVM<H>),
    Gone(&'a Arc<VmPlan>),
}

impl<'a, M: Machine> On<'a, M> {
    /// What comes of a line. No answer: it is empty.
    fn answer(&self, line: &str) -> (Option<Answer>, Then) {
        let mut then = Then::Stay;
        let answer = match Command::parse(line) {
            Ok(None) => return (None, then),
            Err(mistake) => Answer::error(Reason::BadCommand, mistake),
            Ok(Some(command)) => self.run(command, &mut then).unwrap_or_else(|error| error),
        };
        (Some(answer), then)
    }

    fn run(&self, command: Command<'_>, then: &mut Then) -> Result<Answer, Answer> {
        Ok(match command {
            Command::Help => Answer::help(),
            Command::Vms => Answer::Table(self.vms()),
            Command::Devices => self.devices()?,
            Command::Events => Answer::Table(self.events()),
            Command::Exits(name) => {
                let only = name.map(|name| self.plan(name)).transpose()?;
                Answer::Table(self.exits(only.map(Arc::as_ref)))
            }
            Command::Plan => {
                // One that is there need not have all that the file names for it.
                let there = |full: &'a Arc<VmPlan>| self.machine.vm(full.id).map_or(&**full, |vm| vm.plan());
                Answer::Table(plan(self.machine, self.machine.plans().iter().map(there)))
            }
            Command::Start(name) => match self.vm(name)? {
                Found::There(vm) if vm.state() == State::Built => {
                    self.machine.held(vm.id()).into_iter().for_each(|vm| self.machine.start(vm));
                    Answer::Done(format!("vm \"{name}\" is started"))
                }
                Found::There(vm) if vm.is_stopping() => return Err(wrong(name, "is stopping: ask again")),
                Found::There(_) => return Err(wrong(name, "has been started")),
                Found::Gone(plan) => {
                    self.machine.revive(plan).map_err(|why| Answer::error(Reason::WrongState, why))?;
                    Answer::Done(format!("vm \"{name}\" is starting"))
                }
            },
            Command::Shutdown(name) => {
                let vm = self.live(name)?;
                if vm.is_stopping() {
                    return Err(not_now(name, vm.state()));
                }
                if !self.machine.press_power_button(vm) {
                    return Err(wrong(name, "has no guest that hears a power button: stop it"));
                }
                Answer::Done(format!("vm \"{name}\" is asked to end"))
            }
            Command::Stop(name) => {
                self.stop(name, StopReason::Stopped)?;
                Answer::Done(format!("vm \"{name}\" is stopping"))
            }
            Command::Restart(name) => {
                self.stop(name, StopReason::Restarted)?;
                Answer::Done(format!("vm \"{name}\" is stopping, and starts again"))
            }
            Command::Focus(name) => {
                *then = Then::Focus(self.plan(name)?.id);
                Answer::Done(format!("vm \"{name}\" has the focus"))
            }
            Command::Off => {
                *then = Then::End;
                Answer::Done("the run ends".to_string())
            }
            Command::Suspend(name) => {
                served::suspend(self.live(name)?).map_err(|WrongState(state)| not_now(name, state))?;
                Answer::Done(format!("vm \"{name}\" is being suspended"))
            }
            Command::Resume(name) => {
                served::resume(self.live(name)?).map_err(|WrongState(state)| not_now(name, state))?;
                Answer::Done(format!("vm \"{name}\" goes on"))
            }
            Command::Assign { device, vm } => {
                let id = self.device(device, Some(self.plan(vm)?))?;
                let to = self.plan(vm)?.id;
                let moved = self.machine.with_claims(|claims| claims.assign(to, id));
                self.moved(moved, &format!("vm \"{vm}\"'s"))?
            }
            Command::Release(device) => {
                let id = self.device(device, None)?;
                let moved = self.machine.with_claims(|claims| claims.release(id));
                self.moved(moved, "no VM's")?
            }
        })
    }

    /// Stops a VM that runs.
    fn stop(&self, name: &str, reason: StopReason) -> Result<(), Answer> {
        let vm = self.live(name)?;
        if vm.stop(reason) { Ok(()) } else { Err(not_now(name, vm.state())) }
    }

    /// A VM that has been started.
    fn live(&self, name: &str) -> Result<&'a AxVM<M::Hal>, Answer> {
        match self.vm(name)? {
            Found::There(vm) if vm.state() == State::Built => Err(not_now(name, State::Built)),
            Found::There(vm) => Ok(vm),
            Found::Gone(plan) if self.machine.is_unsettled(plan.id) => Err(wrong(name, UNSETTLED)),
            Found::Gone(plan) if self.has_run(plan) => Err(wrong(name, "has stopped")),
            Found::Gone(_) => Err(not_now(name, State::Built)),
        }
    }

    fn plan(&self, name: &str) -> Result<&'a Arc<VmPlan>, Answer> {
        let plans = || self.machine.plans().iter();
        plans()
            .find(|plan| plan.name == name)
            .ok_or_else(|| unknown("VM", name, plans().map(|plan| plan.name.as_str())))
    }

    fn vm(&self, name: &str) -> Result<Found<'a, M::Hal>, Answer> {
        let plan = self.plan(name)?;
        Ok(self.machine.vm(plan.id).map_or(Found::Gone(plan), Found::There))
    }

    /// A device by its name: that VM's of the name, if it has one, else any VM's.
    fn device(&self, name: &str, first: Option<&Arc<VmPlan>>) -> Result<DeviceId, Answer> {
        let all = || first.into_iter().chain(self.machine.plans()).flat_map(|plan| &plan.devices);
        let mut called_so = all().filter(|device| device.name == name).map(|device| &device.id);
        let Some(id) = called_so.next() else {
            return Err(unknown("device of a VM's", name, all().map(|device| device.name.as_str())));
        };
        // Regions that the platform doesn't know are called as each VM calls them.
        if first.is_none() && called_so.any(|other| other != id) {
            return Err(Answer::error(
                Reason::Unknown,
                format_args!("\"{name}\" is the name of several devices"),
            ));
        }
        Ok(id.clone())
    }

    /// What is said of devices that are somebody's from now on, or why they aren't.
    fn moved(&self, moved: Result<Vec<DeviceId>, Refusal>, whose: &str) -> Result<Answer, Answer> {
        match moved {
            Ok(devices) => {
                let devices: Vec<String> =
                    devices.into_iter().map(|id| Thing::Device(id).to_string()).collect();
                let is = if devices.len() == 1 { "is" } else { "are" };
                Ok(Answer::Done(format!("{} {is} {whose}", devices.join(", "))))
            }
            // It has stopped, or is about to, and has it until it is taken apart.
            Err(Refusal::NotTold(vm, _)) if self.machine.vm(vm).is_none_or(|it| it.is_stopping()) => Err(
                wrong(self.machine.plans().get(usize::from(vm.0)).map_or("", |plan| &plan.name), UNSETTLED),
            ),
            Err(refusal) => Err(Answer::error(Reason::WrongState, refusal.say(self.machine.plans()))),
        }
    }

    /// Whether a VM that isn't there was.
    fn has_run(&self, plan: &VmPlan) -> bool {
        self.machine.ends().get(plan.id).is_some()
    }

    /// What there is to be reported of a VM.
    fn report(&self, plan: &VmPlan) -> Option<VmReport> {
        self.machine.vm(plan.id).map(served::report).or_else(|| self.machine.ends().get(plan.id).cloned())
    }

    fn vms(&self) -> Table {
        let mut table = Table::new(Kind::Vms);
        for plan in self.machine.plans() {
            let report = self.report(plan).unwrap_or_else(|| VmReport::not_built(plan));
            let (state, reason) = (report.state, report.reason);
            let cpus: Vec<String> = plan.cpus.iter().map(|vcpu| vcpu.cpu.to_string()).collect();
            let memory: u64 = plan.ram.iter().map(|piece| piece.gpa.size()).sum();
            let focus = if plan.id == self.focus { "yes" } else { "" };
            let (cpus, memory) = (cpus.join(","), memory.to_string());
            table.row(&[&plan.name, &state, &reason, &cpus, &memory, plan.mode.name(), focus]);
        }
        table
    }

    fn events(&self) -> Table {
        let mut table = Table::new(Kind::Events);
        for it in self.machine.events() {
            let (time, count) = (it.time_ns.to_string(), it.count.to_string());
            table.row(&[&time, &it.vm, &it.device, &it.kind, &it.address, &it.action, &count]);
        }
        table
    }

    fn exits(&self, only: Option<&VmPlan>) -> Table {
        let mut table = Table::new(Kind::Exits);
        for plan in self.machine.plans().iter().filter(|plan| only.is_none_or(|only| only.id == plan.id)) {
            let Some(report) = self.report(plan) else { continue };
            table.row(&[&plan.name, "total", &report.exits.total.to_string()]);
            for (reason, count) in report.exits.by_reason.by_name() {
                if count > 0 {
                    table.row(&[&plan.name, reason, &count.to_string()]);
                }
            }
        }
        table
    }

    fn devices(&self) -> Result<Answer, Answer> {
        let table = self
            .machine
            .with_claims(|claims| self.machine.with_registry(|registry| self.owners(claims, registry)));
        let hands = || Answer::error(Reason::WrongState, "devices are changing hands: ask again");
        table.map(Answer::Table).ok_or_else(hands)
    }

    fn owners(&self, claims: &Claims, registry: &Registry) -> Table {
        let mut table = Table::new(Kind::Devices);
        for plan in self.machine.plans() {
            for (device, position) in plan.devices.iter().zip(0..) {
                let assignment = claims.running().assignment(&device.id);
                let state = match registry.slot(&device.id) {
                    Some(Slot::Assigned { vm, .. }) if *vm != plan.id => "taken",
                    Some(Slot::Failed { .. }) => "failed",
                    slot if !matches!(slot, Some(Slot::Assigned { .. })) && assignment.is_some() => {
                        if assignment.is_some_and(|it| it.vm == Some(plan.id)) {
                            "kept"
                        } else {
                            "released"
                        }
                    }
                    Some(Slot::Assigned { .. }) if self.machine.is_quarantined(plan.id, position) => {
                        "quarantined"
                    }
                    Some(Slot::Assigned { .. }) => "assigned",
                    Some(Slot::Quarantined { .. }) => "quarantined",
                    Some(Slot::Host { .. }) | None => "host",
                };
                let group = device.group.map_or_else(String::new, |group| group.to_string());
                let reset = axvm_plan::reset_name(device.reset);
                table.row(&[&device.name, &plan.name, state, &group, reset]);
            }
        }
        table
    }
}

fn unknown<'a>(what: &str, name: &str, names: impl Iterator<Item = &'a str>) -> Answer {
    let near =
        nearest(name, names).map_or_else(String::new, |name| format!("; the nearest one is \"{name}\""));
    Answer::error(Reason::Unknown, format_args!("there is no {what} \"{name}\"{near}"))
}

fn wrong(vm: &str, why: &str) -> Answer {
    Answer::error(Reason::WrongState, format_args!("vm \"{vm}\" {why}"))
}

/// Why a VM can't be brought into a state now.
fn not_now(vm: &str, state: State) -> Answer {
    wrong(
        vm,
        match state {
            State::Built => "hasn't been started",
            State::Running => "isn't suspended",
            State::Suspending { .. } => "is being suspended: ask again",
            State::Suspended => "is suspended already",
            State::Stopping { .. } | State::Stopped { .. } => "is stopping already",
        },
    )
}

/// What the VMs were given.
fn plan<'a>(machine: &impl Machine, plans: impl Iterator<Item = &'a VmPlan>) -> Table {
    let mut table = Table::new(Kind::Plan);
    for plan in plans {
        let mut part = |kind: &str, guest: &str, machine: &str, size: u64, device: &str| {
            let size = if size == 0 { String::new() } else { size.to_string() };
            table.row(&[&plan.name, kind, guest, machine, &size, device]);
        };
        let device =
            |position: u16| plan.devices.get(usize::from(position)).map_or("", |it| it.name.as_str());
        for (id, vcpu) in plan.cpus.iter().enumerate() {
            part("cpu", &id.to_string(), &vcpu.cpu.to_string(), 0, "");
        }
        for it in &plan.ram {
            part("ram", &hexadecimal(it.gpa.start().0), &machine.place(it.hpa), it.gpa.size(), "");
        }
        for it in &plan.devices {
            if let (Some(pci), Some(shown)) = (it.pci, it.shown) {
                part("function", &shown.to_string(), &pci.to_string(), 0, "");
            }
        }
        for it in &plan.registers {
            let kind = if it.direct { "registers" } else { "trapped" };
            let (guest, machine) = (hexadecimal(it.gpa.start().0), hexadecimal(it.hpa.0));
            part(kind, &guest, &machine, it.gpa.size(), device(it.device));
        }
        for it in &plan.lines {
            let irq = it.irq.to_string();
            part("line", &irq, &irq, 0, device(it.device));
        }
    }
    table
}

fn hexadecimal(address: u64) -> String {
    format!("{address:#x}")
}
