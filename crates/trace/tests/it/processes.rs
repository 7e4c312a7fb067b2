//! Two processes whose clocks differ, and what both saw.

use gpu_events_trace::{ClockId, Process, Span, Trace, Track, exchange, merge};
use std::{
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    time::Instant,
};

/// Where the other process is to connect to, and to write its trace.
const ADDRESS: &str = "TRACE_TEST_ADDRESS";
const FILE: &str = "TRACE_TEST_FILE";

/// A clock that began to count somewhere, and goes a little too fast or too slow.
#[derive(Clone, Copy)]
struct Clock {
    begun: Instant,
    origin: i64,
    parts_per_million: i64,
}

impl Clock {
    fn now(&self) -> i64 {
        let nanos = self.begun.elapsed().as_nanos() as i64;
        self.origin + nanos + nanos / 1_000_000 * self.parts_per_million
    }
}

/// Marks a moment in a trace.
fn mark(trace: &mut Trace, name: &str, at: i64) {
    let track = trace.add_track(Track::thread(name));
    trace.add_span(Span::new(track, name, at, at));
}

/// The other process: answers for its clock, sees the event, answers for its clock again, and leaves its trace.
#[test]
fn the_other_process() {
    let (Ok(address), Ok(file)) = (env::var(ADDRESS), env::var(FILE)) else { return };
    let clock = Clock { begun: Instant::now(), origin: -987_654_321_000, parts_per_million: 45 };
    let mut trace = Trace::new(Process::new("other"));
    let id = trace.processes[0].clock;
    exchange::serve(TcpStream::connect(&address).unwrap(), id, || clock.now()).unwrap();
    let mut event = TcpStream::connect(&address).unwrap();
    for _ in 0..EVENTS {
        let mut byte = [0];
        event.read_exact(&mut byte).unwrap();
        mark(&mut trace, "shared", clock.now());
        event.write_all(&byte).unwrap();
    }
    exchange::serve(TcpStream::connect(&address).unwrap(), id, || clock.now()).unwrap();
    trace.write_perfetto(file).unwrap();
}

const EVENTS: usize = 100;

#[test]
fn an_event_that_both_saw_is_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.pftrace");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut other = Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::the_other_process"])
        .env(ADDRESS, listener.local_addr().unwrap().to_string())
        .env(FILE, &file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let clock = Clock { begun: Instant::now(), origin: 5_000_000_000_000, parts_per_million: -30 };
    let mut here = Trace::new(Process::new("here"));
    let id: ClockId = here.processes[0].clock;
    let connect = || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let sample = || exchange::sample(connect(), id, || clock.now(), 64).unwrap();

    let first = sample();
    let mut event = connect();
    let mut seen = Vec::new();
    for _ in 0..EVENTS {
        let before = clock.now();
        event.write_all(b"!").unwrap();
        event.read_exact(&mut [0]).unwrap();
        // The other has seen it in between, whatever its clock said.
        seen.push((before, clock.now()));
    }
    let last = sample();
    assert!(other.wait().unwrap().success());
    mark(&mut here, "begin", seen[0].0);
    mark(&mut here, "end", clock.now());

    let theirs = Trace::open(&file).unwrap();
    let apart = theirs.spans[0].start.abs_diff(seen[0].0);
    assert!(apart > 1_000_000_000_000, "the two clocks differ by an hour and more");
    assert_eq!(
        merge(vec![here.clone(), theirs.clone()]).unwrap_err().kind(),
        gpu_events_trace::ErrorKind::NoCommonClock
    );
    here.samples = vec![first, last];
    let merged = merge(vec![here, theirs]).unwrap();
    let doubt = merged.processes[1].uncertainty as i64;
    let shared: Vec<_> = merged.spans.iter().filter(|span| *span.name == *"shared").collect();
    assert_eq!(shared.len(), EVENTS);
    for (span, (before, after)) in shared.iter().zip(&seen) {
        assert!(
            before - doubt <= span.start && span.start <= after + doubt,
            "between {before} and {after}, and placed at {} ± {doubt}",
            span.start
        );
    }
    // And that says something.
    assert!(doubt < 50_000_000, "{doubt} ns");
    println!("within {doubt} ns");
}
