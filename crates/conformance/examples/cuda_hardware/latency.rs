//! From a kernel's end to a callback and to a task, with nobody asking the library for anything.

use crate::measure::{
    self, BLOCKING, Bench, Entry, Handle, Summary, Times, UNTIMED, Word, failed, idle, in_turn, ratio, step,
};
use cudarc::driver::sys;
use futures_lite::future::{block_on, poll_fn};
use gpu_events::{Device, Event, Result, Signal, Stream, StreamOptions, WaitOptions, WaitStrategy, cuda};
use std::{
    cell::RefCell,
    ffi::c_void,
    future::Future,
    hint,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

const STREAMS: usize = 64;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let raw = (0..STREAMS).map(|_| bench.stream().map(Handle)).collect::<Result<Vec<_>>>()?;
    let sets = [Set::adopt(Signal::Cheap, &raw)?, Set::adopt(Signal::Prompt, &raw)?];
    thread::scope(|scope| -> Result<()> {
        let (jobs, inbox) = mpsc::channel::<Job<'_>>();
        scope.spawn(move || {
            let entered = bench.enter();
            while let Ok(job) = inbox.recv() {
                job(entered.clone());
            }
        });
        let done = Scene::new(bench, raw.clone(), jobs).and_then(|scene| {
            [(20, 300), (1_000, 300), (100_000, 25)]
                .into_iter()
                .try_for_each(|(time, rounds)| told(&scene, &sets, Duration::from_micros(time), rounds))
        });
        if done.is_err() {
            // The other thread may be waiting for what was held back, and is waited for here.
            measure::open_all();
        }
        done
    })?;
    pending(bench, &raw, &sets)?;
    throughput(bench, &raw, &sets)
}

/// The same raw streams, as streams of ours in one of the modes.
struct Set {
    signal: Signal,
    _device: Device,
    streams: Vec<Stream>,
}

impl Set {
    fn adopt(signal: Signal, raw: &[Handle]) -> Result<Self> {
        let device = cuda::open(0, signal)?;
        let adopt = |stream: &Handle| {
            // SAFETY: a stream, never destroyed.
            unsafe { cuda::adopt_stream(&device, stream.0, Arc::new(()), &StreamOptions::new()) }
        };
        let streams = raw.iter().map(adopt).collect::<Result<Vec<_>>>()?;
        Ok(Self { signal, _device: device, streams })
    }
}

type Job<'a> = Box<dyn FnOnce(Result<()>) + Send + 'a>;

/// When news came: nanoseconds since some beginning, plus one; or zero, or that they were bad.
struct News {
    base: Instant,
    at: AtomicU64,
}

const BAD: u64 = u64::MAX;

impl News {
    fn new() -> Self {
        Self { base: Instant::now(), at: AtomicU64::new(0) }
    }

    fn tell(&self, good: bool) {
        let at = if good { self.base.elapsed().as_nanos() as u64 + 1 } else { BAD };
        // Release: pairs with `wait`.
        self.at.store(at, Ordering::Release);
    }

    fn wait(&self) -> Result<Instant> {
        loop {
            // Acquire: pairs with `tell`.
            match self.at.load(Ordering::Acquire) {
                0 => hint::spin_loop(),
                BAD => return Err(failed("an observer was told of a failure")),
                at => return Ok(self.base + Duration::from_nanos(at - 1)),
            }
        }
    }
}

unsafe extern "C" fn host_function(news: *mut c_void) {
    // SAFETY: `launch_host_function` leaked one count of an `Arc<News>` for this call.
    let news = unsafe { Arc::from_raw(news.cast_const().cast::<News>()) };
    news.tell(true);
}

fn launch_host_function(stream: Handle, news: &Arc<News>) -> Result<()> {
    let news = Arc::into_raw(news.clone()).cast_mut().cast::<c_void>();
    // SAFETY: the stream is there; the function takes what it is given here.
    let code = unsafe { sys::cuLaunchHostFunc(stream.0.cast(), Some(host_function), news) };
    measure::check("cuLaunchHostFunc", code as u32)
}

fn cpu_time(clock: libc::clockid_t) -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time` alone.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(failed("clock_gettime refused a CPU clock"));
    }
    Ok(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
}

/// The CPU time of the process, less that of the calling thread, which only watches.
fn cpu_of_others() -> Result<Duration> {
    let all = cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(all.saturating_sub(cpu_time(libc::CLOCK_THREAD_CPUTIME_ID)?))
}

#[derive(Clone, Copy)]
enum Observer {
    Callback,
    Task,
    /// A thread that does nothing but ask: no news can come sooner.
    Spin,
    HostFunction,
    Synchronize,
}

/// 64 streams, and what holds them back.
struct Scene<'a> {
    bench: &'a Bench,
    raw: Vec<Handle>,
    jobs: mpsc::Sender<Job<'a>>,
    first: Word,
    others: Word,
    times: Times,
    plain: Vec<Handle>,
    held: Handle,
    blocking: Handle,
    random: AtomicU64,
}

/// What one round found.
struct Found {
    latency: f64,
    cpu: Duration,
    wall: Duration,
}

impl<'a> Scene<'a> {
    fn new(bench: &'a Bench, raw: Vec<Handle>, jobs: mpsc::Sender<Job<'a>>) -> Result<Self> {
        Ok(Self {
            bench,
            raw,
            jobs,
            first: bench.flag()?,
            others: bench.flag()?,
            times: bench.times()?,
            plain: bench.events(STREAMS)?.into_iter().map(Handle).collect(),
            held: Handle(bench.event(UNTIMED)?),
            blocking: Handle(bench.event(BLOCKING)?),
            random: AtomicU64::new(0x2545_F491_4F6C_DD1D),
        })
    }

    fn any_stream(&self) -> usize {
        // Relaxed: one thread. Xorshift.
        let mut state = self.random.load(Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.random.store(state, Ordering::Relaxed);
        (state % STREAMS as u64) as usize
    }

    /// Every stream pending; then one of them, any, finishes by itself, and somebody is told.
    ///
    /// That one is submitted first: streams share connections to the GPU, and one behind a stream that waits would wait too.
    fn round(&self, set: Option<&Set>, observer: Observer, time: Duration) -> Result<Found> {
        let Self { bench, raw, .. } = self;
        let kernels = bench.kernels;
        let chosen = self.any_stream();
        self.first.set(0);
        self.others.set(0);
        self.times.clear();
        let news = Arc::new(News::new());
        let rest = Arc::new(AtomicUsize::new(0));
        let mut events = Vec::with_capacity(STREAMS);
        for turn in 0..STREAMS {
            let index = (chosen + turn) % STREAMS;
            let stream = raw[index].0;
            if turn == 0 {
                kernels.until(stream, self.first.as_u32())?;
                kernels.timed(stream, time, self.times.pointer())?;
            } else if turn == 1 {
                kernels.until(stream, self.others.as_u32())?;
                bench.record(self.held.0, stream)?;
            } else {
                // Not a kernel each that looks at the host's memory: they would slow down all else that goes there.
                bench.wait_event(stream, self.held.0)?;
            }
            match (set, observer) {
                (Some(set), _) => events.push(set.streams[index].record()?),
                (None, Observer::HostFunction) if turn == 0 => launch_host_function(raw[index], &news)?,
                // The others with plain events: the driver blocks whoever records a few dozen blocking ones.
                (None, Observer::Synchronize) if turn == 0 => bench.record(self.blocking.0, stream)?,
                (None, _) => bench.record(self.plain[index].0, stream)?,
            }
        }
        // Of ours, all 64 are observed: the chosen one as asked, and last, since that is when the pump is most awake.
        let mut events = events.into_iter();
        let event = events.next();
        for event in events {
            let rest = rest.clone();
            event.on_complete(move |outcome| {
                if outcome.is_ok() {
                    // Release: pairs with the load below.
                    rest.fetch_add(1, Ordering::Release);
                }
            })?;
        }
        self.observe(observer, event, self.plain[chosen], &news)?;
        let (begun, cpu) = (Instant::now(), cpu_of_others()?);
        self.first.set(1);
        while self.times.end.get() == 0 {
            hint::spin_loop();
        }
        let ended = Instant::now();
        let told = news.wait()?;
        let (wall, cpu) = (begun.elapsed(), cpu_of_others()?.saturating_sub(cpu));
        self.others.set(1);
        if set.is_some() {
            // Acquire: pairs with the callbacks.
            while rest.load(Ordering::Acquire) < STREAMS - 1 {
                hint::spin_loop();
            }
        }
        raw.iter().try_for_each(|stream| bench.drain(stream.0))?;
        // Told before the host saw the kernel's last write counts as negative, not as nothing.
        let latency = if told >= ended {
            (told - ended).as_nanos() as f64
        } else {
            -((ended - told).as_nanos() as f64)
        };
        Ok(Found { latency: latency / 1e3, cpu, wall })
    }

    fn observe(
        &self,
        observer: Observer,
        event: Option<Event>,
        native: Handle,
        news: &Arc<News>,
    ) -> Result<()> {
        let waiting = Arc::new(AtomicBool::new(false));
        let (news, there) = (news.clone(), waiting.clone());
        let job: Job<'a> = match (observer, event) {
            (Observer::Callback, Some(event)) => {
                event.on_complete(move |outcome| news.tell(outcome.is_ok()))?;
                return Ok(());
            }
            (Observer::Task, Some(event)) => Box::new(move |_| {
                let mut completion = pin!(event.completion());
                let outcome = block_on(poll_fn(|context| {
                    let poll = completion.as_mut().poll(context);
                    // Release: it is registered.
                    there.store(true, Ordering::Release);
                    poll
                }));
                news.tell(outcome.is_ok());
            }),
            (Observer::Synchronize, None) => {
                let (bench, blocking) = (self.bench, self.blocking);
                Box::new(move |entered| {
                    let blocking = blocking;
                    // Release: as above.
                    there.store(true, Ordering::Release);
                    let outcome = entered.and_then(|()| bench.synchronize(blocking.0));
                    news.tell(outcome.is_ok());
                })
            }
            (Observer::Spin, Some(event)) => Box::new(move |_| {
                // Release: as above.
                there.store(true, Ordering::Release);
                let outcome = event.wait_with(&WaitOptions::new().strategy(WaitStrategy::Spin));
                news.tell(outcome.is_ok());
            }),
            (Observer::Spin, None) => {
                let bench = self.bench;
                Box::new(move |entered| {
                    let native = native;
                    // Release: as above.
                    there.store(true, Ordering::Release);
                    let ask = || {
                        entered?;
                        while !bench.query(native.0)? {
                            hint::spin_loop();
                        }
                        Ok(())
                    };
                    let outcome: Result<()> = ask();
                    news.tell(outcome.is_ok());
                })
            }
            (Observer::HostFunction, None) => return Ok(()),
            _ => return Err(failed("no such observer")),
        };
        self.jobs.send(job).map_err(|_| failed("the other thread has gone"))?;
        // Acquire: pairs with the stores above.
        while !waiting.load(Ordering::Acquire) {
            hint::spin_loop();
        }
        if matches!(observer, Observer::Synchronize) {
            // Until it really sleeps.
            idle(Duration::from_micros(100));
        }
        Ok(())
    }
}

fn told(scene: &Scene<'_>, sets: &[Set; 2], time: Duration, rounds: usize) -> Result<()> {
    let variants = [
        ("ours: callback, cheap", Some(&sets[0]), Observer::Callback),
        ("ours: task, cheap", Some(&sets[0]), Observer::Task),
        ("ours: callback, prompt", Some(&sets[1]), Observer::Callback),
        ("ours: task, prompt", Some(&sets[1]), Observer::Task),
        ("raw: cuLaunchHostFunc", None, Observer::HostFunction),
        ("raw: cuEventSynchronize, blocking, in a thread", None, Observer::Synchronize),
        ("raw: cuEventQuery in a loop, in a thread", None, Observer::Spin),
        ("ours: a thread that spins, cheap", Some(&sets[0]), Observer::Spin),
        ("ours: a thread that spins, prompt", Some(&sets[1]), Observer::Spin),
    ];
    let used: Vec<_> =
        variants.iter().map(|_| RefCell::new((Duration::ZERO, Duration::ZERO, Vec::new()))).collect();
    let entries = variants
        .iter()
        .zip(&used)
        .map(|((name, set, observer), used)| {
            Entry::new(*name, move || {
                let found = scene.round(*set, *observer, time)?;
                let mut used = used.borrow_mut();
                used.0 += found.cpu;
                used.1 += found.wall;
                used.2.push(found.cpu.as_nanos() as f64 / 1e3);
                Ok(found.latency)
            })
        })
        .collect();
    let title = format!("a kernel of {time:?} ends by itself, {STREAMS} streams pending: until told");
    let all = in_turn(&title, "µs", rounds, entries)?;
    println!("  CPU time of the process without the measuring thread, from the kernel's start to the news:");
    for ((name, ..), used) in variants.iter().zip(&used) {
        let used = used.borrow();
        let median = Summary::of(&used.2)?.median;
        let share = 100.0 * used.0.as_secs_f64() / used.1.as_secs_f64();
        println!("    {name:<56} {share:>8.2} % of one core; {median:.1} µs a round (median)");
    }
    for (index, (name, ..)) in variants.iter().enumerate().take(4) {
        if time < Duration::from_micros(200) {
            println!("  = {name}: p50 {:.2} µs (goal ≤ 15, within the spin window)", all[index].median);
        } else {
            ratio(&format!("{name} / blocking synchronize"), all[index].median, all[5].median, "≤ 2");
        }
    }
    Ok(())
}

/// CPU time while nothing but kernels of 100 ms is pending, on all streams, and the caller sleeps.
fn pending(bench: &Bench, raw: &[Handle], sets: &[Set; 2]) -> Result<()> {
    const ROUNDS: usize = 10;
    let kernel = Duration::from_millis(100);
    let times = bench.times()?;
    let blocking = bench.event(BLOCKING)?;
    println!(
        "\nCPU time of the process while {STREAMS} streams have a kernel of {kernel:?} each, and everybody sleeps"
    );
    for (name, set) in [
        ("ours: a callback on each, cheap", Some(&sets[0])),
        ("ours: a callback on each, prompt", Some(&sets[1])),
        ("raw: cuEventSynchronize, blocking, on one", None),
    ] {
        let (mut cpu, mut wall) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..ROUNDS {
            step(name, || {
                let (tell, told) = mpsc::channel();
                for (index, stream) in raw.iter().enumerate() {
                    bench.kernels.timed(stream.0, kernel, times.pointer())?;
                    if let Some(set) = set {
                        let tell = tell.clone();
                        set.streams[index].record()?.on_complete(move |outcome| drop(tell.send(outcome)))?;
                    }
                }
                if set.is_none() {
                    bench.record(blocking, raw[STREAMS - 1].0)?;
                }
                let (begun, before) = (Instant::now(), cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID)?);
                match set {
                    Some(_) => {
                        for _ in 0..STREAMS {
                            told.recv().map_err(|_| failed("a callback was dropped"))??;
                        }
                    }
                    None => bench.synchronize(blocking)?,
                }
                cpu += cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID)?.saturating_sub(before);
                wall += begun.elapsed();
                raw.iter().try_for_each(|stream| bench.drain(stream.0))
            })?;
        }
        let share = 100.0 * cpu.as_secs_f64() / wall.as_secs_f64();
        println!("  {name:<58} {share:>8.3} % of one core, over {wall:.2?} (goal < 2 %)");
    }
    Ok(())
}

/// Whether observers hold up a stream: kernels on one, while others are pending.
fn throughput(bench: &Bench, raw: &[Handle], sets: &[Set; 2]) -> Result<()> {
    const BATCHES: usize = 30;
    const BATCH: usize = 10;
    const BUSY: usize = 4;
    let kernel = Duration::from_micros(20);
    let (flag, others) = (bench.flag()?, bench.flag()?);
    let (first, last, between) = (bench.times()?, bench.times()?, bench.times()?);
    let natives = &bench.events(BATCHES)?.into_iter().map(Handle).collect::<Vec<_>>();
    let busy_native = bench.event(UNTIMED)?;
    // Not one of the first, which the busy ones are; the next one made has another connection, if there are enough.
    let stream = raw[BUSY];
    let round = move |busy: bool, set: Option<&Set>, host: bool| -> Result<f64> {
        [flag, others].iter().for_each(|it| it.set(0));
        first.clear();
        last.clear();
        let told = Arc::new(AtomicUsize::new(0));
        let mut observers = 0;
        let mut observe = |event: Event| -> Result<()> {
            let told = told.clone();
            observers += 1;
            event.on_complete(move |outcome| {
                if outcome.is_ok() {
                    // Release: pairs with the load below.
                    told.fetch_add(1, Ordering::Release);
                }
            })?;
            Ok(())
        };
        bench.kernels.until(stream.0, flag.as_u32())?;
        for (batch, native) in natives.iter().enumerate() {
            for index in 0..BATCH {
                let times = match (batch, index) {
                    (0, 0) => first,
                    (batch, index) if batch + 1 == BATCHES && index + 1 == BATCH => last,
                    _ => between,
                };
                bench.kernels.timed(stream.0, kernel, times.pointer())?;
            }
            match set {
                Some(set) => observe(set.streams[BUSY].record()?)?,
                None if host => launch_host_function(stream, &Arc::new(News::new()))?,
                None => bench.record(native.0, stream.0)?,
            }
        }
        for (index, stream) in raw.iter().enumerate().take(if busy { BUSY } else { 0 }) {
            bench.kernels.until(stream.0, others.as_u32())?;
            match set {
                Some(set) => observe(set.streams[index].record()?)?,
                None => bench.record(busy_native, stream.0)?,
            }
        }
        flag.set(1);
        let begun = Instant::now();
        while last.end.get() == 0 {
            if begun.elapsed() > Duration::from_secs(2) {
                return Err(failed("the free stream stands still beside the busy ones"));
            }
            hint::spin_loop();
        }
        others.set(1);
        raw.iter().take(BUSY + 1).try_for_each(|stream| bench.drain(stream.0))?;
        // Acquire: pairs with the callbacks.
        while told.load(Ordering::Acquire) < observers {
            hint::spin_loop();
        }
        let time = last.ended()?.checked_sub(first.begin.get());
        let time = time.ok_or_else(|| failed("the last kernel ended before the first began"))?;
        Ok(time as f64 / (BATCHES * BATCH) as f64 / 1e3)
    };
    let mut entries = vec![
        Entry::new("alone, an event after each ten", move || round(false, None, false)),
        Entry::new(format!("beside {BUSY} pending streams, an event after each ten"), move || {
            round(true, None, false)
        }),
        Entry::new("the same, a host function after each ten", move || round(true, None, true)),
    ];
    for set in sets {
        let name = format!("the same, {:?}, a callback on each ten and on the pending", set.signal);
        entries.push(Entry::new(name, move || round(true, Some(set), false)));
    }
    let title = format!("a stream of {} kernels of {kernel:?}: GPU time for each kernel", BATCHES * BATCH);
    let all = in_turn(&title, "µs", 30, entries)?;
    for (index, set) in sets.iter().enumerate() {
        let name = format!("{:?}, observed / not observed", set.signal);
        ratio(&name, all[3 + index].median, all[1].median, "1: no stream stalled");
    }
    ratio("host functions / events", all[2].median, all[1].median, "none");
    Ok(())
}
