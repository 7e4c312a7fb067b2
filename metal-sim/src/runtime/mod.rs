//! An Objective-C runtime in plain Rust: the part of the GNUstep 1.7 ABI that objc2 links to.
//!
//! In that ABI a message is sent as `objc_msg_lookup(receiver, sel)(receiver, sel, …)`, so no assembly is needed.
//!
//! What it does beyond the job: dead objects keep their (poisoned) headers for a long while, so that messages to
//! them, releases and retains are noticed without a sanitizer; autoreleases without a pool are counted; and nothing
//! on the path of a message orders threads (method tables are frozen when a class is registered, counts are
//! relaxed, dead objects are handed over without acquiring), since every such edge would hide a race of the
//! client's from ThreadSanitizer.

mod arc;
mod block;
mod class;
mod message;
mod object;
mod pool;
mod protocol;
mod selector;
mod weak;

pub(crate) use arc::{is_live, retain_count, try_retain};
pub(crate) use block::live_blocks;
pub(crate) use class::{live_by_name, unsent_methods};
pub(crate) use object::{ConstantString, Object};
pub(crate) use pool::unpooled_autoreleases;
