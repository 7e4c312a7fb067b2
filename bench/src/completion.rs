//! From the completion of some work to whoever waits for it.
//!
//! Work and observer are pinned to two cores where that is possible: left alone, the kernel wakes the observer now on
//! the core that is still busy, in 2 or 3 µs, now on one that it has to wake as well, in 20.

use super::harness::{Group, Measure, Plan, Samples};
use super::seed::{SeedHandle, SeedPool};
use super::{Bench, host};
use anyhow::Result;
use gpu_events::{Device, Event, HostSignal, WaitOptions, WaitStrategy};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let plan = &bench.plan;
    let mut group = Group::new("Completion, work and observer on two cores");
    let seed = group.variant("the seed's way on a CPU: a mutex and a condition variable", seed(plan));
    let flag = group.variant("a thread that spins on a flag", spun_flag(plan));

    // Twice the time that the work takes: found spinning, never parked.
    let spin_then_park = WaitStrategy::SpinThenPark(2 * pause(plan));
    for (name, observer, baseline) in [
        ("completion to host return, park", Observer::Wait(WaitStrategy::Park), seed),
        ("completion to callback", Observer::Callback, seed),
        ("completion to awaiting task", Observer::Task, seed),
        ("completion to host return, spin then park", Observer::Wait(spin_then_park), flag),
        ("completion to host return, spin", Observer::Wait(WaitStrategy::Spin), flag),
    ] {
        let ours = group.variant(name, observed(bench, observer));
        group.row(name, ours, baseline, []);
        #[cfg(target_os = "linux")]
        if let Observer::Wait(WaitStrategy::Park) = observer {
            let limit = group.variant("a futex wake, to the return of who waits there", futex(plan));
            group.row(format!("{name}, beside its limit"), ours, limit, []);
        }
    }
    group
}

const OBSERVER_CORE: usize = 0;
const WORK_CORE: usize = 1;

/// Who waits.
#[derive(Clone, Copy, Debug)]
enum Observer {
    Wait(WaitStrategy),
    Callback,
    Task,
}

fn observations(plan: &Plan) -> usize {
    plan.pick(100, 4)
}

/// How long the work goes on after somebody waits for it: long enough for whoever parks to be asleep.
fn pause(plan: &Plan) -> Duration {
    plan.pick(Duration::from_micros(50), Duration::from_micros(20))
}

/// Pieces of work, each of which ends a fixed while after its observer has said that it will now wait. They stand in
/// for what a device would do, so the processor time they take is told apart.
#[derive(Debug)]
struct Script {
    origin: Instant,
    pause: Duration,
    /// Steps that may finish.
    awaited: AtomicU64,
    /// When each step's work ended, and when its observer knew, in nanoseconds since the origin.
    ended: Vec<AtomicU64>,
    known: Vec<AtomicU64>,
    /// Processor time that the work itself has taken, in nanoseconds.
    work: AtomicU64,
}

impl Script {
    fn new(plan: &Plan) -> Self {
        let times = || (0..observations(plan)).map(|_| AtomicU64::new(0)).collect();
        Self {
            origin: Instant::now(),
            pause: pause(plan),
            awaited: AtomicU64::new(0),
            ended: times(),
            known: times(),
            work: AtomicU64::new(0),
        }
    }

    fn steps(&self) -> std::ops::Range<usize> {
        0..self.ended.len()
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// The observer's word that it waits for `step` from now on.
    fn awaits(&self, step: usize) {
        self.awaited.store(step as u64 + 1, Ordering::Release);
    }

    /// The observer knows that `step` is complete.
    fn knows(&self, step: usize) {
        self.known[step].store(self.now(), Ordering::Relaxed);
    }

    /// The work of `step`, until its end.
    fn work(&self, step: usize) {
        let mut cpu = host::thread_cpu();
        let pinned = host::pin_to_core(WORK_CORE);
        let mut turns = 0_u32;
        while self.awaited.load(Ordering::Acquire) <= step as u64 {
            turns += 1;
            if turns.is_multiple_of(128) {
                std::thread::yield_now(); // the observer may need this core to come this far
            } else {
                std::hint::spin_loop();
            }
        }
        if step == 0 {
            cpu = host::thread_cpu(); // nobody counts the time before the first wait
        }
        let due = Instant::now() + self.pause;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        // It stays where it runs, but is the library's again.
        drop(pinned);
        if let (Some(before), Some(after)) = (cpu, host::thread_cpu()) {
            self.work.fetch_add((after - before).as_nanos() as u64, Ordering::Relaxed);
        }
        self.ended[step].store(self.now(), Ordering::Relaxed);
    }

    /// Runs `observe`, which takes the script through all steps, and adds how it went.
    fn play(&self, samples: &mut Samples, observe: impl FnOnce() -> Result<()>) -> Result<()> {
        let _pinned = host::pin_to_core(OBSERVER_CORE);
        let cpu = host::process_cpu();
        observe()?;
        if let (Some(before), Some(after)) = (cpu, host::process_cpu()) {
            let work = Duration::from_nanos(self.work.load(Ordering::Relaxed));
            let rest = (after - before).saturating_sub(work);
            samples.cpu_ns(rest.as_nanos() as f64 / self.ended.len() as f64);
        }
        for (ended, known) in self.ended.iter().zip(&self.known) {
            let (ended, known) = (ended.load(Ordering::Relaxed), known.load(Ordering::Relaxed));
            anyhow::ensure!(known >= ended, "seen to be complete {} ns before its end", ended - known);
            samples.ns((known - ended).max(1) as f64);
        }
        Ok(())
    }
}

fn observed<'a>(bench: &'a Bench, observer: Observer) -> Measure<'a> {
    Box::new(move |samples| {
        let script = Arc::new(Script::new(&bench.plan));
        let (events, gates) = queue(&bench.device, &script)?;
        std::thread::scope(|scope| {
            if !gates.is_empty() {
                let script = &script;
                scope.spawn(move || {
                    for (step, gate) in gates.into_iter().enumerate() {
                        script.work(step);
                        gate.complete();
                    }
                });
            }
            script.play(samples, || match observer {
                Observer::Wait(strategy) => wait(&script, &events, strategy),
                Observer::Callback => call_back(&bench.device, &script, &events),
                Observer::Task => futures_lite::future::block_on(await_each(&script, &events)),
            })
        })
    })
}

/// A stream with the whole script in its queue and an event after each step. Where a stream takes no closures, it
/// waits for a gate instead, and a thread does the work and opens it.
fn queue(device: &Device, script: &Arc<Script>) -> gpu_events::Result<(Vec<Event>, Vec<HostSignal>)> {
    let stream = device.create_stream()?;
    let closures = device.info().backend == "cpu";
    let mut gates = Vec::new();
    let events = script.steps().map(|step| {
        if closures {
            let script = Arc::clone(script);
            stream.cpu()?.enqueue(move || script.work(step))?;
        } else {
            let (gate, open) = device.host_event()?;
            stream.wait(&gate)?;
            gates.push(open);
        }
        stream.record()
    });
    let events = events.collect::<gpu_events::Result<_>>()?;
    Ok((events, gates))
}

fn wait(script: &Script, events: &[Event], strategy: WaitStrategy) -> Result<()> {
    let options = WaitOptions::new().strategy(strategy);
    for (step, event) in events.iter().enumerate() {
        script.awaits(step);
        let outcome = event.wait_with(&options)?;
        script.knows(step);
        anyhow::ensure!(outcome == gpu_events::WaitOutcome::Complete, "a wait without a limit timed out");
    }
    Ok(())
}

fn call_back(device: &Device, script: &Arc<Script>, events: &[Event]) -> Result<()> {
    let (done, finished) = mpsc::channel();
    // On an unrecorded event it runs at once: it binds the callback thread, and the last one lets it go.
    let (pinned, bound) = (Arc::new(Mutex::new(None)), done.clone());
    let own = Arc::clone(&pinned);
    device.pool().acquire().on_complete(move |result| {
        *own.lock().unwrap_or_else(PoisonError::into_inner) = host::pin_to_core(OBSERVER_CORE);
        // Here and below, nobody listens any more only if an earlier step has failed.
        let _ = bound.send(result);
    })?;
    finished.recv()??;
    for (step, event) in events.iter().enumerate() {
        let (script, done, pinned) = (Arc::clone(script), done.clone(), Arc::clone(&pinned));
        event.on_complete(move |result| {
            script.knows(step);
            script.awaits(step + 1);
            if result.is_err() || step + 1 == script.steps().end {
                drop(pinned.lock().unwrap_or_else(PoisonError::into_inner).take());
                let _ = done.send(result);
            }
        })?;
    }
    script.awaits(0);
    Ok(finished.recv()??)
}

async fn await_each(script: &Script, events: &[Event]) -> Result<()> {
    for (step, event) in events.iter().enumerate() {
        script.awaits(step);
        event.completion().await?;
        script.knows(step);
    }
    Ok(())
}

fn seed<'a>(plan: &'a Plan) -> Measure<'a> {
    let pool = SeedPool::default();
    Box::new(move |samples| {
        let script = Script::new(plan);
        let events: Vec<SeedHandle> = script.steps().map(|_| pool.acquire()).collect();
        events.iter().for_each(|handle| handle.event().record());
        let observe = |step: usize| events[step].event().synchronize();
        between_threads(samples, &script, |step| events[step].event().complete(), observe)
    })
}

#[cfg(target_os = "linux")]
fn futex<'a>(plan: &'a Plan) -> Measure<'a> {
    Box::new(move |samples| {
        let (script, steps) = (Script::new(plan), super::limits::futex::Steps::default());
        between_threads(samples, &script, |step| steps.complete(step), |step| steps.synchronize(step))
    })
}

fn spun_flag<'a>(plan: &'a Plan) -> Measure<'a> {
    Box::new(move |samples| {
        let script = Script::new(plan);
        let complete = AtomicU64::new(0);
        let observe = |step: usize| {
            while complete.load(Ordering::Acquire) <= step as u64 {
                std::hint::spin_loop();
            }
        };
        between_threads(samples, &script, |step| complete.store(step as u64 + 1, Ordering::Release), observe)
    })
}

/// The script with no library: a thread does the work and says so, and the calling thread waits.
fn between_threads(
    samples: &mut Samples,
    script: &Script,
    complete: impl Fn(usize) + Sync,
    observe: impl Fn(usize),
) -> Result<()> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for step in script.steps() {
                script.work(step);
                complete(step);
            }
        });
        script.play(samples, || {
            for step in script.steps() {
                script.awaits(step);
                observe(step);
                script.knows(step);
            }
            Ok(())
        })
    })
}
