//! Ctrl-C as an event: what waits for chunks waits for it as well.

use std::process;
use std::sync::Mutex;

use anyhow::Context;
use gpu_events::{Device, Event};

/// The shell's code for a program that SIGINT ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// An event that completes on Ctrl-C. A second Ctrl-C ends the process on the spot.
pub(crate) fn on_ctrl_c(device: &Device) -> anyhow::Result<Event> {
    let (event, signal) = device.host_event()?;
    let signal = Mutex::new(Some(signal));
    ctrlc::set_handler(move || {
        // Only this handler's one thread takes the lock, and nothing panics under it.
        match signal.lock().ok().and_then(|mut signal| signal.take()) {
            Some(signal) => signal.complete(),
            None => process::exit(EXIT_CODE.into()),
        }
    })
    .context("the handler of Ctrl-C")?;
    Ok(event)
}
