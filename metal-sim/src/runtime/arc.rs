//! Reference counts.

use super::block;
use super::class::{Class, GLOBAL_BLOCK, MALLOC_BLOCK, STACK_BLOCK};
use super::object::{Object, header, is_dead, object_class};
use super::weak;
use crate::violation::violation;
use objc2::msg_send;
use objc2::runtime::AnyObject;
use std::ptr;
use std::sync::atomic::Ordering;

/// What a pointer to an object can point to.
enum Kind {
    Object(&'static Class),
    Class,
    Block,
}

/// # Safety
///
/// `object` must be an object, alive or in the quarantine.
unsafe fn kind(object: *mut Object) -> Kind {
    // SAFETY: see above.
    let isa = unsafe { &(*object).isa }.load(Ordering::Relaxed);
    if isa.is_null() {
        return Kind::Class; // a statically addressed one that nobody has used yet
    }
    // SAFETY: an isa is a class, and classes live forever.
    let class: &'static Class = unsafe { &*isa };
    if [&STACK_BLOCK, &MALLOC_BLOCK, &GLOBAL_BLOCK].iter().any(|block| ptr::eq(*block, class)) {
        Kind::Block
    } else if class.realize().is_meta() {
        Kind::Class
    } else {
        Kind::Object(class)
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn objc_retain(object: *mut Object) -> *mut Object {
    if object.is_null() {
        return object;
    }
    // SAFETY: the caller passes an object.
    match unsafe { kind(object) } {
        Kind::Class => object,
        // SAFETY: it is a block.
        Kind::Block => unsafe { block::_Block_copy(object.cast()) }.cast(),
        Kind::Object(class) => {
            // SAFETY: it is an object with a header. Relaxed: as `Arc`, the reference that is being copied keeps it.
            let old = unsafe { header(object) }.refs.fetch_add(1, Ordering::Relaxed);
            if is_dead(old) {
                violation(format!("retain of a deallocated {}", class.name()));
            } else if old == 0 {
                violation(format!("retain of a deallocating {}", class.name()));
            }
            object
        }
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn objc_release(object: *mut Object) {
    if object.is_null() {
        return;
    }
    // SAFETY: the caller passes an object.
    match unsafe { kind(object) } {
        Kind::Class => {}
        // SAFETY: it is a block.
        Kind::Block => unsafe { block::_Block_release(object.cast()) },
        Kind::Object(class) => {
            // SAFETY: it is an object with a header.
            let header = unsafe { header(object) };
            // Release, and only the last one acquires: it must see what was done through all other references, and
            // those need not see each other. (No fence: ThreadSanitizer doesn't know them.)
            let old = header.refs.fetch_sub(1, Ordering::Release);
            if is_dead(old) {
                violation(format!("release of a deallocated {}", class.name()));
            } else if old == 0 {
                header.refs.fetch_add(1, Ordering::Relaxed);
                violation(format!("over-release of a deallocating {}", class.name()));
            } else if old == 1 {
                let _ = header.refs.load(Ordering::Acquire);
                if header.weak.load(Ordering::Relaxed) {
                    weak::clear(object);
                }
                // SAFETY: every object answers `dealloc`, and this is the one time that it is sent.
                let () = unsafe { msg_send![object.cast::<AnyObject>(), dealloc] };
            }
        }
    }
}

/// Retains an object unless it is being deallocated already.
///
/// # Safety
///
/// It must be an object whose memory is still there.
pub(crate) unsafe fn try_retain(object: *mut Object) -> bool {
    // SAFETY: see above.
    let refs = &unsafe { header(object) }.refs;
    let alive = |n: usize| n > 0 && !is_dead(n);
    // Relaxed: as for `objc_retain`.
    refs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| alive(n).then_some(n + 1)).is_ok()
}

/// Whether an object is neither deallocated nor being so.
///
/// # Safety
///
/// It must be an object, alive or in the quarantine.
pub(crate) unsafe fn is_live(object: *const Object) -> bool {
    // SAFETY: see above.
    let refs = unsafe { header(object.cast_mut()) }.refs.load(Ordering::Relaxed);
    refs > 0 && !is_dead(refs)
}

/// The count of references, for `retainCount`.
pub(crate) unsafe fn retain_count(object: *mut Object) -> usize {
    // SAFETY: the caller passes an object.
    unsafe { header(object) }.refs.load(Ordering::Relaxed)
}

/// Complains if `object` is dead.
///
/// # Safety
///
/// It must be an object, alive or in the quarantine, and not null.
pub(super) unsafe fn check_alive(object: *mut Object, message: &str) {
    // SAFETY: see above.
    if let Kind::Object(class) = unsafe { kind(object) } {
        // SAFETY: it is an object with a header.
        if is_dead(unsafe { header(object) }.refs.load(Ordering::Relaxed)) {
            // There is nothing behind the header any more to go on with, also if violations are collected.
            crate::violation::fatal(format!("message {message} to a deallocated {}", class.name()));
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_retainAutoreleasedReturnValue(object: *mut Object) -> *mut Object {
    // SAFETY: passed on. (The caller and the callee shake no hands here: that is the path that always works.)
    unsafe { objc_retain(object) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn object_getClassName(object: *mut Object) -> *const std::ffi::c_char {
    // SAFETY: the caller passes an object. (The name ends with a NUL: it was a `CString`.)
    object_class(unsafe { &*object }).name().as_ptr().cast()
}
