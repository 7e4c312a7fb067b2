//! Everybody who can wait for an event, and what they are told.

use crate::waits::BOUND;
use futures_lite::future::block_on;
use gpu_events::{ErrorKind, Event, Result, WaitAny, WaitOptions, WaitStrategy, wait_any};
use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// Within what everybody has to be told.
pub(crate) const PROMISED: Duration = Duration::from_secs(1);

/// What one of them was told.
pub(crate) struct Told {
    who: String,
    when: Instant,
    outcome: Result<()>,
}

type Observe = Box<dyn FnOnce(&Event) -> Result<()> + Send>;

/// Everybody who can wait for an event, at once; how many that is.
pub(crate) fn observe(what: &str, event: &Arc<Event>, tell: &Sender<Told>) -> usize {
    let (ready, is_ready) = mpsc::channel();
    let mut count = 0;
    let mut start = |who: &str, observe: Observe| {
        let (event, tell, ready, who) =
            (event.clone(), tell.clone(), ready.clone(), format!("{what}: {who}"));
        count += 1;
        thread::spawn(move || {
            let _ = ready.send(());
            let outcome = observe(&event);
            let _ = tell.send(Told { who, when: Instant::now(), outcome });
        });
    };
    for (who, strategy) in [("park", WaitStrategy::Park), ("spin", WaitStrategy::Spin)] {
        let options = WaitOptions::new().strategy(strategy);
        start(who, Box::new(move |event| event.wait_with(&options).map(drop)));
    }
    start("future", Box::new(|event| block_on(event.completion())));
    start(
        "wait_any",
        Box::new(|event| {
            assert_eq!(wait_any([event], &WaitOptions::new())?, WaitAny::Settled(0));
            event.synchronize()
        }),
    );
    for _ in 0..count {
        is_ready.recv_timeout(BOUND).expect("the threads have begun");
    }
    let (tell, who) = (tell.clone(), format!("{what}: callback"));
    let callback = event.on_complete(move |outcome| {
        let _ = tell.send(Told { who, when: Instant::now(), outcome });
    });
    callback.expect("a callback");
    count + 1
}

/// All of them are told of this, in time.
pub(crate) fn expect_all(told: &Receiver<Told>, count: usize, begun: Instant, kind: ErrorKind) {
    let mut latest = Duration::ZERO;
    for _ in 0..count {
        let Ok(Told { who, when, outcome }) = told.recv_timeout(BOUND) else {
            panic!("somebody was never told");
        };
        let after = when.saturating_duration_since(begun);
        latest = latest.max(after);
        let error = outcome.expect_err(&who);
        println!("{who}: after {after:?}: {:?}", error.kind());
        assert_eq!(error.kind(), kind, "{who}: {error}");
    }
    println!("{count} observers, the last after {latest:?}");
    assert!(latest < PROMISED, "the last was told after {latest:?}");
}
