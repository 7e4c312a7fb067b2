//! The thread that brings news from the driver: one for each GPU, whatever the number of streams and events (R14).
//!
//! The driver has no call that waits for any of many streams. So the pump asks: without pause while an answer is likely to
//! come within microseconds, then at growing intervals, and not at all while nobody waits for anything. It runs no user
//! code, wakers aside, and makes no call that blocks.

use super::{foreign::Foreign, gpu::Gpu, queue::Queue};
use crate::{
    backend::{
        Lane,
        pace::{Pace, Rest, SPIN, TIDYING, cpu_time, wake_on_time},
    },
    error::{Error, ErrorKind, Result},
    primitive::{lock, spawn},
};
use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How often the context's health is looked at while words alone are watched, which would never say that it broke.
const HEALTH: Duration = Duration::from_millis(20);

/// A lane that somebody waits for.
#[derive(Debug)]
pub(super) enum Watched {
    Queue(Arc<Lane<Queue>>),
    Foreign(Arc<Lane<Foreign>>),
}

impl Watched {
    /// Brings the news that there are.
    fn look(&self) -> Look {
        match self {
            Self::Queue(lane) => lane.backend().look(lane),
            Self::Foreign(lane) => lane.backend().look(lane),
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

/// What a look at a watched lane found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing new.
    Same,
    /// Nobody waits, but somebody has asked, and would not learn from the word that the context broke.
    Mild,
    /// News, and more to come.
    News,
    /// Nobody waits for anything more.
    Over,
}

pub(super) struct Pump {
    inbox: Mutex<Inbox>,
    bell: Condvar,
    /// There is something in the inbox. For the pump while it does not sleep.
    rung: AtomicBool,
    /// How long it asks without pause at most, nanoseconds.
    window: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    watched: Vec<Watched>,
    fault: Option<Error>,
    /// Somebody has begun to wait.
    came: bool,
    rung: bool,
    /// The pump sleeps, or has not come to its senses yet. Who rings meanwhile wakes it too, and depends on nobody else's doing
    /// so.
    asleep: bool,
    running: bool,
}

impl Pump {
    pub(super) fn new() -> Self {
        Self {
            inbox: Mutex::default(),
            bell: Condvar::new(),
            rung: AtomicBool::new(false),
            window: AtomicU64::new(SPIN.as_nanos() as u64),
        }
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

    /// From now on brings the news of this lane, until nobody waits for more.
    pub(super) fn watch(&self, watched: Watched) {
        self.put(|inbox| {
            inbox.watched.push(watched);
            inbox.came = true;
        });
    }

    /// As [`watch`](Self::watch), with no haste.
    pub(super) fn mind(&self, watched: Watched) {
        self.put(|inbox| inbox.watched.push(watched));
    }

    /// Somebody waits for a lane that was only minded.
    pub(super) fn hurry(&self) {
        self.put(|inbox| inbox.came = true);
    }

    /// Has every lane told that the context broke, by this thread instead of one that holds a lock.
    pub(super) fn fault(&self, error: Error) {
        self.put(|inbox| inbox.fault = Some(error));
    }

    /// Has the pump look around: there are references to be recorded, or things to be given back to the driver.
    pub(super) fn ring(&self) {
        self.put(|_| {});
    }

    /// Starts the thread, if it does not run.
    pub(super) fn start(&self, gpu: &'static Gpu) -> Result<()> {
        let mut inbox = lock(&self.inbox);
        if !inbox.running {
            spawn(format!("gpu-events {}", gpu.name), move || Self::run(gpu))
                .map_err(|error| Error::with_text(ErrorKind::Resources, error.to_string()))?;
            inbox.running = true;
        }
        Ok(())
    }

    fn put(&self, what: impl FnOnce(&mut Inbox)) {
        let mut inbox = lock(&self.inbox);
        what(&mut inbox);
        inbox.rung = true;
        // Relaxed: what it announces is behind the lock.
        self.rung.store(true, Ordering::Relaxed);
        // To wake a thread is a call of the system's, also where none sleeps.
        let wake = inbox.asleep;
        drop(inbox);
        if wake {
            self.bell.notify_one();
        }
    }

    fn run(gpu: &'static Gpu) {
        wake_on_time();
        // The thread's own for good: nothing that it asks disturbs a capture, and it may make things.
        match gpu.enter() {
            Ok(entered) => std::mem::forget(entered),
            // The others who enter meet it as well. Asking takes no context.
            Err(error) => gpu.fail(error),
        }
        super::gpu::is_harmless_for_good();
        let mut list = Vec::new();
        let mut pace = Pace::default();
        let mut examined = Instant::now();
        let mut tidied = examined;
        let mut urgent = false;
        let mut awake = false;
        let mut fresh = false;
        loop {
            let rest = if urgent {
                pace.rest()
            } else if !list.is_empty() {
                Rest::Sleep(Some(HEALTH))
            } else {
                // Something timed may be alive: its references have to go on.
                Rest::Sleep(gpu.clock.is_ticking().then_some(super::clock::BEAT))
            };
            let spins = rest == Rest::Spin;
            let (came, fault) = gpu.pump.rest(rest, &mut list);
            if let Some(error) = fault {
                gpu.fail(error);
            }
            let begun = Instant::now();
            if came {
                pace.allow(gpu.pump.window());
                pace.begin(begun);
            }
            if came || fresh || (spins && !awake) {
                let window = pace.spins_for();
                list.iter().for_each(|watched| watched.rouse(window));
            }
            awake = spins || came;
            if gpu.clock.is_ticking() {
                gpu.clock.beat(gpu);
                if begun.duration_since(tidied) >= super::clock::BEAT {
                    tidied = begun;
                    gpu.tidy();
                }
            }
            gpu.bury();
            if begun.duration_since(examined) >= HEALTH {
                examined = begun;
                gpu.examine();
            }
            // What was tidied up meanwhile was nobody's wait.
            let looking = Instant::now();
            if looking.duration_since(begun) > TIDYING {
                pace.disregard();
            }
            let mut news = false;
            urgent = false;
            list.retain(|watched: &Watched| {
                let look = watched.look();
                news |= matches!(look, Look::News | Look::Over);
                urgent |= matches!(look, Look::News | Look::Same);
                look != Look::Over
            });
            pace.round(looking, looking.elapsed(), news, cpu_time);
            fresh = news;
        }
    }

    /// Rests in this way, and takes what is in the inbox: whether there was anything to watch, and a fault to tell of.
    fn rest(&self, rest: Rest, list: &mut Vec<Watched>) -> (bool, Option<Error>) {
        // Relaxed: see `put`.
        if rest == Rest::Spin && !self.rung.load(Ordering::Relaxed) {
            std::hint::spin_loop();
            return (false, None);
        }
        let mut inbox = lock(&self.inbox);
        if let Rest::Sleep(time) = rest {
            match time {
                None => {
                    while !inbox.rung {
                        inbox.asleep = true;
                        inbox = self.bell.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                    }
                }
                Some(time) if !inbox.rung => {
                    inbox.asleep = true;
                    inbox = self.bell.wait_timeout(inbox, time).unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(_) => {}
            }
            inbox.asleep = false;
        }
        inbox.rung = false;
        // Relaxed: see `put`.
        self.rung.store(false, Ordering::Relaxed);
        let came = std::mem::take(&mut inbox.came);
        list.append(&mut inbox.watched);
        (came, inbox.fault.take())
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").finish_non_exhaustive()
    }
}
