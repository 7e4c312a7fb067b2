//! Random sequences of all operations, against a naive oracle.
//!
//! The oracle knows nothing of threads, positions or waiters: a stream is a list of what was submitted, and what comes
//! of it is found by walking the lists until nothing changes. Work is held back by host-signaled events alone, so at
//! every moment the oracle can say what *must* come to be (and then it is waited for) and what *cannot* (and then it
//! is looked at, right away, and must not have happened).
//!
//! `PROPTEST_CASES` asks for another number of cases.
#![cfg(all(feature = "cpu", not(gpu_events_loom)))]

use gpu_events::{
    Callback, Completion, Device, ErrorKind, Event, EventId, EventTable, External, ExternalPending,
    HostSignal, Status, Stream, StreamWait, WaitAny, WaitOptions, WaitOutcome, wait_all, wait_any,
};
use proptest::prelude::*;
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

const DEVICES: usize = 2;
const STREAMS: usize = 4;
const EVENTS: usize = 6;
const GATES: usize = 3;

/// Long enough for anything that is bound to happen, on any machine; reached by nothing but a hang.
const HANG: Duration = Duration::from_secs(20);

fn bounded() -> WaitOptions {
    WaitOptions::new().timeout(HANG)
}

#[derive(Clone, Copy, Debug)]
enum WorkKind {
    Succeeds,
    Fails,
    Panics,
}

#[derive(Clone, Copy, Debug)]
enum GateEnd {
    Opens,
    Fails,
    IsDropped,
}

#[derive(Clone, Copy, Debug)]
enum ExternalStep {
    Submits,
    Completes,
    Fails,
    IsDropped,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Record { event: usize, stream: usize, held: bool },
    Wait { stream: usize, event: usize, held: bool },
    WaitForGate { stream: usize, gate: usize },
    Work { stream: usize, kind: WorkKind },
    NewGate { gate: usize, device: usize },
    EndGate { gate: usize, how: GateEnd },
    External { event: usize },
    StepExternal { event: usize, how: ExternalStep },
    Reset { event: usize },
    Reacquire { event: usize, timed: bool },
    Look { event: usize },
    Synchronize { event: usize },
    WaitAnyAll { events: [usize; 3] },
    OnComplete { event: usize },
    Cancel { nth: usize },
    Await { event: usize },
    DropFuture { nth: usize },
    KeepUntil { stream: usize, event: usize },
    Elapsed { start: usize, end: usize },
    DropStream { stream: usize },
    TableAcquire { timed: bool },
    TableRecord { nth: usize, stream: usize },
    TableUse { nth: usize },
    TableWait { nth: usize, stream: usize },
    TableElapsed { start: usize, end: usize },
    TableReset { nth: usize, timed: bool },
    TableRelease { nth: usize },
    Close { device: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let stream = || 0..STREAMS;
    let event = || 0..EVENTS;
    let gate = || 0..GATES;
    let nth = || 0..8_usize;
    let kind =
        prop_oneof![8 => Just(WorkKind::Succeeds), 1 => Just(WorkKind::Fails), 1 => Just(WorkKind::Panics)];
    let end =
        prop_oneof![4 => Just(GateEnd::Opens), 1 => Just(GateEnd::Fails), 1 => Just(GateEnd::IsDropped)];
    let step = prop_oneof![
        4 => Just(ExternalStep::Submits),
        3 => Just(ExternalStep::Completes),
        1 => Just(ExternalStep::Fails),
        1 => Just(ExternalStep::IsDropped),
    ];
    prop_oneof![
        12 => (event(), stream(), any::<bool>()).prop_map(|(event, stream, held)| Op::Record { event, stream, held }),
        8 => (stream(), event(), any::<bool>()).prop_map(|(stream, event, held)| Op::Wait { stream, event, held }),
        6 => (stream(), gate()).prop_map(|(stream, gate)| Op::WaitForGate { stream, gate }),
        8 => (stream(), kind).prop_map(|(stream, kind)| Op::Work { stream, kind }),
        4 => (gate(), 0..DEVICES).prop_map(|(gate, device)| Op::NewGate { gate, device }),
        4 => (gate(), end).prop_map(|(gate, how)| Op::EndGate { gate, how }),
        1 => event().prop_map(|event| Op::External { event }),
        2 => (event(), step).prop_map(|(event, how)| Op::StepExternal { event, how }),
        1 => event().prop_map(|event| Op::Reset { event }),
        2 => (event(), any::<bool>()).prop_map(|(event, timed)| Op::Reacquire { event, timed }),
        6 => event().prop_map(|event| Op::Look { event }),
        3 => event().prop_map(|event| Op::Synchronize { event }),
        2 => [event(), event(), event()].prop_map(|events| Op::WaitAnyAll { events }),
        4 => event().prop_map(|event| Op::OnComplete { event }),
        2 => nth().prop_map(|nth| Op::Cancel { nth }),
        4 => event().prop_map(|event| Op::Await { event }),
        1 => nth().prop_map(|nth| Op::DropFuture { nth }),
        2 => (stream(), event()).prop_map(|(stream, event)| Op::KeepUntil { stream, event }),
        2 => (event(), event()).prop_map(|(start, end)| Op::Elapsed { start, end }),
        1 => stream().prop_map(|stream| Op::DropStream { stream }),
        1 => any::<bool>().prop_map(|timed| Op::TableAcquire { timed }),
        2 => (nth(), stream()).prop_map(|(nth, stream)| Op::TableRecord { nth, stream }),
        2 => nth().prop_map(|nth| Op::TableUse { nth }),
        1 => (nth(), stream()).prop_map(|(nth, stream)| Op::TableWait { nth, stream }),
        1 => (nth(), nth()).prop_map(|(start, end)| Op::TableElapsed { start, end }),
        1 => (nth(), any::<bool>()).prop_map(|(nth, timed)| Op::TableReset { nth, timed }),
        1 => nth().prop_map(|nth| Op::TableRelease { nth }),
        1 => (0..DEVICES).prop_map(|device| Op::Close { device }),
    ]
}

// ---------------------------------------------------------------------------------------------------- the oracle

/// What comes of a recording, as far as it is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    NotSubmitted,
    Complete,
    Failed(ErrorKind),
}

/// Index of a recording: by a stream, a gate, or somebody else.
type Point = usize;

#[derive(Clone, Copy, Debug)]
enum Item {
    Work(usize, WorkKind),
    Wait(Point),
    Mark(Point),
}

#[derive(Default)]
struct Oracle {
    fates: Vec<Fate>,
    /// What was submitted to each stream.
    streams: Vec<Vec<Item>>,
    /// Whether each piece of work is bound to have run.
    ran: Vec<bool>,
}

impl Oracle {
    fn point(&mut self, fate: Fate) -> Point {
        self.fates.push(fate);
        self.fates.len() - 1
    }

    /// Walks all streams until nothing changes.
    fn settle(&mut self) {
        loop {
            let before = self.fates.clone();
            for items in &self.streams {
                let mut state = Fate::Complete;
                for item in items {
                    match (*item, state) {
                        (Item::Mark(point), _) if self.fates[point] == Fate::Pending => {
                            self.fates[point] = state
                        }
                        (Item::Wait(point), Fate::Complete) => state = self.fates[point],
                        (Item::Work(work, kind), Fate::Complete) => {
                            self.ran[work] = true;
                            match kind {
                                WorkKind::Succeeds => {}
                                WorkKind::Fails => state = Fate::Failed(ErrorKind::WorkFailed),
                                WorkKind::Panics => state = Fate::Failed(ErrorKind::Panicked),
                            }
                        }
                        _ => {}
                    }
                }
            }
            if self.fates == before {
                return;
            }
        }
    }
}

// ------------------------------------------------------------------------------------------- the system under test

struct Gate {
    event: Event,
    signal: Option<HostSignal>,
    point: Point,
}

enum Token {
    Prepared(External),
    Running(ExternalPending),
}

struct Registered {
    point: Option<Point>,
    callback: Callback,
    outcome: mpsc::Receiver<gpu_events::Result<()>>,
    cancelled: bool,
}

struct Awaited {
    point: Option<Point>,
    completion: Completion,
}

/// A resource that is kept until an event is settled: its going hangs the channel up.
struct Kept {
    point: Option<Point>,
    device: usize,
    resource: mpsc::Receiver<()>,
}

#[derive(Clone, Copy)]
struct Entry {
    id: EventId,
    point: Option<Point>,
    timed: bool,
    live: bool,
}

struct World {
    devices: Vec<Device>,
    closed: Vec<bool>,
    streams: Vec<Stream>,
    /// The oracle's list of each stream that is in use now, and the device of each list.
    lists: Vec<usize>,
    list_devices: Vec<usize>,
    events: Vec<Event>,
    recordings: Vec<Option<Point>>,
    tokens: Vec<Option<Token>>,
    gates: Vec<Option<Gate>>,
    callbacks: Vec<Registered>,
    futures: Vec<Awaited>,
    kept: Vec<Kept>,
    /// The recordings of foreign submissions.
    externals: Vec<Point>,
    ran: Vec<Arc<AtomicBool>>,
    /// Recorded behind every recording and every piece of work, to wait for what has no other event any more.
    probes: Vec<(Point, Event)>,
    table: EventTable,
    ids: Vec<Entry>,
    oracle: Oracle,
}

fn device_of_stream(stream: usize) -> usize {
    stream % DEVICES
}

fn device_of_event(event: usize) -> usize {
    event % DEVICES
}

impl World {
    fn new() -> Self {
        let devices: Vec<_> = (0..DEVICES).map(|n| Device::open(&format!("cpu:{n}")).unwrap()).collect();
        let streams: Vec<_> =
            (0..STREAMS).map(|n| devices[device_of_stream(n)].create_stream().unwrap()).collect();
        let events = (0..EVENTS).map(|n| devices[device_of_event(n)].pool().acquire()).collect();
        Self {
            closed: vec![false; DEVICES],
            lists: (0..STREAMS).collect(),
            list_devices: (0..STREAMS).map(device_of_stream).collect(),
            events,
            recordings: vec![None; EVENTS],
            tokens: (0..EVENTS).map(|_| None).collect(),
            gates: (0..GATES).map(|_| None).collect(),
            callbacks: Vec::new(),
            futures: Vec::new(),
            kept: Vec::new(),
            externals: Vec::new(),
            ran: Vec::new(),
            probes: Vec::new(),
            table: EventTable::new(&devices[0].pool()),
            ids: Vec::new(),
            oracle: Oracle { streams: vec![Vec::new(); STREAMS], ..Oracle::default() },
            devices,
            streams,
        }
    }

    fn submit(&mut self, stream: usize, item: Item) {
        self.oracle.streams[self.lists[stream]].push(item);
    }

    fn fate(&mut self, point: Option<Point>) -> Option<Fate> {
        self.oracle.settle();
        point.map(|point| self.oracle.fates[point])
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Record { event, stream, held } => self.record(event, stream, held),
            Op::Wait { stream, event, held } => {
                let point = self.recordings[event];
                let fate = self.fate(point);
                let own = self.is_own(stream, point);
                let waited = if held {
                    self.streams[stream].lock().unwrap().wait(&self.events[event])
                } else {
                    self.streams[stream].wait(&self.events[event])
                };
                if point.is_none() {
                    return assert_eq!(waited.unwrap(), StreamWait::Nothing);
                }
                if self.closed[device_of_stream(stream)] {
                    // A complete event may be known to be, and then nobody asks the stream.
                    if let Err(error) = waited {
                        assert_eq!(error.kind(), ErrorKind::Closed);
                    }
                    return;
                }
                match fate {
                    Some(Fate::NotSubmitted) => {
                        return assert_eq!(waited.unwrap_err().kind(), ErrorKind::NotSubmitted);
                    }
                    Some(Fate::Pending) => assert_eq!(waited.unwrap().inserted(), !own),
                    _ => drop(waited.unwrap()),
                }
                self.oracle.streams[self.lists[stream]].extend(point.map(Item::Wait));
            }
            Op::WaitForGate { stream, gate } => {
                let Some(gate) = &self.gates[gate] else { return };
                let waited = self.streams[stream].wait(&gate.event);
                let point = gate.point;
                if self.closed[device_of_stream(stream)] {
                    // As above.
                    if let Err(error) = waited {
                        assert_eq!(error.kind(), ErrorKind::Closed);
                    }
                    return;
                }
                waited.unwrap();
                self.submit(stream, Item::Wait(point));
            }
            Op::Work { stream, kind } => {
                let ran = Arc::new(AtomicBool::new(false));
                let flag = ran.clone();
                let enqueued = self.streams[stream].cpu().unwrap().enqueue(move || {
                    flag.store(true, Ordering::Release);
                    match kind {
                        WorkKind::Succeeds => Ok(()),
                        WorkKind::Fails => Err("asked to fail"),
                        // Past the hook, which would print it.
                        WorkKind::Panics => std::panic::resume_unwind(Box::new("asked to panic")),
                    }
                });
                if self.closed[device_of_stream(stream)] {
                    return assert_eq!(enqueued.unwrap_err().kind(), ErrorKind::Closed);
                }
                enqueued.unwrap();
                self.ran.push(ran);
                self.oracle.ran.push(false);

                self.submit(stream, Item::Work(self.ran.len() - 1, kind));
                self.probe(stream);
            }
            Op::NewGate { gate, device } => {
                self.end_gate(gate, GateEnd::IsDropped);
                match self.devices[device].host_event() {
                    Ok((event, signal)) => {
                        let point = self.oracle.point(Fate::Pending);
                        self.gates[gate] = Some(Gate { event, signal: Some(signal), point });
                    }
                    Err(error) => {
                        assert!(self.closed[device] && error.kind() == ErrorKind::Closed, "{error}");
                    }
                }
            }
            Op::EndGate { gate, how } => self.end_gate(gate, how),
            Op::External { event } => {
                self.step_external(event, ExternalStep::IsDropped);
                let device = device_of_event(event);
                match self.devices[device].external_event() {
                    Ok((external, token)) => {
                        let point = self.oracle.point(Fate::NotSubmitted);
                        self.externals.push(point);
                        self.events[event] = external;
                        self.recordings[event] = Some(point);
                        self.tokens[event] = Some(Token::Prepared(token));
                    }
                    Err(error) => {
                        assert!(self.closed[device] && error.kind() == ErrorKind::Closed, "{error}");
                    }
                }
            }
            Op::StepExternal { event, how } => self.step_external(event, how),
            Op::Reset { event } => {
                // The token would have nothing to speak for any more.
                self.step_external(event, ExternalStep::IsDropped);
                self.events[event].reset();
                self.recordings[event] = None;
            }
            Op::Reacquire { event, timed } => {
                self.step_external(event, ExternalStep::IsDropped);
                let pool = self.devices[device_of_event(event)].pool();
                self.events[event] = if timed { pool.acquire_timed() } else { pool.acquire() };
                self.recordings[event] = None;
                assert_eq!(self.events[event].status(), Status::Unrecorded);
            }
            Op::Look { event } => self.look(event),
            Op::Synchronize { event } => {
                let fate = self.fate(self.recordings[event]);
                let waited = match fate {
                    Some(Fate::Pending) => self.events[event].wait_timeout(Duration::ZERO),
                    _ => self.events[event].wait_with(&bounded()),
                };
                match fate {
                    None | Some(Fate::Complete) => assert_eq!(waited.unwrap(), WaitOutcome::Complete),
                    Some(Fate::Pending) => assert_eq!(waited.unwrap(), WaitOutcome::TimedOut),
                    Some(Fate::NotSubmitted) => {
                        assert_eq!(waited.unwrap_err().kind(), ErrorKind::NotSubmitted)
                    }
                    Some(Fate::Failed(kind)) => assert_eq!(waited.unwrap_err().kind(), kind),
                }
            }
            Op::WaitAnyAll { events } => self.wait_any_all(events),
            Op::OnComplete { event } => {
                let point = self.recordings[event];
                let (tell, outcome) = mpsc::channel();
                let registered = self.events[event].on_complete(move |outcome| tell.send(outcome).unwrap());
                if self.fate(point) == Some(Fate::NotSubmitted) {
                    return assert_eq!(registered.unwrap_err().kind(), ErrorKind::NotSubmitted);
                }
                let callback = registered.unwrap();
                self.callbacks.push(Registered { point, callback, outcome, cancelled: false });
            }
            Op::Cancel { nth } => {
                let Some(index) = nth_of(&self.callbacks, nth) else { return };
                let cancelled = self.callbacks[index].callback.cancel();
                let pending = self.fate(self.callbacks[index].point) == Some(Fate::Pending);
                let registered = &mut self.callbacks[index];
                if registered.cancelled {
                    assert!(!cancelled, "cancelled twice");
                } else if pending {
                    assert!(cancelled, "nothing can have run it");
                }
                registered.cancelled |= cancelled;
            }
            Op::Await { event } => {
                let point = self.recordings[event];
                let mut completion = self.events[event].completion();
                let polled = poll(&mut completion);
                match self.fate(point) {
                    Some(Fate::Pending) => assert!(polled.is_pending()),
                    Some(Fate::NotSubmitted) => {
                        return assert!(
                            matches!(polled, Poll::Ready(Err(error)) if error.kind() == ErrorKind::NotSubmitted)
                        );
                    }
                    None => assert!(matches!(polled, Poll::Ready(Ok(())))),
                    // It may have settled since.
                    Some(Fate::Complete | Fate::Failed(_)) => {}
                }
                self.futures.push(Awaited { point, completion });
            }
            Op::DropFuture { nth } => {
                if let Some(index) = nth_of(&self.futures, nth) {
                    drop(self.futures.swap_remove(index));
                }
            }
            Op::KeepUntil { stream, event } => {
                let point = self.recordings[event];
                let (keep, resource) = mpsc::channel::<()>();
                let kept = self.streams[stream].keep_until(&self.events[event], keep);
                if self.fate(point) == Some(Fate::NotSubmitted) {
                    assert_eq!(kept.unwrap_err().kind(), ErrorKind::NotSubmitted);
                    return assert_eq!(resource.try_recv(), Err(mpsc::TryRecvError::Empty), "not leaked");
                }
                kept.unwrap();
                self.kept.push(Kept { point, device: device_of_event(event), resource });
            }
            Op::Elapsed { start, end } => {
                let fates = [start, end].map(|event| self.fate(self.recordings[event]));
                // So that it is settled what is bound to be; what comes of it is looked at elsewhere.
                for (event, _) in
                    [start, end].into_iter().zip(&fates).filter(|(_, fate)| **fate != Some(Fate::Pending))
                {
                    let _ = self.events[event].wait_with(&bounded());
                }
                let (start, end) = (&self.events[start], &self.events[end]);
                let elapsed = end.elapsed_since(start);
                match refused_elapsed([start.is_timed(), end.is_timed()], fates) {
                    Some(kind) => assert_eq!(elapsed.unwrap_err().kind(), kind),
                    None => match elapsed {
                        Ok(elapsed) => assert!(!std::ptr::eq(start, end) || elapsed.nanos() == 0),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::EndBeforeStart);
                            let back = start.elapsed_since(end).unwrap();
                            assert_eq!(error.lateness(), Some(back.duration()));
                        }
                    },
                }
            }
            Op::DropStream { stream } => {
                // What was submitted goes on; the list stays with the oracle.
                let Ok(fresh) = self.devices[device_of_stream(stream)].create_stream() else { return };
                self.streams[stream] = fresh;
                self.oracle.streams.push(Vec::new());
                self.list_devices.push(device_of_stream(stream));
                self.lists[stream] = self.oracle.streams.len() - 1;
            }
            Op::TableAcquire { timed } => {
                let id = self.table.acquire(timed).unwrap();
                assert!(self.ids.iter().all(|known| known.id != id), "{id} was handed out twice");
                self.ids.push(Entry { id, point: None, timed, live: true });
            }
            Op::TableRecord { nth, stream } => {
                let Some(index) = nth_of(&self.ids, nth) else { return };
                let Entry { id, live, .. } = self.ids[index];
                let recorded = self.table.record(id, Some(&self.streams[stream]), false);
                if !live {
                    assert_eq!(recorded.unwrap_err().kind(), ErrorKind::InvalidId);
                } else if device_of_stream(stream) != 0 {
                    assert_eq!(recorded.unwrap_err().kind(), ErrorKind::WrongDevice);
                } else if self.closed[0] {
                    assert_eq!(recorded.unwrap_err().kind(), ErrorKind::Closed);
                } else {
                    recorded.unwrap();
                    let point = self.oracle.point(Fate::Pending);
                    self.submit(stream, Item::Mark(point));
                    self.ids[index].point = Some(point);
                    self.probe(stream);
                }
            }
            Op::TableUse { nth } => {
                let Some(index) = nth_of(&self.ids, nth) else { return };
                let Entry { id, point, live, .. } = self.ids[index];
                let queried = self.table.query(id);
                let fate = self.fate(point);
                if !live {
                    assert_eq!(queried.unwrap_err().kind(), ErrorKind::InvalidId);
                    assert_eq!(self.table.synchronize(id).unwrap_err().kind(), ErrorKind::InvalidId);
                    return;
                }
                match fate {
                    None | Some(Fate::Pending) => assert!(!queried.unwrap()),
                    Some(Fate::Complete) => {
                        self.table.synchronize(id).unwrap();
                        assert!(self.table.query(id).unwrap());
                    }
                    Some(Fate::Failed(kind)) => {
                        assert_eq!(self.table.synchronize(id).unwrap_err().kind(), kind);
                        assert_eq!(self.table.query(id).unwrap_err().kind(), kind);
                    }
                    Some(Fate::NotSubmitted) => unreachable!("the table records on streams"),
                }
            }
            Op::TableWait { nth, stream } => {
                let Some(index) = nth_of(&self.ids, nth) else { return };
                let Entry { id, point, live, .. } = self.ids[index];
                let fate = self.fate(point);
                let waited = self.table.wait(id, Some(&self.streams[stream]));
                if !live {
                    assert_eq!(waited.unwrap_err().kind(), ErrorKind::InvalidId);
                } else if point.is_none() {
                    assert_eq!(waited.unwrap(), StreamWait::Nothing);
                } else if self.closed[device_of_stream(stream)] {
                    // As for events: who is known to be complete is not waited for.
                    if let Err(error) = waited {
                        assert_eq!(error.kind(), ErrorKind::Closed);
                    }
                } else {
                    let own = self.is_own(stream, point);
                    let inserted = waited.unwrap().inserted();
                    assert!(fate != Some(Fate::Pending) || inserted != own);
                    self.oracle.streams[self.lists[stream]].extend(point.map(Item::Wait));
                }
            }
            Op::TableElapsed { start, end } => {
                let (Some(start), Some(end)) = (nth_of(&self.ids, start), nth_of(&self.ids, end)) else {
                    return;
                };
                let (start, end) = (self.ids[start], self.ids[end]);
                let fates = [start, end].map(|entry| self.fate(entry.point));
                if start.live && end.live && fates.contains(&Some(Fate::Pending)) {
                    // It would wait for what only we can bring about.
                    return;
                }
                let elapsed = self.table.elapsed_time(start.id, end.id);
                let refused = if !(start.live && end.live) {
                    Some(ErrorKind::InvalidId)
                } else {
                    refused_elapsed([start.timed, end.timed], fates)
                };
                match refused {
                    Some(kind) => assert_eq!(elapsed.unwrap_err().kind(), kind),
                    // Signed, so there is no early end.
                    None => assert!(elapsed.unwrap().is_finite()),
                }
            }
            Op::TableReset { nth, timed } => {
                let Some(index) = nth_of(&self.ids, nth) else { return };
                let reset = self.table.reset(self.ids[index].id, timed);
                if self.ids[index].live {
                    reset.unwrap();
                    self.ids[index] = Entry { point: None, timed, ..self.ids[index] };
                    assert!(!self.table.query(self.ids[index].id).unwrap());
                } else {
                    assert_eq!(reset.unwrap_err().kind(), ErrorKind::InvalidId);
                }
            }
            Op::TableRelease { nth } => {
                let Some(index) = nth_of(&self.ids, nth) else { return };
                let released = self.table.release(self.ids[index].id);
                if self.ids[index].live {
                    released.unwrap();
                } else {
                    assert_eq!(released.unwrap_err().kind(), ErrorKind::InvalidId);
                }
                self.ids[index].live = false;
            }
            Op::Close { device } => self.close(device),
        }
    }

    /// Whether the recording is of the stream itself.
    fn is_own(&self, stream: usize, point: Option<Point>) -> bool {
        let items = &self.oracle.streams[self.lists[stream]];
        point.is_some_and(|point| items.iter().any(|item| matches!(item, Item::Mark(mark) if *mark == point)))
    }

    fn record(&mut self, event: usize, stream: usize, held: bool) {
        // The event leaves the foreign submission behind, and nobody goes on with that.
        self.step_external(event, ExternalStep::IsDropped);
        let before = self.events[event].status();
        let recorded = if held {
            self.streams[stream].lock().unwrap().record(&self.events[event])
        } else {
            self.events[event].record(&self.streams[stream])
        };
        let refused = if device_of_event(event) != device_of_stream(stream) {
            Some(ErrorKind::WrongDevice)
        } else {
            self.closed[device_of_stream(stream)].then_some(ErrorKind::Closed)
        };
        match refused {
            Some(kind) => {
                assert_eq!(recorded.unwrap_err().kind(), kind);
                // As it was before (R29), but for what has settled meanwhile.
                if matches!(before, Status::Unrecorded | Status::Complete | Status::Failed) {
                    assert_eq!(self.events[event].status(), before);
                }
            }
            None => {
                recorded.unwrap();
                let point = self.oracle.point(Fate::Pending);
                self.submit(stream, Item::Mark(point));
                self.recordings[event] = Some(point);
                self.probe(stream);
            }
        }
    }

    fn probe(&mut self, stream: usize) {
        let event = self.streams[stream].record().unwrap();
        let point = self.oracle.point(Fate::Pending);
        self.submit(stream, Item::Mark(point));
        self.probes.push((point, event));
    }

    fn look(&mut self, event: usize) {
        let fate = self.fate(self.recordings[event]);
        let (status, complete) = (self.events[event].status(), self.events[event].is_complete());
        match fate {
            None => assert_eq!((status, complete.unwrap()), (Status::Unrecorded, false)),
            Some(Fate::Pending) => assert_eq!((status, complete.unwrap()), (Status::Pending, false)),
            Some(Fate::NotSubmitted) => {
                assert_eq!(
                    (status, complete.unwrap_err().kind()),
                    (Status::NotSubmitted, ErrorKind::NotSubmitted)
                );
            }
            Some(Fate::Complete) => {
                assert!(matches!(status, Status::Pending | Status::Complete), "{status:?}");
                complete.unwrap();
            }
            Some(Fate::Failed(kind)) => {
                assert!(matches!(status, Status::Pending | Status::Failed), "{status:?}");
                assert!(complete.map_or_else(|error| error.kind() == kind, |complete| !complete));
            }
        }
        if let (Some(_), true) = (fate, self.events[event].is_timed()) {
            match self.events[event].completion_time() {
                Ok(time) => {
                    assert_eq!((fate, time.clock().id()), (Some(Fate::Complete), gpu_events::ClockId::HOST))
                }
                Err(error) => assert_ne!(error.kind(), ErrorKind::Untimed),
            }
        }
    }

    fn wait_any_all(&mut self, events: [usize; 3]) {
        let fates = events.map(|event| self.fate(self.recordings[event]));
        if fates.contains(&Some(Fate::NotSubmitted)) {
            return;
        }
        let refs = events.map(|event| &self.events[event]);
        let settles = |fate: &Option<Fate>| *fate != Some(Fate::Pending);
        let any = wait_any(
            refs,
            &if fates.iter().any(settles) { bounded() } else { bounded().timeout(Duration::ZERO) },
        );
        match any.unwrap() {
            WaitAny::Settled(index) => assert!(settles(&fates[index]), "{index} of {fates:?}"),
            WaitAny::TimedOut => assert!(!fates.iter().any(settles), "{fates:?}"),
        }
        let fails = fates.iter().any(|fate| matches!(fate, Some(Fate::Failed(_))));
        let all_settle = fates.iter().all(settles);
        let options = if fails || all_settle { bounded() } else { bounded().timeout(Duration::ZERO) };
        match wait_all(refs, &options) {
            Ok(WaitOutcome::Complete) => assert!(all_settle && !fails, "{fates:?}"),
            Ok(WaitOutcome::TimedOut) => assert!(!fails && !all_settle, "{fates:?}"),
            Err(error) => assert!(fates.contains(&Some(Fate::Failed(error.kind()))), "{error}: {fates:?}"),
        }
    }

    fn end_gate(&mut self, gate: usize, how: GateEnd) {
        let Some(gate) = &mut self.gates[gate] else { return };
        let Some(signal) = gate.signal.take() else { return };
        let fate = match how {
            GateEnd::Opens => {
                signal.complete();
                Fate::Complete
            }
            GateEnd::Fails => {
                signal.fail("asked to fail");
                Fate::Failed(ErrorKind::WorkFailed)
            }
            GateEnd::IsDropped => {
                drop(signal);
                Fate::Failed(ErrorKind::Abandoned)
            }
        };
        let known = &mut self.oracle.fates[gate.point];
        if *known == Fate::Pending {
            *known = fate;
        }
    }

    fn step_external(&mut self, event: usize, how: ExternalStep) {
        let (Some(token), Some(point)) = (self.tokens[event].take(), self.recordings[event]) else { return };
        let (token, fate) = match (token, how) {
            (Token::Prepared(token), ExternalStep::Submits) => {
                (Some(Token::Running(token.submitted())), Fate::Pending)
            }
            (Token::Prepared(token), ExternalStep::IsDropped) => {
                token.abandon();
                (None, Fate::Failed(ErrorKind::Abandoned))
            }
            (Token::Running(token), ExternalStep::Completes) => {
                token.complete();
                (None, Fate::Complete)
            }
            (Token::Running(token), ExternalStep::Fails) => {
                token.fail("asked to fail");
                (None, Fate::Failed(ErrorKind::WorkFailed))
            }
            (Token::Running(token), ExternalStep::IsDropped) => {
                drop(token);
                (None, Fate::Failed(ErrorKind::Abandoned))
            }
            (token, _) => return self.tokens[event] = Some(token),
        };
        self.tokens[event] = token;
        let known = &mut self.oracle.fates[point];
        if matches!(known, Fate::Pending | Fate::NotSubmitted) {
            *known = fate;
        }
    }

    /// Brings about all that is bound to be, so that closing meets a known state; then closes.
    fn close(&mut self, device: usize) {
        if self.closed[device] {
            return;
        }
        self.quiesce();
        self.devices[device].close();
        self.closed[device] = true;
        // Everything of the device that is pending fails with it: recordings, gates, foreign submissions.
        for list in (0..self.oracle.streams.len()).filter(|list| self.list_devices[*list] == device) {
            for item in std::mem::take(&mut self.oracle.streams[list]) {
                if let Item::Mark(point) = item
                    && self.oracle.fates[point] == Fate::Pending
                {
                    self.oracle.fates[point] = Fate::Failed(ErrorKind::Closed);
                }
            }
        }
        for gate in self.gates.iter().flatten() {
            if gate.event.device_id() == self.devices[device].id()
                && self.oracle.fates[gate.point] == Fate::Pending
            {
                self.oracle.fates[gate.point] = Fate::Failed(ErrorKind::Closed);
            }
        }
        for event in (0..EVENTS).filter(|event| device_of_event(*event) == device) {
            if let (Some(_), Some(point)) = (&self.tokens[event], self.recordings[event])
                && matches!(self.oracle.fates[point], Fate::Pending | Fate::NotSubmitted)
            {
                self.oracle.fates[point] = Fate::Failed(ErrorKind::Closed);
            }
        }
        self.quiesce();
    }

    /// Waits for all that is bound to happen, and checks that nothing else has.
    fn quiesce(&mut self) {
        self.oracle.settle();
        let fates = &self.oracle.fates;
        self.probes.retain(|(point, event)| {
            let pending = fates[*point] == Fate::Pending;
            if pending {
                assert_eq!(event.status(), Status::Pending);
            } else {
                let waited =
                    event.wait_with(&bounded()).map(|outcome| assert_eq!(outcome, WaitOutcome::Complete));
                assert_eq!(waited.map_err(|error| error.kind()), expected(Some(fates[*point])));
            }
            pending
        });
        for event in 0..EVENTS {
            self.run(Op::Synchronize { event });
            self.run(Op::Look { event });
        }
        let callbacks = std::mem::take(&mut self.callbacks);
        self.callbacks =
            callbacks.into_iter().filter_map(|registered| self.check_callback(registered)).collect();
        let futures = std::mem::take(&mut self.futures);
        self.futures = futures.into_iter().filter_map(|future| self.check_future(future)).collect();
        let kept = std::mem::take(&mut self.kept);
        self.kept = kept.into_iter().filter_map(|kept| self.check_kept(kept)).collect();
        for work in 0..self.ran.len() {
            assert_eq!(self.ran[work].load(Ordering::Acquire), self.oracle.ran[work], "work {work}");
        }
    }

    /// Back comes what is still to be called.
    fn check_callback(&mut self, registered: Registered) -> Option<Registered> {
        let fate = self.fate(registered.point);
        if registered.cancelled {
            let told = registered.outcome.try_recv();
            assert!(matches!(told, Err(mpsc::TryRecvError::Disconnected)), "cancelled, and then {told:?}");
            return None;
        }
        if fate == Some(Fate::Pending) {
            let told = registered.outcome.try_recv();
            assert!(matches!(told, Err(mpsc::TryRecvError::Empty)), "too early: {told:?}");
            return Some(registered);
        }
        let outcome = registered.outcome.recv_timeout(HANG).expect("a callback that never runs");
        assert_eq!(outcome.map_err(|error| error.kind()), expected(fate));
        assert!(!registered.callback.cancel(), "cancelled after it ran");
        None
    }

    /// Back comes what is still to be kept.
    fn check_kept(&mut self, kept: Kept) -> Option<Kept> {
        match self.fate(kept.point) {
            Some(Fate::Pending) => {
                assert_eq!(kept.resource.try_recv(), Err(mpsc::TryRecvError::Empty), "let go too early");
                Some(kept)
            }
            // Nobody knows whether the device is done with it, or the one who had the submission in his hands.
            Some(Fate::Failed(kind))
                if self.closed[kept.device]
                    || kind == ErrorKind::Abandoned
                        && kept.point.is_some_and(|point| self.externals.contains(&point)) =>
            {
                assert_eq!(kept.resource.try_recv(), Err(mpsc::TryRecvError::Empty), "not leaked");
                None
            }
            _ => {
                assert_eq!(kept.resource.recv_timeout(HANG), Err(mpsc::RecvTimeoutError::Disconnected));
                None
            }
        }
    }

    /// Back comes what is still to be awaited.
    fn check_future(&mut self, mut future: Awaited) -> Option<Awaited> {
        let fate = self.fate(future.point);
        if fate == Some(Fate::Pending) {
            assert!(poll(&mut future.completion).is_pending(), "ready too early");
            return Some(future);
        }
        assert_eq!(block_on(&mut future.completion).map_err(|error| error.kind()), expected(fate));
        None
    }

    /// Opens whatever is still closed; then everything has a fate, and must meet it.
    fn finish(mut self) {
        for gate in 0..GATES {
            self.end_gate(gate, GateEnd::Opens);
        }
        for event in 0..EVENTS {
            self.step_external(event, ExternalStep::Submits);
            self.step_external(event, ExternalStep::Completes);
        }
        self.quiesce();
        assert!(self.probes.is_empty(), "nothing is held back any more");
        assert!(self.callbacks.is_empty() && self.futures.is_empty() && self.kept.is_empty());
        let pools: Vec<_> = self.devices.iter().map(Device::pool).collect();
        drop((self.events, self.gates, self.tokens, self.table, self.probes));
        for pool in pools {
            assert_eq!(pool.statistics().live, 0);
        }
    }
}

fn expected(fate: Option<Fate>) -> Result<(), ErrorKind> {
    match fate {
        None | Some(Fate::Complete) => Ok(()),
        Some(Fate::Failed(kind)) => Err(kind),
        Some(fate @ (Fate::Pending | Fate::NotSubmitted)) => unreachable!("{fate:?} is no end"),
    }
}

/// With which error elapsed time is refused, of a start and an end that are settled as far as they will be (R21).
fn refused_elapsed(timed: [bool; 2], fates: [Option<Fate>; 2]) -> Option<ErrorKind> {
    let failure = fates.iter().find_map(|fate| match fate {
        Some(Fate::Failed(kind)) => Some(*kind),
        Some(Fate::NotSubmitted) => Some(ErrorKind::NotSubmitted),
        _ => None,
    });
    if timed.contains(&false) {
        Some(ErrorKind::Untimed)
    } else if fates.contains(&None) {
        Some(ErrorKind::Unrecorded)
    } else if let Some(kind) = failure {
        Some(kind)
    } else {
        fates.contains(&Some(Fate::Pending)).then_some(ErrorKind::NotComplete)
    }
}

fn nth_of<T>(list: &[T], nth: usize) -> Option<usize> {
    nth.checked_rem(list.len())
}

fn poll(completion: &mut Completion) -> Poll<gpu_events::Result<()>> {
    pin!(completion).poll(&mut Context::from_waker(Waker::noop()))
}

/// The smallest executor that notices a waker which never comes.
fn block_on(completion: &mut Completion) -> gpu_events::Result<()> {
    struct Bell(mpsc::Sender<()>);
    impl std::task::Wake for Bell {
        fn wake(self: Arc<Self>) {
            // The executor may have what it wants already.
            let _ = self.0.send(());
        }
    }
    let (bell, rung) = mpsc::channel();
    let waker = Waker::from(Arc::new(Bell(bell)));
    let mut completion = pin!(completion);
    loop {
        match completion.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => rung.recv_timeout(HANG).expect("a future that is never woken"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_operations_agree_with_the_oracle(ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        world.finish();
    }
}
