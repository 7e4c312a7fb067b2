//! Taking turns, medians, and a watchdog, for programs that measure.

use gpu_events::{Error, ErrorKind, Event, Result, WaitOptions, WaitStrategy};
use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// No step takes longer, or something stands still.
const PATIENCE: Duration = Duration::from_secs(20);

static STEP: Mutex<Option<(Instant, String)>> = Mutex::new(None);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "a measurement on hardware takes the time that it takes")]
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}

/// Ends the process if a step stands still. `last` is called before, to let go of what may be held back.
pub(crate) fn watch(last: fn()) -> Result<()> {
    let watchdog = thread::Builder::new().name("watchdog".into()).spawn(move || keep_watch(last));
    watchdog.map(drop).map_err(|error| failed(format_args!("no thread for the watchdog: {error}")))
}

fn keep_watch(last: fn()) {
    loop {
        sleep(Duration::from_millis(20));
        let late = lock(&STEP).as_ref().filter(|(until, _)| Instant::now() > *until).map(|it| it.1.clone());
        if let Some(step) = late {
            eprintln!("FAILED: {step}: stood still");
            last();
            sleep(Duration::from_millis(500));
            // SAFETY: ends the process at once; the driver's own clean-up might wait for ever.
            unsafe { libc::_exit(3) };
        }
    }
}

/// One step: its failure names it, and if it stands still the process ends.
pub(crate) fn step<T>(name: impl Display, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let name = name.to_string();
    let outer = lock(&STEP).replace((Instant::now() + PATIENCE, name.clone()));
    let done = call();
    *lock(&STEP) = outer.map(|(_, name)| (Instant::now() + PATIENCE, name));
    done.map_err(|error| Error::with_text(error.kind(), format!("{name}: {error}")))
}

pub(crate) fn failed(text: impl Display) -> Error {
    Error::with_text(ErrorKind::Driver, text.to_string())
}

pub(crate) fn spinning() -> WaitOptions {
    WaitOptions::new().strategy(WaitStrategy::Spin)
}

/// Waits for an event without sleeping.
pub(crate) fn reach(event: &Event) -> Result<()> {
    event.wait_with(&spinning()).map(drop)
}

/// Nanoseconds since.
#[inline]
pub(crate) fn nanos(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64
}

/// What a heap of samples comes to.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

impl Summary {
    pub(crate) fn of(samples: &[f64]) -> Result<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
        };
        let (Some(least), Some(median), Some(p99), Some(most)) = (at(0.0), at(0.5), at(0.99), at(1.0)) else {
            return Err(failed("nothing was measured"));
        };
        Ok(Self { count: sorted.len(), least, median, p99, most })
    }
}

/// One of the things that take turns: a round sets up, measures, cleans up, and returns what it measured.
pub(crate) struct Entry<'a> {
    name: String,
    round: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Entry<'a> {
    pub(crate) fn new(name: impl Into<String>, round: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { name: name.into(), round: Box::new(round) }
    }
}

/// So many rounds of each, A B C, B C A, C A B …, after a tenth as many that don't count.
pub(crate) fn take_turns(
    title: &str,
    rounds: usize,
    entries: Vec<Entry<'_>>,
) -> Result<Vec<(String, Summary)>> {
    let mut entries = entries;
    let mut samples = vec![Vec::with_capacity(rounds); entries.len()];
    let count = entries.len();
    let idle_rounds = rounds / 10 + 1;
    step(title, || {
        for round in 0..idle_rounds + rounds {
            for turn in 0..count {
                let index = (round + turn) % count;
                let entry = &mut entries[index];
                let sample = (entry.round)()
                    .map_err(|error| Error::with_text(error.kind(), format!("{}: {error}", entry.name)))?;
                if round >= idle_rounds {
                    samples[index].push(sample);
                }
            }
            // Still alive.
            if let Some((until, _)) = &mut *lock(&STEP) {
                *until = Instant::now() + PATIENCE;
            }
        }
        Ok(())
    })?;
    let named = entries.into_iter().map(|it| it.name).zip(&samples);
    named.map(|(name, its)| Ok((name, Summary::of(its)?))).collect()
}
