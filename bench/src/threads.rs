//! Many threads at once: what each does on its own should cost no more, and what they share should get no slower.
//!
//! A row's time is over the operations of all threads together, so with twice the threads half of it is perfect. What the machine itself allows is in the rows of the words that threads have to themselves or share.

use super::harness::{Group, Measure, VariantId, sample_threads, threaded};
use super::report::Target;
use super::seed::{SeedEvent, SeedPool, SeedTable};
use super::{Bench, HeldStream, host};
use anyhow::Result;
use futures_lite::future;
use gpu_events::{EventPool, EventTable, Stream};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The host of a large GPU has some 16 cores for each.
pub(super) const THREADS: [usize; 5] = [1, 2, 4, 8, 16];

/// What 16 threads on streams of their own are to reach over one.
pub(super) const SCALES: f64 = 10.0;

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let mut group = Group::new("Threads");
    let mut rows = Rows { bench, group: &mut group };

    rows.of("acquire+record+complete+drop on own streams", own_streams, scales);
    rows.of("the same in the seed's way", seed, no_target);
    rows.of("an addition to an own word", own_words, no_target);
    rows.of("acquire+record+complete+release by id", table, scales);
    rows.of("a table of ids for each thread", own_tables, no_target);
    rows.of("the same by the seed's ids", seed_table, no_target);
    rows.of("acquire+record+complete+drop on one stream", one_stream, no_target);
    rows.of("an addition under one lock", one_lock, no_target);
    rows.of("an addition to one word", one_word, no_target);
    rows.of("status of one pending event", status, no_target);
    rows.of("a read of one word", one_read, no_target);
    rows.of("poll and drop of one event's future", futures, no_target);
    #[cfg(feature = "peers")]
    for (operation, measure) in peers::ALL.into_iter().filter(|_| bench.peers) {
        rows.of(operation, measure, no_target);
    }
    group
}

fn no_target(_: &Bench, _: usize) -> Vec<Target> {
    Vec::new()
}

/// Where there are as many cores.
fn scales(bench: &Bench, threads: usize) -> Vec<Target> {
    if threads == 16 && host::cores() >= 16 {
        bench.targets([Target::TimesFaster(SCALES)])
    } else {
        Vec::new()
    }
}

/// Adds rows of one operation with each number of threads, beside it with one.
struct Rows<'g, 'a> {
    bench: &'a Bench,
    group: &'g mut Group<'a>,
}

impl<'a> Rows<'_, 'a> {
    fn of(
        &mut self,
        operation: &str,
        measure: impl Fn(&'a Bench, usize) -> Measure<'a>,
        targets: impl Fn(&Bench, usize) -> Vec<Target>,
    ) {
        let mut one: Option<VariantId> = None;
        for threads in THREADS {
            let name = if threads == 1 {
                format!("{operation}, 1 thread")
            } else {
                format!("{operation}, {threads} threads")
            };
            let variant = self.group.variant(name.clone(), measure(self.bench, threads));
            let one = *one.get_or_insert(variant);
            self.group.row(name, variant, one, targets(self.bench, threads));
        }
    }
}

/// Made when it is first needed, for as many threads.
fn streams(bench: &Bench, threads: usize) -> Result<Vec<Stream>> {
    (0..threads).map(|_| Ok(bench.device.create_stream()?)).collect()
}

/// A measurement of what takes something to be set up first.
fn with<'a, T: Sync + 'a>(
    bench: &'a Bench,
    threads: usize,
    make: impl Fn() -> Result<T> + 'a,
    work: impl Fn(&T, usize, u64) + Sync + Copy + 'a,
) -> Measure<'a> {
    let mut made = None;
    Box::new(move |samples| {
        let made = match &made {
            Some(made) => made,
            None => &*made.insert(make()?),
        };
        sample_threads(&bench.plan, samples, threads, |thread, times| work(made, thread, times));
        Ok(())
    })
}

fn own_streams<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let make = move || Ok((EventPool::new(&bench.device), streams(bench, threads)?));
    with(bench, threads, make, |(pool, streams), thread, times| {
        let stream = &streams[thread];
        for _ in 0..times {
            let event = black_box(pool).acquire();
            event.record(black_box(stream)).expect("an idle stream takes recordings");
            black_box(&event);
        }
        stream.synchronize().expect("an idle stream does not fail");
    })
}

fn one_stream<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let make = move || Ok((EventPool::new(&bench.device), bench.device.create_stream()?));
    with(bench, threads, make, |(pool, stream), _, times| {
        for _ in 0..times {
            let event = black_box(pool).acquire();
            event.record(black_box(stream)).expect("an idle stream takes recordings");
            black_box(&event);
        }
        stream.synchronize().expect("an idle stream does not fail");
    })
}

fn table<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let make = move || Ok((EventTable::new(&EventPool::new(&bench.device)), streams(bench, threads)?));
    with(bench, threads, make, |(table, streams), thread, times| by_id(table, &streams[thread], times))
}

fn by_id(table: &EventTable, stream: &Stream, times: u64) {
    for _ in 0..times {
        let id = black_box(table).acquire(false).expect("the table has a pool");
        table.record(id, Some(stream), false).expect("the id was acquired just now");
        table.release(id).expect("the id was acquired just now");
    }
    stream.synchronize().expect("an idle stream does not fail");
}

/// What the machine allows, with nothing shared.
fn own_tables<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let make = move || {
        let table = || EventTable::new(&EventPool::new(&bench.device));
        Ok((std::iter::repeat_with(table).take(threads).collect::<Vec<_>>(), streams(bench, threads)?))
    };
    with(bench, threads, make, |(tables, streams), thread, times| {
        by_id(&tables[thread], &streams[thread], times);
    })
}

fn status<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let make = move || {
        let held = HeldStream::new(&bench.device)?;
        Ok((held.stream.record()?, held))
    };
    with(bench, threads, make, |(event, _), _, times| {
        for _ in 0..times {
            black_box(black_box(event).status());
        }
    })
}

/// Registers on one timeline, and takes that back.
fn futures<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let make = move || {
        let held = HeldStream::new(&bench.device)?;
        Ok((held.stream.record()?, held))
    };
    with(bench, threads, make, |(event, _), _, times| {
        for _ in 0..times {
            poll_once(black_box(event).completion());
        }
    })
}

fn seed<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let pool = SeedPool::default();
    threaded(&bench.plan, threads, move |_, times| {
        for _ in 0..times {
            let handle = black_box(&pool).acquire();
            handle.event().record();
            SeedEvent::complete(handle.event());
            black_box(handle.event());
        }
    })
}

fn seed_table<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let table = SeedTable::default();
    threaded(&bench.plan, threads, move |_, times| {
        for _ in 0..times {
            let id = black_box(&table).acquire();
            table.with(id, SeedEvent::record);
            table.with(id, SeedEvent::complete);
            table.release(id);
        }
    })
}

/// A word in a line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Padded(AtomicU64);

fn own_words<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let words: Vec<Padded> = (0..threads).map(|_| Padded::default()).collect();
    threaded(&bench.plan, threads, move |thread, times| {
        let Padded(word) = &words[thread];
        for _ in 0..times {
            black_box(word).fetch_add(1, Ordering::AcqRel);
        }
    })
}

fn one_lock<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let count = Mutex::new(0_u64);
    threaded(&bench.plan, threads, move |_, times| {
        for _ in 0..times {
            let mut count = black_box(&count).lock().unwrap_or_else(PoisonError::into_inner);
            *count += 1;
        }
    })
}

fn one_word<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let word = Padded::default();
    threaded(&bench.plan, threads, move |_, times| {
        for _ in 0..times {
            black_box(&word.0).fetch_add(1, Ordering::AcqRel);
        }
    })
}

fn one_read<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
    let word = Padded::default();
    threaded(&bench.plan, threads, move |_, times| {
        for _ in 0..times {
            black_box(black_box(&word.0).load(Ordering::Acquire));
        }
    })
}

/// Polls once, as an executor does that finds nothing to do.
fn poll_once(future: impl Future) {
    let polled = future::block_on(future::poll_once(future));
    assert!(polled.is_none(), "what nobody completes is complete");
}

/// Whoever waits for one event, in what people would use instead. None of them knows positions: whoever is woken has to
/// look whether it was for him.
#[cfg(feature = "peers")]
mod peers {
    use super::{Bench, Measure, black_box, poll_once, threaded};

    type Peer = (&'static str, for<'a> fn(&'a Bench, usize) -> Measure<'a>);

    pub(super) const ALL: [Peer; 2] =
        [("the same with event-listener", listeners), ("the same with tokio's Notify", notify)];

    fn listeners<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
        let event: event_listener::Event = event_listener::Event::new();
        threaded(&bench.plan, threads, move |_, times| {
            for _ in 0..times {
                poll_once(black_box(&event).listen());
            }
        })
    }

    fn notify<'a>(bench: &'a Bench, threads: usize) -> Measure<'a> {
        let notify = tokio::sync::Notify::new();
        threaded(&bench.plan, threads, move |_, times| {
            for _ in 0..times {
                poll_once(black_box(&notify).notified());
            }
        })
    }
}
