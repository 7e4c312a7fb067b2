//! Grand Central Dispatch: queues, and the threads that run what is in them. As on Apple, a queue is an object.

use crate::activity::Busy;
use crate::violation::{AbortOnUnwind, fatal, violation};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyObject, NSObject};
use objc2::{AnyThread, DefinedClass, Message, define_class, msg_send};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

/// Something to run.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

// --------------------------------------------------------------------------------------------------------- threads
/// How many jobs run at a time: as many as GCD has threads for.
const THREADS: usize = 64;

struct Pool {
    state: Mutex<PoolState>,
    wake: Condvar,
}

struct PoolState {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
}

static POOL: Pool = Pool {
    state: Mutex::new(PoolState { jobs: VecDeque::new(), idle: 0, threads: 0 }),
    wake: Condvar::new(),
};

impl Pool {
    /// Runs a job soon, on some thread.
    fn run(&'static self, job: Job) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            self.wake.notify_one();
        } else if state.threads < THREADS {
            state.threads += 1;
            let name = format!("sim-dispatch-{}", state.threads);
            drop(state);
            std::thread::Builder::new()
                .name(name)
                .spawn(|| self.work())
                .expect("a thread for dispatch queues");
        }
    }

    fn work(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            } else {
                state.idle += 1;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

/// A job that is accounted for until all that it autoreleases is gone as well.
fn accounted(job: impl FnOnce() + Send + 'static) -> Job {
    let busy = Busy::new();
    Box::new(move || {
        let _busy = busy;
        // Dropped first: nobody may see that nothing goes on, and end the process as if nothing had happened.
        let abort = AbortOnUnwind("a block or function that was run by a dispatch queue");
        autoreleasepool(|_| job());
        drop(abort);
    })
}

/// Runs a job soon, on some thread, in no order with others.
pub(crate) fn run(job: impl FnOnce() + Send + 'static) {
    POOL.run(accounted(job));
}

// ---------------------------------------------------------------------------------------------------------- queues
thread_local! {
    /// The serial queues that this thread runs a job of, outermost first.
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` as a job of the queue at `address`.
fn on_queue(address: usize, f: impl FnOnce()) {
    CURRENT.with_borrow_mut(|current| current.push(address));
    f();
    CURRENT.with_borrow_mut(|current| current.pop());
}

enum Item {
    Job(Job),
    /// A thread waits to run something itself.
    Turn(Arc<Turn>),
}

#[derive(Default)]
struct Turn {
    granted: Mutex<bool>,
    changed: Condvar,
}

#[derive(Default)]
struct Serial {
    waiting: VecDeque<Item>,
    /// Whether a job of the queue runs, or is about to.
    active: bool,
}

pub(crate) struct QueueState {
    /// None for a concurrent queue.
    serial: Option<Mutex<Serial>>,
}

define_class!(
    /// A dispatch queue.
    #[unsafe(super(NSObject))]
    #[name = "OS_dispatch_queue"]
    #[ivars = QueueState]
    pub(crate) struct Queue;
);

impl Queue {
    pub(crate) fn new(concurrent: bool) -> Retained<Self> {
        let this = Self::alloc().set_ivars(QueueState { serial: (!concurrent).then(Mutex::default) });
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Runs a job after all that were submitted before, or along with them on a concurrent queue.
    pub(crate) fn submit(&self, job: impl FnOnce() + Send + 'static) {
        let job = accounted(job);
        let Some(serial) = &self.ivars().serial else {
            let this = self.retain();
            return POOL.run(Box::new(move || {
                let _this = this;
                job();
            }));
        };
        let mut state = serial.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.push_back(Item::Job(job));
        if !std::mem::replace(&mut state.active, true) {
            drop(state);
            self.next();
        }
    }

    /// Runs `f` in its turn, on this thread.
    fn submit_and_wait(&self, f: impl FnOnce()) {
        let Some(serial) = &self.ivars().serial else { return f() };
        if CURRENT.with_borrow(|current| current.contains(&self.address())) {
            fatal("dispatch_sync on the queue that this thread runs a job of: a deadlock");
        }
        let mut state = serial.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut state.active, true) {
            let turn = Arc::<Turn>::default();
            state.waiting.push_back(Item::Turn(turn.clone()));
            drop(state);
            let granted = turn.granted.lock().unwrap_or_else(PoisonError::into_inner);
            drop(
                turn.changed.wait_while(granted, |granted| !*granted).unwrap_or_else(PoisonError::into_inner),
            );
        } else {
            drop(state);
        }
        on_queue(self.address(), f);
        self.next();
    }

    /// Lets the next item of a serial queue have its turn.
    fn next(&self) {
        let serial = self.ivars().serial.as_ref().expect("a serial queue");
        let mut state = serial.lock().unwrap_or_else(PoisonError::into_inner);
        match state.waiting.pop_front() {
            None => state.active = false,
            Some(Item::Turn(turn)) => {
                *turn.granted.lock().unwrap_or_else(PoisonError::into_inner) = true;
                turn.changed.notify_all();
            }
            Some(Item::Job(job)) => {
                drop(state);
                let this = self.retain();
                POOL.run(Box::new(move || {
                    on_queue(this.address(), job);
                    this.next();
                }));
            }
        }
    }
}

// --------------------------------------------------------------------------------------------------------- symbols
struct Context(*mut c_void);

// SAFETY: what the client passes as a context, it gives to the function that runs elsewhere.
unsafe impl Send for Context {}

impl Context {
    fn get(&self) -> *mut c_void {
        self.0
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dispatch_queue_create(label: *const c_char, attributes: *const c_void) -> *mut Queue {
    if !label.is_null() {
        // SAFETY: the caller passes null or a C string. It names nothing here, but it must be one.
        let _ = unsafe { CStr::from_ptr(label) };
    }
    Retained::into_raw(Queue::new(!attributes.is_null()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dispatch_queue_create_with_target(
    label: *const c_char,
    attributes: *const c_void,
    _target: *const Queue,
) -> *mut Queue {
    // SAFETY: passed on.
    unsafe { dispatch_queue_create(label, attributes) }
}

#[unsafe(no_mangle)]
extern "C" fn dispatch_get_global_queue(_id: isize, _flags: usize) -> *const Queue {
    static GLOBAL: OnceLock<Retained<Queue>> = OnceLock::new();
    Retained::as_ptr(GLOBAL.get_or_init(|| Queue::new(true)))
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn dispatch_retain(object: *mut AnyObject) {
    // SAFETY: a dispatch object is an object.
    unsafe { objc2::ffi::objc_retain(object) };
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn dispatch_release(object: *mut AnyObject) {
    // SAFETY: as above, and the caller owns a reference.
    unsafe { objc2::ffi::objc_release(object) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dispatch_async_f(queue: &Queue, context: *mut c_void, work: extern "C" fn(*mut c_void)) {
    let context = Context(context);
    queue.submit(move || work(context.get()));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dispatch_sync_f(queue: &Queue, context: *mut c_void, work: extern "C" fn(*mut c_void)) {
    queue.submit_and_wait(|| work(context));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dispatch_async(queue: &Queue, block: *mut block2::DynBlock<dyn Fn()>) {
    // SAFETY: the caller passes a block without arguments or results.
    let Some(block) = (unsafe { SendBlock::copy(block) }) else {
        return violation("dispatch_async without a block");
    };
    queue.submit(move || {
        let block = block; // all of it, not the field alone, which is not `Send`
        block.0.call(());
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dispatch_sync(queue: &Queue, block: *mut block2::DynBlock<dyn Fn()>) {
    // SAFETY: the caller passes a block without arguments or results.
    match unsafe { block.as_ref() } {
        Some(block) => queue.submit_and_wait(|| block.call(())),
        None => violation("dispatch_sync without a block"),
    }
}

/// Only its address matters.
#[unsafe(export_name = "_dispatch_queue_attr_concurrent")]
static CONCURRENT: usize = 0;

/// A copied block that may be called on any thread, as Apple's frameworks call theirs.
pub(crate) struct SendBlock<F: ?Sized>(pub(crate) block2::RcBlock<F>);

// SAFETY: the binding's methods that take such blocks are `unsafe` for this reason: their callers promise it.
unsafe impl<F: ?Sized> Send for SendBlock<F> {}

impl<F: ?Sized + 'static> SendBlock<F> {
    /// # Safety
    ///
    /// `block` must be nil or a block with that signature which may be called on any thread.
    pub(crate) unsafe fn copy(block: *mut block2::DynBlock<F>) -> Option<Self> {
        // SAFETY: see above.
        unsafe { block2::RcBlock::copy(block) }.map(Self)
    }
}
