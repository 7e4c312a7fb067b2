//! Recordings and waits in command buffers that somebody else makes and commits (R37).

use super::{
    Shared,
    clock::MetalStamp,
    driver::{Owned, RawBuffer, RawEvent, as_event, failure_of, pooled},
    queue::Queue,
};
use crate::{
    backend::{BackendStream, Flushed, Gate, Lane, Signaled, Source, Stamp, StreamTraits, Waited},
    device::Device,
    error::{Error, ErrorKind, Result},
    event::{Event, Point},
    external::{External, ExternalPending},
    fork,
    lane::Observed,
    primitive::lock,
    stream::StreamWait,
};
use block2::RcBlock;
use objc2_metal::{MTLCommandBuffer, MTLCommandBufferStatus, MTLSharedEvent};
use std::{
    fmt,
    ptr::NonNull,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// The driver half of a recording in somebody else's command buffer: a shared event of its own.
#[derive(Debug)]
pub(super) struct Foreign {
    lane: Weak<Lane<Self>>,
    shared: Arc<Shared>,
    event: Owned<RawEvent>,
    /// It is complete in the handler, which knows its time.
    timed: bool,
    /// The listener is registered.
    watched: AtomicBool,
}

impl Foreign {
    /// What the shared event counts to.
    pub(super) const VALUE: u64 = 1;

    pub(super) fn event(&self) -> &Owned<RawEvent> {
        &self.event
    }

    pub(super) fn is_on(&self, shared: &Shared) -> bool {
        self.shared.is(shared)
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
        if !self.timed
            && pooled(|| self.event.signaledValue()) >= Self::VALUE
            && let Some(lane) = self.lane.upgrade()
        {
            lane.advance(Self::VALUE);
        }
    }

    fn watch(&self, _position: u64) {
        // Relaxed: only whether there has been such a call.
        if self.timed || self.watched.swap(true, Ordering::Relaxed) {
            return;
        }
        self.shared.listen(&self.event, Self::VALUE, &self.lane);
        // What came before the listener was there.
        self.poll();
    }

    fn abandon(&self) {}
}

/// The token of a recording in a command buffer of your own; see [`record_in_buffer`].
///
/// Until [`submitted`](Self::submitted) says that the buffer was committed, observing the event is
/// [`NotSubmitted`](ErrorKind::NotSubmitted). Dropped before, the event fails with [`Abandoned`](ErrorKind::Abandoned).
#[must_use = "dropping the token abandons the recording"]
pub struct BufferRecording {
    token: Arc<Mutex<Token>>,
}

enum Token {
    Prepared(External),
    Submitted(ExternalPending),
    Over,
}

impl BufferRecording {
    /// The buffer has been committed: from now on the event is pending like any other, and completes or fails with the
    /// buffer.
    ///
    /// Say so only of a buffer that was: streams that wait for the event wait in the driver from then on.
    pub fn submitted(self) {
        let mut token = lock(&self.token);
        if let Token::Prepared(external) = std::mem::replace(&mut *token, Token::Over) {
            *token = Token::Submitted(external.submitted());
        }
    }

    /// The buffer will not be committed. The same as dropping this.
    pub fn abandon(self) {}

    /// What the handler found, which may come before anybody said that the buffer was committed.
    fn settle(token: &Mutex<Token>, lane: &Lane<Foreign>, outcome: Result<()>) {
        let event = &lane.backend().event;
        match outcome {
            Ok(()) => lane.advance(Foreign::VALUE),
            // What was signaled is complete, whatever has come after it in the buffer (R28).
            Err(_) if event.signaledValue() >= Foreign::VALUE => lane.advance(Foreign::VALUE),
            Err(error) => {
                if error.kind() == ErrorKind::DeviceLost {
                    Queue::lose(&lane.backend().shared, &lane.core.device, lane.id(), &error);
                }
                // First the failure, then the value, for those who wait for it in their queues (R26).
                lane.fail(Foreign::VALUE, error);
                event.setSignaledValue(Foreign::VALUE);
            }
        }
        // Settled: whatever the token says now changes nothing any more.
        match std::mem::replace(&mut *lock(token), Token::Over) {
            Token::Prepared(external) => external.submitted().complete(),
            Token::Submitted(pending) => pending.complete(),
            Token::Over => {}
        }
    }
}

impl Drop for BufferRecording {
    fn drop(&mut self) {
        let abandoned = {
            let mut token = lock(&self.token);
            matches!(*token, Token::Prepared(_)).then(|| std::mem::replace(&mut *token, Token::Over))
        };
        // Tells those who observe it: with no lock held.
        drop(abandoned);
    }
}

impl fmt::Debug for BufferRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*lock(&self.token) {
            Token::Prepared(_) => "prepared",
            Token::Submitted(_) => "submitted",
            Token::Over => "over",
        };
        f.debug_tuple("BufferRecording").field(&state).finish()
    }
}

/// Records an event in a command buffer of your own: it is complete when what was encoded into `buffer` before is done.
///
/// The recording has a timeline and a shared event of its own, and never enters a stream's order (R37). Streams of the
/// same GPU wait for it without the host. If the buffer fails, so does the event. No encoder may be open on `buffer`,
/// and it must not be committed yet; commit it, then say so with [`BufferRecording::submitted`].
///
/// # Errors
/// [`ErrorKind::Unsupported`] if `device` is no Metal device, [`ErrorKind::WrongDevice`] if the buffer is of another GPU,
/// [`ErrorKind::InvalidArgument`] if it was committed already, [`ErrorKind::Resources`] if Metal has no shared event to
/// give, [`ErrorKind::Closed`], [`ErrorKind::Forked`].
///
/// ```
/// # use gpu_events::{Device, metal};
/// # use objc2_metal::{MTLCommandBuffer, MTLCommandQueue, MTLDevice};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let Ok(device) = Device::open("metal") else { return Ok(()) };
/// let queue = metal::raw_device(&device)?.newCommandQueue().ok_or("no queue")?;
/// let buffer = queue.commandBuffer().ok_or("no command buffer")?;
/// // … encode work …
/// let (event, recording) = metal::record_in_buffer(&device, &buffer)?;
/// buffer.commit();
/// recording.submitted();
/// event.synchronize()?;
/// # Ok(())
/// # }
/// ```
pub fn record_in_buffer(device: &Device, buffer: &RawBuffer) -> Result<(Event, BufferRecording)> {
    record(device, buffer, false)
}

/// As [`record_in_buffer`], timed: with the time at which the whole of `buffer` was done (`GPUEndTime`).
///
/// # Errors
/// As [`record_in_buffer`].
pub fn record_timed_in_buffer(device: &Device, buffer: &RawBuffer) -> Result<(Event, BufferRecording)> {
    record(device, buffer, true)
}

fn record(device: &Device, buffer: &RawBuffer, timed: bool) -> Result<(Event, BufferRecording)> {
    let shared = super::shared(device)?;
    pooled(|| {
        if !shared.has(&buffer.device()) {
            return Err(Error::new(ErrorKind::WrongDevice));
        }
        check_open(buffer)?;
        let event = shared.new_shared_event()?;
        let stamp = timed.then(|| Arc::new(MetalStamp::new()));
        let (recorded, external, lane) = device.external_event_with(
            stamp.clone().map(|stamp| stamp as Arc<dyn Stamp>),
            |lane: &Weak<Lane<Foreign>>| Foreign {
                lane: lane.clone(),
                shared: shared.clone(),
                event: event.clone(),
                timed,
                watched: AtomicBool::new(false),
            },
        )?;
        let token = Arc::new(Mutex::new(Token::Prepared(external)));
        let its = token.clone();
        let stamped = stamp.clone();
        let handler = RcBlock::new(move |raw: NonNull<RawBuffer>| {
            // SAFETY: Metal calls its handlers with the buffer itself, which is alive meanwhile.
            let raw = unsafe { raw.as_ref() };
            pooled(|| {
                let outcome = match raw.status() {
                    MTLCommandBufferStatus::Completed => {
                        if let Some(stamp) = &stamped {
                            stamp.finish(raw.GPUEndTime(), 0);
                        }
                        Ok(())
                    }
                    _ => Err(failure_of(raw)),
                };
                BufferRecording::settle(&its, &lane, outcome);
            });
        });
        if let Some(stamp) = &stamp {
            // Committed later than now, which is all that is known.
            stamp.commit();
        }
        // SAFETY: the block is copied by the call; it takes what Metal gives it, and what it captures may be used and
        // dropped on any thread.
        unsafe { buffer.addCompletedHandler(RcBlock::as_ptr(&handler)) };
        buffer.encodeSignalEvent_value(as_event(&event), Foreign::VALUE);
        Ok((recorded, BufferRecording { token }))
    })
}

/// Holds what is encoded into `buffer`, a command buffer of your own, from now on back until `event`'s current recording
/// is complete.
///
/// Only for what the GPU can wait for by itself: the event must be of a Metal stream, or a recording in a buffer, of the
/// same GPU, and committed (this call has its stream commit it). Nothing that waits for the host is put into your buffer,
/// since Metal ends buffers that wait for too long. If the event fails later, your buffer is let go, and what it does is
/// yours to discard: a buffer has no way to be told (record an event in it behind the wait, and check both).
///
/// # Errors
/// The event's failure; [`ErrorKind::NotSubmitted`] if its work was not committed because its stream is held, waits at a
/// gate, or because the buffer it is in is yours to commit; [`ErrorKind::Unsupported`] if the event is of another
/// backend: have a stream wait for it, and wait for an event of that; [`ErrorKind::WrongDevice`] if it is of another GPU;
/// [`ErrorKind::InvalidArgument`] if the buffer was committed already; [`ErrorKind::Forked`].
pub fn wait_in_buffer(buffer: &RawBuffer, event: &Event) -> Result<StreamWait> {
    fork::check()?;
    let Point::At(source) = event.point() else { return Ok(StreamWait::Nothing) };
    match source.lane.observe(source.position) {
        Observed::Complete => return Ok(StreamWait::Nothing),
        Observed::Failed(error) => return Err(error),
        Observed::Pending => {}
    }
    let on_gpu =
        |shared: &Shared| if shared.has(&buffer.device()) { Ok(()) } else { Err(ErrorKind::WrongDevice) };
    pooled(|| {
        let (event, value) = if let Some(queue) = source.lane.downcast::<Queue>() {
            on_gpu(queue.shared())?;
            (queue.event(), source.position)
        } else if let Some(foreign) = source.lane.downcast::<Foreign>() {
            on_gpu(&foreign.shared)?;
            (&foreign.event, Foreign::VALUE)
        } else {
            return Err(Error::new(ErrorKind::Unsupported));
        };
        check_open(buffer)?;
        if !source.lane.is_submitted(source.position) {
            return Err(Error::new(ErrorKind::NotSubmitted));
        }
        // Looked at again, after that: what has been given up counts as failed before it can count as submitted.
        if let Observed::Failed(error) = source.lane.observe(source.position) {
            return Err(error);
        }
        if !buffer.retainedReferences() {
            // The stream, and its shared event with it, may be gone before the buffer comes to its wait.
            let kept = event.clone();
            let keep = RcBlock::new(move |_: NonNull<RawBuffer>| {
                let _ = &kept;
            });
            // SAFETY: the block is copied by the call; it takes what Metal gives it, and what it captures may be dropped
            // on any thread.
            unsafe { buffer.addCompletedHandler(RcBlock::as_ptr(&keep)) };
        }
        buffer.encodeWaitForEvent_value(as_event(event), value);
        Ok(StreamWait::Native)
    })
}

fn check_open(buffer: &RawBuffer) -> Result<()> {
    match buffer.status() {
        MTLCommandBufferStatus::NotEnqueued | MTLCommandBufferStatus::Enqueued => Ok(()),
        _ => Err(Error::with_text(ErrorKind::InvalidArgument, "the command buffer was committed already")),
    }
}
