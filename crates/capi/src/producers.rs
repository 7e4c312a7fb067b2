//! Events that somebody else completes: the host, or whoever submits the work.

use crate::{
    handles::{
        DEVICES, DeviceHandle, EVENTS, EXTERNALS, EventHandle, ExternalHandle, ExternalToken, Once, SIGNALS,
        SignalHandle,
    },
    pointers::{Out, text, text_if_any},
    status::{Failure, Result, Status, done},
};
use gpu_events::HostSignal;
use std::ffi::c_char;

/// Makes an event that the host completes, recorded and pending already, and its producer's end. Both are to be released;
/// `label`, which may be null, is what stall reports call it.
///
/// # Safety
/// `label` is null or a string; `event` and `signal` are good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_host_event(
    device: DeviceHandle,
    label: *const c_char,
    event: *mut EventHandle,
    signal: *mut SignalHandle,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let event = unsafe { Out::new(event, "event") }?;
        // SAFETY: as promised.
        let signal = unsafe { Out::new(signal, "signal") }?;
        // SAFETY: as promised.
        let label = unsafe { text_if_any(label) };
        let device = DEVICES.get(device)?;
        let (made, producer) = match label {
            Some(label) => device.host_event_labeled(&label)?,
            None => device.host_event()?,
        };
        event.put(EVENTS.insert(made, &device.pool())?.get());
        signal.put(SIGNALS.enter(Once::new(producer)));
        Ok(())
    })
}

fn signal_of(signal: SignalHandle) -> Result<HostSignal> {
    SIGNALS.get(signal)?.take().ok_or_else(|| {
        Failure::new(Status::ErrorInvalidHandle, format!("the signal {signal:#x} has been given already"))
    })
}

/// Completes the event. What this thread wrote before is seen by whoever sees the completion. Works once: then, or after
/// `gpuev_signal_fail`, it is `INVALID_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_signal_complete(signal: SignalHandle) -> Status {
    done(|| {
        signal_of(signal)?.complete();
        Ok(())
    })
}

/// Fails the event, and with it whoever waits for it, with `WORK_FAILED` and this text.
///
/// # Safety
/// `reason` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_signal_fail(signal: SignalHandle, reason: *const c_char) -> Status {
    done(|| {
        // SAFETY: as promised.
        let reason = unsafe { text(reason, "reason") }?;
        signal_of(signal)?.fail(reason);
        Ok(())
    })
}

/// Gives a signal back. If it was not given, its event fails with `ABANDONED`: nobody waits for a producer that has gone.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_signal_release(signal: SignalHandle) -> Status {
    // What dropping it brings about, others may see while they still use the handle: it is taken first.
    done(|| SIGNALS.remove(signal).map(|signal| drop(signal.take())))
}

/// Makes an event for work that somebody else will submit, and the token that goes with it. Until
/// `gpuev_external_submitted`, observing the event is `NOT_SUBMITTED`. Both are to be released.
///
/// # Safety
/// `event` and `external` are good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_external_event(
    device: DeviceHandle,
    event: *mut EventHandle,
    external: *mut ExternalHandle,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let event = unsafe { Out::new(event, "event") }?;
        // SAFETY: as promised.
        let external = unsafe { Out::new(external, "external") }?;
        let device = DEVICES.get(device)?;
        let (made, token) = device.external_event()?;
        event.put(EVENTS.insert(made, &device.pool())?.get());
        external.put(EXTERNALS.enter(Once::new(ExternalToken::Prepared(token))));
        Ok(())
    })
}

/// The work has been submitted: from now on the event is pending like any other.
///
/// Errors: `INVALID_ARGUMENT` if that was said before.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_external_submitted(external: ExternalHandle) -> Status {
    done(|| {
        EXTERNALS.get(external)?.replace(|token| match token {
            Some(ExternalToken::Prepared(prepared)) => {
                (Some(ExternalToken::Submitted(prepared.submitted())), Ok(()))
            }
            other => (
                other,
                Err(Failure::new(Status::ErrorInvalidArgument, "it is submitted already, or completed")),
            ),
        })
    })
}

fn submitted(external: ExternalHandle) -> Result<gpu_events::ExternalPending> {
    EXTERNALS.get(external)?.replace(|token| match token {
        Some(ExternalToken::Submitted(pending)) => (None, Ok(pending)),
        other => (
            other,
            Err(Failure::new(Status::ErrorInvalidArgument, "it is not submitted, or was completed already")),
        ),
    })
}

/// The work is done.
///
/// Errors: `INVALID_ARGUMENT` if it was not submitted, or was completed or failed before.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_external_complete(external: ExternalHandle) -> Status {
    done(|| {
        submitted(external)?.complete();
        Ok(())
    })
}

/// The work failed.
///
/// Errors: as `gpuev_external_complete`.
///
/// # Safety
/// `reason` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_external_fail(external: ExternalHandle, reason: *const c_char) -> Status {
    done(|| {
        // SAFETY: as promised.
        let reason = unsafe { text(reason, "reason") }?;
        submitted(external)?.fail(reason);
        Ok(())
    })
}

/// Gives a token back. If the work was not said to be done, its event fails with `ABANDONED`.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_external_release(external: ExternalHandle) -> Status {
    done(|| EXTERNALS.remove(external).map(|external| drop(external.take())))
}
