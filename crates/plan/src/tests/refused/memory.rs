//! RAM, images, command line and device tree.

use super::*;

#[test]
fn ram_must_be_whole_blocks_at_a_multiple_of_a_block() {
    let mut system = demo();
    system.vms[0].memory = (512 << 20) + 4096;
    assert_eq!(refusals(&system, &board()), [(Rule::Alignment, of_vm("memory"))]);
    assert!(lines(&system, &board())[0].contains("\"514M\""));
    let mut system = demo();
    system.vms[0].memory_base = Some(Gpa(0x4010_0000));
    assert_eq!(refusals(&system, &board()), [(Rule::Alignment, of_vm("memory_base"))]);
}

#[test]
fn ram_must_fit_into_what_the_hypervisor_and_earlier_vms_leave() {
    let mut system = system(vec![vm("a", &[1], vec![]), vm("b", &[2], vec![])]);
    system.vms[0].memory = 1 << 30;
    system.vms[1].memory = 1 << 30;
    assert_eq!(refusals(&system, &board()), [(Rule::MemoryFit, Item::Vm(1, "memory".into()))]);
}

#[test]
fn ram_must_not_lie_over_anything_of_the_boards() {
    for (base, what) in [(0x0800_0000, "GIC"), (0x3000_0000, "PCI window"), (0x40_0000_0000, "config space")]
    {
        let mut system = demo();
        system.vms[0].memory_base = Some(Gpa(base));
        let lines = lines(&system, &board());
        assert!(
            lines.iter().any(|line| line.contains(what) && line.contains("[memory-place]")),
            "{what}: {lines:?}"
        );
    }
}

#[test]
fn ram_must_lie_within_the_address_bits() {
    let mut system = demo();
    system.vms[0].memory_base = Some(Gpa(1 << 44));
    assert_eq!(refusals(&system, &board()), [(Rule::MemoryPlace, of_vm("memory_base"))]);
    system.vms[0].memory_base = Some(Gpa(!0x1f_ffff));
    assert_eq!(refusals(&system, &board()), [(Rule::MemoryPlace, of_vm("memory_base"))]);
}

#[test]
fn a_kernel_that_is_missing_or_cannot_be_started_is_refused_with_its_reason() {
    let mut images = images(1);
    images.vms[0].kernel = Err(ImageError::Empty);
    let problems = plan(&demo(), &board(), &images).unwrap_err();
    assert_eq!((problems.len(), problems[0].rule, &problems[0].item), (1, Rule::Kernel, &of_vm("kernel")));
    assert!(problems[0].message.contains("the kernel is empty"));
    let problems = plan(&demo(), &board(), &Images::default()).unwrap_err();
    assert_eq!((problems.len(), problems[0].rule), (1, Rule::Kernel));
}

#[test]
fn images_must_fit_into_ram() {
    let mut system = demo();
    system.vms[0].memory = 32 << 20;
    assert_eq!(refusals(&system, &board()), [(Rule::ImageFit, of_vm("memory"))]);
    system.vms[0].memory = 56 << 20;
    assert_eq!(refusals(&system, &board()), [(Rule::ImageFit, of_vm("initrd"))]);
}

#[test]
fn a_place_for_the_device_tree_is_in_ram_and_clear_of_the_kernel() {
    let mut system = demo();
    let wrong = [
        (0x4f00_0004, Rule::Alignment, "multiple of 8"),
        (0x3fff_f000, Rule::ImageFit, "RAM is 0x40000000"),
        (0x6000_0000, Rule::ImageFit, "RAM is"),
        (!7, Rule::ImageFit, "RAM is"),
        // The kernel's first and last bytes.
        (0x4000_0000, Rule::ImageFit, "the kernel takes"),
        (0x42ff_fff8, Rule::ImageFit, "the kernel takes"),
        // Less than the tree takes before the end of RAM.
        (0x5fff_fff8, Rule::ImageFit, "room for 8 at"),
    ];
    for (at, rule, text) in wrong {
        system.vms[0].device_tree = Some(Gpa(at));
        assert_eq!(refusals(&system, &board()), [(rule, of_vm("device_tree"))], "{at:#x}");
        assert!(lines(&system, &board())[0].contains(text), "{:?}", lines(&system, &board()));
    }
    // The guest's own tree, of a size that the file tells.
    system.vms[0].dtb = Some("own.dtb".into());
    system.vms[0].device_tree = Some(Gpa(0x5fff_0000));
    let mut images = images(1);
    images.vms[0].dtb_len = Some(64 << 10);
    assert!(plan(&system, &board(), &images).is_ok());
    images.vms[0].dtb_len = Some((64 << 10) + 1);
    let problems = plan(&system, &board(), &images).unwrap_err();
    assert_eq!(problems.iter().map(|problem| &problem.item).collect::<Vec<_>>(), [&of_vm("device_tree")]);
}

#[test]
fn a_command_line_is_one_that_a_kernel_takes_as_a_whole() {
    let with = |cmdline: alloc::string::String| {
        let mut file = given(pci(2, 0));
        file.vms[0].cmdline = cmdline;
        file
    };
    let refused = [(Rule::CommandLine, Item::Vm(0, "cmdline".into()))];
    assert_eq!(refusals(&with("quiet\0 rw".into()), &board()), refused);
    assert_eq!(refusals(&with("x".repeat(2048)), &board()), refused);
    assert_eq!(refusals(&with("x".repeat(3 << 20)), &board()), refused);
    planned(&with("x".repeat(2047)), &board());
}

#[test]
fn a_node_whose_properties_no_tree_can_say_is_refused() {
    let mut platform = board();
    let device = platform.devices.iter_mut().find(|device| device.path == "/pl031@9010000").unwrap();
    let twice = device.properties[0].clone();
    device.properties.push(twice);
    let file = given(node("/pl031@9010000"));
    assert_eq!(refusals(&file, &platform), [(Rule::Description, Item::Vm(0, "".into()))]);
}
