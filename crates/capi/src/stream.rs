//! Streams.

use crate::{
    handles::{
        DEVICES, DeviceHandle, EVENTS, EventHandle, STREAMS, StreamHandle, event_id, resolve,
        stream_or_default,
    },
    held,
    pointers::{Kept, Out, ReleaseFn, UserData, put_if_wanted, text_if_any},
    status::{Failure, Result, Status, call, done},
};
use gpu_events::{
    ForeignWaits, Signal, Stream, StreamOptions as Options, StreamWait, WaitOptions, WaitOutcome, WhenFull,
};
use std::{
    cell::RefCell,
    ffi::{c_char, c_void},
    time::Duration,
};

/// For times to wait: for ever.
pub const FOREVER: u64 = u64::MAX;

/// For `gpuev_stream_options.batch_bound`: each recording is submitted at once.
pub const NO_BATCHES: u64 = u64::MAX;

/// How a stream's completion is made known, where the device has a choice: CUDA has.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalKind {
    /// As the device has it: cheap.
    Default = 0,
    /// Cheap to record, and a driver call to ask: for events that mostly other streams wait for.
    Cheap = 1,
    /// Dearer to record, a load to ask, and seen by the host soonest: for events that the host polls or is called back by.
    Prompt = 2,
}

/// How a stream is to be. All zero is the default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Names the stream, for stall reports and errors; may be null.
    pub label: *const c_char,
    /// At most this many incomplete recordings at a time; 0: as many as the device takes.
    pub queue_depth: u64,
    /// At most this many recordings are gathered before they are submitted; 0: the device's default, `GPUEV_NO_BATCHES`: none.
    pub batch_bound: u64,
    /// A `gpuev_signal_kind`.
    pub signal: u32,
    /// A recording that finds the queue full fails with `WOULD_BLOCK`, instead of waiting for room.
    pub would_block: bool,
    /// Waits for CUDA's events on a Vulkan stream of the same GPU, and the other way round, go through the drivers.
    pub native_foreign_waits: bool,
}

/// What the caller's options are to the library; the defaults if there are none.
///
/// # Safety
/// `options` is null, or good for reading, and so is its label.
pub(crate) unsafe fn read_options(options: *const StreamOptions) -> Result<Options> {
    // SAFETY: as promised.
    let Some(from) = (unsafe { options.as_ref() }) else { return Ok(Options::new()) };
    let mut options = Options::new();
    // SAFETY: as promised.
    if let Some(label) = unsafe { text_if_any(from.label) } {
        options = options.label(label);
    }
    if from.queue_depth > 0 {
        options = options.queue_depth(from.queue_depth);
    }
    match from.batch_bound {
        0 => {}
        NO_BATCHES => options = options.batch_bound(0),
        bound => options = options.batch_bound(bound),
    }
    match from.signal {
        0 => {}
        1 => options = options.signal(Signal::Cheap),
        2 => options = options.signal(Signal::Prompt),
        other => return Err(Failure::no_choice("options.signal", other)),
    }
    if from.would_block {
        options = options.when_full(WhenFull::WouldBlock);
    }
    if from.native_foreign_waits {
        options = options.foreign_waits(ForeignWaits::Native);
    }
    Ok(options)
}

/// For so many nanoseconds, or for ever.
pub(crate) fn wait_options(timeout_ns: u64) -> WaitOptions {
    match timeout_ns {
        FOREVER => WaitOptions::new(),
        timeout => WaitOptions::new().timeout(Duration::from_nanos(timeout)),
    }
}

pub(crate) fn waited(outcome: WaitOutcome) -> Status {
    match outcome {
        WaitOutcome::Complete => Status::Ok,
        WaitOutcome::TimedOut => Status::TimedOut,
    }
}

/// Makes a stream. `options` may be null.
///
/// # Safety
/// `options` is null, or good for reading, and so is its label; `stream` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_stream_create(
    device: DeviceHandle,
    options: *const StreamOptions,
    stream: *mut StreamHandle,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let stream = unsafe { Out::new(stream, "stream") }?;
        // SAFETY: as promised.
        let options = unsafe { read_options(options) }?;
        stream.put(STREAMS.enter(DEVICES.get(device)?.create_stream_with(&options)?));
        Ok(())
    })
}

/// The device's default stream, made when it is first asked for: the one that is meant where a null stream is given. Each
/// call gives another handle to it, to be released.
///
/// # Safety
/// `stream` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_stream_get_default(device: DeviceHandle, stream: *mut StreamHandle) -> Status {
    done(|| {
        // SAFETY: as promised.
        let stream = unsafe { Out::new(stream, "stream") }?;
        stream.put(STREAMS.enter(DEVICES.get(device)?.default_stream()?));
        Ok(())
    })
}

/// Gives a handle back. What was submitted to the stream goes on, and with the last handle what was only gathered is
/// submitted.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_stream_release(stream: StreamHandle) -> Status {
    done(|| STREAMS.remove(stream).map(drop))
}

/// The stream's number, which is the same by all handles to it, and no other stream's in this process.
///
/// # Safety
/// `id` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_stream_get_id(stream: StreamHandle, id: *mut u64) -> Status {
    done(|| {
        // SAFETY: as promised.
        let id = unsafe { Out::new(id, "id") }?;
        id.put(STREAMS.get(stream)?.id().get());
        Ok(())
    })
}

/// A handle to the device that the stream is on, to be released.
///
/// # Safety
/// `device` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_stream_get_device(stream: StreamHandle, device: *mut DeviceHandle) -> Status {
    done(|| {
        // SAFETY: as promised.
        let device = unsafe { Out::new(device, "device") }?;
        device.put(DEVICES.enter(STREAMS.get(stream)?.device().clone()));
        Ok(())
    })
}

/// Holds back what is submitted to `stream` from now on until the event's recording of this moment is complete. A null stream
/// is the default one of the event's device. Never blocks the host; the event may be of any stream on any device. If the event
/// fails, the stream fails with it, from here on.
///
/// Errors: `NOT_SUBMITTED` for an external recording in somebody's hands, `CLOSED`, `CAPTURING`, what the driver refused.
///
/// `inserted`, which may be null, tells whether there was anything to wait for: there is not if the event is unrecorded,
/// complete, or of this very stream.
///
/// # Safety
/// `inserted` is null, or good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_stream_wait(
    stream: StreamHandle,
    event: EventHandle,
    inserted: *mut bool,
) -> Status {
    done(|| {
        let id = event_id(event);
        let held = held::with(|| resolve(stream, id), |guard| Ok(guard.wait(&*EVENTS.get(id)?)?));
        let wait: StreamWait = match held {
            Some(wait) => wait?,
            None => EVENTS.wait(id, stream_or_default(stream)?.as_ref())?,
        };
        // SAFETY: as promised.
        unsafe { put_if_wanted(inserted, wait.inserted()) };
        Ok(())
    })
}

/// Submits what is gathered. Never blocks; while a thread holds the stream, it is done when that lets go.
///
/// Errors: the stream's failure.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_stream_flush(stream: StreamHandle) -> Status {
    done(|| match held::with(|| STREAMS.get(stream), |guard| Ok(guard.flush()?)) {
        Some(flushed) => flushed,
        None => Ok(STREAMS.get(stream)?.flush()?),
    })
}

/// Blocks until all that was submitted to the stream is done, for `timeout_ns` nanoseconds at most: `OK` or `TIMED_OUT`.
///
/// Errors: the stream's failure; `WOULD_DEADLOCK` if this thread holds the stream.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_stream_synchronize(stream: StreamHandle, timeout_ns: u64) -> Status {
    call(|| Ok(waited(STREAMS.get(stream)?.synchronize_with(&wait_options(timeout_ns))?)))
}

/// `OK` while the stream has not failed, and its first failure, with its text, once it has.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_stream_get_error(stream: StreamHandle) -> Status {
    done(|| match STREAMS.get(stream)?.error() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    })
}

/// Holds the stream for this thread: until `gpuev_stream_unlock`, what other threads give to it waits, and what this thread
/// gives to it, by whatever handle (`gpuev_event_record`, `gpuev_stream_wait`, `gpuev_stream_enqueue`, `gpuev_vulkan_submit`,
/// `gpuev_metal_encode`), stays together. A recording then never waits for room: it is `WOULD_BLOCK`.
///
/// Hold it briefly, and never while waiting for it: that is `WOULD_DEADLOCK`, as is locking it twice. A thread that ends lets
/// go of what it holds, and so does a callback or work that returns with what it took itself.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_stream_lock(stream: StreamHandle) -> Status {
    done(|| held::hold(stream, STREAMS.get(stream)?))
}

/// Lets go of a stream that this thread holds by this handle, released or not.
///
/// Errors: `INVALID_ARGUMENT` if it doesn't.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_stream_unlock(stream: StreamHandle) -> Status {
    done(|| held::let_go(stream))
}

/// Work for a CPU stream. Answers 0 if it went well; anything else fails the stream, with the text that
/// `gpuev_set_work_error` was given meanwhile, if any. Must not let a C++ exception out.
pub type WorkFn = Option<unsafe extern "C" fn(user_data: *mut c_void) -> i32>;

/// Has `work` run behind all that was submitted to a CPU device's stream before, on a thread of this library's. Never blocks.
///
/// Work that fails (`WORK_FAILED`) fails the stream: what was submitted after it is dropped without running. `release`, which
/// may be null, is called once with `user_data` in any case, after the work, or when it is dropped, or when this call returns
/// an error.
///
/// Errors: `UNSUPPORTED` on other devices; `CLOSED`.
///
/// # Safety
/// `work` and `release` may be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_stream_enqueue(
    stream: StreamHandle,
    work: WorkFn,
    user_data: *mut c_void,
    release: ReleaseFn,
) -> Status {
    let kept = Kept::new(release, user_data);
    done(|| {
        let work = work.ok_or_else(|| Failure::null("work"))?;
        let data = UserData::new(user_data);
        let run = move || {
            let _kept = kept;
            WORK_ERROR.set(Some(None));
            // SAFETY: the caller's function, with what it was given for, on a thread that it was promised for.
            let code = held::let_go_after(|| unsafe { work(data.get()) });
            match (code, WORK_ERROR.take().flatten()) {
                (0, _) => Ok(()),
                (_, Some(text)) => Err(text),
                (code, None) => Err(format!("the work returned {code}")),
            }
        };
        let mut run = Some(run);
        let mut enqueue = |cpu: gpu_events::cpu::CpuStream<'_>| match run.take() {
            Some(run) => Ok(cpu.enqueue(run)?),
            None => Ok(()),
        };
        match held::with(|| STREAMS.get(stream), |guard| enqueue(guard.cpu()?)) {
            Some(enqueued) => enqueued,
            None => enqueue(STREAMS.get(stream)?.cpu()?),
        }
    })
}

thread_local! {
    /// Why the work that this thread runs fails, if it has said so; nothing while it runs none.
    static WORK_ERROR: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Called by work on a CPU stream before it answers that it failed: the text of the failure, for those who wait for it. From
/// elsewhere it does nothing.
///
/// # Safety
/// `text` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_set_work_error(text: *const c_char) -> Status {
    done(|| {
        // SAFETY: as promised.
        let text = unsafe { crate::pointers::text(text, "text") }?;
        let _ = WORK_ERROR.try_with(|error| {
            if let Some(error) = error.borrow_mut().as_mut() {
                *error = Some(text);
            }
        });
        Ok(())
    })
}

/// Keeps something of the caller's until the event's recording of this moment is complete or has failed: `release` is then
/// called once with `user_data`, on the callback thread of the stream's device; at once if the event is not recorded.
///
/// It is never called where nobody knows when the device is done with it: the device was closed, or the recording failed
/// because of another stream's failure while the driver may go on with the work. Nor is it if this call fails, for the same
/// reason.
///
/// # Safety
/// `release` may be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_stream_keep_until(
    stream: StreamHandle,
    event: EventHandle,
    release: ReleaseFn,
    user_data: *mut c_void,
) -> Status {
    done(|| {
        let stream: Stream = STREAMS.get(stream)?;
        let event = EVENTS.get(event_id(event))?;
        let kept = Kept::new(release, user_data).ok_or_else(|| Failure::null("release"))?;
        Ok(stream.keep_until(&event, kept)?)
    })
}
