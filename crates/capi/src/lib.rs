//! The C interface of `gpu-events`: devices, streams and events by number.
//!
//! `include/gpu_events.h` is made from this crate's source by cbindgen, with the words that its items have here;
//! `include/gpu_events.hpp` is a layer of C++ over it, and `include/gpu_events/mps.hpp` one whose classes are those of the
//! `MPSEvent.h` that this library grew out of.
//!
//! # What holds for every call
//! - It answers a status; the text of an error is there for the thread that made the call (`gpuev_last_error`).
//! - A handle is a number that is never given out twice. Null, released, made up, or of another kind, it is
//!   `INVALID_HANDLE`. A pointer may be null where that is said, and is `INVALID_ARGUMENT` elsewhere.
//! - It may be made from any thread, from callbacks, and from work on a CPU stream; no lock of this crate's is held while it
//!   waits, calls a driver, or calls a function of the caller's. What the library below holds then is a stream's submit lock.
//! - No panic gets out. After a fork it is `FORKED` in the child.

pub mod device;
pub mod event;
pub mod handles;
mod held;
pub mod native;
pub mod pointers;
pub mod producers;
pub mod status;
pub mod stream;

// The simulation is a part of the archive that `metal-sim/capi` makes of this source.
#[cfg(gpu_events_metal_sim)]
use metal_sim as _;
