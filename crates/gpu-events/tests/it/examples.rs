//! The examples run, and end well. What they print is theirs.

#[path = "../../examples/await_event.rs"]
mod await_event;
#[path = "../../examples/overlap.rs"]
mod overlap;
#[path = "../../examples/quickstart.rs"]
mod quickstart;
#[path = "../../examples/timeout.rs"]
mod timeout;

use crate::support::{BOUND, within};

#[test]
fn quickstart_runs() {
    within(BOUND, quickstart::main).expect("it ends").unwrap();
}

#[test]
fn overlap_runs() {
    within(BOUND, overlap::main).expect("it ends").unwrap();
}

#[test]
fn await_event_runs() {
    within(BOUND, await_event::main).expect("it ends").unwrap();
}

#[test]
fn timeout_runs() {
    within(BOUND, timeout::main).expect("it ends").unwrap();
}
