//! Where a VM sees the devices that are emulated for it whatever it is given: its console, and its watchdog if it has one.

use alloc::vec::Vec;

use axvm_addr::{Address, Gpa, Irq, PAGE_SIZE, Span};
use axvm_guest::Place;
use axvm_platform::limits::GuestMachine;
use axvm_system::model::Vm;

use super::board::Board;
use super::findings::{Findings, VmRef};
use super::hardware::{Given, Kind};
use super::layout::Claim;
use super::machine::Mode;
use super::model::{ConsolePlan, WatchdogPlan};
use crate::problem::Rule;

/// What is left of a VM's pages and lines.
pub(super) struct Left<'a> {
    pub(super) vm: VmRef<'a>,
    pub(super) mode: Mode,
    pub(super) given: &'a [&'a Given<'a>],
    pub(super) board: &'a Board<'a>,
    /// What has a place.
    pub(super) claims: &'a [Claim],
}

impl Left<'_> {
    fn is_own_machine(&self) -> bool {
        self.board.guest_machine() == GuestMachine::Own
    }

    /// A page that nothing has, but for `taken`: 64 KiB from any other, so that a guest of any page size can map it alone.
    fn page(&self, taken: &[Span<Gpa>]) -> Option<Span<Gpa>> {
        let own = self.board.machine.own_layout();
        let first = if self.is_own_machine() { own.emulated.0 >> 16 } else { 0x100 };
        (first..0x1_0000u64)
            .filter_map(|step| Span::new(Gpa(step << 16), PAGE_SIZE).ok())
            .find(|page| !self.claims.iter().any(|claim| claim.span.overlaps(page)) && !taken.contains(page))
    }

    /// A line that nothing has, but for `taken`.
    fn line(&self, taken: Option<Irq>) -> Option<Irq> {
        let given = |irq| self.given.iter().any(|it| it.hardware.lines.iter().any(|line| line.irq == irq));
        let held = |irq| self.board.lines.iter().any(|held| held.irq == irq);
        let mut lines = self.board.machine.lines().rev().map(Irq);
        lines.find(|&irq| irq.0 < 256 && Some(irq) != taken && !held(irq) && !given(irq))
    }

    /// The console where the board has its own, so that a guest's early console, told the board's address, works; on a free
    /// page where that is of another kind. In a guest machine of its own it is where that one's layout has it.
    /// A VM that has the board's own has no other.
    pub(super) fn console(&self, findings: &mut Findings) -> Option<ConsolePlan> {
        let board = self.board;
        if own_console(self.given, board).is_some() {
            return None;
        }
        if !board.machine.has_no_ports() {
            let plan = board.machine.console_ports(self.given);
            if plan.is_none() {
                findings.vm(self.vm, "", Rule::NoRoom, "no ports are left for the emulated console");
            }
            return plan;
        }
        let kind = board.machine.words().console_compatible;
        let like_boards = board
            .console_device
            .filter(|_| !self.is_own_machine())
            .filter(|device| device.compatible.iter().any(|it| it == kind));
        let at_boards = like_boards.and_then(|device| {
            let start = device.registers.first()?.start().page();
            let lines = &board.platform.limits.lines;
            let irq = device.interrupts.iter().map(|line| line.irq).find(|line| lines.contains(&line.0));
            Some(ConsolePlan {
                at: Place::Memory(Span::new(Gpa(start.0), PAGE_SIZE).ok()?),
                irq: self.mode.console_line.or(irq)?,
            })
        });
        if at_boards.is_some() {
            return at_boards;
        }
        let irq = self.mode.console_line.or_else(|| self.line(None));
        let plan = self.page(&[]).zip(irq).map(|(page, irq)| ConsolePlan { at: Place::Memory(page), irq });
        if plan.is_none() {
            findings.vm(self.vm, "", Rule::NoRoom, "no page or no line is left for the emulated console");
        }
        plan
    }

    /// The watchdog, if the VM is to have one. Its line only says that half its time is over, which is for debuggers; so it has none where
    /// that would take one of the board's, or its guests aren't told of one.
    pub(super) fn watchdog(
        &self,
        config: &Vm,
        console: Option<ConsolePlan>,
        findings: &mut Findings,
    ) -> Option<WatchdogPlan> {
        let then = config.watchdog?;
        let mut taken = console.and_then(|console| console.at.registers()).into_iter().collect::<Vec<_>>();
        let mut page = || {
            let page = self.page(&taken)?;
            taken.push(page);
            Some(page)
        };
        let pages = page().zip(page());
        let has_line = self.mode.console_line.is_none() && self.board.machine.watchdog_has_line();
        let irq = if has_line { self.line(console.map(|console| console.irq)) } else { None };
        let plan = pages.map(|(control, refresh)| WatchdogPlan { control, refresh, irq, then });
        if plan.is_none() {
            findings.vm(self.vm, "watchdog", Rule::NoRoom, "no pages are left for the emulated watchdog");
        }
        plan
    }
}

/// Of what a VM is given, the hypervisor's console: it is the VM's console then.
pub(super) fn own_console<'a>(given: &'a [&'a Given<'a>], board: &Board<'_>) -> Option<&'a Given<'a>> {
    let is_it =
        |given: &&&Given<'_>| matches!(given.hardware.kind, Kind::Node(node) if board.is_lent(&node.path));
    given.iter().find(is_it).copied()
}
