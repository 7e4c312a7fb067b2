//! The thread that brings news from the driver: one for each device, whatever the number of streams and events (R14).
//!
//! While an answer is likely to come within microseconds it asks without pause. Then it sleeps in the driver, in one call
//! that waits for any of all streams' semaphores and for its own bell. It runs no user code, wakers aside.

use super::{
    driver::error,
    foreign::Foreign,
    gpu::{Driver, Gpu, Semaphore},
    queue::{InFlight, Queue},
};
#[cfg(unix)]
use crate::{backend::reaper::quiesce, fork};
use crate::{
    backend::{
        Lane,
        pace::{Pace, Rest, SPIN, TIDYING, cpu_time, wake_on_time},
        reaper::Reaper,
    },
    error::{Error, ErrorKind, Result},
    primitive::{lock, spawn},
};
use ash::vk;
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long it asks without pause at most where the device is the CPU itself, which has better things to do.
const SPIN_ON_CPU: Duration = Duration::from_micros(20);

/// The longest time that it sleeps in the driver without a look around.
const LOOK: Duration = Duration::from_secs(1);

/// The longest time between two looks while somebody has work to be submitted when the device runs dry.
const TRIAL: Duration = Duration::from_millis(3);

/// How long the end of a process may be held up.
#[cfg(unix)]
const AT_EXIT: Duration = Duration::from_secs(1);

/// Has the pump stop when the process ends. The loader, its layers and the driver have destructors that run then, and after
/// those a call ends in a crash. Ours was registered later and so runs earlier.
fn at_exit(pump: &Arc<Pump>) {
    #[cfg(unix)]
    {
        static PUMPS: Mutex<Vec<Weak<Pump>>> = Mutex::new(Vec::new());

        extern "C" fn stop_all() {
            if fork::happened() {
                return;
            }
            let pumps: Vec<_> = std::mem::take(&mut *lock(&PUMPS)).iter().filter_map(Weak::upgrade).collect();
            // What is let go of may be the last reference to a device, and a device's end lets go of things.
            quiesce(false, AT_EXIT);
            pumps.iter().for_each(|pump| pump.stop());
            quiesce(true, AT_EXIT);
        }
        let mut pumps = lock(&PUMPS);
        pumps.retain(|pump| pump.strong_count() > 0);
        if pumps.is_empty() {
            // Each time that the first one is made: libraries may have been loaded since. It may be called several times.
            // SAFETY: a function that is there to the end of the process.
            unsafe { libc::atexit(stop_all) };
        }
        pumps.push(Arc::downgrade(pump));
    }
    #[cfg(not(unix))]
    let _ = pump;
}

/// A lane that somebody waits for, or that has to be looked after.
#[derive(Debug)]
pub(super) enum Watched {
    Queue(Arc<Lane<Queue>>),
    Foreign(Arc<Lane<Foreign>>),
}

/// What a look at a watched lane found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing new.
    Same,
    /// News, and more to come.
    News,
    /// Nothing more to come.
    Over,
}

impl Watched {
    fn look(&self) -> Look {
        match self {
            Self::Queue(lane) => lane.backend().look(lane),
            Self::Foreign(lane) => lane.backend().look(lane),
        }
    }

    /// The next value that would be news.
    fn target(&self) -> Option<(vk::Semaphore, u64)> {
        match self {
            Self::Queue(lane) => lane.backend().target(),
            Self::Foreign(lane) => lane.backend().target(),
        }
    }

    /// News are likely within this time: whoever is to be told of them by callback should be awake.
    fn rouse(&self, window: Duration) {
        match self {
            Self::Queue(lane) => lane.rouse(window),
            Self::Foreign(lane) => lane.rouse(window),
        }
    }
}

/// What a stream leaves behind: the GPU may still come to it.
pub(super) struct Retired {
    pub(super) semaphore: Arc<Semaphore>,
    pub(super) flight: VecDeque<InFlight>,
    pub(super) gpu: Arc<Gpu>,
}

impl Retired {
    /// What is done once a position is reached.
    pub(super) fn after(semaphore: Arc<Semaphore>, position: u64, gpu: &Arc<Gpu>) -> Self {
        Self { semaphore, flight: VecDeque::from([InFlight::until(position)]), gpu: gpu.clone() }
    }

    fn target(&self) -> Option<(vk::Semaphore, u64)> {
        let end = self.flight.front()?.end;
        Some((self.semaphore.raw, self.semaphore.value(end)))
    }

    /// Lets go of what the GPU is through with. Whether there is more.
    fn bury(&mut self) -> bool {
        let reached = self.semaphore.reached(self.gpu.functions()).ok().filter(|_| !self.gpu.is_lost());
        let Some(reached) = reached else {
            // The device is lost, and what becomes of the rest nobody knows.
            self.semaphore.forget();
            std::mem::take(&mut self.flight).into_iter().for_each(InFlight::leak);
            return false;
        };
        while self.flight.front().is_some_and(|batch| batch.end <= reached) {
            self.flight.pop_front();
        }
        !self.flight.is_empty()
    }
}

pub(super) struct Pump {
    inbox: Mutex<Inbox>,
    bell: Condvar,
    /// There is something in the inbox. For the pump while it does not sleep.
    rung: AtomicBool,
    /// How long it asks without pause at most, nanoseconds.
    window: AtomicU64,
    /// Its processor is this one, and whoever waits for any of several does so without sleeping.
    emulated: bool,
    /// Rings in the driver.
    device: ash::Device,
    driver_bell: vk::Semaphore,
    /// Whose pump it is.
    gpu: OnceLock<Weak<Gpu>>,
    pub(super) reaper: Arc<Reaper>,
    /// Rings when it has stopped.
    still: Condvar,
}

#[derive(Default)]
struct Inbox {
    watched: Vec<Watched>,
    retired: Vec<Retired>,
    lost: Option<Error>,
    /// The device is to be given back.
    end: Option<Driver>,
    /// The process ends: nothing may be called in the driver any more.
    stop: bool,
    stopped: bool,
    /// Somebody has begun to wait.
    came: bool,
    rung: bool,
    /// The pump sleeps in the driver until its bell has this value.
    in_driver: Option<u64>,
}

impl Pump {
    /// Starts the thread.
    pub(super) fn start(
        name: &str,
        device: &ash::Device,
        driver_bell: vk::Semaphore,
        emulated: bool,
    ) -> Result<Arc<Self>> {
        let window = if emulated { SPIN_ON_CPU } else { SPIN };
        let pump = Arc::new(Self {
            inbox: Mutex::default(),
            bell: Condvar::new(),
            rung: AtomicBool::new(false),
            window: AtomicU64::new(window.as_nanos() as u64),
            emulated,
            device: device.clone(),
            driver_bell,
            gpu: OnceLock::new(),
            reaper: Arc::new(Reaper::new(name)),
            still: Condvar::new(),
        });
        at_exit(&pump);
        let its = pump.clone();
        spawn(format!("gpu-events {name}"), move || its.run())
            .map_err(|error| Error::with_text(ErrorKind::Resources, error.to_string()))?;
        Ok(pump)
    }

    pub(super) fn belongs_to(&self, gpu: &Arc<Gpu>) {
        // Said once.
        let _ = self.gpu.set(Arc::downgrade(gpu));
    }

    /// From now on asks without pause for at most so long.
    pub(super) fn set_window(&self, window: Duration) {
        // Relaxed: for the waits that begin once it is seen.
        self.window.store(window.as_nanos().min(u64::MAX.into()) as u64, Ordering::Relaxed);
    }

    pub(super) fn window(&self) -> Duration {
        // Relaxed: as above.
        Duration::from_nanos(self.window.load(Ordering::Relaxed))
    }

    /// From now on brings the news of this lane, until it says that it is over.
    pub(super) fn watch(&self, watched: Watched) {
        self.put(|inbox| {
            inbox.watched.push(watched);
            inbox.came = true;
        });
    }

    /// There is something new to wait for on a lane that the pump has already.
    pub(super) fn hurry(&self) {
        self.put(|inbox| inbox.came = true);
    }

    /// Keeps what a stream leaves behind until the GPU is through with it.
    pub(super) fn retire(&self, retired: Retired) {
        self.put(|inbox| inbox.retired.push(retired));
    }

    /// Has every lane told that the device is lost, by this thread instead of one that holds a lock.
    pub(super) fn tell_lost(&self, error: Error) {
        self.put(|inbox| inbox.lost = Some(error));
    }

    /// Has it make no more calls, and waits until it is in none.
    #[cfg(unix)]
    fn stop(&self) {
        self.put(|inbox| inbox.stop = true);
        let until = Instant::now() + AT_EXIT;
        let mut inbox = lock(&self.inbox);
        while !inbox.stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            inbox = self.still.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn stopped(&self) {
        lock(&self.inbox).stopped = true;
        self.still.notify_all();
    }

    /// Gives the device back, and ends.
    pub(super) fn end(&self, driver: Driver) {
        self.put(|inbox| inbox.end = Some(driver));
    }

    fn put(&self, what: impl FnOnce(&mut Inbox)) {
        let mut inbox = lock(&self.inbox);
        what(&mut inbox);
        inbox.rung = true;
        // Relaxed: what it announces is behind the lock.
        self.rung.store(true, Ordering::Relaxed);
        match inbox.in_driver.take() {
            // With the lock held: the pump looks there before it sleeps again, or gives the bell back.
            Some(value) => {
                let info = vk::SemaphoreSignalInfo::default().semaphore(self.driver_bell).value(value);
                // SAFETY: the bell is there until the pump has ended, and only raised here, one by one. If the device is
                // lost, the pump is not kept waiting either.
                let _ = unsafe { self.device.signal_semaphore(&info) };
            }
            None => self.bell.notify_one(),
        }
    }

    fn run(&self) {
        wake_on_time();
        let sleeps_in_driver = !self.emulated && self.can_wait_for_any();
        let mut list: Vec<Watched> = Vec::new();
        let mut retired: Vec<Retired> = Vec::new();
        let mut pace = Pace::default();
        let mut rung = 0;
        let mut awake = false;
        let mut fresh = false;
        loop {
            let idle = list.is_empty();
            let rest = if idle && retired.is_empty() {
                Rest::Sleep(None)
            } else if idle {
                // What was left behind is in no hurry.
                Rest::Sleep(Some(TRIAL))
            } else {
                pace.rest()
            };
            let spins = rest == Rest::Spin;
            if let Rest::Sleep(Some(nap)) = rest
                && sleeps_in_driver
            {
                let time = if idle { LOOK } else { pace.hunch().unwrap_or(LOOK).max(nap) };
                self.sleep_in_driver(&list, &retired, &mut rung, time);
            }
            let mut inbox = self.rest(rest, sleeps_in_driver);
            list.append(&mut inbox.watched);
            retired.append(&mut inbox.retired);
            if let Some(error) = inbox.lost.take()
                && let Some(gpu) = self.gpu.get().and_then(Weak::upgrade)
            {
                gpu.lose(error);
            }
            if inbox.stop && inbox.end.is_none() {
                self.stopped();
                // For ever: what the lists hold must not be dropped either, since that would call the driver.
                let mut inbox = lock(&self.inbox);
                loop {
                    inbox = self.bell.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                }
            }
            let begun = Instant::now();
            if inbox.came {
                pace.allow(self.window());
                pace.begin(begun);
            }
            if inbox.came || fresh || (spins && !awake) {
                let window = pace.spins_for();
                list.iter().for_each(|watched| watched.rouse(window));
            }
            awake = spins || inbox.came;
            // What is tidied up is nobody's wait.
            retired.retain_mut(Retired::bury);
            let looking = Instant::now();
            if looking.duration_since(begun) > TIDYING {
                pace.disregard();
            }
            let mut news = false;
            list.retain(|watched| {
                let look = watched.look();
                news |= look != Look::Same;
                look != Look::Over
            });
            if let Some(driver) = inbox.end.take() {
                // The last reference to the device has gone, and those in the lists were such.
                driver.destroy();
                self.stopped();
                return;
            }
            pace.round(looking, looking.elapsed(), news, cpu_time);
            fresh = news;
        }
    }

    /// Rests in this way, unless the driver was slept in already, and takes what is in the inbox.
    fn rest(&self, rest: Rest, slept: bool) -> Inbox {
        // Relaxed: see `put`.
        if rest == Rest::Spin && !self.rung.load(Ordering::Relaxed) {
            std::hint::spin_loop();
            return Inbox::default();
        }
        let mut inbox = lock(&self.inbox);
        match rest {
            Rest::Sleep(None) => {
                while !inbox.rung {
                    inbox = self.bell.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                }
            }
            Rest::Sleep(Some(time)) if !slept && !inbox.rung => {
                inbox = self.bell.wait_timeout(inbox, time).unwrap_or_else(PoisonError::into_inner).0;
            }
            Rest::Sleep(_) | Rest::Spin => {}
        }
        // Relaxed: see `put`.
        self.rung.store(false, Ordering::Relaxed);
        std::mem::take(&mut inbox)
    }

    /// Sleeps until there is news of one of these, or the bell rings, or for so long.
    fn sleep_in_driver(&self, list: &[Watched], retired: &[Retired], rung: &mut u64, time: Duration) {
        let targets = list.iter().filter_map(Watched::target);
        let targets = targets.chain(retired.iter().filter_map(Retired::target));
        let bell = [(self.driver_bell, *rung + 1)];
        let (semaphores, values): (Vec<_>, Vec<_>) = bell.into_iter().chain(targets).unzip();
        {
            let mut inbox = lock(&self.inbox);
            if inbox.rung {
                return;
            }
            inbox.in_driver = Some(*rung + 1);
        }
        let info = vk::SemaphoreWaitInfo::default()
            .flags(vk::SemaphoreWaitFlags::ANY)
            .semaphores(&semaphores)
            .values(&values);
        // SAFETY: the lists keep what they name.
        let outcome = unsafe { self.device.wait_semaphores(&info, time.as_nanos() as u64) };
        let mut inbox = lock(&self.inbox);
        if inbox.in_driver.take().is_none() {
            // It was rung: the next one is one higher.
            *rung += 1;
        }
        match outcome {
            Ok(()) | Err(vk::Result::TIMEOUT) => {}
            Err(code) => {
                if code == vk::Result::ERROR_DEVICE_LOST {
                    inbox.lost.get_or_insert(error("vkWaitSemaphores", code));
                }
                // Not without pause, whatever it is.
                drop(self.bell.wait_timeout(inbox, TRIAL).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Whether the driver can wait for any of several semaphores without burning a core: some ask one after the other,
    /// without pause. Tried with one that nobody signals, beside the bell.
    fn can_wait_for_any(&self) -> bool {
        let semaphores = [self.driver_bell, self.driver_bell];
        let values = [1; 2];
        let info = vk::SemaphoreWaitInfo::default()
            .flags(vk::SemaphoreWaitFlags::ANY)
            .semaphores(&semaphores)
            .values(&values);
        let begun = (Instant::now(), cpu_time());
        // SAFETY: the bell is there until the pump has ended.
        let outcome = unsafe { self.device.wait_semaphores(&info, TRIAL.as_nanos() as u64) };
        match (outcome, begun.1, cpu_time()) {
            (Err(vk::Result::TIMEOUT), Some(before), Some(after)) => {
                after.saturating_sub(before) < begun.0.elapsed() / 2
            }
            // Nobody can tell how much it took.
            (Err(vk::Result::TIMEOUT), ..) => true,
            _ => false,
        }
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").finish_non_exhaustive()
    }
}
