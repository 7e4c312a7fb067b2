//! Weak references.

use super::arc::{objc_release, try_retain};
use super::object::{Object, header};
use crate::violation::fatal;
use std::collections::HashMap;
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

/// The addresses of the weak references to each object. Its lock is held over every access to such a reference.
static WEAK: LazyLock<Mutex<HashMap<usize, Vec<usize>>>> = LazyLock::new(Mutex::default);

/// Sets every weak reference to an object that is being deallocated to nil.
pub(super) fn clear(object: *mut Object) {
    let mut weak = WEAK.lock().unwrap_or_else(PoisonError::into_inner);
    for slot in weak.remove(&object.addr()).into_iter().flatten() {
        let slot = std::ptr::with_exposed_provenance::<AtomicPtr<Object>>(slot);
        // SAFETY: a slot that is destroyed takes itself out of the table first, under the lock.
        unsafe { &*slot }.store(null_mut(), Ordering::Relaxed);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_initWeak(slot: *mut *mut Object, object: *mut Object) -> *mut Object {
    // SAFETY: the caller passes a slot that nobody else uses yet.
    unsafe { slot.write(object) };
    if !object.is_null() {
        // SAFETY: the caller holds a reference to the object. Relaxed: that reference's release orders it before.
        unsafe { header(object) }.weak.store(true, Ordering::Relaxed);
        let mut weak = WEAK.lock().unwrap_or_else(PoisonError::into_inner);
        weak.entry(object.addr()).or_default().push(slot.expose_provenance());
    }
    object
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_loadWeakRetained(slot: *mut *mut Object) -> *mut Object {
    let _held = WEAK.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the caller passes an initialized slot.
    let object = unsafe { &*slot.cast::<AtomicPtr<Object>>() }.load(Ordering::Relaxed);
    // SAFETY: under the lock a slot that is not nil points to memory that is still there.
    if object.is_null() || !unsafe { try_retain(object) } {
        return null_mut();
    }
    object
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_destroyWeak(slot: *mut *mut Object) {
    let mut weak = WEAK.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the caller passes an initialized slot.
    let object = unsafe { &*slot.cast::<AtomicPtr<Object>>() }.load(Ordering::Relaxed);
    if let Some(slots) = weak.get_mut(&object.addr()) {
        slots.retain(|s| *s != slot.addr());
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_copyWeak(to: *mut *mut Object, from: *mut *mut Object) {
    // SAFETY: the caller passes a fresh slot and an initialized one.
    unsafe {
        let object = objc_loadWeakRetained(from);
        objc_initWeak(to, object);
        objc_release(object);
    }
}

/// `@synchronized`, which nothing here uses.
#[unsafe(no_mangle)]
extern "C" fn objc_sync_enter(_object: *mut Object) -> c_int {
    fatal("objc_sync_enter is not simulated");
}

/// `@synchronized`, which nothing here uses.
#[unsafe(no_mangle)]
extern "C" fn objc_sync_exit(_object: *mut Object) -> c_int {
    fatal("objc_sync_exit is not simulated");
}
