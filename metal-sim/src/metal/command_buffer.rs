//! `MTLCommandBuffer`.

use super::device::Device;
use super::encoder::{BlitEncoder, ComputeEncoder};
use super::event;
use super::gpu::{self, News};
use super::program::{HostWork, Op, Program};
use super::queue::CommandQueue;
use super::{Label, new_id, now_seconds};
use crate::control::{COUNTS, Knobs, Nil, Stage, count, gives_nil};
use crate::dispatch::SendBlock;
use crate::foundation::error;
use crate::track::Track;
use crate::violation::violation;
use block2::DynBlock;
use objc2::rc::Retained;
use objc2::runtime::{NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{AnyThread, DefinedClass, Message, define_class, msg_send};
use objc2_foundation::{NSError, NSString};
use objc2_metal::{MTLCommandBuffer, MTLCommandBufferStatus as Status, MTLEvent};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

type Handler = dyn Fn(NonNull<ProtocolObject<dyn MTLCommandBuffer>>);

pub(super) struct BufferState {
    pub(super) id: u64,
    pub(super) queue: Retained<CommandQueue>,
    retains: bool,
    label: Label,
    recording: Mutex<Recording>,
    /// An `MTLCommandBufferStatus`. The completed one is stored on the buffer's track, with release: who sees it sees
    /// the buffer's work.
    status: AtomicUsize,
    /// Bits of `f64`: GPU start and end, kernel start and end.
    times: [AtomicU64; 4],
    error: Mutex<Option<SendError>>,
    /// For threads that wait for the status: locked after it has changed.
    changed: (Mutex<()>, Condvar),
    place: AtomicBool,
}

struct SendError(Retained<NSError>);

// SAFETY: errors of the simulation are immutable.
unsafe impl Send for SendError {}

/// What is encoded so far.
#[derive(Default)]
struct Recording {
    enqueued: bool,
    committed: bool,
    ops: Vec<Op>,
    /// The encoder that is open, and what it is called.
    open: Option<(u64, &'static str)>,
    scheduled: Vec<SendBlock<Handler>>,
    completed: Vec<SendBlock<Handler>>,
}

/// What a committed buffer hands to the GPU.
pub(super) struct Commit {
    pub(super) buffer: Retained<CommandBuffer>,
    pub(super) program: Box<Program>,
    pub(super) label: Option<String>,
}

/// How a committed buffer ended.
pub(super) struct End {
    pub(super) program: Box<Program>,
    /// Of `MTLCommandBufferError`, if it failed.
    pub(super) code: Option<usize>,
    /// What to say about it, if there is anything.
    pub(super) text: Option<String>,
}

impl Drop for BufferState {
    fn drop(&mut self) {
        let recording = self.recording.get_mut().unwrap_or_else(PoisonError::into_inner);
        if recording.enqueued && !recording.committed {
            gpu::forget(self.queue.ivars().id, self.id);
        }
        self.free_place();
    }
}

impl BufferState {
    fn free_place(&self) {
        if self.place.swap(false, Ordering::Relaxed) {
            self.queue.free_place();
        }
    }

    fn status(&self) -> Status {
        // Acquire: who sees that it has completed sees its work.
        Status(self.status.load(Ordering::Acquire))
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLCommandBuffer"]
    #[ivars = BufferState]
    pub(super) struct CommandBuffer;

    unsafe impl NSObjectProtocol for CommandBuffer {}

    unsafe impl MTLCommandBuffer for CommandBuffer {
        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Device> {
            self.ivars().queue.ivars().device.clone()
        }

        #[unsafe(method_id(commandQueue))]
        fn command_queue(&self) -> Retained<CommandQueue> {
            self.ivars().queue.clone()
        }

        #[unsafe(method(retainedReferences))]
        fn retained_references(&self) -> bool {
            self.ivars().retains
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }

        #[unsafe(method(status))]
        fn status(&self) -> Status {
            self.ivars().status()
        }

        #[unsafe(method_id(error))]
        fn error(&self) -> Option<Retained<NSError>> {
            self.ivars()
                .error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .map(|error| error.0.clone())
        }

        #[unsafe(method(GPUStartTime))]
        fn gpu_start(&self) -> f64 {
            self.time(0)
        }

        #[unsafe(method(GPUEndTime))]
        fn gpu_end(&self) -> f64 {
            self.time(1)
        }

        #[unsafe(method(kernelStartTime))]
        fn kernel_start(&self) -> f64 {
            self.time(2)
        }

        #[unsafe(method(kernelEndTime))]
        fn kernel_end(&self) -> f64 {
            self.time(3)
        }

        #[unsafe(method(enqueue))]
        fn enqueue(&self) {
            let mut recording = self.recording("enqueue");
            if recording.enqueued {
                return violation("enqueue of a command buffer that is enqueued already");
            }
            if recording.committed {
                return;
            }
            recording.enqueued = true;
            self.ivars().status.store(Status::Enqueued.0, Ordering::Release);
            gpu::enqueue(self.ivars().queue.ivars().id, self.ivars().id);
        }

        #[unsafe(method(commit))]
        fn commit(&self) {
            count(&COUNTS.commits);
            let mut recording = self.recording("commit");
            if recording.committed {
                return;
            }
            self.expect_no_encoder(&mut recording, "commit");
            recording.committed = true;
            let ops = std::mem::take(&mut recording.ops);
            self.ivars().status.store(Status::Committed.0, Ordering::Release);
            drop(recording);
            let label = self.ivars().label.text();
            // The track begins here: what this thread did before is done before the GPU begins.
            let program = Box::new(Program { ops, track: Track::new() });
            gpu::commit(Commit { buffer: self.retain(), program, label });
        }

        #[unsafe(method(addScheduledHandler:))]
        fn add_scheduled(&self, block: *mut DynBlock<Handler>) {
            // SAFETY: the sender passes such a block, which may be called on any thread.
            let Some(block) = (unsafe { SendBlock::copy(block) }) else {
                return violation("addScheduledHandler: without a block");
            };
            self.recording("addScheduledHandler:").scheduled.push(block);
        }

        #[unsafe(method(addCompletedHandler:))]
        fn add_completed(&self, block: *mut DynBlock<Handler>) {
            // SAFETY: the sender passes such a block, which may be called on any thread.
            let Some(block) = (unsafe { SendBlock::copy(block) }) else {
                return violation("addCompletedHandler: without a block");
            };
            self.recording("addCompletedHandler:").completed.push(block);
        }

        #[unsafe(method(waitUntilScheduled))]
        fn wait_until_scheduled(&self) {
            self.wait(Status::Scheduled, "waitUntilScheduled");
        }

        #[unsafe(method(waitUntilCompleted))]
        fn wait_until_completed(&self) {
            self.wait(Status::Completed, "waitUntilCompleted");
        }

        #[unsafe(method(encodeWaitForEvent:value:))]
        fn encode_wait(&self, event: &ProtocolObject<dyn MTLEvent>, value: u64) {
            let event = event::use_of(event, &self.ivars().queue.ivars().device, self.ivars().retains);
            self.encode(Op::Wait(event, value), "encodeWaitForEvent:value:");
        }

        #[unsafe(method(encodeSignalEvent:value:))]
        fn encode_signal(&self, event: &ProtocolObject<dyn MTLEvent>, value: u64) {
            let event = event::use_of(event, &self.ivars().queue.ivars().device, self.ivars().retains);
            self.encode(Op::Signal(event, value), "encodeSignalEvent:value:");
        }

        #[unsafe(method_id(blitCommandEncoder))]
        fn blit_encoder(&self) -> Option<Retained<BlitEncoder>> {
            let id = (!gives_nil(Nil::BlitEncoder)).then(|| self.open_encoder("blit encoder"));
            id.map(|id| BlitEncoder::new(self.retain(), id))
        }

        #[unsafe(method_id(computeCommandEncoder))]
        fn compute_encoder(&self) -> Option<Retained<ComputeEncoder>> {
            let id = (!gives_nil(Nil::ComputeEncoder)).then(|| self.open_encoder("compute encoder"));
            id.map(|id| ComputeEncoder::new(self.retain(), id))
        }
    }
);

// ------------------------------------------------------------------------------------------------ the host's side
impl CommandBuffer {
    pub(super) fn new(queue: Retained<CommandQueue>, retains: bool) -> Retained<Self> {
        let state = BufferState {
            id: new_id(),
            queue,
            retains,
            label: Label::default(),
            recording: Mutex::default(),
            status: AtomicUsize::new(Status::NotEnqueued.0),
            times: [const { AtomicU64::new(0) }; 4],
            error: Mutex::default(),
            changed: (Mutex::new(()), Condvar::new()),
            place: AtomicBool::new(true),
        };
        let this = Self::alloc().set_ivars(state);
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }

    /// What is recorded, for one more step; complains if it is committed.
    fn recording(&self, step: &str) -> std::sync::MutexGuard<'_, Recording> {
        let recording = self.ivars().recording.lock().unwrap_or_else(PoisonError::into_inner);
        if recording.committed {
            violation(format!("{step} on a command buffer that is committed"));
        }
        recording
    }

    fn expect_no_encoder(&self, recording: &mut Recording, step: &str) {
        if let Some((_, encoder)) = recording.open.take() {
            violation(format!("{step} while a {encoder} is open"));
        }
    }

    fn encode(&self, op: Op, step: &str) {
        let mut recording = self.recording(step);
        self.expect_no_encoder(&mut recording, step);
        recording.ops.push(op);
    }

    fn open_encoder(&self, what: &'static str) -> u64 {
        let step = format!("opening a {what}");
        let mut recording = self.recording(&step);
        self.expect_no_encoder(&mut recording, &step);
        let id = new_id();
        recording.open = Some((id, what));
        id
    }

    pub(super) fn encode_host_work(&self, work: HostWork) {
        self.encode(Op::Host(work), "host_work");
    }

    /// Adds a command of the open encoder.
    pub(super) fn encode_in(&self, encoder: u64, op: Op, step: &str) {
        let mut recording = self.recording(step);
        // Not open: that was a violation already, at whatever closed it.
        if recording.open.is_some_and(|(id, _)| id == encoder) {
            recording.ops.push(op);
        }
    }

    pub(super) fn end_encoder(&self, encoder: u64) {
        let mut recording = self.recording("endEncoding");
        if recording.open.is_some_and(|(id, _)| id == encoder) {
            recording.open = None;
        }
    }

    pub(super) fn retains(&self) -> bool {
        self.ivars().retains
    }

    fn wait(&self, status: Status, step: &str) {
        let state = self.ivars();
        if !state.recording.lock().unwrap_or_else(PoisonError::into_inner).committed {
            return violation(format!("{step} on a command buffer that is not committed"));
        }
        let guard = state.changed.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = |_: &mut ()| state.status() < status;
        drop(state.changed.1.wait_while(guard, pending).unwrap_or_else(PoisonError::into_inner));
    }

    fn time(&self, which: usize) -> f64 {
        f64::from_bits(self.ivars().times[which].load(Ordering::Relaxed))
    }
}

// ------------------------------------------------------------------------------------------------- the GPU's side
impl CommandBuffer {
    fn set_time(&self, which: usize, seconds: f64) {
        self.ivars().times[which].store(seconds.to_bits(), Ordering::Relaxed);
    }

    fn notify(&self) {
        let (lock, changed) = &self.ivars().changed;
        drop(lock.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }

    /// It has been scheduled.
    pub(super) fn begin(&self) {
        self.ivars().status.store(Status::Scheduled.0, Ordering::Release);
        self.notify();
        let mut recording = self.ivars().recording.lock().unwrap_or_else(PoisonError::into_inner);
        let handlers = std::mem::take(&mut recording.scheduled);
        drop(recording);
        self.run_handlers(handlers);
    }

    /// It has completed, or failed with a code. `times` are the GPU's seconds of its begin and end.
    pub(super) fn complete(&self, end: End, times: (f64, f64), knobs: &Knobs) {
        let state = self.ivars();
        let End { program, code, text } = end;
        if !knobs.zero_times {
            self.set_time(0, times.0 + knobs.start_shift);
            self.set_time(1, times.1 + knobs.end_shift);
            self.set_time(2, times.0);
            self.set_time(3, now_seconds());
        }
        if let Some(code) = code {
            let text = text.unwrap_or_else(|| format!("the command buffer ended in error {code}"));
            let text = format!("simulated: {text}");
            let error = error("MTLCommandBufferErrorDomain", code.cast_signed(), &text);
            *state.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(SendError(error));
        }
        // Release, and on the track: who sees it sees the buffer's work.
        let store: fn(*const BufferState) -> u64 = if code.is_some() {
            // SAFETY: the address is of this buffer's state.
            |state| unsafe { &*state }.status.swap(Status::Error.0, Ordering::Release) as u64
        } else {
            // SAFETY: as above.
            |state| unsafe { &*state }.status.swap(Status::Completed.0, Ordering::Release) as u64
        };
        program.track.run(store, state);
        self.notify();
        state.free_place();
        let mut recording = state.recording.lock().unwrap_or_else(PoisonError::into_inner);
        // Scheduled handlers that are left are of a buffer that never began.
        let scheduled = std::mem::take(&mut recording.scheduled);
        let completed = std::mem::take(&mut recording.completed);
        drop(recording);
        self.run_handlers(scheduled);
        self.run_handlers(completed);
        // What the buffer retained is let go by a thread that has seen its work.
        let this = self.retain();
        crate::dispatch::run(move || {
            let _ = this.ivars().status();
            drop(program);
        });
    }

    fn run_handlers(&self, handlers: Vec<SendBlock<Handler>>) {
        if handlers.is_empty() {
            return;
        }
        let this = self.retain();
        let lane = std::ptr::from_ref(self).addr();
        gpu::news(News::new(Stage::Handlers, lane, None, move || {
            let _ = this.ivars().status(); // acquires what the buffer did
            for handler in handlers {
                count(&COUNTS.blocks_run);
                handler.0.call((NonNull::from(ProtocolObject::from_ref(&*this)),));
            }
        }));
    }
}
