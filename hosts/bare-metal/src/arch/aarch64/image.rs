//! Where the image is, and its parts: what the linker script says.

use axvm_addr::Hpa;

/// The address of a symbol that the linker script or assembly defines: by an instruction. By itself the compiler would keep the
/// address of a symbol from elsewhere in a table of the image, and older linkers can't do that within the tiny code model.
macro_rules! address_of {
    ($symbol:path) => {{
        let address: u64;
        // SAFETY: an address is computed, and nothing is read or written.
        unsafe {
            core::arch::asm!("adr {0}, {1}", out(reg) address, sym $symbol, options(pure, nomem, nostack, preserves_flags));
        }
        address
    }};
}
pub(crate) use address_of;

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
    address_of!(__image_start)
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
        text_end: Hpa(address_of!(__text_end)),
        constants_end: Hpa(address_of!(__rodata_end)),
        guard: (Hpa(address_of!(__boot_stack_guard)), Hpa(address_of!(__boot_stack_bottom))),
        end: Hpa(address_of!(__image_end)),
    }
}
