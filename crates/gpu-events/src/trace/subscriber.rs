//! Spans of the `tracing` crate's, as spans of the threads that are in them.

use super::{ThreadSpan, Tracer};
use tracing_subscriber::{layer::Context, registry::LookupSpan};

/// Shows the spans of the [`tracing`](https://docs.rs/tracing) crate in a trace, beside what the streams did: on the thread that
/// is in them, for as long as it is. To be added to a subscriber that has a registry.
///
/// ```
/// use gpu_events::trace::{Layer, Tracer};
/// use tracing_subscriber::prelude::*;
///
/// let tracer = Tracer::new("example");
/// let subscriber = tracing_subscriber::registry().with(Layer::new(&tracer));
/// tracing::subscriber::with_default(subscriber, || {
///     tracing::info_span!("prepare").in_scope(|| println!("preparing"));
/// });
/// assert_eq!(&*tracer.finish().spans[0].name, "prepare");
/// ```
#[derive(Clone, Debug)]
pub struct Layer(Tracer);

impl Layer {
    /// One that adds to this trace.
    pub fn new(tracer: &Tracer) -> Self {
        Self(tracer.clone())
    }
}

thread_local! {
    /// The spans that this thread is in: whose they are and their number, innermost last.
    static ENTERED: std::cell::RefCell<Vec<(tracing_core::span::Id, usize, ThreadSpan)>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl<S: tracing_core::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Layer {
    fn on_enter(&self, id: &tracing_core::span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id).filter(|_| self.0.is_on()) {
            let entered = (id.clone(), self.tracer(), self.0.thread_span(span.name()));
            // A thread at its end is in none that anybody would see.
            let _ = ENTERED.try_with(|all| all.borrow_mut().push(entered));
        }
    }

    fn on_exit(&self, id: &tracing_core::span::Id, _: Context<'_, S>) {
        let tracer = self.tracer();
        let left = ENTERED.try_with(|all| {
            let mut all = all.borrow_mut();
            let place = all.iter().rposition(|(entered, of, _)| entered == id && *of == tracer)?;
            Some(all.remove(place))
        });
        // Here it ends.
        drop(left);
    }
}

impl Layer {
    /// Tells this layer's entries from another's.
    fn tracer(&self) -> usize {
        std::sync::Arc::as_ptr(&self.0.0) as usize
    }
}
