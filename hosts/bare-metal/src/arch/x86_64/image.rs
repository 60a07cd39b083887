//! Where the image is, and its parts: what the linker script says.

use axvm_addr::Hpa;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __boot_stack_guard: u8;
    static __boot_stack_bottom: u8;
    static __image_end: u8;
}

/// The address of the image's first byte.
pub fn image_start() -> u64 {
    &raw const __image_start as u64
}

/// Where the parts of the image are.
pub struct ImageLayout {
    /// Instructions: from the image's start to here.
    pub text_end: Hpa,
    /// Constants: from there to here.
    pub constants_end: Hpa,
    /// The pages below the first CPU's stack.
    pub guard: (Hpa, Hpa),
    /// The end.
    pub end: Hpa,
}

/// Where the parts of the image are.
pub fn image_layout() -> ImageLayout {
    ImageLayout {
        text_end: Hpa(&raw const __text_end as u64),
        constants_end: Hpa(&raw const __rodata_end as u64),
        guard: (Hpa(&raw const __boot_stack_guard as u64), Hpa(&raw const __boot_stack_bottom as u64)),
        end: Hpa(&raw const __image_end as u64),
    }
}
