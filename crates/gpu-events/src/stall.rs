//! Who waits for what, when things stand still (R40).

use crate::{
    device, fork,
    lane::{Lane, Producer},
    stream::StreamId,
    time::host_nanos,
    timeline::Waiter,
};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

/// Who waits for whom on a device, and what is at the end of each chain; see
/// [`Device::stall_report`](crate::Device::stall_report).
///
/// Made to be printed; the parts are there for programs.
#[derive(Clone, Debug)]
pub struct StallReport {
    stalled: Vec<Stalled>,
    chains: Vec<StallChain>,
}

/// A stream, host signal or external submission with incomplete recordings that somebody waits for, or that waits
/// itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stalled {
    /// Its number.
    pub id: StreamId,
    /// Its name, as errors show it.
    pub name: String,
    /// The last position that is complete.
    pub completed: u64,
    /// The last position that was recorded; `None` while somebody holds the stream.
    pub recorded: Option<u64>,
    /// What it waits for.
    pub waits_for: Vec<StallWait>,
    /// Who, other than streams, waits for it: the position, who, and for how long, as in [`StallWait::since`].
    pub observers: Vec<(u64, String, Duration)>,
}

/// One wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StallWait {
    /// Number of what is waited for.
    pub id: StreamId,
    /// Its name.
    pub name: String,
    /// The position that is waited for.
    pub position: u64,
    /// For how long, to a tick of the system's coarse clock: some milliseconds.
    pub since: Duration,
    /// The thread that blocks in the waiting stream's own work, if that is how it waits.
    pub thread: Option<String>,
}

/// Streams, each of which waits for the next, and the end of the chain, which hasn't moved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StallChain {
    /// The names, in order; of a cycle, each once.
    pub links: Vec<String>,
    /// What is at the end.
    pub end: StallEnd,
}

/// What holds a chain up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallEnd {
    /// A host signal that nobody has given (R39): its name.
    HostSignal(String),
    /// An external submission: its name, and whether it was submitted (R37).
    External(String, bool),
    /// A stream that waits for nobody: its own work takes so long. Its name.
    Working(String),
    /// The chain bites its tail, so none of its streams will ever move.
    Cycle,
}

impl StallReport {
    pub(crate) fn of(device: u64) -> Self {
        if fork::happened() {
            return Self { stalled: Vec::new(), chains: Vec::new() };
        }
        let now = host_nanos();
        let lanes = device::all_lanes();
        lanes.iter().for_each(|lane| lane.look_for_links());
        let graph = Graph::new(&lanes, now);
        let mut stalled: Vec<Stalled> = lanes
            .iter()
            .filter(|lane| lane.core.device.id() == device && graph.is_stalled(lane))
            .map(|lane| graph.describe(lane))
            .collect();
        stalled.sort_by_key(|stalled| stalled.id);
        Self { chains: graph.chains(stalled.iter().map(|stalled| stalled.id.get())), stalled }
    }

    /// What has incomplete recordings, in order of number.
    pub fn stalled(&self) -> &[Stalled] {
        &self.stalled
    }

    /// The chains of waits that begin on this device and are not part of a longer one.
    pub fn chains(&self) -> &[StallChain] {
        &self.chains
    }

    /// Whether nothing is incomplete.
    pub fn is_empty(&self) -> bool {
        self.stalled.is_empty()
    }
}

/// What is read out of the waiters' lists of all lanes.
struct Graph<'a> {
    lanes: HashMap<u64, &'a Arc<Lane>>,
    /// Who waits for whom.
    waits: HashMap<u64, Vec<StallWait>>,
    observers: HashMap<u64, Vec<(u64, String, Duration)>>,
}

impl<'a> Graph<'a> {
    fn new(lanes: &'a [Arc<Lane>], now: u64) -> Self {
        let mut graph = Self {
            lanes: lanes.iter().map(|lane| (lane.id(), lane)).collect(),
            waits: HashMap::new(),
            observers: HashMap::new(),
        };
        // Let go of with no lock held.
        let mut kept = Vec::new();
        for lane in lanes {
            lane.core.timeline.for_each_waiter(|position, waiter, since| {
                let since = Duration::from_nanos(now.saturating_sub(since));
                let mut wait = |dependent: u64, thread: Option<&str>| {
                    graph.waits.entry(dependent).or_default().push(StallWait {
                        id: StreamId::new(lane.id()),
                        name: lane.to_string(),
                        position,
                        since,
                        thread: thread.map(Into::into),
                    });
                };
                let observer = match waiter {
                    Waiter::Relay(relay) => {
                        if let Some(dependent) = relay.dependent() {
                            wait(dependent, None);
                        }
                        return;
                    }
                    Waiter::Link(link) => {
                        if let Some(dependent) = link.dependent() {
                            wait(dependent.id(), None);
                            kept.push(dependent);
                        }
                        return;
                    }
                    Waiter::Thread(thread) => {
                        if let Some(working) = thread.on_behalf_of() {
                            wait(working, Some(thread.thread()));
                        }
                        format!("thread {}", thread.thread())
                    }
                    Waiter::Waker(_) => "a future".to_owned(),
                    Waiter::Callback(_) => "a callback".to_owned(),
                };
                graph.observers.entry(lane.id()).or_default().push((position, observer, since));
            });
        }
        graph
    }

    fn is_stalled(&self, lane: &Lane) -> bool {
        if lane.is_failed() {
            return false;
        }
        let incomplete = match lane.core.producer {
            Producer::Stream => lane.recorded().is_none_or(|recorded| recorded > lane.completed()),
            Producer::Host | Producer::External(_) => lane.completed() == 0,
        };
        incomplete || self.waits.contains_key(&lane.id())
    }

    fn describe(&self, lane: &Lane) -> Stalled {
        let recorded = match lane.core.producer {
            Producer::Stream => lane.recorded(),
            Producer::Host | Producer::External(_) => Some(1),
        };
        Stalled {
            id: StreamId::new(lane.id()),
            name: lane.to_string(),
            completed: lane.completed(),
            recorded,
            waits_for: self.waits.get(&lane.id()).cloned().unwrap_or_default(),
            observers: self.observers.get(&lane.id()).cloned().unwrap_or_default(),
        }
    }

    /// Walks from each lane along its longest-standing wait. Chains that are the tail of another are left out.
    fn chains(&self, starts: impl Iterator<Item = u64>) -> Vec<StallChain> {
        let mut paths: Vec<(Vec<u64>, bool)> = starts.map(|start| self.path(start)).collect();
        paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        let mut seen = HashSet::new();
        let mut chains = Vec::new();
        for (path, cyclic) in paths {
            if path.first().is_some_and(|first| !seen.contains(first)) {
                chains.extend(self.chain(&path, cyclic));
            }
            seen.extend(path);
        }
        chains
    }

    /// The lanes from `start` to where the chain ends, and whether it ends in itself. Of a cycle, only the cycle.
    fn path(&self, start: u64) -> (Vec<u64>, bool) {
        let mut path = vec![start];
        let mut on_path = HashSet::from([start]);
        let mut at = start;
        while let Some(wait) =
            self.waits.get(&at).and_then(|waits| waits.iter().max_by_key(|wait| wait.since))
        {
            at = wait.id.get();
            if !on_path.insert(at) {
                let from = path.iter().position(|&id| id == at).unwrap_or(0);
                return (path.split_off(from), true);
            }
            path.push(at);
        }
        (path, false)
    }

    fn chain(&self, path: &[u64], cyclic: bool) -> Option<StallChain> {
        let links = path.iter().filter_map(|id| self.lanes.get(id)).map(|lane| lane.to_string()).collect();
        let end = if cyclic {
            StallEnd::Cycle
        } else {
            let lane = self.lanes.get(path.last()?)?;
            match lane.core.producer {
                Producer::Stream => StallEnd::Working(lane.to_string()),
                Producer::Host => StallEnd::HostSignal(lane.to_string()),
                Producer::External(_) => StallEnd::External(lane.to_string(), !lane.is_unsubmitted()),
            }
        };
        Some(StallChain { links, end })
    }
}

impl fmt::Display for StallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing is pending");
        }
        for (index, stalled) in self.stalled.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{stalled}")?;
        }
        for chain in &self.chains {
            write!(f, "\n{chain}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} complete", self.name, self.completed)?;
        match self.recorded {
            Some(recorded) => write!(f, " of {recorded} recorded")?,
            None => f.write_str(", held by somebody")?,
        }
        for wait in &self.waits_for {
            write!(f, "\n  waits for position {} of {}, since {:.1?}", wait.position, wait.name, wait.since)?;
            if let Some(thread) = &wait.thread {
                write!(f, ", in its own work on thread {thread}")?;
            }
        }
        for (position, who, since) in &self.observers {
            write!(f, "\n  {who} waits for its position {position}, since {since:.1?}")?;
        }
        Ok(())
    }
}

impl fmt::Display for StallChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.end, self.links.join(" → "))?;
        if self.end == StallEnd::Cycle
            && let Some(first) = self.links.first()
        {
            write!(f, " → {first}")?;
        }
        Ok(())
    }
}

impl fmt::Display for StallEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostSignal(name) => write!(f, "{name} has not been signaled"),
            Self::External(name, true) => write!(f, "{name} is not done"),
            Self::External(name, false) => write!(f, "{name} was never submitted"),
            Self::Working(name) => write!(f, "{name} is busy with its own work"),
            Self::Cycle => f.write_str("a cycle, which will never move"),
        }
    }
}
