//! Workers in a model: whenever a strand is made ready, a thread of the model comes to run it.

use super::strand::{self, Strand};
use crate::{error::Result, lane::Lane, primitive::spawn};
use std::sync::Arc;

pub(super) fn count() -> usize {
    1
}

pub(super) fn start() -> Result<()> {
    Ok(())
}

pub(super) fn schedule(lane: Arc<Lane<Strand>>) {
    spawn(String::new(), move || strand::run(lane)).expect("threads of a model are there for the asking");
}

pub(super) fn requeue(lane: Arc<Lane<Strand>>) {
    schedule(lane);
}

pub(super) fn publish() {}

pub(super) fn blocking(_begins: bool) {}
