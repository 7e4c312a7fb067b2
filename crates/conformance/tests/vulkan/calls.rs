//! What the driver is called for, counted, and what users' own submissions and semaphores make of events. On a VkDevice of a
//! user's, behind the layer that watches.

use crate::{
    observers,
    waits::{complete, keep_alive, until},
};
use gpu_events::{
    Device, ErrorKind, Event, Status, Stream, StreamOptions, statuses,
    vulkan::{self, SignalState},
};
use gpu_events_conformance::{
    Cells,
    vulkan::{
        Gpu, VulkanCells,
        layer::{Batch, Calls, Layered},
    },
};
use std::{
    sync::{Arc, mpsc},
    time::Instant,
};

struct Bench {
    layered: Arc<Layered>,
    device: Device,
    stream: Stream,
    cells: VulkanCells,
}

impl Bench {
    fn new() -> Self {
        let layered = Layered::make(0).expect("a VkDevice");
        let device = layered.open().expect("a device");
        let stream = device.create_stream().expect("a stream");
        let cells = Gpu::of(&device).and_then(|gpu| gpu.cells(4)).expect("memory");
        Self { layered, device, stream, cells }
    }

    fn calls(&self) -> Calls {
        self.layered.watch().calls()
    }

    /// A piece of work, and a recording.
    fn piece(&self, value: u32) -> Event {
        self.cells.write(&self.stream, 0, value).expect("submitted");
        self.stream.record().expect("recorded")
    }

    /// Nothing was waited for before somebody had submitted it.
    fn no_early_waits(&self) {
        assert_eq!(self.calls().early_waits, []);
    }
}

/// A thousand pieces and a thousand recordings, with the GPU kept busy: how many submissions they are.
pub(crate) fn submissions() {
    const PIECES: u64 = 1_000;
    let bench = Bench::new();
    // With nobody who looks: memory is no event.
    let first = bench.piece(7);
    until("the first piece", || bench.cells.read(0) == 7);
    complete(&first);
    let held: Vec<_> =
        bench.layered.queues().iter().map(|queue| bench.layered.hold(queue).expect("held")).collect();
    let before = bench.calls().submissions;
    let events: Vec<_> = (0..PIECES as u32).map(|value| bench.piece(value)).collect();
    let gathered = bench.calls().submissions - before;
    assert_eq!(events[0].status(), Status::Pending);
    drop(held);
    complete(&events[events.len() - 1]);
    let submissions = bench.calls().submissions - before;
    let bound = bench.device.capabilities().batch_bound.expect("a bound");
    println!(
        "{PIECES} pieces and recordings: {gathered} submissions while held, {submissions} in all; bound {bound}"
    );
    assert!(submissions <= PIECES / bound, "{submissions} submissions");
    assert!(events.iter().all(|event| event.status() == Status::Complete));
    assert_eq!(bench.cells.read(0), PIECES as u32 - 1);
    bench.no_early_waits();
}

/// One for each stream, none for an event, and those of streams that are gone are used again.
pub(crate) fn semaphores() {
    const STREAMS: u64 = 20;
    let bench = Bench::new();
    let before = bench.calls().semaphores_made;
    for _ in 0..3 {
        let streams: Vec<_> = (0..STREAMS).map(|_| bench.device.create_stream().expect("a stream")).collect();
        let events: Vec<_> =
            streams.iter().flat_map(|stream| [stream.record_timed(), stream.record_timed()]).collect();
        for event in events {
            complete(&event.expect("recorded"));
        }
        drop(streams);
    }
    let made = bench.calls().semaphores_made - before;
    assert_eq!(made, STREAMS, "of {STREAMS} streams, three times over");
}

/// How often the counter is read for a thousand pending events.
pub(crate) fn polls() {
    let bench = Bench::new();
    let queue = bench.layered.queues().iter().map(|queue| bench.layered.hold(queue).expect("held"));
    let held: Vec<_> = queue.collect();
    // A stream with nothing to do would have them complete on the spot.
    let first = bench.stream.record_timed();
    let rest = (1..1_000).map(|_| bench.stream.record());
    let events: Vec<_> = std::iter::once(first).chain(rest).map(|event| event.expect("recorded")).collect();
    let poll = |ask: &dyn Fn()| {
        let before = bench.calls().counter_reads;
        ask();
        bench.calls().counter_reads - before
    };
    let all = || assert!(statuses(&events).iter().all(|status| *status == Status::Pending));
    // The first look has everything submitted, and the pump may look as well until it is through with that, which may be
    // late.
    until("a hundred polls of a thousand at once, one reading each", || (0..100).all(|_| poll(&all) == 1));
    until("a thousand polls of one alone, one reading each", || {
        events.iter().all(|event| poll(&|| assert_eq!(event.status(), Status::Pending)) == 1)
    });
    drop(held);
    complete(&events[999]);
    assert_eq!(poll(&|| assert_eq!(events[3].status(), Status::Complete)), 0, "one that is known");
}

/// Everybody is told of the loss: of busy streams and idle ones, and of another device's that waits for one.
pub(crate) fn loss() {
    let bench = Bench::new();
    let cpu = Device::open("cpu").expect("the CPU");
    let held: Vec<_> =
        bench.layered.queues().iter().map(|queue| bench.layered.hold(queue).expect("held")).collect();
    let (kept, weak) = keep_alive();
    let busy = Arc::new(bench.piece(1));
    let (gate, signal) = bench.device.host_event().expect("a host event");
    let gated = bench.device.create_stream().expect("a stream");
    assert!(gated.wait(&gate).expect("waits").inserted());
    let idle = Arc::new(gated.record().expect("recorded"));
    let behind = cpu.create_stream().expect("a stream");
    assert!(behind.wait(&busy).expect("waits").inserted());
    let behind = Arc::new(behind.record().expect("recorded"));
    gated.keep_until(&busy, kept).expect("kept");
    let (tell, told) = mpsc::channel();
    let count = observers::observe("busy", &busy, &tell)
        + observers::observe("gated", &idle, &tell)
        + observers::observe("on the CPU behind it", &behind, &tell);
    let begun = Instant::now();
    bench.layered.watch().lose();
    observers::expect_all(&told, count, begun, ErrorKind::DeviceLost);
    assert_eq!(bench.stream.record().map(drop).map_err(|error| error.kind()), Ok(()), "a failed stream");
    let more = bench.device.create_stream().map(drop).map_err(|error| error.kind());
    assert_eq!(more, Err(ErrorKind::DeviceLost));
    // What the GPU may still do to it nobody knows.
    assert!(weak.strong_count() > 0);
    let next = cpu.create_stream().and_then(|stream| stream.record()).expect("the CPU goes on");
    complete(&next);
    drop((held, signal));
    let again = Bench::new();
    complete(&again.piece(2));
}

/// A user's own submissions to an adopted queue are in order with what is recorded there.
pub(crate) fn adopted() {
    let bench = Bench::new();
    let (kept, weak) = keep_alive();
    let stream = bench.layered.adopt(&bench.device, kept, &StreamOptions::new()).expect("adopted");
    let queue = bench.layered.foreign_queue();
    let commands = bench.cells.commands_to_write(queue.family(), 1, 5).expect("commands");
    let (gate, signal) = bench.device.host_event().expect("a host event");
    let before = stream.record_timed().expect("recorded");
    complete(&before);
    assert!(stream.wait(&gate).expect("waits").inserted());
    // SAFETY: the commands live until the end of this, and they are done then.
    unsafe { bench.layered.submit(queue, Batch { commands: &[&commands], ..Batch::default() }) }
        .expect("submitted");
    let after = stream.record_timed().expect("recorded");
    assert_eq!(after.status(), Status::Pending);
    assert_eq!(bench.cells.read(1), 0, "the user's own work is held back as well");
    // What comes behind a gate of the driver's waits for the host: others must not do so in the driver.
    let third = bench.device.create_stream().expect("a stream");
    assert_eq!(third.wait(&after).expect("waits"), gpu_events::StreamWait::Gated);
    let last = third.record().expect("recorded");
    let begun = Instant::now();
    signal.complete();
    complete(&after);
    complete(&last);
    assert_eq!(bench.cells.read(1), 5);
    let elapsed = after.elapsed_since(&before).expect("timed");
    assert!(elapsed.duration() >= begun.elapsed() / 1_000, "{elapsed}");
    assert!(weak.strong_count() > 0);
    drop((stream, before, after));
    until("the queue's keep-alive to be let go of", || weak.strong_count() == 0);
}

/// Recordings in a user's submissions, and a user's semaphores as events.
pub(crate) fn foreign() {
    let bench = Bench::new();
    let queue = &bench.layered.queues()[0];
    // Prepared, and submitted.
    let (event, recording) = vulkan::record_in_submission(&bench.device).expect("prepared");
    assert_eq!(event.status(), Status::NotSubmitted);
    let hold = bench.layered.hold(queue).expect("held");
    let signals = [(recording.semaphore(), recording.value())];
    // SAFETY: the semaphore is the device's, and stays until its end.
    unsafe { bench.layered.submit(queue, Batch { signals: &signals, ..Batch::default() }) }
        .expect("submitted");
    recording.submitted();
    assert_eq!(event.status(), Status::Pending);
    let waiter = bench.device.create_stream().expect("a stream");
    assert_eq!(waiter.wait(&event).expect("waits"), gpu_events::StreamWait::Native);
    let behind = waiter.record().expect("recorded");
    drop(event);
    drop(hold);
    complete(&behind);
    // Abandoned.
    let (event, recording) = vulkan::record_in_submission(&bench.device).expect("prepared");
    recording.abandon();
    assert_eq!(event.synchronize().map_err(|error| error.kind()), Err(ErrorKind::Abandoned));
    // A user's semaphore, which the host signals.
    let semaphore = bench.layered.make_semaphore().expect("a semaphore");
    let (kept, weak) = keep_alive();
    // SAFETY: it lives as long as the VkDevice.
    let imported =
        unsafe { vulkan::import_semaphore(&bench.device, semaphore, 3, SignalState::Unsubmitted, kept) };
    let imported = imported.expect("imported");
    assert_eq!(imported.status(), Status::Pending);
    assert_eq!(waiter.wait(&imported).expect("waits"), gpu_events::StreamWait::Gated);
    let behind = waiter.record().expect("recorded");
    // SAFETY: nobody else signals it.
    unsafe { bench.layered.signal(semaphore, 2) }.expect("signaled");
    assert_eq!((imported.status(), behind.status()), (Status::Pending, Status::Pending));
    // SAFETY: as above.
    unsafe { bench.layered.signal(semaphore, 3) }.expect("signaled");
    complete(&imported);
    complete(&behind);
    drop(imported);
    until("the semaphore's keep-alive to be let go of", || weak.strong_count() == 0);
    // An event of ours in a user's submission.
    let hold = bench.layered.hold(queue).expect("held");
    let event = bench.piece(9);
    let (semaphore, value) = vulkan::semaphore_of(&event).expect("submitted").expect("pending");
    let done = bench.layered.make_semaphore().expect("a semaphore");
    let batch = Batch { waits: &[(semaphore, value)], signals: &[(done, 1)], ..Batch::default() };
    // SAFETY: both are semaphores of the device's.
    unsafe { bench.layered.submit(queue, batch) }.expect("submitted");
    // SAFETY: as above; a signal was submitted.
    let after =
        unsafe { vulkan::import_semaphore(&bench.device, done, 1, SignalState::Submitted, Arc::new(())) };
    let after = after.expect("imported");
    assert_eq!(after.status(), Status::Pending);
    drop(hold);
    complete(&after);
    assert_eq!(event.status(), Status::Complete);
    assert_eq!(vulkan::semaphore_of(&event).expect("complete"), None);
    bench.no_early_waits();
}

/// What is kept for work is held until that is done, and no longer, also if everybody has gone.
pub(crate) fn kept() {
    let bench = Bench::new();
    let queue = &bench.layered.queues()[0];
    let hold = bench.layered.hold(queue).expect("held");
    let (kept, weak) = keep_alive();
    let stream = bench.device.create_stream().expect("a stream");
    let family = stream.vulkan().expect("Vulkan").queue_family();
    let commands = Arc::new(bench.cells.commands_to_write(family, 2, 4).expect("commands"));
    let work = vulkan::Work::new([commands.raw()]).keep_alive(Arc::new((commands, kept)));
    // SAFETY: the commands are of this family, and kept.
    unsafe { stream.vulkan().expect("Vulkan").submit(work) }.expect("submitted");
    drop(stream);
    assert!(weak.strong_count() > 0);
    drop(hold);
    until("what was kept to be let go of", || weak.strong_count() == 0);
    assert_eq!(bench.cells.read(2), 4);
}

/// When everything has gone, so has every semaphore.
pub(crate) fn nothing_is_left() {
    let Bench { layered, device, stream, cells } = Bench::new();
    let event = stream.record_timed().expect("recorded");
    complete(&event);
    drop((event, stream, cells, device));
    until("the last semaphore to be destroyed", || layered.watch().calls().semaphores_alive == 0);
}
