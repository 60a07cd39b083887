//! What a developer runs: `cargo xtask setup`, `demo`, `test`, `bench`.
#![allow(dead_code)]

mod guest;
mod host;
mod paths;
mod process;
mod say;

fn main() -> anyhow::Result<()> {
    guest::prepare("aarch64")
}
