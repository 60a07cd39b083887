//! PCI functions, for what they are.

use super::*;

#[test]
fn a_function_outside_the_iommu_is_refused() {
    let mut platform = board();
    platform.functions.as_mut().unwrap()[1].sources.clear();
    assert_eq!(refusals(&given(pci(2, 0)), &platform), [(Rule::Dma, of_device("pci"))]);
}

#[test]
fn bridges_stay_the_hypervisors() {
    let platform = with_functions(vec![port(4)], &[0]);
    assert_eq!(refusals(&given(pci(4, 0)), &platform), [(Rule::DeviceUnsupported, of_device("pci"))]);
}

#[test]
fn virtio_devices_are_given_if_they_say_that_the_iommu_is_on_their_way() {
    for (device, said) in [Virtio::Past, Virtio::Legacy, Virtio::Unknown].into_iter().enumerate() {
        let virtio = Function { virtio: Some(said), ..endpoint(device as u8 + 1, 0) };
        let file = given(pci(device as u8 + 1, 0));
        let platform = with_functions(vec![virtio], &[0]);
        assert_eq!(refusals(&file, &platform), [(Rule::Dma, of_device("pci"))]);
        let line = &lines(&file, &platform)[0];
        assert!(line.contains("iommu_platform=on,disable-legacy=on"), "{line}");
    }
    let virtio = Function { virtio: Some(Virtio::Platform), ..endpoint(1, 0) };
    planned(&given(pci(1, 0)), &with_functions(vec![virtio], &[0]));
}

#[test]
fn a_function_without_a_reset_is_refused_unless_the_file_says_so() {
    let mut edu = endpoint(4, 0);
    edu.resets.clear();
    let platform = with_functions(vec![edu], &[0]);
    assert_eq!(refusals(&given(pci(4, 0)), &platform), [(Rule::Reset, of_device("reset"))]);
}

#[test]
fn a_function_whose_errors_reach_the_firmware_is_refused() {
    let mut functions = vec![port(4), behind(4, 1, 0)];
    functions[0].stuck = Some(0x3e);
    let platform = with_functions(functions.clone(), &[0, 1]);
    assert_eq!(refusals(&given(on_bus(1, 0)), &platform), [(Rule::DeviceUnsupported, of_device("pci"))]);
    assert!(lines(&given(on_bus(1, 0)), &platform)[0].contains("register 0x3e of 0000:00:04.0"));
    functions[0].stuck = None;
    planned(&given(on_bus(1, 0)), &with_functions(functions, &[0, 1]));
}

#[test]
fn a_bar_for_which_no_window_has_room_is_a_problem() {
    let mut card = endpoint(4, 0);
    card.bars[0].address = None;
    let platform = with_functions(vec![card], &[0]);
    assert_eq!(refusals(&given(pci(4, 0)), &platform), [(Rule::NoRoom, of_device("pci"))]);
}
