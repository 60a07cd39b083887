//! Kernels of Ubuntu's, for Linux hosts that are another than Debian's newest: one that has what Debian builds none with, and one that is too
//! old. Each is known by its sum, so that no keys of Ubuntu's are needed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::guest::debian::{self, Kernel};
use crate::{paths, process, say};

/// Where they lie.
const POOL: &str = "http://archive.ubuntu.com/ubuntu/pool/main/l";

/// A package.
struct Package {
    /// Its file, below [`POOL`].
    file: &'static str,
    sha256: &'static str,
}

/// A kernel.
pub struct Series {
    /// How runs name it.
    name: &'static str,
    /// As `uname -r` says it.
    release: &'static str,
    /// What it is made of, all for x86_64.
    packages: &'static [Package],
    /// Modules that a Linux host has of it.
    pub modules: &'static [&'static str],
}

const ALL: &[Series] = &[
    // Its functions have nodes of their own, for iommufd (CONFIG_VFIO_DEVICE_CDEV), and groups, too.
    Series {
        name: "ubuntu-6.8",
        release: "6.8.0-31-generic",
        packages: &[
            Package {
                file: "linux/linux-image-unsigned-6.8.0-31-generic_6.8.0-31.31_amd64.deb",
                sha256: "35115ceb5ddc1e73034a73d6b064b9c6d38c534f20279fd7229c510515b931d8",
            },
            Package {
                file: "linux/linux-modules-6.8.0-31-generic_6.8.0-31.31_amd64.deb",
                sha256: "3f17f2c279257eb50e40da44390bdf8272c440ca078831c348773d1314b5c2fe",
            },
        ],
        modules: &[
            "nvme",
            "e1000",
            "e1000e",
            "vfio_iommu_type1",
            "vfio_pci",
            "9p",
            "9pnet_virtio",
            "kvm_amd",
            "kvm_intel",
        ],
    },
    // Its KVM hasn't all that is needed.
    Series {
        name: "ubuntu-3.13",
        release: "3.13.0-24-generic",
        packages: &[Package {
            file: "linux/linux-image-3.13.0-24-generic_3.13.0-24.46_amd64.deb",
            sha256: "ec9322fb8cdd733638bfb99e14f994e87412bedd05b8df0d4f05d4138bd8f103",
        }],
        modules: &["9p", "9pnet_virtio", "kvm_amd", "kvm_intel"],
    },
];

/// The one of that name.
pub fn named(name: &str) -> Result<&'static Series> {
    let known = || ALL.iter().map(|it| it.name).collect::<Vec<_>>().join(", ");
    ALL.iter()
        .find(|it| it.name == name)
        .with_context(|| format!("there is no kernel {name} here; there are {}", known()))
}

impl Series {
    /// The folder of what is made of it: its image, its modules, an initramfs.
    pub fn folder(&self) -> PathBuf {
        paths::linux_host("x86_64").join(self.name)
    }

    /// Its image in its folder, and its modules in one below.
    pub fn kernel(&self) -> Result<Kernel> {
        let folder = self.folder();
        let (image, unpacked) = (folder.join(debian::image_name("x86_64")), folder.join("linux"));
        if !unpacked.is_dir() {
            self.fetch(&folder, &unpacked)?;
        }
        let modules = debian::modules_folder(&unpacked, self.release)?;
        if !image.is_file() {
            let packed = unpacked.join("boot").join(format!("vmlinuz-{}", self.release));
            paths::make_with(&image, |partial| {
                std::fs::copy(&packed, partial)
                    .map(drop)
                    .with_context(|| format!("cannot copy {}", packed.display()))
            })?;
        }
        Ok(Kernel { release: self.release.to_owned(), modules })
    }

    fn fetch(&self, folder: &Path, unpacked: &Path) -> Result<()> {
        // It looks at sums by itself.
        let helper = Path::new("/usr/lib/apt/apt-helper");
        if !helper.is_file() || process::find("dpkg-deb").is_none() {
            return say::missing(format!(
                "a Linux host's kernel is one of Ubuntu's packages, which apt fetches and dpkg-deb unpacks, and this machine hasn't got both; \
                 unpack those of {} that xtask/src/host/ubuntu.rs lists below {}",
                self.name,
                paths::shown(unpacked)
            ));
        }
        say::step(format_args!("fetching Ubuntu's kernel {} for a Linux host", self.release));
        std::fs::create_dir_all(folder)?;
        let mut files = Vec::new();
        for package in self.packages {
            let file = folder.join(Path::new(package.file).file_name().unwrap_or_default());
            let mut fetch = process::command(helper);
            fetch.arg("download-file").arg(format!("{POOL}/{}", package.file)).arg(&file);
            let fetched = process::output(fetch.arg(format!("SHA256:{}", package.sha256)));
            fetched
                .with_context(|| format!("cannot fetch {POOL}/{}; is the network there?", package.file))?;
            files.push(file);
        }
        paths::make_with(unpacked, |partial| {
            if partial.exists() {
                std::fs::remove_dir_all(partial)?;
            }
            files.iter().try_for_each(|file| {
                process::output(process::command("dpkg-deb").arg("-x").arg(file).arg(partial)).map(drop)
            })
        })?;
        files.iter().try_for_each(|file| Ok(std::fs::remove_file(file)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_known_by_its_name_and_each_package_by_its_sum() {
        assert_eq!(named("ubuntu-6.8").unwrap().release, "6.8.0-31-generic");
        assert!(named("ubuntu-6").is_err());
        for package in ALL.iter().flat_map(|it| it.packages) {
            assert!(package.sha256.len() == 64 && package.file.ends_with("_amd64.deb"), "{}", package.file);
        }
    }
}
