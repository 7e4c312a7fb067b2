//! The simulated Metal: classes that implement the protocols of `objc2-metal`.

mod command_buffer;
mod device;
mod encoder;
mod event;
pub(crate) mod gpu;
mod library;
mod program;
mod queue;
mod resource;

pub use device::new_device;
pub(crate) use event::{define_handle, define_listener};
pub(crate) use library::define_compile_options;
pub(crate) use program::Slot;

use crate::runtime::{ConstantString, Object};
use crate::violation::fatal;
use objc2::ClassType;
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, ProtocolObject};
use objc2_foundation::NSString;
use objc2_metal::MTLCommandBuffer;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A number for an object, unique in the process: unlike an address it is never used again.
fn new_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The object behind a protocol, which must be one of the simulation's.
fn downcast<P: ?Sized, T: ClassType>(object: &ProtocolObject<P>) -> &T {
    // SAFETY: a protocol object is an object.
    let any = unsafe { &*std::ptr::from_ref(object).cast::<AnyObject>() };
    if !any.class().responds_to(objc2::sel!(retain)) || !std::ptr::eq(any.class(), T::class()) {
        fatal(format!("an object of class {} where a {} belongs", any.class(), T::class()));
    }
    // SAFETY: it is of that class.
    unsafe { &*std::ptr::from_ref(any).cast::<T>() }
}

/// Encodes host code as a command of a buffer: the GPU runs it in its turn, and a test can so see what runs when, and
/// hold a buffer in the middle. An error ends the buffer in `MTLCommandBufferErrorPageFault` with that text; so does a
/// panic. Not part of Metal, of course.
///
/// It may block: it does not run on one of the GPU's few engines.
pub fn host_work(
    buffer: &ProtocolObject<dyn MTLCommandBuffer>,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) {
    downcast::<_, command_buffer::CommandBuffer>(buffer).encode_host_work(program::HostWork::new(work));
}

/// The identities that [`Control`](crate::Control) needs of objects.
pub(crate) mod ids {
    use super::{command_buffer::CommandBuffer, device::Device, downcast, queue::CommandQueue};
    use objc2::DefinedClass;
    use objc2::runtime::ProtocolObject;
    use objc2_metal::{MTLCommandBuffer, MTLCommandQueue, MTLDevice};

    pub(crate) use super::event::shared_listeners;

    pub(crate) fn queue(queue: &ProtocolObject<dyn MTLCommandQueue>) -> u64 {
        downcast::<_, CommandQueue>(queue).ivars().id
    }

    pub(crate) fn buffer(buffer: &ProtocolObject<dyn MTLCommandBuffer>) -> u64 {
        downcast::<_, CommandBuffer>(buffer).ivars().id
    }

    pub(crate) fn lose(device: &ProtocolObject<dyn MTLDevice>) {
        downcast::<_, Device>(device).lose();
    }
}

macro_rules! constants {
    ($($name:ident = $text:literal;)*) => {
        $(#[unsafe(no_mangle)]
        static $name: Constant = {
            static TEXT: ConstantString = ConstantString::new($text);
            Constant(TEXT.object())
        };)*
    };
}

/// A pointer to a constant string, as the bindings import it.
#[repr(transparent)]
struct Constant(#[allow(dead_code, reason = "the bindings read it")] &'static Object);

constants! {
    MTLCommandBufferErrorDomain = c"MTLCommandBufferErrorDomain";
    MTLLibraryErrorDomain = c"MTLLibraryErrorDomain";
    NSLocalizedDescriptionKey = c"NSLocalizedDescription";
}

/// A label, as most objects have one.
#[derive(Debug, Default)]
struct Label(Mutex<Option<String>>);

impl Label {
    fn get(&self) -> Option<Retained<NSString>> {
        self.text().map(|label| NSString::from_str(&label))
    }

    fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, label: Option<&NSString>) {
        let label = label.map(NSString::to_string); // copied, as the property is declared
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = label;
    }
}

/// Seconds on the clock that stands in for `mach_absolute_time`.
fn now_seconds() -> f64 {
    now_nanoseconds() as f64 / 1e9
}

/// The same in nanoseconds.
fn now_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is good for the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0;
    assert!(!failed, "CLOCK_MONOTONIC is always there");
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
