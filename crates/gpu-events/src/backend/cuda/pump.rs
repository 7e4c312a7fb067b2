//! The thread that brings news from the driver: one for each GPU, whatever the number of streams and events (R14).
//!
//! The driver has no call that waits for any of many streams. So the pump asks: without pause while an answer is likely to
//! come within microseconds, then at growing intervals, and not at all while nobody waits for anything. It runs no user
//! code, wakers aside, and makes no call that blocks.

use super::{foreign::Foreign, gpu::Gpu, queue::Queue};
use crate::{
    backend::Lane,
    error::Error,
    primitive::{lock, spawn},
};
use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long it asks without pause after somebody has begun to wait, at most.
pub(super) const SPIN: Duration = Duration::from_micros(200);

/// The shortest time that it sleeps for.
const NAP: Duration = Duration::from_micros(20);

/// The share of a core that long waits may cost: one in this many.
const SHARE: u32 = 96;

/// The share of a wait that may be spent on asking without pause around its expected end: one in this many.
const HUNCH: u32 = 160;

/// What a round costs beside what it takes, going to sleep and waking, where the system doesn't tell.
const OVERHEAD: Duration = Duration::from_micros(10);

/// The longest time between two rounds while somebody waits.
const LONGEST: Duration = Duration::from_millis(2);

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

    /// Asks the driver whether the stream is still alive, where looking does not ask it.
    fn examine(&self) {
        if let Self::Queue(lane) = self {
            lane.backend().examine(lane);
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
}

#[derive(Default)]
struct Inbox {
    watched: Vec<Watched>,
    fault: Option<Error>,
    /// Somebody has begun to wait.
    came: bool,
    rung: bool,
    running: bool,
}

impl Pump {
    pub(super) fn new() -> Self {
        Self { inbox: Mutex::default(), bell: Condvar::new(), rung: AtomicBool::new(false) }
    }

    /// From now on brings the news of this lane, until nobody waits for more.
    pub(super) fn watch(&self, gpu: &'static Gpu, watched: Watched) {
        self.put(gpu, |inbox| {
            inbox.watched.push(watched);
            inbox.came = true;
        });
    }

    /// As [`watch`](Self::watch), with no haste.
    pub(super) fn mind(&self, gpu: &'static Gpu, watched: Watched) {
        self.put(gpu, |inbox| inbox.watched.push(watched));
    }

    /// Somebody waits for a lane that was only minded.
    pub(super) fn hurry(&self, gpu: &'static Gpu) {
        self.put(gpu, |inbox| inbox.came = true);
    }

    /// Has every lane told that the context broke, by this thread instead of one that holds a lock.
    pub(super) fn fault(&self, gpu: &'static Gpu, error: Error) {
        self.put(gpu, |inbox| inbox.fault = Some(error));
    }

    /// Has the pump look around: there are references to be recorded, or things to be given back to the driver.
    pub(super) fn ring(&self, gpu: &'static Gpu) {
        self.put(gpu, |_| {});
    }

    fn put(&self, gpu: &'static Gpu, what: impl FnOnce(&mut Inbox)) {
        let mut inbox = lock(&self.inbox);
        what(&mut inbox);
        inbox.rung = true;
        // Relaxed: what it announces is behind the lock.
        self.rung.store(true, Ordering::Relaxed);
        if !inbox.running {
            // Refused a thread, the system has none for callbacks either. The next one who watches tries again.
            inbox.running = spawn(format!("gpu-events {}", gpu.name), move || Self::run(gpu)).is_ok();
        }
        drop(inbox);
        self.bell.notify_one();
    }

    fn run(gpu: &'static Gpu) {
        wake_on_time();
        // The thread's own for good: nothing that it asks disturbs a capture, and it may make things.
        let Ok(entered) = gpu.enter() else {
            lock(&gpu.pump.inbox).running = false;
            return;
        };
        std::mem::forget(entered);
        let mut list = Vec::new();
        let mut pace = Pace::default();
        let mut examined = Instant::now();
        let mut urgent = false;
        loop {
            let rest = if urgent {
                pace.rest()
            } else if !list.is_empty() {
                Rest::Sleep(Some(HEALTH))
            } else {
                // Something timed may be alive: its references have to go on.
                Rest::Sleep(gpu.clock.is_ticking().then_some(super::clock::BEAT))
            };
            let (came, fault) = gpu.pump.rest(rest, &mut list);
            if let Some(error) = fault {
                gpu.fail(error);
            }
            let begun = Instant::now();
            if came {
                pace.begin(begun);
            }
            if gpu.clock.is_ticking() {
                gpu.clock.beat(gpu);
            }
            gpu.bury();
            if begun.duration_since(examined) >= HEALTH {
                examined = begun;
                // One is enough: they share the context.
                if let Some(watched) = list.iter().find(|watched| matches!(watched, Watched::Queue(_))) {
                    watched.examine();
                }
            }
            let mut news = false;
            urgent = false;
            list.retain(|watched: &Watched| {
                let look = watched.look();
                news |= matches!(look, Look::News | Look::Over);
                urgent |= matches!(look, Look::News | Look::Same);
                look != Look::Over
            });
            pace.round(begun, begun.elapsed(), news, cpu_time);
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
                        inbox = self.bell.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                    }
                }
                Some(time) if !inbox.rung => {
                    inbox = self.bell.wait_timeout(inbox, time).unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(_) => {}
            }
        }
        inbox.rung = false;
        // Relaxed: see `put`.
        self.rung.store(false, Ordering::Relaxed);
        let came = std::mem::take(&mut inbox.came);
        list.append(&mut inbox.watched);
        (came, inbox.fault.take())
    }
}

/// Asks the system to wake this thread when it said it would, and not up to 50 µs later.
fn wake_on_time() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: sets how exactly this thread's timers are kept, and touches no memory.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_usize, 0_usize, 0_usize, 0_usize) };
    }
}

/// The CPU time that this thread has had: what sleeping and waking cost is in it.
fn cpu_time() -> Option<Duration> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to `time` alone.
        if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) } == 0 {
            return Some(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32));
        }
    }
    None
}

/// How to spend the time until the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Spin,
    /// For so long, or until somebody rings.
    Sleep(Option<Duration>),
}

/// How fast the pump asks.
///
/// Most waits are either short, and then worth spinning for, or so long that spinning only burns a core. Which of the two
/// it will be is learned: a window that ends without news halves the next one, news soon after restore it. Long waits are
/// often as long as the ones before, since programs go in circles: around the time when the end is expected the pump asks
/// without pause again, if it is expected closely enough for that to cost little.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Since when nothing has come.
    since: Instant,
    now: Instant,
    window: Duration,
    /// What a round costs when the pump sleeps in between, smoothed.
    cost: Duration,
    /// The thread's CPU time at the last look.
    used: Option<Duration>,
    expired: bool,
    /// How long the waits that outlasted the window took, smoothed, and how far they were from that.
    usual: Duration,
    spread: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            now,
            window: SPIN,
            cost: OVERHEAD,
            used: None,
            expired: false,
            usual: Duration::ZERO,
            spread: Duration::ZERO,
        }
    }
}

impl Pace {
    /// Somebody has begun to wait.
    fn begin(&mut self, now: Instant) {
        self.since = now;
        self.expired = false;
    }

    /// A round is over.
    fn round(&mut self, begun: Instant, took: Duration, news: bool, cpu_time: impl Fn() -> Option<Duration>) {
        self.now = begun + took;
        let waited = self.now.saturating_duration_since(self.since);
        if news {
            if waited <= SPIN * 2 {
                self.window = SPIN;
            }
            if self.expired {
                self.learn(waited);
            }
            self.begin(self.now);
            self.used = None;
        } else if self.expired {
            let used = cpu_time();
            let spent = match (used, self.used) {
                (Some(now), Some(before)) if self.expects(waited).is_none() => now.saturating_sub(before),
                (Some(_), _) => self.cost,
                (None, _) => took + OVERHEAD,
            };
            self.cost = (self.cost * 7 + spent) / 8;
            self.used = used;
        } else if waited > self.window {
            self.expired = true;
            self.window = (self.window / 2).max(NAP);
        }
    }

    fn learn(&mut self, waited: Duration) {
        let off = self.usual.abs_diff(waited);
        if off > self.usual / 2 {
            // Something else than before.
            (self.usual, self.spread) = (waited, waited / 8);
        } else {
            self.usual = (self.usual * 3 + waited) / 4;
            self.spread = (self.spread + off) / 2;
        }
    }

    /// How long it still is until the end may be expected, if it can be; nothing, if that is now.
    fn expects(&self, waited: Duration) -> Option<Duration> {
        let margin = self.spread * 2 + NAP;
        if margin * 2 > self.usual / HUNCH || waited > self.usual + margin {
            return None;
        }
        Some((self.usual - margin).saturating_sub(waited))
    }

    fn rest(&self) -> Rest {
        if !self.expired {
            return Rest::Spin;
        }
        let waited = self.now.saturating_duration_since(self.since);
        // A sixteenth of the wait so far adds little to it; more often than the share allows is not worth it.
        let bound = (self.cost * SHARE).min(LONGEST);
        let nap = (waited / 16).clamp(NAP, bound.max(NAP));
        match self.expects(waited) {
            Some(Duration::ZERO) => Rest::Spin,
            Some(left) => Rest::Sleep(Some(nap.min(left))),
            None => Rest::Sleep(Some(nap)),
        }
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_nanos(500);

    fn quiet(pace: &mut Pace, from: Instant, time: Duration) {
        pace.round(from + time, ROUND, false, || None);
    }

    fn sleep(pace: &Pace) -> Duration {
        match pace.rest() {
            Rest::Sleep(Some(sleep)) => sleep,
            rest => panic!("{rest:?}"),
        }
    }

    #[test]
    fn it_spins_first_and_sleeps_longer_and_longer() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.begin(start);
        quiet(&mut pace, start, SPIN / 2);
        assert_eq!(pace.rest(), Rest::Spin);
        let mut last = Duration::ZERO;
        for wait in [SPIN * 2, SPIN * 10, SPIN * 1_000] {
            quiet(&mut pace, start, wait);
            let sleep = sleep(&pace);
            assert!(sleep >= last && sleep <= LONGEST);
            last = sleep;
        }
    }

    #[test]
    fn windows_that_bring_nothing_get_shorter_and_news_restore_them() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..10 {
            pace.begin(now);
            quiet(&mut pace, now, SPIN * 50);
            now += SPIN * 100;
        }
        assert_eq!(pace.window, NAP);
        pace.begin(now);
        pace.round(now + NAP / 2, ROUND, true, || None);
        assert_eq!(pace.window, SPIN);
    }

    #[test]
    fn what_costs_more_is_done_less_often() {
        let start = Instant::now();
        let sleep = |cost: Duration| {
            let mut pace = Pace::default();
            for round in 1..50_u32 {
                pace.round(start + SPIN * 1_000 * round, ROUND, false, || Some(cost * round));
            }
            sleep(&pace)
        };
        let micros = Duration::from_micros;
        assert!(sleep(micros(15)) > sleep(micros(5)) * 2);
        assert!(sleep(micros(5)).abs_diff(micros(5) * SHARE) < micros(5));
        assert_eq!(sleep(micros(50_000)), LONGEST);
    }

    #[test]
    fn an_end_that_is_expected_is_awaited_without_pause() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        let usual = Duration::from_millis(100);
        for _ in 0..16 {
            pace.begin(now);
            quiet(&mut pace, now, usual / 2);
            assert!(sleep(&pace) > NAP);
            pace.round(now + usual, ROUND, true, || None);
            now += usual * 2;
        }
        pace.begin(now);
        quiet(&mut pace, now, usual / 2);
        assert!(sleep(&pace) < usual / 2);
        quiet(&mut pace, now, usual);
        assert_eq!(pace.rest(), Rest::Spin);
        // It does not come: back to sleep.
        quiet(&mut pace, now, usual + usual / 50);
        assert!(sleep(&pace) > NAP);
    }

    #[test]
    fn ends_that_nobody_can_expect_are_not() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        for wait in (20..60).cycle().take(200).map(Duration::from_millis) {
            pace.begin(now);
            quiet(&mut pace, now, wait / 2);
            quiet(&mut pace, now, wait - ROUND);
            assert!(sleep(&pace) > NAP, "{pace:?}");
            pace.round(now + wait, ROUND, true, || None);
            now += wait * 2;
        }
    }
}
