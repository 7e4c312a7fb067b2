//! Tests of the whole crate through its public interface, in one binary.
//!
//! - `hazards`: what is known to go wrong in the original (`docs/seed-parity.md`), each shown to be caught in
//!   `seed_way`, a re-creation of it.
//! - `skeleton`: the backend that CONTRIBUTING.md tells to copy, over the fake driver in `driver`; `skeleton_works`
//!   puts it to use.
//! - The others: what the conformance suite (`crates/conformance`), which knows backends and not this crate's own
//!   machinery, does not cover.
//!
//! Work is held back with gates and host signals, never with sleeps; waits are bounded.

#![cfg(all(feature = "cpu", not(gpu_events_loom)))]

// Linked for the symbols that it has in the place of Apple's.
#[cfg(gpu_events_metal_sim)]
use metal_sim as _;

mod driver;
mod errors;
mod examples;
mod hazards;
mod ids;
mod inert;
mod many;
mod observers;
mod ours;
mod parity;
mod pools;
mod process;
mod reentry;
mod seed_way;
mod skeleton;
mod skeleton_works;
mod stalls;
mod statics;
mod streams;
mod support;
#[cfg(feature = "trace")]
mod trace;
