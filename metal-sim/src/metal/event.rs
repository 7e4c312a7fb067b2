//! `MTLEvent`, `MTLSharedEvent`, its handle and its listener.

use super::device::Device;
use super::gpu::{self, News};
use super::program::Use;
use super::{Label, downcast};
use crate::control::{COUNTS, Stage, count, host_signals_notify};
use crate::dispatch::{Queue, SendBlock};
use crate::runtime;
use crate::violation::violation;
use block2::DynBlock;
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{AnyThread, ClassType, DefinedClass, Message, define_class, msg_send};
use objc2_foundation::NSString;
use objc2_metal::{MTLEvent, MTLSharedEvent, MTLSharedEventHandle};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

type Block = dyn Fn(NonNull<ProtocolObject<dyn MTLSharedEvent>>, u64);

/// The value of an event and who waits for it. Shared events that came from one handle share it.
#[derive(Default)]
pub(crate) struct EventState {
    /// The GPU signals it with a releasing maximum and waits with an acquiring load; the scheduler, which only wants
    /// to know whom to wake, reads it relaxed. So it orders exactly the work that the event orders.
    pub(super) value: AtomicU64,
    waiting: Mutex<Waiting>,
    /// For threads that wait.
    changed: Condvar,
}

impl std::fmt::Debug for EventState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventState").field("value", &self.value).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Waiting {
    buffers: Vec<Parked>,
    blocks: Vec<Registration>,
}

/// A command buffer that waits: the scheduler knows it by these numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parked {
    pub(super) value: u64,
    pub(super) buffer: u64,
    /// Which of the buffer's waits it is.
    pub(super) wait: u64,
}

struct Registration {
    value: u64,
    /// The event that it was registered with. Taken out before that is gone, under the lock.
    owner: *const SharedEvent,
    listener: Retained<Listener>,
    block: SendBlock<Block>,
}

// SAFETY: the owner is only used while it is there: see above.
unsafe impl Send for Registration {}

impl EventState {
    /// Whether the value is reached. If not, the command buffer is told when it is.
    pub(super) fn reached_or_park(&self, parked: Parked) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: whoever signals changes the value first, and then looks for whom to wake, under the lock.
        if self.value.load(Ordering::Relaxed) >= parked.value {
            return true;
        }
        waiting.buffers.push(parked);
        false
    }

    /// Waits on this thread until the value is reached; says whether it came to that in time.
    fn wait(&self, value: u64, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // Acquire: as for `signaledValue`.
            if self.value.load(Ordering::Acquire) >= value {
                return true;
            }
            let left =
                deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Wakes who waits for what the value is now.
    pub(super) fn wake(&self, notify: bool) {
        let mut due = Vec::new();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let value = self.value.load(Ordering::Relaxed);
        for parked in waiting.buffers.extract_if(.., |parked| parked.value <= value) {
            gpu::wake(parked);
        }
        if notify {
            due.extend(waiting.blocks.extract_if(.., |block| block.value <= value).filter_map(|block| {
                let owner = block.owner.cast_mut();
                // SAFETY: the registration was there, so the event's memory is: it takes them out before it goes.
                let alive = unsafe { runtime::try_retain(owner.cast()) };
                // SAFETY: it was just retained.
                let owner = alive.then(|| unsafe { Retained::from_raw(owner) }.expect("not null"));
                owner.map(|owner| (owner, block))
            }));
        }
        drop(waiting);
        self.changed.notify_all();
        for (owner, block) in due {
            block.run(owner);
        }
    }
}

impl Registration {
    /// Has the block called on the listener's queue, some time.
    fn run(self, event: Retained<SharedEvent>) {
        let queue = self.listener.ivars().clone();
        let lane = std::ptr::from_ref(&*self.listener).addr();
        let (asked, block) = (self.value, self.block);
        gpu::news(News::new(Stage::Listeners, lane, Some(queue), move || {
            let block = block; // all of it, not the field alone, which is not `Send`
            // Acquire: the block sees what was done before the signal. And it may well see a later one's value.
            let value = event.ivars().state.value.load(Ordering::Acquire).max(asked);
            count(&COUNTS.blocks_run);
            block.0.call((NonNull::from(ProtocolObject::from_ref(&*event)), value));
        }));
        drop(self.listener);
    }
}

// ---------------------------------------------------------------------------------------------------------- events
pub(super) struct EventVars {
    device: Retained<Device>,
    state: Arc<EventState>,
    label: Label,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLEvent"]
    #[ivars = EventVars]
    pub(super) struct Event;

    unsafe impl NSObjectProtocol for Event {}

    unsafe impl MTLEvent for Event {
        #[unsafe(method_id(device))]
        fn device(&self) -> Option<Retained<Device>> {
            Some(self.ivars().device.clone())
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }
    }
);

impl Event {
    pub(super) fn new(device: Retained<Device>) -> Retained<Self> {
        let this =
            Self::alloc().set_ivars(EventVars { device, state: Arc::default(), label: Label::default() });
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }
}

pub(super) struct SharedEventVars {
    device: Retained<Device>,
    pub(super) state: Arc<EventState>,
    label: Label,
    /// Set once the object has an address: for taking its registrations out again.
    address: AtomicUsize,
}

impl Drop for SharedEventVars {
    fn drop(&mut self) {
        let address = *self.address.get_mut();
        let mut waiting = self.state.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let own: Vec<_> = waiting.blocks.extract_if(.., |block| block.owner.addr() == address).collect();
        drop(waiting);
        drop(own); // blocks run destructors of the client's: not under the lock
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLSharedEvent"]
    #[ivars = SharedEventVars]
    pub(super) struct SharedEvent;

    unsafe impl NSObjectProtocol for SharedEvent {}

    unsafe impl MTLEvent for SharedEvent {
        #[unsafe(method_id(device))]
        fn device(&self) -> Option<Retained<Device>> {
            Some(self.ivars().device.clone())
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }
    }

    unsafe impl MTLSharedEvent for SharedEvent {
        #[unsafe(method(signaledValue))]
        fn signaled_value(&self) -> u64 {
            count(&COUNTS.signaled_value_reads);
            // Acquire: who sees a value sees what was done before its signal.
            self.ivars().state.value.load(Ordering::Acquire)
        }

        #[unsafe(method(setSignaledValue:))]
        fn set_signaled_value(&self, value: u64) {
            count(&COUNTS.host_writes);
            // Release: as for a signal. It stores what it is given, also what is less.
            self.ivars().state.value.store(value, Ordering::Release);
            self.ivars().state.wake(host_signals_notify());
        }

        #[unsafe(method(waitUntilSignaledValue:timeoutMS:))]
        fn wait_until(&self, value: u64, milliseconds: u64) -> bool {
            self.ivars().state.wait(value, Duration::from_millis(milliseconds))
        }

        #[unsafe(method(notifyListener:atValue:block:))]
        fn notify(&self, listener: &Listener, value: u64, block: *mut DynBlock<Block>) {
            count(&COUNTS.listeners_registered);
            // SAFETY: the sender passes such a block, which may be called on any thread.
            let Some(block) = (unsafe { SendBlock::copy(block) }) else {
                return violation("notifyListener: without a block");
            };
            let state = &self.ivars().state;
            let registration = Registration { value, owner: self, listener: listener.retain(), block };
            let mut waiting = state.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock: see `reached_or_park`.
            if state.value.load(Ordering::Relaxed) >= value {
                drop(waiting);
                registration.run(self.retain());
            } else {
                waiting.blocks.push(registration);
            }
        }

        #[unsafe(method_id(newSharedEventHandle))]
        fn handle(&self) -> Retained<Handle> {
            Handle::new(self.ivars().state.clone(), self.ivars().label.text())
        }
    }
);

impl SharedEvent {
    pub(super) fn new(device: Retained<Device>) -> Retained<Self> {
        Self::wrap(device, Arc::default(), Label::default())
    }

    pub(super) fn with_handle(device: Retained<Device>, handle: &MTLSharedEventHandle) -> Retained<Self> {
        // SAFETY: `Handle` is that class, by name.
        let handle = unsafe { &*std::ptr::from_ref(handle).cast::<Handle>() };
        let Some((state, label)) = handle.ivars().get() else {
            violation("a shared event handle that no event made");
            return Self::new(device);
        };
        Self::wrap(device, state.clone(), Label(Mutex::new(label.clone())))
    }

    fn wrap(device: Retained<Device>, state: Arc<EventState>, label: Label) -> Retained<Self> {
        let vars = SharedEventVars { device, state, label, address: AtomicUsize::new(0) };
        let this = Self::alloc().set_ivars(vars);
        // SAFETY: the initializer of the superclass.
        let this: Retained<Self> = unsafe { msg_send![super(this), init] };
        this.ivars().address.store(std::ptr::from_ref(&*this).addr(), Ordering::Relaxed);
        this
    }
}

/// A command buffer's use of an event of either kind; complains if a device can't use it.
pub(super) fn use_of(event: &ProtocolObject<dyn MTLEvent>, device: &Device, retain: bool) -> Use<EventState> {
    // SAFETY: a protocol object is an object.
    let object = unsafe { &*std::ptr::from_ref(event).cast::<AnyObject>() };
    if std::ptr::eq(object.class(), Event::class()) {
        let event: &Event = downcast(event);
        if !std::ptr::eq(&*event.ivars().device, device) {
            violation("an MTLEvent is used on a device that is not its own: that takes an MTLSharedEvent");
        }
        Use::new(object, event.ivars().state.clone(), retain)
    } else {
        Use::new(object, downcast::<_, SharedEvent>(event).ivars().state.clone(), retain)
    }
}

// ------------------------------------------------------------------------------------------- handles and listeners
type HandleVars = OnceLock<(Arc<EventState>, Option<String>)>;

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLSharedEventHandle"]
    #[ivars = HandleVars]
    pub(super) struct Handle;

    impl Handle {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Retained<Self> {
            let this = this.set_ivars(OnceLock::new());
            // SAFETY: the initializer of the superclass.
            unsafe { msg_send![super(this), init] }
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().get().and_then(|(_, label)| label.as_deref()).map(NSString::from_str)
        }
    }
);

impl Handle {
    fn new(state: Arc<EventState>, label: Option<String>) -> Retained<Self> {
        let this = Self::alloc().set_ivars(OnceLock::from((state, label)));
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }
}

pub(crate) fn define_handle() {
    Handle::class();
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLSharedEventListener"]
    #[ivars = Retained<Queue>]
    pub(super) struct Listener;

    impl Listener {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Retained<Self> {
            Self::with_queue(this, Queue::new(false))
        }

        #[unsafe(method_id(initWithDispatchQueue:))]
        fn init_with_queue(this: Allocated<Self>, queue: &Queue) -> Retained<Self> {
            Self::with_queue(this, queue.retain())
        }

        #[unsafe(method_id(dispatchQueue))]
        fn dispatch_queue(&self) -> Retained<Queue> {
            self.ivars().clone()
        }

        #[unsafe(method_id(sharedListener))]
        fn shared() -> Retained<Self> {
            SHARED.get_or_init(|| Self::with_queue(Self::alloc(), Queue::new(false))).clone()
        }
    }
);

/// The listener of all who don't bring their own.
static SHARED: OnceLock<Retained<Listener>> = OnceLock::new();

impl Listener {
    fn with_queue(this: Allocated<Self>, queue: Retained<Queue>) -> Retained<Self> {
        let this = this.set_ivars(queue);
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }
}

pub(crate) fn define_listener() {
    Listener::class();
}

/// How many shared listeners there are: 0 or 1.
pub(crate) fn shared_listeners() -> usize {
    usize::from(SHARED.get().is_some())
}
