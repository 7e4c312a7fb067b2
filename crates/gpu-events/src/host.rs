//! The host as a producer (R39).

use crate::{
    error::{Error, ErrorKind},
    fork,
    lane::Lane,
};
use std::sync::Arc;

/// The producer's end of a host-signaled event; see [`Device::host_event`](crate::Device::host_event).
///
/// Signals once, by value. Dropped unused it fails its event with [`ErrorKind::Abandoned`]: nobody waits for a
/// producer that has gone.
#[derive(Debug)]
pub struct HostSignal {
    lane: Option<Arc<Lane>>,
}

impl HostSignal {
    pub(crate) fn new(lane: Arc<Lane>) -> Self {
        Self { lane: Some(lane) }
    }

    /// Completes the event. What this thread wrote before is seen by whoever sees the completion (R8).
    pub fn complete(mut self) {
        self.settle(None);
    }

    /// Fails the event, and with it whoever waits for it, with [`ErrorKind::WorkFailed`] and this text.
    pub fn fail(mut self, reason: impl Into<String>) {
        self.settle(Some(Error::with_text(ErrorKind::WorkFailed, reason)));
    }

    /// Goes without a word: somebody else will say it.
    #[cfg(all(any(feature = "cuda", feature = "vulkan"), not(gpu_events_loom)))]
    pub(crate) fn let_go(mut self) {
        self.lane = None;
    }

    fn settle(&mut self, error: Option<Error>) {
        let Some(lane) = self.lane.take() else { return };
        if fork::happened() {
            return;
        }
        match error {
            None => lane.advance(1),
            Some(error) => lane.fail(1, error),
        }
    }
}

impl Drop for HostSignal {
    fn drop(&mut self) {
        self.settle(Some(Error::new(ErrorKind::Abandoned)));
    }
}
