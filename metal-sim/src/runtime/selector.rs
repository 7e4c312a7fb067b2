//! Selectors: interned names. A selector's address is its identity, as on Apple's runtime.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::sync::{LazyLock, PoisonError, RwLock};

/// A selector, as passed across the ABI: the interned name.
pub(crate) type SelPtr = *const c_char;

/// The interned names, and the exposed addresses of the same.
static SELECTORS: LazyLock<RwLock<HashMap<&'static CStr, usize>>> = LazyLock::new(RwLock::default);

#[unsafe(no_mangle)]
unsafe extern "C" fn sel_registerName(name: *const c_char) -> SelPtr {
    // SAFETY: the caller passes a C string.
    let name = unsafe { CStr::from_ptr(name) };
    // Bound first: the guard must be gone before the write lock is asked for.
    let known = SELECTORS.read().unwrap_or_else(PoisonError::into_inner).get(name).copied();
    if let Some(address) = known {
        return std::ptr::with_exposed_provenance(address);
    }
    let mut selectors = SELECTORS.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(&address) = selectors.get(name) {
        return std::ptr::with_exposed_provenance(address); // another thread was faster
    }
    let interned: &'static CStr = Box::leak(name.to_owned().into_boxed_c_str());
    selectors.insert(interned, interned.as_ptr().expose_provenance());
    interned.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn sel_getName(sel: SelPtr) -> *const c_char {
    sel
}

#[unsafe(no_mangle)]
extern "C" fn sel_isEqual(a: SelPtr, b: SelPtr) -> u8 {
    u8::from(a == b)
}

/// The name of a selector, for messages.
pub(super) fn name(sel: SelPtr) -> &'static str {
    // SAFETY: every selector is an interned, leaked C string.
    unsafe { CStr::from_ptr(sel) }.to_str().unwrap_or("?")
}
