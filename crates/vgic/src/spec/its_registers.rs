//! The ITS registers (IHI 0069, 12.19).

/// GITS_CTLR.
pub const CTLR: u64 = 0x0;
/// GITS_IIDR.
pub const IIDR: u64 = 0x4;
/// GITS_TYPER, 64 bits.
pub const TYPER: u64 = 0x8;
/// GITS_CBASER, 64 bits.
pub const CBASER: u64 = 0x80;
/// GITS_CWRITER, 64 bits.
pub const CWRITER: u64 = 0x88;
/// GITS_CREADR, 64 bits.
pub const CREADR: u64 = 0x90;
/// GITS_BASER0, 64 bits: the device table here.
pub const BASER0: u64 = 0x100;
/// GITS_BASER1, 64 bits: the collection table here.
pub const BASER1: u64 = 0x108;
/// GITS_TRANSLATER, from the start of the control frame: in the second 64 KiB frame.
pub const TRANSLATER: u64 = 0x1_0040;

/// GITS_CTLR.Enabled.
pub const CTLR_ENABLED: u32 = 1 << 0;
/// GITS_CTLR.Quiescent.
pub const CTLR_QUIESCENT: u32 = 1 << 31;

/// GITS_CBASER.Valid and GITS_BASER.Valid.
pub const VALID: u64 = 1 << 63;
/// What can be written of GITS_CBASER.
pub const CBASER_WRITABLE: u64 = VALID | 7 << 59 | 7 << 53 | 0x000f_ffff_ffff_f000 | 3 << 10 | 0xff;
/// What can be written of a GITS_BASER that is flat only: not Indirect, Type and Entry_Size.
pub const BASER_WRITABLE: u64 = VALID | 7 << 59 | 7 << 53 | 0x0000_ffff_ffff_f000 | 3 << 10 | 3 << 8 | 0xff;
/// What a GITS_BASER has after a reset, beside Type and Entry_Size: pages of 64 KiB. The architecture leaves it open; QEMU's ITS
/// and KVM's do the same, and software believes it.
pub const BASER_RESET: u64 = 2 << 8;
/// Where a table is and how large: Valid, address, Page_Size, Size.
pub const BASER_PLACE: u64 = VALID | 0x0000_ffff_ffff_f000 | 3 << 8 | 0xff;
/// GITS_BASER.Type of the device table, in place.
pub const BASER_TYPE_DEVICES: u64 = 1 << 56;
/// GITS_BASER.Type of the collection table, in place.
pub const BASER_TYPE_COLLECTIONS: u64 = 4 << 56;
/// The size in bytes of an entry of any table.
pub const ENTRY_BYTES: u64 = 8;
/// GITS_BASER.Entry_Size, in place.
pub const BASER_ENTRY_SIZE: u64 = (ENTRY_BYTES - 1) << 48;
/// GITS_CWRITER.Offset and GITS_CREADR.Offset: a multiple of a command's 32 bytes.
pub const QUEUE_OFFSET: u64 = 0xf_ffe0;

/// GITS_TYPER: physical LPIs, processors by number (PTA 0), no collection without memory (HCC 0).
pub const fn typer(event_bits: u32, device_bits: u32, collection_bits: u32) -> u64 {
    1 | (ENTRY_BYTES - 1) << 4
        | (event_bits.saturating_sub(1) as u64 & 0x1f) << 8
        | (device_bits.saturating_sub(1) as u64 & 0x1f) << 13
        | (collection_bits.saturating_sub(1) as u64 & 0xf) << 32
        | 1 << 36
}

/// The address of the command queue.
pub const fn cbaser_address(cbaser: u64) -> u64 {
    cbaser & 0x000f_ffff_ffff_f000
}

/// The size of the command queue in bytes.
pub const fn cbaser_bytes(cbaser: u64) -> u64 {
    ((cbaser & 0xff) + 1) << 12
}

/// How many entries the flat table of this GITS_BASER has: none while it isn't valid.
pub const fn baser_entries(baser: u64) -> u64 {
    if baser & VALID == 0 {
        return 0;
    }
    // Pages of 4, 16 or 64 KiB.
    let page_shift = match baser >> 8 & 3 {
        size @ 0..2 => 12 + 2 * size,
        _ => 16,
    };
    (((baser & 0xff) + 1) << page_shift) / ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typer_has_its_fields_where_the_manual_says() {
        let typer = typer(11, 16, 4);
        assert_eq!(typer & 1, 1);
        assert_eq!(typer >> 4 & 0xf, 7);
        assert_eq!(typer >> 8 & 0x1f, 10);
        assert_eq!(typer >> 13 & 0x1f, 15);
        assert_eq!(typer >> 19 & 1, 0, "PTA");
        assert_eq!(typer >> 24 & 0xff, 0, "HCC");
        assert_eq!(typer >> 32 & 0x1f, 0x13, "CIL and CIDbits");
    }

    #[test]
    fn a_table_has_pages_of_its_size_and_none_while_invalid() {
        assert_eq!(baser_entries(VALID), 512);
        assert_eq!(baser_entries(VALID | 2 << 8 | 7), 8 * 65536 / 8);
        assert_eq!(baser_entries(7), 0);
    }

    #[test]
    fn the_writable_fields_of_a_table_register_leave_type_and_entry_size_alone() {
        assert_eq!(BASER_WRITABLE & (7 << 56 | 0x1f << 48 | 1 << 62), 0);
    }
}
