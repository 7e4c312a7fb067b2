//! Spans, and what streams waited for, as a tracer tells them.

use gpu_events::{
    Device, Result,
    trace::{Trace, TraceOptions, Tracer},
};
use std::{sync::mpsc, thread};

fn span(trace: &Trace, name: &str) -> usize {
    trace
        .spans
        .iter()
        .position(|span| &*span.name == name)
        .unwrap_or_else(|| panic!("no span {name}: {trace:#?}"))
}

#[test]
fn spans_are_nested_and_within_what_the_host_saw() -> Result<()> {
    let device = Device::open("cpu")?;
    let stream = device.create_stream_with(&gpu_events::StreamOptions::new().label("work"))?;
    let tracer = Tracer::new("test");
    let before = tracer.now();
    {
        let _outer = tracer.span(&stream, "outer");
        let inner = tracer.span(&stream, "inner");
        stream.cpu()?.enqueue(|| ())?;
        assert!(inner.end().is_some());
        stream.cpu()?.enqueue(|| ())?;
    }
    let trace = tracer.finish();
    let after = tracer.now();
    assert_eq!((trace.processes[0].name.as_str(), trace.tracks.len(), trace.dropped()), ("test", 1, 0));
    assert_eq!((trace.tracks[0].device.as_str(), trace.tracks[0].name.as_str()), (device.name(), "work"));
    let (outer, inner) = (&trace.spans[span(&trace, "outer")], &trace.spans[span(&trace, "inner")]);
    let times = [before, outer.submitted, outer.start, inner.start, inner.end, outer.end, after];
    assert!(times.is_sorted(), "{times:?}");
    assert!(!tracer.is_on());
    Ok(())
}

#[test]
fn a_wait_is_for_the_span_whose_event_it_is() -> Result<()> {
    let device = Device::open("cpu")?;
    let (copy, hash) = (device.create_stream()?, device.create_stream()?);
    let tracer = Tracer::new("test");
    tracer.watch(&hash);
    let (gate, opens) = device.host_event()?;
    copy.wait(&gate)?;
    for index in 0..3 {
        let copied = {
            let span = tracer.span(&copy, &format!("copy {index}"));
            copy.cpu()?.enqueue(|| ())?;
            span.end().expect("room for it")
        };
        copied.set_label(&format!("copied {index}"));
        hash.wait(&copied)?;
        let _span = tracer.span(&hash, &format!("hash {index}"));
        hash.cpu()?.enqueue(|| ())?;
    }
    opens.complete();
    let trace = tracer.finish();
    assert_eq!((trace.spans.len(), trace.waits.len(), trace.dropped()), (6, 3, 0));
    for (index, wait) in trace.waits.iter().enumerate() {
        let (source, before) =
            (span(&trace, &format!("copy {index}")), span(&trace, &format!("hash {index}")));
        assert_eq!(*wait.event, *format!("copied {index}"));
        assert_eq!((wait.source, wait.before), (Some(source), Some(before)));
        assert_eq!(wait.released, trace.spans[source].end, "it is the same event");
        assert!(wait.reached >= wait.submitted && wait.released <= trace.spans[before].start);
        assert_eq!(wait.source_track, Some(trace.spans[source].track));
    }
    // Nothing of the stream's was before the first wait, which the host then held open.
    assert!(trace.waits[0].held() > 0);
    Ok(())
}

#[test]
fn an_event_without_a_time_is_over_when_the_stream_goes_on() -> Result<()> {
    let device = Device::open("cpu")?;
    let stream = device.create_stream()?;
    let tracer = Tracer::new("test");
    tracer.watch(&stream);
    let (gate, opens) = device.host_event()?;
    stream.wait(&gate)?;
    drop(tracer.span(&stream, "behind"));
    let opened = tracer.now();
    opens.complete();
    let trace = tracer.finish();
    let behind = &trace.spans[span(&trace, "behind")];
    assert_eq!(trace.waits.len(), 1);
    let wait = &trace.waits[0];
    assert_eq!((wait.released, wait.before, wait.source), (behind.start, Some(0), None));
    assert!(wait.reached <= opened && opened <= wait.released);
    Ok(())
}

#[test]
fn what_there_is_no_room_for_is_counted() -> Result<()> {
    let device = Device::open("cpu")?;
    let stream = device.create_stream()?;
    let few = Tracer::with("test", TraceOptions::new().capacity(10));
    for _ in 0..25 {
        drop(few.span(&stream, "span"));
    }
    assert_eq!((few.dropped(), few.finish().spans.len()), (15, 10));

    // As many under way as are allowed, while the stream stands still; then there is room again.
    let (gate, opens) = device.host_event()?;
    stream.wait(&gate)?;
    let narrow = Tracer::with("test", TraceOptions::new().pending(4));
    for _ in 0..6 {
        drop(narrow.span(&stream, "held"));
    }
    assert_eq!(narrow.dropped(), 2);
    opens.complete();
    stream.synchronize()?;
    drop(narrow.span(&stream, "later"));
    let trace = narrow.finish();
    assert_eq!((trace.spans.len(), trace.dropped()), (5, 2));
    Ok(())
}

#[test]
fn a_guard_that_is_still_there_is_counted_as_dropped() -> Result<()> {
    let stream = Device::open("cpu")?.create_stream()?;
    let tracer = Tracer::new("test");
    drop(tracer.span(&stream, "ended"));
    let open = tracer.span(&stream, "open");
    let trace = tracer.finish();
    assert_eq!((trace.spans.len(), trace.dropped()), (1, 1));
    drop(open);
    Ok(())
}

#[test]
fn a_full_stream_drops_spans_rather_than_wait() -> Result<()> {
    let device = Device::open("cpu")?;
    let stream = device.create_stream_with(&gpu_events::StreamOptions::new().queue_depth(3))?;
    let (gate, opens) = device.host_event()?;
    stream.wait(&gate)?;
    let tracer = Tracer::new("test");
    let spans: Vec<_> = (0..4).map(|_| tracer.span(&stream, "held")).collect();
    // The fourth found no room, and neither do the ends.
    assert_eq!(tracer.dropped(), 1);
    drop(spans);
    opens.complete();
    let trace = tracer.finish();
    assert_eq!((trace.spans.len(), trace.dropped()), (0, 4));
    Ok(())
}

#[test]
fn a_failure_ends_a_span_and_is_told() -> Result<()> {
    let stream = Device::open("cpu")?.create_stream()?;
    let tracer = Tracer::new("test");
    {
        let _span = tracer.span(&stream, "fails");
        stream.cpu()?.enqueue(|| Err::<(), _>("no such file"))?;
    }
    let trace = tracer.finish();
    let failed = &trace.spans[span(&trace, "fails")];
    assert!(failed.error.as_ref().is_some_and(|why| why.contains("no such file")), "{failed:?}");
    assert!(failed.end >= failed.start);
    Ok(())
}

#[test]
fn off_collects_nothing_and_records_nothing() -> Result<()> {
    let device = Device::open("cpu")?;
    let stream = device.create_stream()?;
    let tracer = Tracer::off();
    drop(tracer.span(&stream, "span"));
    drop(tracer.thread_span("span"));
    assert_eq!(device.pool().statistics().created, 0, "no event was taken");
    let trace = tracer.finish();
    assert!(trace.is_empty() && trace.tracks.is_empty() && trace.dropped() == 0);
    Ok(())
}

#[test]
fn threads_that_share_a_stream_get_tracks_of_their_own() -> Result<()> {
    let stream =
        Device::open("cpu")?.create_stream_with(&gpu_events::StreamOptions::new().label("shared"))?;
    let tracer = Tracer::new("test");
    let first = tracer.span(&stream, "first");
    stream.cpu()?.enqueue(|| ())?;
    let second = tracer.span(&stream, "second");
    stream.cpu()?.enqueue(|| ())?;
    stream.synchronize()?;
    first.end();
    stream.cpu()?.enqueue(|| ())?;
    second.end();
    let trace = tracer.finish();
    let tracks =
        ["first", "second"].map(|name| trace.tracks[trace.spans[span(&trace, name)].track].name.clone());
    assert_eq!(tracks, ["shared", "shared (2)"]);
    Ok(())
}

#[test]
fn many_threads_trace_at_once() -> Result<()> {
    const THREADS: usize = 4;
    const SPANS: usize = 500;
    let device = Device::open("cpu")?;
    let tracer = Tracer::new("test");
    let streams = (0..THREADS).map(|_| device.create_stream()).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let handles: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (tracer, streams) = (&tracer, &streams);
                scope.spawn(move || -> Result<()> {
                    let mut last = None;
                    for turn in 0..SPANS {
                        let stream = &streams[(thread + turn) % THREADS];
                        if let Some(last) = &last {
                            stream.wait(last)?;
                        }
                        let _host = tracer.thread_span("submit");
                        let span = tracer.span(stream, "work");
                        stream.cpu()?.enqueue(|| ())?;
                        drop(span);
                        last = Some(stream.record()?);
                        tracer.collect();
                    }
                    Ok(())
                })
            })
            .collect();
        handles.into_iter().try_for_each(|handle| handle.join().expect("no panic"))
    })?;
    let trace = tracer.finish();
    let spans = |name: &str| trace.spans.iter().filter(|span| *span.name == *name).count();
    assert_eq!((spans("work"), spans("submit")), (THREADS * SPANS, THREADS * SPANS));
    trace.check().expect("a sound trace");
    Ok(())
}

#[test]
fn a_waker_may_trace_while_the_tracer_looks() -> Result<()> {
    let stream = Device::open("cpu")?.create_stream()?;
    let tracer = Tracer::new("test");
    let (gate, opens) = stream.device().host_event()?;
    stream.wait(&gate)?;
    let span = tracer.span(&stream, "first");
    let end = span.end().expect("room for it");
    let (send, done) = mpsc::channel();
    let (again, shared) = (tracer.clone(), stream.clone());
    let _callback = end.on_complete(move |_| {
        drop(again.span(&shared, "from the callback"));
        again.collect();
        let _ = send.send(());
    })?;
    opens.complete();
    while tracer.dropped() == 0 && done.try_recv().is_err() {
        tracer.collect();
        thread::yield_now();
    }
    assert_eq!(tracer.finish().spans.len(), 2);
    Ok(())
}
