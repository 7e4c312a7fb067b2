//! Traces to OpenTelemetry, through its own interface.

use crate::{Result, Trace, TrackKind};
use opentelemetry::{
    Context, KeyValue,
    trace::{Link, Span as _, SpanContext, Status, TraceContextExt as _, Tracer},
};
use std::time::{Duration, SystemTime};

impl Trace {
    /// Gives each span to a tracer of OpenTelemetry's, with its times and its track; inner spans are children of outer ones, and all
    /// others of one span that stands for the whole. A span that waited for another is linked to it. `origin` is when the axis was at
    /// zero (`gpu_events::trace::Tracer::origin` says so of the traces that it makes).
    ///
    /// ```
    /// use gpu_events_trace::{Process, Span, Trace, Track};
    /// use opentelemetry::trace::TracerProvider;
    /// use std::time::SystemTime;
    ///
    /// let mut trace = Trace::new(Process::new("example"));
    /// let track = trace.add_track(Track::stream("cpu", "work"));
    /// trace.add_span(Span::new(track, "hash", 0, 1_000));
    /// // An exporter's, such as that of opentelemetry-otlp.
    /// let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    /// trace.export_opentelemetry(&provider.tracer("gpu-events"), SystemTime::UNIX_EPOCH)?;
    /// # Ok::<(), gpu_events_trace::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), as [`check`](Self::check) says.
    pub fn export_opentelemetry<T: Tracer>(&self, tracer: &T, origin: SystemTime) -> Result<()>
    where
        T::Span: Send + Sync + 'static,
    {
        self.check()?;
        let Some(extent) = self.extent() else { return Ok(()) };
        let at = |nanos: i64| {
            let distance = Duration::from_nanos(nanos.unsigned_abs());
            let moved = if nanos < 0 { origin.checked_sub(distance) } else { origin.checked_add(distance) };
            moved.unwrap_or(origin)
        };
        let names: Vec<&str> = self.processes.iter().map(|process| process.name.as_str()).collect();
        let whole = tracer.span_builder(names.join(", ")).with_start_time(at(extent.0));
        let whole = Context::new().with_span(tracer.build_with_context(whole, &Context::new()));

        // Those that are waited for before those that wait, as far as time tells.
        let mut order: Vec<usize> = (0..self.spans.len()).collect();
        order.sort_by_key(|&span| (self.spans[span].start, std::cmp::Reverse(self.spans[span].end), span));
        let mut open: Vec<Vec<(i64, Context)>> = vec![Vec::new(); self.tracks.len()];
        let mut contexts: Vec<Option<SpanContext>> = vec![None; self.spans.len()];
        let mut sources: Vec<Vec<usize>> = vec![Vec::new(); self.spans.len()];
        for wait in &self.waits {
            if let (Some(source), Some(before)) = (wait.source, wait.before) {
                sources[before].push(source);
            }
        }
        for index in order {
            let (span, track) = (&self.spans[index], &self.tracks[self.spans[index].track]);
            let open = &mut open[span.track];
            while open.pop_if(|(end, _)| *end <= span.start).is_some() {}
            let parent = open.last().map_or(&whole, |(_, parent)| parent);
            let kind = match track.kind {
                TrackKind::Stream => "stream",
                TrackKind::Thread => "thread",
            };
            let attributes = vec![
                KeyValue::new("gpu.device", track.device.clone()),
                KeyValue::new("gpu.track", track.name.clone()),
                KeyValue::new("gpu.track.kind", kind),
                KeyValue::new("gpu.uncertainty_ns", self.uncertainty(span.track) as i64),
                KeyValue::new("gpu.submitted_ns_before", span.start.saturating_sub(span.submitted)),
            ];
            let links = sources[index].iter().filter_map(|source| contexts[*source].clone());
            let builder = tracer
                .span_builder(span.name.to_string())
                .with_start_time(at(span.start))
                .with_attributes(attributes)
                .with_links(links.map(Link::with_context).collect());
            let mut made = tracer.build_with_context(builder, parent);
            if let Some(error) = &span.error {
                made.set_status(Status::error(error.to_string()));
            }
            contexts[index] = Some(made.span_context().clone());
            let context = parent.with_span(made);
            context.span().end_with_timestamp(at(span.end));
            open.push((span.end, context));
        }
        whole.span().end_with_timestamp(at(extent.1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Process, Span, Track, Wait};
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};

    #[test]
    fn spans_have_their_times_parents_and_links() {
        let mut trace = Trace::new(Process::new("example"));
        let [copy, hash] = ["copy", "hash"].map(|name| trace.add_track(Track::stream("gpu:0", name)));
        let upload = trace.add_span(Span::new(copy, "upload", -50, 1_000));
        let outer = trace.add_span(Span::new(hash, "outer", 1_200, 5_000));
        let inner = trace.add_span(Span::new(hash, "inner", 1_300, 2_000));
        trace.spans[inner].error = Some("no".into());
        let mut wait = Wait::new(hash, "uploaded", 0, 1_000);
        (wait.source, wait.before) = (Some(upload), Some(outer));
        trace.add_wait(wait);

        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let origin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        trace.export_opentelemetry(&provider.tracer("test"), origin).unwrap();

        let spans = exporter.get_finished_spans().unwrap();
        let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        assert_eq!(spans.len(), 4);
        let (upload, outer, inner, whole) = (find("upload"), find("outer"), find("inner"), find("example"));
        assert_eq!(upload.start_time, origin - Duration::from_nanos(50));
        assert_eq!(
            (outer.start_time, outer.end_time),
            (origin + Duration::from_nanos(1_200), origin + Duration::from_nanos(5_000))
        );
        assert_eq!((whole.start_time, whole.end_time), (upload.start_time, outer.end_time));
        assert_eq!(
            (upload.parent_span_id, outer.parent_span_id),
            (whole.span_context.span_id(), whole.span_context.span_id())
        );
        assert_eq!(inner.parent_span_id, outer.span_context.span_id());
        assert_eq!(outer.links.iter().next().unwrap().span_context, upload.span_context);
        assert_eq!(inner.status, Status::error("no"));
        let track = inner.attributes.iter().find(|attribute| attribute.key.as_str() == "gpu.track").unwrap();
        assert_eq!(track.value.as_str(), "hash");
    }
}
