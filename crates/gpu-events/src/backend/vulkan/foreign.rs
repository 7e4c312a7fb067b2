//! Recordings in submissions that somebody else makes (R37), and timeline semaphores that somebody else signals.

use super::{
    backend_of,
    driver::{RawSemaphore, error},
    gpu::{Gpu, Semaphore},
    pump::{Look, Retired, Watched},
    queue::Queue,
};
use crate::{
    backend::{
        BackendStream, Flushed, Gate, Lane, Signaled, Source, StreamTraits, Waited,
        reaper::{KeepAlive, Kept},
    },
    device::Device,
    error::{Error, ErrorKind, Result},
    event::{Event, Point},
    external::External,
    fork,
    lane::Observed,
    primitive::lock,
    timeline::Progress,
};
use ash::vk;
use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Instant,
};

/// The driver half of a recording that somebody else makes: a semaphore, and the value that it is to have.
pub(super) struct Foreign {
    lane: Weak<Lane<Self>>,
    gpu: Arc<Gpu>,
    semaphore: Arc<Semaphore>,
    value: u64,
    state: SignalState,
    /// The pump has the lane.
    listed: Mutex<bool>,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if !fork::happened() && self.semaphore.is_awaited(self.gpu.functions()) {
            // The user's submission is on its way: nobody may have the semaphore before.
            self.gpu.pump.retire(Retired::after(self.semaphore.clone(), Self::POSITION, &self.gpu));
        }
    }
}

/// Whether what signals a semaphore was submitted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalState {
    /// It was: the device can wait for it.
    Submitted,
    /// It was not, or the host will signal it, or nobody knows. Streams that wait for it are let go by the host: with such a
    /// wait in the driver, a queue would stand still, and all other streams on it.
    Unsubmitted,
}

impl Foreign {
    const POSITION: u64 = 1;

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub(super) fn point(&self) -> (&Arc<Semaphore>, u64) {
        (&self.semaphore, self.value)
    }

    pub(super) fn is_on_its_way(&self) -> bool {
        self.state == SignalState::Submitted
    }

    pub(super) fn target(&self) -> Option<(vk::Semaphore, u64)> {
        Some((self.semaphore.raw, self.value))
    }

    pub(super) fn look(&self, lane: &Arc<Lane<Self>>) -> Look {
        self.collect(lane);
        if lane.core.timeline.progress(Self::POSITION) == Progress::Pending {
            return Look::Same;
        }
        *lock(&self.listed) = false;
        Look::Over
    }

    fn is_reached(&self) -> Result<bool, vk::Result> {
        // SAFETY: the semaphore is there for as long as this is.
        unsafe { self.gpu.functions().get_semaphore_counter_value(self.semaphore.raw) }
            .map(|value| value >= self.value)
    }

    /// Brings the news that there are. With no lock held.
    fn collect(&self, lane: &Lane<Self>) {
        match self.is_reached() {
            Ok(true) => lane.advance(Self::POSITION),
            Ok(false) => {}
            Err(code) => {
                let error = error("vkGetSemaphoreCounterValue", code);
                if code == vk::Result::ERROR_DEVICE_LOST {
                    self.gpu.lose(error);
                } else {
                    lane.fail(Self::POSITION, error);
                }
            }
        }
    }
}

impl BackendStream for Foreign {
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: false, batches: false }
    }

    fn signal(&self, _position: u64, _timed: bool) -> Result<Signaled> {
        Err(Error::new(ErrorKind::Unsupported))
    }

    fn wait(&self, _source: &Source<'_>) -> Result<Waited> {
        Err(Error::new(ErrorKind::Unsupported))
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        Err(Error::new(ErrorKind::Unsupported))
    }

    fn flush(&self) -> Result<Flushed> {
        Ok(Flushed::All)
    }

    fn poll(&self) {
        if let Some(lane) = self.lane.upgrade() {
            self.collect(&lane);
        }
    }

    fn watch(&self, _position: u64) {
        if let Some(lane) = self.lane.upgrade()
            && !std::mem::replace(&mut *lock(&self.listed), true)
        {
            self.gpu.pump.watch(Watched::Foreign(lane));
        }
    }

    fn block(&self, _position: u64, until: Instant) -> bool {
        if self.lane.upgrade().is_none_or(|lane| lane.is_failed()) {
            return false;
        }
        let position = self.value.saturating_sub(self.semaphore.base);
        self.semaphore.block(self.gpu.functions(), position, until)
    }

    fn abandon(&self) {}
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Foreign")
            .field("semaphore", &self.semaphore)
            .field("value", &self.value)
            .finish_non_exhaustive()
    }
}

fn make(
    device: &Device,
    gpu: &Arc<Gpu>,
    semaphore: Arc<Semaphore>,
    value: u64,
    state: SignalState,
) -> Result<(Event, External, Arc<Lane<Foreign>>)> {
    gpu.check()?;
    let made = device.external_event_with(None, |lane| Foreign {
        lane: lane.clone(),
        gpu: gpu.clone(),
        semaphore,
        value,
        state,
        listed: Mutex::new(false),
    })?;
    let erased: Arc<Lane> = made.2.clone();
    gpu.admit(&erased);
    Ok(made)
}

/// The token of a recording in a submission of your own; see [`record_in_submission`].
///
/// Until [`submitted`](Self::submitted) says that the submission was made, observing the event is
/// [`NotSubmitted`](ErrorKind::NotSubmitted). Dropped before, the event fails with [`Abandoned`](ErrorKind::Abandoned).
#[must_use = "dropping the token abandons the recording"]
pub struct SubmissionRecording {
    external: Option<External>,
    semaphore: Arc<Semaphore>,
    value: u64,
}

impl SubmissionRecording {
    /// The timeline semaphore that your submission has to signal.
    pub fn semaphore(&self) -> RawSemaphore {
        RawSemaphore::of(self.semaphore.raw)
    }

    /// The value that it has to signal it to.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// The submission has been made: from now on the event is pending like any other.
    ///
    /// Say so only of one that was: streams that wait for the event wait in the driver from then on.
    pub fn submitted(mut self) {
        if let Some(external) = self.external.take() {
            self.semaphore.raise(self.value);
            external.left_to_driver();
        }
    }

    /// The submission will not be made. The same as dropping this.
    pub fn abandon(self) {}
}

impl Drop for SubmissionRecording {
    fn drop(&mut self) {
        if self.external.take().is_some() {
            // It may have been submitted all the same.
            self.semaphore.forget();
        }
    }
}

impl fmt::Debug for SubmissionRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmissionRecording")
            .field("semaphore", &self.semaphore())
            .field("value", &self.value)
            .finish_non_exhaustive()
    }
}

/// Makes an event for a submission of your own: it is complete when that has signaled
/// [`semaphore`](SubmissionRecording::semaphore) to [`value`](SubmissionRecording::value).
///
/// The recording has a timeline and a semaphore of its own, and never enters a stream's order (R37). Streams of the same
/// `VkDevice` wait for it without the host. Put the two into your submission's list of semaphores to signal, submit it, then
/// say so with [`SubmissionRecording::submitted`]. What the host is to see of the work needs a barrier to host reads in it
/// (R8).
///
/// # Errors
/// [`ErrorKind::Unsupported`] if `device` is no Vulkan device, [`ErrorKind::DeviceLost`], [`ErrorKind::Closed`],
/// [`ErrorKind::Forked`], what the driver refused.
///
/// ```
/// # use gpu_events::{Device, ErrorKind, vulkan};
/// # fn main() -> Result<(), gpu_events::Error> {
/// # let Ok(device) = Device::open("vulkan") else { return Ok(()) };
/// let (event, recording) = vulkan::record_in_submission(&device)?;
/// let (semaphore, value) = (recording.semaphore(), recording.value());
/// // … vkQueueSubmit that signals `semaphore` to `value` …
/// # let _ = (semaphore, value);
/// # if false {
/// recording.submitted();
/// event.synchronize()?;
/// # return Ok(()) }
/// # drop(recording);
/// # assert_eq!(event.synchronize().unwrap_err().kind(), ErrorKind::Abandoned);
/// # Ok(())
/// # }
/// ```
pub fn record_in_submission(device: &Device) -> Result<(Event, SubmissionRecording)> {
    let gpu = &backend_of(device)?.gpu;
    let semaphore = gpu.semaphore()?;
    let value = semaphore.value(1);
    let (event, external, _) = make(device, gpu, semaphore.clone(), value, SignalState::Submitted)?;
    Ok((event, SubmissionRecording { external: Some(external), semaphore, value }))
}

/// Makes an event of a timeline semaphore of yours: complete once that has come to `value`. To wait for, to await, to be
/// called back by.
///
/// It carries no failure but the device's loss (R26), and no time. `keep_alive` is let go of, on a thread of this crate's,
/// when the last event and waiter has gone.
///
/// # Safety
/// `semaphore` is a timeline semaphore of the device's `VkDevice`, and stays one for as long as `keep_alive` is held. If
/// `state` says that it was, a signal of at least `value` has been submitted.
///
/// # Errors
/// As [`record_in_submission`].
pub unsafe fn import_semaphore(
    device: &Device,
    semaphore: RawSemaphore,
    value: u64,
    state: SignalState,
    keep_alive: KeepAlive,
) -> Result<Event> {
    let gpu = &backend_of(device)?.gpu;
    let semaphore = Semaphore::foreign(semaphore.handle(), Some(Kept::new(keep_alive, &gpu.reaper)));
    let (event, external, lane) = make(device, gpu, semaphore, value, state)?;
    external.left_to_driver();
    lane.backend().collect(&lane);
    Ok(event)
}

/// The timeline semaphore behind an event's current recording, and the value that it will have once that is complete: for
/// the list of semaphores that a submission of your own waits for. `None` if there is nothing to wait for any more.
///
/// Has the recording's stream submit it, as any observation does (R7). The semaphore is the device's, and never destroyed
/// before that; it must not be signaled by anybody else. A number carries no failure: whoever waits for it is let go when the
/// work is done, and must ask the event.
///
/// # Errors
/// [`ErrorKind::Unrecorded`]; the event's failure; [`ErrorKind::NotSubmitted`] for a recording that was not submitted,
/// because its stream is held or waits at a gate, or because the submission is yours to make; [`ErrorKind::Unsupported`] if
/// it is not of a Vulkan device; [`ErrorKind::Forked`].
pub fn semaphore_of(event: &Event) -> Result<Option<(RawSemaphore, u64)>> {
    fork::check()?;
    let source = match event.point() {
        Point::Unrecorded => return Err(Error::new(ErrorKind::Unrecorded)),
        Point::Done => return Ok(None),
        Point::At(source) => source,
    };
    match source.lane.observe(source.position) {
        Observed::Complete => return Ok(None),
        Observed::Failed(error) => return Err(error),
        Observed::Pending => {}
    }
    let (semaphore, value) = if let Some(queue) = source.lane.downcast::<Queue>() {
        queue.point(source.position)
    } else if let Some(foreign) = source.lane.downcast::<Foreign>() {
        foreign.point()
    } else {
        return Err(Error::new(ErrorKind::Unsupported));
    };
    if !source.lane.is_submitted(source.position) {
        return Err(Error::new(ErrorKind::NotSubmitted));
    }
    // Looked at again, after that: what has been given up counts as failed before it can count as submitted.
    if let Observed::Failed(error) = source.lane.observe(source.position) {
        return Err(error);
    }
    Ok(Some((RawSemaphore::of(semaphore.raw), value)))
}
