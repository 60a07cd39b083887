//! Where guests see their RAM on a board whose own begins above 4 GiB.

use axvm_addr::{PciSpace, PciWindow};

use super::*;

fn high_board() -> Platform {
    let mut platform = board();
    raise(&mut platform);
    platform.memory = vec![Span::new(Hpa(HIGH), 16 << 30).unwrap()];
    platform
}

fn start(system: &System, platform: &Platform) -> Gpa {
    planned(system, platform).vms[0].ram[0].gpa.start()
}

fn notes(system: &System, platform: &Platform) -> Vec<String> {
    let notes = planned(system, platform).notes;
    notes.into_iter().filter(|note| note.contains("32-bit DMA masks")).collect()
}

#[test]
fn ram_begins_below_4g_where_the_map_has_room_for_it() {
    let platform = high_board();
    let mut file = demo();
    file.vms[0].memory = 3 << 30;
    let plan = planned(&file, &platform);
    let RamPiece { gpa, hpa } = plan.vms[0].ram[0];
    assert_eq!(gpa, Span::new(Gpa(0x4000_0000), 3 << 30).unwrap());
    assert_eq!(hpa, Hpa(HIGH + (16 << 20)));
    assert_eq!(plan.vms[0].load.kernel, Gpa(0x4000_0000));
    assert!(notes(&file, &platform).is_empty());
    // More than fits below begins there too.
    file.vms[0].memory = 8 << 30;
    assert_eq!(start(&file, &platform), Gpa(0x4000_0000));
}

#[test]
fn ram_goes_around_what_the_board_and_the_file_have_there() {
    let mut platform = high_board();
    let mut file = demo();
    file.vms[0].devices.push(region("io", 0x5000_0000, 0x0903_0000, 0x1000));
    assert_eq!(start(&file, &platform), Gpa(0x5020_0000));
    file.vms[0].memory = 256 << 20;
    assert_eq!(start(&file, &platform), Gpa(0x4000_0000), "it fits before the region");
    // All from 1 GiB on is a window, where devices' DMA wouldn't reach RAM: what lies below is left.
    window(&mut platform, 0x4000_0000, 4 << 30);
    file.vms[0].devices.pop();
    file.vms[0].memory = 64 << 20;
    assert_eq!(start(&file, &platform), Gpa(0x0a20_0000), "after the virtio transports");
}

/// Another window of the host bridge.
fn window(platform: &mut Platform, start: u64, size: u64) {
    platform.pci_hosts[0].windows.push(PciWindow {
        space: PciSpace::Memory32,
        prefetchable: false,
        pci: start,
        cpu: Span::new(Hpa(start), size).unwrap(),
    });
}

#[test]
fn a_file_that_has_ram_above_4g_is_told_what_would_help() {
    for platform in [high_board(), board()] {
        let mut file = demo();
        file.vms[0].memory_base = Some(Gpa(HIGH));
        let [note] = &notes(&file, &platform)[..] else { panic!() };
        assert!(
            note.contains("\"linux\"") && note.ends_with("`memory_base = 0x40000000` would help"),
            "{note}"
        );
        file.vms[0].memory_base = Some(Gpa(0x4000_0000));
        assert!(notes(&file, &platform).is_empty());
    }
}

#[test]
fn without_room_below_ram_is_where_the_boards_is_and_a_note_says_so() {
    let mut platform = high_board();
    window(&mut platform, 0x8000_0000, 4 << 30);
    let mut file = demo();
    file.vms[0].memory = 3 << 30;
    assert_eq!(start(&file, &platform), Gpa(HIGH));
    let [note] = &notes(&file, &platform)[..] else { panic!() };
    assert!(
        note.contains("no place below holds 3G: `memory_base = 0x3f000000` would help with 1040M at most"),
        "{note}"
    );
    file.vms[0].devices.pop();
    platform.pci_hosts[0].windows.clear();
    window(&mut platform, 0, 4 << 30);
    let [note] = &notes(&file, &platform)[..] else { panic!() };
    assert!(note.ends_with("leaves no place for RAM below"), "{note}");
}

#[test]
fn a_vm_whose_devices_do_no_dma_is_told_nothing() {
    let mut file = demo();
    file.vms[0].memory_base = Some(Gpa(HIGH));
    file.vms[0].devices = vec![node("/pl031@9010000")];
    assert!(notes(&file, &high_board()).is_empty());
}
