//! What streams of GPU work did, and when.
//!
//! A [`Trace`] is plain data: [processes](Process), their [tracks](Track) (a track is a stream, or a thread of the host's), the
//! [spans](Span) on them, and the [waits](Wait) of one stream for another's events. `gpu-events` collects one as a program
//! runs; this crate needs no device: it [analyses](Analysis) a trace, puts several on one axis ([`merge`]), and shows them.
//!
//! ```
//! use gpu_events_trace::{Analysis, Process, Span, Trace, Track};
//!
//! let mut trace = Trace::new(Process::new("example"));
//! let copy = trace.add_track(Track::stream("cuda:0", "copy"));
//! trace.add_span(Span::new(copy, "upload", 1_000, 6_000));
//! assert_eq!(Analysis::of(&trace).tracks[copy].busy, 5_000);
//! ```

mod analysis;
mod chrome;
mod error;
pub mod exchange;
mod file;
mod format;
mod html;
mod merging;
mod model;
#[cfg(feature = "opentelemetry")]
mod otel;
#[cfg(feature = "perfetto")]
mod perfetto;
mod text;

pub use analysis::{Analysis, Cause, Held, Overlap, Step, TrackTimes};
pub use error::{Error, ErrorKind, Result};
pub use format::check_writable;
pub use merging::merge;
pub use model::{ClockId, ClockSample, Process, Span, Trace, Track, TrackKind, Wait};
