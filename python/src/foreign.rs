//! Streams of other libraries', taken as they are (R35).
//!
//! A `CUstream` comes as a number, by one of four protocols, from an object that may own it. It is adopted with that object as
//! its keep-alive, and remembered, since PyTorch makes a new object for the same stream each time that one asks.
//!
//! An object that comes again need not be asked again, if it is of a class whose objects never change their stream. It is known
//! by its address, which is no other object's for as long as this one is kept.

use crate::{
    device,
    errors::{Failure, Result},
    gate::Kept,
    stream::{Handle, Stream},
};
use gpu_events::{DeviceId, ErrorKind, StreamOptions, check_fork, cuda};
use pyo3::{
    exceptions::{PyKeyError, PyTypeError},
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyInt, PyString, PyType},
};
use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

/// How many adopted streams are remembered. PyTorch has 32 of each priority for a GPU.
const REMEMBERED: usize = 128;

/// How many classes are. The libraries have a few each.
const CLASSES: usize = 16;

/// The legacy default stream, by its two names, and the per-thread one: each GPU has them, under the same numbers.
const LAST_OF_EVERY_GPU: usize = 2;

/// The libraries' classes, where each is offered, and whether an object's stream is the same for good. Of cuda.core's it is not:
/// they can be closed.
const KNOWN: [(&str, &str, bool); 7] = [
    ("torch.cuda", "Stream", true),
    ("torch.cuda", "ExternalStream", true),
    ("cupy.cuda", "Stream", true),
    ("cupy.cuda", "ExternalStream", true),
    ("numba.cuda.cudadrv.driver", "Stream", true),
    ("cuda.core", "Stream", false),
    ("cuda.core.experimental", "Stream", false),
];

/// A stream that a method was given.
pub(crate) enum Taken<'py> {
    Object(Bound<'py, Stream>),
    Handle(Handle),
}

impl Taken<'_> {
    #[inline]
    pub(crate) fn handle(&self) -> &Handle {
        match self {
            Self::Object(stream) => &stream.get().handle,
            Self::Handle(handle) => handle,
        }
    }
}

/// The stream that `object` is, or stands for. `near` is the device that it is probably on.
#[inline]
pub(crate) fn take<'py>(object: &Bound<'py, PyAny>, near: Option<&gpu_events::Device>) -> Result<Taken<'py>> {
    match object.cast_exact::<Stream>() {
        Ok(stream) => Ok(Taken::Object(stream.clone())),
        Err(_) => adopt(object, near, Keep::TheLast).map(Taken::Object),
    }
}

/// Which object is kept of a stream that is remembered.
#[derive(Clone, Copy, PartialEq)]
enum Keep {
    TheFirst,
    TheLast,
}

fn adopt<'py>(
    object: &Bound<'py, PyAny>,
    near: Option<&gpu_events::Device>,
    keep: Keep,
) -> Result<Bound<'py, Stream>> {
    check_fork()?;
    let py = object.py();
    let class = {
        let mut remembered = remembered();
        if let Some(stream) = remembered.find_object(object) {
            return Ok(stream);
        }
        remembered.find_class(object)
    };
    let class = match class {
        Some(class) => class,
        None => Class::of(object),
    };
    let raw = class.raw_handle(object)?;
    let mut key = Key { raw, device: None, thread: None };
    let device = if raw <= LAST_OF_EVERY_GPU {
        let device = device_of_default_stream(object, near)?;
        key.device = Some(device.id());
        // Another stream on every thread, and positions of one timeline have to be of one.
        if raw == cuda::PER_THREAD_STREAM.addr() {
            key.thread = Some(thread::current().id());
        }
        Some(device)
    } else {
        None
    };
    let mut kept = KeptObject { object: object.clone().unbind(), is_all: class.is_fixed && device.is_none() };
    if let Some(stream) = remembered().find(py, &key, &mut kept, keep) {
        return Ok(stream);
    }
    let device = match device {
        Some(device) => Some(device),
        None => ordinal(object).map(|ordinal| device::open(py, &format!("cuda:{ordinal}"))).transpose()?,
    };
    let handle = match device {
        // What an object says of its GPU may be the one that was current when it was made. The driver knows better, but where
        // each GPU has such a stream.
        Some(device) => match adopt_on(object, raw, &device) {
            Err(failure) if is_wrong_device(&failure) && key.device.is_none() => {
                adopt_anywhere(object, raw, near)?
            }
            outcome => outcome?,
        },
        None => adopt_anywhere(object, raw, near)?,
    };
    let made = Bound::new(py, Stream::of(handle))?;
    let (stream, forgotten) = remembered().remember(key, &made, kept);
    drop(forgotten);
    Ok(stream)
}

fn is_wrong_device(failure: &Failure) -> bool {
    matches!(failure, Failure::Core(error) if error.kind() == ErrorKind::WrongDevice)
}

/// PyTorch's current stream, which is meant where no stream is named, as far as PyTorch has begun to use GPUs.
pub(crate) fn current_of_torch<'py>(
    py: Python<'py>,
    device: Option<&gpu_events::Device>,
) -> Result<Option<Taken<'py>>> {
    let ordinal = match device.map(|device| device.name().split_once(':')) {
        None => None,
        Some(Some(("cuda", ordinal))) => ordinal.parse::<u32>().ok(),
        Some(_) => return Ok(None),
    };
    let Some(torch) = loaded(py, intern!(py, "torch"))? else { return Ok(None) };
    // Half imported, or not it at all.
    let Some(cuda) = torch.getattr_opt(intern!(py, "cuda"))? else { return Ok(None) };
    let Some(is_initialized) = cuda.getattr_opt(intern!(py, "is_initialized"))? else { return Ok(None) };
    if !is_initialized.call0()?.is_truthy()? {
        return Ok(None);
    }
    let current = cuda.call_method1(intern!(py, "current_stream"), (ordinal,))?;
    // An object that nobody else has and that owns nothing: not to take the place of one that is used again.
    adopt(&current, device, Keep::TheFirst).map(Taken::Object).map(Some)
}

/// A library, or a module of it, if the program has imported it.
///
/// `sys.modules` is looked up each time: a program may put another mapping in its place, of another class too. Not by
/// `PyImport_GetModule`, which waits for an import that another thread is in the middle of, and recording waits for nobody.
fn loaded<'py>(py: Python<'py>, name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
    static SYS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let sys = SYS.get_or_try_init(py, || py.import("sys").map(Bound::unbind))?;
    let modules = sys.bind(py).getattr(intern!(py, "modules"))?;
    let module = match modules.cast_exact::<PyDict>() {
        Ok(modules) => modules.get_item(name)?,
        Err(_) => match modules.get_item(name) {
            Ok(module) => Some(module),
            Err(error) if error.is_instance_of::<PyKeyError>(py) => None,
            Err(error) => return Err(error),
        },
    };
    Ok(module.filter(|module| !module.is_none()))
}

fn adopt_on(object: &Bound<'_, PyAny>, raw: usize, device: &gpu_events::Device) -> Result<Handle> {
    let keep_alive = Arc::new(Alive { _object: Mutex::new(Kept::new(object.clone().unbind())) });
    let adopted = object.py().detach(|| {
        let stream = std::ptr::with_exposed_provenance_mut(raw);
        // SAFETY: by the protocol it is a `CUstream`, and stays one for as long as the object lives, which is kept. Of an object
        // that owns no stream, whoever made it has promised as much (see `KeptObject`).
        unsafe { cuda::adopt_stream(device, stream, keep_alive, &StreamOptions::new()) }
    })?;
    Ok(Handle::new(adopted))
}

/// Asks one GPU after the other whether the stream is its own.
fn adopt_anywhere(
    object: &Bound<'_, PyAny>,
    raw: usize,
    near: Option<&gpu_events::Device>,
) -> Result<Handle> {
    let py = object.py();
    let near = near.filter(|device| device.info().backend == "cuda");
    if let Some(device) = near {
        match adopt_on(object, raw, device) {
            Err(failure) if is_wrong_device(&failure) => {}
            outcome => return outcome,
        }
    }
    for ordinal in 0.. {
        let device = match device::open(py, &format!("cuda:{ordinal}")) {
            Ok(device) => device,
            // The first says why there is none at all.
            Err(failure) if ordinal == 0 => return Err(failure),
            Err(_) => break,
        };
        match adopt_on(object, raw, &device) {
            Err(failure) if is_wrong_device(&failure) => {}
            outcome => return outcome,
        }
    }
    Err(ErrorKind::WrongDevice.into())
}

fn device_of_default_stream(
    object: &Bound<'_, PyAny>,
    near: Option<&gpu_events::Device>,
) -> Result<gpu_events::Device> {
    if let Some(ordinal) = ordinal(object).or_else(|| current_of_its_library(object)) {
        return device::open(object.py(), &format!("cuda:{ordinal}"));
    }
    match near.filter(|device| device.info().backend == "cuda") {
        Some(device) => Ok(device.clone()),
        None => device::open(object.py(), "cuda:0"),
    }
}

/// The number of the GPU, where the object says it: PyTorch's, CuPy's and cuda.core's do, each in its own way.
fn ordinal(object: &Bound<'_, PyAny>) -> Option<u32> {
    let number = |of: &Bound<'_, PyAny>, name: &str| of.getattr(name).ok()?.extract::<u32>().ok();
    let device = || object.getattr("device").ok();
    number(object, "device_index").or_else(|| number(object, "device_id")).or_else(|| {
        let device = device()?;
        number(&device, "device_id").or_else(|| number(&device, "index"))
    })
}

/// The GPU that is current to the library that an object is of: CuPy's and Numba's default streams are of whichever that is.
fn current_of_its_library(object: &Bound<'_, PyAny>) -> Option<u32> {
    let module: String = object.get_type().getattr("__module__").ok()?.extract().ok()?;
    let name = module.split('.').next()?;
    let cuda = loaded(object.py(), &PyString::new(object.py(), name)).ok()??.getattr("cuda").ok()?;
    match name {
        "cupy" => cuda.getattr("runtime").ok()?.call_method0("getDevice").ok()?.extract().ok(),
        "numba" => cuda.call_method0("get_current_device").ok()?.getattr("id").ok()?.extract().ok(),
        _ => None,
    }
}

/// How an object says which `CUstream` it is.
#[derive(Clone, Copy)]
enum Protocol {
    /// That of cuda.core, which others have as well.
    CudaStream,
    /// PyTorch's.
    Attribute,
    /// CuPy's.
    Ptr,
    /// Numba's.
    Handle,
}

impl Protocol {
    /// The first that an object has counts.
    const ALL: [Self; 4] = [Self::CudaStream, Self::Attribute, Self::Ptr, Self::Handle];

    /// What the object answers, if it has the protocol.
    fn ask(self, object: &Bound<'_, PyAny>) -> Result<Option<usize>> {
        let py = object.py();
        let name = match self {
            Self::CudaStream => intern!(py, "__cuda_stream__"),
            Self::Attribute => intern!(py, "cuda_stream"),
            Self::Ptr => intern!(py, "ptr"),
            Self::Handle => intern!(py, "handle"),
        };
        let Some(answer) = object.getattr_opt(name)? else { return Ok(None) };
        if !matches!(self, Self::CudaStream) {
            return Ok(Some(number(&answer)?));
        }
        // A method by the protocol; a property in early versions of cuda.core.
        let answer = if answer.is_callable() { answer.call0()? } else { answer };
        let (version, handle): (u64, Bound<'_, PyAny>) = answer.extract()?;
        if version != 0 {
            return Err(Failure::argument(format!(
                "__cuda_stream__ of version {version}, and only 0 is known"
            )));
        }
        Ok(Some(number(&handle)?))
    }
}

/// A handle as a number, as something that `int` takes, or as a ctypes.c_void_p, whose value is None for null.
fn number(handle: &Bound<'_, PyAny>) -> PyResult<usize> {
    // Nearly always, and it has no `value` to look for.
    if handle.is_exact_instance_of::<PyInt>() {
        return handle.extract();
    }
    if let Some(value) = handle.getattr_opt(intern!(handle.py(), "value"))? {
        return Ok(value.extract::<Option<usize>>()?.unwrap_or(0));
    }
    handle.extract().or_else(|refused| match handle.getattr_opt(intern!(handle.py(), "__int__"))? {
        Some(int) => int.call0()?.extract(),
        None => Err(refused),
    })
}

/// What is known of all objects of a class.
#[derive(Clone, Copy, Default)]
struct Class {
    /// The one that they have, unless each has to be looked at.
    protocol: Option<Protocol>,
    /// An object's stream is the same for good.
    is_fixed: bool,
}

impl Class {
    /// What there is to know of the object's class, which is remembered if it is a library's own. A user's may derive from
    /// one and answer anything, each time anew.
    #[cold]
    fn of(object: &Bound<'_, PyAny>) -> Self {
        let class = object.get_type();
        if !is_of_a_library(&class).unwrap_or(false) {
            return Self::default();
        }
        let found = KNOWN.iter().find(|(module, name, _)| offers(module, name, &class).unwrap_or(false));
        let known = match found {
            // An object that raises is asked again when its handle is needed.
            Some(&(_, _, is_fixed)) => Protocol::ALL
                .into_iter()
                .find(|protocol| !matches!(protocol.ask(object), Ok(None)))
                .map_or(Self::default(), |protocol| Self { protocol: Some(protocol), is_fixed }),
            None => Self::default(),
        };
        remembered().remember_class(class.unbind(), known);
        known
    }

    /// The object's `CUstream`.
    fn raw_handle(self, object: &Bound<'_, PyAny>) -> Result<usize> {
        for protocol in self.protocol.into_iter().chain(Protocol::ALL) {
            if let Some(raw) = protocol.ask(object)? {
                return Ok(raw);
            }
        }
        Err(Failure::Python(PyTypeError::new_err(format!(
            "expected a gpu_events.Stream, or a CUDA stream (an object with __cuda_stream__, cuda_stream, ptr or handle), not {}",
            object.get_type().fully_qualified_name()?
        ))))
    }
}

fn is_of_a_library(class: &Bound<'_, PyType>) -> PyResult<bool> {
    let module = class.getattr(intern!(class.py(), "__module__"))?;
    let module: String = module.extract()?;
    let root = module.split('.').next();
    Ok(KNOWN.iter().any(|(known, ..)| known.split('.').next() == root))
}

/// Whether this is what a module has under a name.
fn offers(module: &str, name: &str, class: &Bound<'_, PyType>) -> PyResult<bool> {
    let py = class.py();
    let Some(module) = loaded(py, &PyString::new(py, module))? else { return Ok(false) };
    Ok(module.getattr_opt(name)?.is_some_and(|offered| offered.is(class)))
}

/// Keeps the object of a stream.
struct Alive {
    /// Never locked: it makes the whole shareable.
    _object: Mutex<Kept<Py<PyAny>>>,
}

#[derive(PartialEq)]
struct Key {
    raw: usize,
    /// For handles that every GPU has.
    device: Option<DeviceId>,
    /// For the one that every thread has.
    thread: Option<ThreadId>,
}

/// The object that a stream came with. While it lives the handle is not another stream's, if the object owns its stream.
///
/// One that owns nothing (PyTorch's and CuPy's `ExternalStream`, Numba's `external_stream`) can't promise that: whoever owns the
/// stream may destroy it, and the driver give its number to a new one. The new one is then taken for the one that is remembered
/// under the number, and which GPU it is of is not asked anew. So a stream has to outlive its use here, as it has to outlive
/// that of the library which such an object is of.
struct KeptObject {
    object: Py<PyAny>,
    /// It need not be asked again: it is this stream's for good, on every thread and with whatever GPU is current.
    is_all: bool,
}

struct Entry {
    key: Key,
    stream: Py<Stream>,
    kept: KeptObject,
    used: u64,
}

impl Entry {
    fn is_closed(&self) -> bool {
        self.stream.get().handle.stream.device().is_closed()
    }
}

/// Adopted streams, those used last, and classes of such objects.
struct Remembered {
    /// `REMEMBERED` at most. One that is forgotten leaves its place to the one that it is forgotten for.
    entries: Vec<Entry>,
    /// Where a stream or an object may be among the entries, by its number or address. A guess, for the entry to confirm.
    guesses: [u8; 256],
    clock: u64,
    classes: Vec<(Py<PyType>, Class)>,
}

/// Only after `check_fork`: in a child, the lock may be held by a thread that is not there. What comes out of it is dropped once
/// it is given back, since an object's destructor may do anything.
fn remembered() -> MutexGuard<'static, Remembered> {
    static REMEMBERED: Mutex<Remembered> =
        Mutex::new(Remembered { entries: Vec::new(), guesses: [0; 256], clock: 0, classes: Vec::new() });
    REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place in `Remembered::guesses` for a number or an address.
fn place(of: usize) -> usize {
    // Fibonacci hashing: the upper bits depend on all.
    ((of as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as usize
}

impl Remembered {
    /// The stream of an object that is kept and need not be asked, if its device is open still.
    #[inline]
    fn find_object<'py>(&mut self, object: &Bound<'py, PyAny>) -> Option<Bound<'py, Stream>> {
        let guess = self.guesses[place(object.as_ptr().addr())];
        let entry = self.entries.get_mut(usize::from(guess))?;
        // It lives, so whatever has its address is it.
        if !entry.kept.object.is(object) || !entry.kept.is_all || entry.is_closed() {
            return None;
        }
        self.clock += 1;
        entry.used = self.clock;
        Some(entry.stream.bind(object.py()).clone())
    }

    fn find_class(&self, object: &Bound<'_, PyAny>) -> Option<Class> {
        let class = object.get_type_ptr();
        self.classes.iter().find(|(known, _)| known.as_ptr() == class.cast()).map(|&(_, what)| what)
    }

    fn remember_class(&mut self, class: Py<PyType>, what: Class) {
        if self.classes.len() < CLASSES && !self.classes.iter().any(|(known, _)| known.is(&class)) {
            self.classes.push((class, what));
        }
    }

    fn index(&self, key: &Key) -> Option<usize> {
        let guess = usize::from(self.guesses[place(key.raw)]);
        match self.entries.get(guess) {
            Some(entry) if entry.key == *key => Some(guess),
            _ => self.entries.iter().position(|entry| entry.key == *key),
        }
    }

    fn guess(&mut self, index: usize) {
        let entry = &self.entries[index];
        for of in [entry.key.raw, entry.kept.object.as_ptr().addr()] {
            self.guesses[place(of)] = index as u8;
        }
    }

    /// The adopted stream, if its device is open still. If the last object is to be kept, it is kept from now on, and the one
    /// before it given back in its place.
    fn find<'py>(
        &mut self,
        py: Python<'py>,
        key: &Key,
        object: &mut KeptObject,
        keep: Keep,
    ) -> Option<Bound<'py, Stream>> {
        self.clock += 1;
        let index = self.index(key)?;
        let entry = &mut self.entries[index];
        if entry.is_closed() {
            return None;
        }
        entry.used = self.clock;
        if keep == Keep::TheLast {
            mem::swap(&mut entry.kept, object);
        }
        let stream = entry.stream.bind(py).clone();
        self.guess(index);
        Some(stream)
    }

    /// Keeps a stream, unless another thread was first: then that one's is the one. Gives back what has to go for it.
    fn remember<'py>(
        &mut self,
        key: Key,
        stream: &Bound<'py, Stream>,
        kept: KeptObject,
    ) -> (Bound<'py, Stream>, Option<Entry>) {
        let known = self.index(&key);
        let mut entry = Entry { key, stream: stream.clone().unbind(), kept, used: self.clock };
        if let Some(first) = known.map(|index| &mut self.entries[index])
            && !first.is_closed()
        {
            first.used = self.clock;
            return (first.stream.bind(stream.py()).clone(), Some(entry));
        }
        let index = known.or_else(|| {
            let oldest = || (0..REMEMBERED).min_by_key(|&index| self.entries[index].used);
            if self.entries.len() < REMEMBERED { None } else { oldest() }
        });
        let (index, forgotten) = match index {
            Some(index) => {
                mem::swap(&mut self.entries[index], &mut entry);
                (index, Some(entry))
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1, None)
            }
        };
        self.guess(index);
        (stream.clone(), forgotten)
    }
}
