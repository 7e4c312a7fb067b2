//! A GPU as this process sees it: its primary context, and what all devices opened on it share.

use super::{
    clock::GpuClock,
    driver::{
        Api, CAPTURE_MODE_RELAXED, Code, DevicePointer, EVENT_DISABLE_TIMING, HOST_ALLOC_DEVICEMAP,
        HOST_ALLOC_PORTABLE, RawContext, RawEvent, RawStream, RawUuid, STREAM_NON_BLOCKING, SUCCESS,
        WAIT_VALUE_GEQ, WRITE_VALUE_DEFAULT, is_fault,
    },
    pump::Pump,
    queue::Queue,
};
use crate::{
    backend::{
        Lane, defer, interop,
        reaper::{KeepAlive, Reaper},
    },
    error::{Error, ErrorKind, Result},
    primitive::lock,
    timeline::relay,
};
use std::{
    cell::Cell,
    ffi::{c_char, c_int, c_void},
    fmt, ptr,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// More gated streams than this are not tried. The driver has at most 32 connections, or, with newer ones, 128.
const MOST_GATES: u32 = 128;

/// How long a stream that nothing holds back may take to write a word before it counts as held up. It takes 7 µs.
const PROBE: Duration = Duration::from_millis(50);

/// What is made in advance. With the GPU held back by a gate, the driver may make more only once that is open, and whoever
/// is to open it may be the one who asks.
const EVENTS: usize = 8_192;
const TIMED_EVENTS: usize = 2_048;
const STREAMS: usize = 64;

/// A GPU's primary context and what hangs on it. There is one for each GPU of the process, and it is never freed: making
/// a context takes a tenth of a second, and at the end of a process others may still be using it.
pub(in crate::backend) struct Gpu {
    pub(super) api: &'static Api,
    pub(super) context: RawContext,
    pub(super) name: String,
    /// What other interfaces know it by, if the driver says.
    #[cfg_attr(not(all(feature = "vulkan", unix)), expect(dead_code, reason = "there are none"))]
    pub(in crate::backend) uuid: Option<RawUuid>,
    pub(super) pump: Pump,
    pub(super) clock: GpuClock,
    /// Gated streams with which others were seen to go on.
    pub(super) gates: u32,
    slots: Mutex<Slots>,
    /// Streams that nobody uses. One may still have to finish what its last owner left.
    streams: Mutex<Vec<Handle>>,
    /// Events that nobody uses, untimed and timed.
    spare: [Mutex<Vec<Handle>>; 2],
    /// Every lane with a driver half here, to be told of a fault.
    lanes: Mutex<Vec<Weak<Lane<Queue>>>>,
    fault: OnceLock<Error>,
    retired: Mutex<Vec<Retired>>,
    /// What it is to signal for other interfaces.
    pub(in crate::backend) bridges: interop::Bridged,
    /// Drops what the pump must not.
    reaper: Reaper,
}

/// A driver's object. They belong to no thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(pub(super) *mut c_void);

// SAFETY: the driver's handles may be used from any thread; its calls lock what they touch.
unsafe impl Send for Handle {}
// SAFETY: as for `Send`.
unsafe impl Sync for Handle {}

// SAFETY: the context is a handle of the driver's, and may be used from any thread. The rest is `Send` by itself.
unsafe impl Send for Gpu {}
// SAFETY: as for `Send`.
unsafe impl Sync for Gpu {}

/// What a stream leaves behind.
#[derive(Debug, Default)]
pub(super) struct Retired {
    pub(super) stream: Option<Handle>,
    pub(super) events: Vec<Handle>,
    /// An event that another process knows as well.
    pub(super) shared: Option<Handle>,
    /// A word, and the value that the GPU will have written to it last.
    pub(super) word: Option<(Slot, u64)>,
    /// An imported semaphore, the stream of ours that signals it, and events behind the waits for it.
    pub(super) semaphore: Option<(Handle, Handle, Vec<Handle>)>,
}

/// A word that host and GPU share, in a cache line of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    word: *const AtomicU64,
    pub(super) pointer: DevicePointer,
}

// SAFETY: pinned memory is never given back, and what is in it is only reached through the atomic.
unsafe impl Send for Slot {}
// SAFETY: as for `Send`.
unsafe impl Sync for Slot {}

impl Slot {
    #[inline]
    pub(super) fn word(&self) -> &'static AtomicU64 {
        // SAFETY: aligned, initialised, and there for as long as the process.
        unsafe { &*self.word }
    }
}

#[derive(Debug, Default)]
struct Slots {
    free: Vec<Slot>,
    /// Words that the GPU will write to yet, and what it will have written last.
    limbo: Vec<(Slot, u64)>,
}

thread_local! {
    /// This thread's calls disturb nobody's capture anyway.
    static HARMLESS: Cell<bool> = const { Cell::new(false) };
}

/// This thread is ours, has [`entered`](Gpu::enter), and never leaves.
pub(super) fn is_harmless_for_good() {
    HARMLESS.set(true);
}

/// The calling thread has the context, and its calls disturb nobody's capture, until this goes.
pub(super) struct Entered<'a> {
    gpu: &'a Gpu,
    pushed: bool,
    mode: c_int,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut context = ptr::null_mut();
        if self.pushed {
            // SAFETY: pops what `enter` pushed; the call writes to `context` alone.
            unsafe { (self.gpu.api.ctx_pop_current)(&mut context) };
        }
        // SAFETY: gives the thread back the mode that it had.
        unsafe { (self.gpu.api.thread_exchange_capture_mode)(&mut self.mode) };
    }
}

impl Gpu {
    /// The GPU with this number, as this driver counts them.
    pub(super) fn get(api: &'static Api, ordinal: u32) -> Result<&'static Self> {
        static KNOWN: Mutex<Vec<(usize, u32, &'static Gpu)>> = Mutex::new(Vec::new());
        let driver = ptr::from_ref(api).addr();
        // Held while the context is made: two threads must not make two.
        let mut known = lock(&KNOWN);
        let found = known.iter().find(|(its, number, _)| (*its, *number) == (driver, ordinal));
        let gpu = match found {
            Some((_, _, gpu)) => *gpu,
            None => {
                let gpu: &'static Self = Box::leak(Box::new(Self::new(api, ordinal)?));
                known.push((driver, ordinal, gpu));
                gpu
            }
        };
        // Before anybody can wait for it.
        gpu.pump.start(gpu)?;
        Ok(gpu)
    }

    /// How many there are.
    pub(super) fn count(api: &Api) -> Result<u32> {
        let mut count = 0;
        // SAFETY: the call writes to `count` alone.
        api.check("cuDeviceGetCount", unsafe { (api.device_get_count)(&mut count) })?;
        Ok(count.max(0).unsigned_abs())
    }

    fn new(api: &'static Api, ordinal: u32) -> Result<Self> {
        let count = Self::count(api)?;
        if ordinal >= count {
            let text = match count {
                0 => "CUDA finds no GPU here".to_owned(),
                count => format!("there is no GPU number {ordinal} here; CUDA finds {count}"),
            };
            return Err(Error::with_text(ErrorKind::Unavailable, text));
        }
        let mut device = 0;
        // SAFETY: the call writes to `device` alone.
        api.check("cuDeviceGet", unsafe { (api.device_get)(&mut device, ordinal.cast_signed()) })?;
        let mut name = [0_u8; 256];
        // SAFETY: the call writes at most that many bytes, a zero last.
        api.check("cuDeviceGetName", unsafe {
            (api.device_get_name)(name.as_mut_ptr().cast::<c_char>(), 256, device)
        })?;
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(&name[..length]).into_owned();
        let mut context = ptr::null_mut();
        // SAFETY: the call writes to `context` alone. Kept to the end of the process.
        api.check("cuDevicePrimaryCtxRetain", unsafe { (api.primary_ctx_retain)(&mut context, device) })?;
        let mut uuid = [0; 16];
        // SAFETY: the call writes to `uuid` alone.
        let uuid =
            api.device_get_uuid.filter(|get| unsafe { get(&mut uuid, device) } == SUCCESS).map(|_| uuid);
        let mut gpu = Self {
            api,
            context,
            uuid,
            bridges: interop::Bridged::default(),
            reaper: Reaper::new(&name),
            name,
            pump: Pump::new(),
            clock: GpuClock::new(),
            gates: 0,
            slots: Mutex::default(),
            streams: Mutex::default(),
            spare: [Mutex::default(), Mutex::default()],
            lanes: Mutex::default(),
            fault: OnceLock::new(),
            retired: Mutex::default(),
        };
        for (timed, count) in [(false, EVENTS), (true, TIMED_EVENTS)] {
            let flags = if timed { 0 } else { EVENT_DISABLE_TIMING };
            let events = (0..count).map(|_| gpu.new_event(flags)).collect::<Result<Vec<_>>>()?;
            *lock(&gpu.spare[usize::from(timed)]) = events;
        }
        let streams = (0..STREAMS).map(|_| gpu.new_stream()).collect::<Result<Vec<_>>>()?;
        *lock(&gpu.streams) = streams;
        gpu.clock.start(&gpu)?;
        gpu.gates = gpu.probe_gates()?;
        Ok(gpu)
    }

    /// Makes the context current and the thread harmless to captures, for calls that make things or ask about them.
    /// Recording and waiting need neither: they go by their handles.
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
        let mut entered = Entered { gpu: self, pushed: false, mode: CAPTURE_MODE_RELAXED };
        let mut current = ptr::null_mut();
        // SAFETY: the call writes to `current` alone.
        let code = unsafe { (self.api.ctx_get_current)(&mut current) };
        // SAFETY: the call exchanges the calling thread's mode, which `Entered` gives back.
        unsafe { (self.api.thread_exchange_capture_mode)(&mut entered.mode) };
        self.api.check("cuCtxGetCurrent", code)?;
        if current != self.context {
            // SAFETY: the context is retained; `Entered` pops it.
            self.api.check("cuCtxPushCurrent", unsafe { (self.api.ctx_push_current)(self.context) })?;
            entered.pushed = true;
        }
        Ok(entered)
    }

    /// Asks, without disturbing anybody's capture.
    #[inline]
    pub(super) fn quietly<T>(&self, ask: impl FnOnce() -> T) -> T {
        if HARMLESS.get() {
            return ask();
        }
        let mut mode = CAPTURE_MODE_RELAXED;
        // SAFETY: the call exchanges the calling thread's mode.
        unsafe { (self.api.thread_exchange_capture_mode)(&mut mode) };
        let answer = ask();
        // SAFETY: gives it back.
        unsafe { (self.api.thread_exchange_capture_mode)(&mut mode) };
        answer
    }

    /// A stream with nothing on it.
    pub(super) fn stream(&self) -> Result<Handle> {
        const LOOKS: usize = 8;
        let mut streams = lock(&self.streams);
        // SAFETY: those are streams of ours.
        let idle = |stream: &Handle| self.quietly(|| unsafe { (self.api.stream_query)(stream.0) }) == SUCCESS;
        // The one that was left the longest is likeliest to be idle.
        if let Some(index) = streams.iter().take(LOOKS).position(idle) {
            return Ok(streams.remove(index));
        }
        // Not those again: one that was left in the middle of a capture never is.
        let looked = streams.len().min(LOOKS);
        streams.rotate_left(looked);
        drop(streams);
        self.new_stream()
    }

    fn new_stream(&self) -> Result<Handle> {
        let _entered = self.enter()?;
        let mut stream = ptr::null_mut();
        // SAFETY: the call writes to `stream` alone.
        let code = unsafe { (self.api.stream_create)(&mut stream, STREAM_NON_BLOCKING) };
        self.api.check("cuStreamCreate", code)?;
        Ok(Handle(stream))
    }

    /// An event to record, timed or not. None that can be slept for (`CU_EVENT_BLOCKING_SYNC`): a few dozen recordings of
    /// such behind a closed gate and the driver blocks whoever makes the next.
    #[inline]
    pub(super) fn event(&self, timed: bool) -> Result<Handle> {
        match self.spare_event(timed) {
            Some(event) => Ok(event),
            None => self.new_event(if timed { 0 } else { EVENT_DISABLE_TIMING }),
        }
    }

    /// An event, if there is one that needs not be made.
    #[inline]
    pub(super) fn spare_event(&self, timed: bool) -> Option<Handle> {
        lock(&self.spare[usize::from(timed)]).pop()
    }

    #[cold]
    pub(super) fn new_event(&self, flags: u32) -> Result<Handle> {
        let _entered = self.enter()?;
        let mut event: RawEvent = ptr::null_mut();
        // SAFETY: the call writes to `event` alone.
        self.api.check("cuEventCreate", unsafe { (self.api.event_create)(&mut event, flags) })?;
        Ok(Handle(event))
    }

    pub(super) fn give_back(&self, timed: bool, event: Handle) {
        lock(&self.spare[usize::from(timed)]).push(event);
    }

    /// A word, and the value that it has.
    pub(super) fn slot(&self) -> Result<(Slot, u64)> {
        loop {
            if let Some(slot) = self.known_slot() {
                // Acquire: as in `known_slot`.
                return Ok((slot, slot.word().load(Ordering::Acquire)));
            }
            // With no lock held: to allocate may wait for what is on the GPU, and gates need the lock to open.
            let new = self.new_slots()?;
            lock(&self.slots).free.extend(new);
        }
    }

    /// A word that is free, be it that the GPU was not through with it before.
    fn known_slot(&self) -> Option<Slot> {
        let mut slots = lock(&self.slots);
        if slots.free.is_empty() {
            let (settled, limbo): (Vec<_>, Vec<_>) = std::mem::take(&mut slots.limbo)
                .into_iter()
                // Acquire: the GPU, or whoever opened the gate, is through with it.
                .partition(|(slot, last)| slot.word().load(Ordering::Acquire) >= *last);
            slots.limbo = limbo;
            slots.free.extend(settled.into_iter().map(|(slot, _)| slot));
        }
        slots.free.pop()
    }

    fn new_slots(&self) -> Result<Vec<Slot>> {
        const LINE: usize = 64;
        const COUNT: usize = 4_096;
        let _entered = self.enter()?;
        let mut memory = ptr::null_mut();
        let flags = HOST_ALLOC_PORTABLE | HOST_ALLOC_DEVICEMAP;
        // SAFETY: the call writes to `memory` alone.
        let code = unsafe { (self.api.mem_host_alloc)(&mut memory, LINE * COUNT, flags) };
        self.api.check("cuMemHostAlloc", code)?;
        // SAFETY: that much memory is there, and nobody knows of it yet.
        unsafe { ptr::write_bytes(memory.cast::<u8>(), 0, LINE * COUNT) };
        let mut pointer = 0;
        // SAFETY: the memory was allocated to be mapped; the call writes to `pointer` alone.
        let code = unsafe { (self.api.mem_host_get_device_pointer)(&mut pointer, memory, 0) };
        self.api.check("cuMemHostGetDevicePointer", code)?;
        let slot = |index: usize| Slot {
            word: memory.wrapping_byte_add(index * LINE).cast_const().cast(),
            pointer: pointer + (index * LINE) as u64,
        };
        Ok((0..COUNT).map(slot).collect())
    }

    /// Gives a word back that nobody writes to any more.
    pub(super) fn free_slot(&self, slot: Slot) {
        lock(&self.slots).free.push(slot);
    }

    /// Lets a lane be told when the context breaks.
    pub(super) fn admit(&self, lane: &Arc<Lane<Queue>>) {
        {
            let mut lanes = lock(&self.lanes);
            if lanes.len() == lanes.capacity() {
                lanes.retain(|lane| lane.strong_count() > 0);
            }
            lanes.push(Arc::downgrade(lane));
        }
        // Broken meanwhile: whoever broke it has looked at the list before we were on it, or finds us.
        if let Some(error) = self.fault.get() {
            lane.fail(1, error.clone());
        }
    }

    /// Reads the times of what was reached. They are read beside a reference of about their time, and what nobody will ask
    /// for any more is given back.
    pub(super) fn tidy(&self) {
        let lanes: Vec<_> = lock(&self.lanes).iter().filter_map(Weak::upgrade).collect();
        lanes.iter().for_each(|lane| lane.backend().tidy(lane));
    }

    /// Asks whether the context still works, which a word does not tell. Of a stream that nobody captures, since to ask about
    /// one that is being captured would break that.
    pub(super) fn examine(&self) {
        let Some(stream) = self.clock.stream() else { return };
        // SAFETY: the stream is ours.
        let code = self.quietly(|| unsafe { (self.api.stream_query)(stream.0) });
        if is_fault(code) {
            self.fail(self.api.error("cuStreamQuery", code));
        }
    }

    /// Drops what a user gave to be kept. Its destructor may do anything, so not where somebody else waits for this thread.
    pub(super) fn let_go_of(&self, kept: KeepAlive) {
        if HARMLESS.get() {
            self.reaper.let_go_of(kept);
        } else {
            defer(move || drop(kept));
        }
    }

    /// Why the context is broken, if it is.
    pub(in crate::backend) fn broken(&self) -> Option<&Error> {
        self.fault.get()
    }

    /// The context is broken: every stream of it has failed, and everyone who waits for one of them is told. With no lock
    /// held; who holds a submit lock leaves it to the pump.
    #[cold]
    pub(super) fn fail(&self, error: Error) {
        // The first fault is the one that is told.
        let error = self.fault.get_or_init(|| error).clone();
        let lanes: Vec<_> = lock(&self.lanes).iter().filter_map(Weak::upgrade).collect();
        // What did complete stays complete, as far as anybody can know it. Then all marks, then all releases: also of
        // those whom another GPU holds back for a word of ours, which this one will not write any more (R26).
        lanes.iter().for_each(|lane| lane.backend().collect_word());
        relay::batch(
            || lanes.iter().for_each(|lane| lane.fail(lane.completed() + 1, error.clone())),
            || {
                lanes.iter().for_each(|lane| lane.backend().let_go());
                self.bridges.let_go();
            },
        );
    }

    /// Takes what a stream leaves behind. The driver isn't called here: this comes from a `Drop`.
    pub(super) fn retire(&self, retired: Retired) {
        lock(&self.retired).push(retired);
    }

    /// Sorts what was left behind to what can be used again.
    pub(super) fn bury(&self) {
        let retired = std::mem::take(&mut *lock(&self.retired));
        if retired.is_empty() {
            return;
        }
        if self.fault.get().is_some() {
            // Nothing can be given back to a broken context.
            return;
        }
        // Kept for those who come next: to destroy them could take as long as what is on the GPU.
        for mut retired in retired {
            if let Some((semaphore, helper, waits)) = retired.semaphore.take() {
                self.bury_semaphore(semaphore, helper, waits);
            }
            if let Some((slot, last)) = retired.word {
                lock(&self.slots).limbo.push((slot, last));
            }
            lock(&self.spare[0]).extend(retired.events);
            lock(&self.streams).extend(retired.stream);
            if let (Some(event), Ok(_entered)) = (retired.shared, self.enter()) {
                // SAFETY: nobody here can ask for it any more.
                unsafe { (self.api.event_destroy)(event.0) };
            }
        }
    }

    /// Destroys an imported semaphore, or keeps it for the next time if something still waits for it or signals it.
    fn bury_semaphore(&self, semaphore: Handle, helper: Handle, mut waits: Vec<Handle>) {
        waits.retain(|event| {
            let reached = self.is_done(*event) == Ok(true);
            if reached {
                self.give_back(false, *event);
            }
            !reached
        });
        // SAFETY: the stream is ours.
        let idle = || self.quietly(|| unsafe { (self.api.stream_query)(helper.0) }) == SUCCESS;
        if !waits.is_empty() || !idle() {
            return self
                .retire(Retired { semaphore: Some((semaphore, helper, waits)), ..Retired::default() });
        }
        if let (Some(destroy), Ok(_entered)) = (self.api.destroy_external_semaphore, self.enter()) {
            // SAFETY: nobody knows it any more, and all signals and waits are over.
            unsafe { destroy(semaphore.0) };
        }
        lock(&self.streams).push(helper);
    }

    /// Makes a stream wait for a native event.
    #[inline]
    pub(super) fn have_wait_for_event(&self, stream: RawStream, event: Handle) -> Result<()> {
        // SAFETY: both are there.
        let code = unsafe { (self.api.stream_wait_event)(stream, event.0, 0) };
        if code == SUCCESS { Ok(()) } else { Err(self.refused("cuStreamWaitEvent", code)) }
    }

    /// Makes a stream wait for a word to be this high.
    pub(super) fn have_wait_for_word(&self, stream: RawStream, slot: Slot, value: u64) -> Result<()> {
        // SAFETY: the word is pinned, aligned, and never given back.
        let code = unsafe { (self.api.stream_wait_value)(stream, slot.pointer, value, WAIT_VALUE_GEQ) };
        if code == SUCCESS { Ok(()) } else { Err(self.refused("cuStreamWaitValue64", code)) }
    }

    /// The error of a call that the driver refused where a lock may be held. If it says that the context is broken, the pump
    /// tells the rest.
    #[cold]
    pub(super) fn refused(&self, call: &str, code: Code) -> Error {
        let error = self.api.error(call, code);
        if is_fault(code) {
            self.pump.fault(error.clone());
        }
        error
    }

    /// Tries how many streams can wait for the host while another still goes on. They share the few connections that the
    /// driver has to the GPU (`CUDA_DEVICE_MAX_CONNECTIONS`, 8 unless told otherwise), and one that waits holds its
    /// connection.
    fn probe_gates(&self) -> Result<u32> {
        let (gate, closed) = self.slot()?;
        let (word, base) = self.slot()?;
        let mut streams = Vec::new();
        let mut passed = 0;
        let mut written = base;
        let outcome = (|| {
            let mut probe = self.stream()?;
            while passed < MOST_GATES {
                streams.push(probe);
                // SAFETY: the stream is ours, the word is pinned and aligned.
                let code = unsafe {
                    (self.api.stream_wait_value)(probe.0, gate.pointer, closed + 1, WAIT_VALUE_GEQ)
                };
                self.api.check("cuStreamWaitValue64", code)?;
                probe = self.stream()?;
                written += 1;
                // SAFETY: as above.
                let code = unsafe {
                    (self.api.stream_write_value)(probe.0, word.pointer, written, WRITE_VALUE_DEFAULT)
                };
                if let Err(error) = self.api.check("cuStreamWriteValue64", code) {
                    streams.push(probe);
                    return Err(error);
                }
                let asked = Instant::now();
                // Acquire: pairs with the GPU's write.
                while word.word().load(Ordering::Acquire) < written {
                    if asked.elapsed() > PROBE {
                        streams.push(probe);
                        return Ok(passed);
                    }
                    std::hint::spin_loop();
                }
                passed += 1;
            }
            streams.push(probe);
            Ok(passed)
        })();
        // Release: the streams go on.
        gate.word().store(closed + 1, Ordering::Release);
        self.free_slot(gate);
        self.retire(Retired { word: Some((word, written)), ..Retired::default() });
        for stream in streams {
            self.retire(Retired { stream: Some(stream), ..Retired::default() });
        }
        self.bury();
        outcome
    }

    /// The context that a stream is of.
    pub(super) fn context_of(&self, stream: RawStream) -> Result<RawContext> {
        let _entered = self.enter()?;
        let mut context = ptr::null_mut();
        // SAFETY: the caller says that the stream is one; the call writes to `context` alone.
        self.api.check("cuStreamGetCtx", unsafe { (self.api.stream_get_ctx)(stream, &mut context) })?;
        Ok(context)
    }

    /// What an event says: complete or not.
    #[inline]
    pub(super) fn is_done(&self, event: Handle) -> Result<bool, u32> {
        // SAFETY: events are destroyed only once nobody can ask for them.
        match self.quietly(|| unsafe { (self.api.event_query)(event.0) }) {
            SUCCESS => Ok(true),
            super::driver::NOT_READY => Ok(false),
            code => Err(code),
        }
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("name", &self.name)
            .field("broken", &self.fault.get())
            .finish_non_exhaustive()
    }
}
