//! Classes: definition, registration and what can be asked of them.

use super::object::{OBJECT_ALIGN, Object};
use super::selector::{self, SelPtr};
use crate::{foundation, metal, violation};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;

/// A method's implementation, of any signature.
pub(super) type Imp = unsafe extern "C-unwind" fn();

/// A method of one class. Leaked: classes live as long as the process.
pub(super) struct Method {
    name: SelPtr,
    pub(super) imp: Imp,
    types: CString,
    /// Whether it belongs to the simulated Metal, every method of which autoreleases something.
    pub(super) metal: bool,
    /// Whether a message has ever reached it: the tests ask for methods that the bindings never checked.
    pub(super) sent: AtomicBool,
}

// SAFETY: `name` points to a leaked, immutable string; everything else is `Sync` by itself.
unsafe impl Sync for Method {}
// SAFETY: as above.
unsafe impl Send for Method {}

/// An instance variable. Leaked, like methods.
pub(super) struct Ivar {
    name: CString,
    types: CString,
    offset: usize,
}

type Methods = HashMap<usize, &'static Method>;

/// What a class consists of, once somebody has begun to define it.
struct ClassData {
    name: CString,
    meta: bool,
    metal: bool,
    instance_size: AtomicUsize,
    ivars: Mutex<Vec<&'static Ivar>>,
    building: Mutex<Methods>,
    /// The methods, frozen by registration: looking one up takes no lock, and so orders no threads.
    methods: OnceLock<Methods>,
    builder: ThreadId,
    live: AtomicIsize,
}

const UNREALIZED: u8 = 0;
const BUILDING: u8 = 1;
const REGISTERED: u8 = 2;

/// A class object. Its `isa` comes first: a class is itself an object.
#[repr(C)]
pub(crate) struct Class {
    isa: AtomicPtr<Class>,
    superclass: AtomicPtr<Class>,
    data: OnceLock<ClassData>,
    state: AtomicU8,
    /// For statically addressed classes: the name, and what defines the class when it is first used.
    fixed: Option<(&'static CStr, fn())>,
}

impl Class {
    pub(super) const fn new(fixed: Option<(&'static CStr, fn())>) -> Self {
        Self {
            isa: AtomicPtr::new(null_mut()),
            superclass: AtomicPtr::new(null_mut()),
            data: OnceLock::new(),
            state: AtomicU8::new(UNREALIZED),
            fixed,
        }
    }

    fn data(&self) -> &ClassData {
        self.data.get().unwrap_or_else(|| violation::fatal("a class is used before it is defined"))
    }

    fn parent(&self) -> Option<&'static Class> {
        // SAFETY: null, or a class, and those live forever. Acquire: see the class as its definer wrote it.
        unsafe { self.superclass.load(Ordering::Acquire).as_ref() }
    }

    /// The metaclass.
    pub(super) fn meta(&'static self) -> &'static Class {
        // SAFETY: every realized class has a metaclass, and those live forever. Acquire: as in `parent`.
        unsafe { &*self.realize().isa.load(Ordering::Acquire) }
    }

    /// Finds a method here or in a superclass.
    pub(super) fn lookup(&self, sel: SelPtr) -> Option<&'static Method> {
        let mut class = self;
        loop {
            let data = class.data();
            let found = match data.methods.get() {
                Some(methods) => methods.get(&sel.addr()).copied(),
                None => {
                    data.building.lock().unwrap_or_else(PoisonError::into_inner).get(&sel.addr()).copied()
                }
            };
            if found.is_some() {
                return found;
            }
            class = class.parent()?;
        }
    }

    fn ivar(&self, name: &CStr) -> Option<&'static Ivar> {
        let ivars = self.data().ivars.lock().unwrap_or_else(PoisonError::into_inner);
        let own = ivars.iter().find(|i| *i.name == *name).copied();
        drop(ivars);
        own.or_else(|| self.parent()?.ivar(name))
    }

    /// Defines a statically addressed class when it is first used: the job of the loader in a real runtime.
    pub(super) fn realize(&'static self) -> &'static Self {
        // Acquire: whoever finds it registered sees all of it.
        if self.state.load(Ordering::Acquire) != REGISTERED {
            let mine = self.data.get().is_some_and(|d| d.builder == std::thread::current().id());
            if !mine && let Some((_, define)) = self.fixed {
                define(); // waits while another thread defines it
            }
        }
        self
    }

    pub(super) fn is_meta(&self) -> bool {
        self.data().meta
    }

    pub(super) fn instance_size(&'static self) -> usize {
        self.realize().data().instance_size.load(Ordering::Relaxed)
    }

    /// Counts `by` more living instances.
    pub(super) fn count(&self, by: isize) {
        self.data().live.fetch_add(by, Ordering::Relaxed); // a count, and nothing is read because of it
    }

    /// The class's name, for messages.
    pub(crate) fn name(&self) -> &str {
        self.data().name.to_str().unwrap_or("?")
    }
}

macro_rules! static_classes {
    ($($symbol:literal $name:literal => $define:expr, $id:ident;)*) => {
        $(#[unsafe(export_name = $symbol)]
        pub(super) static $id: Class = Class::new(Some(($name, $define)));)*

        fn fixed_class(name: &CStr) -> Option<&'static Class> {
            $(if name == $name {
                return Some(&$id);
            })*
            None
        }
    };
}

// The classes that compiled code refers to by symbol.
static_classes! {
    "_OBJC_CLASS_NSObject" c"NSObject" => foundation::define_object, NS_OBJECT;
    "_OBJC_CLASS_NSString" c"NSString" => foundation::define_string, NS_STRING;
    "_OBJC_CLASS_SimConstantString" c"SimConstantString" => foundation::define_constant_string, CONSTANT_STRING;
    "_OBJC_CLASS_NSError" c"NSError" => foundation::define_error, NS_ERROR;
    "_OBJC_CLASS_NSArray" c"NSArray" => foundation::define_array, NS_ARRAY;
    "_OBJC_CLASS_NSDictionary" c"NSDictionary" => foundation::define_dictionary, NS_DICTIONARY;
    "_OBJC_CLASS_MTLSharedEventListener" c"MTLSharedEventListener" => metal::define_listener, LISTENER;
    "_OBJC_CLASS_MTLSharedEventHandle" c"MTLSharedEventHandle" => metal::define_handle, HANDLE;
    "_OBJC_CLASS_MTLCompileOptions" c"MTLCompileOptions" => metal::define_compile_options, COMPILE_OPTIONS;
    "_NSConcreteStackBlock" c"__NSStackBlock__" => super::block::define_classes, STACK_BLOCK;
    "_NSConcreteGlobalBlock" c"__NSGlobalBlock__" => super::block::define_classes, GLOBAL_BLOCK;
    "_NSConcreteMallocBlock" c"__NSMallocBlock__" => super::block::define_classes, MALLOC_BLOCK;
}

static CLASSES: LazyLock<Mutex<HashMap<CString, &'static Class>>> = LazyLock::new(Mutex::default);

fn named(name: &CStr) -> Option<&'static Class> {
    CLASSES.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
}

/// How many instances of a class are alive; 0 if there is no such class yet.
pub(crate) fn live_by_name(name: &CStr) -> usize {
    let live = named(name).map_or(0, |class| class.data().live.load(Ordering::Relaxed));
    usize::try_from(live).unwrap_or(0)
}

/// The methods of a class that no message has reached so far.
pub(crate) fn unsent_methods(class: &CStr) -> Vec<String> {
    let Some(class) = named(class) else { return vec!["(no such class)".into()] };
    let methods = class.data().methods.get().expect("registered").values();
    let unsent = methods.filter(|m| m.metal && !m.sent.load(Ordering::Relaxed));
    let mut names: Vec<_> = unsent.map(|m| selector::name(m.name).to_owned()).collect();
    names.sort();
    names
}

#[unsafe(no_mangle)]
unsafe extern "C" fn objc_getClass(name: *const c_char) -> *const Class {
    // SAFETY: the caller passes a C string.
    let name = unsafe { CStr::from_ptr(name) };
    match fixed_class(name) {
        Some(class) => class.realize(),
        None => named(name).map_or(null(), |class| class),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn objc_allocateClassPair(
    superclass: *const Class,
    name: *const c_char,
    _extra: usize,
) -> *const Class {
    // SAFETY: the caller passes a C string, and null or a class; classes live forever.
    let (name, superclass) = unsafe { (CStr::from_ptr(name), superclass.as_ref()) };
    let superclass = superclass.map(Class::realize);
    if named(name).is_some() {
        return null();
    }
    let class: &'static Class = fixed_class(name).unwrap_or_else(|| Box::leak(Box::new(Class::new(None))));
    let meta: &'static Class = Box::leak(Box::new(Class::new(None)));
    let metal = name.to_bytes().starts_with(b"SimMTL") || name.to_bytes().starts_with(b"MTLSharedEvent");
    let data = |meta, size| ClassData {
        name: name.to_owned(),
        meta,
        metal,
        instance_size: AtomicUsize::new(size),
        ivars: Mutex::default(),
        building: Mutex::default(),
        methods: OnceLock::new(),
        builder: std::thread::current().id(),
        live: AtomicIsize::new(0),
    };
    let size = superclass.map_or(size_of::<usize>(), |s| s.data().instance_size.load(Ordering::Relaxed));
    let (this, this_meta) = (ptr::from_ref(class).cast_mut(), ptr::from_ref(meta).cast_mut());
    let (parent, meta_parent, meta_isa) = match superclass {
        Some(s) => (
            ptr::from_ref(s).cast_mut(),
            ptr::from_ref(s.meta()).cast_mut(),
            s.meta().isa.load(Ordering::Acquire),
        ),
        None => (null_mut(), this, this_meta), // a root's metaclass inherits from the class, and is its own isa
    };
    if meta.data.set(data(true, size_of::<Class>())).is_err() || class.data.set(data(false, size)).is_err() {
        return null();
    }
    // Release, all of them: pair with the acquiring loads of `parent`, `meta` and `realize`.
    class.superclass.store(parent, Ordering::Release);
    meta.superclass.store(meta_parent, Ordering::Release);
    meta.isa.store(meta_isa, Ordering::Release);
    class.isa.store(this_meta, Ordering::Release);
    class.state.store(BUILDING, Ordering::Release);
    meta.state.store(REGISTERED, Ordering::Release);
    this
}

#[unsafe(no_mangle)]
unsafe extern "C" fn objc_registerClassPair(class: *const Class) {
    // SAFETY: the caller passes a class that it allocated; classes live forever.
    let class: &'static Class = unsafe { &*class };
    // SAFETY: `objc_allocateClassPair` gave it a metaclass.
    let meta = unsafe { &*class.isa.load(Ordering::Acquire) };
    for c in [class, meta] {
        let methods = std::mem::take(&mut *c.data().building.lock().unwrap_or_else(PoisonError::into_inner));
        if c.data().methods.set(methods).is_err() {
            violation::fatal(format!("class {} is registered twice", c.name()));
        }
    }
    CLASSES.lock().unwrap_or_else(PoisonError::into_inner).insert(class.data().name.clone(), class);
    class.state.store(REGISTERED, Ordering::Release); // pairs with `realize`
}

/// Only called after a panic in a class's definition; such a class stays half-defined and is never found.
#[unsafe(no_mangle)]
unsafe extern "C" fn objc_disposeClassPair(_class: *const Class) {}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_addMethod(
    class: *const Class,
    name: SelPtr,
    imp: Imp,
    types: *const c_char,
) -> u8 {
    // SAFETY: the caller passes a class and a C string.
    let (class, types) = unsafe { (&*class, CStr::from_ptr(types).to_owned()) };
    let data = class.data();
    if data.methods.get().is_some() {
        violation::fatal(format!(
            "class {} gets the method {} after its registration",
            class.name(),
            selector::name(name)
        ));
    }
    // What the runtime itself sends tells nothing about a client's pools.
    let metal = data.metal && !matches!(selector::name(name), "dealloc" | ".cxx_destruct");
    let method = Box::leak(Box::new(Method { name, imp, types, metal, sent: AtomicBool::new(false) }));
    let mut methods = data.building.lock().unwrap_or_else(PoisonError::into_inner);
    if methods.contains_key(&name.addr()) {
        return 0;
    }
    methods.insert(name.addr(), method);
    1
}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_addIvar(
    class: *const Class,
    name: *const c_char,
    size: usize,
    log2_align: u8,
    types: *const c_char,
) -> u8 {
    // SAFETY: the caller passes a class and C strings.
    let (class, name, types) = unsafe { (&*class, CStr::from_ptr(name), CStr::from_ptr(types)) };
    if class.ivar(name).is_some() || 1 << log2_align > OBJECT_ALIGN {
        return 0;
    }
    let data = class.data();
    let offset = data.instance_size.load(Ordering::Relaxed).next_multiple_of(1 << log2_align);
    data.instance_size.store(offset + size, Ordering::Relaxed);
    let ivar = Box::leak(Box::new(Ivar { name: name.into(), types: types.into(), offset }));
    data.ivars.lock().unwrap_or_else(PoisonError::into_inner).push(ivar);
    1
}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_getInstanceMethod(class: &'static Class, sel: SelPtr) -> *const Method {
    class.realize().lookup(sel).map_or(null(), |m| m)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_getClassMethod(class: &'static Class, sel: SelPtr) -> *const Method {
    class.meta().lookup(sel).map_or(null(), |m| m)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_respondsToSelector(class: &'static Class, sel: SelPtr) -> u8 {
    u8::from(class.realize().lookup(sel).is_some())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_getInstanceVariable(class: &'static Class, name: *const c_char) -> *const Ivar {
    // SAFETY: the caller passes a C string.
    class.realize().ivar(unsafe { CStr::from_ptr(name) }).map_or(null(), |i| i)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_getInstanceSize(class: &'static Class) -> usize {
    class.instance_size()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_getName(class: &'static Class) -> *const c_char {
    class.realize().data().name.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_getSuperclass(class: &'static Class) -> *const Class {
    class.realize().parent().map_or(null(), |p| p)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn class_isMetaClass(class: &'static Class) -> u8 {
    u8::from(class.realize().is_meta())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn method_getTypeEncoding(method: &Method) -> *const c_char {
    method.types.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn method_getName(method: &Method) -> SelPtr {
    method.name
}

#[unsafe(no_mangle)]
unsafe extern "C" fn method_getImplementation(method: &Method) -> Option<Imp> {
    Some(method.imp)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ivar_getName(ivar: &Ivar) -> *const c_char {
    ivar.name.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ivar_getOffset(ivar: &Ivar) -> isize {
    ivar.offset.cast_signed()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ivar_getTypeEncoding(ivar: &Ivar) -> *const c_char {
    ivar.types.as_ptr()
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn object_getClass(object: *const Object) -> *const Class {
    // SAFETY: the caller passes null or an object.
    match unsafe { object.as_ref() } {
        None => null(),
        // A statically addressed class that nobody has used yet has no isa.
        // SAFETY: only classes are objects without an isa, and classes live forever.
        Some(o) if o.isa.load(Ordering::Relaxed).is_null() => unsafe { &*object.cast::<Class>() }.meta(),
        Some(o) => super::object::object_class(o),
    }
}
