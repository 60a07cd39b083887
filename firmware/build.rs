//! Hands the linker script to the linker, for the bare-metal target only. On a host the package is an empty program, so that the
//! workspace builds as a whole.

fn main() {
    let script = format!("{}/image.ld", std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    println!("cargo:rustc-link-arg-bins=-T{script}");
    for argument in ["-static", "-zmax-page-size=4096", "-znorelro", "--gc-sections"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
