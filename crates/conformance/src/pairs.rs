//! Devices of different kinds beside each other: what is promised between two streams, asked of every two devices.
//!
//! The suite asks this of each device and one other. Here each device of a list is the *source* for each one, itself and a
//! second opening of itself included, which is the *waiter*: either may be the one that waits natively, gates, or tells.

use crate::{
    Cells, Context, Stop, Subject, Task, Verdict,
    context::send,
    runner::panic_text,
    verdict::{ensure, equal},
};
use gpu_events::{
    Device, Error, ErrorKind, Event, HostSignal, Result, Status, Stream, StreamOptions, WaitOutcome,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

/// How long a check may take. A wait within it is bounded by a quarter of this.
const LIMIT: Duration = Duration::from_secs(120);

/// How often a chain changes its device.
const HAND_OVERS: usize = 100;

/// A device to pair with others.
#[derive(Clone, Debug)]
pub struct Peer {
    name: String,
    subject: Arc<dyn Subject>,
}

impl Peer {
    /// This subject's device. The name goes into those of the checks.
    pub fn new(name: impl Into<String>, subject: impl Subject + 'static) -> Self {
        Self { name: name.into(), subject: Arc::new(subject) }
    }

    /// The device that is opened by this name, with no work but waits and recordings.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::new(name.clone(), Named(name))
    }
}

/// A device and nothing else.
#[derive(Debug)]
struct Named(String);

impl Subject for Named {
    fn name(&self) -> String {
        self.0.clone()
    }

    fn open(&self) -> Verdict<Device> {
        Ok(Device::open(&self.0)?)
    }

    fn cells(&self, _device: &Device, _count: usize) -> Verdict<Arc<dyn Cells>> {
        Err(Stop::skip("no work is known for it"))
    }
}

/// A check of one pair, to be run as a test of its own.
#[expect(missing_debug_implementations, reason = "a function has nothing to show")]
pub struct PairCheck {
    name: String,
    run: Box<dyn FnOnce() -> Verdict + Send>,
}

impl PairCheck {
    fn new(name: String, run: impl FnOnce() -> Verdict + Send + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }

    /// Pair and check, as in `cpu_to_vulkan::order`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs it, on a thread of its own. What it says names it.
    pub fn run(self) -> Verdict {
        let Self { name, run } = self;
        let (tell, verdict) = mpsc::channel();
        let body = move || {
            let verdict = catch_unwind(AssertUnwindSafe(run))
                .unwrap_or_else(|payload| Err(Stop::Fail(format!("panicked: {}", panic_text(&*payload)))));
            // Nobody listens any more once the time is up.
            send(&tell, verdict);
        };
        let verdict = match thread::Builder::new().name(name.clone()).spawn(body) {
            Err(error) => Err(Stop::Fail(format!("no thread: {error}"))),
            Ok(thread) => match verdict.recv_timeout(LIMIT) {
                Err(_) => Err(Stop::Fail(format!("did not finish in {LIMIT:?}"))),
                Ok(verdict) => {
                    // It holds idle events until it is gone, and the next check is to find none of them.
                    let _ = thread.join();
                    verdict
                }
            },
        };
        verdict.map_err(|stop| match stop {
            Stop::Fail(reason) => Stop::Fail(format!("{name}: {reason}")),
            skip => skip,
        })
    }
}

/// Which devices the two streams are on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meeting {
    /// One opened device.
    Itself,
    /// Two openings of one device.
    Again,
    /// Devices of two kinds.
    Other,
}

type Check = (&'static str, fn(Pair) -> Verdict);

const CHECKS: &[Check] = &[
    ("order", order),
    ("chain", chain),
    ("no_later_position", no_later_position),
    ("failed_signal", failed_signal),
    ("failed_work", failed_work),
    ("later_wait_fails_first", later_wait_fails_first),
    ("both_waits_fail", both_waits_fail),
    ("lost_source", lost_source),
    ("closed_source", closed_source),
    ("closed_waiter", closed_waiter),
    ("dropped_source", dropped_source),
];

/// Every check of every two of these devices, both ways, and of all of them at once.
pub fn pair_checks(peers: &[Peer]) -> Vec<PairCheck> {
    let mut checks = Vec::new();
    for source in peers {
        for waiter in peers {
            if source.name == waiter.name {
                add(&mut checks, "itself", source, waiter, Meeting::Itself);
                add(&mut checks, "a_second_opening", source, waiter, Meeting::Again);
            } else {
                add(&mut checks, &waiter.name, source, waiter, Meeting::Other);
            }
        }
    }
    for (name, fails) in [("order", false), ("failure", true)] {
        // With several gates of one stream that fail, the simulated device gives up more than it has to, and says nothing of
        // what it did before.
        let can = |peer: &&Peer| !fails || peer.name != "simulated";
        let peers: Vec<_> = peers.iter().filter(can).cloned().collect();
        checks.push(PairCheck::new(format!("all::{name}"), move || crowd(&peers, fails)));
    }
    checks
}

fn add(checks: &mut Vec<PairCheck>, to: &str, source: &Peer, waiter: &Peer, meeting: Meeting) {
    for &(check, run) in CHECKS {
        let (source, waiter) = (source.clone(), waiter.clone());
        checks.push(PairCheck::new(format!("{}_to_{to}::{check}", source.name), move || {
            run(Pair::open(&source, &waiter, meeting)?)
        }));
    }
}

/// One of the two devices.
struct Side {
    subject: Arc<dyn Subject>,
    device: Device,
}

impl Side {
    fn open(peer: &Peer) -> Verdict<Self> {
        Ok(Self { subject: peer.subject.clone(), device: peer.subject.open()? })
    }

    fn stream(&self, label: &str) -> Result<Stream> {
        self.device.create_stream_with(&StreamOptions::new().label(label))
    }

    /// Memory to see effects in, where there is work that has any.
    fn cells(&self, count: usize) -> Verdict<Option<Arc<dyn Cells>>> {
        match self.subject.cells(&self.device, count) {
            Ok(cells) => Ok(Some(cells)),
            Err(Stop::Skip(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Checks that the device does what new streams of it are given.
    fn goes_on(&self, cx: &Context) -> Verdict {
        let stream = self.stream("later")?;
        let hold = cx.hold(&stream)?;
        let event = stream.record()?;
        cx.pending(&event)?;
        hold.release();
        cx.settle(&event)
    }
}

/// Two devices, and one that takes no part but keeps gates: those outlive what is closed or dropped.
struct Pair {
    cx: Context,
    source: Side,
    waiter: Side,
    keeper: Device,
    meeting: Meeting,
}

impl Pair {
    fn open(source: &Peer, waiter: &Peer, meeting: Meeting) -> Verdict<Self> {
        let cx = Context::new(source.subject.clone(), LIMIT);
        let source = Side::open(source)?;
        let waiter = match meeting {
            Meeting::Itself => Side { subject: source.subject.clone(), device: source.device.clone() },
            Meeting::Again | Meeting::Other => Side::open(waiter)?,
        };
        let different = source.device.id() != waiter.device.id();
        equal("whether the devices have ids of their own", different, meeting != Meeting::Itself)?;
        Ok(Self { cx, source, waiter, keeper: Device::open("cpu")?, meeting })
    }

    /// Holds the stream back with a signal that is of neither device.
    #[track_caller]
    fn hold(&self, stream: &Stream) -> Verdict<HostSignal> {
        let (gate, signal) = self.keeper.host_event_labeled("gate")?;
        ensure(stream.wait(&gate)?.inserted(), "waiting for a host signal inserted nothing")?;
        Ok(signal)
    }

    /// A held recording of the source, one that waits for it, and what lets the first go.
    fn waiting(&self) -> Verdict<(Waiting, HostSignal)> {
        let (from, to) = (self.source.stream("source")?, self.waiter.stream("waiter")?);
        let gate = self.hold(&from)?;
        Ok((Waiting::new(&self.cx, from, to)?, gate))
    }
}

/// A stream that waits for another, one that waits for it in turn, and who watches.
struct Waiting {
    from: Stream,
    to: Stream,
    /// What the source was to reach.
    event: Event,
    /// Recorded by the waiter before its wait: not concerned.
    before: Event,
    /// Recorded by the waiter behind its wait.
    after: Arc<Event>,
    told: Receiver<Result<()>>,
    thread: Task<Result<WaitOutcome>>,
}

impl Waiting {
    fn new(cx: &Context, from: Stream, to: Stream) -> Verdict<Self> {
        let event = from.record()?;
        let before = to.record()?;
        cx.settle(&before)?;
        hand_over(&event, &to)?;
        let after = Arc::new(to.record()?);
        let (_, told) = cx.listen(&after)?;
        let (awaited, patience) = (after.clone(), cx.patience());
        let thread = cx.spawn(move || awaited.wait_timeout(patience))?;
        cx.until("a thread that blocks, in the stall report", || {
            let report = to.device().stall_report();
            let waiter = report.stalled().iter().find(|stalled| stalled.id == to.id());
            waiter.is_some_and(|waiter| waiter.observers.iter().any(|(_, who, _)| who.contains("thread")))
        })?;
        cx.pending(&after)?;
        Ok(Self { from, to, event, before, after, told, thread })
    }

    /// Checks that all who watch the waiter are told of this failure, and that what was complete stays so.
    #[track_caller]
    fn fails(&self, cx: &Context, kind: ErrorKind) -> Verdict<Error> {
        let error = cx.failure(&self.after)?;
        equal("the kind of the waiter's failure", error.kind(), kind)?;
        let told = cx.hear("the callback", &self.told)?;
        equal("what the callback was told", told.map_err(|error| error.kind()), Err(kind))?;
        equal("status of what came before the wait", self.before.status(), Status::Complete)?;
        Ok(error)
    }

    #[track_caller]
    fn thread_is_told(self, kind: ErrorKind) -> Verdict {
        equal("what the thread was told", self.thread.finish()?.map_err(|error| error.kind()), Err(kind))
    }
}

/// Has the stream wait for an event that is held back.
#[track_caller]
fn hand_over(event: &Event, to: &Stream) -> Verdict {
    ensure(to.wait(event)?.inserted(), "waiting for a held event inserted nothing")
}

#[track_caller]
fn names(error: &Error, culprit: &str) -> Verdict {
    ensure(
        error.to_string().contains(culprit),
        format_args!("the error does not name the {culprit}: {error}"),
    )
}

fn order(pair: Pair) -> Verdict {
    let cx = &pair.cx;
    let (from, to) = (pair.source.stream("source")?, pair.waiter.stream("waiter")?);
    let cells = pair.source.cells(1)?;
    let gate = pair.hold(&from)?;
    if let Some(cells) = &cells {
        cells.write(&from, 0, 7)?;
    }
    let event = from.record()?;
    hand_over(&event, &to)?;
    let after = to.record()?;
    cx.stays_pending(&after)?;
    cx.pending(&event)?;
    gate.complete();
    cx.settle(&after)?;
    equal("status of what was waited for", event.status(), Status::Complete)?;
    // Who sees the waiter's completion sees what came before it on the source (R8).
    if let Some(cells) = &cells {
        equal("the source's memory", cells.read(0), 7)?;
    }
    Ok(())
}

fn chain(pair: Pair) -> Verdict {
    let cx = &pair.cx;
    let sides = [&pair.source, &pair.waiter];
    let streams = [pair.source.stream("source")?, pair.waiter.stream("waiter")?];
    let cells = [pair.source.cells(HAND_OVERS)?, pair.waiter.cells(HAND_OVERS)?];
    let gate = pair.hold(&streams[0])?;
    let mut events = vec![streams[0].record()?];
    for hop in 0..HAND_OVERS {
        let side = (hop + 1) % sides.len();
        hand_over(&events[hop], &streams[side])?;
        if let Some(cells) = &cells[side] {
            cells.write(&streams[side], hop, 1 + hop as u32)?;
        }
        events.push(streams[side].record()?);
    }
    for event in &events {
        cx.pending(event)?;
    }
    gate.complete();
    // The last one first: it implies the others.
    while let Some(event) = events.pop() {
        cx.settle(&event)?;
        for event in &events {
            equal("status of an earlier hand-over", event.status(), Status::Complete)?;
        }
    }
    for hop in 0..HAND_OVERS {
        if let Some(cells) = &cells[(hop + 1) % sides.len()] {
            equal("what a hand-over left in memory", cells.read(hop), 1 + hop as u32)?;
        }
    }
    Ok(())
}

fn no_later_position(pair: Pair) -> Verdict {
    let cx = &pair.cx;
    let from = pair.source.stream("source")?;
    let (to, later) = (pair.waiter.stream("waiter")?, pair.waiter.stream("later")?);
    let gate = pair.hold(&from)?;
    let first = from.record()?;
    let next_gate = pair.hold(&from)?;
    let second = from.record()?;
    hand_over(&first, &to)?;
    let after_first = to.record()?;
    hand_over(&second, &later)?;
    let after_second = later.record()?;
    cx.stays_pending(&after_first)?;
    gate.complete();
    cx.settle(&after_first)?;
    cx.stays_pending(&after_second)?;
    cx.pending(&second)?;
    next_gate.complete();
    cx.settle(&after_second)
}

fn failed_signal(pair: Pair) -> Verdict {
    let (waiting, gate) = pair.waiting()?;
    fails_on(&pair, waiting, "host signal \"gate\"", || gate.fail("failed on demand"))
}

fn failed_work(pair: Pair) -> Verdict {
    let (from, to) = (pair.source.stream("source")?, pair.waiter.stream("waiter")?);
    let gate = pair.hold(&from)?;
    pair.source.subject.fail(&from)?;
    let waiting = Waiting::new(&pair.cx, from, to)?;
    fails_on(&pair, waiting, "stream \"source\"", || gate.complete())
}

/// The source fails, and with it the waiter and those that wait for that one, on both devices.
fn fails_on(pair: &Pair, waiting: Waiting, culprit: &str, fail: impl FnOnce()) -> Verdict {
    let cx = &pair.cx;
    let mut beyond = Vec::new();
    for side in [&pair.source, &pair.waiter] {
        let stream = side.stream("beyond")?;
        hand_over(&waiting.after, &stream)?;
        let event = stream.record()?;
        beyond.push((stream, event));
    }
    fail();
    let error = waiting.fails(cx, ErrorKind::WorkFailed)?;
    names(&error, culprit)?;
    names(&error, "failed on demand")?;
    equal("the source's kind", cx.failure(&waiting.event)?.kind(), ErrorKind::WorkFailed)?;
    for (stream, event) in &beyond {
        let error = cx.failure(event)?;
        equal("the kind of a failure that came on", error.kind(), ErrorKind::WorkFailed)?;
        names(&error, culprit)?;
        equal("a stream's failure", stream.error().map(|error| error.kind()), Some(ErrorKind::WorkFailed))?;
    }
    waiting.thread_is_told(ErrorKind::WorkFailed)?;
    pair.source.goes_on(cx)?;
    pair.waiter.goes_on(cx)
}

/// A stream that waits for the source and, behind that, for a signal, which fails first. Returns what was recorded in between, and last.
fn fails_behind(pair: &Pair) -> Verdict<(HostSignal, [Event; 2], Receiver<Result<()>>)> {
    let cx = &pair.cx;
    let (from, to) = (pair.source.stream("source")?, pair.waiter.stream("waiter")?);
    let gate = pair.hold(&from)?;
    hand_over(&from.record()?, &to)?;
    let between = to.record()?;
    let (_, told) = cx.listen(&between)?;
    let later_gate = pair.hold(&to)?;
    let after = to.record()?;
    cx.pending(&after)?;
    later_gate.fail("failed on demand");
    // Whether the last one fails at once, or when its stream has come that far, is the backend's choice.
    cx.stays_pending(&between)?;
    Ok((gate, [between, after], told))
}

fn later_wait_fails_first(pair: Pair) -> Verdict {
    let (gate, [between, after], told) = fails_behind(&pair)?;
    gate.complete();
    // Told before anybody asks, which could be what brings it about.
    pair.cx.hear("the callback", &told)??;
    pair.cx.settle(&between)?;
    equal("the kind of the failure", pair.cx.failure(&after)?.kind(), ErrorKind::WorkFailed)
}

fn both_waits_fail(pair: Pair) -> Verdict {
    let (gate, [between, after], told) = fails_behind(&pair)?;
    gate.fail("failed on demand");
    let told = pair.cx.hear("the callback", &told)?;
    equal("what the callback was told", told.map_err(|error| error.kind()), Err(ErrorKind::WorkFailed))?;
    for event in [between, after] {
        equal("the kind of the failure", pair.cx.failure(&event)?.kind(), ErrorKind::WorkFailed)?;
    }
    Ok(())
}

fn lost_source(pair: Pair) -> Verdict {
    let cx = &pair.cx;
    let both_cuda = [&pair.source, &pair.waiter].iter().all(|side| side.device.info().backend == "cuda");
    if both_cuda && pair.meeting == Meeting::Other {
        // No driver says of a wait between GPUs whether a fault lets it go before anybody can be told; the fake one does.
        return Err(Stop::skip("a wait in CUDA's driver may end with the fault, before that is known"));
    }
    let (waiting, _gate) = pair.waiting()?;
    pair.source.subject.lose(&pair.source.device)?;
    let error = waiting.fails(cx, ErrorKind::DeviceLost)?;
    if pair.meeting == Meeting::Other {
        names(&error, "stream \"source\"")?;
        pair.waiter.goes_on(cx)?;
    }
    waiting.thread_is_told(ErrorKind::DeviceLost)
}

fn closed_source(pair: Pair) -> Verdict {
    let cx = &pair.cx;
    let (waiting, gate) = pair.waiting()?;
    let bystander = match pair.meeting {
        Meeting::Itself => None,
        Meeting::Again | Meeting::Other => {
            let stream = pair.waiter.stream("bystander")?;
            let hold = pair.hold(&stream)?;
            Some((hold, stream.record()?))
        }
    };
    pair.source.device.close();
    let error = waiting.fails(cx, ErrorKind::Closed)?;
    if let Some((hold, event)) = bystander {
        names(&error, "stream \"source\"")?;
        cx.pending(&event)?;
        hold.complete();
        cx.settle(&event)?;
        pair.waiter.goes_on(cx)?;
    }
    // Too late to change anything.
    gate.complete();
    equal("status once the gate is open", waiting.after.status(), Status::Failed)?;
    waiting.thread_is_told(ErrorKind::Closed)
}

fn closed_waiter(pair: Pair) -> Verdict {
    if pair.meeting == Meeting::Itself {
        return Err(Stop::skip("that is closing the source"));
    }
    let cx = &pair.cx;
    let (waiting, gate) = pair.waiting()?;
    pair.waiter.device.close();
    waiting.fails(cx, ErrorKind::Closed)?;
    cx.stays_pending(&waiting.event)?;
    gate.complete();
    cx.settle(&waiting.event)?;
    let last = waiting.from.record()?;
    cx.settle(&last)?;
    pair.source.goes_on(cx)?;
    waiting.thread_is_told(ErrorKind::Closed)
}

fn dropped_source(pair: Pair) -> Verdict {
    let (waiting, gate) = pair.waiting()?;
    let Pair { cx, source, waiter, .. } = pair;
    let Waiting { from, to, event, after, told, thread, .. } = waiting;
    drop((from, event, source));
    cx.stays_pending(&after)?;
    gate.complete();
    cx.settle(&after)?;
    cx.hear("the callback", &told)??;
    equal("what the thread was told", thread.finish()??, WaitOutcome::Complete)?;
    cx.settle(&to.record()?)?;
    waiter.goes_on(&cx)
}

/// Threads, and how many hand-overs each of them makes in a round.
const THREADS: usize = 3;
const STEPS: usize = 24;
const ROUNDS: u64 = 8;

/// Streams of every device, and what was recorded on them last.
struct Crowd {
    cx: Context,
    keeper: Device,
    streams: Vec<Mutex<Member>>,
}

struct Member {
    stream: Stream,
    last: Option<Step>,
    /// Behind something that fails, or will.
    doomed: bool,
}

/// A recording, and whether the model says that it fails.
#[derive(Clone)]
struct Step {
    event: Arc<Event>,
    doomed: bool,
}

/// A sequence of numbers that look random, the same ones for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

impl Crowd {
    fn member(&self, index: usize) -> MutexGuard<'_, Member> {
        self.streams[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over from one stream to another at random, now and then behind a gate of the thread's own, and checks what
    /// each recording comes to as soon as its callback is told. What it waits for must be over by then, and never fail
    /// unless it has to.
    fn run(&self, seed: u64, fails: bool) -> Verdict {
        let mut random = Random(seed);
        let mut gates = Vec::new();
        let mut heard = Vec::new();
        for _ in 0..STEPS {
            let (from, to) = (random.below(self.streams.len()), random.below(self.streams.len()));
            // Not under the other's lock: two threads that hand over both ways would wait for each other.
            let source = self.member(from).last.clone();
            let mut member = self.member(to);
            let mut awaited = Vec::new();
            if random.below(3) == 0 {
                let (gate, signal) = self.keeper.host_event_labeled("gate")?;
                member.stream.wait(&gate)?;
                let doomed = fails && random.below(8) == 0;
                member.doomed |= doomed;
                gates.push((signal, doomed));
                awaited.push(Step { event: Arc::new(gate), doomed });
            }
            if let Some(source) = source {
                member.stream.wait(&source.event)?;
                member.doomed |= source.doomed;
                awaited.push(source);
            }
            awaited.extend(member.last.clone());
            let step = Step { event: Arc::new(member.stream.record()?), doomed: member.doomed };
            let (tell, told) = mpsc::channel();
            step.event.on_complete(move |outcome| {
                let early = awaited.iter().filter(|step| !step.doomed);
                let early = early.filter(|step| step.event.status() != Status::Complete).count();
                send(&tell, (outcome, early));
            })?;
            member.last = Some(step.clone());
            drop(member);
            heard.push((step, told));
            // Opened out of order, and never all of them at once.
            if gates.len() > 2 {
                open(gates.swap_remove(random.below(gates.len())));
            }
        }
        // Nobody waits while there is a gate that only he would open.
        gates.into_iter().for_each(open);
        for (step, told) in &heard {
            let (outcome, early) = self.cx.hear("a callback among all devices", told)?;
            match outcome {
                Ok(()) => {
                    ensure(!step.doomed, "it completed behind something that failed")?;
                    equal("what it waited for and went ahead of", early, 0)?;
                    self.cx.settle(&step.event)?;
                }
                Err(error) => {
                    ensure(step.doomed, format_args!("it failed behind nothing that did: {error}"))?;
                    equal("the kind of a failure", error.kind(), ErrorKind::WorkFailed)?;
                    self.cx.failure(&step.event)?;
                }
            }
        }
        Ok(())
    }
}

fn open((signal, doomed): (HostSignal, bool)) {
    if doomed { signal.fail("failed on demand") } else { signal.complete() }
}

/// Two streams of each device, and threads that hand over among them.
fn crowd(peers: &[Peer], fails: bool) -> Verdict {
    let first = peers.first().ok_or_else(|| Stop::skip("there are no devices"))?;
    // The threads' own waits end first, and say what for.
    let outer = Context::new(first.subject.clone(), LIMIT);
    for round in 0..ROUNDS {
        let mut streams = Vec::new();
        for peer in peers {
            let side = Side::open(peer)?;
            for _ in 0..2 {
                let stream = side.stream(&peer.name)?;
                streams.push(Mutex::new(Member { stream, last: None, doomed: false }));
            }
        }
        let cx = Context::new(first.subject.clone(), LIMIT / 2);
        let crowd = Arc::new(Crowd { cx, keeper: Device::open("cpu")?, streams });
        let mut threads = Vec::new();
        for thread in 0..THREADS as u64 {
            let (crowd_of_it, seed) = (crowd.clone(), 1 + round * THREADS as u64 + thread);
            threads.push(outer.spawn(move || crowd_of_it.run(seed, fails))?);
        }
        for thread in threads {
            thread.finish()??;
        }
    }
    Ok(())
}
