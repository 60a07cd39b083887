//! Hands the linker script to the linker, for the bare-metal target only: on a host there is nothing to link.

fn main() {
    println!("cargo:rerun-if-changed=src/arch/aarch64/image.ld");
    println!("cargo:rerun-if-changed=src/arch/x86_64/image.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // A copy, since cargo knows of OUT_DIR that it moves: in a tree that was copied with its target folder this script isn't run
    // again, and a path of the source would be the other tree's.
    let script = format!("{}/image.ld", std::env::var("OUT_DIR").unwrap_or_default());
    std::fs::copy(format!("src/arch/{arch}/image.ld"), &script).expect("the linker script can be copied");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    // Functions whose code is the same are one: nothing here compares their addresses.
    let mut arguments = vec!["-zmax-page-size=4096", "-znorelro", "--gc-sections", "--icf=all"];
    if arch == "aarch64" {
        // Position-independent: the boot loader chooses the address, the first instructions apply the relocations, a bit for each.
        arguments.extend(["-pie", "--no-dynamic-linker", "--pack-dyn-relocs=relr"]);
    }
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
