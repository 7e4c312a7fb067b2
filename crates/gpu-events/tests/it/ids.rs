//! Ids, and the table of events by id.

use crate::support::{BOUND, complete, crowd, device, enqueue, held_stream, hold, until, within};
use gpu_events::{Device, Error, ErrorKind, EventId, EventPool, EventTable, StreamWait};
use std::{
    collections::HashSet,
    sync::{Arc, Barrier},
};

fn table(device: &Device) -> EventTable {
    EventTable::new(&EventPool::new(device))
}

/// The kind of the error that a call must end in.
#[track_caller]
fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn the_verbs_do_what_they_say() {
    let device = device();
    let table = table(&device);
    let id = table.acquire(false).unwrap();
    assert_eq!(table.len().unwrap(), 1);
    assert!(!table.query(id).unwrap());
    table.synchronize(id).unwrap();
    assert_eq!(table.wait(id, None).unwrap(), StreamWait::Nothing);

    let (stream, signal) = held_stream(&device);
    table.record(id, Some(&stream), true).unwrap();
    assert!(!table.query(id).unwrap());
    let other = device.create_stream().unwrap();
    assert!(table.wait(id, Some(&other)).unwrap().inserted());
    let after = other.record().unwrap();
    assert!(!after.is_complete().unwrap());
    signal.complete();
    table.synchronize(id).unwrap();
    assert!(table.query(id).unwrap());
    complete(&after);

    // Without a stream it is the default one.
    let signal = hold(&device.default_stream().unwrap());
    table.record(id, None, false).unwrap();
    assert!(!table.query(id).unwrap());
    signal.complete();
    table.synchronize(id).unwrap();

    assert_eq!(table.get(id).unwrap().id(), id);
    table.reset(id, false).unwrap();
    assert!(!table.query(id).unwrap());
    table.release(id).unwrap();
    assert_eq!((table.len().unwrap(), table.pool().unwrap().statistics().live), (0, 0));
}

#[test]
fn every_verb_refuses_an_id_that_is_none() {
    let device = device();
    let (table, other) = (table(&device), table(&device));
    let stale = table.acquire(true).unwrap();
    table.release(stale).unwrap();
    let strangers = other.acquire(true).unwrap();
    let good = table.acquire(true).unwrap();
    for bad in [stale, strangers, EventId::from_raw(0), EventId::from_raw(u64::MAX)] {
        assert_eq!(kind(table.release(bad)), ErrorKind::InvalidId);
        assert_eq!(kind(table.get(bad)), ErrorKind::InvalidId);
        assert_eq!(kind(table.record(bad, None, true)), ErrorKind::InvalidId);
        assert_eq!(kind(table.wait(bad, None)), ErrorKind::InvalidId);
        assert_eq!(kind(table.synchronize(bad)), ErrorKind::InvalidId);
        assert_eq!(kind(table.query(bad)), ErrorKind::InvalidId);
        assert_eq!(kind(table.elapsed_time(bad, good)), ErrorKind::InvalidId);
        assert_eq!(kind(table.elapsed_time(good, bad)), ErrorKind::InvalidId);
        assert_eq!(kind(table.reset(bad, false)), ErrorKind::InvalidId);
        assert_eq!(kind(table.reset(bad, true)), ErrorKind::InvalidId);
    }
    let text = table.query(stale).unwrap_err().to_string();
    assert_eq!(text, format!("no event has this id: {stale}"));
    // No harm was done.
    table.record(good, None, false).unwrap();
    table.synchronize(good).unwrap();
    assert_eq!(EventId::from_raw(good.get()), good);
}

#[test]
fn elapsed_waits_for_both_and_has_a_sign() {
    let _crowd = crowd();
    let device = device();
    let table = table(&device);
    let (start, end) = (table.acquire(true).unwrap(), table.acquire(true).unwrap());
    let (stream, signal) = held_stream(&device);
    table.record(start, Some(&stream), false).unwrap();
    let clock = device.clone();
    let work = move || {
        let from = clock.correlate().expect("the clock").device();
        while clock.correlate().expect("the clock").device() == from {}
        Ok(())
    };
    enqueue(&stream, work).unwrap();
    table.record(end, Some(&stream), false).unwrap();
    std::thread::scope(|scope| {
        let ms = scope.spawn(|| table.elapsed_time(start, end).unwrap());
        // It waits, and holds nobody up.
        until("elapsed waits", || device.stall_report().to_string().contains("thread "));
        let id = table.acquire(false).unwrap();
        table.release(id).unwrap();
        signal.complete();
        let ms = ms.join().unwrap();
        assert!(ms > 0.0);
        assert_eq!(table.elapsed_time(end, start).unwrap(), -ms);
        assert_eq!(table.elapsed_time(start, start).unwrap(), 0.0);
        let (start, end) = (table.get(start).unwrap(), table.get(end).unwrap());
        assert_eq!(end.elapsed_since(&start).unwrap().as_millis_f64(), ms);
        assert_eq!((end.elapsed_millis(&start).unwrap(), start.elapsed_millis(&end).unwrap()), (ms, -ms));
    });
}

/// The checks come before anything is waited for (R21).
#[test]
fn elapsed_checks_before_it_waits() {
    let device = device();
    let table = table(&device);
    let (stream, signal) = held_stream(&device);
    let (timed, untimed, unrecorded) =
        (table.acquire(true).unwrap(), table.acquire(false).unwrap(), table.acquire(true).unwrap());
    table.record(timed, Some(&stream), false).unwrap();
    table.record(untimed, Some(&stream), false).unwrap();
    // All of these would hang if they waited.
    assert_eq!(kind(table.elapsed_time(timed, untimed)), ErrorKind::Untimed);
    assert_eq!(kind(table.elapsed_time(untimed, timed)), ErrorKind::Untimed);
    assert_eq!(kind(table.elapsed_time(untimed, unrecorded)), ErrorKind::Untimed);
    assert_eq!(kind(table.elapsed_time(timed, unrecorded)), ErrorKind::Unrecorded);
    drop(signal);
    // A failure comes out of it as well.
    assert_eq!(kind(table.elapsed_time(timed, timed)), ErrorKind::Abandoned);
}

#[test]
fn reset_can_change_the_timing_and_keeps_the_id() {
    let device = device();
    let table = table(&device);
    let id = table.acquire(false).unwrap();
    let (stream, signal) = held_stream(&device);
    table.record(id, Some(&stream), false).unwrap();
    let before = table.get(id).unwrap();
    table.reset(id, true).unwrap();
    // Who uses the old one goes on with it.
    assert!(!before.is_timed() && !before.is_complete().unwrap());
    let after = table.get(id).unwrap();
    assert!(after.is_timed());
    assert_eq!((after.id(), before.id()), (id, id));
    table.record(id, None, false).unwrap();
    table.synchronize(id).unwrap();
    assert!(table.elapsed_time(id, id).is_ok());
    signal.complete();
    complete(&before);
    table.release(id).unwrap();
    assert_eq!(kind(table.query(id)), ErrorKind::InvalidId);
}

/// One thread may release what another is waiting on.
#[test]
fn a_release_leaves_those_alone_who_use_the_event() {
    let _crowd = crowd();
    let device = device();
    let table = Arc::new(table(&device));
    let id = table.acquire(false).unwrap();
    let (stream, signal) = held_stream(&device);
    table.record(id, Some(&stream), false).unwrap();
    let waiting = {
        let table = table.clone();
        std::thread::spawn(move || table.synchronize(id))
    };
    until("the thread waits", || device.stall_report().to_string().contains("thread "));
    table.release(id).unwrap();
    // The object may be somebody else's by now, under another id.
    let other = table.acquire(false).unwrap();
    assert_ne!(other, id);
    assert!(!table.query(other).unwrap());
    signal.complete();
    assert!(within(BOUND, move || waiting.join().unwrap()).expect("it returns").is_ok());
    assert!(!table.query(other).unwrap());
}

/// A table of no pool's has events of any number of devices.
#[test]
fn one_table_for_all_devices() {
    let table = EventTable::of_any_pool();
    assert!(table.pool().is_none());
    assert_eq!(kind(table.acquire(false)), ErrorKind::InvalidArgument);
    let (one, two) = (device(), device());
    let pools = [EventPool::new(&one), EventPool::new(&two)];
    let (first, second) =
        (table.acquire_from(&pools[0], false).unwrap(), table.acquire_from(&pools[1], true).unwrap());
    assert_eq!(table.pool_of(second).unwrap().device().id(), two.id());

    // Without a stream it is the default one of the event's own device, that records and that waits.
    let signal = hold(&one.default_stream().unwrap());
    for id in [first, second] {
        table.record(id, None, false).unwrap();
    }
    table.synchronize(second).unwrap();
    assert!(!table.query(first).unwrap());
    assert!(table.wait(first, Some(&two.create_stream().unwrap())).unwrap().inserted());
    assert_eq!(kind(table.record(first, Some(&two.create_stream().unwrap()), false)), ErrorKind::WrongDevice);
    signal.complete();
    table.synchronize(first).unwrap();

    // What comes about in another way is entered as it is, with a pool of its own device.
    let (event, signal) = one.host_event().unwrap();
    assert_eq!(kind(table.insert(event, &pools[1])), ErrorKind::WrongDevice);
    drop(signal);
    let (event, signal) = one.host_event().unwrap();
    let (id, inserted) = (event.id(), table.insert(event, &pools[0]).unwrap());
    assert_eq!(id, inserted);
    signal.complete();
    assert!(table.query(id).unwrap());

    // A reset with other timing takes the place's next event from where the old one came from.
    table.reset(second, false).unwrap();
    assert_eq!((pools[0].statistics().live, pools[1].statistics().live), (1, 1));
    for id in [first, second, id] {
        table.release(id).unwrap();
    }
    assert_eq!((table.len().unwrap(), pools[0].statistics().live, pools[1].statistics().live), (0, 0, 0));
}

#[test]
fn the_shared_table_is_one() {
    let (one, two) = (EventTable::shared().unwrap(), EventTable::shared().unwrap());
    assert!(std::ptr::eq(one, two));
    let id = one.acquire(false).unwrap();
    assert!(two.get(id).is_ok());
    two.release(id).unwrap();
    assert_eq!(EventPool::shared().unwrap().device().id(), Device::default().unwrap().id());
}

/// Over pools, threads and the ends of threads (R33).
#[test]
fn no_id_is_handed_out_twice() {
    let pools: Vec<EventPool> = (0..3).map(|n| EventPool::bounded(&device(), [0, 100, 4096][n])).collect();
    let table = table(&device());
    let mut seen = HashSet::new();
    for _ in 0..8 {
        // Threads that end leave ids behind that nobody had: those are not handed out again either.
        let barrier = Barrier::new(4);
        let per_thread: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        let mut ids = Vec::new();
                        for n in 0..500 {
                            let pool = &pools[n % 3];
                            // Reused objects have new ids as well.
                            ids.push(pool.acquire().id().get());
                            ids.push(pool.acquire_timed().id().get());
                            ids.push(table.acquire(n % 2 == 0).unwrap().get());
                        }
                        ids
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for id in per_thread.into_iter().flatten() {
            assert!(id != 0 && seen.insert(id), "{id} twice");
        }
    }
    assert_eq!(seen.len(), 8 * 4 * 500 * 3);
}
