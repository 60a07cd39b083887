//! What a trap takes at least: the bare board's own hypervisor, as small as one can be, which answers a call by going on behind it. All general
//! registers are saved and loaded, and what VMLOAD and VMSAVE move, for the guest and for itself (AMD APM 2, 15.5).

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use axvm_guest_runtime::machine;

use super::measure;

/// EFER and its bit that allows VMRUN; VM_HSAVE_PA; VM_CR with the bit that forbids all that.
const EFER: u32 = 0xc000_0080;
const EFER_SVME: u64 = 1 << 12;
const HOST_SAVE: u32 = 0xc001_0117;
const VM_CR: u32 = 0xc001_0114;
const VM_CR_DISABLED: u64 = 1 << 4;

/// Offsets in a VMCB (appendix B), in bytes.
const INTERCEPTS: usize = 0x0c;
const ASID: usize = 0x58;
const ES: usize = 0x400;
const CS: usize = 0x410;
const SS: usize = 0x420;
const DS: usize = 0x430;
const GDTR: usize = 0x460;
const IDTR: usize = 0x480;
const GUEST_EFER: usize = 0x4d0;
const CR4: usize = 0x548;
const CR3: usize = 0x550;
const CR0: usize = 0x558;
const RFLAGS: usize = 0x570;
const RIP: usize = 0x578;

/// CPUID exits; so do VMRUN and VMMCALL, in the word behind.
const ON_CPUID: u64 = 1 << 18;
const ON_VMRUN: u64 = 1 << 32;
const ON_VMMCALL: u64 = 1 << 33;
/// Attributes of 64-bit code and of data, a segment's selector before them and its limit behind.
const CODE: u64 = 8 | 0xa9b << 16 | 0xffff_ffff << 32;
const DATA: u64 = 16 | 0xc93 << 16 | 0xffff_ffff << 32;

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u64; 512]>);

// SAFETY: the first CPU alone uses them, once.
unsafe impl Sync for Page {}

static VMCB: Page = Page(UnsafeCell::new([0; 512]));
static HOST: Page = Page(UnsafeCell::new([0; 512]));
static SAVED: Page = Page(UnsafeCell::new([0; 512]));

/// Where the guest leaves the smallest of its figures: r9.
const RESULT: usize = 9;

unsafe extern "C" {
    fn floor_run(registers: *mut [u64; 16], vmcb: u64, host: u64);
    static floor_guest: u8;
}

// floor_run(rdi: general registers by their numbers, rsi: the guest's VMCB, rdx: the host's)
global_asm!(
    r#"
    .text
floor_run:
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    push    rdi
    push    rdx
    mov     rax, rsi
    vmsave  rax
    mov     rax, rdx
    vmsave  rax
    mov     rax, rsi
2:  vmload  rax
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
    vmrun   rax
    push    rdi
    mov     rdi, [rsp + 16]
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
    mov     rbx, rax
    mov     rax, [rsp]
    vmload  rax
    mov     rax, rbx
    add     qword ptr [rax + {rip}], 3
    cmp     dword ptr [rax + 0x70], 0x81
    je      2b
    stgi
    add     rsp, 16
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    ret

    // Sixteen calls, of which the shortest counts; then what isn't answered.
floor_guest:
    mov     r9, -1
    mov     r10, 16
3:  rdtsc
    shl     rdx, 32
    or      rax, rdx
    mov     r11, rax
    vmmcall
    rdtsc
    shl     rdx, 32
    or      rax, rdx
    sub     rax, r11
    cmp     rax, r9
    cmovb   r9, rax
    dec     r10
    jnz     3b
    cpuid
    "#,
    rip = const RIP,
);

/// Whether the processor says that it can have guests: a VM's doesn't.
pub fn is_possible() -> bool {
    const HAS_SVM: u32 = 1 << 2;
    machine::cpuid(0x8000_0001, 0)[2] & HAS_SVM != 0
}

/// A call and its answer, where the processor can have guests. `None`: firmware has forbidden it.
pub fn round_trip() -> Option<u64> {
    let is_free = machine::read_msr(VM_CR).is_ok_and(|value| value & VM_CR_DISABLED == 0);
    let efer = machine::read_msr(EFER).ok()? | EFER_SVME;
    if !is_free || machine::write_msr(EFER, efer).is_err() {
        return None;
    }
    machine::write_msr(HOST_SAVE, SAVED.0.get() as u64).ok()?;
    let (cr0, cr3, cr4, rflags): (u64, u64, u64, u64);
    let mut tables = [[0u8; 10]; 2];
    let [gdt, idt] = &mut tables;
    // SAFETY: these read registers, and write the two places.
    unsafe {
        asm!(
            "mov {}, cr0", "mov {}, cr3", "mov {}, cr4", "pushfq", "pop {}", "sgdt [{}]", "sidt [{}]",
            out(reg) cr0, out(reg) cr3, out(reg) cr4, out(reg) rflags, in(reg) gdt, in(reg) idt,
        );
    }
    let vmcb = VMCB.0.get();
    let set = |at: usize, value: u64| {
        // SAFETY: nothing else refers to the page, which is a VMCB from here on.
        unsafe { vmcb.cast::<u8>().add(at).cast::<u64>().write_unaligned(value) }
    };
    set(INTERCEPTS, ON_CPUID | ON_VMRUN | ON_VMMCALL);
    set(ASID, 1);
    set(CS, CODE);
    [ES, SS, DS].into_iter().for_each(|segment| set(segment, DATA));
    for (at, [low, high, base @ ..]) in [(GDTR, tables[0]), (IDTR, tables[1])] {
        set(at, u64::from(u16::from_le_bytes([low, high])) << 32);
        set(at + 8, u64::from_le_bytes(base));
    }
    let guest = &raw const floor_guest as u64;
    for (at, value) in
        [(GUEST_EFER, efer), (CR0, cr0), (CR3, cr3), (CR4, cr4), (RFLAGS, rflags), (RIP, guest)]
    {
        set(at, value);
    }
    let mut registers = [0; 16];
    // SAFETY: the guest is the code above, in this program's own memory and with its tables: it changes registers only, and both come
    // back when it has done what it is for. Interrupts are masked for both.
    unsafe { floor_run(&mut registers, vmcb as u64, HOST.0.get() as u64) };
    let ticks = registers.get(RESULT).copied().filter(|ticks| *ticks != u64::MAX)?;
    Some(ticks.saturating_sub(measure::READING))
}
