//! A stream as its Vulkan users see it.

use super::{
    driver::{RawCommandBuffer, RawQueue},
    queue::{Pushed, Queue},
};
use crate::{
    backend::reaper::KeepAlive,
    error::{Error, ErrorKind, Result},
    fork,
    lane::Lane,
    stream::Stream,
};
use ash::vk;
use std::{fmt, marker::PhantomData, sync::Arc};

/// A Vulkan stream, to give work to; see [`Stream::vulkan`](crate::Stream::vulkan) and
/// [`StreamGuard::vulkan`](crate::StreamGuard::vulkan).
pub struct VulkanStream<'a> {
    lane: &'a Arc<Lane>,
    queue: &'a Queue,
    /// To be locked, unless a guard holds the lock already.
    free: Option<&'a Stream>,
    /// A guard's must not leave its thread: nobody would keep two from gathering at the same time.
    _not_send: PhantomData<*const ()>,
}

/// Command buffers to be submitted together, and what there is to say about them.
///
/// By default they wait as a whole for what the stream waits for, and behind them goes a barrier, by which everything after
/// them on the stream sees what they wrote, and the host does (R8). With [`own_barriers`](Self::own_barriers) that is left to
/// you.
pub struct Work {
    pub(super) commands: Vec<vk::CommandBuffer>,
    pub(super) stages: vk::PipelineStageFlags,
    pub(super) own_barriers: bool,
    pub(super) keep_alive: Option<KeepAlive>,
}

impl Work {
    /// These command buffers, in this order.
    pub fn new(commands: impl IntoIterator<Item = RawCommandBuffer>) -> Self {
        Self {
            commands: commands.into_iter().map(RawCommandBuffer::handle).collect(),
            stages: vk::PipelineStageFlags::ALL_COMMANDS,
            own_barriers: false,
            keep_alive: None,
        }
    }

    /// The stages (`VkPipelineStageFlags`) that are held back by what the stream waits for; all, unless said otherwise. What
    /// the work does in other stages may begin before. Work after it is held back as a whole.
    pub fn wait_stages(mut self, mask: u32) -> Self {
        self.stages = vk::PipelineStageFlags::from_raw(mask);
        self
    }

    /// The command buffers end in barriers of their own, as far as later work on the stream, or the host, reads what they
    /// write. Then none is put behind them, which saves the GPU some microseconds.
    pub fn own_barriers(mut self) -> Self {
        self.own_barriers = true;
        self
    }

    /// Is kept until the work is done, and then let go of on a thread of this crate's: what owns the command buffers, and
    /// whatever they use.
    pub fn keep_alive(mut self, what: KeepAlive) -> Self {
        self.keep_alive = Some(what);
        self
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("command_buffers", &self.commands.len())
            .field("own_barriers", &self.own_barriers)
            .finish_non_exhaustive()
    }
}

impl<'a> VulkanStream<'a> {
    pub(crate) fn new(lane: &'a Arc<Lane>, free: Option<&'a Stream>) -> Result<Self> {
        let queue = lane.downcast().ok_or(ErrorKind::Unsupported)?;
        Ok(Self { lane, queue, free, _not_send: PhantomData })
    }

    /// Puts work on the stream, behind all that was submitted before. Never waits for the GPU, except for room in a full
    /// queue (R5).
    ///
    /// It goes to the driver at once if the GPU has little to do, and otherwise together with what comes next (R7). Through a
    /// [`StreamGuard`](crate::StreamGuard), work and the event that marks it go together.
    ///
    /// # Safety
    /// The command buffers are of the device's `VkDevice` and of the stream's [`queue_family`](Self::queue_family), and may be
    /// submitted. Until the work is done they are neither submitted elsewhere (unless they were recorded for simultaneous
    /// use), nor recorded anew or freed, and what they use is there: [`Work::keep_alive`] is kept for so long. The queue's
    /// family has the stages that [`Work::wait_stages`] names. What they wait
    /// for (events in them) does not depend on work behind them on any stream of the queue.
    ///
    /// # Errors
    /// The stream's failure; [`ErrorKind::WouldBlock`] if the queue is full and the stream is not to wait, or held by this
    /// guard; [`ErrorKind::WouldDeadlock`] if this thread holds the stream's lock (submit through the guard then);
    /// [`ErrorKind::InvalidArgument`] if no stages are to wait; [`ErrorKind::DeviceLost`]; [`ErrorKind::Closed`];
    /// [`ErrorKind::Forked`].
    pub unsafe fn submit(&self, mut work: Work) -> Result<()> {
        fork::check()?;
        if work.stages.is_empty() {
            return Err(Error::with_text(ErrorKind::InvalidArgument, "no stages are to wait"));
        }
        loop {
            let guard = self.free.map(Stream::lock).transpose()?;
            if self.lane.is_failed() {
                return Err(self.lane.failure_of(u64::MAX));
            }
            match self.queue.push(work)? {
                Pushed::Done => return Ok(()),
                Pushed::Full(..) if guard.is_none() => return Err(Error::new(ErrorKind::WouldBlock)),
                Pushed::Full(room, again) => {
                    work = again;
                    drop(guard);
                    self.lane.wait_for_room(room)?;
                }
            }
        }
    }

    /// The family of the queue that the stream's work goes to: command buffers are recorded for it.
    pub fn queue_family(&self) -> u32 {
        self.queue.port().family.index
    }

    /// The queue that the stream's work goes to. Other streams may share it, and this crate uses it from any thread at any
    /// time: what you submit to it yourself needs the lock that you gave with it, and there is none for a queue of this
    /// crate's own.
    pub fn raw_queue(&self) -> RawQueue {
        RawQueue::of(self.queue.port().raw)
    }
}

impl fmt::Debug for VulkanStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanStream").field("lane", self.lane).finish_non_exhaustive()
    }
}
