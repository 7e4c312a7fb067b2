//! A backend that does nothing: its streams move when a test says so.

use gpu_events::{
    Capabilities, Clock, ClockId, Correlation, Device, DeviceInfo, Error, ErrorKind, Result, Stream,
    backend::{
        Backend, BackendStream, Flushed, Gate, Lane, Signaled, Source, StreamSeed, StreamTraits, Waited,
    },
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Holds a token, so that a test sees when it is dropped.
#[derive(Debug)]
pub(crate) struct Inert(Arc<()>);

#[derive(Debug)]
pub(crate) struct InertStream {
    lane: Weak<Lane<InertStream>>,
}

/// A device, and what shows whether anything of it is left.
pub(crate) fn open() -> (Device, Weak<()>) {
    let token = Arc::new(());
    let alive = Arc::downgrade(&token);
    (Device::from_backend(Inert(token)), alive)
}

/// The lane of a stream, to advance and to fail it.
pub(crate) fn lane(stream: &Stream) -> Arc<Lane<InertStream>> {
    stream.backend::<InertStream>().and_then(|stream| stream.lane.upgrade()).expect("an inert stream")
}

impl Backend for Inert {
    fn info(&self) -> DeviceInfo {
        let clock = Clock::new(ClockId::unique(), "no clock", Duration::from_secs(1), 1, 1);
        assert_eq!(Arc::strong_count(&self.0), 1);
        DeviceInfo::new("inert:0", "inert", "does nothing", clock, Capabilities::default())
    }

    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>> {
        seed.build(|lane| InertStream { lane: lane.clone() })
    }

    fn correlate(&self) -> Result<Correlation> {
        Err(Error::new(ErrorKind::NotMeasured))
    }
}

impl BackendStream for InertStream {
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: true, batches: false }
    }

    fn signal(&self, _position: u64, _timed: bool) -> Result<Signaled> {
        Ok(Signaled::Pending(None))
    }

    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        Ok(if source.backend::<Self>().is_some() { Waited::Native } else { Waited::Unsupported })
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        Err(Error::new(ErrorKind::Unsupported))
    }

    fn flush(&self) -> Result<Flushed> {
        Ok(Flushed::All)
    }

    fn poll(&self) {}

    fn watch(&self, _position: u64) {}

    fn abandon(&self) {}
}
