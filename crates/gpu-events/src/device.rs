//! Devices: opening and listing them, what they can do, and their end.

use crate::{
    backend::{Backend, BackendStream, NoDriver, Stamp, StreamSeed},
    callback::CallbackQueue,
    error::{Error, ErrorKind, Result},
    event::Event,
    external::External,
    fork,
    host::HostSignal,
    lane::{Lane, Producer},
    pool::{EventPool, PoolHandle},
    primitive::{AtomicBool, Mutex, Ordering, lock},
    stall::StallReport,
    stream::{Stream, StreamOptions},
    time::{Clock, Correlation},
    timeline::relay,
};
use std::{
    any::Any,
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock, Weak, atomic::AtomicU64},
};

/// Names an opened device, for as long as the process lives. Opening the same hardware twice makes two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(u64);

impl DeviceId {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The name that [`Device::open`] takes: `"cpu:0"`.
    pub name: String,
    /// The backend that drives it: `"cpu"`.
    pub backend: &'static str,
    /// What the hardware or its driver calls it.
    pub description: String,
    /// Its clock.
    pub clock: Clock,
    /// What it can do.
    pub capabilities: Capabilities,
    /// It is a GPU in name alone, and the CPU does its work, as with Mesa's lavapipe.
    pub emulated: bool,
}

impl DeviceInfo {
    /// A description. For backends.
    pub fn new(
        name: impl Into<String>,
        backend: &'static str,
        description: impl Into<String>,
        clock: Clock,
        capabilities: Capabilities,
    ) -> Self {
        Self {
            name: name.into(),
            backend,
            description: description.into(),
            clock,
            capabilities,
            emulated: false,
        }
    }

    /// Says whether the device is a GPU in name alone. For backends.
    pub fn with_emulated(mut self, emulated: bool) -> Self {
        self.emulated = emulated;
        self
    }
}

/// What a device can do, where devices differ. The default can do the least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Recordings can be timed.
    pub timed: bool,
    /// How many incomplete recordings one queue takes before a recording has to wait (R5); `None`: no limit.
    pub queue_depth: Option<u64>,
    /// The most recordings that are gathered before they are submitted (R7); `None`: each goes at once.
    pub batch_bound: Option<u64>,
    /// The backends whose events a stream waits for without the host's help (R6).
    pub native_waits: &'static [&'static str],
    /// The backends whose events a stream waits for without the host if it is asked to, by
    /// [`StreamOptions::foreign_waits`]. `native_waits` is what it does by itself.
    pub native_on_request: &'static [&'static str],
    /// How a stream waits for what it can't wait for natively.
    pub gates: Gates,
    /// A failure takes only the stream with it, and not the whole device.
    pub failure_is_per_stream: bool,
}

/// How a stream waits for something that the host has to relay (R6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gates {
    /// It can't.
    #[default]
    None,
    /// Held-back work stays in our own queue: any number, and nothing in the driver waits for the host.
    Owned,
    /// The driver waits for a word that the host writes, in one of the few queues that it shares out among the streams
    /// with unfinished work. As long as those are no more than `limit` + 1, gated ones included, no gate holds up another
    /// stream. With more, streams that wait for nothing may stand still until the gate opens, and the driver may block
    /// whoever gives it work: open gates soon, and never from behind such a call.
    Driver {
        /// Gated streams with which another one was seen to go on.
        limit: u32,
    },
}

/// A backend and its devices, or why there are none.
#[derive(Debug)]
#[non_exhaustive]
pub struct BackendListing {
    /// The backend's name.
    pub name: &'static str,
    /// Its devices.
    pub devices: Result<Vec<DeviceInfo>>,
}

/// What all handles to a device, and everything made from it, share.
pub(crate) struct DeviceCore {
    id: u64,
    info: DeviceInfo,
    backend: Arc<dyn Backend>,
    callbacks: Arc<CallbackQueue>,
    lanes: Mutex<HashMap<u64, Weak<Lane>>>,
    closed: AtomicBool,
}

impl DeviceCore {
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn handle_id(&self) -> DeviceId {
        DeviceId(self.id)
    }

    pub(crate) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn callbacks(&self) -> &Arc<CallbackQueue> {
        &self.callbacks
    }

    pub(crate) fn next_lane_id(&self) -> u64 {
        // Over all devices, so that reports can name lanes without naming devices. Relaxed: only uniqueness matters.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters a lane into the list, unless the device was closed.
    pub(crate) fn admit(&self, lane: &Arc<Lane>) -> Result<()> {
        let mut lanes = lock(&self.lanes);
        // Under the lock that `close` takes after it has set the flag: it finds the lane, or we find the flag.
        if self.is_closed() {
            return Err(Error::new(ErrorKind::Closed));
        }
        lanes.insert(lane.id(), Arc::downgrade(lane));
        Ok(())
    }

    pub(crate) fn dismiss(&self, lane: u64) {
        lock(&self.lanes).remove(&lane);
    }

    /// All lanes that are alive.
    pub(crate) fn lanes(&self) -> Vec<Arc<Lane>> {
        lock(&self.lanes).values().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn is_closed(&self) -> bool {
        // SeqCst: against the list of gates, which is written before this is read and read after this is written.
        self.closed.load(Ordering::SeqCst)
    }

    fn close(&self) {
        // SeqCst: see `is_closed`.
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let lanes = self.lanes();
        // What is over is not to fail on whoever waited for it, on a device that stays open, say.
        lanes.iter().for_each(|lane| lane.look_for_links());
        // Lane by lane, the first one's end would release what waits for it on the next, before that is marked.
        relay::batch(
            || lanes.iter().for_each(|lane| lane.fail_closed()),
            || lanes.iter().for_each(|lane| lane.backend().abandon()),
        );
        lanes.iter().for_each(|lane| lane.open_gates());
        self.backend.close();
    }

    fn create_lane(self: &Arc<Self>, options: &StreamOptions) -> Result<Arc<Lane>> {
        if self.is_closed() {
            return Err(Error::new(ErrorKind::Closed));
        }
        self.backend.create_stream(StreamSeed { device: self, options })
    }

    fn create_driverless(self: &Arc<Self>, label: Option<&str>, producer: Producer) -> Result<Arc<Lane>> {
        let options = StreamOptions { label: label.map(Into::into), ..StreamOptions::default() };
        Lane::build(self, &options, producer, |_| NoDriver)
    }
}

impl fmt::Debug for DeviceCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceCore")
            .field("id", &self.id)
            .field("name", &self.info.name)
            .finish_non_exhaustive()
    }
}

impl Drop for DeviceCore {
    fn drop(&mut self) {
        // Nobody can register any more. The thread runs what it was handed, and ends.
        if !fork::happened() {
            self.callbacks.close();
        }
    }
}

/// All devices of the process, for reports that cross devices.
static DEVICES: std::sync::Mutex<Vec<Weak<DeviceCore>>> = std::sync::Mutex::new(Vec::new());

fn all() -> Vec<Arc<DeviceCore>> {
    let devices = DEVICES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    devices.iter().filter_map(Weak::upgrade).collect()
}

/// The lanes of all devices.
pub(crate) fn all_lanes() -> Vec<Arc<Lane>> {
    all().iter().flat_map(|device| device.lanes()).collect()
}

/// The lane with this number, of whichever device.
pub(crate) fn lane(id: u64) -> Option<Arc<Lane>> {
    all().iter().find_map(|device| lock(&device.lanes).get(&id).and_then(Weak::upgrade))
}

/// An opened device.
///
/// A cheap handle: clones refer to the same device. Streams, events and pools keep what they need of it alive; the
/// handle may go first (R32). [`close`](Self::close) is the explicit end.
///
/// ```
/// use gpu_events::Device;
///
/// for device in Device::list() {
///     println!("{}: {}", device.name, device.description);
/// }
/// let device = Device::open("cpu")?;
/// assert_eq!(device.name(), "cpu:0");
/// # Ok::<(), gpu_events::Error>(())
/// ```
#[derive(Clone)]
pub struct Device(Arc<Shared>);

/// The core, and what would form a circle with it.
struct Shared {
    core: Arc<DeviceCore>,
    pool: Arc<PoolHandle>,
    default_lane: OnceLock<Arc<Lane>>,
}

impl Device {
    /// Opens a device by its name: a backend, and the number of one of its devices (0 if it is left out), as in
    /// `"cpu"`, `"cpu:1"`, `"cuda:0"`. Every call opens anew: events of one can wait for those of the other, and
    /// closing one leaves the other open. All CPU devices share one pool of workers and one clock.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if that is no name of a device, [`ErrorKind::FeatureDisabled`] if its backend
    /// was not compiled in, [`ErrorKind::Unavailable`] if it or its driver is not there, [`ErrorKind::Forked`].
    pub fn open(name: &str) -> Result<Self> {
        fork::check()?;
        let (backend, index) = match name.split_once(':') {
            None => (name, 0),
            Some((backend, index)) => {
                // `parse` takes a sign, a name has none.
                let index = index.bytes().all(|b| b.is_ascii_digit()).then(|| index.parse().ok()).flatten();
                (backend, index.ok_or_else(|| Self::unknown(name))?)
            }
        };
        match backend {
            #[cfg(feature = "cpu")]
            "cpu" => Ok(Self::from_backend(crate::cpu::CpuBackend::new(index))),
            #[cfg(not(feature = "cpu"))]
            "cpu" => {
                let _: u32 = index;
                Err(Error::new(ErrorKind::FeatureDisabled))
            }
            #[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
            "metal" => Ok(Self::from_backend(crate::metal::MetalBackend::open(index)?)),
            #[cfg(all(feature = "metal", not(any(target_vendor = "apple", gpu_events_metal_sim))))]
            "metal" => {
                Err(Error::with_text(ErrorKind::Unavailable, "Metal is there on Apple's systems alone"))
            }
            #[cfg(not(feature = "metal"))]
            "metal" => Err(Error::new(ErrorKind::FeatureDisabled)),
            #[cfg(all(feature = "cuda", not(gpu_events_loom)))]
            "cuda" => Ok(Self::from_backend(crate::cuda::CudaBackend::open(index)?)),
            #[cfg(not(all(feature = "cuda", not(gpu_events_loom))))]
            "cuda" => Err(Error::new(ErrorKind::FeatureDisabled)),
            #[cfg(all(feature = "vulkan", not(gpu_events_loom)))]
            "vulkan" => Ok(Self::from_backend(crate::vulkan::VulkanBackend::open(index)?)),
            #[cfg(not(all(feature = "vulkan", not(gpu_events_loom))))]
            "vulkan" => Err(Error::new(ErrorKind::FeatureDisabled)),
            _ => Err(Self::unknown(name)),
        }
    }

    fn unknown(name: &str) -> Error {
        Error::with_text(
            ErrorKind::InvalidArgument,
            format!("{name:?} is no device; names are a backend and a number, like \"cpu:0\""),
        )
    }

    /// The device that the process shares: the first one that [`list`](Self::list) names. Opened by the first call
    /// and never closed by this crate.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if there is no device at all, [`ErrorKind::Forked`].
    #[expect(
        clippy::should_implement_trait,
        reason = "the trait's `default` can't fail, and opening a device can"
    )]
    pub fn default() -> Result<Self> {
        static DEFAULT: OnceLock<Device> = OnceLock::new();
        fork::check()?;
        if let Some(device) = DEFAULT.get() {
            return Ok(device.clone());
        }
        let list = Self::list();
        // A GPU that the CPU plays is slower than the CPU itself.
        let first = list.iter().find(|device| !device.emulated).or(list.first());
        let device = Self::open(&first.ok_or(ErrorKind::Unavailable)?.name)?;
        Ok(DEFAULT.get_or_init(|| device).clone())
    }

    /// Every device that can be opened here, GPUs first.
    pub fn list() -> Vec<DeviceInfo> {
        Self::backends().into_iter().filter_map(|backend| backend.devices.ok()).flatten().collect()
    }

    /// Every backend of this crate, with its devices or the reason why it has none here.
    pub fn backends() -> Vec<BackendListing> {
        // Looking starts drivers, which don't survive a fork either.
        fork::watch();
        #[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
        let metal = crate::metal::MetalBackend::all();
        #[cfg(not(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim))))]
        let metal = Self::open("metal").map(|_| Vec::new());
        #[cfg(all(feature = "cuda", not(gpu_events_loom)))]
        let cuda = crate::cuda::CudaBackend::all();
        #[cfg(not(all(feature = "cuda", not(gpu_events_loom))))]
        let cuda = Self::open("cuda").map(|_| Vec::new());
        #[cfg(all(feature = "vulkan", not(gpu_events_loom)))]
        let vulkan = crate::vulkan::VulkanBackend::all();
        #[cfg(not(all(feature = "vulkan", not(gpu_events_loom))))]
        let vulkan = Self::open("vulkan").map(|_| Vec::new());
        let mut backends = vec![
            BackendListing { name: "metal", devices: metal },
            BackendListing { name: "cuda", devices: cuda },
            BackendListing { name: "vulkan", devices: vulkan },
        ];
        #[cfg(feature = "cpu")]
        let devices = Ok(vec![crate::cpu::CpuBackend::new(0).info()]);
        #[cfg(not(feature = "cpu"))]
        let devices = Err(Error::new(ErrorKind::FeatureDisabled));
        backends.push(BackendListing { name: "cpu", devices });
        backends
    }

    /// Opens a device of your own making.
    pub fn from_backend(backend: impl Backend) -> Self {
        fork::watch();
        // Relaxed: only uniqueness matters.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let backend: Arc<dyn Backend> = Arc::new(backend);
        let core = Arc::new(DeviceCore {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            info: backend.info(),
            callbacks: CallbackQueue::new(),
            backend,
            lanes: Mutex::new(HashMap::new()),
            closed: AtomicBool::new(false),
        });
        let mut devices = DEVICES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        devices.retain(|device| device.strong_count() > 0);
        devices.push(Arc::downgrade(&core));
        drop(devices);
        let pool = PoolHandle::new(&core, EventPool::DEFAULT_BOUND);
        Self(Arc::new(Shared { core, pool, default_lane: OnceLock::new() }))
    }

    pub(crate) fn core(&self) -> &Arc<DeviceCore> {
        &self.0.core
    }

    /// The device's driver half, if it is of this type: what a backend's own functions on devices start from.
    pub fn backend<B: Backend>(&self) -> Option<&B> {
        (&**self.0.core.backend() as &dyn Any).downcast_ref()
    }

    #[inline]
    pub(crate) fn acquire(&self, timed: bool) -> Event {
        self.0.pool.core().acquire(timed)
    }

    /// The device's number.
    pub fn id(&self) -> DeviceId {
        DeviceId(self.0.core.id)
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.core.info
    }

    /// The name that opens it.
    pub fn name(&self) -> &str {
        &self.0.core.info.name
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.0.core.info.capabilities
    }

    /// The clock that its timed recordings are read from.
    pub fn clock(&self) -> &Clock {
        &self.0.core.info.clock
    }

    /// Makes a stream.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], [`ErrorKind::Forked`], and what the driver refused.
    pub fn create_stream(&self) -> Result<Stream> {
        self.create_stream_with(&StreamOptions::default())
    }

    /// Makes a stream to order.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], [`ErrorKind::Forked`], and what the driver refused.
    pub fn create_stream_with(&self, options: &StreamOptions) -> Result<Stream> {
        fork::check()?;
        Ok(Stream::new(self.0.core.create_lane(options)?, self.clone()))
    }

    /// Makes a stream around something that exists already, or in a way that only its backend knows: what a backend's
    /// own functions to adopt a foreign queue (R35) are made of.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], [`ErrorKind::Forked`], and what `make` returns.
    pub fn adopt_stream(
        &self,
        options: &StreamOptions,
        make: impl FnOnce(StreamSeed<'_>) -> Result<Arc<Lane>>,
    ) -> Result<Stream> {
        fork::check()?;
        if self.is_closed() {
            return Err(Error::new(ErrorKind::Closed));
        }
        let lane = make(StreamSeed { device: &self.0.core, options })?;
        if lane.core.device.id() != self.0.core.id {
            return Err(Error::new(ErrorKind::WrongDevice));
        }
        Ok(Stream::new(lane, self.clone()))
    }

    /// The stream that is used where none is named; made by the first call.
    ///
    /// # Errors
    /// As [`create_stream`](Self::create_stream).
    pub fn default_stream(&self) -> Result<Stream> {
        fork::check()?;
        let lane = match self.0.default_lane.get() {
            Some(lane) => lane,
            None => {
                let lane = self.0.core.create_lane(&StreamOptions::new().label("default"))?;
                self.0.default_lane.get_or_init(|| lane)
            }
        };
        Ok(Stream::new(lane.clone(), self.clone()))
    }

    /// The pool that this device's streams take events from.
    pub fn pool(&self) -> EventPool {
        EventPool::from_parts(self.clone(), self.0.pool.clone())
    }

    /// An event that the host signals, recorded and pending already (R39).
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], [`ErrorKind::Forked`].
    ///
    /// ```
    /// use gpu_events::Device;
    ///
    /// let device = Device::open("cpu")?;
    /// let (gate, signal) = device.host_event()?;
    /// let stream = device.create_stream()?;
    /// stream.wait(&gate)?;
    /// let done = stream.record()?;
    /// assert!(!done.is_complete()?);
    /// signal.complete();
    /// done.synchronize()?;
    /// # Ok::<(), gpu_events::Error>(())
    /// ```
    pub fn host_event(&self) -> Result<(Event, HostSignal)> {
        self.make_host_event(None)
    }

    /// As [`host_event`](Self::host_event), with a name for stall reports.
    ///
    /// # Errors
    /// As [`host_event`](Self::host_event).
    pub fn host_event_labeled(&self, label: &str) -> Result<(Event, HostSignal)> {
        self.make_host_event(Some(label))
    }

    fn make_host_event(&self, label: Option<&str>) -> Result<(Event, HostSignal)> {
        fork::check()?;
        let lane = self.0.core.create_driverless(label, Producer::Host)?;
        let event = self.acquire(false);
        event.slot().set(&lane, 1, None);
        if let Some(label) = label {
            event.set_label(label);
        }
        Ok((event, HostSignal::new(lane)))
    }

    /// An event for work that somebody else will submit, and the token that goes with it (R37).
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], [`ErrorKind::Forked`].
    pub fn external_event(&self) -> Result<(Event, External)> {
        self.external_event_with(None, |_| NoDriver).map(|(event, token, _)| (event, token))
    }

    /// As [`external_event`](Self::external_event), with a driver half and, for a timed event, the stamp that its time
    /// will be read from: what a backend's own functions to record in somebody else's submission are made of (R37).
    /// Position 1 of the lane is the recording.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], [`ErrorKind::Forked`].
    pub fn external_event_with<B: BackendStream>(
        &self,
        stamp: Option<Arc<dyn Stamp>>,
        make: impl FnOnce(&Weak<Lane<B>>) -> B,
    ) -> Result<(Event, External, Arc<Lane<B>>)> {
        fork::check()?;
        let producer = Producer::External(AtomicBool::new(false));
        let lane = Lane::build_typed(&self.0.core, &StreamOptions::default(), producer, make)?;
        let event = self.acquire(stamp.is_some());
        let erased: Arc<Lane> = lane.clone();
        event.slot().set(&erased, 1, stamp);
        Ok((event, External::new(erased), lane))
    }

    /// Reads this device's clock and the host's side by side (R24).
    ///
    /// # Errors
    /// [`ErrorKind::NotMeasured`] where the device's clock can't be placed; [`ErrorKind::Forked`].
    pub fn correlate(&self) -> Result<Correlation> {
        fork::check()?;
        self.0.core.backend.correlate()
    }

    /// Who on this device waits for what, since when, and which end of the chain hasn't moved (R40).
    ///
    /// Empty in a fork's child, where nothing moves at all. A look from outside, for when things stand still: while they move, its parts may be of different moments.
    pub fn stall_report(&self) -> StallReport {
        StallReport::of(self.0.core.id)
    }

    /// Ends the device for all its handles: pending recordings fail with [`ErrorKind::Closed`] (unless their own work
    /// fails first), so everyone who waits is told; callbacks run with that error; gates open; work that was not submitted is dropped, and what the driver
    /// still uses is leaked rather than freed under it (R32). Doing it again does nothing.
    pub fn close(&self) {
        if !fork::happened() {
            self.0.core.close();
        }
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.core.is_closed()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("id", &self.0.core.id)
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}
