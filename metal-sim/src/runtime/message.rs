//! Sending messages.

use super::arc::check_alive;
use super::class::{Class, Imp, Method, object_getClass};
use super::object::{Object, object_class};
use super::pool;
use super::selector::{self, SelPtr};
use crate::violation::fatal;
use std::sync::atomic::Ordering;

fn imp(method: Option<&Method>, class: &Class, sel: SelPtr) -> Option<Imp> {
    let Some(method) = method else {
        fatal(format!("-[{} {}]: unrecognized selector", class.name(), selector::name(sel)));
    };
    if method.metal {
        method.sent.store(true, Ordering::Relaxed);
        pool::autorelease_temporary();
    }
    Some(method.imp)
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_msg_lookup(receiver: *mut Object, sel: SelPtr) -> Option<Imp> {
    if receiver.is_null() {
        // objc2 handles nil itself, where it sees one.
        fatal(format!("message {} to nil", selector::name(sel)));
    }
    // SAFETY: the caller passes an object, at worst one that is in the quarantine.
    unsafe { check_alive(receiver, selector::name(sel)) };
    // SAFETY: as above; classes live forever.
    let class: &'static Class = unsafe { &*object_getClass(receiver) };
    imp(class.lookup(sel), class, sel)
}

/// A receiver, and the class to begin at.
#[repr(C)]
struct Super {
    receiver: *mut Object,
    class: &'static Class,
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_msg_lookup_super(to: &Super, sel: SelPtr) -> Option<Imp> {
    if to.receiver.is_null() {
        fatal(format!("message {} to super of nil", selector::name(sel)));
    }
    let class = to.class.realize();
    imp(class.lookup(sel), class, sel)
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_exception_throw(object: *mut Object) -> ! {
    // SAFETY: the caller passes an object.
    let class = object_class(unsafe { &*object });
    fatal(format!("an Objective-C exception of class {} is thrown", class.name()));
}
