// The build script of every small guest: hands the linker script to the linker, for the bare-metal target only. On a
// host such a package is an empty program, so that the workspace builds as a whole.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../runtime/link.rs");
    println!("cargo:rerun-if-changed=../runtime/image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    // A copy, since cargo knows of OUT_DIR that it moves: in a tree that was copied with its target folder this script isn't run
    // again, and a path of the source would be the other tree's.
    let script = format!("{}/image.ld", std::env::var("OUT_DIR").unwrap_or_default());
    std::fs::copy("../runtime/image.ld", &script).expect("the linker script can be copied");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    // Position-independent: it runs wherever the VM's RAM is, the first instructions apply the relocations.
    for argument in
        ["-pie", "-znotext", "--no-dynamic-linker", "-zmax-page-size=4096", "-znorelro", "--gc-sections"]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
