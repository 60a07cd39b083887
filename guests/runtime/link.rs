// The build script of every small guest: hands the linker script to the linker, for the bare-metal target only. On a
// host such a package is an empty program, so that the workspace builds as a whole.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../runtime/link.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let source = format!("../runtime/{arch}.ld");
    println!("cargo:rerun-if-changed={source}");
    // A copy, since cargo knows of OUT_DIR that it moves: in a tree that was copied with its target folder this script isn't run
    // again, and a path of the source would be the other tree's.
    let script = format!("{}/image.ld", std::env::var("OUT_DIR").unwrap_or_default());
    std::fs::copy(&source, &script).expect("the linker script can be copied");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    let mut arguments = vec!["-zmax-page-size=4096", "-znorelro", "--gc-sections"];
    if arch == "aarch64" {
        // Position-independent: it runs wherever the VM's RAM is, the first instructions apply the relocations.
        arguments.extend(["-pie", "-znotext", "--no-dynamic-linker"]);
    }
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
