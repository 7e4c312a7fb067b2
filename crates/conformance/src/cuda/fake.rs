//! A driver that is none: CUDA's functions, as far as the backend calls them, over a machine of threads and maps. So that
//! the backend's logic is tested where there is no GPU.
//!
//! What matters of the real one is re-made: work runs later and in a stream's order; an event stands for its newest
//! recording, and for none it says "reached"; times lie on a grid of 32 ns and come as floats of milliseconds; a fault
//! breaks the context for good, and every call says so; asking breaks other threads' captures, unless the thread has said
//! that it may; eight streams that wait hold up everybody else; making things takes a current context, and recording takes
//! none. What is left out: how long things take.

use gpu_events::cuda::{Api, Code, DevicePointer, RawContext, RawEvent, RawIpcHandle, RawStream};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, VecDeque},
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    ptr,
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How many GPUs the machine has. Many, because one that has a fault is lost to its process.
pub const GPUS: u32 = 4_096;

/// How many streams can wait before the others are held up.
pub const CONNECTIONS: usize = 8;

const SUCCESS: Code = 0;
const INVALID_VALUE: Code = 1;
const INVALID_CONTEXT: Code = 201;
const INVALID_HANDLE: Code = 400;
const NOT_READY: Code = 600;
/// What a kernel that reads where nothing is does to its context.
pub const ILLEGAL_ADDRESS: Code = 700;
/// What a trap does.
pub const LAUNCH_FAILED: Code = 719;
const CAPTURE_UNSUPPORTED: Code = 900;
const CAPTURE_INVALIDATED: Code = 901;
const CAPTURED_EVENT: Code = 907;

const STEP: u128 = 32;
const DISABLE_TIMING: c_uint = 2;
const INTERPROCESS: c_uint = 4;
const EXTERNAL: c_uint = 1;
const RELAXED: c_int = 2;

/// What the pretended kernels do.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// Stores a value.
    Set {
        /// The cell's address.
        cell: usize,
        /// What to store.
        value: u32,
    },
    /// Copies a value.
    Copy {
        /// The address to read.
        from: usize,
        /// The address to write.
        to: usize,
    },
    /// Takes so long.
    Spin(Duration),
    /// Goes on once this is not zero.
    Until(&'static AtomicU32),
    /// Breaks the context.
    Fault(Code),
}

#[derive(Clone, Debug)]
enum Op {
    Record { event: u64, recording: u64 },
    WaitEvent { event: u64, recording: u64 },
    Write { word: usize, value: u64 },
    WaitWord { word: usize, value: u64 },
    Kernel(Kernel),
}

#[derive(Debug)]
struct Stream {
    gpu: u32,
    ops: VecDeque<Op>,
    /// When the kernel at the front began.
    begun: Option<Instant>,
    /// It has one of the GPU's connections.
    connected: bool,
    /// When it last began to have something to do, as a number that grows: connections are dealt out in that order.
    arrived: u64,
    destroyed: bool,
    capture: Option<Capture>,
}

impl Stream {
    fn new(gpu: u32) -> Self {
        Self {
            gpu,
            ops: VecDeque::new(),
            begun: None,
            connected: false,
            arrived: 0,
            destroyed: false,
            capture: None,
        }
    }
}

#[derive(Debug)]
struct Capture {
    nodes: Vec<u64>,
    invalidated: bool,
}

#[derive(Debug, Default)]
struct Event {
    gpu: u32,
    flags: c_uint,
    /// How often it was recorded, and how often that was reached.
    recorded: u64,
    reached: u64,
    at: u128,
    /// A capture took its recording.
    captured: bool,
}

#[derive(Debug, Default)]
struct Machine {
    next: u64,
    arrivals: u64,
    streams: BTreeMap<u64, Stream>,
    events: HashMap<u64, Event>,
    faults: HashMap<u32, Code>,
    refusals: Vec<(&'static str, Code)>,
    /// As above, for one stream.
    refusals_on: Vec<(&'static str, u64, Code)>,
    /// A capture takes the next recording.
    captures_next: bool,
    running: bool,
    calls: HashMap<&'static str, u64>,
}

static MACHINE: OnceLock<(Mutex<Machine>, Condvar, Instant)> = OnceLock::new();

thread_local! {
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    static MODE: Cell<c_int> = const { Cell::new(0) };
}

fn parts() -> &'static (Mutex<Machine>, Condvar, Instant) {
    MACHINE.get_or_init(|| (Mutex::default(), Condvar::new(), Instant::now()))
}

fn machine() -> MutexGuard<'static, Machine> {
    parts().0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> u128 {
    parts().2.elapsed().as_nanos() / STEP * STEP
}

/// The address of a GPU's context: a number, and never followed.
fn context_of(gpu: u32) -> usize {
    0x1000 + gpu as usize * 16
}

fn gpu_of(context: usize) -> Option<u32> {
    let gpu = u32::try_from(context.checked_sub(0x1000)? / 16).ok()?;
    (gpu < GPUS && context_of(gpu) == context).then_some(gpu)
}

/// What a word in shared memory holds.
fn word(at: usize) -> &'static AtomicU64 {
    // SAFETY: the machine's memory is aligned, and never given back.
    unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(at)) }
}

fn cell(at: usize) -> &'static AtomicU32 {
    // SAFETY: as for `word`.
    unsafe { AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(at)) }
}

impl Machine {
    fn wake(&mut self) {
        if !self.running {
            self.running = thread::Builder::new().name("fake GPUs".into()).spawn(run).is_ok();
        }
        parts().1.notify_all();
    }

    /// The next call of this name answers something else.
    fn called(&mut self, name: &'static str) -> Result<(), Code> {
        *self.calls.entry(name).or_default() += 1;
        match self.refusals.iter().position(|(call, _)| *call == name) {
            Some(index) => Err(self.refusals.swap_remove(index).1),
            None => Ok(()),
        }
    }

    /// The next call of this name on this stream answers something else.
    fn called_on(&mut self, name: &'static str, stream: RawStream) -> Result<(), Code> {
        let stream = stream.addr() as u64;
        match self.refusals_on.iter().position(|(call, on, _)| (*call, *on) == (name, stream)) {
            Some(index) => Err(self.refusals_on.swap_remove(index).2),
            None => Ok(()),
        }
    }

    fn healthy(&self, gpu: u32) -> Result<(), Code> {
        self.faults.get(&gpu).map_or(Ok(()), |fault| Err(*fault))
    }

    fn stream(&mut self, raw: RawStream) -> Result<&mut Stream, Code> {
        let id = match raw.addr() {
            // Those without a handle are the current context's. That they serialise is left out.
            number @ 0..=2 => self.default_stream(number as u64)?,
            id => id as u64,
        };
        let stream = self.streams.get_mut(&id).filter(|stream| !stream.destroyed);
        let gpu = stream.as_ref().map(|stream| stream.gpu).ok_or(INVALID_HANDLE)?;
        if let Some(fault) = self.faults.get(&gpu) {
            return Err(*fault);
        }
        stream.ok_or(INVALID_HANDLE)
    }

    fn default_stream(&mut self, number: u64) -> Result<u64, Code> {
        let gpu = current()?;
        // Null is the legacy one.
        let id = 1 << 40 | u64::from(gpu) << 8 | number.max(1);
        self.streams.entry(id).or_insert_with(|| Stream::new(gpu));
        Ok(id)
    }

    fn event(&mut self, raw: RawEvent) -> Result<&mut Event, Code> {
        let event = self.events.get_mut(&(raw.addr() as u64)).ok_or(INVALID_HANDLE)?;
        if let Some(fault) = self.faults.get(&event.gpu) {
            return Err(*fault);
        }
        Ok(event)
    }

    fn submit(&mut self, raw: RawStream, op: Op) -> Result<(), Code> {
        let stream = self.stream(raw)?;
        if let Some(capture) = &mut stream.capture {
            // Swallowed: nothing runs now.
            return if capture.invalidated { Err(CAPTURE_INVALIDATED) } else { Ok(()) };
        }
        let arrives = stream.ops.is_empty();
        stream.ops.push_back(op);
        if arrives {
            self.arrivals += 1;
            let arrived = self.arrivals;
            self.stream(raw)?.arrived = arrived;
        }
        self.wake();
        Ok(())
    }

    /// A call that could disturb a capture is not allowed while somebody else captures.
    fn unsafe_under_capture(&mut self) -> Result<(), Code> {
        if MODE.get() == RELAXED {
            return Ok(());
        }
        let mut found = false;
        for capture in self.streams.values_mut().filter_map(|stream| stream.capture.as_mut()) {
            capture.invalidated = true;
            found = true;
        }
        if found { Err(CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// Runs what can run. Whether anything did.
    fn step(&mut self) -> bool {
        let mut progress = false;
        let busy = self.streams.iter().filter(|(_, stream)| !stream.ops.is_empty());
        let mut ids: Vec<(u64, u64)> = busy.map(|(id, stream)| (stream.arrived, *id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
            progress |= self.step_stream(id);
        }
        self.streams.retain(|_, stream| !(stream.destroyed && stream.ops.is_empty()));
        progress
    }

    fn step_stream(&mut self, id: u64) -> bool {
        let Some(stream) = self.streams.get(&id) else { return false };
        let gpu = stream.gpu;
        if stream.ops.is_empty() || self.faults.contains_key(&gpu) {
            return false;
        }
        if !stream.connected {
            let connected = self.streams.values().filter(|other| other.gpu == gpu && other.connected).count();
            if connected >= CONNECTIONS {
                return false;
            }
        }
        let mut progress = false;
        loop {
            let Some(stream) = self.streams.get_mut(&id) else { return progress };
            stream.connected = !stream.ops.is_empty();
            let Some(op) = stream.ops.front().cloned() else { return progress };
            let done = match op {
                Op::Record { event, recording } => {
                    if let Some(event) = self.events.get_mut(&event)
                        && event.reached < recording
                    {
                        event.reached = recording;
                        event.at = now();
                    }
                    true
                }
                Op::WaitEvent { event, recording } => self
                    .events
                    .get(&event)
                    .is_none_or(|event| event.reached >= recording || self.faults.contains_key(&event.gpu)),
                Op::Write { word: at, value } => {
                    // Release: what the stream wrote before is there for whoever reads this.
                    word(at).store(value, Ordering::Release);
                    true
                }
                // Acquire: pairs with the host's write, or another stream's.
                Op::WaitWord { word: at, value } => {
                    word(at).load(Ordering::Acquire).wrapping_sub(value).cast_signed() >= 0
                }
                Op::Kernel(Kernel::Set { cell: at, value }) => {
                    // Relaxed: that it is seen must come from the events.
                    cell(at).store(value, Ordering::Relaxed);
                    true
                }
                Op::Kernel(Kernel::Copy { from, to }) => {
                    // Relaxed: as above.
                    cell(to).store(cell(from).load(Ordering::Relaxed), Ordering::Relaxed);
                    true
                }
                Op::Kernel(Kernel::Spin(time)) => {
                    let begun = *stream.begun.get_or_insert_with(Instant::now);
                    begun.elapsed() >= time
                }
                // Acquire: the host's flag.
                Op::Kernel(Kernel::Until(flag)) => flag.load(Ordering::Acquire) != 0,
                Op::Kernel(Kernel::Fault(code)) => {
                    self.faults.insert(gpu, code);
                    return true;
                }
            };
            if !done {
                return progress;
            }
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.ops.pop_front();
                stream.begun = None;
            }
            progress = true;
        }
    }
}

/// The machine's thread.
fn run() {
    let mut machine = machine();
    loop {
        if machine.step() {
            // Let others in, one at a time as a GPU would.
            drop(machine);
            machine = self::machine();
            continue;
        }
        let (_, bell, _) = parts();
        let waits = machine.streams.values().any(|stream| !stream.ops.is_empty());
        machine = if waits {
            // The host writes words without telling anybody.
            let wait = bell.wait_timeout(machine, Duration::from_micros(50));
            wait.unwrap_or_else(PoisonError::into_inner).0
        } else {
            bell.wait(machine).unwrap_or_else(PoisonError::into_inner)
        };
    }
}

fn code(outcome: Result<(), Code>) -> Code {
    outcome.err().unwrap_or(SUCCESS)
}

/// The GPU whose context is the thread's current one.
fn current() -> Result<u32, Code> {
    CURRENT.with_borrow(|stack| stack.last().copied()).and_then(gpu_of).ok_or(INVALID_CONTEXT)
}

/// Puts an answer where the caller wants it.
///
/// # Safety
/// `to` can be written to.
unsafe fn put<T>(to: *mut T, value: T) {
    // SAFETY: by the caller's word.
    unsafe { to.write(value) };
}

macro_rules! functions {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> Result<(), Code> $body:block)*) => {
        $(
            $(#[$meta])*
            unsafe extern "system" fn $name($($argument: $type),*) -> Code {
                fn body($($argument: $type),*) -> Result<(), Code> { $body }
                code(body($($argument),*))
            }
        )*
    };
}

functions! {
    fn init(_flags: c_uint) -> Result<(), Code> {
        Ok(())
    }
    fn driver_get_version(version: *mut c_int) -> Result<(), Code> {
        // SAFETY: the caller's.
        unsafe { put(version, 13_000) };
        Ok(())
    }
    fn get_error_name(error: Code, name: *mut *const c_char) -> Result<(), Code> {
        let text: &CStr = match error {
            ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
            LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
            2 => c"CUDA_ERROR_OUT_OF_MEMORY",
            _ => return Err(INVALID_VALUE),
        };
        // SAFETY: the caller's.
        unsafe { put(name, text.as_ptr()) };
        Ok(())
    }
    fn get_error_string(error: Code, string: *mut *const c_char) -> Result<(), Code> {
        if error != ILLEGAL_ADDRESS {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller's.
        unsafe { put(string, c"an illegal memory access was encountered".as_ptr()) };
        Ok(())
    }
    fn device_get_count(count: *mut c_int) -> Result<(), Code> {
        // SAFETY: the caller's.
        unsafe { put(count, GPUS.cast_signed()) };
        Ok(())
    }
    fn device_get(device: *mut c_int, ordinal: c_int) -> Result<(), Code> {
        // SAFETY: the caller's.
        unsafe { put(device, ordinal) };
        Ok(())
    }
    fn device_get_name(name: *mut c_char, length: c_int, _device: c_int) -> Result<(), Code> {
        let text = c"a fake GPU".to_bytes_with_nul();
        assert!(text.len() <= length.unsigned_abs() as usize);
        // SAFETY: there is room for that much.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len()) };
        Ok(())
    }
    fn primary_ctx_retain(context: *mut RawContext, device: c_int) -> Result<(), Code> {
        // SAFETY: the caller's.
        unsafe { put(context, ptr::without_provenance_mut(context_of(device.unsigned_abs()))) };
        Ok(())
    }
    fn ctx_get_current(context: *mut RawContext) -> Result<(), Code> {
        let current = CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0));
        // SAFETY: the caller's.
        unsafe { put(context, ptr::without_provenance_mut(current)) };
        Ok(())
    }
    fn ctx_push_current(context: RawContext) -> Result<(), Code> {
        CURRENT.with_borrow_mut(|stack| stack.push(context.addr()));
        Ok(())
    }
    fn ctx_pop_current(context: *mut RawContext) -> Result<(), Code> {
        let popped = CURRENT.with_borrow_mut(Vec::pop).ok_or(INVALID_CONTEXT)?;
        // SAFETY: the caller's.
        unsafe { put(context, ptr::without_provenance_mut(popped)) };
        Ok(())
    }
    fn thread_exchange_capture_mode(mode: *mut c_int) -> Result<(), Code> {
        // SAFETY: the caller's.
        let wanted = unsafe { mode.read() };
        // SAFETY: the caller's.
        unsafe { put(mode, MODE.replace(wanted)) };
        Ok(())
    }
    fn stream_create(stream: *mut RawStream, _flags: c_uint) -> Result<(), Code> {
        let gpu = current()?;
        let mut machine = machine();
        machine.called("cuStreamCreate")?;
        machine.healthy(gpu)?;
        machine.next += 16;
        let id = machine.next;
        machine.streams.insert(id, Stream::new(gpu));
        // SAFETY: the caller's.
        unsafe { put(stream, ptr::without_provenance_mut(id as usize)) };
        Ok(())
    }
    fn stream_destroy(stream: RawStream) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuStreamDestroy")?;
        machine.stream(stream)?.destroyed = true;
        machine.wake();
        Ok(())
    }
    fn stream_query(stream: RawStream) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuStreamQuery")?;
        machine.unsafe_under_capture()?;
        if let Some(capture) = &mut machine.stream(stream)?.capture {
            // In whichever mode.
            capture.invalidated = true;
            return Err(CAPTURE_UNSUPPORTED);
        }
        if machine.stream(stream)?.ops.is_empty() { Ok(()) } else { Err(NOT_READY) }
    }
    fn stream_get_ctx(stream: RawStream, context: *mut RawContext) -> Result<(), Code> {
        let mut machine = machine();
        let gpu = machine.stream(stream)?.gpu;
        // SAFETY: the caller's.
        unsafe { put(context, ptr::without_provenance_mut(context_of(gpu))) };
        Ok(())
    }
    fn stream_is_capturing(stream: RawStream, status: *mut c_int) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuStreamIsCapturing")?;
        let capture = match &machine.stream(stream)?.capture {
            None => 0,
            Some(Capture { invalidated: false, .. }) => 1,
            Some(_) => 2,
        };
        // SAFETY: the caller's.
        unsafe { put(status, capture) };
        Ok(())
    }
    fn stream_wait_event(stream: RawStream, event: RawEvent, _flags: c_uint) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuStreamWaitEvent")?;
        // The event's recording of this moment.
        let recording = machine.event(event)?.recorded;
        machine.submit(stream, Op::WaitEvent { event: event.addr() as u64, recording })
    }
    fn stream_write_value(stream: RawStream, to: DevicePointer, value: u64, _flags: c_uint) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuStreamWriteValue64")?;
        machine.called_on("cuStreamWriteValue64", stream)?;
        machine.submit(stream, Op::Write { word: to as usize, value })
    }
    fn stream_wait_value(stream: RawStream, at: DevicePointer, value: u64, _flags: c_uint) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuStreamWaitValue64")?;
        machine.submit(stream, Op::WaitWord { word: at as usize, value })
    }
    fn event_create(event: *mut RawEvent, flags: c_uint) -> Result<(), Code> {
        let gpu = current()?;
        let mut machine = machine();
        machine.called("cuEventCreate")?;
        machine.unsafe_under_capture()?;
        machine.healthy(gpu)?;
        machine.next += 16;
        let id = machine.next;
        machine.events.insert(id, Event { gpu, flags, ..Event::default() });
        // SAFETY: the caller's.
        unsafe { put(event, ptr::without_provenance_mut(id as usize)) };
        Ok(())
    }
    fn event_destroy(event: RawEvent) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuEventDestroy")?;
        machine.event(event)?;
        // What is still to be recorded into it is recorded into nothing.
        machine.events.remove(&(event.addr() as u64));
        Ok(())
    }
    fn event_record(event: RawEvent, stream: RawStream) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuEventRecord")?;
        machine.called_on("cuEventRecord", stream)?;
        let gpu = machine.stream(stream)?.gpu;
        let captured = std::mem::take(&mut machine.captures_next);
        let known = machine.event(event)?;
        if known.gpu != gpu {
            return Err(INVALID_HANDLE);
        }
        known.captured = captured;
        if captured {
            return Ok(());
        }
        known.recorded += 1;
        let recording = known.recorded;
        machine.submit(stream, Op::Record { event: event.addr() as u64, recording })
    }
    fn event_record_with_flags(event: RawEvent, stream: RawStream, flags: c_uint) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuEventRecordWithFlags")?;
        machine.event(event)?;
        match &mut machine.stream(stream)?.capture {
            Some(capture) if flags == EXTERNAL => {
                capture.nodes.push(event.addr() as u64);
                Ok(())
            }
            _ => Err(INVALID_VALUE),
        }
    }
    fn event_query(event: RawEvent) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuEventQuery")?;
        machine.unsafe_under_capture()?;
        let event = machine.event(event)?;
        if event.captured {
            return Err(CAPTURED_EVENT);
        }
        if event.reached >= event.recorded { Ok(()) } else { Err(NOT_READY) }
    }
    fn event_elapsed_time(milliseconds: *mut f32, start: RawEvent, end: RawEvent) -> Result<(), Code> {
        let mut machine = machine();
        machine.called("cuEventElapsedTime")?;
        machine.unsafe_under_capture()?;
        let mut at = |event| -> Result<f64, Code> {
            let event = machine.event(event)?;
            if event.flags & DISABLE_TIMING != 0 || event.recorded == 0 {
                return Err(INVALID_HANDLE);
            }
            if event.reached < event.recorded { Err(NOT_READY) } else { Ok(event.at as f64) }
        };
        let elapsed = at(end)? - at(start)?;
        // SAFETY: the caller's.
        unsafe { put(milliseconds, (elapsed / 1e6) as f32) };
        Ok(())
    }
    fn mem_host_alloc(memory: *mut *mut c_void, size: usize, _flags: c_uint) -> Result<(), Code> {
        machine().called("cuMemHostAlloc")?;
        current()?;
        // SAFETY: the caller's.
        unsafe { put(memory, shared_memory(size).cast()) };
        Ok(())
    }
    fn mem_host_get_device_pointer(pointer: *mut DevicePointer, memory: *mut c_void, _flags: c_uint) -> Result<(), Code> {
        // SAFETY: the caller's.
        unsafe { put(pointer, memory.expose_provenance() as u64) };
        Ok(())
    }
    fn ipc_get_event_handle(handle: *mut RawIpcHandle, event: RawEvent) -> Result<(), Code> {
        let mut machine = machine();
        if machine.event(event)?.flags & INTERPROCESS == 0 {
            return Err(INVALID_VALUE);
        }
        let mut reserved = [0; 64];
        reserved[..8].copy_from_slice(&(event.addr() as u64).to_ne_bytes());
        // SAFETY: the caller's.
        unsafe { put(handle, RawIpcHandle { reserved }) };
        Ok(())
    }
    fn ipc_open_event_handle(_event: *mut RawEvent, _handle: RawIpcHandle) -> Result<(), Code> {
        // There is one process alone, and the driver does not open its own.
        Err(INVALID_CONTEXT)
    }
}

/// Memory that host and fake GPUs share, zeroed, never given back.
pub fn shared_memory(size: usize) -> *mut u64 {
    let memory: &'static mut [u64] = Box::leak(vec![0_u64; size.div_ceil(8)].into_boxed_slice());
    let memory = memory.as_mut_ptr();
    memory.expose_provenance();
    memory
}

/// The fake driver's functions.
pub fn api() -> &'static Api {
    static API: OnceLock<Api> = OnceLock::new();
    API.get_or_init(|| Api {
        init,
        driver_get_version,
        get_error_name,
        get_error_string,
        device_get_count,
        device_get,
        device_get_name,
        primary_ctx_retain,
        ctx_get_current,
        ctx_push_current,
        ctx_pop_current,
        thread_exchange_capture_mode,
        stream_create,
        stream_destroy,
        stream_query,
        stream_get_ctx,
        stream_is_capturing,
        stream_wait_event,
        stream_write_value,
        stream_wait_value,
        event_create,
        event_destroy,
        event_record,
        event_record_with_flags,
        event_query,
        event_elapsed_time,
        mem_host_alloc,
        mem_host_get_device_pointer,
        ipc_get_event_handle,
        ipc_open_event_handle,
        device_get_uuid: None,
        import_external_semaphore: None,
        destroy_external_semaphore: None,
        signal_external_semaphores: None,
        wait_external_semaphores: None,
    })
}

/// Puts a pretended kernel into a stream.
///
/// # Errors
/// The code that the driver would answer.
pub fn launch(stream: RawStream, kernel: Kernel) -> Result<(), Code> {
    machine().submit(stream, Op::Kernel(kernel))
}

/// Makes a stream as another library would.
///
/// # Errors
/// The code that the driver would answer.
pub fn make_stream(gpu: u32) -> Result<RawStream, Code> {
    let mut stream = ptr::null_mut();
    CURRENT.with_borrow_mut(|stack| stack.push(context_of(gpu)));
    // SAFETY: the context is current, and the call writes to `stream` alone.
    let made = unsafe { stream_create(&mut stream, 1) };
    CURRENT.with_borrow_mut(Vec::pop);
    if made == SUCCESS { Ok(stream) } else { Err(made) }
}

/// Makes an event as another library would.
///
/// # Errors
/// The code that the driver would answer.
pub fn make_event(gpu: u32) -> Result<RawEvent, Code> {
    let mut event = ptr::null_mut();
    CURRENT.with_borrow_mut(|stack| stack.push(context_of(gpu)));
    // SAFETY: the context is current, and the call writes to `event` alone.
    let made = unsafe { event_create(&mut event, DISABLE_TIMING) };
    CURRENT.with_borrow_mut(Vec::pop);
    if made == SUCCESS { Ok(event) } else { Err(made) }
}

/// Begins to capture a stream, so that other threads must ask nothing.
pub fn begin_capture(stream: RawStream) {
    if let Ok(stream) = machine().stream(stream) {
        stream.capture = Some(Capture { nodes: Vec::new(), invalidated: false });
    }
}

/// Ends a capture: the graph, which is its event nodes, or that it was broken.
///
/// # Errors
/// The code that the driver would answer.
pub fn end_capture(stream: RawStream) -> Result<Vec<u64>, Code> {
    let capture = machine().stream(stream)?.capture.take().ok_or(INVALID_VALUE)?;
    if capture.invalidated { Err(CAPTURE_INVALIDATED) } else { Ok(capture.nodes) }
}

/// Launches a graph.
///
/// # Errors
/// The code that the driver would answer.
#[expect(clippy::not_unsafe_ptr_arg_deref, reason = "handles are looked up, and never followed")]
pub fn launch_graph(stream: RawStream, nodes: &[u64]) -> Result<(), Code> {
    for node in nodes {
        let event: RawEvent = ptr::without_provenance_mut(*node as usize);
        // SAFETY: handles are looked up, and never followed.
        let code = unsafe { event_record(event, stream) };
        if code != SUCCESS {
            return Err(code);
        }
    }
    Ok(())
}

/// Breaks a GPU's context.
pub fn break_context(gpu: u32, code: Code) {
    let mut machine = machine();
    machine.faults.insert(gpu, code);
    machine.wake();
}

/// Has the next call of this name answer `code`, having done nothing.
pub fn refuse(call: &'static str, code: Code) {
    machine().refusals.push((call, code));
}

/// As [`refuse`], for calls on one stream.
pub fn refuse_on(stream: RawStream, call: &'static str, code: Code) {
    machine().refusals_on.push((call, stream.addr() as u64, code));
}

/// Has a capture that somebody begins just then take the next recording: the event will say so, and nothing else.
pub fn capture_next_recording() {
    machine().captures_next = true;
}

/// How often a function was called.
pub fn calls(name: &'static str) -> u64 {
    machine().calls.get(name).copied().unwrap_or(0)
}

/// How many events and streams there are on a GPU.
pub fn census(gpu: u32) -> (usize, usize) {
    let machine = machine();
    let events = machine.events.values().filter(|event| event.gpu == gpu).count();
    let streams = machine.streams.values().filter(|stream| stream.gpu == gpu).count();
    (events, streams)
}

/// The streams that still have something to do, and what that is: what a test finds here at its end was forgotten.
pub fn backlog() -> Vec<String> {
    let machine = machine();
    let busy = machine.streams.iter().filter(|(_, stream)| !stream.ops.is_empty());
    busy.map(|(id, stream)| format!("stream {id} of GPU {}: {:?}", stream.gpu, stream.ops.front())).collect()
}
