//! Recordings in submissions that somebody else makes (R37).

use crate::{
    host::HostSignal,
    lane::{Lane, Producer},
    primitive::Ordering,
};
use std::sync::Arc;

/// The token of an external recording that is prepared and not yet submitted; see
/// [`Device::external_event`](crate::Device::external_event).
///
/// While it is in your hands, observing the event is [`NotSubmitted`](crate::ErrorKind::NotSubmitted): nobody waits for work that may
/// never be submitted. Dropped, the event fails with [`Abandoned`](crate::ErrorKind::Abandoned). The recording has a timeline of its
/// own and never enters a stream's order.
///
/// ```
/// use gpu_events::{Device, ErrorKind};
///
/// let device = Device::open("cpu")?;
/// let (event, token) = device.external_event()?;
/// assert_eq!(event.synchronize().unwrap_err().kind(), ErrorKind::NotSubmitted);
/// let running = token.submitted();
/// std::thread::spawn(move || running.complete());
/// event.synchronize()?;
/// # Ok::<(), gpu_events::Error>(())
/// ```
#[derive(Debug)]
pub struct External {
    /// Fails the recording when it is dropped, which is what abandoning means.
    signal: HostSignal,
    lane: Arc<Lane>,
}

impl External {
    pub(crate) fn new(lane: Arc<Lane>) -> Self {
        Self { signal: HostSignal::new(lane.clone()), lane }
    }

    /// The work has been submitted: from now on the event is pending like any other.
    pub fn submitted(self) -> ExternalPending {
        self.mark_submitted();
        ExternalPending { signal: self.signal }
    }

    /// As [`submitted`](Self::submitted), where it is the driver that will say when it is done: nobody has to, and the lane
    /// is kept by those who observe it alone.
    #[cfg(all(any(feature = "cuda", feature = "vulkan"), not(gpu_events_loom)))]
    pub(crate) fn left_to_driver(self) {
        self.mark_submitted();
        self.signal.let_go();
    }

    fn mark_submitted(&self) {
        if let Producer::External(submitted) = &self.lane.core.producer {
            // Release: pairs with the acquire in `is_unsubmitted`; what the submission wrote is there for whoever
            // sees it submitted.
            submitted.store(true, Ordering::Release);
        }
    }

    /// The work will not be submitted. The same as dropping this.
    pub fn abandon(self) {}
}

/// The token of an external recording whose work has been submitted. Dropped, the event fails with
/// [`Abandoned`](crate::ErrorKind::Abandoned).
#[derive(Debug)]
pub struct ExternalPending {
    signal: HostSignal,
}

impl ExternalPending {
    /// The work is done.
    pub fn complete(self) {
        self.signal.complete();
    }

    /// The work failed.
    pub fn fail(self, reason: impl Into<String>) {
        self.signal.fail(reason);
    }
}
