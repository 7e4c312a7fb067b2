//! What events and streams weigh, counted at the allocator, in a process that does nothing else.
//!
//! Counted is what glibc's allocator takes for a request (its header and rounding included), not only what was asked
//! for. `gpu-events bench` weighs the same as resident memory.

#![cfg(all(feature = "cpu", not(gpu_events_loom)))]

use gpu_events::{Device, Event, EventTable, Stream};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The system's allocator, with a count of what is taken.
struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// What a request of this size takes: a word of the allocator's own, in steps of two words, four at least.
fn weight(size: usize) -> usize {
    let word = size_of::<usize>();
    (size + word).next_multiple_of(2 * word).max(4 * word)
}

// SAFETY: all is passed on to the system's allocator as it came; what is counted changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(weight(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(weight(layout.size()), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Makes `count` of them, and says what each weighs, its handle included.
fn weigh<T>(count: usize, make: impl Fn() -> T) -> (f64, Vec<T>) {
    let mut made = Vec::with_capacity(count);
    let before = TAKEN.load(Ordering::Relaxed);
    made.extend((0..count).map(|_| make()));
    let taken = TAKEN.load(Ordering::Relaxed) - before;
    (size_of::<T>() as f64 + taken as f64 / count as f64, made)
}

/// One test, because the count is the process's.
#[test]
fn events_and_streams_are_light() {
    let device = Device::open("cpu").unwrap();
    let (gate, signal) = device.host_event().unwrap();
    let held = device.create_stream().unwrap();
    held.wait(&gate).unwrap();

    let (pending, events): (f64, Vec<Event>) = weigh(200_000, || held.record().unwrap());
    println!("a pending event: {pending:.0} bytes");
    assert!(pending <= 128.0, "a pending event weighs {pending} bytes");

    let (timed, timed_events) = weigh(200_000, || held.record_timed().unwrap());
    println!("a pending timed event: {timed:.0} bytes");
    assert!(timed <= 256.0, "a pending timed event weighs {timed} bytes");

    // Idle, but not unused.
    let (idle, streams): (f64, Vec<Stream>) = weigh(50_000, || {
        let stream = device.create_stream().unwrap();
        drop(stream.record().unwrap());
        stream
    });
    println!("an idle stream: {idle:.0} bytes");
    assert!(idle <= 512.0, "an idle stream weighs {idle} bytes");

    // Nothing is kept that nobody asked to be kept.
    signal.complete();
    held.synchronize().unwrap();
    let before = TAKEN.load(Ordering::Relaxed);
    drop((events, timed_events, streams));
    device.pool().empty_cache();
    let given_back = before - TAKEN.load(Ordering::Relaxed);
    // Less what a growing list of streams took and keeps, and the handles themselves, which the lists held.
    let taken = 200_000.0 * (pending - 8.0) + 200_000.0 * (timed - 8.0) + 50_000.0 * (idle - 24.0);
    assert!(given_back as f64 > 0.8 * taken, "{given_back} of {taken} bytes came back");

    // Ids only go on, and come by all of a table's shards in time: none keeps much of those that have gone.
    let table = EventTable::new(&device.pool());
    let empty = TAKEN.load(Ordering::Relaxed);
    let mut live: std::collections::VecDeque<_> = (0..300).map(|_| table.acquire(false).unwrap()).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..16_384 * cores {
        live.push_back(table.acquire(false).unwrap());
        table.release(live.pop_front().unwrap()).unwrap();
    }
    let kept = (TAKEN.load(Ordering::Relaxed) - empty) / cores;
    println!("a table of 300 ids, for each core: {kept} bytes");
    assert!(kept <= 100_000, "a table of 300 ids keeps {kept} bytes for each core");
}
