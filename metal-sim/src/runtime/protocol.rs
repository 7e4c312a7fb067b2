//! Protocols: none is known.
//!
//! objc2 would check of every registered protocol that a class implements all of its required methods, and a
//! simulation implements few. What it does implement is checked by every message that comes through the bindings:
//! with debug assertions objc2 compares each method's encoding with what the binding says.

use super::class::Class;
use std::ffi::{c_char, c_uint, c_void};
use std::ptr::{null, null_mut};

#[unsafe(no_mangle)]
extern "C" fn objc_getProtocol(_name: *const c_char) -> *const c_void {
    null()
}

#[unsafe(no_mangle)]
extern "C" fn class_addProtocol(_class: *const Class, _protocol: *const c_void) -> u8 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn class_conformsToProtocol(_class: *const Class, _protocol: *const c_void) -> u8 {
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn protocol_copyMethodDescriptionList(
    _protocol: *const c_void,
    _required: u8,
    _instance: u8,
    count: *mut c_uint,
) -> *mut c_void {
    // SAFETY: the caller passes where the count belongs.
    unsafe { count.write(0) };
    null_mut()
}

#[unsafe(no_mangle)]
extern "C" fn protocol_getName(_protocol: *const c_void) -> *const c_char {
    c"?".as_ptr()
}
