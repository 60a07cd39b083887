//! The state save area (AMD64 APM 2, appendix B, table B-2).

use core::mem::offset_of;

/// What a segment descriptor says beside base and limit: bits 55:52 and 47:40 of it, as bits 11:8 and 7:0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Attributes(pub u16);

impl Attributes {
    /// Code, readable and accessed, of 64 bits, present.
    pub const CODE64: Self = Self(0xa9b);
    /// Code, readable and accessed, of 32 bits, in pages, present.
    pub const CODE32: Self = Self(0xc9b);
    /// Code, readable and accessed, of 16 bits, present.
    pub const CODE16: Self = Self(0x9b);
    /// Data, writable and accessed, of 32 bits, in pages, present.
    pub const DATA32: Self = Self(0xc93);
    /// Data, writable and accessed, of 16 bits, present.
    pub const DATA16: Self = Self(0x93);
    /// A local descriptor table, present.
    pub const LDT: Self = Self(0x82);
    /// A busy task of 32 or 64 bits, present.
    pub const TASK_BUSY: Self = Self(0x8b);

    /// Type, bits 3:0.
    pub const fn kind(self) -> u8 {
        (self.0 & 0xf) as u8
    }

    /// Code or data (S), as against a system segment.
    pub const fn is_code_or_data(self) -> bool {
        self.0 & 1 << 4 != 0
    }

    /// Code. Meant for segments that are code or data.
    pub const fn is_code(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    /// Readable code, or writable data.
    pub const fn is_readable_or_writable(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// Data that lies above its limit.
    pub const fn is_expand_down(self) -> bool {
        !self.is_code() && self.0 & 1 << 2 != 0
    }

    /// Descriptor privilege level.
    pub const fn dpl(self) -> u8 {
        (self.0 >> 5 & 3) as u8
    }

    /// Present (P).
    pub const fn is_present(self) -> bool {
        self.0 & 1 << 7 != 0
    }

    /// Code of 64 bits (L).
    pub const fn is_long(self) -> bool {
        self.0 & 1 << 9 != 0
    }

    /// Operands or stack of 32 bits (D or B).
    pub const fn is_big(self) -> bool {
        self.0 & 1 << 10 != 0
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// What the descriptor says.
    pub attributes: Attributes,
    /// The limit in bytes, whatever the granularity.
    pub limit: u32,
    /// The base.
    pub base: u64,
}

impl Segment {
    /// A descriptor table's register: base and limit only.
    pub const fn table(base: u64, limit: u16) -> Self {
        Self { selector: 0, attributes: Attributes(0), limit: limit as u32, base }
    }
}

/// The guest's state. Reserved parts are kept as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // The manual's names.
pub struct Save {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    reserved_a0: [u8; 0x2b],
    pub cpl: u8,
    reserved_cc: [u8; 4],
    pub efer: u64,
    reserved_d8: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_180: [u8; 0x58],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_addr: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved_248: [u8; 0x20],
    /// The guest's PAT, with nested paging.
    pub g_pat: u64,
    pub dbgctl: u64,
    pub br_from: u64,
    pub br_to: u64,
    pub last_excp_from: u64,
    pub last_excp_to: u64,
    reserved_298: [u8; 0x48],
    pub spec_ctrl: u64,
    reserved_2e8: [u8; 0x918],
}

impl Save {
    /// All zero, which is no state that a CPU could run in: `start` makes one.
    pub const fn zero() -> Self {
        const S: Segment = Segment { selector: 0, attributes: Attributes(0), limit: 0, base: 0 };
        Self {
            es: S,
            cs: S,
            ss: S,
            ds: S,
            fs: S,
            gs: S,
            gdtr: S,
            ldtr: S,
            idtr: S,
            tr: S,
            reserved_a0: [0; 0x2b],
            cpl: 0,
            reserved_cc: [0; 4],
            efer: 0,
            reserved_d8: [0; 0x70],
            cr4: 0,
            cr3: 0,
            cr0: 0,
            dr7: 0,
            dr6: 0,
            rflags: 0,
            rip: 0,
            reserved_180: [0; 0x58],
            rsp: 0,
            s_cet: 0,
            ssp: 0,
            isst_addr: 0,
            rax: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            cr2: 0,
            reserved_248: [0; 0x20],
            g_pat: 0,
            dbgctl: 0,
            br_from: 0,
            br_to: 0,
            last_excp_from: 0,
            last_excp_to: 0,
            reserved_298: [0; 0x48],
            spec_ctrl: 0,
            reserved_2e8: [0; 0x918],
        }
    }
}

const _: () = {
    assert!(size_of::<Segment>() == 16);
    assert!(offset_of!(Segment, attributes) == 2);
    assert!(offset_of!(Segment, limit) == 4);
    assert!(offset_of!(Segment, base) == 8);
    assert!(offset_of!(Save, es) == 0x000);
    assert!(offset_of!(Save, cs) == 0x010);
    assert!(offset_of!(Save, ss) == 0x020);
    assert!(offset_of!(Save, ds) == 0x030);
    assert!(offset_of!(Save, fs) == 0x040);
    assert!(offset_of!(Save, gs) == 0x050);
    assert!(offset_of!(Save, gdtr) == 0x060);
    assert!(offset_of!(Save, ldtr) == 0x070);
    assert!(offset_of!(Save, idtr) == 0x080);
    assert!(offset_of!(Save, tr) == 0x090);
    assert!(offset_of!(Save, cpl) == 0x0cb);
    assert!(offset_of!(Save, efer) == 0x0d0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, cr3) == 0x150);
    assert!(offset_of!(Save, cr0) == 0x158);
    assert!(offset_of!(Save, dr7) == 0x160);
    assert!(offset_of!(Save, dr6) == 0x168);
    assert!(offset_of!(Save, rflags) == 0x170);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, s_cet) == 0x1e0);
    assert!(offset_of!(Save, ssp) == 0x1e8);
    assert!(offset_of!(Save, isst_addr) == 0x1f0);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, star) == 0x200);
    assert!(offset_of!(Save, lstar) == 0x208);
    assert!(offset_of!(Save, cstar) == 0x210);
    assert!(offset_of!(Save, sfmask) == 0x218);
    assert!(offset_of!(Save, kernel_gs_base) == 0x220);
    assert!(offset_of!(Save, sysenter_cs) == 0x228);
    assert!(offset_of!(Save, sysenter_esp) == 0x230);
    assert!(offset_of!(Save, sysenter_eip) == 0x238);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, g_pat) == 0x268);
    assert!(offset_of!(Save, dbgctl) == 0x270);
    assert!(offset_of!(Save, br_from) == 0x278);
    assert!(offset_of!(Save, br_to) == 0x280);
    assert!(offset_of!(Save, last_excp_from) == 0x288);
    assert!(offset_of!(Save, last_excp_to) == 0x290);
    assert!(offset_of!(Save, spec_ctrl) == 0x2e0);
    assert!(size_of::<Save>() == 0xc00);
};
