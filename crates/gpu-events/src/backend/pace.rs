//! How fast a pump asks a driver that has no way, or only a slow one, of telling by itself.

use std::time::{Duration, Instant};

/// How long it asks without pause after somebody has begun to wait, at most, unless told otherwise.
pub(super) const SPIN: Duration = Duration::from_micros(200);

/// The shortest time that it sleeps for.
const NAP: Duration = Duration::from_micros(20);

/// What a wait may cost beside spinning at its beginning: this part of a core at first, ...
const SHARE_AT_FIRST: u32 = 8;

/// ... for so long ...
const AT_FIRST: Duration = Duration::from_millis(3);

/// ... and then this part.
const SHARE: u32 = 192;

/// What a round costs beside what it takes, going to sleep and waking, where the system doesn't tell.
const OVERHEAD: Duration = Duration::from_micros(10);

/// What takes longer than this before a round's looks is not part of the round's cost: a round that seems to cost a hundred
/// times as much would have the next ones slept away.
pub(super) const TIDYING: Duration = Duration::from_micros(20);

/// The longest time between two rounds while somebody waits.
const LONGEST: Duration = Duration::from_millis(20);

/// Asks the system to wake this thread when it said it would, and not up to 50 µs later.
pub(super) fn wake_on_time() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: sets how exactly this thread's timers are kept, and touches no memory.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_usize, 0_usize, 0_usize, 0_usize) };
    }
}

/// The CPU time that this thread has had: what sleeping and waking cost is in it.
pub(super) fn cpu_time() -> Option<Duration> {
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
pub(super) enum Rest {
    Spin,
    /// For so long, or until somebody rings.
    Sleep(Option<Duration>),
}

/// How fast the pump asks.
///
/// Most waits are either short, and then worth spinning for, or so long that spinning only burns a core. Which of the two
/// it will be is learned: a window that ends without news halves the next one, news soon after restore it. From then on a
/// budget of CPU time, which grows with the wait, says how often to ask. And since programs go in circles, waits are often
/// as long as earlier ones were: around such a time the pump asks without pause again, once it knows it closely enough for
/// that to cost little.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Since when nothing has come.
    since: Instant,
    now: Instant,
    /// How long it may spin, and how long it does.
    most: Duration,
    window: Duration,
    expired: bool,
    /// When it last looked in vain, since `since`.
    looked: Duration,
    /// The CPU time that went into this wait, hunches aside.
    spent: Duration,
    /// What a round costs with a sleep before it, smoothed downwards.
    cost: Duration,
    /// The thread's CPU time at the last round, if a sleep followed.
    used: Option<Duration>,
    /// Each for waits of up to twice its length, in microseconds.
    habits: [Habit; 24],
}

/// How long waits of about one length were.
#[derive(Clone, Copy, Debug, Default)]
struct Habit {
    /// All of them ended between these two.
    from: Duration,
    to: Duration,
    /// How often that was right, less how often nothing came. Nothing is known at zero.
    trust: u8,
}

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            now,
            most: SPIN,
            window: SPIN,
            expired: false,
            looked: Duration::ZERO,
            spent: Duration::ZERO,
            cost: OVERHEAD,
            used: None,
            habits: [Habit::default(); 24],
        }
    }
}

impl Pace {
    /// Somebody has begun to wait.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since = now;
        self.expired = false;
        self.looked = Duration::ZERO;
        self.spent = Duration::ZERO;
        self.used = None;
        // What a round cost during earlier waits counts for less and less: a wait may have too few rounds to tell it anew.
        self.cost = (self.cost * 7 + OVERHEAD) / 8;
    }

    /// Sets how long it may spin.
    pub(super) fn allow(&mut self, most: Duration) {
        if most != self.most {
            (self.most, self.window) = (most, most);
        }
    }

    fn waited(&self) -> Duration {
        self.now.saturating_duration_since(self.since)
    }

    /// A round is over.
    pub(super) fn round(
        &mut self,
        begun: Instant,
        took: Duration,
        news: bool,
        cpu_time: impl Fn() -> Option<Duration>,
    ) {
        self.now = begun + took;
        let waited = self.waited();
        if news {
            if waited <= self.most * 2 {
                self.window = self.most;
            }
            if self.expired {
                self.learn(waited);
            }
            return self.begin(self.now);
        }
        self.looked = waited;
        if self.expired {
            self.account(took, cpu_time);
        } else if waited > self.window {
            self.expired = true;
            self.spent = waited;
            self.window = (self.window / 2).max(NAP.min(self.most));
        }
    }

    /// What the thread has done since its last round was not for the sake of this wait: the coming round tells no cost.
    pub(super) fn disregard(&mut self) {
        self.used = None;
    }

    /// Adds up what sleeping and looking cost.
    fn account(&mut self, took: Duration, cpu_time: impl Fn() -> Option<Duration>) {
        let used = if self.hunch().is_some_and(|left| left.is_zero()) { None } else { cpu_time() };
        let cost = match (used, self.used) {
            (Some(now), Some(before)) => Some(now.saturating_sub(before)),
            (None, None) if cpu_time().is_none() => Some(took + OVERHEAD),
            _ => None,
        };
        if let Some(cost) = cost {
            // No more than the round and its sleep can have taken: where threads' time is counted in the system's ticks, one of
            // them would pass for the cost of a round, and the next wait be slept away.
            let cost = cost.min(took + 10 * OVERHEAD);
            self.spent += cost;
            self.cost = cost.max((self.cost * 7 + cost) / 8);
        }
        self.used = used;
    }

    /// A wait is over that was too long for spinning.
    fn learn(&mut self, by: Duration) {
        let after = self.looked;
        for habit in &mut self.habits {
            if habit.to < after {
                habit.trust = habit.trust.saturating_sub(1);
            }
        }
        let class = by.as_micros().max(1).ilog2() as usize;
        let Some(habit) = self.habits.get_mut(class) else { return };
        if habit.trust > 0 && after < habit.to && habit.from < by {
            // It was between the two again: that is where they meet.
            let (from, to) = (habit.from.max(after), habit.to.min(by));
            let slack = NAP.saturating_sub(to - from) / 2;
            *habit =
                Habit { from: from.saturating_sub(slack), to: to + slack, trust: (habit.trust + 1).min(8) };
        } else if habit.trust > 0 && after < habit.to + by / 64 && habit.from < by + by / 64 {
            // It varies a little.
            (habit.from, habit.to) = (habit.from.min(after), habit.to.max(by));
        } else {
            *habit = Habit { from: after, to: by, trust: 1 };
        }
    }

    /// The next time at which waits like this one are known to have ended.
    fn habit(&self) -> Option<&Habit> {
        self.habits.iter().find(|habit| habit.trust > 1 && habit.to > self.waited())
    }

    /// How long it still is until the wait may be expected to end; nothing, if that is now.
    pub(super) fn hunch(&self) -> Option<Duration> {
        let (waited, habit) = (self.waited(), self.habit()?);
        let worth = habit.to.min(AT_FIRST / 2) / SHARE_AT_FIRST + habit.to / (5 * SHARE);
        if habit.to - habit.from <= worth {
            return Some(habit.from.saturating_sub(waited));
        }
        // Not known closely enough: one look in the middle, and it will be known better.
        let middle = (habit.from + habit.to) / 2;
        (waited + NAP < middle).then(|| middle - waited)
    }

    /// For how long it spins from now on, if nothing comes.
    pub(super) fn spins_for(&self) -> Duration {
        let waited = self.waited();
        if !self.expired {
            return self.window.saturating_sub(waited);
        }
        self.habit().map_or(Duration::ZERO, |habit| habit.to - waited)
    }

    pub(super) fn rest(&self) -> Rest {
        if !self.expired {
            return Rest::Spin;
        }
        let hunch = self.hunch();
        if hunch == Some(Duration::ZERO) {
            return Rest::Spin;
        }
        let waited = self.waited();
        let budget = self.most + waited.min(AT_FIRST) / SHARE_AT_FIRST + waited / SHARE;
        let missing = (self.spent + self.cost).saturating_sub(budget);
        let share = if waited < AT_FIRST { SHARE_AT_FIRST } else { SHARE };
        // An eighth of the wait so far adds little to it.
        let nap = (waited / 8).max(NAP).max(missing * share).min(LONGEST);
        Rest::Sleep(Some(hunch.map_or(nap, |left| nap.min(left.max(NAP)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_nanos(500);

    fn quiet(pace: &mut Pace, from: Instant, time: Duration) {
        pace.round(from + time, Duration::ZERO, false, || None);
    }

    /// A whole wait of so long, in which each round costs `cost`: the CPU time that it took, and how late the news came.
    fn wait(pace: &mut Pace, begun: Instant, length: Duration, cost: Duration) -> (Duration, Duration) {
        wait_by(pace, begun, length, cost, |used| used)
    }

    /// The same, where the clock of the thread's CPU time shows `clock` of it.
    fn wait_by(
        pace: &mut Pace,
        begun: Instant,
        length: Duration,
        cost: Duration,
        clock: impl Fn(Duration) -> Duration,
    ) -> (Duration, Duration) {
        let (mut now, mut used) = (begun, Duration::ZERO);
        pace.begin(now);
        loop {
            match pace.rest() {
                Rest::Spin => {
                    now += ROUND;
                    used += ROUND;
                }
                Rest::Sleep(Some(time)) => {
                    now += time + cost;
                    used += cost;
                }
                rest @ Rest::Sleep(None) => panic!("{rest:?}"),
            }
            let news = now >= begun + length;
            pace.round(now, Duration::ZERO, news, || Some(clock(used)));
            if news {
                return (used, now - begun - length);
            }
        }
    }

    const MICROS: fn(u64) -> Duration = Duration::from_micros;
    const MILLIS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn it_spins_first() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.begin(start);
        quiet(&mut pace, start, SPIN / 2);
        assert_eq!(pace.rest(), Rest::Spin);
        quiet(&mut pace, start, SPIN * 2);
        assert!(matches!(pace.rest(), Rest::Sleep(Some(_))));
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
    fn a_clock_of_ticks_puts_nobody_to_sleep() {
        let mut pace = Pace::default();
        let mut begun = Instant::now();
        let mut before = Duration::ZERO;
        // Enough of them for the clock to move in some.
        for index in 0..200 {
            let length = MICROS(1_000 + 37 * index);
            let ticks = |used: Duration| MILLIS((before + used).as_millis() as u64 / 10 * 10);
            let (used, late) = wait_by(&mut pace, begun, length, MICROS(10), ticks);
            before += used;
            begun += length * 2;
            assert!(late <= length / 4 + MICROS(1_000), "{late:?} after {length:?}: {pace:?}");
        }
        assert!(before > MILLIS(20), "the clock never moved: {before:?}");
    }

    #[test]
    fn what_one_dear_round_cost_is_forgotten() {
        let mut pace = Pace::default();
        let mut begun = Instant::now();
        let length = MICROS(2_000);
        wait(&mut pace, begun, length * 10, MICROS(10));
        pace.cost = MILLIS(75);
        let late = (0..60).map(|index| {
            begun += length * 100;
            wait(&mut pace, begun, length + MICROS(37 * index), MICROS(10)).1
        });
        let late = late.collect::<Vec<_>>();
        assert!(late[59] < length / 4, "{late:?}");
    }

    #[test]
    fn long_waits_cost_their_share_and_no_more() {
        // What costs more than this is done more often than its share allows: `LONGEST` says when at the latest.
        assert!(MICROS(100) < LONGEST / SHARE);
        for cost in [5, 20, 80, 100] {
            // Lengths that never come again.
            for (index, length) in [50, 100, 200, 400, 800].into_iter().map(MILLIS).enumerate() {
                let mut pace = Pace::default();
                let begun = Instant::now() + MILLIS(index as u64);
                let (used, late) = wait(&mut pace, begun, length, MICROS(cost));
                let most = SPIN + AT_FIRST / SHARE_AT_FIRST + length / SHARE + MICROS(cost) * 3;
                assert!(used <= most, "{used:?} for {length:?}, {cost} µs each");
                assert!(late <= LONGEST + MICROS(cost), "{late:?}");
            }
        }
    }

    #[test]
    fn an_end_that_was_seen_before_is_expected() {
        for (length, cost) in [(MILLIS(100), MICROS(80)), (MILLIS(100), MICROS(10)), (MILLIS(1), MICROS(20))]
        {
            let mut pace = Pace::default();
            let mut begun = Instant::now();
            for _ in 0..24 {
                wait(&mut pace, begun, length, cost);
                begun += length * 2;
                // Something short in between.
                wait(&mut pace, begun, MICROS(10), cost);
                begun += length;
            }
            for _ in 0..10 {
                let (used, late) = wait(&mut pace, begun, length, cost);
                assert!(late <= cost + NAP, "{late:?} after {length:?}: {pace:?}");
                assert!(used <= length / 50 + SPIN + length.min(AT_FIRST) / 4, "{used:?} for {length:?}");
                begun += length * 2;
            }
        }
    }

    #[test]
    fn what_does_not_come_again_is_forgotten() {
        let mut pace = Pace::default();
        let mut begun = Instant::now();
        let length = MILLIS(3);
        for _ in 0..20 {
            wait(&mut pace, begun, length, MICROS(10));
            begun += length * 2;
        }
        assert!(pace.habits.iter().any(|habit| habit.trust > 1));
        for _ in 0..20 {
            wait(&mut pace, begun, length * 30, MICROS(10));
            begun += length * 60;
        }
        assert!(pace.habits.iter().all(|habit| habit.trust == 0 || habit.to > length * 2), "{pace:?}");
    }
}
