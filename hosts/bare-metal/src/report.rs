//! What the hypervisor tells the tool that started it.

use alloc::vec::Vec;

use axvm::report::Report;
use axvm_platform::model::Platform;
use axvm_system::wire::Channel;
use serde::Serialize;

use crate::console;
use crate::log;

/// Sends the report. It is the last that the tool waits for. Without the tool there is a line for people.
pub fn send(report: &Report) {
    if !console::has_frames() {
        log::info!("verdict: {}", report.verdict);
    }
    console::send(Channel::Report, &pack(report));
    console::send(Channel::ReportEnd, &[]);
}

/// Sends what the machine was found to be.
pub fn send_platform(platform: &Platform) {
    console::send(Channel::Platform, &pack(platform));
    console::send(Channel::PlatformEnd, &[]);
}

/// As it goes over the line.
pub fn pack(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap_or_else(|error| {
        log::error!("the report can't be sent: {error}");
        Vec::new()
    })
}
