//! Sums over the spans of a run, taken as they come: how long each stage was busy, and how long it was alone.
//!
//! A file of a terabyte has millions of spans, so none is kept for longer than it can still change a sum.
//! Each lane (a stream of a stage) reports its spans in order; what lies before the last end of *every* lane
//! is final, and is swept into the sums. What is kept is as bounded as the work in flight.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What one stage did with its time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// All its spans added up: more than the wall time, if several of its streams work at once.
    pub(crate) device: u64,
    /// The time in which at least one of its spans was under way.
    pub(crate) busy: u64,
    /// The part of `busy` in which no other stage was.
    pub(crate) alone: u64,
}

impl Totals {
    /// The part of `busy` in which some other stage was at work as well.
    pub(crate) fn overlapped(&self) -> u64 {
        self.busy - self.alone
    }
}

/// The sweep over all stages' spans.
#[derive(Debug)]
pub(crate) struct Sweep {
    totals: Vec<Totals>,
    /// How many spans of each stage are under way at `now`.
    active: Vec<usize>,
    /// How many chunks are, and the most that ever were.
    chunks: usize,
    peak_chunks: usize,
    /// Up to where everything is summed up.
    now: u64,
    /// Edges not swept yet, earliest first.
    edges: BinaryHeap<Reverse<Edge>>,
    /// Of each lane, the end of its latest span: no later span of it begins before.
    lanes: Vec<u64>,
}

/// Ordered by time, and at one instant ends before begins: spans that only touch don't overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    at: u64,
    kind: Kind,
    of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    End,
    Begin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Stage(usize),
    Chunk,
}

impl Sweep {
    /// A sweep over so many stages, and lanes in all.
    pub(crate) fn new(stages: usize, lanes: usize) -> Self {
        Self {
            totals: vec![Totals::default(); stages],
            active: vec![0; stages],
            chunks: 0,
            peak_chunks: 0,
            now: 0,
            edges: BinaryHeap::new(),
            lanes: vec![0; lanes],
        }
    }

    /// A stage's span on one of the lanes, not earlier than the lane's last.
    pub(crate) fn stage(&mut self, stage: usize, lane: usize, begin: u64, end: u64) {
        debug_assert!(self.lanes[lane] <= begin && begin <= end);
        self.totals[stage].device += end - begin;
        self.lanes[lane] = end;
        self.push(Of::Stage(stage), begin, end);
    }

    /// A span on one of the lanes of which is known only that it did not begin before `at`.
    pub(crate) fn unknown(&mut self, lane: usize, at: u64) {
        self.lanes[lane] = self.lanes[lane].max(at);
    }

    /// A chunk's whole way, from its first span's begin to its last one's end.
    pub(crate) fn chunk(&mut self, begin: u64, end: u64) {
        self.push(Of::Chunk, begin, end);
    }

    fn push(&mut self, of: Of, begin: u64, end: u64) {
        // An empty span adds nothing to any sum, and its end would be swept before its begin.
        if begin < end {
            self.edges.push(Reverse(Edge { at: begin, kind: Kind::Begin, of }));
            self.edges.push(Reverse(Edge { at: end, kind: Kind::End, of }));
        }
    }

    /// Sums up what no later span can change.
    pub(crate) fn settle(&mut self) {
        self.sweep_to(self.lanes.iter().copied().min().unwrap_or(0));
    }

    /// Sums up what is left. The totals of each stage, and the most chunks that were on their way at once.
    pub(crate) fn finish(mut self) -> (Vec<Totals>, usize) {
        self.sweep_to(u64::MAX);
        (self.totals, self.peak_chunks)
    }

    /// Strictly before `limit`: a span that begins there must find those that end there still to be swept.
    fn sweep_to(&mut self, limit: u64) {
        while let Some(Reverse(edge)) = self.edges.peek().copied()
            && edge.at < limit
        {
            self.edges.pop();
            self.advance(edge.at);
            match (edge.of, edge.kind) {
                (Of::Stage(stage), Kind::Begin) => self.active[stage] += 1,
                (Of::Stage(stage), Kind::End) => self.active[stage] -= 1,
                (Of::Chunk, Kind::Begin) => {
                    self.chunks += 1;
                    self.peak_chunks = self.peak_chunks.max(self.chunks);
                }
                (Of::Chunk, Kind::End) => self.chunks -= 1,
            }
        }
    }

    fn advance(&mut self, to: u64) {
        let passed = to - self.now;
        self.now = to;
        let mut busy =
            self.active.iter().enumerate().filter(|(_, active)| **active > 0).map(|(stage, _)| stage);
        let Some(first) = busy.next() else { return };
        self.totals[first].busy += passed;
        let mut alone = true;
        for stage in busy {
            self.totals[stage].busy += passed;
            alone = false;
        }
        if alone {
            self.totals[first].alone += passed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_counted_once_and_touching_is_none() {
        let mut sweep = Sweep::new(2, 3);
        // Stage 0 on lane 0; stage 1 on lanes 1 and 2.
        sweep.stage(0, 0, 0, 10);
        sweep.stage(1, 1, 10, 30);
        sweep.stage(0, 0, 10, 20);
        sweep.stage(1, 2, 20, 40);
        sweep.chunk(0, 30);
        sweep.chunk(10, 40);
        let (totals, peak) = sweep.finish();
        assert_eq!(totals[0], Totals { device: 20, busy: 20, alone: 10 });
        assert_eq!(totals[1], Totals { device: 40, busy: 30, alone: 20 });
        assert_eq!(totals[0].overlapped(), 10);
        assert_eq!(totals[1].overlapped(), 10);
        assert_eq!(peak, 2);
    }

    #[test]
    fn what_is_unknown_adds_nothing_and_keeps_nothing() {
        let mut sweep = Sweep::new(2, 2);
        for at in (0..1_000).step_by(10) {
            sweep.stage(0, 0, at, at + 10);
            sweep.unknown(1, at);
            sweep.settle();
            assert!(sweep.edges.len() < 10, "{} edges kept", sweep.edges.len());
        }
        let (totals, _) = sweep.finish();
        assert_eq!(totals, [Totals { device: 1_000, busy: 1_000, alone: 1_000 }, Totals::default()]);
    }

    #[test]
    fn empty_spans_change_nothing() {
        let mut sweep = Sweep::new(1, 1);
        sweep.stage(0, 0, 5, 5);
        sweep.chunk(5, 5);
        assert_eq!(sweep.finish(), (vec![Totals::default()], 0));
    }

    /// Whenever it settles, the sums are those of a count of every nanosecond; and little is kept.
    #[test]
    fn the_same_as_counting_every_nanosecond() {
        const STAGES: usize = 3;
        const STREAMS: [usize; STAGES] = [1, 3, 1];
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for settle_every in [1, 7, usize::MAX] {
            let mut sweep = Sweep::new(STAGES, STREAMS.iter().sum());
            let mut under_way = vec![[0_u32; STAGES]; 20_000];
            let mut device = [0; STAGES];
            let mut ends = [0; 5];
            for chunk in 0..400_usize {
                let mut ready = 0;
                let mut lane = 0;
                for stage in 0..STAGES {
                    let lane_of_chunk = lane + chunk % STREAMS[stage];
                    lane += STREAMS[stage];
                    let begin = u64::max(ready, ends[lane_of_chunk]) + next(5);
                    let end = begin + next(20);
                    (ready, ends[lane_of_chunk]) = (end, end);
                    device[stage] += end - begin;
                    under_way[begin as usize..end as usize].iter_mut().for_each(|at| at[stage] += 1);
                    sweep.stage(stage, lane_of_chunk, begin, end);
                }
                if chunk % settle_every == settle_every - 1 {
                    sweep.settle();
                }
                if settle_every == 1 {
                    assert!(sweep.edges.len() < 100, "{} edges kept", sweep.edges.len());
                }
            }
            let (totals, _) = sweep.finish();
            for stage in 0..STAGES {
                let busy = under_way.iter().filter(|at| at[stage] > 0).count() as u64;
                let alone = under_way
                    .iter()
                    .filter(|at| at[stage] > 0 && at.iter().filter(|active| **active > 0).count() == 1)
                    .count() as u64;
                assert_eq!(totals[stage], Totals { device: device[stage], busy, alone });
            }
        }
    }
}
