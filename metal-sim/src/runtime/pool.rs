//! Autorelease pools: one stack of objects for each thread.

use super::arc::objc_release;
use super::class::NS_OBJECT;
use super::object::{Object, class_createInstance};
use crate::violation::violation;
use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Pools {
    objects: Vec<*mut Object>,
    /// Where in `objects` each open pool begins.
    open: Vec<usize>,
}

impl Drop for Pools {
    fn drop(&mut self) {
        // A thread that ends drains what was never in a pool, as Apple's runtime does.
        for object in std::mem::take(&mut self.objects) {
            // SAFETY: the stack owns a reference to each of its objects.
            unsafe { objc_release(object) };
        }
    }
}

thread_local! {
    static POOLS: RefCell<Pools> = const { RefCell::new(Pools { objects: Vec::new(), open: Vec::new() }) };
}

static UNPOOLED: AtomicUsize = AtomicUsize::new(0);

/// How often something was autoreleased with no pool in place: each of them leaks until its thread ends.
pub(crate) fn unpooled_autoreleases() -> usize {
    UNPOOLED.load(Ordering::Relaxed)
}

/// The token of a pool on a thread that is ending and whose stack of pools is gone. What is autoreleased there leaks.
const LATE: usize = usize::MAX;

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_autoreleasePoolPush() -> *mut c_void {
    let depth = POOLS.try_with(|pools| {
        let mut pools = pools.borrow_mut();
        let begin = pools.objects.len();
        pools.open.push(begin);
        pools.open.len()
    });
    ptr::without_provenance_mut(depth.unwrap_or(LATE))
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_autoreleasePoolPop(token: *mut c_void) {
    let depth = token.addr();
    if depth == LATE {
        return;
    }
    let begin = POOLS.with_borrow(|pools| pools.open.get(depth.wrapping_sub(1)).copied());
    let Some(begin) = begin else {
        return violation("an autorelease pool is popped that is not open on this thread");
    };
    // One at a time and outside of the borrow: a destructor may autorelease more.
    while let Some(object) =
        POOLS.with_borrow_mut(|pools| (pools.objects.len() > begin).then(|| pools.objects.pop()).flatten())
    {
        // SAFETY: the stack owned a reference to it.
        unsafe { objc_release(object) };
    }
    POOLS.with_borrow_mut(|pools| pools.open.truncate(depth - 1));
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn objc_autorelease(object: *mut Object) -> *mut Object {
    if !object.is_null() {
        // Fails when the thread is ending and its pools are gone: leak then, like an autorelease after the last drain.
        let _ = POOLS.try_with(|pools| {
            let mut pools = pools.borrow_mut();
            if pools.open.is_empty() {
                UNPOOLED.fetch_add(1, Ordering::Relaxed);
            }
            pools.objects.push(object);
        });
    }
    object
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_autoreleaseReturnValue(object: *mut Object) -> *mut Object {
    // SAFETY: passed on.
    unsafe { objc_autorelease(object) }
}

/// Autoreleases a small object, as any method of a framework may do.
pub(super) fn autorelease_temporary() {
    // SAFETY: `NS_OBJECT` is a class, and the new object's one reference goes to the pool.
    unsafe { objc_autorelease(class_createInstance(&NS_OBJECT, 0)) };
}
