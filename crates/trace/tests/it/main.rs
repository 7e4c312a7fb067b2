//! Traces written, read, merged and shown, through the crate's public interface.

mod common;
#[cfg(feature = "perfetto")]
mod formats;
#[cfg(feature = "perfetto")]
mod processes;
