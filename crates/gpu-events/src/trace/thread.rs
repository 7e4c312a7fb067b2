//! Spans of the host's threads.

use super::{Core, Span, Trace, Track};
use crate::{fork, primitive::lock};
use std::{fmt, marker::PhantomData, sync::Arc, thread};

/// A thread as a tracer knows it.
pub(super) struct ThreadTrack {
    /// Which one it was to come.
    number: u64,
    name: String,
    spans: Vec<(Arc<str>, i64, i64)>,
}

/// A span of a thread's, which ends when this goes; see [`Tracer::thread_span`](super::Tracer::thread_span).
#[must_use = "a span ends when its guard goes"]
pub struct ThreadSpan(Option<(Arc<Core>, Arc<str>, i64)>, PhantomData<*const ()>);

impl ThreadSpan {
    #[inline]
    pub(super) fn none() -> Self {
        Self(None, PhantomData)
    }

    pub(super) fn begin(core: &Arc<Core>, name: &str) -> Self {
        let name = core.name(name);
        // Of this thread, which it can't leave.
        Self(Some((core.clone(), name, core.axis.now())), PhantomData)
    }
}

impl Drop for ThreadSpan {
    fn drop(&mut self) {
        if let Some((core, name, start)) = self.0.take().filter(|_| !fork::happened()) {
            core.thread_span(name, start);
        }
    }
}

impl fmt::Debug for ThreadSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.as_ref().map(|(_, name, _)| name);
        f.debug_struct("ThreadSpan").field("name", &name).finish_non_exhaustive()
    }
}

impl Core {
    /// A span of this thread's has ended.
    pub(super) fn thread_span(&self, name: Arc<str>, start: i64) {
        if !self.admit() {
            return;
        }
        let end = self.axis.now();
        let here = thread::current();
        let mut threads = lock(&self.threads);
        let number = threads.len() as u64 + 1;
        let track = threads.entry(here.id()).or_insert_with(|| {
            let name = here.name().map_or_else(|| format!("thread {number}"), str::to_owned);
            ThreadTrack { number, name, spans: Vec::new() }
        });
        track.spans.push((name, start, end));
    }

    pub(super) fn add_threads(&self, trace: &mut Trace) {
        let threads = lock(&self.threads);
        let mut threads: Vec<_> = threads.values().collect();
        threads.sort_by_key(|thread| thread.number);
        for thread in threads {
            let mut track = Track::thread(thread.name.clone());
            track.id = thread.number;
            track.clock = "monotonic clock of the host".to_owned();
            let track = trace.add_track(track);
            for (name, start, end) in &thread.spans {
                trace.add_span(Span::new(track, name.clone(), *start, *end));
            }
        }
    }
}
