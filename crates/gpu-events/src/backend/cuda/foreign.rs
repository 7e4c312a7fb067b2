//! Events that the driver knows and this crate did not record: other libraries', other processes', and those in graphs.

use super::{
    driver::{
        EVENT_DISABLE_TIMING, EVENT_INTERPROCESS, EVENT_RECORD_EXTERNAL, RawEvent, RawIpcHandle, SUCCESS,
        is_capture, is_captured, is_fault,
    },
    gpu::{Gpu, Handle},
    pump::{Look, Watched},
    queue::Queue,
};
use crate::{
    backend::{
        BackendStream, Flushed, Gate, Lane, Room, Signaled, Source, StreamTraits, Waited, reaper::KeepAlive,
    },
    device::Device,
    error::{Error, ErrorKind, Result},
    event::Event,
    external::External,
    fork,
    primitive::lock,
    stream::Stream,
    timeline::Progress,
};
use std::{
    fmt, ptr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU8, Ordering},
    },
};

/// The driver half of a recording that somebody else makes: a native event.
pub(super) struct Foreign {
    lane: Weak<Lane<Self>>,
    gpu: &'static Gpu,
    event: Handle,
    /// The pump has the lane.
    listed: Mutex<bool>,
    /// Whose the event is; none for ours.
    keep_alive: Option<KeepAlive>,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let Some(keep_alive) = self.keep_alive.take() else { return };
        if fork::happened() {
            // The parent's.
            std::mem::forget(keep_alive);
        } else {
            // The user's destructor, which may do anything, and this may come under anybody's lock.
            self.gpu.let_go_of(keep_alive);
        }
    }
}

impl Foreign {
    const POSITION: u64 = 1;

    pub(super) fn event(&self) -> Handle {
        self.event
    }

    pub(super) fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    pub(super) fn look(&self, lane: &Arc<Lane<Self>>) -> Look {
        self.collect(lane);
        if lane.core.timeline.progress(Self::POSITION) == Progress::Pending {
            return Look::Same;
        }
        *lock(&self.listed) = false;
        Look::Over
    }

    fn collect(&self, lane: &Lane<Self>) {
        // Before its submission the event is as good as never recorded, and says "reached".
        if lane.is_unsubmitted() {
            return;
        }
        match self.gpu.is_done(self.event) {
            Ok(true) => lane.advance(Self::POSITION),
            Ok(false) => {}
            // Recorded anew, under a capture: it will never say again what it was imported for.
            Err(code) if is_captured(code) => {
                lane.fail(Self::POSITION, self.gpu.api.error("cuEventQuery", code))
            }
            Err(code) if is_capture(code) => {}
            Err(code) => lane.fail(Self::POSITION, told(self.gpu, code)),
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

    fn abandon(&self) {}
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Foreign").field("event", &self.event.0).finish_non_exhaustive()
    }
}

/// The error of a question that was answered with neither yes nor no. With no lock held.
#[cold]
fn told(gpu: &'static Gpu, code: u32) -> Error {
    let error = gpu.api.error("cuEventQuery", code);
    if is_fault(code) {
        gpu.fail(error.clone());
    }
    error
}

fn make(
    device: &Device,
    gpu: &'static Gpu,
    event: Handle,
    keep_alive: Option<KeepAlive>,
) -> Result<(Event, External, Arc<Lane<Foreign>>)> {
    device.external_event_with(None, |lane| Foreign {
        lane: lane.clone(),
        gpu,
        event,
        listed: Mutex::new(false),
        keep_alive,
    })
}

/// An event for what a native one was recorded for.
fn stand_for(
    device: &Device,
    gpu: &'static Gpu,
    native: Handle,
    keep_alive: Option<KeepAlive>,
) -> Result<Event> {
    if let Some(error) = gpu.broken() {
        return Err(error.clone());
    }
    let done = gpu.is_done(native).map_err(|code| told(gpu, code))?;
    let (event, token, lane) = make(device, gpu, native, keep_alive)?;
    token.left_to_driver();
    if done {
        lane.advance(Foreign::POSITION);
    }
    Ok(event)
}

/// Makes an event of a `CUevent` that somebody else recorded, for its recording of this moment: to wait for, to await, to be
/// called back by. One that was never recorded counts as complete, as the driver has it.
///
/// Record it anew while this is pending, and it is the newer recording that completes it: native events have no memory.
/// Recorded anew under a capture it never can, and this fails: with [`Capturing`](ErrorKind::Capturing) when the driver says
/// so, which it says to the first who asks. CUDA counts the question as invalid, which may break that capture, and what the
/// driver says of the event afterwards is its own ([`Driver`](ErrorKind::Driver)). An imported event carries no failure but
/// the whole context's (R26), and no time. `keep_alive` is kept until the last event and waiter has gone.
///
/// # Safety
/// `event` is a `CUevent` of a context on the device's GPU, and stays one for as long as `keep_alive` is held.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if `device` is no CUDA device; [`ErrorKind::Capturing`] if it was recorded under a capture;
/// [`ErrorKind::Closed`]; [`ErrorKind::Forked`]; what the driver refused.
pub unsafe fn import_event(device: &Device, event: RawEvent, keep_alive: KeepAlive) -> Result<Event> {
    stand_for(device, super::gpu_of(device)?, Handle(event), Some(keep_alive))
}

/// Has a stream of ours wait for a `CUevent`'s recording of this moment: `cuStreamWaitEvent`, in the stream's order.
///
/// A native event carries no failure (R26).
///
/// # Safety
/// `event` is a `CUevent`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if `stream` is no CUDA stream; [`ErrorKind::Capturing`]; [`ErrorKind::WouldDeadlock`] if this
/// thread holds the stream's lock; what the driver refused; [`ErrorKind::Forked`].
pub unsafe fn wait_raw(stream: &Stream, event: RawEvent) -> Result<()> {
    with_queue(stream, |queue| {
        queue.check_capture()?;
        // An event out of a capture would draw this stream into it, and the next recording has to know.
        queue.expose();
        queue.wait_for_event(Handle(event))
    })
}

/// Records a `CUevent` of somebody else's on a stream of ours, behind all that was submitted to it: `cuEventRecord`.
///
/// # Safety
/// `event` is a `CUevent` of the stream's context.
///
/// # Errors
/// As [`wait_raw`].
pub unsafe fn record_raw(stream: &Stream, event: RawEvent) -> Result<()> {
    with_queue(stream, |queue| {
        queue.check_capture()?;
        queue.record_event(Handle(event))
    })
}

fn with_queue<T>(stream: &Stream, call: impl FnOnce(&Queue) -> Result<T>) -> Result<T> {
    let mut guard = stream.lock()?;
    let queue = guard.backend::<Queue>().ok_or(ErrorKind::Unsupported)?;
    // The streams that have no handle of their own are those of the current context.
    let _entered = queue.gpu().enter()?;
    call(queue)
}

/// The token of an event node in a graph; see [`record_external`].
///
/// Until [`launched`](Self::launched) says that the graph was launched, observing the event is
/// [`NotSubmitted`](ErrorKind::NotSubmitted). Dropped before, the event fails with [`Abandoned`](ErrorKind::Abandoned).
#[derive(Debug)]
#[must_use = "dropping the token abandons the recording"]
pub struct GraphRecording {
    token: External,
    node: GraphNode,
}

impl GraphRecording {
    /// The graph has been launched: from now on the event is pending like any other, for this launch. The node is for the
    /// launches that follow.
    ///
    /// Say so only of a graph that was: until it is, the native event behind this says that it was reached.
    pub fn launched(self) -> GraphNode {
        self.token.left_to_driver();
        self.node
    }

    /// The graph will not be launched. The same as dropping this.
    pub fn abandon(self) {}
}

/// An event node of a graph that was launched once.
#[derive(Clone, Debug)]
pub struct GraphNode {
    device: Device,
    native: Handle,
}

impl GraphNode {
    /// The graph has been launched again: an event for this launch.
    ///
    /// Launches of one graph run one after the other, and native events have no memory: an earlier launch's event that was
    /// still pending is complete with this one.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], [`ErrorKind::DeviceLost`], [`ErrorKind::Forked`].
    pub fn launched_again(&self) -> Result<Event> {
        stand_for(&self.device, super::gpu_of(&self.device)?, self.native, None)
    }
}

/// Records an event in a graph that is being captured on this stream: as an event node, behind all that was captured so far
/// (R35). The event is external (R37): it stands for the launch that [`GraphRecording::launched`] announces.
///
/// The native event in the node is kept to the end of the process: nobody can tell how long the graph is.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if the stream is under no capture; [`ErrorKind::Unsupported`] if it is no CUDA stream;
/// [`ErrorKind::WouldDeadlock`] if this thread holds its lock; what the driver refused; [`ErrorKind::Closed`];
/// [`ErrorKind::Forked`].
pub fn record_external(stream: &Stream) -> Result<(Event, GraphRecording)> {
    let device = stream.device();
    let gpu = super::gpu_of(device)?;
    if device.is_closed() {
        return Err(Error::new(ErrorKind::Closed));
    }
    let native = with_queue(stream, |queue| {
        match queue.check_capture() {
            Err(error) if error.kind() == ErrorKind::Capturing => {}
            Ok(()) => {
                return Err(Error::with_text(ErrorKind::InvalidArgument, "the stream is not being captured"));
            }
            Err(error) => return Err(error),
        }
        let event = gpu.event(false)?;
        // SAFETY: both are there.
        let code = unsafe { (gpu.api.event_record_with_flags)(event.0, queue.raw(), EVENT_RECORD_EXTERNAL) };
        if code == SUCCESS {
            return Ok(event);
        }
        gpu.give_back(false, event);
        Err(queue.refused("cuEventRecordWithFlags", code))
    })?;
    let (event, token, _lane) = make(device, gpu, native, None)?;
    Ok((event, GraphRecording { token, node: GraphNode { device: device.clone(), native } }))
}

/// What another process needs to wait for a [`SharedEvent`]: plain bytes, to be sent in whatever way there is.
pub type IpcHandle = [u8; 64];

// Where a shared event stands.
const NOT_RECORDED: u8 = 0;
const RECORDING: u8 = 1;
const RECORDED: u8 = 2;

/// An event that other processes can wait for (R36).
///
/// It is a native event of its own, made for this and never pooled. CUDA's limits are what they are: such an event has no
/// time, is recorded once here, and is good for others only while this lives.
pub struct SharedEvent {
    gpu: &'static Gpu,
    native: Handle,
    recorded: AtomicU8,
    device: Device,
}

impl SharedEvent {
    /// Makes one, not recorded yet.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if `device` is no CUDA device, or the driver can't share on this system;
    /// [`ErrorKind::Closed`], [`ErrorKind::Forked`].
    pub fn new(device: &Device) -> Result<Self> {
        let gpu = super::gpu_of(device)?;
        if device.is_closed() {
            return Err(Error::new(ErrorKind::Closed));
        }
        let native = gpu.new_event(EVENT_DISABLE_TIMING | EVENT_INTERPROCESS)?;
        Ok(Self { gpu, native, recorded: AtomicU8::new(NOT_RECORDED), device: device.clone() })
    }

    /// Records it on `stream`. Returns the event of this process, which is one like any other.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it was recorded already: who opened it would wait for either recording, and nobody
    /// could say which. Otherwise as [`record_raw`] and [`Event::record`].
    pub fn record(&self, stream: &Stream) -> Result<Arc<Event>> {
        fork::check()?;
        if stream.device().id() != self.device.id() {
            return Err(Error::new(ErrorKind::WrongDevice));
        }
        // Acquire: after the call that failed before. No lock: the stream's may be held by whoever exports this.
        let (from, to) = (NOT_RECORDED, RECORDING);
        if self.recorded.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_err() {
            let text = "a shared event is recorded once: whoever opened it can't tell two recordings apart";
            return Err(Error::with_text(ErrorKind::InvalidArgument, text));
        }
        let outcome = self.record_first(stream);
        // Release: who exports it does so after it was recorded.
        self.recorded.store(if outcome.is_ok() { RECORDED } else { NOT_RECORDED }, Ordering::Release);
        outcome
    }

    fn record_first(&self, stream: &Stream) -> Result<Arc<Event>> {
        let event = self.device.acquire(false);
        loop {
            // Both recordings under one lock: they stand for the same work.
            let mut guard = stream.lock()?;
            match guard.record(&event) {
                Ok(()) => {
                    let queue = guard.backend::<Queue>().ok_or(ErrorKind::Unsupported)?;
                    let _entered = self.gpu.enter()?;
                    queue.record_event(self.native)?;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            drop(guard);
            let lane = stream.lane();
            lane.wait_for_room(Room { after: lane.completed() + 1 })?;
        }
        Ok(Arc::new(event))
    }

    /// What another process opens. Export it once it is recorded: before, there is nothing to wait for.
    ///
    /// # Errors
    /// [`ErrorKind::Unrecorded`]; [`ErrorKind::Unsupported`] where the driver can't share on this system;
    /// [`ErrorKind::Forked`].
    pub fn export(&self) -> Result<IpcHandle> {
        fork::check()?;
        // Acquire: pairs with `record`.
        if self.recorded.load(Ordering::Acquire) != RECORDED {
            return Err(Error::new(ErrorKind::Unrecorded));
        }
        let _entered = self.gpu.enter()?;
        let mut handle = RawIpcHandle { reserved: [0; 64] };
        // SAFETY: the event was made to be shared; the call writes to `handle` alone.
        let code = unsafe { (self.gpu.api.ipc_get_event_handle)(&mut handle, self.native.0) };
        check_shared(self.gpu, "cuIpcGetEventHandle", code)?;
        Ok(handle.reserved)
    }
}

impl Drop for SharedEvent {
    fn drop(&mut self) {
        if !fork::happened() {
            self.gpu.retire(super::gpu::Retired { shared: Some(self.native), ..Default::default() });
        }
    }
}

impl fmt::Debug for SharedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: for whoever reads it.
        let recorded = self.recorded.load(Ordering::Relaxed) == RECORDED;
        f.debug_struct("SharedEvent").field("recorded", &recorded).finish_non_exhaustive()
    }
}

fn check_shared(gpu: &Gpu, call: &str, code: u32) -> Result<()> {
    const NOT_SUPPORTED: u32 = 801;
    match code {
        NOT_SUPPORTED => Err(Error::with_text(ErrorKind::Unsupported, gpu.api.say(call, code))),
        // A handle of this very process, which the driver does not open again; or what is none (205, MAP_FAILED).
        1 | 101 | 201 | 205 | 304 | 400 | 401 => {
            let text = format!("{}; it has to be what another process has exported", gpu.api.say(call, code));
            Err(Error::with_text(ErrorKind::InvalidArgument, text))
        }
        code => gpu.api.check(call, code),
    }
}

/// Opens an event that another process exported: to wait for, to await, to be called back by (R36). Imported, it carries no
/// failure and no time, and it is good only while its exporter lives.
///
/// Whether it lives the driver does not tell: an H100's, 580, opens the handle of a process that has ended, and calls the
/// event complete. What it says of one that was pending then it promises nowhere: have the other process say that its work
/// is done, if that matters, and wait with a timeout where it may end.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if the handle is this process's own, or none; [`ErrorKind::Unsupported`] if `device` is no
/// CUDA device or the driver can't share on this system; [`ErrorKind::Closed`]; [`ErrorKind::Forked`].
pub fn open_shared(device: &Device, handle: &IpcHandle) -> Result<Event> {
    let gpu = super::gpu_of(device)?;
    let mut native = ptr::null_mut();
    {
        let _entered = gpu.enter()?;
        // SAFETY: any bytes may be tried; the call writes to `native` alone.
        let code =
            unsafe { (gpu.api.ipc_open_event_handle)(&mut native, RawIpcHandle { reserved: *handle }) };
        check_shared(gpu, "cuIpcOpenEventHandle", code)?;
    }
    let opened: KeepAlive = Arc::new(Opened { gpu, native: Handle(native) });
    stand_for(device, gpu, Handle(native), Some(opened))
}

/// An event of another process's, opened here.
struct Opened {
    gpu: &'static Gpu,
    native: Handle,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if !fork::happened() {
            self.gpu.retire(super::gpu::Retired { shared: Some(self.native), ..Default::default() });
        }
    }
}
