use std::io::{Read, Write};
use std::os::fd::IntoRawFd;

use axvm_guest::image::{Images as Known, Segment, VmImages};

use super::*;

/// KiB of this process's memory that are of a file's mapping.
fn resident(path: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let own = maps.lines().skip_while(|line| !line.ends_with(path.to_str().unwrap()));
    let rss = own.skip(1).find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim().trim_end_matches(" kB").parse().unwrap()
}

fn with(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// What another process would get by its own descriptor.
fn handed(file: &ImageFile, kind: ImageKind) -> Handed {
    let handed = file.hand_over(VmId(0), kind).unwrap();
    Handed { descriptor: file.file.try_clone().unwrap().into_raw_fd(), ..handed }
}

#[test]
fn what_nobody_looks_at_is_not_read_and_what_was_is_given_up() {
    let file = with(&vec![7; 8 << 20]);
    let mut image = ImageFile::open(file.path()).unwrap();
    assert_eq!((image.bytes().len(), image.bytes()[4096]), (8 << 20, 7));
    assert!(
        resident(file.path()) < 4096,
        "of 8192, as much about the place that was looked at as Linux likes"
    );
    image.look_away();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(file.path().to_str().unwrap()));
    assert!(image.bytes().is_empty());
}

#[test]
fn an_empty_file_has_nothing_and_what_is_no_file_is_refused() {
    assert!(ImageFile::open(with(&[]).path()).unwrap().bytes().is_empty());
    let folder = tempfile::tempdir().unwrap();
    let said = ImageFile::open(folder.path()).err().unwrap().to_string();
    assert_eq!(said, "it is not a file");
}

/// A VM with a kernel of two segments and a device tree, and its plan.
fn images(kernel: &tempfile::NamedTempFile, tree: &tempfile::NamedTempFile) -> (Images, LoadPlan) {
    let segment =
        |file_offset, file_size, offset| Segment { file_offset, file_size, offset, memory_size: file_size };
    let mut info = image::ImageInfo::parse(&[0; 16], Some((Gpa(0), Gpa(0)))).unwrap();
    info.segments = vec![segment(2, 3, 0), segment(6, 2, 0x1000)];
    let vm = VmImages { kernel: Ok(info), initrd_len: None, dtb_len: Some(4) };
    let open = |file: &tempfile::NamedTempFile| ImageFile::open(file.path()).unwrap();
    let list = vec![handed(&open(kernel), ImageKind::Kernel), handed(&open(tree), ImageKind::DeviceTree)];
    let beside = Beside { known: Known { vms: vec![vm] }, handed: list };
    // As it comes to the process that runs the VMs.
    let mut packed = axvm_system::bundle::write(&Default::default(), &Default::default(), "", &[]).unwrap();
    beside.add_to(&mut packed).unwrap();
    // SAFETY: the descriptors were made for it.
    let images = unsafe { Images::take(Beside::behind(&packed).unwrap()) }.unwrap();
    let plan = LoadPlan {
        kernel: Gpa(0x8000_0000),
        entry: Gpa(0x8000_0000),
        argument: Gpa(0x9000_0000),
        initrd: None,
        description: axvm_addr::Span::new(Gpa(0x9000_0000), 4).unwrap(),
    };
    (images, plan)
}

fn loaded(images: &Images, plan: &LoadPlan) -> Result<Vec<(u64, Vec<u8>)>, ImageError> {
    let mut seen = Vec::new();
    images.load(VmId(0), plan, |mut file, part| {
        let mut bytes = vec![0; part.bytes as usize];
        file.read_exact(&mut bytes).map_err(|error| ImageError::Unreadable(ImageKind::Kernel, error))?;
        seen.push((part.at.0, bytes));
        Ok::<_, ImageError>(())
    })?;
    Ok(seen)
}

#[test]
fn images_are_read_from_their_files_each_time_that_a_vm_is_loaded() {
    let (kernel, tree) = (with(b"01234567"), with(b"tree"));
    let (images, plan) = images(&kernel, &tree);
    assert_eq!(images.trees().unwrap(), [(0, b"tree".to_vec())]);
    // Whoever replaces a file by another one doesn't touch what is open.
    std::fs::remove_file(kernel.path()).unwrap();
    let wanted =
        [(0x8000_0000, b"234".to_vec()), (0x8000_1000, b"67".to_vec()), (0x9000_0000, b"tree".to_vec())];
    for _ in 0..2 {
        assert_eq!(loaded(&images, &plan).unwrap(), wanted);
    }
}

#[test]
fn what_was_written_to_since_is_not_loaded() {
    let (mut kernel, tree) = (with(b"01234567"), with(b"tree"));
    let (images, plan) = images(&kernel, &tree);
    kernel.write_all(b"8").unwrap();
    let error = loaded(&images, &plan).unwrap_err();
    assert!(matches!(error, ImageError::Changed(ImageKind::Kernel)), "{error}");
    // Cut while it is read: what was planned isn't there.
    kernel.as_file().set_len(4).unwrap();
    assert!(loaded(&images, &plan).is_err());
}

#[test]
fn what_is_cut_or_no_bundle_is_refused() {
    assert!(Beside::behind(b"nothing").is_err());
    let bundle = axvm_system::bundle::write(&Default::default(), &Default::default(), "", &[]).unwrap();
    assert!(Beside::behind(&bundle).is_err(), "nothing is behind it");
}
