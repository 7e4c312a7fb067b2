//! One stream's completion lets another go on: two streams play ping-pong, all of it queued behind one gate.

use super::harness::{Group, Measure, Plan, Samples};
use super::report::Target;
use super::{Bench, host};
use anyhow::Result;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let plan = &bench.plan;
    let mut group = Group::new("Hand-over from stream to stream");
    // Only the CPU's streams take closures.
    let closures = bench.device.info().backend == "cpu";
    for work in [Work::None, Work::Closure].into_iter().take(if closures { 2 } else { 1 }) {
        let (name, target) = match work {
            Work::None => ("hand-over", 250.0),
            Work::Closure => ("hand-over with a closure", 300.0),
        };
        let ours = group.variant(name, streams(bench, work));
        let threads = "a mutex and a condition variable between two threads pinned to two cores";
        let threads = group.variant(threads, threads_in_turn(plan, work));
        let targets = bench.targets([Target::Ns(target), Target::TimesFaster(50.0)]);
        group.row(name, ours, threads, targets);
        #[cfg(feature = "peers")]
        for peers::Peer { name: peer, label, measure, equal } in peers::all(plan, work) {
            let peer_id = group.variant(label, measure);
            let targets = if equal { bench.targets([Target::TimesFaster(1.0)]) } else { Vec::new() };
            group.row(format!("{name} beside {peer}"), ours, peer_id, targets);
        }
    }
    group
}

/// What is done between two hand-overs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    None,
    Closure,
}

/// The tiny closure's work: enough for the compiler to leave it alone, and to check that it ran.
#[derive(Clone, Debug, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn bump(&self, work: Work) {
        if work == Work::Closure {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is queued before a completion, boxed as a stream's closures are.
    #[cfg(feature = "peers")]
    fn closure(&self, work: Work) -> Option<Box<dyn FnOnce() + Send>> {
        let counter = self.clone();
        (work == Work::Closure).then(|| Box::new(move || counter.bump(work)) as _)
    }

    fn check(&self, work: Work, rounds: u64) -> Result<()> {
        let (ran, expected) =
            (self.0.load(Ordering::Relaxed), if work == Work::Closure { 2 * rounds } else { 0 });
        anyhow::ensure!(ran == expected, "{ran} closures ran, not {expected}");
        Ok(())
    }
}

/// Times `play`, which hands over twice in each of `rounds` rounds.
fn sample(samples: &mut Samples, rounds: u64, play: impl FnOnce() -> Result<()>) -> Result<()> {
    let (cpu, start) = (host::process_cpu(), Instant::now());
    play()?;
    samples.batch(start.elapsed(), 2 * rounds);
    if let (Some(before), Some(after)) = (cpu, host::process_cpu()) {
        samples.cpu_ns((after - before).as_nanos() as f64 / (2 * rounds) as f64);
    }
    Ok(())
}

/// Enough hand-overs for the one wake-up at their end not to count.
fn loaded_rounds(plan: &Plan) -> u64 {
    plan.pick(20_000, 100)
}

fn streams<'a>(bench: &'a Bench, work: Work) -> Measure<'a> {
    let rounds = loaded_rounds(&bench.plan);
    Box::new(move |samples| {
        let counter = Counter::default();
        let enqueue = |stream: &gpu_events::Stream| match work {
            Work::None => Ok(()),
            Work::Closure => {
                let counter = counter.clone();
                stream.cpu()?.enqueue(move || counter.bump(work))
            }
        };
        let (ping, pong) = (bench.device.create_stream()?, bench.device.create_stream()?);
        let (gate, open) = bench.device.host_event()?;
        ping.wait(&gate)?;
        pong.wait(&gate)?;
        for _ in 0..rounds {
            enqueue(&ping)?;
            pong.wait(&ping.record()?)?;
            enqueue(&pong)?;
            ping.wait(&pong.record()?)?;
        }
        let last = ping.record()?;
        sample(samples, rounds, || {
            open.complete();
            Ok(last.synchronize()?)
        })?;
        counter.check(work, rounds)
    })
}

/// Whose turn it is, for two threads.
#[derive(Debug, Default)]
struct Turns {
    taken: Mutex<u64>,
    next: Condvar,
}

impl Turns {
    /// Waits for `turn` and takes it.
    fn take(&self, turn: u64, work: impl FnOnce()) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken != turn {
            taken = self.next.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        work();
        *taken += 1;
        drop(taken);
        self.next.notify_one();
    }
}

fn threads_in_turn<'a>(plan: &Plan, work: Work) -> Measure<'a> {
    let rounds = plan.pick(1_000, 20);
    Box::new(move |samples| {
        let (turns, counter, start) = (Turns::default(), Counter::default(), Barrier::new(2));
        let play = |player: u64| {
            // Where it can't be pinned, the kernel's choice is the baseline.
            let _pinned = host::pin_to_core(player as usize);
            start.wait();
            let (begun, cpu) = (Instant::now(), host::thread_cpu());
            for round in 0..rounds {
                turns.take(2 * round + player, || counter.bump(work));
            }
            (begun, Instant::now(), cpu.zip(host::thread_cpu()).map(|(before, after)| after - before))
        };
        let players = std::thread::scope(|scope| {
            let players = [0, 1].map(|player| scope.spawn(move || play(player)));
            players.map(|player| player.join().expect("players don't panic"))
        });
        let [ping, pong] = players;
        samples.batch(ping.1.max(pong.1) - ping.0.min(pong.0), 2 * rounds);
        if let Some(cpu) = ping.2.zip(pong.2).map(|(ping, pong)| ping + pong) {
            samples.cpu_ns(per_hand_over(cpu, rounds));
        }
        counter.check(work, rounds)
    })
}

fn per_hand_over(took: Duration, rounds: u64) -> f64 {
    took.as_nanos() as f64 / (2 * rounds) as f64
}

/// The same game in what people would use instead.
#[cfg(feature = "peers")]
mod peers {
    use super::{Counter, Measure, Plan, Work, loaded_rounds, sample};
    use crate::host;
    use anyhow::Result;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
    use std::{mem, vec};
    use tokio::sync::oneshot;

    pub(super) struct Peer<'a> {
        pub(super) name: &'static str,
        pub(super) label: &'static str,
        pub(super) measure: Measure<'a>,
        /// It does as much as a stream does: what is queued before waits for what is queued before.
        pub(super) equal: bool,
    }

    pub(super) fn all<'a>(plan: &Plan, work: Work) -> [Peer<'a>; 3] {
        let peer = |name, label, measure, equal| Peer { name, label, measure, equal };
        let tokio = "two tokio tasks, a oneshot channel for each event";
        let rayon = "two strands of rayon jobs, a latch for each event";
        let chain = "a rayon job that spawns the next: nobody waits, and nothing is queued";
        [
            peer("tokio tasks", tokio, tokio_tasks(plan, work), true),
            peer("rayon", rayon, rayon_jobs(plan, work), true),
            peer("a rayon chain", chain, rayon_chain(plan, work), false),
        ]
    }

    /// Makes what a variant needs once, when it is first measured.
    fn once<T>(slot: &mut Option<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        Ok(match slot {
            Some(made) => made,
            none => none.insert(make()?),
        })
    }

    /// Two tasks on a runtime with as many workers as there are cores. Each hand-over has a channel of its own that
    /// was made before the game, as an event is recorded before it completes.
    fn tokio_tasks<'a>(plan: &Plan, work: Work) -> Measure<'a> {
        let rounds = loaded_rounds(plan);
        let mut runtime = None;
        Box::new(move |samples| {
            let runtime = once(&mut runtime, || {
                Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(host::cores()).build()?)
            })?;
            let (open, gate) = oneshot::channel();
            let (done, finished) = mpsc::channel();
            let counter = Counter::default();
            let (mut pings, mut pongs) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let (to_pong, from_ping) = oneshot::channel();
                let (to_ping, from_pong) = oneshot::channel();
                pings.push((counter.closure(work), to_pong, from_pong));
                pongs.push((from_ping, counter.closure(work), to_ping));
            }
            // A side that is gone early has panicked, which the count of closures or the wait below brings out.
            runtime.spawn(async move {
                let _ = gate.await;
                for (closure, to_pong, from_pong) in pings {
                    closure.into_iter().for_each(|closure| closure());
                    let _ = to_pong.send(());
                    let _ = from_pong.await;
                }
                let _ = done.send(());
            });
            runtime.spawn(async move {
                for (from_ping, closure, to_ping) in pongs {
                    let _ = from_ping.await;
                    closure.into_iter().for_each(|closure| closure());
                    let _ = to_ping.send(());
                }
            });
            sample(samples, rounds, || {
                let _ = open.send(());
                Ok(finished.recv()?)
            })?;
            counter.check(work, rounds)
        })
    }

    /// Completes once, for one player who may wait for it. Rayon itself has nothing to wait for.
    #[derive(Default)]
    struct Latch(Mutex<State>);

    #[derive(Default)]
    enum State {
        #[default]
        Pending,
        Awaited(Player),
        Complete,
    }

    impl Latch {
        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Gives the player back if there is nothing to wait for.
        fn park(&self, player: Player) -> Option<Player> {
            let mut state = self.state();
            if let State::Complete = *state {
                return Some(player);
            }
            *state = State::Awaited(player);
            None
        }

        /// The player who waited for it.
        fn complete(&self) -> Option<Player> {
            match mem::replace(&mut *self.state(), State::Complete) {
                State::Awaited(player) => Some(player),
                State::Pending | State::Complete => None,
            }
        }
    }

    /// What a side has in its queue.
    enum Step {
        Wait(Arc<Latch>),
        Work(Box<dyn FnOnce() + Send>),
        Complete(Arc<Latch>),
    }

    /// A side, on its way through its queue.
    struct Player {
        steps: vec::IntoIter<Step>,
        done: mpsc::Sender<()>,
    }

    impl Player {
        /// Goes on until it has to wait.
        fn go_on(mut self) {
            while let Some(step) = self.steps.next() {
                match step {
                    Step::Wait(latch) => match latch.park(self) {
                        Some(player) => self = player,
                        None => return,
                    },
                    Step::Work(closure) => closure(),
                    Step::Complete(latch) => {
                        if let Some(waiting) = latch.complete() {
                            rayon::spawn(move || waiting.go_on());
                        }
                    }
                }
            }
            // Nobody listens any more only if measuring has failed already.
            let _ = self.done.send(());
        }
    }

    /// Two strands of jobs on a pool with as many threads as there are cores.
    fn rayon_jobs<'a>(plan: &Plan, work: Work) -> Measure<'a> {
        let rounds = loaded_rounds(plan);
        let mut pool = None;
        Box::new(move |samples| {
            let pool = once(&mut pool, || {
                Ok(rayon::ThreadPoolBuilder::new().num_threads(host::cores()).build()?)
            })?;
            let counter = Counter::default();
            let (mut pings, mut pongs) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let [ping, pong] = [(); 2].map(|()| Arc::new(Latch::default()));
                pings.extend(counter.closure(work).map(Step::Work));
                pings.extend([Step::Complete(ping.clone()), Step::Wait(pong.clone())]);
                pongs.push(Step::Wait(ping));
                pongs.extend(counter.closure(work).map(Step::Work));
                pongs.push(Step::Complete(pong));
            }
            let (done, finished) = mpsc::channel();
            let player = |steps: Vec<Step>| Player { steps: steps.into_iter(), done: done.clone() };
            let (ping, pong) = (player(pings), player(pongs));
            pool.install(|| pong.go_on()); // as far as its first wait
            sample(samples, rounds, || {
                pool.spawn(move || ping.go_on());
                finished.recv()?;
                Ok(finished.recv()?)
            })?;
            counter.check(work, rounds)
        })
    }

    /// The least that a pool of threads can do.
    fn rayon_chain<'a>(plan: &Plan, work: Work) -> Measure<'a> {
        let rounds = loaded_rounds(plan);
        let mut pool = None;
        Box::new(move |samples| {
            let pool = once(&mut pool, || {
                Ok(rayon::ThreadPoolBuilder::new().num_threads(host::cores()).build()?)
            })?;
            let (done, finished) = mpsc::channel();
            let counter = Counter::default();
            let counts = counter.clone();
            sample(samples, rounds, || {
                pool.spawn(move || link(2 * rounds, counts, work, done));
                Ok(finished.recv()?)
            })?;
            counter.check(work, rounds)
        })
    }

    fn link(left: u64, counter: Counter, work: Work, done: mpsc::Sender<()>) {
        if left == 0 {
            let _ = done.send(());
            return;
        }
        counter.bump(work);
        rayon::spawn(move || link(left - 1, counter, work, done));
    }
}
