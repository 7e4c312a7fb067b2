//! wgpu's Vulkan device, used by gpu-events as well: events around wgpu's own compute passes.
//!
//! [`Shared`] is what there is to copy: it takes the handles out of wgpu, and keeps the queue to one thread at a time.
//! [`Passes`] is some work, so that there is something to time and to wait for.

#![cfg(target_os = "linux")]

mod passes;
mod shared;

pub use passes::Passes;
pub use shared::Shared;

/// What goes wrong is wgpu's or gpu-events'.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
