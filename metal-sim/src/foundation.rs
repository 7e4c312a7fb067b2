//! NSObject, NSString, NSArray, NSError and an empty NSDictionary: what the bindings and a client of Metal use of Foundation.

use crate::runtime::{ConstantString, Object};
use crate::violation::fatal;
use objc2::rc::{Allocated, Retained, autoreleasepool};
use objc2::runtime::{AnyClass, AnyObject, Bool, ClassBuilder, NSObject, Sel};
use objc2::{AnyThread, ClassType, DefinedClass, Message, define_class, msg_send, sel};
use objc2_foundation::{NSDictionary, NSError, NSFastEnumerationState, NSString};
use std::ffi::{CStr, CString, c_char, c_ulong, c_void};
use std::ptr::{self, NonNull};
use std::sync::Once;

type Obj = *mut AnyObject;
type F0<R> = extern "C-unwind" fn(Obj, Sel) -> R;
type F1<A, R> = extern "C-unwind" fn(Obj, Sel, A) -> R;

unsafe extern "C-unwind" {
    // The runtime's, with the types that methods have.
    fn class_createInstance(class: *const AnyClass, extra: usize) -> Obj;
    fn object_dispose(object: Obj) -> Obj;
    fn objc_retain(object: Obj) -> Obj;
    fn objc_release(object: Obj);
    fn objc_autorelease(object: Obj) -> Obj;
}

// Methods of the root class. Each is called by the runtime with a valid receiver.
mod root {
    use super::*;

    pub(super) extern "C-unwind" fn initialize(_: &AnyClass, _: Sel) {}

    pub(super) extern "C-unwind" fn alloc(class: &AnyClass, _: Sel) -> Obj {
        // SAFETY: it is a class.
        unsafe { class_createInstance(class, 0) }
    }

    pub(super) extern "C-unwind" fn new(class: &AnyClass, _: Sel) -> Obj {
        // SAFETY: `init` takes what `alloc` returns.
        unsafe {
            let this: Obj = msg_send![class, alloc];
            msg_send![this, init]
        }
    }

    pub(super) extern "C-unwind" fn this(this: Obj, _: Sel) -> Obj {
        this
    }

    pub(super) extern "C-unwind" fn dealloc(this: Obj, _: Sel) {
        // SAFETY: the runtime sends `dealloc` once, when the last reference is gone.
        unsafe { object_dispose(this) };
    }

    pub(super) extern "C-unwind" fn retain(this: Obj, _: Sel) -> Obj {
        // SAFETY: the receiver is an object.
        unsafe { objc_retain(this) }
    }

    pub(super) extern "C-unwind" fn release(this: Obj, _: Sel) {
        // SAFETY: the sender owns a reference.
        unsafe { objc_release(this) };
    }

    pub(super) extern "C-unwind" fn autorelease(this: Obj, _: Sel) -> Obj {
        // SAFETY: the sender owns a reference.
        unsafe { objc_autorelease(this) }
    }

    pub(super) extern "C-unwind" fn retain_count(this: Obj, _: Sel) -> usize {
        // SAFETY: the receiver is an object.
        unsafe { crate::runtime::retain_count(this.cast::<Object>()) }
    }

    pub(super) extern "C-unwind" fn class(this: &AnyObject, _: Sel) -> &'static AnyClass {
        this.class()
    }

    pub(super) extern "C-unwind" fn is_equal(this: Obj, _: Sel, other: Obj) -> Bool {
        Bool::new(ptr::eq(this, other))
    }

    pub(super) extern "C-unwind" fn hash(this: Obj, _: Sel) -> usize {
        this.addr()
    }

    pub(super) extern "C-unwind" fn is_kind_of(this: &AnyObject, _: Sel, class: &AnyClass) -> Bool {
        let mut classes = std::iter::successors(Some(this.class()), |c| c.superclass());
        Bool::new(classes.any(|c| ptr::eq(c, class)))
    }

    pub(super) extern "C-unwind" fn responds_to(this: &AnyObject, _: Sel, sel: Sel) -> Bool {
        Bool::new(this.class().responds_to(sel))
    }

    pub(super) extern "C-unwind" fn description(this: &AnyObject, _: Sel) -> *mut NSString {
        Retained::autorelease_return(NSString::from_str(&format!("<{}: {this:p}>", this.class())))
    }
}

pub(crate) fn define_object() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let initialize: extern "C-unwind" fn(_, _) = root::initialize;
        let mut builder = ClassBuilder::root(c"NSObject", initialize).expect("defined once");
        // SAFETY: each method has the signature that its selector has in `NSObject.h`.
        unsafe {
            builder.add_class_method(sel!(alloc), root::alloc as extern "C-unwind" fn(_, _) -> _);
            builder.add_class_method(sel!(new), root::new as extern "C-unwind" fn(_, _) -> _);
            builder.add_method::<AnyObject, F0<Obj>>(sel!(init), root::this);
            builder.add_method::<AnyObject, F0<Obj>>(sel!(self), root::this);
            builder.add_method::<AnyObject, F0<()>>(sel!(dealloc), root::dealloc);
            builder.add_method::<AnyObject, F0<Obj>>(sel!(retain), root::retain);
            builder.add_method::<AnyObject, F0<()>>(sel!(release), root::release);
            builder.add_method::<AnyObject, F0<Obj>>(sel!(autorelease), root::autorelease);
            builder.add_method::<AnyObject, F0<usize>>(sel!(retainCount), root::retain_count);
            builder.add_method::<AnyObject, extern "C-unwind" fn(_, _) -> _>(sel!(class), root::class);
            builder.add_method::<AnyObject, F1<Obj, Bool>>(sel!(isEqual:), root::is_equal);
            builder.add_method::<AnyObject, F0<usize>>(sel!(hash), root::hash);
            builder.add_method::<AnyObject, extern "C-unwind" fn(_, _, _) -> _>(
                sel!(isKindOfClass:),
                root::is_kind_of,
            );
            builder.add_method::<AnyObject, extern "C-unwind" fn(_, _, _) -> _>(
                sel!(respondsToSelector:),
                root::responds_to,
            );
            builder.add_method::<AnyObject, extern "C-unwind" fn(_, _) -> _>(
                sel!(description),
                root::description,
            );
        }
        builder.register();
    });
}

define_class!(
    /// `NSString`, in UTF-8.
    #[unsafe(super(NSObject))]
    #[name = "NSString"]
    #[ivars = CString]
    #[derive(Debug)]
    struct SimString;

    impl SimString {
        // The bindings pass the encoding as GNUstep declares it.
        #[unsafe(method_id(initWithBytes:length:encoding:))]
        fn init_with_bytes(
            this: Allocated<Self>,
            bytes: *const c_void,
            length: usize,
            _encoding: i32,
        ) -> Option<Retained<Self>> {
            let bytes = if length == 0 {
                &[]
            } else {
                // SAFETY: the sender passes as many bytes.
                unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) }
            };
            // The real one has no quarrel with NUL; no client here needs it.
            let text = CString::new(bytes).unwrap_or_else(|_| fatal("an NSString with a NUL in it is not simulated"));
            let this = this.set_ivars(text);
            // SAFETY: the initializer of the superclass.
            unsafe { msg_send![super(this), init] }
        }

        #[unsafe(method(UTF8String))]
        fn utf8(&self) -> *const c_char {
            self.ivars().as_ptr()
        }

        #[unsafe(method(lengthOfBytesUsingEncoding:))]
        fn byte_length(&self, _encoding: i32) -> usize {
            self.ivars().count_bytes()
        }

        #[unsafe(method(length))]
        fn length(&self) -> usize {
            self.ivars().to_str().map_or(0, |s| s.encode_utf16().count())
        }

        #[unsafe(method(isEqual:))]
        fn is_equal(&self, other: Option<&AnyObject>) -> Bool {
            // SAFETY: the receiver is an `NSString` by its class, and `other` once its class was asked for.
            let this = unsafe { &*ptr::from_ref(self).cast::<NSString>() };
            let other = other.and_then(|o| o.downcast_ref::<NSString>());
            Bool::new(other.is_some_and(|other| text(this) == text(other)))
        }

        #[unsafe(method(isEqualToString:))]
        fn is_equal_to_string(&self, other: &NSString) -> Bool {
            // SAFETY: the receiver is an `NSString` by its class.
            Bool::new(text(unsafe { &*ptr::from_ref(self).cast::<NSString>() }) == text(other))
        }

        #[unsafe(method(hash))]
        fn hash(&self) -> usize {
            self.ivars().count_bytes()
        }

        #[unsafe(method_id(copy))]
        fn copy(&self) -> Retained<Self> {
            self.retain() // immutable
        }
    }
);

fn text(string: &NSString) -> &CStr {
    // SAFETY: the text lives as long as the string.
    unsafe { CStr::from_ptr(msg_send![string, UTF8String]) }
}

pub(crate) fn define_string() {
    SimString::class();
}

/// The class of strings that exist before `main`.
pub(crate) fn define_constant_string() {
    extern "C-unwind" fn utf8(this: Obj, _: Sel) -> *const c_char {
        // SAFETY: the receiver's class has this method.
        unsafe { ConstantString::text(this.cast()) }.as_ptr()
    }
    extern "C-unwind" fn byte_length(this: Obj, _: Sel, _encoding: i32) -> usize {
        // SAFETY: as above.
        unsafe { ConstantString::text(this.cast()) }.count_bytes()
    }
    extern "C-unwind" fn length(this: Obj, _: Sel) -> usize {
        // SAFETY: as above. All constants are ASCII.
        unsafe { ConstantString::text(this.cast()) }.count_bytes()
    }
    extern "C-unwind" fn copy(this: Obj, _: Sel) -> Obj {
        this
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut builder = ClassBuilder::new(c"SimConstantString", NSString::class()).expect("defined once");
        // SAFETY: the methods have the signatures that they have in `NSString`.
        unsafe {
            builder.add_method::<AnyObject, F0<*const c_char>>(sel!(UTF8String), utf8);
            builder.add_method::<AnyObject, F1<i32, usize>>(sel!(lengthOfBytesUsingEncoding:), byte_length);
            builder.add_method::<AnyObject, F0<usize>>(sel!(length), length);
            builder.add_method::<AnyObject, F0<usize>>(sel!(hash), length);
            builder.add_method::<AnyObject, F0<Obj>>(sel!(copy), copy);
        }
        builder.register();
    });
}

#[derive(Debug)]
struct ErrorState {
    domain: Retained<NSString>,
    code: isize,
    description: Retained<NSString>,
}

define_class!(
    /// `NSError`, without user info.
    #[unsafe(super(NSObject))]
    #[name = "NSError"]
    #[ivars = ErrorState]
    struct SimError;

    impl SimError {
        #[unsafe(method_id(domain))]
        fn domain(&self) -> Retained<NSString> {
            self.ivars().domain.clone()
        }

        #[unsafe(method(code))]
        fn code(&self) -> isize {
            self.ivars().code
        }

        #[unsafe(method_id(localizedDescription))]
        fn localized_description(&self) -> Retained<NSString> {
            self.ivars().description.clone()
        }

        #[unsafe(method_id(userInfo))]
        fn user_info(&self) -> Retained<NSDictionary> {
            NSDictionary::new()
        }
    }
);

pub(crate) fn define_error() {
    SimError::class();
}

/// Makes an error.
pub(crate) fn error(domain: &str, code: isize, description: &str) -> Retained<NSError> {
    autoreleasepool(|_| {
        let state = ErrorState {
            domain: NSString::from_str(domain),
            code,
            description: NSString::from_str(description),
        };
        let this = SimError::alloc().set_ivars(state);
        // SAFETY: the initializer of the superclass; the class is `NSError` by name.
        unsafe {
            let this: Retained<SimError> = msg_send![super(this), init];
            Retained::cast_unchecked(this)
        }
    })
}

define_class!(
    /// `NSDictionary`, always empty: an error's user info.
    #[unsafe(super(NSObject))]
    #[name = "NSDictionary"]
    struct SimDictionary;

    impl SimDictionary {
        #[unsafe(method(count))]
        fn count(&self) -> usize {
            0
        }

        #[unsafe(method(getObjects:andKeys:))]
        fn get(&self, _objects: *mut Obj, _keys: *mut Obj) {}
    }
);

struct ArrayState(Vec<Retained<AnyObject>>);

// SAFETY: as for the real one, what an array may be shared with is what its objects may be shared with.
unsafe impl Send for ArrayState {}
// SAFETY: as above.
unsafe impl Sync for ArrayState {}

define_class!(
    /// `NSArray`.
    #[unsafe(super(NSObject))]
    #[name = "NSArray"]
    #[ivars = ArrayState]
    struct SimArray;

    impl SimArray {
        #[unsafe(method_id(initWithObjects:count:))]
        fn init_with_objects(
            this: Allocated<Self>,
            objects: *mut NonNull<AnyObject>,
            count: usize,
        ) -> Retained<Self> {
            let objects = (0..count).map(|i| {
                // SAFETY: the sender passes as many objects.
                unsafe { (*objects.add(i)).as_ref() }.retain()
            });
            let this = this.set_ivars(ArrayState(objects.collect()));
            // SAFETY: the initializer of the superclass.
            unsafe { msg_send![super(this), init] }
        }

        #[unsafe(method(count))]
        fn count(&self) -> usize {
            self.ivars().0.len()
        }

        #[unsafe(method_id(objectAtIndex:))]
        fn object_at(&self, index: usize) -> Retained<AnyObject> {
            let object = self.ivars().0.get(index);
            object.unwrap_or_else(|| fatal(format!("objectAtIndex: {index} of an array that is shorter"))).clone()
        }

        #[unsafe(method(countByEnumeratingWithState:objects:count:))]
        fn enumerate(
            &self,
            mut state: NonNull<NSFastEnumerationState>,
            buffer: NonNull<Obj>,
            length: usize,
        ) -> usize {
            // SAFETY: the sender passes its own state, which it doesn't use meanwhile.
            let state = unsafe { state.as_mut() };
            let objects = &self.ivars().0;
            let done = usize::try_from(state.state).expect("set below").min(objects.len());
            let some = objects[done..].iter().take(length);
            let count = some.len();
            for (i, object) in some.enumerate() {
                // SAFETY: the buffer has room for as many.
                unsafe { buffer.add(i).write(Retained::as_ptr(object).cast_mut()) };
            }
            state.state += count as c_ulong;
            state.itemsPtr = buffer.as_ptr();
            // Arrays don't change.
            state.mutationsPtr = std::ptr::null_mut();
            count
        }
    }
);

pub(crate) fn define_array() {
    SimArray::class();
}

pub(crate) fn define_dictionary() {
    SimDictionary::class();
}
