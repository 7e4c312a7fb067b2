//! The driver half of a Vulkan stream: a place in a queue, and one timeline semaphore that counts its positions.
//!
//! Work, waits and recordings are gathered into parts, each of which will be a `VkSubmitInfo`: waits, then command buffers,
//! then the signal of a position. A part ends where something is recorded behind work, so that waiting for a position is not
//! waiting for what comes after it. All that is gathered goes to the driver in one `vkQueueSubmit`: when the GPU would run
//! dry, when a bound is reached, or when somebody needs it. What is behind a closed gate stays in a list of segments.
//!
//! Signals of one queue come in the order of submission, and each signal comes after all commands before it. What no signal
//! does is order a stream's own command buffers among themselves: that is the barrier's, behind each piece of work.
//!
//! Who may touch what: [`Gathered`] changes under the stream's submit lock, or when it is given up; the batches in flight are
//! between the thread that submits and whoever looks how far they are. Neither is locked while the core, or anything of a
//! user's, is called; and nothing of a user's is dropped here but by way of the reaper.

use super::{
    clock::VulkanStamp,
    foreign::Foreign,
    gpu::{Gpu, Semaphore},
    port::Port,
    pump::{Look, Retired, Watched},
    view::Work,
};
use crate::{
    backend::{
        BackendStream, Flushed, Gate, Lane, Room, Signaled, Source, Stamp, StreamSeed, StreamTraits, Waited,
        defer, interop,
        reaper::{KeepAlive, Kept},
    },
    error::{Error, ErrorKind, Result},
    fork,
    primitive::lock,
    stream::ForeignWaits,
    timeline::Progress,
};
use ash::vk;
use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// How many incomplete recordings a stream takes, unless it is asked to take fewer.
pub(super) const QUEUE_DEPTH: u64 = 1_024;

/// How many pieces of work that something was recorded behind may be gathered and not submitted.
pub(super) const BATCH_BOUND: u64 = 16;

/// With fewer batches than this on their way, what is gathered is submitted: one that runs, and one behind it, so that the
/// GPU need not wait for the host between two.
const BUSY: usize = 2;

/// The driver half of a stream.
pub(in crate::backend) struct Queue {
    lane: Weak<Lane<Self>>,
    gpu: Arc<Gpu>,
    port: Arc<Port>,
    /// The timeline.
    semaphore: Arc<Semaphore>,
    depth: u64,
    bound: u64,
    /// The user's own submissions go to the queue as well, in an order with ours: nothing is gathered, and a gate is the
    /// driver's.
    adopted: bool,
    /// It waits for other backends' events natively where it can.
    native: bool,
    gathered: Mutex<Gathered>,
    flight: Mutex<VecDeque<InFlight>>,
    /// The last position that was submitted.
    submitted: AtomicU64,
    /// One that is known to be complete, with no reference to the lane to be taken.
    known: AtomicU64,
    /// The last submission: its last position, and its number on the port.
    last: Mutex<(u64, u64)>,
    /// Pieces of work, and recordings that stand alone, that are gathered. Beside the lock, so that the pump need not take that.
    pieces: AtomicU64,
    watch: Mutex<Watch>,
    _keep_alive: Option<Kept>,
}

/// What was not submitted yet.
struct Gathered {
    /// At least one.
    segments: VecDeque<Segment>,
    /// The last position that was given out.
    recorded: u64,
    /// What the last piece of work waits for in some of its stages alone. The next one has to wait for all of it.
    owed: Vec<Wait>,
    /// Why nothing is kept any more: the device was closed, or the stream has failed, or is about to.
    dead: Option<Error>,
}

/// Work that may go to the GPU once its gates are open.
#[derive(Default)]
struct Segment {
    gates: Vec<Arc<VulkanGate>>,
    parts: Vec<Part>,
}

/// What will be a `VkSubmitInfo`.
#[derive(Default)]
struct Part {
    waits: Vec<Wait>,
    commands: Vec<vk::CommandBuffer>,
    kept: Vec<Kept>,
    stamp: Option<Arc<VulkanStamp>>,
    /// The position that it signals; 0 if nothing was recorded right behind it.
    last: u64,
}

#[derive(Clone)]
struct Wait {
    semaphore: Arc<Semaphore>,
    value: u64,
    stages: vk::PipelineStageFlags,
}

/// A batch that was submitted, with all that it uses.
pub(super) struct InFlight {
    /// The position that it signals at its end.
    pub(super) end: u64,
    /// All positions that it signals, that one included.
    signals: Vec<u64>,
    stamps: Vec<(u64, Arc<VulkanStamp>)>,
    kept: Vec<Kept>,
    _waits: Vec<Arc<Semaphore>>,
}

impl InFlight {
    /// Nothing but a position.
    pub(super) fn until(end: u64) -> Self {
        Self { end, signals: vec![end], stamps: Vec::new(), kept: Vec::new(), _waits: Vec::new() }
    }

    /// Nobody knows what the GPU does with it.
    pub(super) fn leak(self) {
        self._waits.iter().for_each(|semaphore| semaphore.forget());
        std::mem::forget(self);
    }
}

/// What the pump has to look for.
#[derive(Default)]
struct Watch {
    /// The pump has the lane.
    listed: bool,
    positions: BTreeSet<u64>,
}

impl Segment {
    /// The part for what comes next: the last one, unless something was recorded behind that.
    fn open(&mut self) -> &mut Part {
        if self.parts.last().is_none_or(|part| part.last != 0) {
            self.parts.push(Part::default());
        }
        let last = self.parts.len() - 1;
        &mut self.parts[last]
    }

    /// Has what comes next wait.
    fn wait(&mut self, waits: impl IntoIterator<Item = Wait>) {
        match self.parts.last_mut() {
            Some(part) if part.last == 0 && part.commands.is_empty() => part.waits.extend(waits),
            _ => self.parts.push(Part { waits: waits.into_iter().collect(), ..Part::default() }),
        }
    }

    /// Whether nothing stands in it.
    fn is_empty(&self) -> bool {
        self.gates.is_empty() && self.parts.is_empty()
    }
}

impl Gathered {
    fn new() -> Self {
        Self { segments: VecDeque::from([Segment::default()]), recorded: 0, owed: Vec::new(), dead: None }
    }

    /// The segment for what comes next, unless everything was given up.
    fn open(&mut self) -> Option<&mut Segment> {
        match &self.dead {
            Some(_) => None,
            None => self.segments.back_mut(),
        }
    }

    /// The last part with work, or, if that counts, with waits, unless something was recorded behind it.
    fn unmarked(&mut self, waits_count: bool) -> Option<&mut Part> {
        let parts = self.segments.back_mut()?.parts.iter_mut().rev();
        parts.take_while(|part| part.last == 0).find(|part| waits_count || !part.commands.is_empty())
    }
}

impl Queue {
    /// A stream on one of the device's queues, or on a user's.
    pub(super) fn build(
        seed: StreamSeed<'_>,
        gpu: &Arc<Gpu>,
        adopted: Option<(Arc<Port>, KeepAlive)>,
    ) -> Result<Arc<Lane>> {
        gpu.check()?;
        let options = seed.options();
        // Waiting for a value too far from what a semaphore has come to is not allowed.
        let most = QUEUE_DEPTH.min(gpu.furthest / 2).max(1);
        let depth = options.requested_depth().map_or(most, |depth| depth.min(most));
        let bound = options.requested_batch_bound().unwrap_or(BATCH_BOUND);
        let native = options.requested_foreign_waits() == ForeignWaits::Native;
        let (port, keep_alive, adopted) = match adopted {
            Some((port, keep_alive)) => (port, Some(Kept::new(keep_alive, &gpu.reaper)), true),
            None => (gpu.port()?, None, false),
        };
        let semaphore = gpu.semaphore()?;
        let lane = seed.build_typed(|lane| Self {
            lane: lane.clone(),
            gpu: gpu.clone(),
            port,
            semaphore,
            depth,
            bound,
            adopted,
            native,
            gathered: Mutex::new(Gathered::new()),
            flight: Mutex::default(),
            submitted: AtomicU64::new(0),
            known: AtomicU64::new(0),
            last: Mutex::default(),
            pieces: AtomicU64::new(0),
            watch: Mutex::default(),
            _keep_alive: keep_alive,
        })?;
        let erased: Arc<Lane> = lane;
        gpu.admit(&erased);
        Ok(erased)
    }

    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// The semaphore, and the value that stands for a position.
    pub(in crate::backend) fn point(&self, position: u64) -> (&Arc<Semaphore>, u64) {
        (&self.semaphore, self.semaphore.value(position))
    }

    #[cfg(all(feature = "cuda", unix))]
    pub(in crate::backend) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Submits right behind a position, unless something else is behind it on the queue already.
    #[cfg(all(feature = "cuda", unix))]
    pub(in crate::backend) fn submit_right_behind(
        &self,
        position: u64,
        batches: &[vk::SubmitInfo<'_>],
    ) -> Result<bool, vk::Result> {
        let (end, number) = *lock(&self.last);
        if end != position {
            return Ok(false);
        }
        let submitted = self.port.submit_if(self.gpu.functions(), batches, |last| last == number)?;
        Ok(submitted.is_some())
    }

    /// The lane. Whoever calls through it keeps it alive.
    fn lane(&self) -> Option<Arc<Lane<Self>>> {
        self.lane.upgrade()
    }

    fn completed(&self) -> u64 {
        self.lane().map_or(0, |lane| lane.completed())
    }

    fn submitted(&self) -> u64 {
        // Acquire: pairs with the release in `submit`; only ever compared with what the GPU has reached.
        self.submitted.load(Ordering::Acquire)
    }

    /// Whether everything that was ever submitted is done, and nothing is gathered.
    fn is_idle(&self, gathered: &Gathered) -> bool {
        !self.adopted
            && gathered.segments.len() == 1
            && gathered.segments.iter().all(Segment::is_empty)
            && self.semaphore.reached(self.gpu.functions()).is_ok_and(|reached| reached >= self.submitted())
    }

    /// Lets go of what the GPU is through with, and says how far it is. With no lock held.
    fn collect(&self, lane: &Lane<Self>) {
        match self.semaphore.reached(self.gpu.functions()) {
            Ok(reached) => {
                // No more than was submitted: users can't be kept from signaling what they are shown.
                let reached = reached.min(self.submitted());
                let done = self.settle(reached);
                // Relaxed: see `full`.
                self.known.fetch_max(reached, Ordering::Relaxed);
                lane.advance(reached);
                drop(done);
            }
            Err(code) => {
                let error = super::driver::error("vkGetSemaphoreCounterValue", code);
                if code == vk::Result::ERROR_DEVICE_LOST {
                    self.gpu.lose(error);
                } else {
                    lane.fail(lane.completed() + 1, error);
                }
            }
        }
    }

    /// Takes out the batches that are done.
    fn settle(&self, reached: u64) -> Vec<InFlight> {
        let mut flight = lock(&self.flight);
        if flight.front().is_none_or(|batch| batch.end > reached) {
            return Vec::new();
        }
        let done = flight.partition_point(|batch| batch.end <= reached);
        let done: Vec<_> = flight.drain(..done).collect();
        // Before anybody is told that they are complete.
        done.iter().flat_map(|batch| &batch.stamps).for_each(|(_, stamp)| stamp.see());
        done
    }

    /// Whether the driver waits for the host before it comes to what this stream submitted.
    pub(in crate::backend) fn waits_for_host(&self) -> bool {
        self.port.waits_for_host()
    }

    /// How many batches are on their way.
    fn in_flight(&self) -> usize {
        let known = lock(&self.flight).len();
        if known < BUSY || lock(&self.watch).listed {
            // The pump looks after it.
            return known;
        }
        match self.semaphore.reached(self.gpu.functions()) {
            Ok(reached) => {
                // What it used goes by way of the reaper.
                drop(self.settle(reached));
                lock(&self.flight).len()
            }
            Err(_) => known,
        }
    }

    /// Something was gathered. With more than so many pieces, or if the GPU has too little to do, submits them when the
    /// submit lock is let go of; otherwise sees to it that they are when the GPU would run dry. *Held.*
    fn gathered_more(&self, most: u64) {
        let Some(lane) = self.lane() else { return };
        // Relaxed: a count, and of this thread's.
        let full = self.pieces.load(Ordering::Relaxed) > most;
        if self.adopted || full || self.in_flight() < BUSY {
            lane.request_flush();
        } else {
            self.enlist(&lane, None);
        }
    }

    /// Has the pump look after the lane, for a position's sake or for what is gathered.
    fn enlist(&self, lane: &Arc<Lane<Self>>, position: Option<u64>) {
        let (new, hurry) = {
            let mut watch = lock(&self.watch);
            let hurry = position.is_some_and(|position| watch.positions.insert(position));
            (!std::mem::replace(&mut watch.listed, true), hurry)
        };
        if new {
            self.gpu.pump.watch(Watched::Queue(lane.clone()));
        } else if hurry {
            self.gpu.pump.hurry();
        }
    }

    /// The pump's look.
    pub(super) fn look(&self, lane: &Lane<Self>) -> Look {
        let before = lane.completed();
        self.collect(lane);
        let completed = lane.completed();
        let news = completed > before;
        let (in_flight, uses) = {
            let flight = lock(&self.flight);
            (flight.len(), flight.iter().any(|batch| !batch.kept.is_empty()))
        };
        let (dry, over) = {
            let mut watch = lock(&self.watch);
            watch.positions = watch.positions.split_off(&(completed + 1));
            if lane.is_failed() {
                // Those before the failure are on their way as ever.
                let is_pending = |position| lane.core.timeline.progress(position) == Progress::Pending;
                watch.positions.retain(|position| is_pending(*position));
            }
            // Relaxed: whoever gathers counts before it looks, under this lock, whether the lane is listed.
            let gathered = self.pieces.load(Ordering::Relaxed) > 0;
            let dry = gathered && in_flight < BUSY && (news || in_flight == 0);
            let more = in_flight > 0 && (gathered || uses) && !self.gpu.is_lost();
            let over = watch.positions.is_empty() && !more;
            watch.listed = !over;
            (dry, over)
        };
        if dry {
            lane.request_flush();
        }
        match (over, news) {
            (true, _) => Look::Over,
            (false, true) => Look::News,
            (false, false) => Look::Same,
        }
    }

    /// The next value that would be news for the pump.
    pub(super) fn target(&self) -> Option<(vk::Semaphore, u64)> {
        let first = lock(&self.watch).positions.first().copied();
        let end = {
            let flight = lock(&self.flight);
            // Relaxed: if it is not seen yet, the bell will be rung.
            let gathered = self.pieces.load(Ordering::Relaxed) > 0;
            let ends = flight.iter().filter(|batch| gathered || !batch.kept.is_empty());
            ends.map(|batch| batch.end).next()
        };
        let next = first.into_iter().chain(end).min()?;
        Some((self.semaphore.raw, self.semaphore.value(next)))
    }

    /// Gathers work. *Held.*
    pub(super) fn push(&self, work: Work) -> Result<Pushed> {
        self.gpu.check()?;
        {
            let mut gathered = lock(&self.gathered);
            if let Some(why) = &gathered.dead {
                return Err(why.clone());
            }
            // Work that nobody records behind takes a position when it is submitted.
            if let Some(room) = self.full(gathered.recorded + 1) {
                return Ok(Pushed::Full(room, work));
            }
            let barrier = self.port.family.barrier;
            let owed = std::mem::take(&mut gathered.owed);
            let Some(segment) = gathered.open() else { return Err(Error::new(ErrorKind::Closed)) };
            if !owed.is_empty() {
                segment.wait(owed);
            }
            let part = segment.open();
            let Work { commands, stages, own_barriers, keep_alive } = work;
            // The work before it has waited already for what that had to wait for.
            let narrows = part.commands.is_empty() && stages != vk::PipelineStageFlags::ALL_COMMANDS;
            let owed = if narrows { part.waits.clone() } else { Vec::new() };
            if narrows {
                part.waits.iter_mut().for_each(|wait| wait.stages = stages);
            }
            let is_empty = commands.is_empty();
            part.commands.extend(commands);
            // Nothing at all has an end as well, behind what came before.
            if !own_barriers || is_empty {
                part.commands.push(barrier);
            }
            part.kept.extend(keep_alive.map(|what| Kept::new(what, &self.gpu.reaper)));
            gathered.owed = owed;
        }
        // Relaxed: a count.
        self.pieces.fetch_add(1, Ordering::Relaxed);
        // One more than with a recording: that is likely to follow, and belongs into the same submission.
        self.gathered_more(self.bound.saturating_add(1));
        Ok(Pushed::Done)
    }

    /// When there is room for this position, if there is none now.
    fn full(&self, position: u64) -> Option<Room> {
        let before = position - 1;
        // What the GPU has reached is not told here: wakers must not run under the submit lock.
        // Relaxed: an old value costs a question.
        let is_full = before.saturating_sub(self.known.load(Ordering::Relaxed)) >= self.depth
            && before.saturating_sub(self.completed()) >= self.depth
            && self
                .semaphore
                .reached(self.gpu.functions())
                .is_ok_and(|reached| before.saturating_sub(reached) >= self.depth);
        is_full.then(|| Room { after: position - self.depth })
    }

    /// Gives up what is gathered, from the segment with this number on. It comes back, to be dropped with no lock held.
    #[must_use]
    pub(super) fn give_up_from(&self, first: usize, why: Error) -> Dropped {
        let mut gathered = lock(&self.gathered);
        gathered.dead.get_or_insert(why);
        let first = first.min(gathered.segments.len());
        let dropped = gathered.segments.split_off(first);
        gathered.segments.push_back(Segment::default());
        Dropped { _segments: dropped }
    }

    /// What is behind no closed gate; and whether that was everything.
    fn take_ready(&self) -> (Vec<Part>, bool) {
        let mut gathered = lock(&self.gathered);
        let mut ready = Vec::new();
        // What was given up is nobody's, and never will be submitted.
        let mut everything = gathered.dead.is_none();
        while let Some(front) = gathered.segments.front_mut() {
            // Acquire: pairs with `open`, so that the work comes after what the host did before it.
            if !front.gates.iter().all(|gate| gate.open.load(Ordering::Acquire)) {
                everything = false;
                break;
            }
            front.gates.clear();
            let marked = front.parts.iter().rposition(|part| part.last != 0).map_or(0, |last| last + 1);
            ready.extend(front.parts.drain(..marked));
            let rest = std::mem::take(&mut front.parts);
            if gathered.segments.len() == 1 {
                // Waits, behind which nothing has come yet.
                if let Some(front) = gathered.segments.front_mut() {
                    front.parts = rest;
                }
                break;
            }
            gathered.segments.pop_front();
            if let Some(next) = gathered.segments.front_mut() {
                next.parts.splice(..0, rest);
            }
        }
        (ready, everything)
    }

    /// Submits. *Held*, and with nothing else locked but the queue.
    fn submit(&self, lane: &Arc<Lane<Self>>, parts: Vec<Part>) -> Result<u64> {
        let Some(end) = parts.last().map(|part| part.last) else { return Ok(self.submitted()) };
        let mut waits = Vec::new();
        let mut stages = Vec::new();
        let mut wait_values = Vec::new();
        let mut values = Vec::with_capacity(parts.len());
        for part in &parts {
            for wait in &part.waits {
                waits.push(wait.semaphore.raw);
                wait_values.push(wait.value);
                stages.push(wait.stages);
            }
            values.push(self.semaphore.value(part.last));
            if let Some(stamp) = &part.stamp {
                stamp.submit();
            }
        }
        let semaphore = [self.semaphore.raw];
        // Waits in between end a part with no recording behind it.
        let signals = |part: &Part| usize::from(part.last != 0);
        let mut from = 0;
        let mut timelines: Vec<_> = parts
            .iter()
            .zip(&values)
            .map(|(part, value)| {
                let waits = from..from + part.waits.len();
                from = waits.end;
                vk::TimelineSemaphoreSubmitInfo::default()
                    .wait_semaphore_values(&wait_values[waits])
                    .signal_semaphore_values(&std::slice::from_ref(value)[..signals(part)])
            })
            .collect();
        let mut from = 0;
        let batches: Vec<_> = parts
            .iter()
            .zip(&mut timelines)
            .map(|(part, timeline)| {
                let its = from..from + part.waits.len();
                from = its.end;
                vk::SubmitInfo::default()
                    .wait_semaphores(&waits[its.clone()])
                    .wait_dst_stage_mask(&stages[its])
                    .command_buffers(&part.commands)
                    .signal_semaphores(&semaphore[..signals(part)])
                    .push_next(timeline)
            })
            .collect();
        self.semaphore.raise(self.semaphore.value(end));
        // Before the GPU can reach it. Release: see `submitted`.
        let before = self.submitted.swap(end, Ordering::Release);
        match self.port.submit(self.gpu.functions(), &batches) {
            Ok(number) => *lock(&self.last) = (end, number),
            Err(code) => {
                self.submitted.store(before, Ordering::Release);
                return Err(self.gpu.refused("vkQueueSubmit", code));
            }
        }
        let mut batch = InFlight { signals: Vec::new(), ..InFlight::until(end) };
        for part in parts {
            batch.signals.extend((part.last != 0).then_some(part.last));
            batch.kept.extend(part.kept);
            batch._waits.extend(part.waits.into_iter().map(|wait| wait.semaphore));
            batch.stamps.extend(part.stamp.map(|stamp| (part.last, stamp)));
        }
        let uses = !batch.kept.is_empty();
        lock(&self.flight).push_back(batch);
        if uses {
            // For the sake of what the user gave to be kept no longer than that.
            self.enlist(lane, None);
        }
        Ok(end)
    }
}

/// What came of [`Queue::push`].
pub(super) enum Pushed {
    Done,
    /// There is no room. The work comes back.
    Full(Room, Work),
}

/// What was gathered and given up.
pub(super) struct Dropped {
    _segments: VecDeque<Segment>,
}

impl BackendStream for Queue {
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: false, batches: true }
    }

    fn signal(&self, position: u64, timed: bool) -> Result<Signaled> {
        self.gpu.check()?;
        if let Some(room) = self.full(position) {
            return Ok(Signaled::Full(room));
        }
        let stamp = if timed && self.port.timed { Some(self.port.family.stamp(&self.gpu)?) } else { None };
        let (more, counts) = {
            let mut gathered = lock(&self.gathered);
            // A signal may not be too far from the last one either, so now and then one goes to the driver all the same.
            let near = position - self.submitted() < (self.gpu.furthest / 2).max(1);
            if !timed && near && gathered.dead.is_none() && self.is_idle(&gathered) {
                gathered.recorded = position;
                // Relaxed: see `full`.
                self.known.store(position, Ordering::Relaxed);
                return Ok(Signaled::Done(None));
            }
            let Some(segment) = gathered.open() else {
                // Failed this very moment.
                return Ok(Signaled::Pending(None));
            };
            let (more, counts) = match segment.parts.last_mut() {
                // Nothing has come since: it is the same point.
                Some(part) if part.last != 0 && stamp.is_none() => {
                    part.last = position;
                    (false, false)
                }
                _ => {
                    let part = segment.open();
                    part.last = position;
                    // Work has been counted.
                    let counts = part.commands.is_empty();
                    if let Some(stamp) = &stamp {
                        // It ends in one itself.
                        part.commands.pop_if(|last| *last == self.port.family.barrier);
                        part.commands.push(stamp.commands());
                        part.stamp = Some(stamp.clone());
                    }
                    (true, counts)
                }
            };
            gathered.recorded = position;
            (more, counts)
        };
        if counts {
            // Relaxed: a count.
            self.pieces.fetch_add(1, Ordering::Relaxed);
        }
        // Whoever gathered what this only adds a number to has seen to it that it will be submitted.
        if more {
            self.gathered_more(self.bound);
        }
        Ok(Signaled::Pending(stamp.map(|stamp| stamp as Arc<dyn Stamp>)))
    }

    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        // What will never be signaled, or not before the host has done something, must not reach the driver (R6): a queue
        // that waits stands still, for all streams that share it.
        // In this order: what has been given up counts as failed before it can count as submitted.
        if !source.is_submitted() || source.lane().is_failed() {
            return Ok(Waited::Unsupported);
        }
        let (semaphore, value) = if let Some(queue) =
            source.backend::<Self>().filter(|it| it.gpu.is(&self.gpu) && !it.waits_for_host())
        {
            queue.point(source.position())
        } else if let Some(foreign) =
            source.backend::<Foreign>().filter(|it| it.gpu().is(&self.gpu) && it.is_on_its_way())
        {
            foreign.point()
        } else {
            return Ok(match self.native.then(|| interop::vulkan_waits(&self.gpu, source)).flatten() {
                Some((semaphore, value)) => {
                    self.insert(semaphore, value);
                    Waited::Native
                }
                None => Waited::Unsupported,
            });
        };
        self.insert(semaphore.clone(), value);
        Ok(Waited::Native)
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        if self.adopted {
            let gate = DriverGate {
                gpu: self.gpu.clone(),
                semaphore: self.gpu.semaphore()?,
                open: AtomicBool::new(false),
            };
            gate.semaphore.raise(gate.value());
            self.insert(gate.semaphore.clone(), gate.value());
            let gate = Arc::new(gate);
            self.port.gate(&gate);
            return Ok(gate);
        }
        let mut gathered = lock(&self.gathered);
        let from = gathered.recorded + 1;
        let gate = Arc::new(VulkanGate { open: AtomicBool::new(false), lane: self.lane.clone(), from });
        if let Some(last) = gathered.open() {
            // Waits that nothing has come behind may as well come after the gate.
            let waits = last.parts.pop_if(|part| part.last == 0);
            if last.parts.is_empty() {
                last.gates.push(gate.clone());
                last.parts.extend(waits);
            } else {
                let parts = waits.into_iter().collect();
                gathered.segments.push_back(Segment { gates: vec![gate.clone()], parts });
            }
        }
        Ok(gate)
    }

    /// Work whose end nobody knows could never be let go of; on an adopted queue, waits must go to the driver as well.
    fn mark(&self, position: u64) -> bool {
        let mut gathered = lock(&self.gathered);
        let Some(part) = gathered.unmarked(self.adopted) else { return false };
        part.last = position;
        gathered.recorded = position;
        true
    }

    fn flush(&self) -> Result<Flushed> {
        let Some(lane) = self.lane() else { return Ok(Flushed::All) };
        let (ready, everything) = self.take_ready();
        if everything {
            // Relaxed: a count, and of this thread's.
            self.pieces.store(0, Ordering::Relaxed);
        }
        let submitted = match self.submit(&lane, ready) {
            Ok(submitted) => submitted,
            Err(error) => {
                // Before the core has failed the stream, somebody may record on: what comes after the loss must not make
                // it look complete.
                drop(self.give_up_from(0, error.clone()));
                return Err(error);
            }
        };
        Ok(if everything { Flushed::All } else { Flushed::UpTo(submitted) })
    }

    fn poll(&self) {
        if let Some(lane) = self.lane() {
            self.collect(&lane);
        }
    }

    fn watch(&self, position: u64) {
        if let Some(lane) = self.lane() {
            self.enlist(&lane, Some(position));
        }
    }

    fn block(&self, position: u64, until: Instant) -> bool {
        if self.lane().is_none_or(|lane| lane.is_failed()) || position > self.submitted() {
            // What has not been submitted may never be.
            return false;
        }
        let signaled = {
            let flight = lock(&self.flight);
            let batch = flight.iter().find(|batch| batch.end >= position);
            batch.and_then(|batch| batch.signals.iter().copied().find(|signal| *signal >= position))
        };
        // The very value that a submission signals: Vulkan's validation knows of no other. There is none while somebody submits
        // it, or has just learned that it is complete.
        signaled.is_some_and(|signaled| self.semaphore.block(self.gpu.functions(), signaled, until))
    }

    fn abandon(&self) {
        let dropped = self.give_up_from(0, Error::new(ErrorKind::Closed));
        defer(move || drop(dropped));
        lock(&self.watch).positions.clear();
    }
}

impl Queue {
    /// Holds back what comes next until the semaphore has this value. *Held.*
    fn insert(&self, semaphore: Arc<Semaphore>, value: u64) {
        {
            let mut gathered = lock(&self.gathered);
            let Some(segment) = gathered.open() else { return };
            let stages = vk::PipelineStageFlags::ALL_COMMANDS;
            let wait = Wait { semaphore, value, stages };
            segment.wait([wait]);
        }
        if self.adopted {
            self.gathered_more(self.bound);
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let flight = std::mem::take(self.flight.get_mut().unwrap_or_else(PoisonError::into_inner));
        if fork::happened() {
            // The parent's.
            std::mem::forget(flight);
        } else if !flight.is_empty() {
            let (semaphore, gpu) = (self.semaphore.clone(), self.gpu.clone());
            self.gpu.pump.retire(Retired { semaphore, flight, gpu });
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("semaphore", &self.semaphore)
            .field("in_flight", &lock(&self.flight).len())
            .finish_non_exhaustive()
    }
}

/// A gate in our own queue: what is behind it has not been submitted.
#[derive(Debug)]
struct VulkanGate {
    open: AtomicBool,
    lane: Weak<Lane<Queue>>,
    /// The first position behind it.
    from: u64,
}

impl Gate for VulkanGate {
    fn open(&self) {
        // Release: pairs with the acquire in `take_ready`.
        if self.open.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(lane) = self.lane.upgrade() else { return };
        if let Some(why) = lane.core.timeline.failure_of(self.from) {
            // The core has marked what is behind this as failed. Nobody wants it to run on what was never written.
            let queue = lane.backend();
            let place = {
                let gathered = lock(&queue.gathered);
                let this = |gate: &Arc<Self>| std::ptr::eq(Arc::as_ptr(gate), self);
                gathered.segments.iter().position(|segment| segment.gates.iter().any(this))
            };
            if let Some(place) = place {
                let dropped = queue.give_up_from(place, why);
                defer(move || drop(dropped));
            }
        }
        lane.request_flush();
    }
}

/// A gate in an adopted queue, where the user's own submissions have to be held back as well: a semaphore that the host
/// signals.
#[derive(Debug)]
pub(super) struct DriverGate {
    gpu: Arc<Gpu>,
    semaphore: Arc<Semaphore>,
    open: AtomicBool,
}

impl DriverGate {
    pub(super) fn is_open(&self) -> bool {
        // Relaxed: one that is about to open still counts as closed.
        self.open.load(Ordering::Relaxed)
    }

    fn value(&self) -> u64 {
        self.semaphore.value(1)
    }
}

impl Gate for DriverGate {
    fn open(&self) {
        // Relaxed: only whether it was; the driver orders what the host did before behind the signal.
        if self.open.swap(true, Ordering::Relaxed) {
            return;
        }
        let info = vk::SemaphoreSignalInfo::default().semaphore(self.semaphore.raw).value(self.value());
        // SAFETY: the semaphore is ours, and nobody else signals it.
        if let Err(code) = unsafe { self.gpu.functions().signal_semaphore(&info) } {
            // A device that is lost waits for nothing any more.
            self.gpu.refused("vkSignalSemaphore", code);
        }
    }
}
