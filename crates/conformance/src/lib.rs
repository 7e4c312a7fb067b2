//! The conformance suite of [`gpu_events`]: what the contract promises, as cases that any backend can be run
//! against. The tests run it in CI, and `gpu-events doctor` on a user's own devices.
//!
//! A backend joins by implementing [`Subject`], a few dozen lines; [`CpuSubject`] is one to copy. A [`Case`] is a
//! row of a table: a number, a name, the contract's rules that it holds the backend to, and a function. A case
//! *passes*, *fails*, or is *skipped* for a stated reason; one that a backend should pass and cannot yet is an
//! *expected failure*, and passing unexpectedly fails.
//!
//! ```
//! use gpu_events_conformance::{CpuSubject, Filter, Subject, run};
//! use std::sync::Arc;
//!
//! let cpu: Arc<dyn Subject> = Arc::new(CpuSubject::default());
//! let report = run(&cpu, &Filter::new("lifecycle/*"), &mut |case| println!("{} {}", case.outcome, case.name));
//! assert_eq!(report.failed, 0);
//! ```
//!
//! # How a case is written
//!
//! Work is held back by waiting for host-signaled events, never by sleeping, and cases assert on order, values
//! and outcomes. So a case is as fast as the backend, and its verdict does not depend on the machine's load.
//! Every wait in a case is bounded, and so is every case: a hang is a failure like any other. Where time itself
//! is the matter, a case asserts what load cannot falsify: no wait ends early, and of several the best is on
//! time.
//!
//! # The simulated device
//!
//! [`toy`] is a device whose driver is unlike the CPU's in every way that matters to the seam: it takes work in
//! batches, says nothing unless asked, orders its own streams, and counts ticks. It passes the suite. Told to
//! misbehave in one of the ways of [`toy::Fault`], it does not, and which cases notice is part of the tests:
//! a suite that no broken backend fails would be worth nothing.

mod cases;
mod context;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(unix)]
mod fork;
#[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
mod metal;
pub mod pairs;
mod runner;
mod subject;
pub mod toy;
mod verdict;
#[cfg(feature = "vulkan")]
pub mod vulkan;

pub use cases::{Case, Group, cases};
pub use context::{Context, Hold, Task};
pub use cpu::CpuSubject;
#[cfg(feature = "cuda")]
pub use cuda::CudaSubject;
#[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
pub use metal::MetalSubject;
pub use runner::{CaseReport, Filter, Outcome, Report, run, run_cases};
pub use subject::{Adopted, Cells, Expectation, Subject};
pub use verdict::{Stop, Verdict};
#[cfg(feature = "vulkan")]
pub use vulkan::VulkanSubject;
