//! CUDA devices as subjects: the real ones, and the fake driver's.

pub mod fake;
mod kernels;
mod refusing;

use crate::{Adopted, Case, Cells, Expectation, Stop, Subject, Verdict};
use gpu_events::{
    Device, Error, ErrorKind, Result, Signal, Stream, StreamOptions,
    cuda::{self, RawStream},
};
pub use kernels::Kernels;
use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// Whose driver is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    System,
    Fake,
}

/// A CUDA device under test, in one of its two ways of telling how far it is.
#[derive(Clone, Debug)]
pub struct CudaSubject {
    driver: Driver,
    ordinal: u32,
    signal: Signal,
    /// How many of the fake driver's GPUs were lost, which stay lost to the process.
    lost: Arc<AtomicU32>,
}

impl CudaSubject {
    /// The system's GPU with this number.
    pub fn new(ordinal: u32, signal: Signal) -> Self {
        Self { driver: Driver::System, ordinal, signal, lost: Arc::default() }
    }

    /// The fake driver's GPU with this number.
    pub fn fake(ordinal: u32, signal: Signal) -> Self {
        Self { driver: Driver::Fake, ordinal, signal, lost: Arc::default() }
    }

    /// The GPU of this number, or, where the fake driver's was lost, the next one that is not.
    fn open_fresh(&self, number: u32) -> Result<Device> {
        // Relaxed: a count.
        self.open_number(number + 2 * self.lost.load(Ordering::Relaxed))
    }

    fn open_number(&self, ordinal: u32) -> Result<Device> {
        match self.driver {
            Driver::System => {
                // Loading them waits for what is on the GPU, which a case may hold back.
                Kernels::of(ordinal)?;
                cuda::open(ordinal, self.signal)
            }
            // SAFETY: the fake driver's functions do what CUDA's do, as far as they are called.
            Driver::Fake => unsafe { cuda::open_with(fake::api(), ordinal, self.signal) },
        }
    }

    fn ordinal_of(device: &Device) -> u32 {
        device.name().split_once(':').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
    }

    fn work(&self, stream: &Stream) -> Result<Work> {
        let ordinal = Self::ordinal_of(stream.device());
        let raw = stream.cuda()?.raw();
        Ok(match self.driver {
            Driver::System => Work::Real(Kernels::of(ordinal)?, raw),
            Driver::Fake => Work::Fake(raw),
        })
    }
}

/// A stream, and how to give it work.
enum Work {
    Real(&'static Kernels, RawStream),
    Fake(RawStream),
}

const FAULTS: &str =
    "a fault ends the GPU's context for the whole process; the test `cuda` has each in a process of its own";

fn said(code: u32) -> Error {
    Error::with_text(ErrorKind::Driver, format!("the driver answered {code}"))
}

impl Work {
    fn set(&self, cell: &AtomicU32, value: u32) -> Result<()> {
        match self {
            Self::Real(kernels, stream) => kernels.set(*stream, cell.as_ptr(), value),
            Self::Fake(stream) => {
                let cell = cell.as_ptr().expose_provenance();
                fake::launch(*stream, fake::Kernel::Set { cell, value }).map_err(said)
            }
        }
    }

    fn copy(&self, from: &AtomicU32, to: &AtomicU32) -> Result<()> {
        match self {
            Self::Real(kernels, stream) => kernels.copy(*stream, from.as_ptr(), to.as_ptr()),
            Self::Fake(stream) => {
                let (from, to) = (from.as_ptr().expose_provenance(), to.as_ptr().expose_provenance());
                fake::launch(*stream, fake::Kernel::Copy { from, to }).map_err(said)
            }
        }
    }

    fn spin(&self, time: Duration) -> Result<()> {
        match self {
            Self::Real(kernels, stream) => kernels.spin(*stream, time),
            Self::Fake(stream) => fake::launch(*stream, fake::Kernel::Spin(time)).map_err(said),
        }
    }
}

impl Subject for CudaSubject {
    fn name(&self) -> String {
        let driver = if self.driver == Driver::Fake { " of a fake driver" } else { "" };
        let signal = if self.signal == Signal::Prompt { "prompt" } else { "cheap" };
        format!("cuda:{}{driver} ({signal})", self.ordinal)
    }

    fn open(&self) -> Verdict<Device> {
        Ok(self.open_fresh(self.ordinal)?)
    }

    fn open_second(&self, first: &Device) -> Verdict<Device> {
        let now = self.ordinal + 2 * self.lost.load(Ordering::Relaxed);
        let other = if Self::ordinal_of(first) == now { self.ordinal + 1 } else { self.ordinal };
        if self.driver == Driver::System && other >= kernels::count()? {
            return Err(Stop::skip("there is only one GPU"));
        }
        Ok(self.open_fresh(other)?)
    }

    fn cells(&self, device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
        let memory = match self.driver {
            Driver::System => Kernels::of(Self::ordinal_of(device))?.shared_memory(count.max(1) * 4)?,
            Driver::Fake => fake::shared_memory(count.max(1) * 4).cast(),
        };
        // SAFETY: zeroed memory of that size, aligned, never given back, and reached through atomics and by the GPU alone.
        let cells = unsafe { std::slice::from_raw_parts(memory.cast::<AtomicU32>(), count) };
        Ok(Arc::new(CudaCells { subject: self.clone(), cells }))
    }

    fn busy(&self, stream: &Stream, time: Duration) -> Verdict {
        Ok(self.work(stream)?.spin(time)?)
    }

    fn fail(&self, _stream: &Stream) -> Verdict {
        Err(Stop::skip(FAULTS))
    }

    fn panic(&self, _stream: &Stream, _text: &'static str) -> Verdict {
        Err(Stop::skip("a GPU's work cannot panic"))
    }

    fn open_refusing(&self) -> Verdict<Device> {
        match self.driver {
            // SAFETY: CUDA's own functions, and two that refuse, as CUDA's may.
            Driver::System => Ok(unsafe { cuda::open_with(refusing::api()?, self.ordinal, self.signal) }?),
            Driver::Fake => self.open(),
        }
    }

    fn refuse_submission(&self, stream: &Stream) -> Verdict {
        match (self.driver, self.signal) {
            (Driver::System, _) => {
                refusing::refuse(stream.cuda()?.raw());
                Ok(())
            }
            (Driver::Fake, Signal::Prompt) => {
                fake::refuse_on(stream.cuda()?.raw(), "cuStreamWriteValue64", 2);
                Ok(())
            }
            (Driver::Fake, _) => {
                fake::refuse_on(stream.cuda()?.raw(), "cuEventRecord", 2);
                Ok(())
            }
        }
    }

    fn lose(&self, device: &Device) -> Verdict {
        match self.driver {
            Driver::System => Err(Stop::skip(FAULTS)),
            Driver::Fake => {
                fake::break_context(Self::ordinal_of(device), fake::ILLEGAL_ADDRESS);
                // Relaxed: a count.
                self.lost.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn adopt(&self, device: &Device, adopter: &Device) -> Verdict<Result<Adopted>> {
        let ordinal = Self::ordinal_of(device);
        let raw = match self.driver {
            Driver::System => Kernels::of(ordinal)?.make_stream()?,
            Driver::Fake => fake::make_stream(ordinal).map_err(said)?,
        };
        let keep_alive: Arc<dyn Any + Send + Sync> = Arc::new(());
        let weak = Arc::downgrade(&keep_alive);
        // SAFETY: the stream is one, and never destroyed.
        let adopted = unsafe { cuda::adopt_stream(adopter, raw, keep_alive, &StreamOptions::new()) };
        Ok(adopted.map(|stream| Adopted { stream, is_alive: Box::new(move || weak.strong_count() > 0) }))
    }

    fn value_gap(&self, _device: &Device) -> Verdict<u64> {
        Err(Stop::skip("CUDA's words compare modulo 2^64"))
    }

    fn expectation(&self, case: &Case) -> Expectation {
        // What takes the stream's own work to fail.
        if matches!(case.id, 66 | 86) {
            return Expectation::Skip(FAULTS.to_owned());
        }
        Expectation::Pass
    }
}

/// Pinned memory that kernels write to.
struct CudaCells {
    subject: CudaSubject,
    cells: &'static [AtomicU32],
}

impl Cells for CudaCells {
    fn write(&self, stream: &Stream, cell: usize, value: u32) -> Result<()> {
        self.subject.work(stream)?.set(&self.cells[cell], value)
    }

    fn copy(&self, stream: &Stream, from: usize, to: usize) -> Result<()> {
        self.subject.work(stream)?.copy(&self.cells[from], &self.cells[to])
    }

    fn read(&self, cell: usize) -> u32 {
        // Relaxed: that a value is seen must come from the event that ordered it (R8), not from the cell.
        self.cells[cell].load(Ordering::Relaxed)
    }
}

impl fmt::Debug for CudaCells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaCells").field("count", &self.cells.len()).finish_non_exhaustive()
    }
}

/// A list of what was made for each GPU, once.
pub(crate) type Made<T> = Mutex<Vec<(u32, &'static T)>>;
