//! Chrome's Trace Event format, as JSON: for `chrome://tracing`, Perfetto, Speedscope and many more.

use crate::{Result, Trace, TrackKind, file};
use serde::Serialize;
use std::path::Path;

impl Trace {
    /// As Chrome's JSON: complete events, flows for waits, names of processes and tracks. Times are in microseconds, with the
    /// nanoseconds behind the point. If there are any below zero, all are moved, since some readers drop those.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), as [`check`](Self::check) says.
    pub fn to_chrome(&self) -> Result<String> {
        self.check()?;
        let micros = |nanos: i64| micros(nanos.saturating_add(self.shift()));
        let mut events = Vec::new();
        for (pid, process) in self.processes.iter().enumerate() {
            events.push(Event::name("process_name", pid, 0, format!("{} ({})", process.name, process.pid)));
        }
        for (tid, track) in self.tracks.iter().enumerate() {
            let name = match track.kind {
                TrackKind::Stream => format!("{}: {}", track.device, track.name),
                TrackKind::Thread => track.name.clone(),
            };
            events.push(Event::name("thread_name", track.process, tid, name));
            let sort = Arguments { sort_index: Some(tid), ..Arguments::default() };
            events
                .push(Event { args: Some(sort), ..Event::new("thread_sort_index", "M", track.process, tid) });
        }
        for span in &self.spans {
            let track = &self.tracks[span.track];
            let arguments = Arguments {
                submitted: Some(micros(span.submitted)),
                uncertainty_ns: Some(self.uncertainty(span.track)),
                error: span.error.as_deref(),
                ..Arguments::default()
            };
            events.push(Event {
                cat: Some("span"),
                ts: Some(micros(span.start)),
                dur: Some(span.nanos() as f64 / 1e3),
                args: Some(arguments),
                ..Event::new(&span.name, "X", track.process, span.track)
            });
        }
        for (id, wait) in (1..).zip(&self.waits) {
            let (Some(source), Some(before)) = (wait.source, wait.before) else { continue };
            let (source, before) = (&self.spans[source], &self.spans[before]);
            // Within the slices that they connect.
            for (phase, at, of, binds) in
                [("s", source.start, source, None), ("f", before.start, before, Some("e"))]
            {
                events.push(Event {
                    cat: Some("wait"),
                    ts: Some(micros(at)),
                    id: Some(id),
                    bp: binds,
                    ..Event::new(&wait.event, phase, self.tracks[of.track].process, of.track)
                });
            }
        }
        let document = Document { trace_events: events, display_time_unit: "ns" };
        // Nothing in it can fail to be written: texts and numbers.
        serde_json::to_string(&document)
            .map_err(|error| crate::Error::new(crate::ErrorKind::Invalid, error.to_string()))
    }

    /// Writes [`to_chrome`](Self::to_chrome) to a file, in one step.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), [`ErrorKind::Io`](crate::ErrorKind::Io); what was there before is
    /// there still.
    pub fn write_chrome(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write(path.as_ref(), self.to_chrome()?.as_bytes())
    }
}

/// Microseconds. Readers take them for 64-bit floats, which have every nanosecond of 104 days.
fn micros(nanos: i64) -> f64 {
    nanos as f64 / 1e3
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    trace_events: Vec<Event<'a>>,
    display_time_unit: &'static str,
}

#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    ph: &'static str,
    pid: usize,
    tid: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Arguments<'a>>,
}

#[derive(Default, Serialize)]
struct Arguments<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    submitted: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertainty_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Event<'a> {
    fn new(name: &'a str, ph: &'static str, pid: usize, tid: usize) -> Self {
        Self { name, ph, pid, tid, cat: None, ts: None, dur: None, id: None, bp: None, args: None }
    }

    fn name(what: &'a str, pid: usize, tid: usize, name: String) -> Self {
        let args = Arguments { name: Some(name), ..Arguments::default() };
        Self { args: Some(args), ..Self::new(what, "M", pid, tid) }
    }
}
