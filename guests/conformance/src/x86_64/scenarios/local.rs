//! Interrupts that the first CPU sends itself.

use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use alloc::string::String;

use axvm_guest_runtime::machine::{load32, read_msr, write_msr};

use super::Scene;
use crate::arch::apic::{self, send_here};
use crate::arch::cpu::{self, cr8 as read_cr8, let_in, set_cr8, settle};

/// The most urgent first, whatever came first.
pub fn order(scene: &Scene<'_>) {
    for vector in [0x51, 0x9f, 0x31, 0xe0, 0x52, 0x90, 0x20, 0xff, 0xef] {
        send_here(vector);
    }
    scene.say_state("sent");
    let_in();
    scene.say_events();
    scene.say_state("taken");
}

/// A more urgent one interrupts the handler of another that lets it; a less urgent one waits for its end.
pub fn nested(scene: &Scene<'_>) {
    let own = cpu::cpu(0);
    own.nest.store(true, Ordering::Relaxed);
    for (vector, raises) in [(0x41, 0x71), (0x71, 0x61), (0x61, 0xa3), (0xa3, 0x31)] {
        own.raises[vector].store(raises, Ordering::Relaxed);
    }
    send_here(0x41);
    let_in();
    scene.say_events();
}

/// One of the same class waits, even if its number is higher.
pub fn class(scene: &Scene<'_>) {
    let own = cpu::cpu(0);
    own.nest.store(true, Ordering::Relaxed);
    for (vector, raises) in [(0x51, 0x5f), (0x5f, 0x50), (0x50, 0x60)] {
        own.raises[vector].store(raises, Ordering::Relaxed);
    }
    send_here(0x51);
    let_in();
    scene.say_events();
}

/// One that is in service can wait once more, and no more often.
pub fn again(scene: &Scene<'_>) {
    send_here(0x61);
    scene.say(format_args!("taken {:02x}", scene.take()));
    send_here(0x61);
    send_here(0x61);
    scene.say_state("sent twice");
    let_in();
    scene.say_state("let in");
    apic::end();
    scene.say_state("ended");
    scene.say(format_args!("taken {:02x}", scene.take()));
    apic::end();
    scene.say_state("ended");
    let_in();
    scene.say_events();
}

/// What the task's priority keeps back comes when it is lowered.
pub fn task_priority(scene: &Scene<'_>) {
    for vector in [0x41, 0x5f, 0x61, 0x6f, 0x70] {
        send_here(vector);
    }
    for priority in [0xf0, 0x70, 0x6f, 0x60, 0x5f, 0x5e, 0x50, 0x4f, 0x00] {
        apic::write(apic::TPR, priority);
        scene.say_state("set");
        let_in();
        scene.say_events();
        cpu::cpu(0).reset();
    }
    // Beside one that is in service: the higher class counts, and of two of one class the task's.
    send_here(0x58);
    scene.say(format_args!("taken {:02x}", scene.take()));
    for priority in [0x00, 0x45, 0x50, 0x57, 0x5f, 0x63] {
        apic::write(apic::TPR, priority);
        scene.say_state("set");
    }
    apic::end();
    scene.say_state("ended");
}

/// CR8 is the task's priority.
pub fn cr8(scene: &Scene<'_>) {
    for priority in [0x00, 0x57, 0xf0, 0x0f] {
        apic::write(apic::TPR, priority);
        scene.say(format_args!("tpr {priority:02x}: cr8 {:x}", read_cr8()));
    }
    send_here(0x8a);
    for value in [9, 8, 7] {
        set_cr8(value);
        scene.say_state("cr8 set");
        let_in();
        scene.say_events();
    }
    set_cr8(0);
}

/// Ends are those of the most urgent one in service, and of nothing if nothing is.
pub fn ends(scene: &Scene<'_>) {
    for vector in [0x33, 0x44, 0x55, 0xcc] {
        send_here(vector);
        scene.say(format_args!("taken {:02x}", scene.take()));
    }
    for _ in 0..5 {
        scene.say_state("now");
        apic::end();
    }
    scene.say_state("ended");
}

/// Every vector that there is.
pub fn vectors(scene: &Scene<'_>) {
    apic::write(apic::TPR, 0xff);
    (0x20..=0xff).for_each(send_here);
    settle();
    let waits = apic::all(apic::IRR).count();
    scene.say(format_args!("{waits} wait, the highest {:02x}", apic::highest(apic::IRR)));
    apic::write(apic::TPR, 0);
    let_in();
    let own = cpu::cpu(0);
    scene.say(format_args!("{} seen, {} left", own.count(), apic::all(apic::IRR).count()));
    let first: String = own.events().take(6).fold(String::new(), |mut line, event| {
        let _ = write!(line, " {:02x}", event.vector);
        line
    });
    scene.say(format_args!("first{first}"));
}

/// Entries of the local vector table keep what they are given.
pub fn entries(scene: &Scene<'_>) {
    for register in [apic::TIMER, apic::LINT0, apic::LINT1, apic::ERROR] {
        for value in [apic::MASKED | 0x61, 0x00ff, apic::MASKED] {
            apic::write(register, apic::MASKED | value);
            scene.say(format_args!("{register:x}: {:x}", apic::read(register)));
        }
    }
    apic::write(apic::TIMER, apic::MASKED | apic::PERIODIC | 0x44);
    scene.say(format_args!("timer {:x}", apic::read(apic::TIMER)));
    for value in [0x1ff, 0x1ef, 0x13f] {
        apic::write(apic::SVR, value);
        scene.say(format_args!("spurious {:x}", apic::read(apic::SVR)));
    }
    apic::write(apic::SVR, 0x1ff);
}

/// The command register keeps what was written.
pub fn command(scene: &Scene<'_>) {
    let nobody = 0x0e;
    for command in
        [apic::ASSERT | 0x51, apic::ASSERT | apic::LOGICAL | 0x61, apic::ASSERT | apic::TO_SELF | 0x71]
    {
        apic::send(nobody, command);
        settle();
        let (destination, command) = apic::command();
        if apic::is_x2() {
            scene.say(format_args!("{command:x}"));
        } else {
            scene.say(format_args!("{destination:x} {command:x}"));
        }
    }
    scene.say_state("sent");
    let_in();
    scene.say_events();
}

/// Oneself by every name.
pub fn to_self(scene: &Scene<'_>) {
    let id = apic::id();
    apic::send(id, apic::ASSERT | 0x41);
    apic::send(0, apic::ASSERT | apic::TO_SELF | 0x52);
    scene.say_state("sent");
    apic::send(id ^ 0x40, apic::ASSERT | 0x63);
    scene.say_state("to nobody");
    // To all that there are, the other one keeps them out.
    apic::send(0, apic::ASSERT | apic::TO_ALL | 0x74);
    scene.say_state("to all");
    apic::send(0, apic::ASSERT | apic::TO_OTHERS | 0x85);
    scene.say_state("to others");
    let_in();
    scene.say_events();
}

/// Registers of the page that are 32 bits wide have nothing beside them.
pub fn page(scene: &Scene<'_>) {
    const PAGE: u64 = 0xfee0_0000;
    apic::write(apic::DFR, 0xffff_ffff);
    for value in [0x0100_0000, 0xff00_0000, 0] {
        apic::write(apic::LDR, value);
        scene.say(format_args!("ldr {:x}", apic::read(apic::LDR)));
    }
    scene.say(format_args!("id {:x}", load32(PAGE + u64::from(apic::ID)).unwrap_or(u32::MAX)));
}

/// The register for interrupts to oneself.
pub fn self_register(scene: &Scene<'_>) {
    for vector in [0x45, 0xb0, 0x31] {
        apic::write(apic::SELF, vector);
    }
    scene.say_state("sent");
    let_in();
    scene.say_events();
}

/// Registers that there aren't in this mode, or that can't be written.
pub fn faults(scene: &Scene<'_>) {
    for register in [apic::DFR, 0x10, 0x40, 0x290, 0x3d0, 0xff0] {
        let register = apic::msr(register);
        let (read, written) = (read_msr(register).is_err(), write_msr(register, 0).is_err());
        scene.say(format_args!("{register:x}: read {read}, written {written}"));
    }
    for register in [apic::ID, apic::LDR, apic::ICR_HIGH] {
        let register = apic::msr(register);
        scene.say(format_args!("{register:x}: written {}", write_msr(register, 0).is_err()));
    }
}

/// The logical id is made of the id.
pub fn logical_id(scene: &Scene<'_>) {
    scene.say(format_args!("id {:x}, logical {:x}", apic::id(), apic::read(apic::LDR)));
}
