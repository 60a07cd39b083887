//! Exceptions and interrupts of the hypervisor's own (AMD APM 2, 8.9: long-mode interrupt control transfers).
//!
//! The hypervisor runs with interrupts masked, and asks for them ([`super::cpu::open_window`]): then a stub for each vector notes which it
//! was, has it ended at the local APIC, and comes back.

use core::arch::global_asm;

use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use super::local_apic::{LocalApic, SPURIOUS};
use super::percpu::{FAULT_STACKS, PerCpu};
use super::{cpu, fault, guarded};

/// Vectors from here on are interrupts (AMD APM 2, 8.2).
const FIRST_INTERRUPT: u64 = 32;

/// Exceptions that come at any instruction, or for want of a stack: they have stacks of their own.
pub const NMI: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const MACHINE_CHECK: u64 = 18;

/// A gate of the IDT (AMD APM 2, 4.8.4).
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate([u64; 2]);

impl Gate {
    /// An interrupt gate to 64-bit code at `handler`, with interrupts masked.
    const fn new(handler: u64, stack: u16) -> Self {
        /// P, type 14.
        const PRESENT_INTERRUPT: u64 = 0x8e << 40;
        /// The code segment that `percpu` and the first instructions have alike.
        const CODE: u64 = 8;
        let low = handler & 0xffff
            | CODE << 16
            | (stack as u64) << 32
            | PRESENT_INTERRUPT
            | (handler >> 16 & 0xffff) << 48;
        Self([low, handler >> 32])
    }
}

static mut GATES: [Gate; 256] = [Gate([0; 2]); 256];

/// Has the calling CPU's exceptions and interrupts come here.
pub fn install() {
    let table = (&raw mut GATES).cast::<Gate>();
    for vector in 0..256u64 {
        let stack = match vector {
            NMI => FAULT_STACKS[0],
            DOUBLE_FAULT => FAULT_STACKS[1],
            MACHINE_CHECK => FAULT_STACKS[2],
            _ => 0,
        };
        let handler = &raw const stubs as u64 + vector * STUB_BYTES;
        // SAFETY: inside the table. Each CPU writes what is there already: an entry never changes.
        unsafe { table.add(vector as usize).write_volatile(Gate::new(handler, stack)) };
    }
    let pointer = DescriptorTablePointer { limit: 256 * 16 - 1, base: VirtAddr::from_ptr(table) };
    // SAFETY: the table stays, and its gates lead to the stubs below.
    unsafe { lidt(&pointer) };
}

/// As long as what a guest has left is dropped: vectors of exceptions are interrupts then, of which guests may send themselves some.
static mut DROPPING: [Gate; 256] = [Gate([0; 2]); 256];

/// Fills in a second table, for [`drop_pending`].
pub fn install_dropping() {
    let (from, to) = ((&raw const GATES).cast::<Gate>(), (&raw mut DROPPING).cast::<Gate>());
    for vector in 0..256usize {
        // SAFETY: inside both tables. Each CPU writes what is there already.
        unsafe {
            let gate = match vector {
                16..32 => Gate::new(&raw const dropping_stubs as u64 + (vector as u64 - 16) * STUB_BYTES, 0),
                _ => from.add(vector).read_volatile(),
            };
            to.add(vector).write_volatile(gate);
        }
    }
}

/// Takes every interrupt that is pending for this CPU, whatever its vector, and drops it.
pub fn drop_pending() {
    let load = |table: *const Gate| {
        let pointer = DescriptorTablePointer { limit: 256 * 16 - 1, base: VirtAddr::from_ptr(table) };
        // SAFETY: both tables stay, and their gates lead to stubs.
        unsafe { lidt(&pointer) };
    };
    load((&raw const DROPPING).cast());
    cpu::open_window();
    load((&raw const GATES).cast());
}

/// What a stub of [`DROPPING`]'s adds to its vector.
const DROPPED: u64 = 0x100;

/// Bytes between stubs.
const STUB_BYTES: u64 = 16;

unsafe extern "C" {
    static stubs: u8;
    static dropping_stubs: u8;
}

/// What the stubs leave on the stack. Layout known to the assembly below.
#[repr(C)]
pub struct Frame {
    /// r15 to r8, rdi, rsi, rbp, rbx, rdx, rcx, rax.
    pub registers: [u64; 15],
    /// Which it is.
    pub vector: u64,
    /// What the exception says beside, or 0.
    pub error: u64,
    /// The instruction.
    pub rip: u64,
    /// Its segment.
    pub cs: u64,
    /// Its flags.
    pub rflags: u64,
    /// Its stack.
    pub rsp: u64,
    /// Its stack's segment.
    pub ss: u64,
}

extern "C" fn taken(frame: &mut Frame) {
    match frame.vector {
        // A call. Whoever is about to sleep doesn't.
        NMI => {
            PerCpu::own().note_call();
            frame.rip = cpu::awake(frame.rip);
        }
        vector if vector < FIRST_INTERRUPT => match guarded::fixup(frame.rip) {
            Some(rip) => frame.rip = rip,
            None => fault::end(frame),
        },
        vector if vector >= DROPPED => {
            // An interrupt is in service; a machine check isn't.
            let apic = LocalApic::own();
            if apic.is_in_service(vector as u8) {
                apic.end_interrupt();
            } else {
                frame.vector -= DROPPED;
                fault::end(frame)
            }
        }
        // The spurious one, as the others don't come here. It is in no service (AMD APM 2, 16.4.7); a message with its vector is, and would keep out
        // everything else.
        vector => {
            if LocalApic::own().is_in_service(SPURIOUS) {
                PerCpu::own().note(vector as u8);
                LocalApic::own().end_interrupt();
            }
        }
    }
}

global_asm!(
    r#"
    .section .text.vectors, "ax"
    .global stubs
    .balign 16
stubs:
    .set    vector, 0
    .rept   256
    .balign 16
    .if (vector >= {first}) & (vector < {spurious})
    // or byte ptr gs:[...], its bit among those that were taken: nobody else writes there, and no other interrupt comes in between.
    .byte   0x65, 0x80, 0x0c, 0x25
    .long   {taken_at} + vector / 8
    .byte   1 << (vector % 8)
    jmp     end_taken
    .else
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    .else
    push    0
    .endif
    .byte   0x68                        // push, 32 bits
    .long   vector
    jmp     taken_any
    .endif
    .set    vector, vector + 1
    .endr

end_taken:
    push    rax
    mov     rax, gs:[{end_at}]
    test    rax, rax
    jz      2f
    mov     dword ptr [rax], 0
    pop     rax
    iretq
2:
    push    rcx
    push    rdx
    mov     ecx, {end_msr}
    xor     eax, eax
    xor     edx, edx
    wrmsr
    pop     rdx
    pop     rcx
    pop     rax
    iretq

    .global dropping_stubs
    .balign 16
dropping_stubs:
    .set    vector, {dropped} + 16
    .rept   16
    .balign 16
    push    0
    .byte   0x68
    .long   vector
    jmp     taken_any
    .set    vector, vector + 1
    .endr

taken_any:
    push    rax
    push    rcx
    push    rdx
    push    rbx
    push    rbp
    push    rsi
    push    rdi
    push    r8
    push    r9
    push    r10
    push    r11
    push    r12
    push    r13
    push    r14
    push    r15
    mov     rdi, rsp
    cld
    call    {taken}
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     r11
    pop     r10
    pop     r9
    pop     r8
    pop     rdi
    pop     rsi
    pop     rbp
    pop     rbx
    pop     rdx
    pop     rcx
    pop     rax
    add     rsp, 16
    iretq
    .text
    "#,
    taken = sym taken,
    dropped = const DROPPED,
    first = const FIRST_INTERRUPT,
    spurious = const SPURIOUS,
    taken_at = const super::percpu::TAKEN,
    end_at = const super::percpu::END_AT,
    end_msr = const super::local_apic::END_MSR,
);
