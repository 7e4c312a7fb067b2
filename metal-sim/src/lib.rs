//! Metal, Grand Central Dispatch and an Objective-C runtime, simulated on Linux for tests.
//!
//! Link this crate (`use metal_sim as _;`), and Rust code that was written for macOS against `objc2-metal` runs
//! unchanged. It gets a GPU that is strict where Apple's documentation is and adversarial where it is silent; the
//! README has each of its assumptions with its source, and says what it can't show.
//!
//! - [`control()`] fails, holds back, delays and reorders what the GPU does.
//! - [`counters`] says what a client did and what it has not released.
//! - [`violations`] is what a client did that it must not do. By default the first one ends the process.
//! - [`kernels`] has native stand-ins for compute kernels: there is no compiler for the Metal Shading Language.

#[cfg(not(target_os = "linux"))]
compile_error!("metal-sim stands in for Metal where there is none: it runs on Linux");

mod activity;
mod control;
mod dispatch;
mod foundation;
pub mod kernels;
mod mailbox;
mod metal;
mod random;
mod runtime;
mod track;
mod violation;

pub use control::{
    Chance, Control, Counters, Exclusive, Hold, Knobs, Live, Nil, control, counters, exclusive, settle,
};
pub use metal::{host_work, new_device};
pub use violation::{take_violations, violations};

/// The methods of a simulated class (`"SimMTLDevice"`, …) that no message has reached so far.
///
/// objc2 checks a method's selector and encoding against the binding when a message is sent, so a method in this
/// list is one that no test has checked.
#[must_use]
pub fn unsent_methods(class: &std::ffi::CStr) -> Vec<String> {
    runtime::unsent_methods(class)
}
