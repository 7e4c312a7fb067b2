//! The simulated GPU: one scheduler, and a few engines that run commands.
//!
//! The scheduler is a thread that owns all of its state and is told things through a mailbox. It begins command
//! buffers in the order in which their queue got them, hands those that can run to the engines, a few commands at a
//! time and in random order, and keeps the time: waits that last too long, completions and blocks that come late.
//!
//! A command buffer that waits for an event is parked with it and costs no thread.

use super::command_buffer::{CommandBuffer, Commit, End};
use super::device::Device;
use super::event::Parked;
use super::now_seconds;
use super::program::{self, Op, Program};
use crate::activity::Busy;
use crate::control::{Chance, Knobs, Settings, Stage, settings};
use crate::dispatch::{self, Job, Queue};
use crate::mailbox::Mailbox;
use crate::random::{self, Random};
use objc2::DefinedClass;
use objc2::rc::{Retained, autoreleasepool};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Once;
use std::time::{Duration, Instant};

/// How many command buffers run commands at the same time.
const ENGINES: usize = 4;
/// How many run code of tests, which may block.
const HOST_ENGINES: usize = 512;
// Codes of `MTLCommandBufferError`.
const TIMEOUT: usize = 2;
const PAGE_FAULT: usize = 3;
const INVALID_RESOURCE: usize = 9;
const DEVICE_REMOVED: usize = 11;

// ------------------------------------------------------------------------------------------------------- messages
struct Mail {
    message: Message,
    _busy: Busy,
}

enum Message {
    Enqueue { queue: u64, buffer: u64 },
    Forget { queue: u64, buffer: u64 },
    Commit(Commit),
    Ran { engine: &'static Engine, buffer: u64, program: Box<Program>, at: usize, outcome: Outcome },
    Wake(Parked),
    Kill { buffer: u64, code: usize },
    LoseDevice(u64),
    News(News),
    Poke,
}

// SAFETY: what is not `Send` by itself are command buffers, whose state is guarded here.
unsafe impl Send for Mail {}

/// How far an engine got with a command buffer.
enum Outcome {
    /// It can go on.
    More,
    /// It waits for an event.
    Parked,
    /// It has run its last command, and by this time of the GPU all but a signal at its end.
    Finished(f64),
    /// A command could not be run: a code, and what there is to say.
    Failed(usize, Option<String>),
}

static SCHEDULER: Mailbox<Mail> = Mailbox::new();

fn tell(message: Message) {
    static START: Once = Once::new();
    START.call_once(|| {
        spawn("sim-gpu", || Scheduler::new().run());
    });
    SCHEDULER.send(Mail { message, _busy: Busy::new() });
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().name(name.into()).spawn(run).expect("a thread for the simulated GPU");
}

pub(super) fn enqueue(queue: u64, buffer: u64) {
    tell(Message::Enqueue { queue, buffer });
}

/// An enqueued command buffer is gone without having been committed.
pub(super) fn forget(queue: u64, buffer: u64) {
    tell(Message::Forget { queue, buffer });
}

pub(super) fn commit(commit: Commit) {
    tell(Message::Commit(commit));
}

pub(super) fn wake(parked: Parked) {
    tell(Message::Wake(parked));
}

pub(crate) fn kill(buffer: u64, code: usize) {
    tell(Message::Kill { buffer, code });
}

pub(super) fn lose_device(device: u64) {
    tell(Message::LoseDevice(device));
}

pub(super) fn news(news: News) {
    tell(Message::News(news));
}

/// Something that the scheduler looks at has changed.
pub(crate) fn poke() {
    tell(Message::Poke);
}

/// Blocks to run, some time.
pub(super) struct News {
    stage: Stage,
    /// News of one lane run in the order in which they came.
    lane: usize,
    queue: Option<Retained<Queue>>,
    job: Job,
    _busy: Busy,
}

impl News {
    pub(super) fn new(
        stage: Stage,
        lane: usize,
        queue: Option<Retained<Queue>>,
        job: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self { stage, lane, queue, job: Box::new(job), _busy: Busy::new() }
    }

    fn deliver(self) {
        match self.queue {
            Some(queue) => queue.submit(self.job),
            None => dispatch::run(self.job),
        }
    }
}

// -------------------------------------------------------------------------------------------------------- engines
/// The longest that the time of a buffer's end is later than its last signal.
const END_LATENESS: Duration = Duration::from_micros(300);

/// Some commands to run.
struct Work {
    buffer: u64,
    program: Box<Program>,
    at: usize,
    /// How many to run, at most.
    commands: usize,
    /// Whether the wait that comes first is over.
    released: bool,
    /// How to number the wait that it may come to.
    wait: u64,
}

/// A thread that runs commands.
struct Engine {
    work: Mailbox<Work>,
    /// Whether it is for code of tests.
    host: bool,
}

impl Engine {
    /// Makes one. They live as long as the process.
    fn start(host: bool) -> &'static Self {
        let engine: &'static Self = Box::leak(Box::new(Self { work: Mailbox::new(), host }));
        spawn(if host { "sim-host-work" } else { "sim-engine" }, || engine.run());
        engine
    }

    fn run(&'static self) {
        self.work.own();
        loop {
            for mut work in self.work.take() {
                let outcome = work.run(self.host);
                let Work { buffer, program, at, .. } = work;
                tell(Message::Ran { engine: self, buffer, program, at, outcome });
            }
            self.work.wait(Duration::from_secs(3600));
        }
    }
}

/// The engines of one kind.
struct Engines {
    host: bool,
    most: usize,
    started: usize,
    idle: Vec<&'static Engine>,
}

impl Engines {
    fn new(host: bool, most: usize) -> Self {
        Self { host, most, started: 0, idle: Vec::new() }
    }

    /// One that has nothing to do.
    fn take(&mut self) -> Option<&'static Engine> {
        self.idle.pop().or_else(|| {
            (self.started < self.most).then(|| {
                self.started += 1;
                Engine::start(self.host)
            })
        })
    }
}

impl Work {
    fn run(&mut self, host: bool) -> Outcome {
        let last = self.program.ops.len().min(self.at.saturating_add(self.commands));
        let mut done = now_seconds();
        while self.at < last {
            let op = &self.program.ops[self.at];
            if matches!(op, Op::Host(_)) && !host {
                return Outcome::More; // for an engine of the other kind
            }
            if !op.check() {
                return Outcome::Failed(INVALID_RESOURCE, None);
            }
            if let Op::Wait(event, value) = op {
                let parked = Parked { value: *value, buffer: self.buffer, wait: self.wait };
                if !std::mem::take(&mut self.released) && !event.state().reached_or_park(parked) {
                    return Outcome::Parked;
                }
            }
            // Taken before: whoever the signal lets go may have ended before this thread runs on.
            done = now_seconds();
            match op {
                Op::Dispatch { .. } | Op::Host(_) => self.program.track.run_apart(op),
                Op::Wait(..) | Op::Signal(..) | Op::Copy { .. } | Op::Fill { .. } => {
                    self.program.track.run(program::run, op);
                }
            }
            if let Op::Host(work) = op
                && let Some(text) = work.failure()
            {
                return Outcome::Failed(PAGE_FAULT, Some(text));
            }
            match op {
                Op::Signal(event, _) => event.shared().wake(true),
                _ => done = now_seconds(),
            }
            self.at += 1;
        }
        if self.at == self.program.ops.len() { Outcome::Finished(done) } else { Outcome::More }
    }
}

// ------------------------------------------------------------------------------------------------------- scheduler
/// A committed command buffer.
struct Running {
    buffer: Retained<CommandBuffer>,
    label: Option<String>,
    /// None while an engine has it.
    program: Option<Box<Program>>,
    at: usize,
    state: State,
    /// How it is to end, and after how many more commands.
    failure: Option<(usize, usize)>,
    text: Option<String>,
    wait: u64,
    released: bool,
    began: Option<f64>,
    _busy: Busy,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Queued,
    /// Can run from then on.
    Ready(Instant),
    /// An engine has it.
    OnEngine,
    Parked {
        until: Instant,
        /// Whether later buffers of its queue may not begin meanwhile.
        holds_queue: bool,
    },
    /// Has run its last command, or failed, at the given time of the GPU: completes from the given instant on.
    Ending {
        ended: f64,
        from: Instant,
        code: Option<usize>,
    },
}

/// The command buffers of a queue that have not begun, and those that run.
#[derive(Default)]
struct Line {
    /// Their numbers, and whether the first may begin while others run, once that is decided.
    waiting: VecDeque<u64>,
    overlap: Option<bool>,
    running: Vec<u64>,
}

struct Scheduler {
    random: Random,
    buffers: HashMap<u64, Running>,
    lines: HashMap<u64, Line>,
    /// Blocks to run, by when, and by when they came.
    news: BTreeMap<(Instant, u64), News>,
    /// When the last news of a lane are due.
    lanes: HashMap<usize, Instant>,
    news_count: u64,
    engines: [Engines; 2],
}

// SAFETY: it is moved once, to its thread, before it has anything.
unsafe impl Send for Scheduler {}

impl Scheduler {
    fn new() -> Self {
        Self {
            random: Random::new(random::seed()),
            buffers: HashMap::new(),
            lines: HashMap::new(),
            news: BTreeMap::new(),
            lanes: HashMap::new(),
            news_count: 0,
            engines: [Engines::new(false, ENGINES), Engines::new(true, HOST_ENGINES)],
        }
    }

    fn run(mut self) {
        SCHEDULER.own();
        loop {
            let wait = autoreleasepool(|_| {
                let mail = SCHEDULER.take();
                let mut settings = settings();
                let knobs = settings.knobs.clone();
                // Kept until what the messages caused is accounted for itself.
                let mut read = Vec::new();
                for Mail { message, _busy } in mail {
                    self.handle(message, &knobs);
                    read.push(_busy);
                }
                let now = Instant::now();
                self.time_out(now);
                self.begin(&mut settings);
                let ended = self.take_ended(now, &settings);
                let due = self.take_due(now, &settings);
                let wait = self.start_work(now, &knobs);
                // What follows runs code of clients, or may wait for them.
                drop(settings);
                for (running, began, ended, code) in ended {
                    let Running { buffer, program, text, .. } = running;
                    let program = program.expect("no engine has a buffer that ends");
                    buffer.complete(End { program, code, text }, (began, ended), &knobs);
                }
                due.into_iter().for_each(News::deliver);
                wait
            });
            SCHEDULER.wait(wait.unwrap_or(Duration::from_secs(3600)));
        }
    }

    fn handle(&mut self, message: Message, knobs: &Knobs) {
        match message {
            Message::Enqueue { queue, buffer } => {
                self.lines.entry(queue).or_default().waiting.push_back(buffer)
            }
            Message::Forget { queue, buffer } => {
                if let Some(line) = self.lines.get_mut(&queue) {
                    line.waiting.retain(|id| *id != buffer);
                }
            }
            Message::Commit(commit) => self.commit(commit),
            Message::Ran { engine, buffer, program, at, outcome } => {
                self.engines[usize::from(engine.host)].idle.push(engine);
                self.ran(buffer, program, at, outcome, knobs);
            }
            Message::Wake(Parked { buffer, wait, .. }) => {
                if let Some(running) = self.buffers.get_mut(&buffer)
                    && running.wait == wait
                {
                    // It may not have been told yet that it is parked: see `ran`.
                    running.released = true;
                    if matches!(running.state, State::Parked { .. }) {
                        running.state = State::Ready(Instant::now());
                    }
                }
            }
            Message::Kill { buffer, code } => {
                if let Some(running) = self.buffers.get_mut(&buffer) {
                    running.fail(code);
                }
            }
            Message::LoseDevice(device) => {
                let on_it = |running: &&mut Running| running.device().ivars().id == device;
                self.buffers.values_mut().filter(on_it).for_each(|running| running.fail(DEVICE_REMOVED));
            }
            Message::News(news) => {
                let now = Instant::now();
                let lane = self.lanes.entry(news.lane).or_insert(now);
                *lane = (*lane).max(now + self.random.late(knobs.lateness));
                self.news_count += 1;
                self.news.insert((*lane, self.news_count), news);
            }
            Message::Poke => {}
        }
    }

    fn commit(&mut self, Commit { buffer, program, label }: Commit) {
        let (id, queue) = (buffer.ivars().id, buffer.ivars().queue.ivars().id);
        let line = self.lines.entry(queue).or_default();
        if !line.waiting.contains(&id) {
            line.waiting.push_back(id);
        }
        let running = Running {
            buffer,
            label,
            program: Some(program),
            at: 0,
            state: State::Queued,
            failure: None,
            text: None,
            wait: 0,
            released: false,
            began: None,
            _busy: Busy::new(),
        };
        self.buffers.insert(id, running);
    }

    fn ran(&mut self, buffer: u64, program: Box<Program>, at: usize, outcome: Outcome, knobs: &Knobs) {
        let now = Instant::now();
        let running = self.buffers.get_mut(&buffer).expect("a buffer that an engine has is running");
        if let Some((_, commands)) = &mut running.failure {
            *commands = commands.saturating_sub(at - running.at);
        }
        (running.program, running.at) = (Some(program), at);
        running.state = match (outcome, running.failure) {
            (Outcome::Failed(code, text), _) => {
                running.text = text;
                running.ending(now, Some(code))
            }
            (Outcome::Finished(done), None | Some((_, 1..))) => {
                // A buffer's end is stamped a little after its last signal, and so, at times, after its successor's.
                let late = self.random.late(END_LATENESS).as_secs_f64();
                State::Ending { ended: (done + late).min(now_seconds()), from: now, code: None }
            }
            (_, Some((code, 0))) => running.ending(now, Some(code)),
            (Outcome::Parked, _) if !running.released => State::Parked {
                until: now + knobs.wait_timeout,
                holds_queue: chance(knobs.waits_hold_queue, &mut self.random),
            },
            (Outcome::Parked | Outcome::More, _) => State::Ready(now + knobs.command_time),
        };
        if let State::Ending { from, .. } = &mut running.state {
            *from += knobs.command_time + self.random.late(knobs.lateness);
        }
    }

    /// Ends waits that last too long.
    fn time_out(&mut self, now: Instant) {
        for running in self.buffers.values_mut() {
            if matches!(running.state, State::Parked { until, .. } if until <= now) {
                running.fail(TIMEOUT);
            }
        }
    }

    /// Begins command buffers whose turn it is.
    fn begin(&mut self, settings: &mut Settings) {
        let now = Instant::now();
        for (&queue, line) in &mut self.lines {
            while let Some(&id) = line.waiting.front() {
                let holds_queue = |id: &u64| match self.buffers[id].state {
                    State::Parked { holds_queue, .. } => holds_queue,
                    _ => false,
                };
                let overlap = &mut line.overlap;
                let random = &mut self.random;
                let mut may_overlap =
                    || *overlap.get_or_insert_with(|| chance(settings.knobs.overlap, random));
                if line.running.iter().any(holds_queue) || !line.running.is_empty() && !may_overlap() {
                    break;
                }
                let Some(running) = self.buffers.get_mut(&id) else { break }; // enqueued, but not committed
                if running.device().is_lost() {
                    running.failure = Some((DEVICE_REMOVED, 0));
                }
                // What is to fail at once fails also while others are held.
                let held = settings.is_held(Stage::Begin, queue, running.label.as_deref());
                if held && !matches!(running.failure, Some((_, 0))) {
                    break;
                }
                line.waiting.pop_front();
                line.overlap = None;
                line.running.push(id);
                if running.failure.is_none() {
                    running.failure = settings.take_failure(queue, running.label.as_deref());
                }
                running.began = Some(now_seconds());
                running.state = match running.failure {
                    Some((code, 0)) => running.ending(now, Some(code)),
                    _ => State::Ready(now),
                };
                running.buffer.begin();
            }
        }
        self.lines.retain(|_, line| !line.waiting.is_empty() || !line.running.is_empty());
    }

    /// Takes the buffers that complete now, with their GPU times and error codes.
    fn take_ended(&mut self, now: Instant, settings: &Settings) -> Vec<(Running, f64, f64, Option<usize>)> {
        let is_due = |running: &Running| {
            let queue = running.buffer.ivars().queue.ivars().id;
            matches!(running.state, State::Ending { from, .. } if from <= now)
                && !settings.is_held(Stage::End, queue, running.label.as_deref())
        };
        let mut ended: Vec<_> =
            self.buffers.extract_if(|_, running| is_due(running)).map(|(_, running)| running).collect();
        ended.sort_by_key(|running| running.buffer.ivars().id);
        let ended = ended.into_iter().filter_map(|running| {
            let State::Ending { ended, code, .. } = running.state else { return None };
            let (id, queue) = (running.buffer.ivars().id, running.buffer.ivars().queue.ivars().id);
            if let Some(line) = self.lines.get_mut(&queue) {
                line.running.retain(|running| *running != id);
                line.waiting.retain(|waiting| *waiting != id); // it was killed before it began
            }
            Some((running, ended, code))
        });
        let ended: Vec<_> =
            ended.map(|(r, ended, code)| (r.began.unwrap_or(ended), r, ended, code)).collect();
        if !ended.is_empty() {
            poke(); // others of their queues may begin
        }
        ended.into_iter().map(|(began, running, ended, code)| (running, began, ended, code)).collect()
    }

    /// Takes the blocks that run now.
    fn take_due(&mut self, now: Instant, settings: &Settings) -> Vec<News> {
        let held = |stage| settings.is_held(stage, 0, None);
        let (no_handlers, no_listeners) = (held(Stage::Handlers), held(Stage::Listeners));
        let is_held = |news: &News| match news.stage {
            Stage::Handlers => no_handlers,
            _ => no_listeners,
        };
        let due: Vec<_> = self.news.iter().take_while(|((at, _), _)| *at <= now).collect();
        let due: Vec<_> = due.into_iter().filter(|(_, news)| !is_held(news)).map(|(key, _)| *key).collect();
        let due = due.iter().filter_map(|key| self.news.remove(key)).collect();
        self.lanes.retain(|_, at| *at > now);
        due
    }

    /// Hands work to idle engines. Says how long there is nothing else to do.
    fn start_work(&mut self, now: Instant, knobs: &Knobs) -> Option<Duration> {
        let mut ready: Vec<_> =
            self.buffers.iter().filter(|(_, r)| r.is_ready(now)).map(|(id, _)| *id).collect();
        ready.sort_unstable();
        while !ready.is_empty() {
            let pick = if knobs.shuffle { self.random.below(ready.len()) } else { 0 };
            let buffer = ready.remove(pick);
            let host = self.buffers[&buffer].is_at_host_work();
            let Some(engine) = self.engines[usize::from(host)].take() else { continue };
            let few = knobs.shuffle || !knobs.command_time.is_zero();
            let mut commands = if !few { usize::MAX } else { 1 + self.random.below(3) };
            if host || !knobs.command_time.is_zero() {
                commands = 1;
            }
            let running = self.buffers.get_mut(&buffer).expect("it is ready");
            let commands = running.failure.map_or(commands, |(_, left)| commands.min(left));
            running.state = State::OnEngine;
            // It parks at most once before it comes back, so its turn on an engine numbers its wait.
            running.wait += 1;
            let released = std::mem::take(&mut running.released);
            let program = running.program.take().expect("no engine has it");
            let Running { at, wait, .. } = *running;
            engine.work.send(Work { buffer, program, at, commands, released, wait });
        }
        let times = self.buffers.values().filter_map(|running| match running.state {
            State::Ready(at) | State::Parked { until: at, .. } | State::Ending { from: at, .. } => Some(at),
            State::Queued | State::OnEngine => None,
        });
        // What is due already waits for an engine or for a hold to end, and both send a message.
        let times = times.chain(self.news.keys().map(|(at, _)| *at)).filter(|at| *at > now);
        times.min().map(|at| at - now)
    }
}

impl Running {
    fn device(&self) -> &Device {
        &self.buffer.ivars().queue.ivars().device
    }

    fn is_at_host_work(&self) -> bool {
        self.program.as_ref().is_some_and(|program| matches!(program.ops.get(self.at), Some(Op::Host(_))))
    }

    fn is_ready(&self, now: Instant) -> bool {
        matches!(self.state, State::Ready(at) if at <= now)
    }

    fn ending(&self, now: Instant, code: Option<usize>) -> State {
        State::Ending { ended: now_seconds(), from: now, code }
    }

    /// Makes it end in an error as soon as it can.
    fn fail(&mut self, code: usize) {
        match self.state {
            // Its turn has to come, or an engine has to give it back.
            State::Queued | State::OnEngine => self.failure = Some((code, 0)),
            State::Ready(_) | State::Parked { .. } => self.state = self.ending(Instant::now(), Some(code)),
            State::Ending { .. } => {}
        }
    }
}

fn chance(chance: Chance, random: &mut Random) -> bool {
    match chance {
        Chance::Never => false,
        Chance::Sometimes => random.coin(),
        Chance::Always => true,
    }
}
