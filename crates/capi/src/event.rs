//! Events by number: the seed's verbs, and the ways to observe.

use crate::{
    handles::{
        CALLBACKS, CallbackHandle, DEVICES, DeviceHandle, EVENTS, EventHandle, POOLS, PoolHandle,
        StreamHandle, event_id, resolve, stream_or_default,
    },
    held,
    pointers::{Out, UserData, array, put_if_wanted, text},
    status::{Failure, Result, Status, call, done, outcome},
    stream::{wait_options, waited},
};
use gpu_events::{Callback, Event, WaitAny, WaitStrategy as Strategy, statuses, wait_all, wait_any};
use std::{
    ffi::{c_char, c_void},
    sync::{Arc, OnceLock},
    time::Duration,
};

/// Where an event stands.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStatus {
    /// Not recorded since it was acquired or reset.
    Unrecorded = 0,
    /// An external recording whose work is in somebody's hands still.
    NotSubmitted = 1,
    /// Recorded; work before it is not done.
    Pending = 2,
    /// All work before it is done, and its memory effects are visible.
    Complete = 3,
    /// It will never complete; `gpuev_event_query` says why.
    Failed = 4,
}

impl EventStatus {
    fn of(status: gpu_events::Status) -> Self {
        match status {
            gpu_events::Status::Unrecorded => Self::Unrecorded,
            gpu_events::Status::NotSubmitted => Self::NotSubmitted,
            gpu_events::Status::Complete => Self::Complete,
            gpu_events::Status::Failed => Self::Failed,
            // Pending, and whatever else is to come: it is not settled.
            _ => Self::Pending,
        }
    }
}

/// How a waiting thread passes the time.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Sleeps until woken: no CPU time, one wake-up's latency.
    Park = 0,
    /// Spins for so long, then sleeps: right where most waits are short.
    SpinThenPark = 1,
    /// Spins to the end: the least latency, and a core for as long as it takes.
    Spin = 2,
}

/// Takes an event from a pool, with or without timing. It is to be released.
///
/// # Safety
/// `event` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_acquire(
    pool: PoolHandle,
    timing: bool,
    event: *mut EventHandle,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let event = unsafe { Out::new(event, "event") }?;
        event.put(EVENTS.acquire_from(&POOLS.get(pool)?, timing)?.get());
        Ok(())
    })
}

/// Gives an event back to its pool, pending or not: this neither blocks nor cancels. Calls that are using it finish with it.
/// The handle is good for nothing from now on, and never becomes another event's.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_event_release(event: EventHandle) -> Status {
    done(|| Ok(EVENTS.release(event_id(event))?))
}

/// Records the event: it now stands for all work that was submitted to the stream before. A null stream is the default one of
/// the event's device. With `flush`, what the stream has gathered is then submitted.
///
/// In any state, also while the earlier recording is pending, and from any thread. Does not block, except for room in a full
/// queue. Recording on a failed stream succeeds, and the event has failed at once.
///
/// Errors: `WRONG_DEVICE`, `WOULD_BLOCK`, `CLOSED`, `CAPTURING`, what the driver refused. The event is then as it was before.
/// If only the flush fails, the event is recorded.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_event_record(event: EventHandle, stream: StreamHandle, flush: bool) -> Status {
    done(|| {
        let id = event_id(event);
        let held = held::with(
            || resolve(stream, id),
            |guard| {
                guard.record(&*EVENTS.get(id)?)?;
                if flush {
                    guard.flush()?;
                }
                Ok(())
            },
        );
        match held {
            Some(recorded) => recorded,
            None => Ok(EVENTS.record(id, stream_or_default(stream)?.as_ref(), flush)?),
        }
    })
}

/// Makes the event unrecorded, with or without timing from now on, under the same handle. Those who wait for its recording go
/// on doing so; nothing of the driver's is touched.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_event_reset(event: EventHandle, timing: bool) -> Status {
    done(|| Ok(EVENTS.reset(event_id(event), timing)?))
}

/// Whether the recording is complete. False for an unrecorded event. Never blocks, and consumes nothing.
///
/// Errors: the recording's failure: "not yet" is never an error, and an error is never "not yet". `NOT_SUBMITTED`.
///
/// # Safety
/// `complete` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_query(event: EventHandle, complete: *mut bool) -> Status {
    done(|| {
        // SAFETY: as promised.
        let complete = unsafe { Out::new(complete, "complete") }?;
        complete.put(EVENTS.query(event_id(event))?);
        Ok(())
    })
}

/// Where the event stands. Never blocks, and consumes nothing.
///
/// # Safety
/// `status` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_get_status(event: EventHandle, status: *mut EventStatus) -> Status {
    done(|| {
        // SAFETY: as promised.
        let status = unsafe { Out::new(status, "status") }?;
        status.put(EventStatus::of(EVENTS.get(event_id(event))?.status()));
        Ok(())
    })
}

/// Where each of `count` events stands, asking each driver once.
///
/// # Safety
/// `events` is good for reading `count` of them, and `out_statuses` for writing as many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_get_statuses(
    events: *const EventHandle,
    count: usize,
    out_statuses: *mut EventStatus,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let events = held_events(unsafe { array(events, count, "events") }?)?;
        if out_statuses.is_null() && count > 0 {
            return Err(Failure::null("out_statuses"));
        }
        for (index, status) in statuses(events.iter().map(|event| &**event)).into_iter().enumerate() {
            // SAFETY: less than `count`.
            let to = unsafe { out_statuses.add(index) };
            // SAFETY: good for writing, as promised.
            unsafe { to.write(EventStatus::of(status)) };
        }
        Ok(())
    })
}

fn held_events(handles: &[EventHandle]) -> Result<Vec<Arc<Event>>> {
    handles.iter().map(|&handle| Ok(EVENTS.get(event_id(handle))?)).collect()
}

/// Blocks until the recording is complete; at once for an unrecorded event. Binds to the recording of this moment.
///
/// Errors: the recording's failure; `NOT_SUBMITTED`; `WOULD_DEADLOCK` if this thread holds the stream, or runs its work.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_event_synchronize(event: EventHandle) -> Status {
    done(|| Ok(EVENTS.synchronize(event_id(event))?))
}

/// As `gpuev_event_synchronize`, for `timeout_ns` nanoseconds at most: `OK` or `TIMED_OUT`. Zero only asks; `GPUEV_FOREVER`
/// is for ever. `strategy` is a `gpuev_wait_strategy`; `spin_ns` is for how long `SPIN_THEN_PARK` spins.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_event_wait(
    event: EventHandle,
    timeout_ns: u64,
    strategy: u32,
    spin_ns: u64,
) -> Status {
    call(|| {
        let strategy = match strategy {
            0 => Strategy::Park,
            1 => Strategy::SpinThenPark(Duration::from_nanos(spin_ns)),
            2 => Strategy::Spin,
            other => return Err(Failure::no_choice("strategy", other)),
        };
        let options = wait_options(timeout_ns).strategy(strategy);
        Ok(waited(EVENTS.get(event_id(event))?.wait_with(&options)?))
    })
}

/// Blocks until one of the events is settled: complete, failed, or not recorded at all. `index` then says which; ask it how.
/// For `timeout_ns` at most: `OK` or `TIMED_OUT`, which is also the answer if there are no events.
///
/// # Safety
/// `events` is good for reading `count` of them; `index` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_wait_any(
    events: *const EventHandle,
    count: usize,
    timeout_ns: u64,
    index: *mut usize,
) -> Status {
    call(|| {
        // SAFETY: as promised.
        let index = unsafe { Out::new(index, "index") }?;
        // SAFETY: as promised.
        let events = held_events(unsafe { array(events, count, "events") }?)?;
        Ok(match wait_any(events.iter().map(|event| &**event), &wait_options(timeout_ns))? {
            WaitAny::Settled(settled) => {
                index.put(settled);
                Status::Ok
            }
            WaitAny::TimedOut => Status::TimedOut,
        })
    })
}

/// Blocks until all of the events are complete; unrecorded ones count as complete. For `timeout_ns` at most: `OK` or
/// `TIMED_OUT`.
///
/// Errors: the failure of one of them, as soon as it is known.
///
/// # Safety
/// `events` is good for reading `count` of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_wait_all(events: *const EventHandle, count: usize, timeout_ns: u64) -> Status {
    call(|| {
        // SAFETY: as promised.
        let events = held_events(unsafe { array(events, count, "events") }?)?;
        Ok(waited(wait_all(events.iter().map(|event| &**event), &wait_options(timeout_ns))?))
    })
}

/// The device's time from `start` to `end` in milliseconds, after waiting for both: negative if the end came first.
///
/// Errors, before anything is waited for: `UNTIMED`, `UNRECORDED`, `CLOCK_MISMATCH`. Then a recording's failure, and
/// `NOT_MEASURED`.
///
/// # Safety
/// `milliseconds` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_elapsed(
    start: EventHandle,
    end: EventHandle,
    milliseconds: *mut f64,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let milliseconds = unsafe { Out::new(milliseconds, "milliseconds") }?;
        milliseconds.put(EVENTS.elapsed_time(event_id(start), event_id(end))?);
        Ok(())
    })
}

/// When the recording completed, in nanoseconds since the origin of its device's clock.
///
/// Errors: `UNTIMED`, `UNRECORDED`, the recording's failure, `NOT_COMPLETE`, `NOT_MEASURED`, in this order.
///
/// # Safety
/// `nanoseconds` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_get_completion_time(
    event: EventHandle,
    nanoseconds: *mut u64,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let nanoseconds = unsafe { Out::new(nanoseconds, "nanoseconds") }?;
        nanoseconds.put(EVENTS.get(event_id(event))?.completion_time()?.nanos());
        Ok(())
    })
}

/// Whether the event's recordings are timed.
///
/// # Safety
/// `timed` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_is_timed(event: EventHandle, timed: *mut bool) -> Status {
    done(|| {
        // SAFETY: as promised.
        let timed = unsafe { Out::new(timed, "timed") }?;
        timed.put(EVENTS.get(event_id(event))?.is_timed());
        Ok(())
    })
}

/// A handle to the device that the event is of, to be released.
///
/// # Safety
/// `device` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_get_device(event: EventHandle, device: *mut DeviceHandle) -> Status {
    done(|| {
        // SAFETY: as promised.
        let device = unsafe { Out::new(device, "device") }?;
        device.put(DEVICES.enter(EVENTS.pool_of(event_id(event))?.device().clone()));
        Ok(())
    })
}

/// Names the event, for stall reports and traces.
///
/// # Safety
/// `label` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_set_label(event: EventHandle, label: *const c_char) -> Status {
    done(|| {
        // SAFETY: as promised.
        let label = unsafe { text(label, "label") }?;
        EVENTS.get(event_id(event))?.set_label(&label);
        Ok(())
    })
}

/// What is called once a recording is complete (`OK`), has failed (its status, and a text), or its device was closed
/// (`CLOSED`). The text is good until the function returns. It may call anything of this library's, must not let a C++
/// exception out, and one that blocks delays other callbacks of its device and nothing else.
pub type CallbackFn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, status: Status, text: *const c_char)>;

/// Has `function` called with `user_data` once the event's recording of this moment is complete or has failed, exactly once,
/// on the callback thread of the event's device: soon, if it is complete already or unrecorded. Callbacks of one stream are
/// called in the order of their recordings.
///
/// `callback`, if it is not null, gets a handle by which it can be cancelled, to be released (which cancels nothing). It is
/// written before the function can be called, and not afterwards. A handle that is not released keeps its device.
///
/// Errors: `NOT_SUBMITTED`, `RESOURCES`. It is then never called.
///
/// # Safety
/// `function` may be called from another thread; `callback` is null, or good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_notify(
    event: EventHandle,
    function: CallbackFn,
    user_data: *mut c_void,
    callback: *mut CallbackHandle,
) -> Status {
    done(|| {
        let function = function.ok_or_else(|| Failure::null("function"))?;
        let event = EVENTS.get(event_id(event))?;
        let data = UserData::new(user_data);
        let call = move |result| {
            let (status, text) = outcome(result);
            held::let_go_after(|| {
                // SAFETY: the caller's function, with what it was given for, on a thread that it was promised for.
                unsafe { function(data.get(), status, text.as_ptr()) };
            });
        };
        if callback.is_null() {
            event.on_complete(call)?;
            return Ok(());
        }
        let registered = Arc::new(OnceLock::new());
        let handle = CALLBACKS.enter(registered.clone());
        // Before the function can be called, which may free what the handle is written to.
        // SAFETY: as promised.
        unsafe { put_if_wanted(callback, handle) };
        match event.on_complete(call) {
            Ok(made) => {
                // It was empty, and nobody else fills it.
                let _ = registered.set(made);
                Ok(())
            }
            Err(error) => {
                let _ = CALLBACKS.remove(handle);
                // SAFETY: as promised: the function was not called.
                unsafe { put_if_wanted(callback, 0) };
                Err(error.into())
            }
        }
    })
}

/// Cancels a callback. `cancelled` is true if it has not been called and never will be; false if it was called, is being
/// called, or was cancelled before. Never waits for one that is being called. The handle is still to be released.
///
/// # Safety
/// `cancelled` is null, or good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_callback_cancel(callback: CallbackHandle, cancelled: *mut bool) -> Status {
    done(|| {
        // Not registered yet: it is about to be, and can't be taken back.
        let was = CALLBACKS.get(callback)?.get().is_some_and(Callback::cancel);
        // SAFETY: as promised.
        unsafe { put_if_wanted(cancelled, was) };
        Ok(())
    })
}

/// Gives a callback's handle back. The callback stays registered.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_callback_release(callback: CallbackHandle) -> Status {
    done(|| CALLBACKS.remove(callback).map(drop))
}
