//! States against the manual's table and the protocols' words.

use super::*;

#[test]
fn after_a_reset_as_the_manual_has_it() {
    let State { save, registers } = Start::Reset.state(0x00a2_0f12);
    // APM 2, table 14-1: CS f000, base ffff0000; IP fff0; RDX the signature.
    assert_eq!(
        (save.cs.selector, save.cs.base, save.cs.limit, save.rip),
        (0xf000, 0xffff_0000, 0xffff, 0xfff0)
    );
    for segment in [save.ds, save.es, save.ss, save.fs, save.gs] {
        assert_eq!(segment, Segment { selector: 0, attributes: Attributes(0x93), limit: 0xffff, base: 0 });
    }
    assert_eq!(
        (save.gdtr.limit, save.idtr.limit, save.ldtr.limit, save.tr.limit),
        (0xffff, 0xffff, 0xffff, 0xffff)
    );
    // SDM 3, table 10-1 and 10.8.5.1: one of 16 bits would keep it out of long mode.
    assert_eq!((save.tr.attributes, save.ldtr.attributes), (Attributes(0x8b), Attributes(0x82)));
    assert_eq!((save.rflags, save.dr6, save.dr7), (2, 0xffff_0ff0, 0x400));
    // CR0 is 0x6000_0010 there: caches are the hypervisor's. EFER is 0 there, CR4 too: what VMRUN and machine checks need.
    assert_eq!((save.cr0, save.cr3, save.cr4, save.efer, save.cpl), (0x10, 0, 0x40, 0x1000, 0));
    assert_eq!(save.g_pat, 0x0007_0406_0007_0406);
    let mut expected = [0; 16];
    expected[2] = 0x00a2_0f12;
    assert_eq!(registers, expected);
}

#[test]
fn a_start_up_interrupt_says_the_page() {
    let (sipi, reset) = (Start::Sipi { vector: 0x9f }.state(7), Start::Reset.state(7));
    assert_eq!((sipi.save.cs.selector, sipi.save.cs.base, sipi.save.rip), (0x9f00, 0x9_f000, 0));
    let mut rest = sipi.save;
    (rest.cs, rest.rip) = (reset.save.cs, reset.save.rip);
    assert_eq!((rest, sipi.registers), (reset.save, reset.registers));
}

#[test]
fn linux_is_entered_as_boot_rst_says() {
    let gdt = Gdt { base: 0x9_0000, limit: 0x1f };
    let start = Start::Linux64 { entry: 0x100_0200, boot_params: 0x9_1000, cr3: 0x9_2000, gdt };
    let State { save, registers } = start.state(0);
    // "the CPU must be in 64-bit mode with paging enabled", "__BOOT_CS(0x10)", "__BOOT_DS(0x18)", "interrupt must be disabled", "%rsi must hold
    // the base address of the struct boot_params".
    assert_eq!((save.efer, save.cr0, save.cr4, save.cr3), (0x1500, 0x8001_0033, 0x60, 0x9_2000));
    // What __BOOT_CS is: flat, 64 bits, execute and read.
    assert_eq!((save.cs.selector, save.cs.attributes.0), (0x10, 0xa9b));
    for segment in [save.ds, save.es, save.ss] {
        assert_eq!(
            segment,
            Segment { selector: 0x18, attributes: Attributes(0xc93), limit: u32::MAX, base: 0 }
        );
    }
    assert_eq!((save.gdtr.base, save.gdtr.limit), (0x9_0000, 0x1f));
    assert_eq!(
        (save.rflags, save.rip, save.cpl, registers[6], registers[7]),
        (2, 0x100_0200, 0, 0x9_1000, 0)
    );
    let flat = Start::Flat64 { entry: 0x100_0200, argument: 0x9_1000, cr3: 0x9_2000, gdt }.state(0);
    assert_eq!((flat.save, flat.registers[6], flat.registers[7]), (save, 0x9_1000, 0x9_1000));
}

#[test]
fn pvh_is_entered_as_its_specification_says() {
    let State { save, registers } = Start::Pvh { entry: 0x100_0000, start_info: 0x9_1000 }.state(0);
    // "cr0: bit 0 (PE) must be set. All the other writable bits are cleared." "cr4: all bits are cleared." "cs: must be a 32-bit read/execute code
    // segment with a base of 0 and a limit of 0xFFFFFFFF." "ds, es: must be a 32-bit read/write data segment..." "tr: must be a 32-bit TSS
    // (active) with a base of 0 and a limit of 0x67." "eflags: bit 17 (VM) must be cleared. Bit 9 (IF) must be cleared. Bit 8 (TF) must be
    // cleared."
    assert_eq!((save.cr0, save.cr4, save.efer), (0x11, 0x40, 0x1000));
    assert_eq!((save.cs.attributes.0, save.cs.base, save.cs.limit), (0xc9b, 0, u32::MAX));
    for segment in [save.ds, save.es] {
        assert_eq!((segment.attributes.0, segment.base, segment.limit), (0xc93, 0, u32::MAX));
    }
    assert_eq!((save.tr.attributes.0, save.tr.base, save.tr.limit), (0x8b, 0, 0x67));
    assert_eq!((save.rflags, save.rip, registers[3]), (2, 0x100_0000, 0x9_1000));
}
