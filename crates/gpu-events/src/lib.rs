//! Events for GPU work: portable, pooled, awaitable, truthful about failure and time.
//!
//! An [`Event`] marks a point in a [`Stream`] of work. Other streams wait for it, on the device; the host polls it,
//! blocks on it, awaits it or is called back by it; and two of them tell how long the work between took.
//!
//! ```
//! use gpu_events::Device;
//!
//! let device = Device::open("cpu")?;
//! let (produce, consume) = (device.create_stream()?, device.create_stream()?);
//!
//! let start = produce.record_timed()?;
//! produce.cpu()?.enqueue(|| println!("producing"))?;
//! let produced = produce.record_timed()?;
//!
//! consume.wait(&produced)?; // on the device: the host goes on at once
//! consume.cpu()?.enqueue(|| println!("consuming"))?;
//! consume.record()?.synchronize()?;
//!
//! println!("producing took {}", produced.elapsed_since(&start)?);
//! # Ok::<(), gpu_events::Error>(())
//! ```
//!
//! # The idea
//! A stream has one *timeline*, a count of recordings that only grows. Recording an event points it at the stream's
//! next *position*; it is *complete* when all work submitted to the stream before is done. An event is therefore a
//! small handle on (timeline, position), and what follows is what this crate is about:
//!
//! - Recording again replaces a number. Nothing native is reset, so nothing can be rewound under somebody who waits.
//! - Whether an event is complete is a comparison, whatever the number of events and of those who ask.
//! - Failure belongs to the timeline: it is sticky, it reaches everyone who observes it and every stream that waits
//!   for it, and nobody hangs.
//!
//! # Where to look
//! - [`Device`]: opening, listing and closing devices; [`Stream`]: queues of work on them; [`cpu`]: work for the CPU.
//! - [`Event`], [`EventPool`], and [`EventTable`] for ids; [`statuses`], [`wait_any`] and [`wait_all`] over many events.
//! - [`HostSignal`]: events that the host completes; [`External`]: for work that somebody else submits.
//! - [`Timestamp`], [`Elapsed`], [`Correlation`]: time, with its clock and resolution.
//! - `trace` (with the feature of that name): spans, timelines, and what shows them.
//! - [`StallReport`]: who waits for what, when things stand still.
//! - [`backend`]: for those who bring a device.
//!
//! # The contract
//! The promises are numbered, R1 to R41, in the project's `docs/contract.md`; the documentation of an item names the
//! ones that it keeps, and `gpu-events doctor` checks them on your own devices.
//!
//! # Threads
//! Everything is `Send + Sync` (but for [`StreamGuard`]), takes `&self`, and may be called from any thread, from
//! callbacks, and from work on a CPU stream. Wakers and callbacks run with no lock held.
//!
//! # Features
//! - `cpu` (default): the CPU device.
//! - `cuda` (default): NVIDIA's GPUs through CUDA, whose driver is loaded when the first is asked for. Where there is none,
//!   everything else works.
//! - `cudarc-0_19`: streams and events of [cudarc](https://docs.rs/cudarc) 0.19, and of what is made of it, as they are. A later
//!   cudarc gets a feature of its own.
//! - `metal` (default): GPUs through Metal, on Apple's systems. Elsewhere it brings nothing in, not even a dependency.
//! - `vulkan` (default): GPUs through Vulkan, whose loader is found when the first is asked for.
//! - `trace`: spans over timed events on one axis with the host's, their analysis and merging, as HTML, as text, as Chrome's JSON;
//!   `trace-perfetto` and `trace-opentelemetry` as those have them; `tracing`: the spans of the `tracing` crate beside them.
//! - `ash-0_38`: Vulkan's handles as [ash](https://docs.rs/ash) 0.38 has them, and what is made of it.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]

pub mod backend;
mod callback;
mod contain;
mod device;
mod error;
mod event;
mod external;
mod fork;
mod future;
mod host;
mod lane;
mod pool;
mod primitive;
mod stall;
mod stream;
mod table;
mod time;
mod timeline;
#[cfg(all(feature = "trace", not(gpu_events_loom)))]
pub mod trace;
mod wait;
#[cfg_attr(any(not(feature = "cpu"), gpu_events_loom), allow(dead_code))]
mod work;

#[cfg(feature = "cpu")]
pub use backend::cpu;
#[cfg(all(feature = "cuda", not(gpu_events_loom)))]
pub use backend::cuda;
#[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
pub use backend::metal;
#[cfg(all(feature = "vulkan", not(gpu_events_loom)))]
pub use backend::vulkan;
pub use callback::Callback;
pub use device::{BackendListing, Capabilities, Device, DeviceId, DeviceInfo, Gates};
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, EventId, Status, statuses};
pub use external::{External, ExternalPending};
pub use fork::check as check_fork;
pub use future::Completion;
pub use host::HostSignal;
pub use pool::{EventPool, PoolStatistics};
pub use stall::{StallChain, StallEnd, StallReport, StallWait, Stalled};
pub use stream::{ForeignWaits, Signal, Stream, StreamGuard, StreamId, StreamOptions, StreamWait, WhenFull};
pub use table::EventTable;
pub use time::{Clock, ClockId, Correlation, Elapsed, Timestamp};
pub use wait::{WaitAny, WaitOptions, WaitOutcome, WaitStrategy, wait_all, wait_any};
