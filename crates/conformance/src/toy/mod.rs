//! A simulated device, on the public seam.
//!
//! It stands for the drivers that the CPU is unlike: it gathers work and submits it in batches, says nothing unless
//! it is asked or told to watch, orders its own streams natively up to a limit, holds gated work in its own queue,
//! halts a stream whose work failed, can be lost, and counts ticks of a clock of its own. So it proves the seam, as
//! a subject of the suite; it is the other backend in cases that need two; and it can be told to misbehave, which
//! proves the suite. To those who write a backend it is one to read: `device.rs` is the seam, `engine.rs` what a
//! driver would be.

mod clock;
mod device;
mod engine;
mod fault;
mod subject;

pub use fault::Fault;
pub use subject::ToySubject;

use clock::TickClock;
use device::ToyBackend;
use gpu_events::Device;
use std::{sync::Arc, time::Duration};

/// The backend's name in device names.
pub const BACKEND: &str = "toy";

/// Simulated hardware, to be opened as a device.
///
/// ```
/// use gpu_events_conformance::toy::Toy;
/// use std::time::Duration;
///
/// let toy = Toy::with_manual_clock();
/// let stream = toy.open().create_stream()?;
/// let start = stream.record_timed()?;
/// start.synchronize()?;
/// toy.advance_clock(Duration::from_secs(3600));
/// let end = stream.record_timed()?;
/// end.synchronize()?;
/// assert_eq!(end.elapsed_since(&start)?.duration().as_secs(), 3600);
/// # Ok::<(), gpu_events::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Toy {
    clock: Arc<TickClock>,
    fault: Option<Fault>,
    eager_gates: bool,
}

impl Default for Toy {
    fn default() -> Self {
        Self::new()
    }
}

impl Toy {
    /// Hardware that works.
    pub fn new() -> Self {
        Self { clock: Arc::new(TickClock::running()), fault: None, eager_gates: false }
    }

    /// Hardware whose clock stands still until it is [advanced](Self::advance_clock).
    pub fn with_manual_clock() -> Self {
        Self { clock: Arc::new(TickClock::manual()), ..Self::new() }
    }

    /// Hardware so fast that by the time that a gate is open, all that follows from it is done.
    pub fn with_eager_gates() -> Self {
        Self { eager_gates: true, ..Self::new() }
    }

    /// Hardware that breaks its contract.
    pub fn with_fault(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::new() }
    }

    /// Opens it as a device. Each opening has its own engine; all of one `Toy` have its clock.
    pub fn open(&self) -> Device {
        Device::from_backend(ToyBackend::open(self))
    }

    /// Turns a manual clock on; a running one is not impressed.
    pub fn advance_clock(&self, by: Duration) {
        self.clock.advance(by);
    }
}
