// The build script of every small guest: hands the linker script to the linker, for the bare-metal target only. On a
// host such a package is an empty program, so that the workspace builds as a whole.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("{folder}/../runtime/image.ld");
    println!("cargo:rerun-if-changed=../runtime/link.rs");
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    println!("cargo:rustc-link-arg-bins=-T{script}");
    // Position-independent: it runs wherever the VM's RAM is, the first instructions apply the relocations.
    for argument in
        ["-pie", "-znotext", "--no-dynamic-linker", "-zmax-page-size=4096", "-znorelro", "--gc-sections"]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
