//! This crate behind the interface that the seed's way is behind as well, on the CPU, on the skeleton's device, and on
//! the simulated Metal where there is one.

use crate::{
    driver::Driver,
    seed_way::{EventSystem, Release},
    skeleton::{FakeBackend, FakeStream},
    support::{BOUND, cpu, enqueue, hold},
};
use gpu_events::{Device, Event, EventId, EventPool, EventTable, Stream};
use std::{
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

pub(crate) struct Ours {
    device: Device,
    /// Of the skeleton's device.
    driver: Option<Driver>,
    shared: OnceLock<OursPool>,
}

/// A pool, and the table of ids on it.
#[derive(Clone)]
pub(crate) struct OursPool(Arc<(EventPool, EventTable, Stream)>);

impl Ours {
    pub(crate) fn on_the_cpu() -> Self {
        Self { device: cpu(), driver: None, shared: OnceLock::new() }
    }

    pub(crate) fn on_the_skeleton() -> Self {
        let driver = Driver::new();
        let device = Device::from_backend(FakeBackend::new(&driver).expect("a backend"));
        Self { device, driver: Some(driver), shared: OnceLock::new() }
    }

    #[cfg(gpu_events_metal_sim)]
    pub(crate) fn on_metal() -> Self {
        metal_sim::control().reset();
        Self { device: crate::support::device(), driver: None, shared: OnceLock::new() }
    }

    fn enqueue(&self, stream: &Stream, work: impl FnOnce() -> Result<(), String> + Send + 'static) {
        match &self.driver {
            None => enqueue(stream, work),
            Some(_) => FakeStream::enqueue(stream, work),
        }
        .expect("submitted");
    }
}

impl EventSystem for Ours {
    type Stream = Stream;
    type Pool = OursPool;
    type Event = Event;

    fn new_stream(&self) -> Stream {
        self.device.create_stream().expect("a stream")
    }

    fn new_pool(&self, default: &Stream) -> OursPool {
        let pool = EventPool::new(&self.device);
        let table = EventTable::new(&pool);
        OursPool(Arc::new((pool, table, default.clone())))
    }

    fn shared_pool(&self) -> OursPool {
        self.shared.get_or_init(|| self.new_pool(&self.new_stream())).clone()
    }

    fn empty_cache(&self, pool: &OursPool) {
        pool.0.0.empty_cache();
    }

    fn idle(&self, pool: &OursPool) -> usize {
        pool.0.0.statistics().idle as usize
    }

    fn acquire(&self, pool: &OursPool, timing: bool, _stream: &Stream) -> Event {
        if timing { pool.0.0.acquire_timed() } else { pool.0.0.acquire() }
    }

    fn id(&self, event: &Event) -> u64 {
        event.id().get()
    }

    fn record(&self, event: &Event, stream: &Stream, commit: bool) {
        event.record(stream).expect("recorded");
        if commit {
            self.commit(stream);
        }
    }

    fn wait(&self, event: &Event, stream: &Stream) {
        stream.wait(event).expect("a wait");
    }

    fn notify(&self, event: &Event, callback: Release) {
        event.on_complete(move |_| callback()).expect("registered");
    }

    fn query(&self, event: &Event) -> Result<bool, String> {
        event.is_complete().map_err(|error| error.to_string())
    }

    fn synchronize(&self, event: &Event) -> Result<(), String> {
        event.synchronize().map_err(|error| error.to_string())
    }

    /// Inside of `synchronize`, here.
    fn wait_for_cpu_sync(&self, event: &Event) -> Result<(), String> {
        self.synchronize(event)
    }

    fn completion_time(&self, event: &Event) -> Result<u64, String> {
        event.completion_time().map(|time| time.ticks()).map_err(|error| error.to_string())
    }

    fn acquire_id(&self, pool: &OursPool, timing: bool) -> u64 {
        pool.0.1.acquire(timing).expect("an id").get()
    }

    fn release_id(&self, pool: &OursPool, id: u64) -> Result<(), String> {
        pool.0.1.release(EventId::from_raw(id)).map_err(|error| error.to_string())
    }

    /// What [`EventTable::record`] does, with the interruption where another thread could come in.
    fn record_id(&self, pool: &OursPool, id: u64, interrupt: impl FnOnce()) -> Result<(), String> {
        let event = pool.0.1.get(EventId::from_raw(id)).map_err(|error| error.to_string())?;
        interrupt();
        event.record(&pool.0.2).and_then(|()| pool.0.2.flush()).map_err(|error| error.to_string())
    }

    fn query_id(&self, pool: &OursPool, id: u64) -> Result<bool, String> {
        pool.0.1.query(EventId::from_raw(id)).map_err(|error| error.to_string())
    }

    fn elapsed_ids(&self, pool: &OursPool, start: u64, end: u64) -> Result<f64, String> {
        let (start, end) = (EventId::from_raw(start), EventId::from_raw(end));
        pool.0.1.elapsed_time(start, end).map_err(|error| error.to_string())
    }

    fn work(&self, stream: &Stream, work: Release) {
        self.enqueue(stream, move || {
            work();
            Ok(())
        });
    }

    fn fail(&self, stream: &Stream) {
        self.enqueue(stream, || Err("a page fault".into()));
    }

    /// Whether the stream has failed is not the question here.
    fn commit(&self, stream: &Stream) {
        let _ = stream.flush();
    }

    fn hold(&self, stream: &Stream) -> Release {
        let signal = hold(stream);
        Box::new(move || signal.complete())
    }

    /// The callback thread is blocked, and the pump if there is one.
    fn hold_news(&self) -> Release {
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let nothing = self.device.pool().acquire();
        let block = move |_| {
            begin.send(()).expect("waited for below");
            let _ = released.recv_timeout(BOUND);
        };
        nothing.on_complete(block).expect("registered");
        begun.recv_timeout(BOUND).expect("the callback thread runs");
        let pump = self.driver.as_ref().map(Driver::hold_news);
        #[cfg(gpu_events_metal_sim)]
        let pump = (pump, metal_sim::control().hold_news());
        Box::new(move || drop((release, pump)))
    }

    fn now(&self) -> u64 {
        match &self.driver {
            Some(driver) => driver.ticks(),
            None => self.device.correlate().expect("the clock").device().ticks(),
        }
    }

    fn exhaust_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.exhaust();
        }
        #[cfg(gpu_events_metal_sim)]
        metal_sim::control().nil_always(metal_sim::Nil::SharedEvent);
    }

    fn patience(&self) -> Duration {
        BOUND
    }
}
