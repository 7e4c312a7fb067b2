//! Streams: in-order queues of work on one device.

use crate::{
    backend::BackendStream,
    device::Device,
    error::{Error, ErrorKind, Result},
    event::{Event, Point},
    fork,
    lane::{Lane, Refused, Submit, TURN},
    primitive::{MutexGuard, Ordering},
    wait::{WaitOptions, WaitOutcome},
};
use std::{fmt, sync::Arc};

/// Names a stream, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    pub(crate) fn new(id: u64) -> Self {
        Self(id)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What a recording does that finds the queue full (R5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Waits for room, holding no lock.
    #[default]
    Block,
    /// Fails with [`ErrorKind::WouldBlock`], having done nothing.
    WouldBlock,
}

/// How a stream's completion is made known, where the device has a choice (CUDA has). Which is better depends on who will
/// look, and that is not known when something is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// Cheap to record, and a driver call to ask: for events that mostly other streams wait for. The default.
    #[default]
    Cheap,
    /// Dearer to record, a load to ask, and seen by the host soonest: for events that the host polls, awaits or is called
    /// back by.
    Prompt,
}

/// How a stream waits for events of another backend's that drives the same GPU, where both ways are there: CUDA's and Vulkan's
/// streams have the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignWaits {
    /// In the way that is faster as far as is known. The default. Between CUDA and Vulkan that is a gate of the host's: a
    /// hand-over on the device takes 320 to 350 µs on an H100.
    #[default]
    Fastest,
    /// On the device wherever the drivers can, with no thread of the host in between:
    /// [`Capabilities::native_on_request`](crate::Capabilities::native_on_request) says for whose events. It is still a gate
    /// where that is not safe or not exact: while what is waited for has not been submitted; while any stream of CUDA's waits
    /// at a gate, because a stream that the driver puts behind that one would take a Vulkan queue with it, which others
    /// share; and while too many such waits are pending.
    ///
    /// Either driver lets the other's waits go when its own device is lost, as far as the other one still works. A wait for a
    /// stream on an adopted queue also waits for what its owner has submitted there meanwhile.
    Native,
}

/// How a stream is to be. The default has no label, the device's own queue depth, and blocks when that is reached.
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    pub(crate) label: Option<String>,
    pub(crate) queue_depth: Option<u64>,
    pub(crate) batch_bound: Option<u64>,
    pub(crate) when_full: WhenFull,
    pub(crate) signal: Option<Signal>,
    pub(crate) foreign_waits: ForeignWaits,
}

impl StreamOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the stream, for stall reports and errors.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Takes at most this many incomplete recordings at a time. A device's own limit,
    /// [`Capabilities::queue_depth`](crate::Capabilities::queue_depth), holds as well. Zero counts as one.
    pub fn queue_depth(mut self, depth: u64) -> Self {
        self.queue_depth = Some(depth.max(1));
        self
    }

    /// Gathers at most this many recordings before they are submitted, where the device gathers any:
    /// [`Capabilities::batch_bound`](crate::Capabilities::batch_bound) says how many by default. Fewer start sooner, and
    /// cost a submission more often; zero submits each at once.
    pub fn batch_bound(mut self, bound: u64) -> Self {
        self.batch_bound = Some(bound);
        self
    }

    /// What a recording does that finds the queue full.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// How completion is made known, where the device has a choice. By default in the way that the device was opened with.
    pub fn signal(mut self, signal: Signal) -> Self {
        self.signal = Some(signal);
        self
    }

    /// How the stream waits for events of another backend's on the same GPU.
    pub fn foreign_waits(mut self, foreign_waits: ForeignWaits) -> Self {
        self.foreign_waits = foreign_waits;
        self
    }

    /// The way of waiting for other backends' events that was asked for. For backends.
    pub fn requested_foreign_waits(&self) -> ForeignWaits {
        self.foreign_waits
    }

    /// The way of making completion known that was asked for. For backends.
    pub fn requested_signal(&self) -> Option<Signal> {
        self.signal
    }

    /// The queue depth that was asked for. For backends.
    pub fn requested_depth(&self) -> Option<u64> {
        self.queue_depth
    }

    /// The bound on a batch that was asked for. For backends.
    pub fn requested_batch_bound(&self) -> Option<u64> {
        self.batch_bound
    }
}

/// What a [`Stream::wait`] put into the stream (R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamWait {
    /// Nothing: the event is unrecorded or complete, or of this very stream.
    Nothing,
    /// A wait that the device carries out.
    Native,
    /// A wait that the host lets go once the event is complete (R6).
    Gated,
}

impl StreamWait {
    /// Whether anything was inserted.
    pub fn inserted(self) -> bool {
        self != Self::Nothing
    }
}

/// An in-order queue of work on one device.
///
/// A cheap handle: clones refer to the same stream. Work that was submitted goes on when the last handle goes, and
/// events stay good (R32); what was gathered and not submitted yet is submitted then (R7).
///
/// ```
/// use gpu_events::Device;
///
/// let device = Device::open("cpu")?;
/// let (upload, compute) = (device.create_stream()?, device.create_stream()?);
/// upload.cpu()?.enqueue(|| println!("first"))?;
/// compute.wait(&upload.record()?)?;
/// compute.cpu()?.enqueue(|| println!("second"))?;
/// compute.synchronize()?;
/// # Ok::<(), gpu_events::Error>(())
/// ```
pub struct Stream {
    lane: Arc<Lane>,
    device: Device,
}

impl Stream {
    pub(crate) fn new(lane: Arc<Lane>, device: Device) -> Self {
        // Relaxed: as for an `Arc`, a count is only added to through a handle that is already counted.
        lane.core.handles.fetch_add(1, Ordering::Relaxed);
        Self { lane, device }
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// The stream's number.
    pub fn id(&self) -> StreamId {
        StreamId(self.lane.id())
    }

    /// The label that it was given.
    pub fn label(&self) -> Option<&str> {
        self.lane.label()
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Holds work that is submitted to this stream from now on back until `event`'s current recording is complete
    /// (R5, R6). Never blocks the host; the event may be of any stream on any device.
    ///
    /// Binds to the recording current now: recording the event again later changes nothing (R2). If the event fails,
    /// this stream fails with it, from here on (R26).
    ///
    /// # Errors
    /// [`ErrorKind::NotSubmitted`] for an external recording in somebody's hands (R37); [`ErrorKind::Closed`];
    /// [`ErrorKind::WouldDeadlock`] if this thread holds this stream's [`lock`](Self::lock);
    /// [`ErrorKind::Forked`]; what the driver refused.
    pub fn wait(&self, event: &Event) -> Result<StreamWait> {
        fork::check()?;
        match event.point() {
            Point::Unrecorded | Point::Done => Ok(StreamWait::Nothing),
            Point::At(source) => {
                let wait = self.lane.wait(&source)?;
                #[cfg(all(feature = "trace", not(gpu_events_loom)))]
                crate::trace::waited(&self.lane, event, &source, wait);
                Ok(wait)
            }
        }
    }

    /// Takes an event from the device's pool and records it here.
    ///
    /// # Errors
    /// As [`Event::record`].
    pub fn record(&self) -> Result<Event> {
        self.record_into(self.device.acquire(false))
    }

    /// As [`record`](Self::record), timed.
    ///
    /// # Errors
    /// As [`Event::record`].
    pub fn record_timed(&self) -> Result<Event> {
        self.record_into(self.device.acquire(true))
    }

    /// As [`record_timed`](Self::record_timed), or `None` where there is no room.
    #[cfg(all(feature = "trace", not(gpu_events_loom)))]
    pub(crate) fn try_record_timed(&self) -> Result<Option<Event>> {
        fork::check()?;
        let mut event = self.device.acquire(true);
        event.settle_on(&self.lane);
        let room = self.lane.try_record(event.slot())?;
        Ok(room.is_none().then_some(event))
    }

    fn record_into(&self, mut event: Event) -> Result<Event> {
        fork::check()?;
        event.settle_on(&self.lane);
        self.lane.record(event.slot())?;
        Ok(event)
    }

    /// Submits what is gathered (R7). Never blocks: while somebody holds the [`lock`](Self::lock), this thread included,
    /// it leaves a request, which the holder carries out when it lets go. Where nothing is ever gathered, it only says
    /// whether the stream has failed.
    ///
    /// # Errors
    /// The stream's failure, what the driver refused, [`ErrorKind::Forked`].
    pub fn flush(&self) -> Result<()> {
        fork::check()?;
        self.lane.flush()
    }

    /// Blocks until all that was submitted to this stream is done.
    ///
    /// # Errors
    /// The stream's failure; as [`Event::record`] and [`Event::synchronize`].
    pub fn synchronize(&self) -> Result<()> {
        self.synchronize_with(&WaitOptions::new()).map(drop)
    }

    /// As [`synchronize`](Self::synchronize), for so long and in such a way.
    ///
    /// # Errors
    /// The stream's failure; as [`Event::record`] and [`Event::synchronize`].
    pub fn synchronize_with(&self, options: &WaitOptions) -> Result<WaitOutcome> {
        fork::check()?;
        // One deadline for room in the queue and for the work.
        let options = options.begun();
        let event = self.device.acquire(false);
        match self.lane.record_within(event.slot(), &options)? {
            WaitOutcome::Complete => event.wait_with(&options),
            WaitOutcome::TimedOut => Ok(WaitOutcome::TimedOut),
        }
    }

    /// Keeps `resource` until `event`'s current recording is complete or has failed, and then drops it on the callback
    /// thread of this stream's device (R38). At once if the event is not recorded.
    ///
    /// Leaks it where nobody knows when the device is done with it: the device was closed, or the recording failed
    /// because of another stream's failure while the driver may go on with the work (R26), or its producer went away.
    ///
    /// # Errors
    /// [`ErrorKind::NotSubmitted`], [`ErrorKind::Resources`], [`ErrorKind::Forked`]. The resource is leaked then, for
    /// the same reason.
    pub fn keep_until<T: Send + 'static>(&self, event: &Event, resource: T) -> Result<()> {
        let resource = std::mem::ManuallyDrop::new(resource);
        let lane = match event.point() {
            Point::Unrecorded | Point::Done => None,
            // Lane and callback keep each other until the recording is settled; if it never is, the resource is leaked.
            Point::At(target) => Some(target.lane),
        };
        event
            .on_complete_in(self.device.core(), move |outcome| {
                let known = outcome.is_ok() || lane.is_none_or(|lane| lane.is_done_with_failed());
                if known {
                    drop(std::mem::ManuallyDrop::into_inner(resource));
                }
            })
            .map(drop)
    }

    /// Holds the stream: until the guard goes, only what goes through the guard gets in. Records an event together
    /// with the work that it marks.
    ///
    /// Hold it briefly, and never while waiting for this stream: that is [`ErrorKind::WouldDeadlock`] (R7).
    ///
    /// # Errors
    /// [`ErrorKind::WouldDeadlock`] if this thread holds it already; [`ErrorKind::Forked`].
    pub fn lock(&self) -> Result<StreamGuard<'_>> {
        fork::check()?;
        let submit = self.lane.core.lock()?;
        self.lane.core.set_holder(true);
        Ok(StreamGuard { lane: &self.lane, submit: Some(submit) })
    }

    /// The stream's first failure, if it has failed.
    pub fn error(&self) -> Option<Error> {
        fork::check().err().or_else(|| self.lane.core.timeline.failure())
    }

    /// The stream's driver half, if it is of this type: what a backend's own way to submit work starts from.
    pub fn backend<B: BackendStream>(&self) -> Option<&B> {
        self.lane.downcast()
    }

    /// The stream's CPU side, to enqueue work.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if its device is no CPU device.
    #[cfg(feature = "cpu")]
    pub fn cpu(&self) -> Result<crate::cpu::CpuStream<'_>> {
        crate::cpu::CpuStream::new(&self.lane, false)
    }

    /// The stream's Metal side, to encode work.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if its device is no Metal device.
    #[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
    pub fn metal(&self) -> Result<crate::metal::MetalStream<'_>> {
        crate::metal::MetalStream::new(&self.lane, Some(self))
    }

    /// The stream's CUDA side, to give work to.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if its device is no CUDA device.
    #[cfg(all(feature = "cuda", not(gpu_events_loom)))]
    pub fn cuda(&self) -> Result<crate::cuda::CudaStream<'_>> {
        crate::cuda::CudaStream::new(&self.lane)
    }

    /// The stream's Vulkan side, to give work to.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if its device is no Vulkan device.
    #[cfg(all(feature = "vulkan", not(gpu_events_loom)))]
    pub fn vulkan(&self) -> Result<crate::vulkan::VulkanStream<'_>> {
        crate::vulkan::VulkanStream::new(&self.lane, Some(self))
    }
}

impl Clone for Stream {
    fn clone(&self) -> Self {
        Self::new(self.lane.clone(), self.device.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // AcqRel: as for an `Arc`, so that the last one sees what the others submitted.
        if self.lane.core.handles.fetch_sub(1, Ordering::AcqRel) == 1 && !fork::happened() {
            self.lane.let_go();
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("lane", &self.lane).field("device", &self.device.name()).finish()
    }
}

/// A stream that is held by this thread; see [`Stream::lock`].
pub struct StreamGuard<'a> {
    lane: &'a Arc<Lane>,
    /// Taken by `drop` alone.
    submit: Option<MutexGuard<'a, Submit>>,
}

impl StreamGuard<'_> {
    fn submit(&mut self) -> Result<&mut Submit> {
        // Always there until `drop`.
        self.submit.as_deref_mut().ok_or_else(|| Error::new(ErrorKind::WouldDeadlock))
    }

    /// Records `event` here, right behind what was submitted through this guard.
    ///
    /// # Errors
    /// As [`Event::record`], except that a full queue is always [`ErrorKind::WouldBlock`]: room may take others'
    /// submissions to come, and they wait for this guard.
    pub fn record(&mut self, event: &Event) -> Result<()> {
        fork::check()?;
        event.check_device(self.lane)?;
        let lane = self.lane;
        match lane.record_held(self.submit()?, event.slot()) {
            // The lock that is held is the user's own doing.
            Ok(news) => {
                lane.announce(news);
                Ok(())
            }
            Err(Refused::Full(_)) => Err(Error::new(ErrorKind::WouldBlock)),
            Err(Refused::Error(error)) => Err(error),
        }
    }

    /// As [`Stream::wait`].
    ///
    /// # Errors
    /// As [`Stream::wait`].
    pub fn wait(&mut self, event: &Event) -> Result<StreamWait> {
        fork::check()?;
        let Point::At(source) = event.point() else { return Ok(StreamWait::Nothing) };
        let lane = self.lane;
        if let Some(nothing) = lane.nothing_to_wait_for(&source)? {
            return Ok(nothing);
        }
        let inserted = lane.insert_wait(self.submit()?, &source)?;
        let wait = lane.inserted(&source, inserted)?;
        #[cfg(all(feature = "trace", not(gpu_events_loom)))]
        crate::trace::waited(lane, event, &source, wait);
        Ok(wait)
    }

    /// As [`Stream::flush`].
    ///
    /// # Errors
    /// As [`Stream::flush`].
    pub fn flush(&mut self) -> Result<()> {
        fork::check()?;
        let lane = self.lane;
        let flushed = lane.flush_held(self.submit()?);
        lane.flushed(flushed)
    }

    /// The stream's driver half, if it is of this type; the submit lock is held.
    pub fn backend<B: BackendStream>(&mut self) -> Option<&B> {
        self.lane.downcast()
    }

    /// The stream's CPU side, to enqueue work.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if its device is no CPU device.
    #[cfg(feature = "cpu")]
    pub fn cpu(&mut self) -> Result<crate::cpu::CpuStream<'_>> {
        crate::cpu::CpuStream::new(self.lane, true)
    }

    /// The stream's Metal side, to encode work.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if its device is no Metal device.
    #[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
    pub fn metal(&mut self) -> Result<crate::metal::MetalStream<'_>> {
        crate::metal::MetalStream::new(self.lane, None)
    }

    /// The stream's CUDA side, to give work to.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if its device is no CUDA device.
    #[cfg(all(feature = "cuda", not(gpu_events_loom)))]
    pub fn cuda(&mut self) -> Result<crate::cuda::CudaStream<'_>> {
        crate::cuda::CudaStream::new(self.lane)
    }

    /// The stream's Vulkan side, to give work to.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if its device is no Vulkan device.
    #[cfg(all(feature = "vulkan", not(gpu_events_loom)))]
    pub fn vulkan(&mut self) -> Result<crate::vulkan::VulkanStream<'_>> {
        crate::vulkan::VulkanStream::new(self.lane, None)
    }
}

impl Drop for StreamGuard<'_> {
    fn drop(&mut self) {
        if fork::happened() {
            // What is gathered is the parent's to submit.
            return drop(self.submit.take());
        }
        self.lane.core.set_holder(false);
        if let Some(submit) = self.submit.take() {
            self.lane.release(submit);
        }
        TURN.announce();
    }
}

impl fmt::Debug for StreamGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamGuard").field("lane", self.lane).finish_non_exhaustive()
    }
}
