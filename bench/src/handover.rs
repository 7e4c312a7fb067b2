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
        let threads = group.variant(threads, threads_in_turn(plan, work, Turns::default));
        let targets = bench.targets([Target::Ns(target), Target::TimesFaster(50.0)]);
        group.row(name, ours, threads, targets);
        #[cfg(feature = "peers")]
        for peers::Peer { name: peer, label, measure, equal } in
            peers::all(plan, work).into_iter().filter(|_| bench.peers)
        {
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

/// Two threads that take turns.
trait Relay: Sync {
    /// Waits for `turn`, does the work, and lets the other thread have the next one.
    fn take(&self, turn: u64, work: impl FnOnce());
}

impl Relay for Turns {
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

fn threads_in_turn<'a, R: Relay>(plan: &Plan, work: Work, make: impl Fn() -> R + 'a) -> Measure<'a> {
    let rounds = plan.pick(1_000, 20);
    Box::new(move |samples| {
        let (turns, counter, start) = (make(), Counter::default(), Barrier::new(2));
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
    use super::{Counter, Measure, Plan, Relay, Work, loaded_rounds, sample, threads_in_turn};
    use crate::host;
    use anyhow::Result;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
    use std::{mem, vec};
    use tokio::sync::{Notify, oneshot};

    pub(super) struct Peer<'a> {
        pub(super) name: &'static str,
        pub(super) label: &'static str,
        pub(super) measure: Measure<'a>,
        /// It does as much as a stream does: what is queued before waits for what is queued before.
        pub(super) equal: bool,
    }

    pub(super) fn all<'a>(plan: &Plan, work: Work) -> [Peer<'a>; 6] {
        let peer = |name, label, measure, equal| Peer { name, label, measure, equal };
        let tokio = "two tokio tasks, a oneshot channel for each event";
        let notify = "two tokio tasks, a Notify for each";
        let crossbeam = "two threads pinned to two cores, a crossbeam channel each way";
        let listener = "two threads pinned to two cores, event-listener each way";
        let rayon = "two strands of rayon jobs, a latch for each event";
        let chain = "a rayon job that spawns the next: nobody waits, and nothing is queued";
        [
            peer("tokio tasks", tokio, tokio_tasks(plan, work), true),
            peer("tokio's Notify", notify, tokio_notify(plan, work), false),
            peer("crossbeam", crossbeam, threads_in_turn(plan, work, Channels::new), false),
            peer("event-listener", listener, threads_in_turn(plan, work, Listeners::default), false),
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

    /// Two tasks that wake each other: what comes next isn't queued, and nobody else can wait for it.
    fn tokio_notify<'a>(plan: &Plan, work: Work) -> Measure<'a> {
        let rounds = loaded_rounds(plan);
        let mut runtime = None;
        Box::new(move |samples| {
            let runtime = once(&mut runtime, || {
                Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(host::cores()).build()?)
            })?;
            let (done, finished) = mpsc::channel();
            let counter = Counter::default();
            let turns = [Arc::new(Notify::new()), Arc::new(Notify::new())];
            for (own, other) in [(0, 1), (1, 0)] {
                let (own, other) = (turns[own].clone(), turns[other].clone());
                let (counter, done) = (counter.clone(), done.clone());
                runtime.spawn(async move {
                    for _ in 0..rounds {
                        own.notified().await;
                        counter.bump(work);
                        other.notify_one();
                    }
                    // Nobody listens any more only if measuring has failed already.
                    let _ = done.send(());
                });
            }
            sample(samples, rounds, || {
                turns[0].notify_one();
                finished.recv()?;
                Ok(finished.recv()?)
            })?;
            counter.check(work, rounds)
        })
    }

    /// A channel to each of two threads.
    struct Channels([(crossbeam_channel::Sender<()>, crossbeam_channel::Receiver<()>); 2]);

    impl Channels {
        fn new() -> Self {
            Self([(); 2].map(|()| crossbeam_channel::bounded(1)))
        }
    }

    impl Relay for Channels {
        fn take(&self, turn: u64, work: impl FnOnce()) {
            let player = turn as usize % 2;
            // The first turn is anybody's; and both ends are here, so neither call can fail.
            if turn > 0 {
                let _ = self.0[player].1.recv();
            }
            work();
            let _ = self.0[1 - player].0.send(());
        }
    }

    /// How many turns were taken, and news of each.
    #[derive(Default)]
    struct Listeners {
        taken: AtomicU64,
        news: [event_listener::Event; 2],
    }

    impl Relay for Listeners {
        fn take(&self, turn: u64, work: impl FnOnce()) {
            use event_listener::Listener as _;
            let player = turn as usize % 2;
            // Acquire: what the other did before its turn ended.
            while self.taken.load(Ordering::Acquire) != turn {
                let listener = self.news[player].listen();
                if self.taken.load(Ordering::Acquire) == turn {
                    break;
                }
                listener.wait();
            }
            work();
            // Release: as above.
            self.taken.store(turn + 1, Ordering::Release);
            self.news[1 - player].notify(1);
        }
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
