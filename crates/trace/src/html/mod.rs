//! A timeline to look at: one HTML file that needs nothing else.

use crate::{Analysis, Cause, Error, ErrorKind, Result, Trace, TrackKind, file};
use serde::Serialize;
use std::{collections::HashMap, path::Path};

const PAGE: &str = include_str!("timeline.html");
const STYLE: &str = include_str!("timeline.css");
const SCRIPT: &str = include_str!("timeline.js");

impl Trace {
    /// As one HTML file, for any browser: lanes for each stream and thread, waits and their arrows, the critical path, and tables
    /// of it all. It asks for nothing over a network.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], as [`check`](Self::check) says; [`ErrorKind::Empty`] if there is no span to be shown.
    pub fn to_html(&self) -> Result<String> {
        self.check()?;
        let analysis = Analysis::of(self);
        let Some(extent) = analysis.extent else {
            return Err(Error::new(
                ErrorKind::Empty,
                "there is nothing to be shown: no span is in this trace",
            ));
        };
        let json = serde_json::to_string(&Page::of(self, &analysis, extent))
            .map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
        // Within a script only these could end it, or begin a comment.
        let json = json.replace('<', "\\u003c");
        let names: Vec<_> = self.processes.iter().map(|process| escape(&process.name)).collect();
        // The data last: nothing in it is looked for.
        let page = PAGE
            .replace("{{title}}", &names.join(", "))
            .replace("{{style}}", STYLE)
            .replace("{{script}}", SCRIPT);
        let (before, after) = page.split_once("{{data}}").unwrap_or((&page, ""));
        Ok([before, &json, after].concat())
    }

    /// Writes [`to_html`](Self::to_html) to a file, in one step.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::Empty`], [`ErrorKind::Io`]; what was there before is there still.
    pub fn write_html(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write(path.as_ref(), self.to_html()?.as_bytes())
    }
}

fn escape(text: &str) -> String {
    // Nor is it taken for one of the page's own places.
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('{', "&#123;")
}

/// What the page is given, in columns. Times are nanoseconds from the extent's start.
#[derive(Serialize)]
struct Page<'a> {
    length: i64,
    processes: Vec<ProcessData<'a>>,
    tracks: Vec<TrackData<'a>>,
    names: Vec<&'a str>,
    spans: Spans,
    waits: Waits,
    path: CriticalPath,
    overlap: &'a [u64],
    dropped: u64,
}

#[derive(Serialize)]
struct ProcessData<'a> {
    name: &'a str,
    pid: u32,
    uncertainty: u64,
}

#[derive(Serialize)]
struct TrackData<'a> {
    process: usize,
    thread: bool,
    device: &'a str,
    name: &'a str,
    clock: &'a str,
    uncertainty: u64,
    busy: u64,
    waiting: u64,
    idle: u64,
    critical: u64,
}

#[derive(Default, Serialize)]
struct Spans {
    track: Vec<usize>,
    name: Vec<usize>,
    start: Vec<i64>,
    end: Vec<i64>,
    submitted: Vec<i64>,
    /// A place among the names, or -1.
    error: Vec<i64>,
}

#[derive(Default, Serialize)]
struct Waits {
    track: Vec<usize>,
    event: Vec<usize>,
    reached: Vec<i64>,
    released: Vec<i64>,
    held: Vec<u64>,
    critical: Vec<bool>,
    /// Places among the spans, or -1.
    source: Vec<i64>,
    before: Vec<i64>,
}

/// Its steps.
#[derive(Default, Serialize)]
struct CriticalPath {
    from: Vec<i64>,
    to: Vec<i64>,
    cause: Vec<&'static str>,
    /// A place among the spans, or the waits.
    of: Vec<usize>,
}

/// Each text once.
#[derive(Default)]
struct Names<'a> {
    places: HashMap<&'a str, usize>,
    names: Vec<&'a str>,
}

impl<'a> Names<'a> {
    fn place(&mut self, name: &'a str) -> usize {
        *self.places.entry(name).or_insert_with(|| {
            self.names.push(name);
            self.names.len() - 1
        })
    }
}

fn or_none(place: Option<usize>) -> i64 {
    place.map_or(-1, |place| place as i64)
}

impl<'a> Page<'a> {
    fn of(trace: &'a Trace, analysis: &'a Analysis, extent: (i64, i64)) -> Self {
        let mut names = Names::default();
        let after = |time: i64| time.saturating_sub(extent.0);
        let mut spans = Spans::default();
        for span in &trace.spans {
            spans.track.push(span.track);
            spans.name.push(names.place(&span.name));
            spans.start.push(after(span.start));
            spans.end.push(after(span.end));
            spans.submitted.push(after(span.submitted));
            spans.error.push(or_none(span.error.as_deref().map(|error| names.place(error))));
        }
        let mut waits = Waits::default();
        for (wait, cost) in trace.waits.iter().zip(&analysis.waits) {
            waits.track.push(wait.track);
            waits.event.push(names.place(&wait.event));
            waits.reached.push(after(wait.reached));
            waits.released.push(after(wait.released));
            waits.held.push(cost.held);
            waits.critical.push(cost.critical);
            waits.source.push(or_none(wait.source));
            waits.before.push(or_none(wait.before));
        }
        let mut path = CriticalPath::default();
        for step in &analysis.critical_path {
            let (cause, of) = match step.cause {
                Cause::Work(span) => ("work", span),
                Cause::Host(span) => ("host", span),
                Cause::Launch(span) => ("launch", span),
                Cause::Wait(wait) => ("wait", wait),
            };
            path.from.push(after(step.from));
            path.to.push(after(step.to));
            path.cause.push(cause);
            path.of.push(of);
        }
        let processes = trace.processes.iter().map(|process| ProcessData {
            name: &process.name,
            pid: process.pid,
            uncertainty: process.uncertainty,
        });
        let tracks =
            trace.tracks.iter().zip(&analysis.tracks).enumerate().map(|(index, (track, times))| TrackData {
                process: track.process,
                thread: track.kind == TrackKind::Thread,
                device: &track.device,
                name: &track.name,
                clock: &track.clock,
                uncertainty: trace.uncertainty(index),
                busy: times.busy,
                waiting: times.waiting,
                idle: times.idle,
                critical: times.critical,
            });
        Self {
            length: after(extent.1),
            processes: processes.collect(),
            tracks: tracks.collect(),
            spans,
            waits,
            path,
            overlap: &analysis.overlap.streams,
            dropped: trace.dropped(),
            names: names.names,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Process, Span, Track};

    #[test]
    fn names_stay_text_and_the_page_asks_for_nothing() {
        let hostile = "</script><script>alert(1)</script><!-- {{data}} {{script}} \u{2028}";
        let mut trace = Trace::new(Process::new(hostile));
        let track = trace.add_track(Track::stream(hostile, hostile));
        trace.add_span(Span::new(track, hostile, 0, 10));
        let page = trace.to_html().unwrap();
        assert_eq!(page.matches("<script").count(), 2, "the data's and the page's own");
        assert_eq!(page.matches("</script").count(), 2);
        assert!(!page.contains("alert(1)</script>"));
        for remote in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(remote), "{remote}");
        }
        let data =
            page.split_once("type=\"application/json\">").unwrap().1.split_once("</script>").unwrap().0;
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["names"][0], hostile);
        assert_eq!(data["tracks"][0]["name"], hostile);
    }

    #[test]
    fn nothing_is_not_shown() {
        let error = Trace::new(Process::new("nothing")).to_html().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Empty);
    }
}
