//! Events, pools and ids as objects: what is fresh, what is reused, and what outlives what.

use super::{Case, Group, case};
use crate::{
    Context, Verdict,
    context::finish_all,
    verdict::{ensure, equal},
};
use gpu_events::{ErrorKind, Event, EventId, EventPool, EventTable, Gates, Status};
use std::{
    collections::HashSet,
    sync::{Arc, Barrier, Mutex, PoisonError},
    thread,
};

const fn row(id: u16, name: &'static str, rules: &'static [u8], run: fn(&Context) -> Verdict) -> Case {
    case(Group::Lifecycle, id, name, rules, run)
}

pub(super) const CASES: &[Case] = &[
    row(1, "fresh-event-is-unrecorded", &[4], fresh_event_is_unrecorded),
    row(2, "the-stream-comes-from-the-first-record", &[1], the_stream_comes_from_the_first_record),
    row(3, "ids-are-distinct", &[33], ids_are_distinct),
    row(4, "double-release-is-an-error", &[33], double_release_is_an_error),
    row(5, "event-outlives-pool-stream-and-device", &[32], event_outlives_pool_stream_and_device),
    row(6, "released-in-flight-comes-back-unrecorded", &[30, 31], released_in_flight_comes_back_unrecorded),
    row(7, "bad-id-leaves-the-table-usable", &[33], bad_id_leaves_the_table_usable),
    row(8, "stale-id-never-aliases", &[33], stale_id_never_aliases),
    row(9, "acquire-and-release-from-16-threads", &[30, 34], acquire_and_release_from_16_threads),
    row(10, "pool-is-bounded-and-can-be-emptied", &[30], pool_is_bounded_and_can_be_emptied),
    row(11, "drop-of-a-pending-event-changes-nothing", &[31], drop_of_a_pending_event_changes_nothing),
    row(12, "moved-and-shared-handles-are-one-object", &[34], moved_and_shared_handles_are_one_object),
    row(92, "pool-keeps-timed-and-untimed-apart", &[30], pool_keeps_timed_and_untimed_apart),
    row(93, "id-verbs-do-what-the-handles-do", &[4, 21, 33], id_verbs_do_what_the_handles_do),
    row(94, "reset-forgets-without-rewinding", &[2, 30], reset_forgets_without_rewinding),
];

fn fresh_event_is_unrecorded(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    for timed in [false, true] {
        let event = if timed { device.pool().acquire_timed() } else { device.pool().acquire() };
        equal("whether it is timed", event.is_timed(), timed)?;
        equal("status", event.status(), Status::Unrecorded)?;
        equal("is_complete", event.is_complete()?, false)?;
        ensure(event.error().is_none(), "a fresh event has an error")?;
        equal("its device", event.device_id(), device.id())?;
        equal("its label", event.label().as_deref(), None)?;
        ensure(!stream.wait(&event)?.inserted(), "a stream's wait for it was inserted")?;
        let kind = if timed { ErrorKind::Unrecorded } else { ErrorKind::Untimed };
        equal("its time", event.completion_time().map_err(|error| error.kind()), Err(kind))?;
    }
    Ok(())
}

fn the_stream_comes_from_the_first_record(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (held, free) = (device.create_stream()?, device.create_stream()?);
    let event = device.pool().acquire();
    equal("the device", event.device_id(), device.id())?;
    // Until it is recorded it belongs to no stream: not to one that is held, nor to one that is used beside it.
    let hold = ctx.hold(&held)?;
    let pending = held.record()?;
    ctx.settle(&free.record()?)?;
    equal("status before the first record", event.status(), Status::Unrecorded)?;
    event.record(&held)?;
    ctx.settle(&free.record()?)?;
    ctx.stays_pending(&event)?;
    hold.release();
    ctx.settle_all([&event, &pending])?;
    equal("the device, once recorded", event.device_id(), device.id())
}

fn ids_are_distinct(ctx: &Context) -> Verdict {
    let (device, other) = (ctx.device()?, ctx.foreign_device(&ctx.device()?)?);
    ensure(device.id() != other.id(), "two devices share an id")?;
    let streams = [device.create_stream()?, device.create_stream()?, other.create_stream()?];
    let stream_ids: HashSet<_> = streams.iter().map(|stream| stream.id()).collect();
    equal("distinct ids of three streams", stream_ids.len(), 3)?;

    let pools = [device.pool().clone(), EventPool::new(&device), other.pool().clone()];
    let events: Vec<Event> = (0..1_000)
        .map(|i| {
            let pool = &pools[i % pools.len()];
            if i % 2 == 0 { pool.acquire() } else { pool.acquire_timed() }
        })
        .collect();
    let ids: HashSet<EventId> = events.iter().map(Event::id).collect();
    equal("distinct ids of 1,000 live events", ids.len(), events.len())?;
    for (event, i) in events.iter().zip(0..) {
        equal("the id, asked again", event.id(), events[i].id())?;
        equal("the id after a round trip", EventId::from_raw(event.id().get()), event.id())?;
    }

    let tables = [EventTable::new(&pools[0]), EventTable::new(&pools[1])];
    let mut ids = HashSet::new();
    for i in 0..1_000 {
        let id = tables[i % 2].acquire(i % 3 == 0)?;
        ensure(ids.insert(id), format_args!("two tables both have an id {id}"))?;
        let stranger = tables[1 - i % 2].query(id).map_err(|error| error.kind());
        equal("an id of another table", stranger, Err(ErrorKind::InvalidId))?;
    }
    Ok(())
}

fn double_release_is_an_error(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let table = EventTable::new(&device.pool());
    let (id, kept) = (table.acquire(false)?, table.acquire(true)?);
    table.release(id)?;
    for _ in 0..3 {
        let again = table.release(id).map_err(|error| error.kind());
        equal("releasing what was released", again, Err(ErrorKind::InvalidId))?;
    }
    equal("events left in the table", table.len()?, 1)?;
    Ok(table.release(kept)?)
}

fn event_outlives_pool_stream_and_device(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let pool = EventPool::new(&device);
    let stream = device.create_stream()?;
    let cells = ctx.cells(&device, 1)?;
    let hold = ctx.hold(&stream)?;
    cells.write(&stream, 0, 7)?;
    let event = pool.acquire_timed();
    event.record(&stream)?;
    let device_id = device.id();

    // And one with work pending for good, to outlive `main`: whoever ends the process sees whether it does. Not where
    // the driver waits: a gate that never opens would hold up the cases to come (see `Gates::Driver`).
    static KEPT: Mutex<Vec<Event>> = Mutex::new(Vec::new());
    if !matches!(device.capabilities().gates, Gates::Driver { .. }) {
        let forever = device.create_stream()?;
        std::mem::forget(ctx.hold(&forever)?);
        let kept = forever.record()?;
        ctx.pending(&kept)?;
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }

    drop((pool, stream, device));
    ctx.stays_pending(&event)?;
    hold.release();
    ctx.settle(&event)?;
    equal("the work before it", cells.read(0), 7)?;
    event.completion_time()?;
    equal("its device", event.device_id(), device_id)
}

fn released_in_flight_comes_back_unrecorded(ctx: &Context) -> Verdict {
    const EVENTS: usize = 64;
    let device = ctx.device()?;
    let pool = EventPool::new(&device);
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    for i in 0..EVENTS {
        let event = if i % 2 == 0 { pool.acquire() } else { pool.acquire_timed() };
        event.set_label("of the one before");
        event.record(&stream)?;
    }
    let reused: Vec<Event> =
        (0..EVENTS).map(|i| if i % 2 == 0 { pool.acquire() } else { pool.acquire_timed() }).collect();
    let created = pool.statistics().created;
    ensure(
        created < 2 * EVENTS as u64,
        format_args!("{created} events were made for {EVENTS} at a time: none was reused"),
    )?;
    let fresh = |event: &Event| -> Verdict {
        equal("status of a reused event", event.status(), Status::Unrecorded)?;
        equal("label of a reused event", event.label().as_deref(), None)
    };
    reused.iter().try_for_each(fresh)?;
    let last = stream.record()?;
    hold.release();
    ctx.settle(&last)?;
    // The completion of what they once stood for is none of their business.
    reused.iter().try_for_each(fresh)?;
    reused.iter().try_for_each(|event| event.record(&stream))?;
    ctx.settle_all(&reused)
}

fn bad_id_leaves_the_table_usable(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let table = Arc::new(EventTable::new(&device.pool()));
    let (live, stale) = (table.acquire(true)?, table.acquire(true)?);
    table.release(stale)?;
    let bad = [stale.get(), 0, 1 << 20, 1 << 40, u64::MAX, live.get() ^ 1 << 33].map(EventId::from_raw);

    let (abused, on) = (table.clone(), stream.clone());
    let kinds = ctx.spawn(move || {
        let table = abused;
        bad.into_iter()
            .flat_map(|id| {
                [
                    ("release", table.release(id).err()),
                    ("record", table.record(id, Some(&on), true).err()),
                    ("wait", table.wait(id, Some(&on)).err()),
                    ("synchronize", table.synchronize(id).err()),
                    ("query", table.query(id).err()),
                    ("elapsed_time from it", table.elapsed_time(id, live).err()),
                    ("elapsed_time to it", table.elapsed_time(live, id).err()),
                    ("reset", table.reset(id, false).err()),
                    ("get", table.get(id).err()),
                ]
            })
            .map(|(verb, error)| (verb, error.map(|error| error.kind())))
            .collect::<Vec<_>>()
    })?;
    for (verb, kind) in kinds.finish()? {
        equal(verb, kind, Some(ErrorKind::InvalidId))?;
    }

    let others = (0..4).map(|_| {
        let (table, stream) = (table.clone(), stream.clone());
        ctx.spawn(move || {
            for _ in 0..50 {
                let id = table.acquire(false)?;
                table.record(id, Some(&stream), true)?;
                table.synchronize(id)?;
                table.release(id)?;
            }
            Ok::<_, gpu_events::Error>(())
        })
    });
    for done in finish_all(others.collect::<Verdict<Vec<_>>>()?)? {
        done?;
    }
    table.record(live, Some(&stream), true)?;
    equal("events left in the table", table.len()?, 1)
}

fn stale_id_never_aliases(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let table = EventTable::new(&device.pool());
    let stale = table.acquire(false)?;
    table.release(stale)?;
    let mut seen = HashSet::from([stale]);
    for _ in 0..10_000 {
        let id = table.acquire(false)?;
        ensure(seen.insert(id), format_args!("id {} was handed out twice", id.get()))?;
        equal("a stale id", table.query(stale).map_err(|error| error.kind()), Err(ErrorKind::InvalidId))?;
        table.release(id)?;
    }
    // Recording through a stale id must not move the event that lives in its place now.
    let live = table.acquire(false)?;
    let refused = table.record(stale, Some(&stream), false).map_err(|error| error.kind());
    equal("recording a stale id", refused, Err(ErrorKind::InvalidId))?;
    equal("status of its successor", table.get(live)?.status(), Status::Unrecorded)
}

fn acquire_and_release_from_16_threads(ctx: &Context) -> Verdict {
    const THREADS: usize = 16;
    const ROUNDS: usize = 250;
    let device = ctx.device()?;
    let pool = EventPool::new(&device);
    let table = Arc::new(EventTable::new(&pool));
    let barrier = Arc::new(Barrier::new(THREADS));
    let tasks = (0..THREADS).map(|thread| {
        let (pool, table, barrier) = (pool.clone(), table.clone(), barrier.clone());
        let (stream, patience) = (device.create_stream()?, ctx.patience());
        ctx.spawn(move || -> Verdict<Vec<EventId>> {
            barrier.wait();
            let mut ids = Vec::with_capacity(ROUNDS);
            // Some events die on another thread than the one that acquired them.
            let mut abroad = Vec::new();
            for round in 0..ROUNDS {
                let event = pool.acquire();
                equal("status of an acquired event", event.status(), Status::Unrecorded)?;
                event.record(&stream)?;
                let label = format!("{thread} {round}");
                event.set_label(&label);
                if round % 4 == 0 {
                    let _ = event.wait_timeout(patience)?;
                }
                equal("label of an event of this thread's own", event.label().as_deref(), Some(&*label))?;
                if round % 3 == 0 {
                    abroad.push(event);
                }
                let id = table.acquire(false)?;
                ensure(!table.query(id)?, "an id that was just handed out is complete")?;
                ids.push(id);
                if round % 2 == 0 {
                    table.release(id)?;
                }
            }
            let _detached = thread::spawn(move || drop(abroad));
            Ok(ids)
        })
    });
    let tasks = tasks.collect::<Verdict<Vec<_>>>()?;
    let mut seen = HashSet::new();
    for ids in finish_all(tasks)? {
        for id in ids? {
            ensure(seen.insert(id), format_args!("id {} was handed out twice", id.get()))?;
        }
    }
    equal("ids that were not released", table.len()?, THREADS * ROUNDS / 2)?;
    drop(table);
    ctx.until("the return of every event", || pool.statistics().live == 0)?;
    let acquired = pool.statistics().acquired;
    equal("events acquired", acquired, 2 * (THREADS * ROUNDS) as u64)
}

fn pool_is_bounded_and_can_be_emptied(ctx: &Context) -> Verdict {
    const BOUND: usize = 4;
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let pool = EventPool::bounded(&device, BOUND);
    let hold = ctx.hold(&stream)?;
    // The bound is on idle events, never on live ones.
    let mut events: Vec<Event> = (0..64).map(|_| pool.acquire()).collect();
    events.iter().try_for_each(|event| event.record(&stream))?;
    equal("live events", pool.statistics().live, 64)?;
    let kept = events.split_off(60);
    drop(events);
    let idle = pool.statistics().idle;
    ensure(idle <= BOUND as u64, format_args!("{idle} idle events in a pool bounded to {BOUND}"))?;
    pool.empty_cache();
    equal("idle events after empty_cache", pool.statistics().idle, 0)?;
    kept.iter().try_for_each(|event| ctx.pending(event))?;
    hold.release();
    ctx.settle_all(&kept)?;
    equal("live events at the end", pool.statistics().live, 4)?;
    let fresh = pool.acquire();
    fresh.record(&stream)?;
    ctx.settle(&fresh)
}

fn drop_of_a_pending_event_changes_nothing(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (first, second) = (device.create_stream()?, device.create_stream()?);
    let cells = ctx.cells(&device, 2)?;
    let hold = ctx.hold(&first)?;
    cells.write(&first, 0, 11)?;
    let event = first.record()?;
    ensure(second.wait(&event)?.inserted(), "waiting for a pending event inserted nothing")?;
    cells.copy(&second, 0, 1)?;
    let end = second.record()?;
    // Neither blocks …
    ctx.spawn(move || drop(event))?.finish()?;
    ctx.stays_pending(&end)?;
    // … nor cancels: not the work, not the wait that was made for it, whoever has the event by now.
    let heirs: Vec<Event> = (0..16).map(|_| device.pool().acquire()).collect();
    heirs.iter().try_for_each(|event| event.record(&second))?;
    hold.release();
    ctx.settle(&end)?;
    equal("what the dropped event stood for", cells.read(1), 11)?;
    ctx.settle_all(&heirs)
}

fn moved_and_shared_handles_are_one_object(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let event = stream.record()?;
    ctx.settle(&event)?;
    let id = event.id();
    let moved = ctx.spawn(move || Box::new(event))?.finish()?;
    equal("id after a move to another thread", moved.id(), id)?;
    equal("status after the move", moved.status(), Status::Complete)?;

    let (twin, other) = (stream.clone(), device.clone());
    equal("id of a cloned stream", twin.id(), stream.id())?;
    equal("id of a cloned device", other.id(), device.id())?;
    // Both handles count on one timeline: what the one holds back holds the other's recordings back.
    let hold = ctx.hold(&twin)?;
    moved.record(&stream)?;
    let behind = twin.record()?;
    ctx.stays_pending(&moved)?;
    drop(twin);
    hold.release();
    ctx.settle_all([&*moved, &behind])?;

    let shared = Arc::new(stream.record()?);
    let theirs = shared.clone();
    let seen = ctx.spawn(move || theirs.id())?.finish()?;
    equal("id through a shared handle", seen, shared.id())
}

fn pool_keeps_timed_and_untimed_apart(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let pool = EventPool::new(&device);
    let stream = device.create_stream()?;
    for round in 0..100 {
        let (timed, untimed) = (pool.acquire_timed(), pool.acquire());
        ensure(timed.is_timed(), format_args!("acquire_timed gave an untimed event in round {round}"))?;
        ensure(!untimed.is_timed(), format_args!("acquire gave a timed event in round {round}"))?;
        if round % 10 == 0 {
            timed.record(&stream)?;
            untimed.record(&stream)?;
        }
        // In either order, so that the one to come back first is not always of the same kind.
        if round % 2 == 0 { drop((timed, untimed)) } else { drop((untimed, timed)) }
    }
    let created = pool.statistics().created;
    ensure(created < 200, format_args!("{created} events were made for two at a time: none was reused"))
}

fn id_verbs_do_what_the_handles_do(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let table = EventTable::new(&device.pool());
    let (start, end, untimed) = (table.acquire(true)?, table.acquire(true)?, table.acquire(false)?);
    equal("query of an unrecorded id", table.query(start)?, false)?;
    table.synchronize(start)?;
    ensure(!table.wait(start, Some(&other))?.inserted(), "waiting for an unrecorded id inserted something")?;
    let kind = |start, end| table.elapsed_time(start, end).map_err(|error| error.kind());
    equal("elapsed with an untimed end", kind(start, untimed), Err(ErrorKind::Untimed))?;
    equal("elapsed of unrecorded ids", kind(start, end), Err(ErrorKind::Unrecorded))?;

    let hold = ctx.hold(&stream)?;
    table.record(start, Some(&stream), false)?;
    equal("query of a held id", table.query(start)?, false)?;
    ensure(table.wait(start, Some(&other))?.inserted(), "waiting for a pending id inserted nothing")?;
    table.record(end, Some(&other), true)?;
    equal("query of an id that waits", table.query(end)?, false)?;
    hold.release();
    // No synchronize: elapsed_time does that itself, as the seed's does, and any number of times.
    let first = table.elapsed_time(start, end)?;
    ensure(first >= 0.0, format_args!("{first} ms from a recording to one that waited for it"))?;
    equal("elapsed, asked again", table.elapsed_time(start, end)?, first)?;
    equal("elapsed the other way round", table.elapsed_time(end, start)?, -first)?;
    equal("query once complete", table.query(end)?, true)?;

    table.reset(end, false)?;
    equal("query after a reset", table.query(end)?, false)?;
    equal("elapsed after a reset to untimed", kind(start, end), Err(ErrorKind::Untimed))?;
    for id in [start, end, untimed] {
        table.release(id)?;
    }
    equal("events left in the table", table.len()?, 0)
}

fn reset_forgets_without_rewinding(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    other.wait(&event)?;
    let waiting = other.record()?;
    let (_callback, told) = ctx.listen(&event)?;
    let behind = stream.record()?;
    event.reset();
    equal("status after a reset", event.status(), Status::Unrecorded)?;
    equal("is_complete after a reset", event.is_complete()?, false)?;
    // Who waited before the reset waits for what was recorded then.
    ctx.stays_pending(&waiting)?;
    ensure(told.try_recv().is_err(), "a reset fired a callback")?;
    hold.release();
    ctx.settle_all([&behind, &waiting])?;
    ctx.hear_once("the callback from before the reset", &told)??;
    equal("status once the work is done", event.status(), Status::Unrecorded)?;
    // And the timeline went on: behind a hold, the event is pending, whatever was reached before the reset.
    let hold = ctx.hold(&stream)?;
    event.record(&stream)?;
    ctx.stays_pending(&event)?;
    hold.release();
    ctx.settle(&event)
}
