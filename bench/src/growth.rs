//! Does an operation cost the same when there are a million events, or a hundred thousand streams?
//!
//! In turn it should. At random each object is a cache line that has to come from wherever it is, for anybody: so one
//! access to a word in a box, among as many boxes of about the same size, is measured beside it, one after the other.

use super::harness::{Batch, Group, Measure, VariantId};
use super::report::Target;
use super::{Bench, HeldStream, text};
use anyhow::{Result, ensure};
use gpu_events::{Event, EventPool, Status, Stream};
use std::cell::OnceCell;
use std::fmt;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const EVENTS: [usize; 5] = [1, 1_000, 10_000, 100_000, 1_000_000];
pub(super) const STREAMS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// What counts as flat: the tolerance that threads are granted as well.
pub(super) const FLAT: f64 = 1.25;

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let mut group = Group::new("Growth");
    let pending = EVENTS.map(|count| (count, Shared::new(move || Pending::make(bench, count))));
    let streams = STREAMS.map(|count| (count, Shared::new(move || make_streams(bench, count))));
    let mut rows = Rows { bench, group: &mut group };

    let name = |count| format!("acquire+record+drop with {}", many(count, "pending"));
    rows.flat(name, pending.iter().map(|(count, made)| (*count, record_beside(bench, made.clone()))));
    for (order, times) in [(Order::InTurn, 1.0), (Order::Random, 2.0)] {
        let name = |count| format!("status {order} of {}", many(count, "pending"));
        let sizes = pending.iter().map(|(count, made)| {
            let read = |word: &AtomicU64| word.load(Ordering::Acquire);
            (*count, ask(bench, made.clone(), order), touch_boxes::<EVENT_WORDS>(bench, *count, order, read))
        });
        rows.beside_memory(name, &format!("a read in a box {order}"), times, sizes);
    }

    let name = |count| format!("acquire+record+drop in turn on {}", many(count, "streams"));
    let sizes = streams.iter().map(|(count, made)| (*count, record_on(bench, made.clone(), Order::InTurn)));
    rows.flat(name, sizes);
    let name = |count| format!("acquire+record+drop at random on {}", many(count, "streams"));
    let sizes = streams.iter().map(|(count, made)| {
        let (order, add) = (Order::Random, |word: &AtomicU64| word.fetch_add(1, Ordering::AcqRel));
        (
            *count,
            record_on(bench, made.clone(), order),
            touch_boxes::<STREAM_WORDS>(bench, *count, order, add),
        )
    });
    rows.beside_memory(name, "an atomic addition in a box at random", 2.0, sizes);
    group
}

/// Adds rows of one operation at each size, the smallest first.
struct Rows<'g, 'a> {
    bench: &'a Bench,
    group: &'g mut Group<'a>,
}

impl<'a> Rows<'_, 'a> {
    /// Beside the same operation at the smallest size.
    fn flat(&mut self, name: impl Fn(usize) -> String, sizes: impl Iterator<Item = (usize, Measure<'a>)>) {
        let mut first = None;
        for (count, measure) in sizes {
            let variant = self.group.variant(name(count), measure);
            let targets = first.map_or_else(Vec::new, |first| {
                self.bench.targets([Target::Within { of: "the first", variant: first, factor: FLAT }])
            });
            let first = *first.get_or_insert(variant);
            self.group.row(name(count), variant, first, targets);
        }
    }

    /// Beside an access to as many boxes: what comes on top of the smallest size should be `times` that at most.
    fn beside_memory(
        &mut self,
        name: impl Fn(usize) -> String,
        access: &str,
        times: f64,
        sizes: impl Iterator<Item = (usize, Measure<'a>, Measure<'a>)>,
    ) {
        let mut first: Option<VariantId> = None;
        for (count, measure, touch) in sizes {
            let variant = self.group.variant(name(count), measure);
            let memory = self.group.variant(access, touch);
            let targets = first.map_or_else(Vec::new, |first| {
                self.bench.targets([Target::OnTop { of: "the first", variant: first, times }])
            });
            first.get_or_insert(variant);
            self.group.row(name(count), variant, memory, targets);
        }
    }
}

/// `1 stream`, `10 streams`, `1,000,000 pending`.
pub(super) fn many(count: usize, things: &str) -> String {
    let things = if count == 1 { things.trim_end_matches('s') } else { things };
    format!("{} {things}", text::count(count as u64))
}

/// Something that several variants use, made when the first one is measured.
struct Shared<'a, T>(Rc<SharedInner<'a, T>>);

struct SharedInner<'a, T> {
    made: OnceCell<T>,
    make: Box<dyn Fn() -> Result<T> + 'a>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<'a, T> Shared<'a, T> {
    fn new(make: impl Fn() -> Result<T> + 'a) -> Self {
        Self(Rc::new(SharedInner { made: OnceCell::new(), make: Box::new(make) }))
    }

    fn get(&self) -> Result<&T> {
        if let Some(made) = self.0.made.get() {
            return Ok(made);
        }
        let made = (self.0.make)()?;
        Ok(self.0.made.get_or_init(|| made))
    }
}

/// Events that are all pending on one stream, which a gate holds back.
struct Pending {
    pool: EventPool,
    held: HeldStream,
    events: Vec<Event>,
}

impl Pending {
    fn make(bench: &Bench, count: usize) -> Result<Self> {
        let (pool, held) = (EventPool::new(&bench.device), HeldStream::new(&bench.device)?);
        let events = (0..count).map(|_| {
            let event = pool.acquire();
            event.record(&held.stream)?;
            Ok(event)
        });
        let events = events.collect::<Result<Vec<_>>>()?;
        ensure!(
            events.iter().all(|event| event.status() == Status::Pending),
            "an event behind a gate is not pending"
        );
        Ok(Self { pool, held, events })
    }
}

fn make_streams(bench: &Bench, count: usize) -> Result<Vec<Stream>> {
    (0..count).map(|_| Ok(bench.device.create_stream()?)).collect()
}

/// About as many words as an event or a stream takes with what the allocator adds.
const EVENT_WORDS: usize = 10;
const STREAM_WORDS: usize = 48;

/// Something in a place of its own, as events and streams are.
struct Boxed<const WORDS: usize>(Box<[AtomicU64; WORDS]>);

fn make_boxes<const WORDS: usize>(count: usize) -> Vec<Boxed<WORDS>> {
    (0..count).map(|_| Boxed(Box::new([const { AtomicU64::new(0) }; WORDS]))).collect()
}

#[derive(Clone, Copy, Debug)]
enum Order {
    InTurn,
    Random,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InTurn => "in turn",
            Self::Random => "at random",
        })
    }
}

/// Picks one thing after the other. It goes on where the last round ended: starting over would leave out most of a
/// million, and find the rest in a cache.
#[derive(Debug)]
struct Picker {
    order: Order,
    state: u64,
}

impl Picker {
    fn new(order: Order) -> Self {
        let state = match order {
            Order::InTurn => 0,
            Order::Random => 0x9E37_79B9_7F4A_7C15,
        };
        Self { order, state }
    }

    /// Makes the next pick at random depend on what the last access found, which is always the same. Without it the
    /// processor would look at many things at once, and it is waiting for one that a program notices.
    #[inline]
    fn follow(&mut self, unexpected: bool) {
        if let Order::Random = self.order {
            self.state ^= u64::from(unexpected);
        }
    }

    #[inline]
    fn next_of(&mut self, count: usize) -> usize {
        match self.order {
            Order::InTurn => {
                let picked = self.state as usize;
                self.state = if picked + 1 == count { 0 } else { self.state + 1 };
                picked
            }
            // Xorshift, and the high half of a product in place of a division.
            Order::Random => {
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                ((u128::from(self.state) * count as u128) >> 64) as usize
            }
        }
    }
}

fn record_beside<'a>(bench: &'a Bench, pending: Shared<'a, Pending>) -> Measure<'a> {
    let mut batch = Batch::new(&bench.plan);
    Box::new(move |samples| {
        let Pending { pool, held, .. } = pending.get()?;
        batch.sample(samples, || {
            let event = black_box(pool).acquire();
            event.record(black_box(&held.stream))?;
            black_box(&event);
            Ok(())
        })
    })
}

fn ask<'a>(bench: &'a Bench, pending: Shared<'a, Pending>, order: Order) -> Measure<'a> {
    let (mut batch, mut picker) = (Batch::new(&bench.plan), Picker::new(order));
    Box::new(move |samples| {
        let events = pending.get()?.events.as_slice();
        batch.sample(samples, || {
            let status = black_box(events[picker.next_of(events.len())].status());
            picker.follow(status != Status::Pending);
            Ok(())
        })
    })
}

fn record_on<'a>(bench: &'a Bench, streams: Shared<'a, Vec<Stream>>, order: Order) -> Measure<'a> {
    let pool = EventPool::new(&bench.device);
    let (mut batch, mut picker) = (Batch::new(&bench.plan), Picker::new(order));
    Box::new(move |samples| {
        let streams = streams.get()?.as_slice();
        batch.sample(samples, || {
            let event = black_box(&pool).acquire();
            // Nothing to follow: its locked operations are waited for anyway.
            event.record(&streams[picker.next_of(streams.len())])?;
            black_box(&event);
            Ok(())
        })
    })
}

fn touch_boxes<'a, const WORDS: usize>(
    bench: &'a Bench,
    count: usize,
    order: Order,
    touch: impl Fn(&AtomicU64) -> u64 + 'a,
) -> Measure<'a> {
    let boxes = Shared::new(move || Ok(make_boxes::<WORDS>(count)));
    let (mut batch, mut picker) = (Batch::new(&bench.plan), Picker::new(order));
    Box::new(move |samples| {
        let boxes = boxes.get()?.as_slice();
        batch.sample(samples, || {
            let Boxed(words) = &boxes[picker.next_of(boxes.len())];
            let word = black_box(touch(&words[0]));
            picker.follow(word == u64::MAX);
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_turn_is_in_turn() {
        let mut picker = Picker::new(Order::InTurn);
        let picked: Vec<_> = (0..7).map(|_| picker.next_of(3)).collect();
        assert_eq!(picked, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn random_reaches_everything_and_nothing_else() {
        let mut picker = Picker::new(Order::Random);
        let mut seen = [0_u32; 16];
        (0..16_000).for_each(|_| seen[picker.next_of(16)] += 1);
        assert!(seen.iter().all(|&times| (800..1200).contains(&times)), "{seen:?}");
        assert_eq!(picker.next_of(1), 0);
    }
}
