//! Native waits between CUDA's streams and Vulkan's on the same GPU.

use crate::support::{BOUND, Cell, complete, gpu};
use gpu_events::{
    Device, ErrorKind, Event, ForeignWaits, Status, Stream, StreamOptions, StreamWait, WaitOutcome, vulkan,
};
use gpu_events_conformance::cuda::Kernels;
use std::time::{Duration, Instant};

/// Long enough for a hand-over that should not come.
const NOT_YET: Duration = Duration::from_millis(50);

/// Why there is no GPU of Vulkan's that could share with CUDA, if so.
pub(crate) fn missing() -> Option<String> {
    let mut why = Vec::new();
    for index in 0.. {
        match Device::open(&format!("vulkan:{index}")) {
            Ok(device) if device.capabilities().native_on_request.contains(&"cuda") => return None,
            Ok(device) => {
                why.push(format!("{} shares no semaphores with other drivers", device.info().description));
            }
            Err(error) => {
                why.push(error.to_string());
                break;
            }
        }
    }
    Some(format!("no GPU that CUDA and Vulkan both drive: {}", why.join("; ")))
}

struct Pair {
    vulkan: Device,
    cuda: Device,
    kernels: &'static Kernels,
}

impl Pair {
    /// The GPU of CUDA's, as Vulkan has it as well.
    fn find() -> Self {
        let (cuda, kernels) = gpu();
        assert_eq!(cuda.capabilities().native_on_request, ["vulkan"]);
        for index in 0.. {
            let vulkan = Device::open(&format!("vulkan:{index}")).expect("the GPU, as Vulkan's");
            let pair = Self { vulkan, cuda: cuda.clone(), kernels };
            let source = pair.cuda(ForeignWaits::Fastest);
            let held = pair.hold(&source);
            let event = source.record().expect("a recording");
            let inserted = pair.vulkan(ForeignWaits::Native).wait(&event).expect("a wait");
            held.put(1);
            complete(&event);
            if inserted == StreamWait::Native {
                return pair;
            }
            println!("{}: {inserted:?}", pair.vulkan.info().description);
        }
        unreachable!("there is a last device")
    }

    fn cuda(&self, waits: ForeignWaits) -> Stream {
        let options = StreamOptions::new().foreign_waits(waits);
        self.cuda.create_stream_with(&options).expect("a stream of CUDA's")
    }

    fn vulkan(&self, waits: ForeignWaits) -> Stream {
        let options = StreamOptions::new().foreign_waits(waits);
        self.vulkan.create_stream_with(&options).expect("a stream of Vulkan's")
    }

    fn hold(&self, stream: &Stream) -> Cell {
        Cell::hold(self.kernels, stream.cuda().expect("CUDA's").raw())
    }
}

/// Has a stream wait, and records behind that.
#[track_caller]
fn behind(stream: &Stream, event: &Event, expected: StreamWait) -> Event {
    assert_eq!(stream.wait(event).expect("a wait"), expected);
    stream.record().expect("a recording")
}

#[track_caller]
fn not_yet(event: &Event) {
    assert_eq!(event.wait_timeout(NOT_YET).expect("no failure"), WaitOutcome::TimedOut);
}

/// Order and data, from CUDA by way of Vulkan to CUDA; and that nobody does so unasked.
pub(crate) fn both_ways() {
    let pair = Pair::find();
    for waits in [ForeignWaits::Native, ForeignWaits::Fastest] {
        let expected = if waits == ForeignWaits::Native { StreamWait::Native } else { StreamWait::Gated };
        let (from, to) = (Cell::new(pair.kernels), Cell::new(pair.kernels));
        let (first, between, last) = (pair.cuda(waits), pair.vulkan(waits), pair.cuda(waits));
        let held = pair.hold(&first);
        pair.kernels.set(first.cuda().expect("CUDA's").raw(), from.raw(), 7).expect("a launch");
        let there = behind(&between, &first.record().expect("a recording"), expected);
        let back = {
            // Vulkan's is not submitted while it is behind a gate: then it takes one either way.
            let back = behind(&last, &there, expected);
            pair.kernels.copy(last.cuda().expect("CUDA's").raw(), from.raw(), to.raw()).expect("a launch");
            drop(back);
            last.record().expect("a recording")
        };
        not_yet(&back);
        assert_eq!((there.status(), to.get()), (Status::Pending, 0));
        held.put(1);
        complete(&back);
        assert_eq!((there.status(), to.get()), (Status::Complete, 7));
    }
}

/// To wait for a position is not to wait for the next one, though it was submitted already (R9).
pub(crate) fn exact() {
    let pair = Pair::find();
    let native = ForeignWaits::Native;
    let (one, two) = (pair.cuda(native), pair.cuda(native));
    let (soon, late) = (pair.hold(&one), pair.hold(&two));
    let between = pair.vulkan(native);
    let first = behind(&between, &one.record().expect("a recording"), StreamWait::Native);
    let second = behind(&between, &two.record().expect("a recording"), StreamWait::Native);
    between.flush().expect("a flush");
    // The later one first: it must not be in the way of the earlier one.
    let waits_long = behind(&pair.cuda(native), &second, StreamWait::Native);
    let waits = behind(&pair.cuda(native), &first, StreamWait::Native);
    not_yet(&waits);
    soon.put(1);
    complete(&waits);
    not_yet(&waits_long);
    late.put(1);
    complete(&waits_long);

    let source = pair.cuda(native);
    let soon = pair.hold(&source);
    let first = source.record().expect("a recording");
    let late = pair.hold(&source);
    let second = source.record().expect("a recording");
    let waits = behind(&pair.vulkan(native), &first, StreamWait::Native);
    not_yet(&waits);
    soon.put(1);
    complete(&waits);
    not_yet(&second);
    late.put(1);
    complete(&second);
}

/// What waits for the host gets into no queue of Vulkan's (R6).
pub(crate) fn gated_source() {
    let pair = Pair::find();
    let native = ForeignWaits::Native;
    let (gate, open) = pair.cuda.host_event().expect("a host event");
    let gated = behind(&pair.cuda(native), &gate, StreamWait::Gated);
    let next = behind(&pair.cuda(native), &gated, StreamWait::Native);
    let waiting = [&gated, &next].map(|event| behind(&pair.vulkan(native), event, StreamWait::Gated));
    waiting.iter().for_each(not_yet);
    open.complete();
    waiting.iter().for_each(complete);

    let source = pair.cuda(native);
    let held = pair.hold(&source);
    let event = source.record().expect("a recording");
    let waits = behind(&pair.vulkan(native), &event, StreamWait::Native);
    held.put(1);
    complete(&waits);

    // Vulkan's own gates hold back what has not been submitted.
    let (gate, open) = pair.vulkan.host_event().expect("a host event");
    let gated = behind(&pair.vulkan(native), &gate, StreamWait::Gated);
    let waits = behind(&pair.cuda(native), &gated, StreamWait::Gated);
    not_yet(&waits);
    open.complete();
    complete(&waits);
}

/// A thousand hand-overs, and as few bridges as are needed at a time.
pub(crate) fn ping_pong() {
    const ROUNDS: u32 = 500;
    const AT_A_TIME: u32 = 10;
    let pair = Pair::find();
    let native = ForeignWaits::Native;
    let (from, between, to) = (pair.cuda(native), pair.vulkan(native), pair.cuda(native));
    let (raw_from, raw_to) = (from.cuda().expect("CUDA's").raw(), to.cuda().expect("CUDA's").raw());
    let cell = Cell::new(pair.kernels);
    let seen: Vec<_> = (0..ROUNDS).map(|_| Cell::new(pair.kernels)).collect();
    let begun = Instant::now();
    let mut natives = 0;
    for (round, copy) in (1..).zip(&seen) {
        // So that there is something to wait for.
        pair.kernels.spin(raw_from, Duration::from_micros(200)).expect("a launch");
        pair.kernels.set(raw_from, cell.raw(), round).expect("a launch");
        let inserted = between.wait(&from.record().expect("a recording")).expect("a wait");
        let there = between.record().expect("a recording");
        let back = to.wait(&there).expect("a wait");
        for inserted in [inserted, back] {
            assert_ne!(inserted, StreamWait::Gated, "round {round}");
            natives += u32::from(inserted == StreamWait::Native);
        }
        pair.kernels.copy(raw_to, cell.raw(), copy.raw()).expect("a launch");
        let done = to.record().expect("a recording");
        from.wait(&done).expect("a wait");
        if round % AT_A_TIME == 0 {
            complete(&done);
        }
    }
    let took = begun.elapsed();
    let bridges = vulkan::bridges(&pair.vulkan).expect("Vulkan's");
    println!("{natives} hand-overs by {bridges} bridges in {took:?}");
    assert!(seen.iter().map(|cell| cell.get()).eq(1..=ROUNDS));
    assert!(natives > ROUNDS, "there was something to wait for");
    assert!(bridges <= 2 * AT_A_TIME as usize + 4, "{bridges} bridges");
}

/// What CUDA will not signal any more, the host does: Vulkan's queues go on, and the stream that waited has failed (R26).
pub(crate) fn fault() {
    let pair = Pair::find();
    let native = ForeignWaits::Native;
    let source = pair.cuda(native);
    pair.hold(&source);
    let event = source.record().expect("a recording");
    let waits = behind(&pair.vulkan(native), &event, StreamWait::Native);
    let gated = behind(&pair.vulkan(ForeignWaits::Fastest), &event, StreamWait::Gated);
    not_yet(&waits);
    pair.kernels.trap(pair.cuda(native).cuda().expect("CUDA's").raw()).expect("a launch");
    for event in [&waits, &gated] {
        let error = event.wait_timeout(BOUND).expect_err("the failure of what it waits for");
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
    }
    // Through each of the queues that streams share.
    for _ in 0..32 {
        let (gate, open) = pair.vulkan.host_event().expect("a host event");
        let behind = behind(&pair.vulkan(native), &gate, StreamWait::Gated);
        open.complete();
        complete(&behind);
    }
}
