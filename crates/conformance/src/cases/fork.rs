//! Case 91, which needs a process of its own.

use crate::{Context, Verdict};

#[cfg(not(unix))]
pub(super) fn run(_ctx: &Context) -> Verdict {
    Err(crate::Stop::skip("this system has no fork"))
}

#[cfg(unix)]
pub(super) fn run(ctx: &Context) -> Verdict {
    use crate::verdict::{ensure, equal};
    use gpu_events::EventTable;

    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let pending = stream.record_timed()?;
    let fresh = device.pool().acquire();
    let table = EventTable::new(&device.pool());
    let id = table.acquire(false)?;
    let mut inherited = Inherited { device, stream, pending, fresh, table, id };

    // Others keep every lock there is busy: now and then one is held when the process is copied.
    let (stop, busy) = keep_busy(ctx, &inherited.device)?;
    let children: Verdict<Vec<u8>> = (0..10)
        .map(|_| {
            let mut completion = inherited.pending.completion();
            crate::fork::in_child(ctx.patience(), || inherited.use_in_child(&mut completion))
        })
        .collect();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for thread in busy {
        thread.finish()??;
    }
    for wrong in children? {
        equal("calls in the child that were no clear error, in bits", wrong, 0)?;
    }

    // The parent's work is none the worse.
    let Inherited { device, stream, pending, fresh, table, id } = inherited;
    ctx.pending(&pending)?;
    ensure(!device.is_closed(), "the child closed the parent's device")?;
    hold.release();
    ctx.settle(&pending)?;
    ctx.settle(&stream.record()?)?;
    fresh.record(&stream)?;
    table.release(id)?;
    ctx.settle(&fresh)
}

#[cfg(unix)]
use unix::{Inherited, keep_busy};

#[cfg(unix)]
mod unix {
    use crate::{Context, Task, Verdict, toy};
    use gpu_events::{Completion, Device, ErrorKind, Event, EventId, EventTable, Result, Stream};
    use std::{
        future::Future,
        pin::Pin,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::{self, Poll, Waker},
        time::Duration,
    };

    /// Threads that make, use and drop one of everything until they are told to stop.
    pub(super) fn keep_busy(
        ctx: &Context,
        device: &Device,
    ) -> Verdict<(Arc<AtomicBool>, Vec<Task<Verdict>>)> {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..2).map(|_| {
            let (device, stop) = (device.clone(), stop.clone());
            ctx.spawn(move || -> Verdict {
                let stream = device.create_stream()?;
                let table = EventTable::new(&device.pool());
                // Relaxed: only a flag to stop by.
                while !stop.load(Ordering::Relaxed) {
                    let id = table.acquire(true)?;
                    table.record(id, Some(&stream), true)?;
                    let _callback = table.get(id)?.on_complete(drop)?;
                    table.release(id)?;
                    drop((device.stall_report(), device.create_stream()?, device.host_event()?));
                }
                Ok(())
            })
        });
        let threads = threads.collect::<Verdict<Vec<_>>>()?;
        Ok((stop, threads))
    }

    /// What a child finds when it looks around.
    pub(super) struct Inherited {
        pub(super) device: Device,
        pub(super) stream: Stream,
        /// Recorded on `stream`, and held.
        pub(super) pending: Event,
        pub(super) fresh: Event,
        pub(super) table: EventTable,
        pub(super) id: EventId,
    }

    impl Inherited {
        /// Uses everything. Each call must be a clear error, at once: nothing here will ever complete anything.
        /// Returns, in bits, which were not.
        pub(super) fn use_in_child(&mut self, completion: &mut Completion) -> u8 {
            let Self { device, stream, pending, fresh, table, id } = self;
            let backend = device.info().backend;
            let checks: [&[Result<()>]; 8] = [
                &[stream.record().map(drop), fresh.record(stream), stream.lock().map(drop)],
                &[stream.wait(pending).map(drop), stream.flush(), stream.synchronize()],
                &[pending.synchronize(), pending.wait_timeout(Duration::from_secs(1)).map(drop)],
                &[pending.is_complete().map(drop), pending.completion_time().map(drop)],
                &[pending.on_complete(drop).map(drop), poll(&mut pending.completion()), poll(completion)],
                &[
                    device.create_stream().map(drop),
                    device.host_event().map(drop),
                    device.correlate().map(drop),
                ],
                &[table.record(*id, None, true), table.query(*id).map(drop), table.release(*id)],
                // What only simulates a device is not opened by name.
                if backend == toy::BACKEND { &[] } else { &[Device::open(backend).map(drop)] },
            ];
            // Neither may what is printed, what closes, nor what falls out of scope hang or crash.
            drop((device.pool().acquire(), format!("{device:?} {stream:?} {pending:?}")));
            device.pool().empty_cache();
            device.close();
            drop(device.stall_report().to_string());
            let forked =
                |result: &Result<()>| matches!(result, Err(error) if error.kind() == ErrorKind::Forked);
            checks
                .iter()
                .enumerate()
                .fold(0, |wrong, (bit, results)| wrong | u8::from(!results.iter().all(forked)) << bit)
        }
    }

    fn poll(completion: &mut Completion) -> Result<()> {
        match Pin::new(completion).poll(&mut task::Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }
}
