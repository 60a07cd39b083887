//! Into a guest and out of it: the instructions around VMRUN (AMD APM 2, 15.5), and the loop of those exits that are answered on the spot.
//!
//! What an exit takes at least is what has to be put away and fetched for two sides. So an exit that is answered by [`fast`] goes back into the guest from
//! here: the hypervisor's own registers, which nobody has used, aren't fetched for it, and interrupts stay shut out all the while (GIF is 0). What
//! calls the CPU meanwhile is pending, and ends the next run of the guest before its first instruction.
//!
//! [`fast`]: super::fast

use core::arch::global_asm;
use core::ffi::c_void;

use super::fast;
use super::run::Running;
use super::vcpu::Entry;

/// How an entry went, and what came of the last exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Entered {
    /// It is answered, and nothing is to be done before the guest goes on.
    GoesOn = 0,
    /// It is answered. Something may have come of it that is to be looked at first.
    Answered = 1,
    /// It isn't answered.
    Left = 2,
    /// The guest wasn't entered: the CPU was called before.
    Called = 3,
}

/// Enters the guest until it is left for something that isn't answered on the spot, or the CPU was called and hasn't looked around since.
#[inline(always)]
pub fn enter(running: &mut Running<'_>) -> Entered {
    let flushed = running.context.go_in();
    let Entry { registers, vmcb, host, speculation } = running.context.for_entry();
    // SAFETY: both are VMCBs; the guest's has what `control` and `start` say: nested tables, every port and register closed that the
    // plan hasn't opened, every interrupt the hypervisor's. It is entered with interrupts masked, and left so. All that is referred to is
    // the vCPU's own, which nobody else refers to meanwhile but `answer`, in the same thread.
    let entered =
        unsafe { run_guest(registers, vmcb as u64, host as u64, speculation, (&raw mut *running).cast()) };
    running.context.come_out();
    match entered {
        Entered::Called => running.context.stay_out(flushed),
        Entered::Left => running.context.note_delivered(),
        Entered::GoesOn | Entered::Answered => {}
    }
    entered
}

/// The guest was left: answers that, if it can be.
///
/// # Safety
///
/// `running` is what [`enter`] has, which uses it no further while this does.
unsafe extern "C" fn answer(running: *mut c_void) -> Entered {
    // SAFETY: by the caller's promise.
    fast::after_exit(unsafe { &mut *running.cast() })
}

unsafe extern "C" {
    fn run_guest(
        registers: *mut [u64; 16],
        vmcb: u64,
        host: u64,
        speculation: u64,
        running: *mut c_void,
    ) -> Entered;
}

global_asm!(
    r#"
    .section .text.run_guest, "ax"
    .global run_guest
    // run_guest(rdi: registers, rsi: the guest's VMCB, rdx: the host's, rcx: `speculation::word`, r8: for `answer`) -> `Entered`
run_guest:
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    push    r8
    push    rdi
    push    rsi
    push    rdx
    push    rcx
    // From here on nothing is taken, whatever RFLAGS.IF says, but by leaving the guest (APM 2, 15.17).
    clgi
    // A call that came before is no longer pending: an NMI of the hypervisor's. One that comes from here on ends the run.
    cmp     qword ptr gs:[{called}], 0
    jne     8f
    mov     rax, rsi
1:
    vmload  rax
    mov     rcx, [rdi + 8]
    mov     rdx, [rdi + 16]
    mov     rbx, [rdi + 24]
    mov     rbp, [rdi + 40]
    mov     rsi, [rdi + 48]
    mov     r8, [rdi + 64]
    mov     r9, [rdi + 72]
    mov     r10, [rdi + 80]
    mov     r11, [rdi + 88]
    mov     r12, [rdi + 96]
    mov     r13, [rdi + 104]
    mov     r14, [rdi + 112]
    mov     r15, [rdi + 120]
    mov     rdi, [rdi + 56]
    test    dword ptr [rsp], {verw}
    jz      2f
    verw    word ptr [rsp + 4]
2:
    // The host's IF, which says whether physical interrupts end the run (15.21.1).
    sti
    vmrun   rax
    cli
    // rAX, rSP and rFLAGS are the host's again.
    push    rdi
    mov     rdi, [rsp + 32]
    mov     [rdi + 8], rcx
    mov     [rdi + 16], rdx
    mov     [rdi + 24], rbx
    mov     [rdi + 40], rbp
    mov     [rdi + 48], rsi
    mov     [rdi + 64], r8
    mov     [rdi + 72], r9
    mov     [rdi + 80], r10
    mov     [rdi + 88], r11
    mov     [rdi + 96], r12
    mov     [rdi + 104], r13
    mov     [rdi + 112], r14
    mov     [rdi + 120], r15
    pop     rcx
    mov     [rdi + 56], rcx
    vmsave  rax
    mov     r8, [rsp]
    mov     rax, [rsp + 8]
    vmload  rax
    // What the guest has trained goes before anything that is predicted by it: returns, and branches by registers. Until here there
    // was none, and interrupts' handlers, which have some, come after stgi.
    test    r8d, {barrier}
    jz      3f
    mov     ecx, 0x49
    mov     eax, 1
    xor     edx, edx
    wrmsr
3:
    test    r8d, {fill}
    jz      6f
    // In a row: half of what a loop takes, and no branch of it is predicted.
    .rept   {returns}
    call    5f
    int3
5:
    .endr
    add     rsp, 8 * {returns}
6:
    // Nor do those two branches let anything begin behind them.
    lfence
    // What the guest left in registers no prediction of the hypervisor's goes by.
    xor     ecx, ecx
    xor     edx, edx
    xor     ebx, ebx
    xor     ebp, ebp
    xor     esi, esi
    xor     r8d, r8d
    xor     r9d, r9d
    xor     r10d, r10d
    xor     r11d, r11d
    xor     r12d, r12d
    xor     r13d, r13d
    xor     r14d, r14d
    xor     r15d, r15d
    mov     rdi, [rsp + 32]
    call    {answer}
    test    eax, eax
    jnz     9f
    // It goes on.
    mov     rdi, [rsp + 24]
    mov     rax, [rsp + 16]
    jmp     1b
8:
    mov     eax, {called_before}
9:
    stgi
    add     rsp, 40
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    ret
    .text
    "#,
    answer = sym answer,
    called = const super::percpu::CALLED,
    called_before = const Entered::Called as u64,
    verw = const super::speculation::VERW,
    barrier = const super::speculation::BARRIER,
    fill = const super::speculation::FILL,
    returns = const super::speculation::RETURNS,
);
