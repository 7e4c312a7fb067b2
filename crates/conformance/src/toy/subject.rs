//! The simulated device as a subject.

use super::{
    Fault, Toy,
    device::{ForeignQueue, KeepAlive, ToyStream},
    engine::{Op, VALUE_GAP},
};
use crate::{Adopted, Case, Cells, Subject, Verdict};
use gpu_events::{Device, ErrorKind, Result, Stream};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// The simulated device under test, sound or not.
#[derive(Clone, Debug)]
pub struct ToySubject {
    fault: Option<Fault>,
    limit: Option<Duration>,
}

impl ToySubject {
    /// The device as it should be.
    pub fn new() -> Self {
        Self { fault: None, limit: None }
    }

    /// The device with a fault.
    pub fn with_fault(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::new() }
    }

    /// With another time limit for its cases: where many are to fail, they need not take their time about it.
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit: Some(limit), ..self }
    }

    fn toy(&self) -> Toy {
        self.fault.map_or_else(Toy::new, Toy::with_fault)
    }
}

impl Default for ToySubject {
    fn default() -> Self {
        Self::new()
    }
}

/// Submits an operation, in order with what the core submits.
fn push(stream: &Stream, op: Op) -> Result<()> {
    let mut guard = stream.lock()?;
    guard.backend::<ToyStream>().ok_or(ErrorKind::WrongDevice)?.push(op);
    Ok(())
}

impl Subject for ToySubject {
    fn name(&self) -> String {
        match self.fault {
            None => super::BACKEND.to_owned(),
            Some(fault) => format!("{} ({fault:?})", super::BACKEND),
        }
    }

    fn open(&self) -> Verdict<Device> {
        Ok(self.toy().open())
    }

    fn open_second(&self, _first: &Device) -> Verdict<Device> {
        Ok(self.toy().open())
    }

    fn cells(&self, _device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
        Ok(Arc::new(ToyCells((0..count).map(|_| AtomicU32::new(0)).collect())))
    }

    fn busy(&self, stream: &Stream, time: Duration) -> Verdict {
        Ok(push(stream, Op::Busy(time))?)
    }

    fn fail(&self, stream: &Stream) -> Verdict {
        Ok(push(stream, Op::Fail)?)
    }

    fn lose(&self, device: &Device) -> Verdict {
        ToyStream::of(&device.create_stream()?)?.shared().engine.lose();
        Ok(())
    }

    fn refuse_submission(&self, stream: &Stream) -> Verdict {
        ToyStream::of(stream)?.refuse_next();
        Ok(())
    }

    fn adopt(&self, device: &Device, adopter: &Device) -> Verdict<Result<Adopted>> {
        let queue = ForeignQueue::new(ToyStream::of(&device.create_stream()?)?.shared())?;
        let owner: KeepAlive = Arc::new("whoever made the queue");
        let alive = Arc::downgrade(&owner);
        let is_alive = Box::new(move || alive.strong_count() > 0);
        Ok(queue.adopt(adopter, owner).map(|stream| Adopted { stream, is_alive }))
    }

    fn value_gap(&self, _device: &Device) -> Verdict<u64> {
        Ok(VALUE_GAP)
    }

    fn limit(&self, _case: &Case) -> Duration {
        self.limit.unwrap_or(Duration::from_secs(60))
    }
}

struct ToyCells(Arc<[AtomicU32]>);

impl Cells for ToyCells {
    fn write(&self, stream: &Stream, cell: usize, value: u32) -> Result<()> {
        push(stream, Op::Write { cells: self.0.clone(), at: cell, value })
    }

    fn copy(&self, stream: &Stream, from: usize, to: usize) -> Result<()> {
        push(stream, Op::Copy { cells: self.0.clone(), from, to })
    }

    fn read(&self, cell: usize) -> u32 {
        // Relaxed: that a value is seen must come from the event that ordered it (R8), not from the cell.
        self.0[cell].load(Ordering::Relaxed)
    }
}
