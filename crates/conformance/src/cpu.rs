//! The CPU device as a subject: also what a backend of one's own starts from.

use crate::{Cells, Stop, Subject, Verdict};
use gpu_events::{Device, Result, Stream};
use std::{
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// The CPU device under test.
#[derive(Clone, Debug)]
pub struct CpuSubject {
    device: String,
}

impl CpuSubject {
    /// The CPU device of this name, such as `cpu` or `cpu:1`.
    pub fn new(device: impl Into<String>) -> Self {
        Self { device: device.into() }
    }
}

impl Default for CpuSubject {
    fn default() -> Self {
        Self::new("cpu")
    }
}

impl Subject for CpuSubject {
    fn name(&self) -> String {
        self.device.clone()
    }

    fn open(&self) -> Verdict<Device> {
        Ok(Device::open(&self.device)?)
    }

    fn open_second(&self, first: &Device) -> Verdict<Device> {
        let other = if first.name() == "cpu:1" { "cpu:2" } else { "cpu:1" };
        Ok(Device::open(other)?)
    }

    fn cells(&self, _device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
        Ok(Arc::new(HostCells((0..count).map(|_| AtomicU32::new(0)).collect())))
    }

    fn busy(&self, stream: &Stream, time: Duration) -> Verdict {
        let work = move || {
            let until = Instant::now() + time;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        };
        Ok(stream.cpu()?.enqueue(work)?)
    }

    fn fail(&self, stream: &Stream) -> Verdict {
        Ok(stream.cpu()?.enqueue(|| Err::<(), _>("failed on demand"))?)
    }

    fn panic(&self, stream: &Stream, text: &'static str) -> Verdict {
        // Unlike `panic!`, this does not call the panic hook: a passing suite prints no backtraces.
        let work = move || -> () { resume_unwind(Box::new(text)) };
        Ok(stream.cpu()?.enqueue(work)?)
    }

    fn lose(&self, _device: &Device) -> Verdict {
        Err(Stop::skip("a process cannot lose its own processor"))
    }
}

/// Relaxed on purpose: that a value is seen must come from the event that ordered it (R8), not from the cell.
struct HostCells(Arc<[AtomicU32]>);

impl Cells for HostCells {
    fn write(&self, stream: &Stream, cell: usize, value: u32) -> Result<()> {
        let cells = self.0.clone();
        stream.cpu()?.enqueue(move || cells[cell].store(value, Ordering::Relaxed))
    }

    fn copy(&self, stream: &Stream, from: usize, to: usize) -> Result<()> {
        let cells = self.0.clone();
        stream.cpu()?.enqueue(move || cells[to].store(cells[from].load(Ordering::Relaxed), Ordering::Relaxed))
    }

    fn read(&self, cell: usize) -> u32 {
        self.0[cell].load(Ordering::Relaxed)
    }
}
