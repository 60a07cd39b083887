//! Hands the linker script to the linker, for the bare-metal target only: on a host there is nothing to link.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    // A copy, since cargo knows of OUT_DIR that it moves: in a tree that was copied with its target folder this script isn't run
    // again, and a path of the source would be the other tree's.
    let script = format!("{}/image.ld", std::env::var("OUT_DIR").unwrap_or_default());
    std::fs::copy("image.ld", &script).expect("the linker script can be copied");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    for argument in ["-static", "-zmax-page-size=4096", "-znorelro", "--gc-sections"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
