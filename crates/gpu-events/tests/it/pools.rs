//! Pools: their books, their bounds, and the threads that use them.

use crate::{
    inert,
    support::{BOUND, complete, cpu, crowd, held_stream},
};
use gpu_events::{Device, Event, EventPool, Status};
use std::{
    cell::RefCell,
    sync::{Arc, Barrier, mpsc},
    task::{Context, Poll, Waker},
};

#[test]
fn the_books_are_exact() {
    let pool = EventPool::new(&cpu());
    let books = |pool: &EventPool| {
        let s = pool.statistics();
        (s.created, s.acquired, s.live, s.idle)
    };
    assert_eq!(books(&pool), (0, 0, 0, 0));
    assert_eq!(pool.statistics().bound, EventPool::DEFAULT_BOUND as u64);
    let events: Vec<_> = (0..200).map(|_| pool.acquire()).collect();
    assert_eq!(books(&pool), (200, 200, 200, 0));
    drop(events);
    assert_eq!(books(&pool), (200, 200, 0, 200));
    let again: Vec<_> = (0..150).map(|_| pool.acquire_timed()).collect();
    assert_eq!(books(&pool), (200, 350, 150, 50));
    pool.empty_cache();
    assert_eq!(books(&pool), (200, 350, 150, 0));
    drop(again);
    assert_eq!(books(&pool), (200, 350, 0, 150));
    assert_eq!(pool.clone().statistics(), pool.statistics());
    let text = format!("{pool:?}");
    assert!(
        text.starts_with("EventPool { device: \"cpu:0\", statistics: PoolStatistics { created: 200,"),
        "{text}"
    );
}

#[test]
fn what_is_kept_is_bounded_and_what_is_out_is_not() {
    for bound in [0, 1, 100, 127, 128, 1_000] {
        let pool = EventPool::bounded(&cpu(), bound);
        let mut events: Vec<Event> = (0..3 * bound + 10).map(|_| pool.acquire()).collect();
        while events.pop().is_some() {
            assert!(pool.statistics().idle <= bound as u64, "{bound}: {:?}", pool.statistics());
        }
        // Small pools reach their bound; of larger ones a part is set aside for the threads.
        let idle = pool.statistics().idle;
        assert!(idle * 2 >= bound as u64, "{bound}: {idle}");
        assert_eq!(pool.statistics().live, 0);
    }
}

#[test]
fn the_bound_holds_over_all_threads_and_after_them() {
    const THREADS: usize = 8;
    const BOUND_OF_POOL: usize = 600;
    let pool = EventPool::bounded(&cpu(), BOUND_OF_POOL);
    let (full, checked) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let events: Vec<_> = (0..500).map(|_| pool.acquire()).collect();
                drop(events);
                full.wait();
                checked.wait();
            });
        }
        full.wait();
        let s = pool.statistics();
        assert!(s.idle <= BOUND_OF_POOL as u64, "{s:?}");
        assert_eq!((s.acquired, s.live), (500 * THREADS as u64, 0));
        checked.wait();
    });
    // The threads' own have gone back.
    let s = pool.statistics();
    assert!(s.idle <= BOUND_OF_POOL as u64 && s.idle >= BOUND_OF_POOL as u64 / 2, "{s:?}");
    assert_eq!((s.acquired, s.live), (500 * THREADS as u64, 0));
}

/// Events made on one thread and dropped on another find their way back.
#[test]
fn objects_go_round_between_threads() {
    let pool = EventPool::new(&cpu());
    let (sender, receiver) = mpsc::sync_channel::<Event>(100);
    std::thread::scope(|scope| {
        scope.spawn(move || receiver.into_iter().for_each(drop));
        for _ in 0..50_000 {
            sender.send(pool.acquire()).unwrap();
        }
        drop(sender);
    });
    let s = pool.statistics();
    assert_eq!((s.acquired, s.live), (50_000, 0));
    // In flight, and in two magazines, at once.
    assert!(s.created < 1_000, "{s:?}");
}

#[test]
fn an_event_that_is_dropped_while_pending_comes_back_unrecorded() {
    let device = cpu();
    let pool = EventPool::bounded(&device, 8);
    let (stream, signal) = held_stream(&device);
    let event = pool.acquire_timed();
    event.set_label("first life");
    event.record(&stream).unwrap();
    let old = event.id();
    drop(event);
    let event = pool.acquire();
    assert_eq!(pool.statistics().created, 1);
    assert_eq!((event.status(), event.is_timed(), event.label()), (Status::Unrecorded, false, None));
    assert_ne!(event.id(), old);
    signal.complete();
    complete(&stream.record().unwrap());
    assert_eq!(event.status(), Status::Unrecorded);
}

#[test]
fn another_threads_cache_is_emptied_when_it_next_uses_the_pool() {
    let pool = EventPool::new(&cpu());
    let (go, steps) = mpsc::channel::<()>();
    let (done, stepped) = mpsc::channel();
    let its = pool.clone();
    let thread = std::thread::spawn(move || {
        for () in steps {
            drop((0..40).map(|_| its.acquire()).collect::<Vec<_>>());
            done.send(()).unwrap();
        }
    });
    let step = || {
        go.send(()).unwrap();
        stepped.recv_timeout(BOUND).unwrap();
    };
    step();
    assert_eq!(pool.statistics().idle, 40);
    pool.empty_cache();
    assert_eq!(pool.statistics().created, 40);
    step();
    // It made them anew.
    assert_eq!((pool.statistics().created, pool.statistics().idle), (80, 40));
    drop(go);
    thread.join().unwrap();
    assert_eq!(pool.statistics().idle, 40);
}

/// A pool that is gone leaves nothing behind in threads that go on with others.
#[test]
fn a_device_goes_with_its_last_user() {
    let _crowd = crowd();
    let (device, alive) = inert::open();
    let pool = EventPool::new(&device);
    let (sender, receiver) = mpsc::channel::<EventPool>();
    let (done, stepped) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        for pool in receiver {
            drop((0..40).map(|_| pool.acquire()).collect::<Vec<_>>());
            drop(pool);
            done.send(()).unwrap();
        }
    });
    let use_there = |pool: EventPool| {
        sender.send(pool).unwrap();
        stepped.recv_timeout(BOUND).unwrap();
    };
    use_there(pool.clone());
    let event = pool.acquire();
    let stream = device.create_stream().unwrap();
    event.record(&stream).unwrap();
    drop((device, pool));
    assert!(alive.upgrade().is_some());
    drop(stream);
    drop(event);
    use_there(EventPool::new(&cpu()));
    assert!(alive.upgrade().is_none(), "the device was kept");
    drop(sender);
    thread.join().unwrap();
}

/// Thread locals are destroyed in an order that nobody chooses: before the pool's own, and after them.
#[test]
fn events_work_while_a_thread_ends() {
    struct AtTheEnd {
        pool: EventPool,
        kept: Option<Event>,
        told: mpsc::Sender<Status>,
    }
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            drop(self.kept.take());
            let device: Device = self.pool.device().clone();
            let stream = device.create_stream().unwrap();
            let (told, event) = (self.told.clone(), self.pool.acquire_timed());
            stream.cpu().unwrap().enqueue(|| ()).unwrap();
            event.record(&stream).unwrap();
            // A host wait, a callback, a future, a guard: all that has locals of its own somewhere.
            complete(&event);
            assert!(stream.wait(&event).is_ok());
            assert!(event.on_complete(|_| ()).is_ok());
            let mut completion = std::pin::pin!(event.completion());
            let mut context = Context::from_waker(Waker::noop());
            assert!(matches!(completion.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
            stream.lock().unwrap().record(&event).unwrap();
            complete(&event);
            let _ = told.send(event.status());
        }
    }
    thread_local! {
        static BEFORE: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
        static AFTER: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
    }
    let pool = EventPool::new(&cpu());
    let (told, tellings) = mpsc::channel();
    let at_the_end = || AtTheEnd { pool: pool.clone(), kept: None, told: told.clone() };
    let (one, two) = (at_the_end(), at_the_end());
    std::thread::spawn(move || {
        // Most systems destroy what was initialized last first: one is set up before the pool's, one after.
        BEFORE.set(Some(one));
        let pool = BEFORE.with_borrow(|own| own.as_ref().map(|own| own.pool.clone())).unwrap();
        let kept = Some(pool.acquire());
        AFTER.set(Some(two));
        AFTER.with_borrow_mut(|own| own.as_mut().map(|own| own.kept = kept));
    })
    .join()
    .unwrap();
    drop(told);
    let told: Vec<Status> = tellings.iter().collect();
    assert_eq!(told, [Status::Complete, Status::Complete]);
    let s = pool.statistics();
    assert_eq!(s.live, 0, "{s:?}");
}

#[test]
fn threads_in_a_hurry_lose_nothing() {
    let pool = EventPool::bounded(&cpu(), 300);
    let mut total = 0;
    for round in 0..50 {
        let counts: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|n| {
                    let pool = &pool;
                    scope.spawn(move || {
                        let count = 1 + (round * 7 + n * 13) % 90;
                        let events: Vec<_> = (0..count).map(|_| pool.acquire()).collect();
                        if n == 0 {
                            pool.empty_cache();
                        }
                        drop(events);
                        count
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        total += counts.iter().sum::<u64>();
        let s = pool.statistics();
        assert_eq!((s.acquired, s.live), (total, 0));
        assert!(s.idle <= 300, "{s:?}");
    }
    assert!(Arc::new(pool).statistics().created <= total);
}
