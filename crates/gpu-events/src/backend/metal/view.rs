//! A stream as its Metal users see it.

use super::{
    driver::{RawBuffer, RawEvent, RawQueue, pooled},
    queue::{Encoded, Queue},
};
use crate::{
    error::{Error, ErrorKind, Result},
    fork,
    lane::Lane,
    stream::Stream,
};
use objc2::rc::Retained;
use objc2_metal::{MTLSharedEvent, MTLSharedEventHandle};
use std::{fmt, marker::PhantomData, panic::resume_unwind, sync::Arc};

/// A Metal stream, to encode work; see [`Stream::metal`](crate::Stream::metal) and
/// [`StreamGuard::metal`](crate::StreamGuard::metal).
pub struct MetalStream<'a> {
    lane: &'a Arc<Lane>,
    queue: &'a Queue,
    /// To be locked, unless a guard holds the lock already.
    free: Option<&'a Stream>,
    /// A guard's must not leave its thread: nobody would keep two from encoding into one buffer.
    _not_send: PhantomData<*const ()>,
}

impl<'a> MetalStream<'a> {
    pub(crate) fn new(lane: &'a Arc<Lane>, free: Option<&'a Stream>) -> Result<Self> {
        let queue = lane.downcast().ok_or(ErrorKind::Unsupported)?;
        Ok(Self { lane, queue, free, _not_send: PhantomData })
    }

    /// Has `encode` put work into the stream's current command buffer, behind all that was submitted before, with the
    /// stream's lock held. Never waits for the GPU, except for room in a full queue (R5).
    ///
    /// What `encode` opens, an encoder, it has to end before it returns. It must neither commit nor enqueue the buffer,
    /// nor keep it: that is the stream's, which also puts other work into it, on whatever thread. The buffer retains
    /// what its commands refer to. `encode` runs inside of an autorelease pool, and must not wait for this stream.
    /// Through a [`StreamGuard`](crate::StreamGuard), work and the event that marks it go into one buffer.
    ///
    /// # Panics
    /// With what `encode` panics with; what was not committed is lost then, and the stream fails with
    /// [`ErrorKind::Panicked`]. Panic with no encoder open: Metal ends the process when one is let go of that was not
    /// ended, as unwinding does.
    ///
    /// # Errors
    /// The stream's failure; [`ErrorKind::WouldBlock`] if the queue is full and the stream is not to wait, or held by
    /// this guard; [`ErrorKind::WouldDeadlock`] if this thread holds the stream's lock (encode through the guard then);
    /// [`ErrorKind::Resources`] if Metal has no command buffer to give; [`ErrorKind::Closed`]; [`ErrorKind::Forked`].
    ///
    /// ```
    /// # use gpu_events::{Device, metal};
    /// # use objc2_metal::{MTLBuffer, MTLBlitCommandEncoder, MTLCommandBuffer, MTLCommandEncoder, MTLDevice, MTLResourceOptions};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let Ok(device) = Device::open("metal") else { return Ok(()) };
    /// let gpu = metal::raw_device(&device)?;
    /// let buffer = |length| gpu.newBufferWithLength_options(length, MTLResourceOptions::StorageModeShared);
    /// let (from, to) = (buffer(4096).ok_or("no memory")?, buffer(4096).ok_or("no memory")?);
    /// let stream = device.create_stream()?;
    /// stream.metal()?.encode(|commands| {
    ///     let blit = commands.blitCommandEncoder().expect("no blit encoder");
    ///     unsafe { blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&from, 0, &to, 0, 4096) };
    ///     blit.endEncoding();
    /// })?;
    /// stream.record()?.synchronize()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn encode<R>(&self, encode: impl FnOnce(&RawBuffer) -> R) -> Result<R> {
        fork::check()?;
        let mut encode = encode;
        loop {
            // Notes the holder, so that `encode` learns of it if it comes back to this stream.
            let guard = self.free.map(Stream::lock).transpose()?;
            if self.lane.is_failed() {
                return Err(self.lane.failure_of(u64::MAX));
            }
            let first_lost = self.lane.first_unsubmitted();
            match self.queue.encode(encode)? {
                Encoded::Done(result) => return Ok(result),
                Encoded::Full(_, _) if guard.is_none() => return Err(Error::new(ErrorKind::WouldBlock)),
                Encoded::Full(room, again) => {
                    encode = again;
                    drop(guard);
                    self.lane.wait_for_room(room)?;
                }
                Encoded::Panicked { panic, why, dropped } => {
                    drop(guard);
                    self.lane.fail(first_lost, why);
                    drop(dropped);
                    resume_unwind(panic);
                }
            }
        }
    }

    /// The queue that the stream's buffers are committed to. What you commit to it yourself is not in the stream's
    /// order.
    pub fn queue(&self) -> &'a RawQueue {
        self.queue.raw()
    }

    /// The shared event that is the stream's timeline: its value is the position that the GPU has reached, and its
    /// recordings' values are what [`shared_event`](super::shared_event) says. Wait for it as you like; signaling it is
    /// the stream's alone.
    pub fn shared_event(&self) -> &'a RawEvent {
        self.queue.event()
    }

    /// The shared event for another GPU or process. It carries no failure: whoever waits for it elsewhere waits for a
    /// number, and is let go when the work that should have signaled it has failed.
    ///
    /// # Errors
    /// [`ErrorKind::Forked`].
    pub fn shared_event_handle(&self) -> Result<Retained<MTLSharedEventHandle>> {
        fork::check()?;
        Ok(pooled(|| self.queue.event().newSharedEventHandle()))
    }
}

impl fmt::Debug for MetalStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetalStream").field("lane", self.lane).finish_non_exhaustive()
    }
}
