//! Events that the driver knows and this crate did not record: other libraries', other processes', and those in graphs.

use super::{
    driver::{
        EVENT_DISABLE_TIMING, EVENT_INTERPROCESS, EVENT_RECORD_EXTERNAL, RawEvent, RawIpcHandle, is_capture,
        is_fault,
    },
    gpu::{Gpu, Handle, KeepAlive},
    pump::{Look, Watched},
    queue::Queue,
};
use crate::{
    backend::{BackendStream, Flushed, Gate, Lane, Signaled, Source, StreamTraits, Waited},
    device::Device,
    error::{Error, ErrorKind, Result},
    event::Event,
    external::{External, ExternalPending},
    fork,
    primitive::lock,
    stream::Stream,
    timeline::Progress,
};
use std::{
    fmt, ptr,
    sync::{Arc, Mutex, Weak},
};

/// The driver half of a recording that somebody else makes: a native event.
pub(super) struct Foreign {
    lane: Weak<Lane<Self>>,
    gpu: &'static Gpu,
    event: Handle,
    /// The pump has the lane.
    listed: Mutex<bool>,
    /// Whose the event is; none for ours.
    _keep_alive: Option<KeepAlive>,
}

impl Foreign {
    const POSITION: u64 = 1;

    pub(super) fn event(&self) -> Handle {
        self.event
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
            Err(code) if is_capture(code) => {}
            Err(code) => {
                let error = self.gpu.api.error("cuEventQuery", code);
                if is_fault(code) {
                    self.gpu.fail(error.clone());
                }
                lane.fail(Self::POSITION, error);
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
            self.gpu.pump.watch(self.gpu, Watched::Foreign(lane));
        }
    }

    fn abandon(&self) {}
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Foreign").field("event", &self.event.0).finish_non_exhaustive()
    }
}

fn make(
    device: &Device,
    gpu: &'static Gpu,
    event: Handle,
    keep_alive: Option<KeepAlive>,
) -> Result<(Event, External)> {
    let (event, token, _lane) = device.external_event_with(None, |lane| Foreign {
        lane: lane.clone(),
        gpu,
        event,
        listed: Mutex::new(false),
        _keep_alive: keep_alive,
    })?;
    Ok((event, token))
}

/// The token of a recording that was submitted. Its lane must not fail when the token goes: it is the driver's to complete.
fn submitted(token: External) {
    let pending: ExternalPending = token.submitted();
    // What signals is the native event.
    std::mem::forget(pending);
}

/// Makes an event of a `CUevent` that somebody else recorded, for its recording of this moment: to wait for, to await, to be
/// called back by.
///
/// Record it anew while this is pending, and it is the newer recording that completes it: native events have no memory. An
/// imported event carries no failure but the whole context's (R26), and no time. `keep_alive` is kept until the last event
/// and waiter has gone.
///
/// # Safety
/// `event` is a `CUevent` of a context on the device's GPU, and stays one for as long as `keep_alive` is held.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if `device` is no CUDA device; [`ErrorKind::Closed`]; [`ErrorKind::Forked`].
pub unsafe fn import_event(device: &Device, event: RawEvent, keep_alive: KeepAlive) -> Result<Event> {
    let gpu = super::gpu_of(device)?;
    let (event, token) = make(device, gpu, Handle(event), Some(keep_alive))?;
    submitted(token);
    Ok(event)
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
    call(guard.backend::<Queue>().ok_or(ErrorKind::Unsupported)?)
}

/// The token of an event node in a graph; see [`record_external`].
///
/// Until [`launched`](Self::launched) says that the graph was launched, observing the event is
/// [`NotSubmitted`](ErrorKind::NotSubmitted). Dropped before, the event fails with [`Abandoned`](ErrorKind::Abandoned).
#[derive(Debug)]
#[must_use = "dropping the token abandons the recording"]
pub struct GraphRecording {
    token: External,
}

impl GraphRecording {
    /// The graph has been launched: from now on the event is pending like any other, for this launch.
    ///
    /// Say so only of a graph that was: until it is, the native event behind this says that it was reached.
    pub fn launched(self) {
        submitted(self.token);
    }

    /// The graph will not be launched. The same as dropping this.
    pub fn abandon(self) {}
}

/// Records an event in a graph that is being captured on this stream: as an event node, behind all that was captured so far
/// (R35). The event is external (R37): it stands for the launch that [`GraphRecording::launched`] announces.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if the stream is under no capture; [`ErrorKind::Unsupported`] if it is no CUDA stream;
/// [`ErrorKind::WouldDeadlock`] if this thread holds its lock; what the driver refused; [`ErrorKind::Closed`];
/// [`ErrorKind::Forked`].
pub fn record_external(stream: &Stream) -> Result<(Event, GraphRecording)> {
    let gpu = super::gpu_of(stream.device())?;
    let native = with_queue(stream, |queue| {
        match queue.check_capture() {
            Err(error) if error.kind() == ErrorKind::Capturing => {}
            Ok(()) => {
                return Err(Error::with_text(ErrorKind::InvalidArgument, "the stream is not being captured"));
            }
            Err(error) => return Err(error),
        }
        let event = gpu.new_event(EVENT_DISABLE_TIMING)?;
        // SAFETY: both are there.
        let code = unsafe { (gpu.api.event_record_with_flags)(event.0, queue.raw(), EVENT_RECORD_EXTERNAL) };
        // The graph has the event for as long as it likes, so it is never destroyed.
        gpu.api.check("cuEventRecordWithFlags", code).map(|()| event)
    })?;
    let (event, token) = make(stream.device(), gpu, native, None)?;
    Ok((event, GraphRecording { token }))
}

/// What another process needs to wait for a [`SharedEvent`]: plain bytes, to be sent in whatever way there is.
pub type IpcHandle = [u8; 64];

/// An event that other processes can wait for (R36).
///
/// It is a native event of its own, made for this and never pooled. CUDA's limits are what they are: such an event has no
/// time, is recorded once here, and is good for others only while this lives.
pub struct SharedEvent {
    gpu: &'static Gpu,
    native: Handle,
    event: Mutex<Option<Arc<Event>>>,
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
        Ok(Self { gpu, native, event: Mutex::new(None), device: device.clone() })
    }

    /// Records it on `stream`. Returns the event of this process, which is one like any other.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it was recorded already: who opened it would wait for either recording, and nobody
    /// could say which. Otherwise as [`record_raw`] and [`Event::record`].
    pub fn record(&self, stream: &Stream) -> Result<Arc<Event>> {
        fork::check()?;
        let mut recorded = lock(&self.event);
        if recorded.is_some() {
            let text = "a shared event is recorded once: whoever opened it can't tell two recordings apart";
            return Err(Error::with_text(ErrorKind::InvalidArgument, text));
        }
        if stream.device().id() != self.device.id() {
            return Err(Error::new(ErrorKind::WrongDevice));
        }
        // SAFETY: ours, and of this GPU's context.
        unsafe { record_raw(stream, self.native.0) }?;
        let event = Arc::new(stream.record()?);
        *recorded = Some(event.clone());
        Ok(event)
    }

    /// What another process opens. Export it once it is recorded: before, there is nothing to wait for.
    ///
    /// # Errors
    /// [`ErrorKind::Unrecorded`]; [`ErrorKind::Unsupported`] where the driver can't share on this system;
    /// [`ErrorKind::Forked`].
    pub fn export(&self) -> Result<IpcHandle> {
        fork::check()?;
        if lock(&self.event).is_none() {
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
        f.debug_struct("SharedEvent").field("event", &*lock(&self.event)).finish_non_exhaustive()
    }
}

fn check_shared(gpu: &Gpu, call: &str, code: u32) -> Result<()> {
    const NOT_SUPPORTED: u32 = 801;
    match code {
        NOT_SUPPORTED => Err(Error::with_text(ErrorKind::Unsupported, gpu.api.say(call, code))),
        // A handle of this very process, which the driver does not open again, or of a process that has ended.
        1 | 201 | 400 | 401 => {
            let text = format!(
                "{}; it has to come from another process, and that one has to be alive",
                gpu.api.say(call, code)
            );
            Err(Error::with_text(ErrorKind::InvalidArgument, text))
        }
        code => gpu.api.check(call, code),
    }
}

/// Opens an event that another process exported: to wait for, to await, to be called back by (R36). Imported, it carries no
/// failure and no time, and it is good only while its exporter lives.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if the handle is this process's own, or its exporter has gone; [`ErrorKind::Unsupported`]
/// if `device` is no CUDA device or the driver can't share on this system; [`ErrorKind::Closed`]; [`ErrorKind::Forked`].
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
    let (event, token) = make(device, gpu, Handle(native), Some(opened))?;
    submitted(token);
    Ok(event)
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
