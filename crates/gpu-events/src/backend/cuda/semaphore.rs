//! Timeline semaphores of another interface's, imported: what CUDA does at its end of a bridge.

use super::{
    driver::{
        RawExternalSemaphore, SUCCESS, SemaphoreHandleDescription, SemaphoreParameters, TIMELINE_SEMAPHORE_FD,
    },
    gpu::{Gpu, Handle, Retired},
    queue::Queue,
};
use crate::{
    error::{Error, ErrorKind, Result},
    primitive::lock,
};
use std::{
    fmt, mem,
    os::fd::{IntoRawFd, OwnedFd},
    ptr,
    sync::Mutex,
};

/// An imported semaphore, and a stream of ours to signal it from.
pub(in crate::backend) struct ImportedSemaphore {
    gpu: &'static Gpu,
    raw: Handle,
    /// One for each semaphore: behind another one's, a signal would wait for what it has nothing to do with.
    helper: Handle,
    /// Recorded behind the waits for it: it may be destroyed once they were reached.
    waits: Mutex<Vec<Handle>>,
}

impl Gpu {
    /// Whether the driver has what takes part in a bridge.
    pub(in crate::backend) fn can_import(&self) -> bool {
        let api = self.api;
        self.uuid.is_some()
            && api.import_external_semaphore.is_some()
            && api.destroy_external_semaphore.is_some()
            && api.signal_external_semaphores.is_some()
            && api.wait_external_semaphores.is_some()
    }
}

fn missing<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported))
}

impl ImportedSemaphore {
    /// Imports a timeline semaphore.
    pub(in crate::backend) fn import(gpu: &'static Gpu, fd: OwnedFd) -> Result<Self> {
        let Some(import) = gpu.api.import_external_semaphore else { return missing() };
        let helper = gpu.stream()?;
        let entered = gpu.enter();
        let outcome = entered.and_then(|_entered| {
            let fd = fd.into_raw_fd();
            let description = SemaphoreHandleDescription::of_fd(TIMELINE_SEMAPHORE_FD, fd);
            let mut raw: RawExternalSemaphore = ptr::null_mut();
            // SAFETY: the descriptor is open; the call reads `description` and writes to `raw` alone.
            match unsafe { import(&mut raw, &description) } {
                SUCCESS => Ok(raw),
                code => {
                    // SAFETY: still ours: the driver takes it with success alone.
                    unsafe { libc::close(fd) };
                    Err(gpu.api.error("cuImportExternalSemaphore", code))
                }
            }
        });
        match outcome {
            Ok(raw) => Ok(Self { gpu, raw: Handle(raw), helper, waits: Mutex::default() }),
            Err(error) => {
                gpu.retire(Retired { stream: Some(helper), ..Retired::default() });
                Err(error)
            }
        }
    }

    pub(in crate::backend) fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// Has `queue` wait for the value. Under its submit lock.
    pub(in crate::backend) fn be_waited_for(&self, queue: &Queue, value: u64) -> Result<()> {
        let Some(wait) = self.gpu.api.wait_external_semaphores else { return missing() };
        let _entered = self.gpu.enter()?;
        self.forget_reached();
        // First what may fail: once there is a wait, it must be known when that is over.
        let event = self.gpu.event(false)?;
        let parameters = SemaphoreParameters::of_value(value);
        // SAFETY: the semaphore is imported and the stream is there; the call reads one of each.
        let code = unsafe { wait(&self.raw.0, &parameters, 1, queue.raw()) };
        if code != SUCCESS {
            self.gpu.give_back(false, event);
            return Err(queue.refused("cuWaitExternalSemaphoresAsync", code));
        }
        lock(&self.waits).push(event);
        // A recording that was refused leaves the event as it was, and that says "reached". Then the context is broken, and
        // nothing is given back to such.
        queue.record_event(event)
    }

    /// Has the value signaled once a stream has come to a position.
    pub(in crate::backend) fn signal_behind(&self, source: &Queue, position: u64, value: u64) -> Result<()> {
        let _entered = self.gpu.enter()?;
        source.be_waited_for(self.gpu, self.helper, position)?;
        self.signal(value)
    }

    /// Has the value signaled now: nobody else will any more.
    pub(in crate::backend) fn let_go(&self, value: u64) {
        if self.gpu.broken().is_none()
            && let Ok(_entered) = self.gpu.enter()
        {
            // Refused, it finds the context broken, and everyone is told of that.
            let _ = self.signal(value);
        }
    }

    fn signal(&self, value: u64) -> Result<()> {
        let Some(signal) = self.gpu.api.signal_external_semaphores else { return missing() };
        let parameters = SemaphoreParameters::of_value(value);
        // SAFETY: the semaphore is imported and the stream is ours; the call reads one of each.
        let code = unsafe { signal(&self.raw.0, &parameters, 1, self.helper.0) };
        if code == SUCCESS { Ok(()) } else { Err(self.gpu.refused("cuSignalExternalSemaphoresAsync", code)) }
    }

    /// Lets go of the events that were reached, which stand for waits that are over.
    fn forget_reached(&self) {
        let mut waits = lock(&self.waits);
        waits.retain(|event| {
            let reached = self.gpu.is_done(*event) == Ok(true);
            if reached {
                self.gpu.give_back(false, *event);
            }
            !reached
        });
    }
}

impl Drop for ImportedSemaphore {
    fn drop(&mut self) {
        if !crate::fork::happened() {
            // It is destroyed once all signals and waits are over.
            let waits = mem::take(&mut *lock(&self.waits));
            let semaphore = Some((self.raw, self.helper, waits));
            self.gpu.retire(Retired { semaphore, ..Retired::default() });
            self.gpu.pump.ring();
        }
    }
}

impl fmt::Debug for ImportedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedSemaphore").field("raw", &self.raw).finish_non_exhaustive()
    }
}
