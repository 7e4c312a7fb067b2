//! The model's own promises: what it does by Apple's documentation, what it does where that is silent, each knob, and
//! each misuse that it notices.

use block2::RcBlock;
use metal_sim::kernels::{self, Bindings, Grid};
use metal_sim::{
    Chance, Exclusive, Knobs, Nil, control, counters, exclusive, host_work, new_device, settle,
    take_violations, unsent_methods,
};
use objc2::AnyThread;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSRange, NSString};
use objc2_metal::{
    MTLAllocation, MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandBufferStatus as Status,
    MTLCommandEncoder, MTLCommandQueue, MTLCompileOptions, MTLComputeCommandEncoder, MTLComputePipelineState,
    MTLCopyAllDevices, MTLCreateSystemDefaultDevice, MTLDevice, MTLEvent, MTLFunction, MTLLibrary,
    MTLResource, MTLResourceOptions, MTLSharedEvent, MTLSharedEventListener, MTLSize, MTLStorageMode,
};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);
const LONG_MS: u64 = 20_000;
/// Long enough to see that something does not happen, if one is lucky; right code never fails for it.
const A_WHILE_MS: u64 = 5;

type Object<P> = Retained<ProtocolObject<P>>;
type Device = Object<dyn MTLDevice>;
type Queue = Object<dyn MTLCommandQueue>;
type Buffer = Object<dyn MTLCommandBuffer>;
type Event = Object<dyn MTLSharedEvent>;
type Handler = dyn Fn(NonNull<ProtocolObject<dyn MTLCommandBuffer>>);

// ---------------------------------------------------------------------------------------------------------- helpers
/// Runs a test alone, in an autorelease pool, on a device.
fn alone(test: impl FnOnce(&mut Exclusive, &Device)) {
    let mut alone = exclusive();
    autoreleasepool(|_| test(&mut alone, &MTLCreateSystemDefaultDevice().expect("a device")));
}

fn queue(device: &Device) -> Queue {
    device.newCommandQueue().expect("a queue")
}

fn event(device: &Device) -> Event {
    device.newSharedEvent().expect("an event")
}

fn plain(event: &Event) -> &ProtocolObject<dyn MTLEvent> {
    ProtocolObject::from_ref(&**event)
}

fn string(text: &str) -> Retained<NSString> {
    NSString::from_str(text)
}

/// A command buffer that is not committed yet.
fn buffer(queue: &Queue) -> Buffer {
    queue.commandBuffer().expect("a command buffer")
}

fn wait(buffer: &Buffer, event: &Event, value: u64) {
    buffer.encodeWaitForEvent_value(plain(event), value);
}

fn signal(buffer: &Buffer, event: &Event, value: u64) {
    buffer.encodeSignalEvent_value(plain(event), value);
}

/// Commits a buffer that waits for one event and signals another.
fn commit(queue: &Queue, first: Option<(&Event, u64)>, then: Option<(&Event, u64)>) -> Buffer {
    let buffer = buffer(queue);
    if let Some((event, value)) = first {
        wait(&buffer, event, value);
    }
    if let Some((event, value)) = then {
        signal(&buffer, event, value);
    }
    buffer.commit();
    buffer
}

fn reaches(event: &Event, value: u64) -> bool {
    event.waitUntilSignaledValue_timeoutMS(value, LONG_MS)
}

fn stays_below(event: &Event, value: u64) -> bool {
    !event.waitUntilSignaledValue_timeoutMS(value, A_WHILE_MS)
}

#[track_caller]
fn completes(buffer: &Buffer) {
    buffer.waitUntilCompleted();
    assert_eq!((buffer.status(), buffer.error()), (Status::Completed, None));
}

/// Waits for a buffer to fail, and gives the code.
#[track_caller]
fn fails(buffer: &Buffer) -> isize {
    buffer.waitUntilCompleted();
    assert_eq!(buffer.status(), Status::Error);
    let error = buffer.error().expect("a failed buffer has an error");
    assert_eq!(error.domain().to_string(), "MTLCommandBufferErrorDomain");
    assert!(format!("{error} {error:?}").contains("simulated: "));
    error.code()
}

/// Has the listener's queue send what it is told.
fn notify(event: &Event, listener: &MTLSharedEventListener, value: u64) -> mpsc::Receiver<u64> {
    let (tx, rx) = mpsc::channel();
    let block = RcBlock::new(move |event: NonNull<ProtocolObject<dyn MTLSharedEvent>>, value: u64| {
        // SAFETY: the event is there while the block runs.
        assert!(unsafe { event.as_ref() }.signaledValue() > 0);
        let _ = tx.send(value);
    });
    // SAFETY: the block may be called on any thread.
    unsafe { event.notifyListener_atValue_block(listener, value, RcBlock::as_ptr(&block)) };
    rx
}

/// Has a handler send the status that it sees.
fn on_completion(buffer: &Buffer) -> mpsc::Receiver<(Status, std::thread::ThreadId)> {
    let (tx, rx) = mpsc::channel();
    let block = RcBlock::new(move |buffer: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
        // SAFETY: the buffer is there while the block runs.
        let _ = tx.send((unsafe { buffer.as_ref() }.status(), std::thread::current().id()));
    });
    // SAFETY: the block may be called on any thread.
    unsafe { buffer.addCompletedHandler(RcBlock::as_ptr(&block)) };
    rx
}

fn tame() {
    control().set(|knobs| *knobs = Knobs::default().tame());
}

fn shared_memory(device: &Device, length: usize) -> Object<dyn MTLBuffer> {
    device.newBufferWithLength_options(length, MTLResourceOptions::StorageModeShared).expect("memory")
}

fn contents(memory: &ProtocolObject<dyn MTLBuffer>) -> Vec<u8> {
    // SAFETY: as long as the buffer; the GPU does nothing to it now.
    unsafe { std::slice::from_raw_parts(memory.contents().as_ptr().cast::<u8>(), memory.length()) }.to_vec()
}

// ----------------------------------------------------------------------------------------------------------- events
#[test]
fn an_event_orders_two_queues() {
    alone(|_, device| {
        let (producer, consumer, event) = (queue(device), queue(device), event(device));
        let listener = MTLSharedEventListener::new();
        let told = notify(&event, &listener, 7);
        let waiter = commit(&consumer, Some((&event, 7)), Some((&event, 8)));
        assert!(stays_below(&event, 7));
        assert!(waiter.status() < Status::Completed && waiter.GPUEndTime() == 0.0);
        let signaller = commit(&producer, None, Some((&event, 7)));
        completes(&signaller);
        completes(&waiter);
        assert_eq!(event.signaledValue(), 8);
        assert!((7..=8).contains(&told.recv_timeout(LONG).unwrap()));
    });
}

#[test]
fn the_gpu_signals_the_larger_value_and_the_host_stores_any() {
    alone(|_, device| {
        let (queue, event) = (queue(device), event(device));
        completes(&commit(&queue, None, Some((&event, 9))));
        completes(&commit(&queue, None, Some((&event, 4))));
        assert_eq!(event.signaledValue(), 9);
        event.setSignaledValue(2);
        assert_eq!(event.signaledValue(), 2);
        assert!(stays_below(&event, 3));
        completes(&commit(&queue, None, Some((&event, 3))));
        assert_eq!(event.signaledValue(), 3);
    });
}

#[test]
fn the_host_releases_waits_of_both_sides_but_notifies_nobody() {
    alone(|_, device| {
        let (queue, event) = (queue(device), event(device));
        let listener = MTLSharedEventListener::new();
        let waiter = commit(&queue, Some((&event, 5)), None);
        let told = notify(&event, &listener, 5);
        std::thread::scope(|scope| {
            let host = scope.spawn(|| autoreleasepool(|_| reaches(&event, 5)));
            event.setSignaledValue(6);
            assert!(host.join().unwrap());
        });
        completes(&waiter);
        assert!(settle(LONG));
        assert!(told.try_recv().is_err(), "`setSignaledValue:` ran a listener's block");
        // Whatever the GPU signals next notifies.
        completes(&commit(&queue, None, Some((&event, 1))));
        assert_eq!(told.recv_timeout(LONG), Ok(6));
        // And one that is registered late is told at once.
        assert_eq!(notify(&event, &listener, 2).recv_timeout(LONG), Ok(6));
    });
}

#[test]
fn the_host_notifies_if_told_to() {
    alone(|_, device| {
        control().set(|knobs| knobs.host_signals_notify = true);
        let event = event(device);
        let listener = MTLSharedEventListener::new();
        let told = notify(&event, &listener, 5);
        event.setSignaledValue(5);
        assert_eq!(told.recv_timeout(LONG), Ok(5));
    });
}

#[test]
fn blocks_whose_value_never_comes_are_kept_until_the_event_goes() {
    alone(|alone, device| {
        let (event, listener) = (event(device), MTLSharedEventListener::new());
        let told = notify(&event, &listener, 5);
        drop(listener);
        assert!(settle(LONG));
        let live = counters().live;
        assert_eq!(
            (live.blocks, live.listeners),
            (alone.before().live.blocks + 1, alone.before().live.listeners + 1)
        );
        drop(event);
        let live = counters().live;
        assert_eq!(
            (live.blocks, live.listeners),
            (alone.before().live.blocks, alone.before().live.listeners)
        );
        assert!(told.recv().is_err());
    });
}

#[test]
fn a_listener_runs_its_blocks_on_its_queue() {
    alone(|_, device| {
        let (gpu, event) = (queue(device), event(device));
        let queue = dispatch2::DispatchQueue::new("listener", None);
        // SAFETY: it is a queue.
        let listener =
            unsafe { MTLSharedEventListener::initWithDispatchQueue(MTLSharedEventListener::alloc(), &queue) };
        assert_eq!(*listener.dispatchQueue(), *queue);
        let told = notify(&event, &listener, 1);
        let (release, released) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        queue.exec_async(move || {
            began.send(()).unwrap();
            let _ = released.recv();
        });
        begun.recv_timeout(LONG).unwrap();
        completes(&commit(&gpu, None, Some((&event, 1))));
        assert!(
            told.recv_timeout(Duration::from_millis(A_WHILE_MS)).is_err(),
            "it ran while its queue was busy"
        );
        drop(release);
        assert_eq!(told.recv_timeout(LONG), Ok(1));
    });
}

#[test]
fn events_of_one_handle_share_their_value_but_not_their_listeners() {
    alone(|_, device| {
        let (queue, event) = (queue(device), event(device));
        event.setLabel(Some(&string("shared")));
        let handle = event.newSharedEventHandle();
        assert_eq!(handle.label().unwrap().to_string(), "shared");
        let elsewhere = new_device();
        let other = elsewhere.newSharedEventWithHandle(&handle).unwrap();
        assert_eq!(other.label().unwrap().to_string(), "shared");
        let listener = MTLSharedEventListener::new();
        let (told, told_other) = (notify(&event, &listener, 4), notify(&other, &listener, 4));
        let waiter = commit(&elsewhere.newCommandQueue().unwrap(), Some((&other, 4)), None);
        completes(&commit(&queue, None, Some((&event, 4))));
        completes(&waiter);
        assert_eq!(other.signaledValue(), 4);
        assert_eq!((told.recv_timeout(LONG), told_other.recv_timeout(LONG)), (Ok(4), Ok(4)));
        let unheard = notify(&other, &listener, 5);
        assert!(settle(LONG)); // the block that was run has let go of it
        drop(other);
        completes(&commit(&queue, None, Some((&event, 5))));
        assert!(settle(LONG));
        assert!(unheard.recv().is_err());
    });
}

#[test]
fn a_wait_that_lasts_too_long_ends_its_buffer() {
    alone(|_, device| {
        control().set(|knobs| knobs.wait_timeout = Duration::from_millis(1));
        let (queue, never, after) = (queue(device), event(device), event(device));
        assert_eq!(fails(&commit(&queue, Some((&never, 1)), Some((&after, 1)))), 2);
        assert_eq!(after.signaledValue(), 0);
        // A late signal finds nobody.
        completes(&commit(&queue, None, Some((&never, 1))));
    });
}

// --------------------------------------------------------------------------------------------------- order and places
#[test]
fn a_later_buffer_may_overtake_one_that_waits() {
    alone(|_, device| {
        control().set(|knobs| (knobs.overlap, knobs.waits_hold_queue) = (Chance::Always, Chance::Never));
        let (queue, event, other) = (queue(device), event(device), event(device));
        let first = commit(&queue, Some((&event, 1)), None);
        let second = commit(&queue, None, Some((&other, 1)));
        completes(&second);
        assert!(first.status() < Status::Completed);
        event.setSignaledValue(1);
        completes(&first);
    });
}

#[test]
fn a_later_buffer_may_have_to_wait() {
    for knobs in [Knobs::default().tame(), {
        let mut knobs = Knobs::default();
        (knobs.overlap, knobs.waits_hold_queue) = (Chance::Always, Chance::Always);
        knobs
    }] {
        alone(|_, device| {
            control().set(|k| *k = knobs);
            let (queue, event, other) = (queue(device), event(device), event(device));
            let reached = buffer(&queue);
            let parked = event.newSharedEventHandle();
            host_work(&reached, move || {
                let _ = &parked;
                Ok(())
            });
            wait(&reached, &event, 1);
            reached.commit();
            let parked = commit(&queue, None, Some((&other, 1)));
            // The first may not have come to its wait yet, when overlapping is allowed.
            if control().knobs().overlap == Chance::Never {
                assert!(stays_below(&other, 1));
            }
            event.setSignaledValue(1);
            completes(&parked);
            completes(&reached);
        });
    }
}

#[test]
fn buffers_begin_in_the_order_in_which_they_were_enqueued() {
    alone(|_, device| {
        let queue = queue(device);
        let order = Arc::new(Mutex::new(Vec::new()));
        let buffers: Vec<_> = (0..4).map(|_| buffer(&queue)).collect();
        buffers.iter().for_each(|buffer| buffer.enqueue());
        assert_eq!(buffers[0].status(), Status::Enqueued);
        for (i, buffer) in buffers.iter().enumerate() {
            let order = order.clone();
            host_work(buffer, move || {
                order.lock().unwrap().push(i);
                Ok(())
            });
        }
        control().set(|knobs| knobs.overlap = Chance::Never);
        buffers.iter().rev().for_each(|buffer| buffer.commit());
        buffers.iter().for_each(completes);
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
        // One that is dropped instead gives its turn away.
        let (dropped, next) = (autoreleasepool(|_| buffer_of(&queue)), buffer(&queue));
        autoreleasepool(|_| dropped.enqueue());
        next.commit();
        assert_eq!(next.status(), Status::Committed);
        drop(dropped);
        completes(&next);
    });
}

/// [`buffer`], under another name for where that one is shadowed.
fn buffer_of(queue: &Queue) -> Buffer {
    buffer(queue)
}

#[test]
fn a_full_queue_blocks_whoever_wants_a_buffer() {
    alone(|alone, device| {
        let queue = device.newCommandQueueWithMaxCommandBufferCount(2).unwrap();
        let end = control().hold_end();
        let event = event(device);
        let first = commit(&queue, None, Some((&event, 1)));
        let second = autoreleasepool(|_| buffer(&queue));
        assert!(reaches(&event, 1));
        // The last command has run, and the place is still taken.
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| autoreleasepool(|_| buffer(&queue).status()));
            while counters().blocked_creations == alone.before().blocked_creations {
                std::thread::yield_now();
            }
            assert!(!waits.is_finished());
            drop(end);
            assert_eq!(waits.join().unwrap(), Status::NotEnqueued);
        });
        completes(&first);
        let end = control().hold_end();
        let third = commit(&queue, None, None);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| autoreleasepool(|_| buffer(&queue).status()));
            while counters().blocked_creations < alone.before().blocked_creations + 2 {
                std::thread::yield_now();
            }
            assert!(!waits.is_finished());
            drop(second); // never committed
            assert_eq!(waits.join().unwrap(), Status::NotEnqueued);
        });
        drop(end);
        completes(&third);
    });
}

#[test]
fn sixty_four_is_what_a_queue_holds() {
    alone(|alone, device| {
        let queue = queue(device);
        let buffers: Vec<_> = (0..64).map(|_| buffer(&queue)).collect();
        assert_eq!(counters().blocked_creations, alone.before().blocked_creations);
        std::thread::scope(|scope| {
            scope.spawn(|| autoreleasepool(|_| drop(buffer(&queue))));
            while counters().blocked_creations == alone.before().blocked_creations {
                std::thread::yield_now();
            }
            buffers.iter().for_each(|buffer| buffer.commit());
        });
    });
}

#[test]
fn a_thousand_queues_need_few_threads() {
    alone(|_, device| {
        let gate = event(device);
        let done: Vec<_> = (0..1000)
            .map(|_| {
                autoreleasepool(|_| {
                    let (queue, event) = (queue(device), event(device));
                    commit(&queue, Some((&gate, 1)), Some((&event, 1)));
                    event
                })
            })
            .collect();
        let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
        assert!(threads < 200, "{threads} threads");
        gate.setSignaledValue(1);
        assert!(done.iter().all(|event| autoreleasepool(|_| reaches(event, 1))));
    });
}

#[test]
fn chains_of_events_keep_order_whatever_the_gpu_does() {
    alone(|_, device| {
        let queues: Vec<_> = (0..3).map(|_| queue(device)).collect();
        let event = event(device);
        let memory = shared_memory(device, 64);
        for n in 1..=60 {
            autoreleasepool(|_| {
                let buffer = buffer(&queues[n % 3]);
                wait(&buffer, &event, n as u64 - 1);
                let blit = buffer.blitCommandEncoder().unwrap();
                blit.fillBuffer_range_value(&memory, NSRange::new(n, 1), n as u8);
                // SAFETY: in bounds.
                unsafe {
                    blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                        &memory, n, &memory, 0, 1,
                    );
                }
                blit.endEncoding();
                signal(&buffer, &event, n as u64);
                buffer.commit();
            });
        }
        assert!(reaches(&event, 60));
        assert_eq!(contents(&memory)[0], 60);
        assert_eq!(contents(&memory)[1..=60], (1..=60).collect::<Vec<u8>>());
    });
}

// --------------------------------------------------------------------------------------------------------- failures
#[test]
fn a_failed_buffer_runs_nothing_more() {
    alone(|_, device| {
        let (queue, event) = (queue(device), event(device));
        control().fail_next(8);
        assert_eq!(fails(&commit(&queue, None, Some((&event, 1)))), 8);
        assert_eq!(event.signaledValue(), 0);
        completes(&commit(&queue, None, Some((&event, 1))));

        control().fail_next_after(3, 2);
        let three = buffer(&queue);
        (2..=4).for_each(|value| signal(&three, &event, value));
        three.commit();
        assert_eq!(fails(&three), 3);
        assert_eq!(event.signaledValue(), 3);

        // After all of them as well.
        control().fail_next_after(1, 1);
        assert_eq!(fails(&commit(&queue, None, Some((&event, 9)))), 1);
        assert_eq!(event.signaledValue(), 9);
    });
}

#[test]
fn failures_find_their_queue_and_label() {
    alone(|_, device| {
        let (one, two) = (queue(device), queue(device));
        control().fail_next_on(&two, 9);
        control().fail_label("doomed", 12);
        completes(&commit(&one, None, None));
        assert_eq!(fails(&commit(&two, None, None)), 9);
        completes(&commit(&two, None, None));
        let doomed = buffer(&one);
        doomed.setLabel(Some(&string("doomed")));
        doomed.commit();
        assert_eq!(fails(&doomed), 12);
    });
}

#[test]
fn handlers_of_failed_buffers_run() {
    alone(|_, device| {
        let queue = queue(device);
        control().fail_next(8);
        let failing = buffer(&queue);
        let told = on_completion(&failing);
        failing.commit();
        assert_eq!(told.recv_timeout(LONG).unwrap().0, Status::Error);
    });
}

#[test]
fn buffers_can_be_killed_wherever_they_are() {
    alone(|_, device| {
        let (queue, event) = (queue(device), event(device));
        let waiting = commit(&queue, Some((&event, 1)), Some((&event, 2)));
        waiting.waitUntilScheduled();
        control().kill(&waiting, 3);
        assert_eq!(fails(&waiting), 3);

        let begin = control().hold_begin();
        let held = commit(&queue, None, Some((&event, 2)));
        control().kill(&held, 4);
        assert_eq!(fails(&held), 4);
        drop(begin);

        let running = buffer(&queue);
        let ((to_us, from_work), (to_work, from_us)) = (mpsc::channel(), mpsc::channel::<()>());
        host_work(&running, move || {
            to_us.send(()).unwrap();
            let _ = from_us.recv();
            Ok(())
        });
        signal(&running, &event, 2);
        running.commit();
        from_work.recv_timeout(LONG).unwrap();
        control().kill(&running, 1);
        // What is told to the GPU is told in order: when this one has run, the other is doomed.
        completes(&commit(&self::queue(device), None, None));
        drop(to_work);
        assert_eq!(fails(&running), 1);
        assert_eq!(event.signaledValue(), 0);
    });
}

#[test]
fn a_lost_device_fails_everything() {
    alone(|_, _| {
        let device = new_device();
        let (queue, event) = (queue(&device), event(&device));
        let waiting = commit(&queue, Some((&event, 1)), None);
        let begin = control().hold_begin();
        let held = commit(&queue, None, None);
        control().lose_device(&device);
        let late = commit(&queue, None, None);
        assert_eq!([fails(&waiting), fails(&held), fails(&late)], [11; 3]);
        drop(begin);
        let other = new_device();
        completes(&commit(&self::queue(&other), None, None));
    });
}

#[test]
fn host_work_runs_in_its_turn_and_can_fail() {
    alone(|_, device| {
        let (queue, event) = (queue(device), event(device));
        let work = buffer(&queue);
        signal(&work, &event, 1);
        let seen = event.clone();
        host_work(&work, move || {
            autoreleasepool(|_| if seen.signaledValue() == 1 { Err("on demand".into()) } else { Ok(()) })
        });
        signal(&work, &event, 2);
        work.commit();
        assert_eq!(fails(&work), 3);
        assert!(work.error().unwrap().localizedDescription().to_string().contains("on demand"));
        assert_eq!(event.signaledValue(), 1);
    });
}

#[test]
fn much_host_work_may_block() {
    alone(|_, device| {
        let (all_in, barrier) = mpsc::channel();
        let release = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
        let buffers: Vec<_> = (0..20)
            .map(|_| {
                let buffer = buffer(&queue(device));
                let (all_in, release) = (all_in.clone(), release.clone());
                host_work(&buffer, move || {
                    all_in.send(()).unwrap();
                    drop(release.1.wait_while(release.0.lock().unwrap(), |released| !*released).unwrap());
                    Ok(())
                });
                buffer.commit();
                buffer
            })
            .collect();
        (0..20).for_each(|_| barrier.recv_timeout(LONG).unwrap());
        completes(&commit(&queue(device), None, None));
        *release.0.lock().unwrap() = true;
        release.1.notify_all();
        buffers.iter().for_each(completes);
    });
}

#[test]
fn every_maker_can_give_nil() {
    alone(|_, device| {
        let queue = queue(device);
        let event = event(device);
        let handle = event.newSharedEventHandle();
        let buffer = buffer(&queue);
        kernels::register("nothing", |_, _| ());
        let source = string("kernel void nothing() {}");
        let compile = || device.newLibraryWithSource_options_error(&source, None);
        let library = compile().unwrap();
        let function = library.newFunctionWithName(&string("nothing")).unwrap();
        let shared = MTLResourceOptions::StorageModeShared;
        let makers: [(Nil, Box<dyn Fn() -> bool>); 13] = [
            (Nil::Device, Box::new(|| MTLCreateSystemDefaultDevice().is_none())),
            (Nil::CommandQueue, Box::new(|| device.newCommandQueue().is_none())),
            (Nil::CommandQueue, Box::new(|| device.newCommandQueueWithMaxCommandBufferCount(3).is_none())),
            (Nil::SharedEvent, Box::new(|| device.newSharedEvent().is_none())),
            (Nil::SharedEvent, Box::new(|| device.newSharedEventWithHandle(&handle).is_none())),
            (Nil::Event, Box::new(|| device.newEvent().is_none())),
            (Nil::Buffer, Box::new(|| device.newBufferWithLength_options(8, shared).is_none())),
            (Nil::Library, Box::new(|| compile().is_err_and(|error| error.code() != 0))),
            (Nil::Function, Box::new(|| library.newFunctionWithName(&string("nothing")).is_none())),
            (
                Nil::Pipeline,
                Box::new(|| device.newComputePipelineStateWithFunction_error(&function).is_err()),
            ),
            (Nil::CommandBuffer, Box::new(|| queue.commandBuffer().is_none())),
            (Nil::BlitEncoder, Box::new(|| buffer.blitCommandEncoder().map(|e| e.endEncoding()).is_none())),
            (
                Nil::ComputeEncoder,
                Box::new(|| buffer.computeCommandEncoder().map(|e| e.endEncoding()).is_none()),
            ),
        ];
        for (nil, make) in makers {
            assert!(!make(), "{nil:?}");
            control().nil_at(nil, 2);
            assert_eq!([make(), make(), make()], [false, true, false], "{nil:?}");
            control().nil_always(nil);
            assert_eq!([make(), make(), make()], [true; 3], "{nil:?}");
            control().nil_at(nil, 0);
            assert!(!make(), "{nil:?}");
        }
    });
}

// ------------------------------------------------------------------------------------------------- holds and handlers
#[test]
fn what_is_held_waits() {
    alone(|_, device| {
        let (one, two, event) = (queue(device), queue(device), event(device));
        let hold = control().hold_begin_on(&one);
        let held = commit(&one, None, Some((&event, 1)));
        completes(&commit(&two, None, None));
        assert!(stays_below(&event, 1));
        assert_eq!(held.status(), Status::Committed);
        drop(hold);
        completes(&held);

        let hold = control().hold_end_of("last");
        let last = buffer(&one);
        last.setLabel(Some(&string("last")));
        signal(&last, &event, 2);
        last.commit();
        assert!(reaches(&event, 2));
        completes(&commit(&two, None, None));
        assert_eq!(last.status(), Status::Scheduled);
        drop(hold);
        completes(&last);

        let hold = control().hold_begin_of("first");
        let first = buffer(&one);
        first.setLabel(Some(&string("first")));
        first.commit();
        completes(&commit(&two, None, None));
        assert_eq!(first.status(), Status::Committed);
        drop(hold);
        completes(&first);

        let hold = control().hold_end_on(&one);
        let held = commit(&one, None, Some((&event, 3)));
        assert!(reaches(&event, 3));
        completes(&commit(&two, None, None));
        assert_eq!(held.status(), Status::Scheduled);
        drop(hold);
        completes(&held);
    });
}

#[test]
fn handlers_run_late_elsewhere_and_are_not_waited_for() {
    alone(|_, device| {
        let (queue, event) = (queue(device), event(device));
        let listener = MTLSharedEventListener::new();
        for hold in [|| control().hold_news(), || control().hold_handlers()] {
            let hold = hold();
            let watched = buffer(&queue);
            let told = on_completion(&watched);
            signal(&watched, &event, 1);
            let heard = notify(&event, &listener, 1);
            watched.commit();
            completes(&watched); // returns though the handler has not run
            assert!(told.try_recv().is_err());
            drop(hold);
            let (status, thread) = told.recv_timeout(LONG).unwrap();
            assert_eq!(status, Status::Completed);
            assert_ne!(thread, std::thread::current().id());
            assert_eq!(heard.recv_timeout(LONG), Ok(1));
        }
        let hold = control().hold_listeners();
        let heard = notify(&event, &listener, 1);
        let watched = buffer(&queue);
        let told = on_completion(&watched);
        watched.commit();
        told.recv_timeout(LONG).unwrap();
        assert!(heard.try_recv().is_err());
        assert!(!settle(Duration::from_millis(A_WHILE_MS)), "a block is still to run");
        drop(hold);
        assert_eq!(heard.recv_timeout(LONG), Ok(1));
    });
}

#[test]
fn a_block_may_see_a_later_value() {
    alone(|_, device| {
        let (queue, event) = (queue(device), event(device));
        let listener = MTLSharedEventListener::new();
        let heard = notify(&event, &listener, 1);
        let hold = control().hold_listeners();
        completes(&commit(&queue, None, Some((&event, 1))));
        completes(&commit(&queue, None, Some((&event, 5))));
        drop(hold);
        assert_eq!(heard.recv_timeout(LONG), Ok(5));
    });
}

#[test]
fn scheduled_handlers_run_before_completed_ones() {
    alone(|_, device| {
        let queue = queue(device);
        let (tx, rx) = mpsc::channel();
        let buffer = buffer(&queue);
        for (name, scheduled) in [("completed", false), ("scheduled", true), ("completed", false)] {
            let tx = tx.clone();
            let block =
                RcBlock::new(move |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| tx.send(name).unwrap());
            // SAFETY: the blocks may be called on any thread.
            unsafe {
                if scheduled {
                    buffer.addScheduledHandler(RcBlock::as_ptr(&block));
                } else {
                    buffer.addCompletedHandler(RcBlock::as_ptr(&block));
                }
            }
        }
        drop(tx);
        buffer.commit();
        buffer.waitUntilScheduled();
        assert!(buffer.status() >= Status::Scheduled);
        assert!(rx.iter().eq(["scheduled", "completed", "completed"]));
        completes(&buffer);
    });
}

/// Seen over many runs, what may come in any order does.
#[test]
fn the_default_is_out_of_order() {
    alone(|_, device| {
        let queue = queue(device);
        let mut orders = std::collections::HashSet::new();
        for _ in 0..200 {
            let (tx, rx) = mpsc::channel();
            autoreleasepool(|_| {
                for i in 0..3 {
                    let buffer = buffer(&queue);
                    let tx = tx.clone();
                    let block = RcBlock::new(move |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
                        tx.send(i).unwrap()
                    });
                    // SAFETY: the block may be called on any thread.
                    unsafe { buffer.addCompletedHandler(RcBlock::as_ptr(&block)) };
                    buffer.commit();
                }
            });
            drop(tx);
            orders.insert(rx.iter().collect::<Vec<_>>());
            if orders.len() > 3 {
                return;
            }
        }
        panic!("only these orders: {orders:?}");
    });
}

// ------------------------------------------------------------------------------------------------------------- times
#[test]
fn times_are_there_once_it_is_over() {
    alone(|_, device| {
        let queue = queue(device);
        let (mut before, mut after) = (0, 0);
        // SAFETY: both are places for a number.
        unsafe {
            device.sampleTimestamps_gpuTimestamp(NonNull::from(&mut before), NonNull::from(&mut after))
        };
        let start = before as f64 / 1e9;
        let buffer = commit(&queue, None, None);
        completes(&buffer);
        // SAFETY: as above.
        unsafe {
            device.sampleTimestamps_gpuTimestamp(NonNull::from(&mut before), NonNull::from(&mut after))
        };
        let end = after as f64 / 1e9;
        let times = [start, buffer.kernelStartTime(), buffer.GPUEndTime(), buffer.kernelEndTime(), end];
        assert!(times.is_sorted(), "{times:?}");
        assert!(buffer.GPUStartTime() <= buffer.GPUEndTime());
        assert_eq!(self::buffer(&queue).GPUStartTime(), 0.0);
    });
}

#[test]
fn times_can_be_garbage() {
    alone(|_, device| {
        let queue = queue(device);
        control().set(|knobs| knobs.zero_times = true);
        let buffer = commit(&queue, None, None);
        completes(&buffer);
        assert_eq!((buffer.GPUStartTime(), buffer.GPUEndTime(), buffer.kernelEndTime()), (0.0, 0.0, 0.0));
        control()
            .set(|knobs| (knobs.zero_times, knobs.start_shift, knobs.end_shift) = (false, -1000.0, 500.0));
        let buffer = commit(&queue, None, None);
        completes(&buffer);
        let length = buffer.GPUEndTime() - buffer.GPUStartTime();
        assert!((1500.0..1600.0).contains(&length), "{length}");
    });
}

#[test]
fn commands_take_the_time_they_are_told_to() {
    alone(|_, device| {
        tame();
        control().set(|knobs| knobs.command_time = Duration::from_millis(5));
        let (queue, event) = (queue(device), event(device));
        let buffer = buffer(&queue);
        (1..=3).for_each(|value| signal(&buffer, &event, value));
        buffer.commit();
        completes(&buffer);
        // The last one's time passes before the buffer completes.
        assert!(buffer.GPUEndTime() - buffer.GPUStartTime() >= 0.010);
    });
}

// --------------------------------------------------------------------------------------------------- memory and kernels
#[test]
fn blits_copy_and_fill_in_order() {
    alone(|_, device| {
        let queue = queue(device);
        let from = [1_u8, 2, 3, 4];
        // SAFETY: as many bytes are there.
        let from = unsafe {
            device.newBufferWithBytes_length_options(
                NonNull::from(&from).cast(),
                from.len(),
                MTLResourceOptions::StorageModeShared,
            )
        }
        .unwrap();
        let to = shared_memory(device, 6);
        assert_eq!(contents(&to), [0; 6]);
        let buffer = buffer(&queue);
        let blit = buffer.blitCommandEncoder().unwrap();
        blit.fillBuffer_range_value(&to, NSRange::new(1, 4), 7);
        // SAFETY: in bounds.
        unsafe { blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&from, 1, &to, 2, 2) };
        blit.fillBuffer_range_value(&from, NSRange::new(0, 4), 9);
        blit.endEncoding();
        buffer.commit();
        completes(&buffer);
        assert_eq!(contents(&to), [0, 7, 2, 3, 7, 0]);
        assert_eq!(contents(&from), [9; 4]);
    });
}

fn pipeline(device: &Device, name: &str) -> Object<dyn MTLComputePipelineState> {
    let source =
        string(&format!("#include <metal_stdlib>\nkernel void {name}(device uint *x [[buffer(0)]]) {{ }}"));
    let options = MTLCompileOptions::new();
    let library = device.newLibraryWithSource_options_error(&source, Some(&options)).unwrap();
    let function = library.newFunctionWithName(&string(name)).unwrap();
    device.newComputePipelineStateWithFunction_error(&function).unwrap()
}

#[test]
fn kernels_have_native_stand_ins() {
    alone(|_, device| {
        kernels::register("scale", |grid: &Grid, bindings: &mut Bindings<'_>| {
            let factor: u32 = bindings.read(1, 0);
            for i in 0..grid.count() {
                let x: u32 = bindings.read(0, i);
                bindings.write(0, i, x * factor);
            }
        });
        let queue = queue(device);
        let pipeline = pipeline(device, "scale");
        let memory = shared_memory(device, 5 * 4);
        // SAFETY: the buffer is as long, and the GPU does nothing to it yet.
        unsafe { std::slice::from_raw_parts_mut(memory.contents().as_ptr().cast::<u32>(), 5) }
            .copy_from_slice(&[1, 2, 3, 4, 5]);
        let buffer = buffer(&queue);
        let compute = buffer.computeCommandEncoder().unwrap();
        compute.setComputePipelineState(&pipeline);
        let one = MTLSize { width: 1, height: 1, depth: 1 };
        for (factor, offset, threads) in [(10_u32, 4, 2), (3, 0, 5)] {
            // SAFETY: in bounds; and as many bytes are there.
            unsafe {
                compute.setBuffer_offset_atIndex(Some(&memory), offset, 0);
                compute.setBytes_length_atIndex(NonNull::from(&factor).cast(), 4, 1);
            }
            let size = MTLSize { width: threads, ..one };
            if factor == 3 {
                compute.dispatchThreads_threadsPerThreadgroup(size, one);
            } else {
                compute.dispatchThreadgroups_threadsPerThreadgroup(one, size);
            }
        }
        compute.endEncoding();
        buffer.commit();
        completes(&buffer);
        let numbers: Vec<_> =
            contents(&memory).chunks(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap())).collect();
        assert_eq!(numbers, [3, 60, 90, 12, 15]);
    });
}

#[test]
fn what_does_not_compile_is_an_error() {
    alone(|_, device| {
        let compile = |source| device.newLibraryWithSource_options_error(&string(source), None);
        for wrong in ["", "void f() {}", "kernel void f() {", "kernel void f() }{", "kernel int f() {}"] {
            assert_eq!(compile(wrong).unwrap_err().domain().to_string(), "MTLLibraryErrorDomain", "{wrong}");
        }
        let library = compile("kernel void a(uint i) {}\nkernel  void b_2 () {}").unwrap();
        assert!(library.newFunctionWithName(&string("a")).is_some());
        assert!(library.newFunctionWithName(&string("c")).is_none());
        let unknown = library.newFunctionWithName(&string("b_2")).unwrap();
        let error = device.newComputePipelineStateWithFunction_error(&unknown).unwrap_err();
        assert!(
            error.localizedDescription().to_string().contains("no stand-in is registered for the kernel b_2")
        );
    });
}

#[test]
fn memory_of_the_clients_own_is_given_back() {
    alone(|_, device| {
        let layout = std::alloc::Layout::from_size_align(4096, 4096).unwrap();
        // SAFETY: the layout is not empty.
        let pointer = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
        let (tx, rx) = mpsc::channel();
        let block = RcBlock::new(move |pointer: NonNull<c_void>, length: usize| {
            tx.send((pointer.addr(), length)).unwrap();
        });
        // SAFETY: the memory stays until the block is called.
        let memory = unsafe {
            device.newBufferWithBytesNoCopy_length_options_deallocator(
                pointer.cast(),
                4096,
                MTLResourceOptions::StorageModeShared,
                Some(&block),
            )
        }
        .unwrap();
        assert_eq!(memory.contents().addr(), pointer.addr());
        let buffer = buffer(&queue(device));
        let blit = buffer.blitCommandEncoder().unwrap();
        blit.fillBuffer_range_value(&memory, NSRange::new(0, 4096), 1);
        blit.endEncoding();
        buffer.commit();
        drop(memory);
        completes(&buffer);
        assert_eq!(rx.recv_timeout(LONG), Ok((pointer.addr(), 4096)));
        // SAFETY: nobody uses it any more.
        unsafe { std::alloc::dealloc(pointer.as_ptr(), layout) };
    });
}

// -------------------------------------------------------------------------------------------------------- strictness
/// Does something, and says which violations that was.
fn violations_of(misuse: impl FnOnce(&Device, &Queue, &Event)) -> Vec<String> {
    let mut found = Vec::new();
    alone(|alone, device| {
        alone.allow_violations();
        let (queue, event) = (queue(device), event(device));
        autoreleasepool(|_| misuse(device, &queue, &event));
        settle(LONG);
        found = take_violations();
    });
    found
}

fn handler() -> RcBlock<Handler> {
    RcBlock::new(|_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| ())
}

#[test]
fn nothing_is_done_to_a_committed_buffer() {
    let found = violations_of(|_, queue, event| {
        let buffer = commit(queue, None, None);
        buffer.commit();
        buffer.enqueue();
        wait(&buffer, event, 1);
        signal(&buffer, event, 1);
        // SAFETY: the blocks may be called on any thread.
        unsafe {
            buffer.addCompletedHandler(RcBlock::as_ptr(&handler()));
            buffer.addScheduledHandler(RcBlock::as_ptr(&handler()));
        }
        buffer.blitCommandEncoder().unwrap().endEncoding();
        buffer.computeCommandEncoder().unwrap().endEncoding();
    });
    let steps = [
        "commit",
        "enqueue",
        "encodeWaitForEvent:value:",
        "encodeSignalEvent:value:",
        "addCompletedHandler:",
        "addScheduledHandler:",
        "opening a blit encoder",
        "endEncoding",
        "opening a compute encoder",
        "endEncoding",
    ];
    assert_eq!(found, steps.map(|step| format!("{step} on a command buffer that is committed")));
}

#[test]
fn one_waits_for_what_is_committed() {
    let found = violations_of(|_, queue, _| {
        let buffer = buffer(queue);
        buffer.waitUntilScheduled();
        buffer.waitUntilCompleted();
        buffer.enqueue();
        buffer.enqueue();
    });
    assert_eq!(
        found,
        [
            "waitUntilScheduled on a command buffer that is not committed",
            "waitUntilCompleted on a command buffer that is not committed",
            "enqueue of a command buffer that is enqueued already",
        ]
    );
}

#[test]
fn encoders_are_ended_and_not_used_after_that() {
    let found = violations_of(|device, queue, event| {
        let memory = shared_memory(device, 8);
        for step in 0..4 {
            let buffer = buffer(queue);
            let blit = buffer.blitCommandEncoder().unwrap();
            match step {
                0 => buffer.commit(),
                1 => wait(&buffer, event, 0),
                2 => signal(&buffer, event, 1),
                _ => buffer.computeCommandEncoder().unwrap().endEncoding(),
            }
            if !(0..1).contains(&step) {
                blit.endEncoding();
            }
        }
        let buffer = buffer(queue);
        let blit = buffer.blitCommandEncoder().unwrap();
        blit.endEncoding();
        blit.endEncoding();
        blit.fillBuffer_range_value(&memory, NSRange::new(0, 8), 1);
        buffer.commit();
    });
    assert_eq!(
        found,
        [
            "commit while a blit encoder is open",
            "encodeWaitForEvent:value: while a blit encoder is open",
            "encodeSignalEvent:value: while a blit encoder is open",
            "opening a compute encoder while a blit encoder is open",
            "endEncoding on a blit encoder whose encoding has ended",
            "fillBuffer:range:value: on a blit encoder whose encoding has ended",
            // The one of the first round, when the pool is drained.
            "a blit encoder is deallocated without endEncoding",
        ]
    );
}

#[test]
fn commands_stay_in_bounds_and_have_what_they_need() {
    kernels::register("bounded", |_, _| ());
    let found = violations_of(|device, queue, _| {
        let memory = shared_memory(device, 8);
        let buffer = buffer(queue);
        let blit = buffer.blitCommandEncoder().unwrap();
        blit.fillBuffer_range_value(&memory, NSRange::new(5, 4), 1);
        blit.fillBuffer_range_value(&memory, NSRange::new(5, 0), 1);
        // SAFETY: out of bounds, which is refused.
        unsafe {
            blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                &memory,
                0,
                &memory,
                usize::MAX,
                4,
            );
            blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&memory, 0, &memory, 0, 0);
        }
        let foreign = shared_memory(&new_device(), 8);
        blit.fillBuffer_range_value(&foreign, NSRange::new(0, 8), 1);
        blit.endEncoding();
        let compute = buffer.computeCommandEncoder().unwrap();
        let (one, none) =
            (MTLSize { width: 1, height: 1, depth: 1 }, MTLSize { width: 1, height: 0, depth: 1 });
        compute.dispatchThreads_threadsPerThreadgroup(one, one);
        compute.setComputePipelineState(&pipeline(device, "bounded"));
        compute.dispatchThreads_threadsPerThreadgroup(none, one);
        compute.dispatchThreads_threadsPerThreadgroup(one, MTLSize { width: 2048, ..one });
        // SAFETY: out of bounds, which is refused.
        unsafe {
            compute.setBuffer_offset_atIndex(Some(&memory), 9, 0);
            compute.setBuffer_offset_atIndex(Some(&memory), 0, 31);
            compute.setBuffer_offset_atIndex(None, 0, 0);
        }
        compute.endEncoding();
    });
    assert_eq!(
        found,
        [
            "fillBuffer:range:value: of nothing, or beyond the end of a buffer",
            "fillBuffer:range:value: of nothing, or beyond the end of a buffer",
            "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size: of nothing, or beyond the end of a buffer",
            "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size: of nothing, or beyond the end of a buffer",
            "a buffer is used on a device that is not its own",
            "dispatchThreads:threadsPerThreadgroup: without a pipeline",
            "dispatchThreads:threadsPerThreadgroup: of no threads",
            "dispatchThreads:threadsPerThreadgroup: with more threads per threadgroup than the pipeline allows",
            "setBuffer:offset:atIndex: beyond the end of the buffer",
            "setBuffer:offset:atIndex: at index 31: there are 31",
        ]
    );
}

#[test]
fn arguments_make_sense() {
    let found = violations_of(|device, queue, _| {
        let private = device.newBufferWithLength_options(8, MTLResourceOptions::StorageModePrivate).unwrap();
        private.contents();
        assert!(device.newBufferWithLength_options(0, MTLResourceOptions::StorageModeShared).is_none());
        assert!(
            device.newBufferWithLength_options(usize::MAX, MTLResourceOptions::StorageModeShared).is_none()
        );
        drop(device.newCommandQueueWithMaxCommandBufferCount(0));
        let local = new_device().newEvent().unwrap();
        buffer(queue).encodeWaitForEvent_value(&local, 1);
        shared_memory(device, 8).didModifyRange(NSRange::new(0, 8));
        // SAFETY: nil, which is refused.
        unsafe { buffer(queue).addCompletedHandler(std::ptr::null_mut()) };
    });
    assert_eq!(
        found,
        [
            "contents of a buffer that is private to the GPU",
            "a buffer of length 0",
            "a command queue for no command buffers",
            "an MTLEvent is used on a device that is not its own: that takes an MTLSharedEvent",
            "didModifyRange: of a buffer whose storage is not managed",
            "addCompletedHandler: without a block",
        ]
    );
}

#[test]
fn buffers_retain_what_they_use_unless_told_otherwise() {
    alone(|alone, device| {
        alone.allow_violations();
        let queue = queue(device);
        let events = || counters().live.events - alone.before().live.events;
        let begin = control().hold_begin();
        let retaining = autoreleasepool(|_| commit(&queue, None, Some((&event(device), 1))));
        assert!(retaining.retainedReferences());
        assert_eq!(events(), 1);
        drop(begin);
        completes(&retaining);
        assert!(settle(LONG));
        assert_eq!(events(), 0);

        let begin = control().hold_begin();
        let careless = autoreleasepool(|_| {
            let careless = queue.commandBufferWithUnretainedReferences().unwrap();
            signal(&careless, &event(device), 1);
            careless.commit();
            careless
        });
        assert!(!careless.retainedReferences());
        assert_eq!(events(), 0);
        drop(begin);
        assert_eq!(fails(&careless), 9);
        assert_eq!(
            take_violations(),
            ["a command buffer that retains no references uses a deallocated event"]
        );
    });
}

#[test]
fn every_method_leaves_a_temporary() {
    let mut alone = exclusive();
    alone.allow_unpooled();
    let device = MTLCreateSystemDefaultDevice().unwrap();
    let unpooled = || counters().unpooled_autoreleases;
    let before = unpooled();
    let event = device.newSharedEvent().unwrap();
    assert_eq!(unpooled(), before + 1);
    event.signaledValue();
    assert_eq!(unpooled(), before + 2);
    autoreleasepool(|_| event.signaledValue());
    assert_eq!(unpooled(), before + 2);
}

#[test]
fn a_leak_is_noticed() {
    let mut alone = exclusive();
    alone.set_patience(Duration::ZERO);
    let leaked = autoreleasepool(|_| new_device().newSharedEvent());
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(alone))).unwrap_err();
    assert!(panic.downcast_ref::<String>().is_some_and(|text| text.starts_with("leaks: ")));
    drop(leaked);
}

#[test]
#[should_panic(expected = "autoreleases without a pool")]
fn a_missing_pool_is_noticed() {
    let alone = exclusive();
    drop(new_device().newSharedEvent());
    drop(alone);
}

#[test]
#[should_panic(expected = "violations")]
fn a_violation_is_noticed() {
    let alone = exclusive();
    control().collect_violations();
    autoreleasepool(|_| buffer(&queue(&new_device())).waitUntilCompleted());
    drop(alone);
}

#[test]
fn a_violation_ends_the_process_by_default() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "die_by_a_second_commit", "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("violation on thread") && said.contains("commit on a command buffer that is committed"),
        "{said}"
    );
}

#[test]
#[ignore = "it dies"]
fn die_by_a_second_commit() {
    alone(|_, device| commit(&queue(device), None, None).commit());
}

// ------------------------------------------------------------------------------------------------- the bindings' check
/// objc2 compares a method's selector and encoding with the binding whenever the binding sends it: so every method of
/// the model has to be sent once.
#[test]
fn every_method_is_what_its_binding_says() {
    alone(|alone, device| {
        alone.allow_violations();
        kernels::register("checked", |_, _| ());
        assert_eq!(MTLCopyAllDevices().len(), 1);
        assert_eq!(device.name().to_string(), "Simulated Metal device");
        assert_ne!(device.registryID(), new_device().registryID());
        assert!(
            device.hasUnifiedMemory()
                && !device.isLowPower()
                && !device.isRemovable()
                && !device.isHeadless()
        );
        assert!(device.maxBufferLength() > 0 && device.recommendedMaxWorkingSetSize() > 0);
        assert_eq!(device.maxThreadsPerThreadgroup().width, 1024);
        let (mut cpu, mut gpu) = (0, 0);
        // SAFETY: both are places for a number.
        unsafe { device.sampleTimestamps_gpuTimestamp(NonNull::from(&mut cpu), NonNull::from(&mut gpu)) };
        assert_eq!(cpu, gpu);

        let memory = shared_memory(device, 5000);
        assert_eq!(device.currentAllocatedSize(), 5000);
        let bytes = [1_u8; 4];
        // SAFETY: as many bytes are there.
        drop(unsafe {
            device.newBufferWithBytes_length_options(NonNull::from(&bytes).cast(), 4, MTLResourceOptions(0))
        });
        // SAFETY: none is needed: it is refused, and nobody uses it.
        drop(unsafe {
            device.newBufferWithBytesNoCopy_length_options_deallocator(
                NonNull::dangling(),
                4096,
                MTLResourceOptions(0),
                None,
            )
        });
        memory.setLabel(Some(&string("memory")));
        assert_eq!(memory.label().unwrap().to_string(), "memory");
        assert_eq!(*memory.device(), **device);
        assert_eq!((memory.length(), MTLResource::allocatedSize(&*memory)), (5000, 8192));
        assert_eq!(memory.storageMode(), MTLStorageMode::Shared);
        assert_eq!(memory.resourceOptions(), MTLResourceOptions::StorageModeShared);
        assert_eq!((memory.cpuCacheMode().0, memory.hazardTrackingMode().0), (0, 0));
        memory.contents();
        memory.didModifyRange(NSRange::new(0, 5001));

        let queue = queue(device);
        queue.setLabel(Some(&string("queue")));
        assert_eq!(queue.label().unwrap().to_string(), "queue");
        assert_eq!(*queue.device(), **device);
        drop(device.newCommandQueueWithMaxCommandBufferCount(3));
        drop(queue.commandBufferWithUnretainedReferences());

        let local = device.newEvent().unwrap();
        local.setLabel(Some(&string("local")));
        assert_eq!(local.label().unwrap().to_string(), "local");
        assert_eq!(*local.device().unwrap(), **device);
        let shared = event(device);
        shared.setLabel(None);
        assert!(shared.label().is_none());
        assert_eq!(*shared.device().unwrap(), **device);
        let handle = shared.newSharedEventHandle();
        assert!(handle.label().is_none());
        drop(device.newSharedEventWithHandle(&handle));
        drop(objc2_metal::MTLSharedEventHandle::new());
        shared.setSignaledValue(1);
        assert!(reaches(&shared, 1));
        let listener = MTLSharedEventListener::sharedListener();
        drop(MTLSharedEventListener::new());
        // SAFETY: it is a queue.
        drop(unsafe {
            MTLSharedEventListener::initWithDispatchQueue(
                MTLSharedEventListener::alloc(),
                &listener.dispatchQueue(),
            )
        });
        assert_eq!(notify(&shared, &listener, 1).recv_timeout(LONG), Ok(1));

        let pipeline = pipeline(device, "checked");
        assert!(pipeline.label().is_none());
        assert_eq!(*pipeline.device(), **device);
        assert_eq!((pipeline.maxTotalThreadsPerThreadgroup(), pipeline.threadExecutionWidth()), (1024, 32));
        assert_eq!((pipeline.staticThreadgroupMemoryLength(), pipeline.allocatedSize()), (0, 0));
        let library = device.newLibraryWithSource_options_error(&string("kernel void k() {}"), None).unwrap();
        library.setLabel(Some(&string("library")));
        assert_eq!(library.label().unwrap().to_string(), "library");
        assert_eq!(*library.device(), **device);
        let function = library.newFunctionWithName(&string("k")).unwrap();
        function.setLabel(Some(&string("function")));
        assert_eq!(
            (function.label().unwrap().to_string(), function.name().to_string()),
            ("function".into(), "k".into())
        );
        assert_eq!(*function.device(), **device);

        let buffer = buffer(&queue);
        buffer.setLabel(Some(&string("buffer")));
        assert_eq!(buffer.label().unwrap().to_string(), "buffer");
        assert_eq!((*buffer.device() == **device, *buffer.commandQueue() == *queue), (true, true));
        assert!(buffer.retainedReferences() && buffer.error().is_none());
        assert_eq!(buffer.status(), Status::NotEnqueued);
        // SAFETY: the blocks may be called on any thread.
        unsafe {
            buffer.addScheduledHandler(RcBlock::as_ptr(&handler()));
            buffer.addCompletedHandler(RcBlock::as_ptr(&handler()));
        }
        buffer.encodeSignalEvent_value(&local, 1);
        buffer.encodeWaitForEvent_value(&local, 1);
        let blit = buffer.blitCommandEncoder().unwrap();
        blit.setLabel(Some(&string("blit")));
        assert_eq!((blit.label().unwrap().to_string(), *blit.device() == **device), ("blit".into(), true));
        blit.fillBuffer_range_value(&memory, NSRange::new(0, 8), 1);
        // SAFETY: in bounds.
        unsafe {
            blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&memory, 0, &memory, 8, 8)
        };
        blit.endEncoding();
        let compute = buffer.computeCommandEncoder().unwrap();
        compute.setLabel(Some(&string("compute")));
        assert_eq!(
            (compute.label().unwrap().to_string(), *compute.device() == **device),
            ("compute".into(), true)
        );
        compute.setComputePipelineState(&pipeline);
        // SAFETY: in bounds; and as many bytes are there.
        unsafe {
            compute.setBuffer_offset_atIndex(Some(&memory), 0, 0);
            compute.setBytes_length_atIndex(NonNull::from(&bytes).cast(), 4, 1);
        }
        let one = MTLSize { width: 1, height: 1, depth: 1 };
        compute.dispatchThreads_threadsPerThreadgroup(one, one);
        compute.dispatchThreadgroups_threadsPerThreadgroup(one, one);
        compute.endEncoding();
        buffer.enqueue();
        buffer.commit();
        buffer.waitUntilScheduled();
        completes(&buffer);
        assert!(buffer.GPUStartTime() > 0.0 && buffer.GPUEndTime() > 0.0);
        assert!(buffer.kernelStartTime() > 0.0 && buffer.kernelEndTime() > 0.0);

        let classes: [&CStr; 13] = [
            c"SimMTLDevice",
            c"SimMTLCommandQueue",
            c"SimMTLCommandBuffer",
            c"SimMTLBlitCommandEncoder",
            c"SimMTLComputeCommandEncoder",
            c"SimMTLEvent",
            c"SimMTLSharedEvent",
            c"SimMTLBuffer",
            c"SimMTLLibrary",
            c"SimMTLFunction",
            c"SimMTLComputePipelineState",
            c"MTLSharedEventListener",
            c"MTLSharedEventHandle",
        ];
        for class in classes {
            assert_eq!(unsent_methods(class), [""; 0], "{class:?}");
        }
        drop(take_violations());
    });
}

// ------------------------------------------------------------------------------------------------- ThreadSanitizer's
/// Under ThreadSanitizer, work that no event orders is a race, however it was scheduled.
#[cfg(metal_sim_tsan)]
#[test]
fn a_missing_event_is_a_race() {
    for how in ["blit", "kernel", "host work"] {
        for (event, expected) in [("", true), ("an event", false)] {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "race", "--ignored", "--test-threads=1"])
                .envs([("RACE_HOW", how), ("RACE_EVENT", event)])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let race = said.contains("ThreadSanitizer: data race");
            assert_eq!((race, output.status.success()), (expected, !expected), "{how}, {event}: {said}");
        }
    }
}

#[cfg(metal_sim_tsan)]
#[test]
#[ignore = "it may race"]
fn race() {
    struct Shared(*mut u32);
    // SAFETY: none: two threads may write there at once. That is what ThreadSanitizer is to see.
    unsafe impl Send for Shared {}

    kernels::register("write", |_, bindings| bindings.write(0, 0, 1_u32));
    let how = std::env::var("RACE_HOW").unwrap();
    let ordered = std::env::var("RACE_EVENT").is_ok_and(|event| !event.is_empty());
    alone(|_, device| {
        let (memory, event) = (shared_memory(device, 4), event(device));
        let pipeline = pipeline(device, "write");
        let begin = control().hold_begin();
        let buffers = [1, 2].map(|n| {
            let buffer = buffer(&queue(device));
            if ordered {
                wait(&buffer, &event, n - 1);
            }
            match how.as_str() {
                "blit" => {
                    let blit = buffer.blitCommandEncoder().unwrap();
                    blit.fillBuffer_range_value(&memory, NSRange::new(0, 4), 1);
                    blit.endEncoding();
                }
                "kernel" => {
                    let compute = buffer.computeCommandEncoder().unwrap();
                    compute.setComputePipelineState(&pipeline);
                    // SAFETY: in bounds.
                    unsafe { compute.setBuffer_offset_atIndex(Some(&memory), 0, 0) };
                    let one = MTLSize { width: 1, height: 1, depth: 1 };
                    compute.dispatchThreads_threadsPerThreadgroup(one, one);
                    compute.endEncoding();
                }
                _ => {
                    let shared = Shared(memory.contents().as_ptr().cast());
                    host_work(&buffer, move || {
                        let shared = shared;
                        // SAFETY: see above.
                        unsafe { shared.0.write(1) };
                        Ok(())
                    });
                }
            }
            signal(&buffer, &event, n);
            buffer.commit();
            buffer
        });
        drop(begin);
        buffers.iter().for_each(completes);
        assert_eq!(contents(&memory)[0], 1);
    });
}
