//! What a backend brings to be tested.

use crate::{Case, Stop, Verdict};
use gpu_events::{Device, Result, Stream};
use std::{fmt, sync::Arc, time::Duration};

/// A backend under test: how to open its devices, and how to give them work of known effect.
///
/// Everything that a case can do through `gpu-events` itself it does that way; work is held back by waiting for
/// a host-signaled event, which every backend supports in one form or another (R6). What is left for the
/// backend to bring is here. Three methods are required. The rest answer [`Stop::Skip`] with a reason, which is
/// the honest answer where a backend has no such thing; where it has, each method it fills lets more cases run.
///
/// ```
/// use gpu_events::{Device, Result, Stream};
/// use gpu_events_conformance::{Cells, CpuSubject, Stop, Subject, Verdict};
/// use std::sync::Arc;
///
/// #[derive(Debug)]
/// struct MyBackend;
///
/// impl Subject for MyBackend {
///     fn name(&self) -> String {
///         "mine:0".to_owned()
///     }
///
///     fn open(&self) -> Verdict<Device> {
///         # return CpuSubject::default().open();
///         Device::open("mine:0").map_err(|error| Stop::skip(error.to_string()))
///     }
///
///     fn cells(&self, device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
///         # return CpuSubject::default().cells(device, count);
///         Err(Stop::skip("device memory is not wired up yet"))
///     }
/// }
/// # let filter = gpu_events_conformance::Filter::new("fresh-event");
/// # let subject: Arc<dyn Subject> = Arc::new(MyBackend);
/// # assert_eq!(gpu_events_conformance::run(&subject, &filter, &mut |_| ()).failed, 0);
/// ```
pub trait Subject: fmt::Debug + Send + Sync {
    /// The device's name, as a report shows it.
    fn name(&self) -> String;

    /// Opens the device afresh. Each case opens its own, so what one case breaks no other sees.
    fn open(&self) -> Verdict<Device>;

    /// Zeroed memory of `device`, one `u32` per cell, that its streams fill and copy.
    fn cells(&self, device: &Device, count: usize) -> Verdict<Arc<dyn Cells>>;

    /// Opens another device of the same backend, unlike `first` to the backend, for what goes between devices.
    fn open_second(&self, first: &Device) -> Verdict<Device> {
        let _ = first;
        Err(Stop::skip("there is only one device"))
    }

    /// Makes `device` the calling thread's current one, where the backend has such a notion (CUDA's contexts).
    fn make_current(&self, device: &Device) {
        let _ = device;
    }

    /// Submits work that takes at least `time` of the device, however fast that is.
    fn busy(&self, stream: &Stream, time: Duration) -> Verdict {
        let _ = (stream, time);
        Err(Stop::skip("no work of known length"))
    }

    /// Submits work that fails when the device reaches it.
    ///
    /// Where failing work takes the process's device with it, as a CUDA fault does, leave this to a process of
    /// its own, and skip here.
    fn fail(&self, stream: &Stream) -> Verdict {
        let _ = stream;
        Err(Stop::skip("no work that fails on demand"))
    }

    /// Submits work that panics with `text` when it is reached, on a backend whose work is Rust code.
    fn panic(&self, stream: &Stream, text: &'static str) -> Verdict {
        let _ = (stream, text);
        Err(Stop::skip("this device's work cannot panic"))
    }

    /// Opens the device for [`refuse_submission`](Self::refuse_submission), where that takes a driver that can be told to.
    fn open_refusing(&self) -> Verdict<Device> {
        self.open()
    }

    /// Has the driver refuse the next submission of `stream`'s work. The stream is of a device from
    /// [`open_refusing`](Self::open_refusing).
    fn refuse_submission(&self, stream: &Stream) -> Verdict {
        let _ = stream;
        Err(Stop::skip("no way to have the driver refuse a submission"))
    }

    /// Loses the device, as a driver's reset or a pulled cable would.
    fn lose(&self, device: &Device) -> Verdict {
        let _ = device;
        Err(Stop::skip("no way to lose this device on demand"))
    }

    /// Makes a queue of `device` the way a user's other library would, and has `adopter` adopt it (R35): the
    /// outer verdict is on making it, the inner result is the adoption's.
    fn adopt(&self, device: &Device, adopter: &Device) -> Verdict<Result<Adopted>> {
        let _ = (device, adopter);
        Err(Stop::skip("no foreign streams to adopt"))
    }

    /// The largest distance that the driver allows between a counter's value and one that is waited for.
    fn value_gap(&self, device: &Device) -> Verdict<u64> {
        let _ = device;
        Err(Stop::skip("no driver's counter behind a stream"))
    }

    /// What is expected of a case here, apart from passing.
    fn expectation(&self, case: &Case) -> Expectation {
        let _ = case;
        Expectation::Pass
    }

    /// How long a case may take before it counts as hung.
    ///
    /// Single waits within it are bounded by a quarter of this, so that what did not happen is told by name.
    fn limit(&self, case: &Case) -> Duration {
        let _ = case;
        Duration::from_secs(60)
    }
}

/// What a backend expects of one case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expectation {
    /// It runs and passes.
    #[default]
    Pass,
    /// It makes no sense here, for this reason, and is not run.
    Skip(String),
    /// It should pass and cannot yet, for this reason. Passing all the same is a failure: the expectation is
    /// out of date.
    Fail(String),
}

/// Device memory of known content, and the two kinds of work that move it.
///
/// Filling and copying is all there is because every driver can do it without a shader, and it is enough to
/// show an order: a value arrives at the end of a chain of copies only if every hop came after the one before.
pub trait Cells: Send + Sync {
    /// Submits work to `stream` that sets the cell to `value`.
    fn write(&self, stream: &Stream, cell: usize, value: u32) -> Result<()>;

    /// Submits work to `stream` that copies one cell to another.
    fn copy(&self, stream: &Stream, from: usize, to: usize) -> Result<()>;

    /// The cell's value as the host sees it.
    ///
    /// May be called at any time, so it neither waits for a stream nor submits anything: some cases look at
    /// memory precisely because that is no observation of an event.
    fn read(&self, cell: usize) -> u32;
}

/// A queue that was made elsewhere, adopted as a stream.
#[expect(missing_debug_implementations, reason = "a function has nothing to show")]
pub struct Adopted {
    /// The stream that stands for it.
    pub stream: Stream,
    /// Whether what keeps the queue alive is still there; nothing holds that but the adopted stream.
    pub is_alive: Box<dyn Fn() -> bool + Send>,
}
