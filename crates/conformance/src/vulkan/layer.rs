//! A driver in front of the system's, for tests: it counts the calls that a VkDevice gets, keeps book of what was signaled
//! and what was waited for, and can be told to refuse a submission or to be lost.
//!
//! The VkDevice is made here, as a user's own would be, and handed to [`gpu_events::vulkan::open`] with its queues. Who finds
//! its functions by way of this module's `vkGetInstanceProcAddr`, as the backend does, calls what stands in front.

use super::{Commands, instance_of, refused};
use ash::vk::{self, Handle};
use gpu_events::{
    Device, Error, ErrorKind, Result, Stream, StreamOptions,
    vulkan::{
        self, ExistingDevice, ExistingQueue, GetInstanceProcAddr, QueueLock, RawDevice, RawInstance,
        RawPhysicalDevice, RawQueue, RawSemaphore,
    },
};
use std::{
    any::Any,
    collections::{HashMap, HashSet},
    ffi::{CStr, c_char, c_void},
    fmt,
    mem::transmute,
    slice,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// What a VkDevice was asked to do, by whoever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Calls {
    /// Submissions that the driver took.
    pub submissions: u64,
    /// Batches in them.
    pub batches: u64,
    /// Submissions that were refused, as it was asked for.
    pub refused: u64,
    /// How often a semaphore's counter was read.
    pub counter_reads: u64,
    /// How often the host raised one.
    pub host_signals: u64,
    /// Each wait of the host's.
    pub waits: Vec<HostWait>,
    /// How often a whole queue or device was waited for.
    pub idles: u64,
    /// Timeline semaphores that were made, and not destroyed since.
    pub semaphores_made: u64,
    /// See `semaphores_made`.
    pub semaphores_alive: u64,
    /// Waits that were submitted before what they wait for had been.
    pub early_waits: Vec<EarlyWait>,
}

/// A wait of the host's for one semaphore or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostWait {
    /// How many semaphores.
    pub semaphores: usize,
    /// Any of them will do.
    pub any: bool,
    /// For how long at most.
    pub timeout: Duration,
}

/// A wait in a submission for a value that nobody had submitted or signaled by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyWait {
    /// Which submission, counted from 1.
    pub submission: u64,
    /// The semaphore's value that is waited for.
    pub value: u64,
    /// The highest that was on its way.
    pub submitted: u64,
}

/// The system's loader, and an instance as a user would make it. It is never destroyed: to make one takes long.
struct System {
    get: vk::PFN_vkGetInstanceProcAddr,
    instance: ash::Instance,
}

static SYSTEM: OnceLock<System> = OnceLock::new();

impl System {
    /// With the physical device of this number.
    fn with(ordinal: u32) -> Result<(&'static Self, vk::PhysicalDevice)> {
        static KNOWN: Mutex<Vec<(u32, vk::PhysicalDevice)>> = Mutex::new(Vec::new());
        let mut known = lock(&KNOWN);
        let found = known.iter().find(|(known, _)| *known == ordinal);
        if let (Some(system), Some((_, physical))) = (SYSTEM.get(), found) {
            return Ok((system, *physical));
        }
        // The backend knows the way to the loader, and in which order it has the devices.
        let device = Device::open(&format!("vulkan:{ordinal}"))?;
        let parts = vulkan::raw_parts(&device)?;
        let system = match SYSTEM.get() {
            Some(system) => system,
            None => {
                let made = Self::make(ash_loader(parts.get_instance_proc_addr))?;
                SYSTEM.get_or_init(|| made)
            }
        };
        let theirs = instance_of(&parts);
        let list = |instance: &ash::Instance| {
            // SAFETY: both instances are there: ours for good, and the device keeps its own.
            let listed = unsafe { instance.enumerate_physical_devices() };
            listed.map_err(|code| refused("vkEnumeratePhysicalDevices", code))
        };
        let index = list(&theirs)?.iter().position(|device| device.as_raw() == parts.physical_device.0);
        // The loader lists them in one order for all instances.
        let ours = list(&system.instance)?;
        let physical = *index.and_then(|index| ours.get(index)).ok_or(ErrorKind::Unavailable)?;
        known.push((ordinal, physical));
        Ok((system, physical))
    }

    fn make(get: vk::PFN_vkGetInstanceProcAddr) -> Result<Self> {
        // SAFETY: it is the loader's, which is never unloaded.
        let entry = unsafe { ash::Entry::from_static_fn(ash::StaticFn { get_instance_proc_addr: get }) };
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: all that `info` points at is there until the call returns.
        let instance = unsafe { entry.create_instance(&info, None) };
        let instance = instance.map_err(|code| refused("vkCreateInstance", code))?;
        Ok(Self { get, instance })
    }
}

/// The loader's function, with ash's word for an instance.
pub(super) fn ash_loader(get: GetInstanceProcAddr) -> vk::PFN_vkGetInstanceProcAddr {
    // SAFETY: an instance is a pointer to ash as well.
    unsafe { transmute::<GetInstanceProcAddr, vk::PFN_vkGetInstanceProcAddr>(get) }
}

/// What is known of one of the VkDevices, also once that is gone.
pub struct Watch {
    /// The driver's own functions.
    driver: ash::Device,
    lost: AtomicBool,
    /// See [`Turns`].
    turns: Turns,
    /// The queue whose next submission is refused; 0 if none's is.
    refused: AtomicU64,
    log: Mutex<Log>,
}

/// Validation layers of 2023 write a submission down after the driver has it. Who is told meanwhile that it is done waits in
/// them for ten seconds for what they have not written down. With them, nobody is told of anything during a submission.
struct Turns(Option<RwLock<()>>);

impl Turns {
    fn new() -> Self {
        let layers = std::env::var("VK_INSTANCE_LAYERS").unwrap_or_default();
        Self(layers.contains("validation").then(RwLock::default))
    }

    /// To look how far something is.
    fn look(&self) -> Option<RwLockReadGuard<'_, ()>> {
        Some(self.0.as_ref()?.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// To have something go on.
    fn act(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        Some(self.0.as_ref()?.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default)]
struct Log {
    calls: Calls,
    alive: HashSet<vk::Semaphore>,
    /// The highest value of each timeline semaphore that was signaled, or submitted to be.
    submitted: HashMap<vk::Semaphore, u64>,
    /// What a lost device was told to destroy, while the one beneath it works on.
    graveyard: Vec<Grave>,
}

enum Grave {
    Semaphore(vk::Semaphore),
    CommandPool(vk::CommandPool),
    QueryPool(vk::QueryPool),
}

impl Watch {
    /// What the device was asked to do so far.
    pub fn calls(&self) -> Calls {
        let log = lock(&self.log);
        Calls { semaphores_alive: log.alive.len() as u64, ..log.calls.clone() }
    }

    /// From now on the device answers that it is lost, and so do calls that wait. What the one beneath has been given it does.
    pub fn lose(&self) {
        // Release: what came before it is over for whoever is told.
        self.lost.store(true, Ordering::Release);
    }

    /// Whether it was told to be lost.
    pub fn is_lost(&self) -> bool {
        // Acquire: see `lose`.
        self.lost.load(Ordering::Acquire)
    }

    /// Has the next submission to this queue be refused, for want of memory, having done nothing.
    pub fn refuse_next(&self, queue: RawQueue) {
        // Relaxed: told to the thread that submits next, or to one that it tells.
        self.refused.store(queue.0, Ordering::Relaxed);
    }

    fn refuses(&self, queue: vk::Queue) -> bool {
        // Relaxed: see `refuse_next`.
        self.refused.compare_exchange(queue.as_raw(), 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether destroying this has to wait for the device's end, since that is lost in name only.
    fn buries(&self, grave: Grave) -> bool {
        let lost = self.is_lost();
        if lost {
            lock(&self.log).graveyard.push(grave);
        }
        lost
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

/// A queue of the VkDevice, and the one lock for it.
#[derive(Clone)]
pub struct Queue {
    raw: vk::Queue,
    family: u32,
    lock: QueueLock,
}

impl Queue {
    /// The queue.
    pub fn raw(&self) -> RawQueue {
        RawQueue(self.raw.as_raw())
    }

    /// The family that it is of.
    pub fn family(&self) -> u32 {
        self.family
    }

    fn existing(&self) -> ExistingQueue {
        ExistingQueue::new(self.raw(), self.family, self.lock.clone())
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("raw", &self.raw())
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

/// A VkDevice of a user's, whose calls are watched.
///
/// Destroyed with the last reference to it: the backend's keep-alive is one.
pub struct Layered {
    physical: vk::PhysicalDevice,
    extensions: Vec<&'static CStr>,
    queues: Vec<Queue>,
    watch: Arc<Watch>,
    system: &'static System,
}

/// More than one, where there are more: the last is nobody's, to be adopted.
const MOST_QUEUES: u32 = 3;

struct Known {
    device: vk::Device,
    queues: Vec<vk::Queue>,
    watch: Arc<Watch>,
    layered: Weak<Layered>,
}

static KNOWN: RwLock<Vec<Known>> = RwLock::new(Vec::new());

impl Layered {
    /// Makes a VkDevice on the system's device with this number.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn make(ordinal: u32) -> Result<Arc<Self>> {
        let (system, physical) = System::with(ordinal)?;
        // SAFETY: the physical device is this instance's, which is never destroyed.
        let families = unsafe { system.instance.get_physical_device_queue_family_properties(physical) };
        let family = families
            .iter()
            .position(|family| family.queue_flags.contains(vk::QueueFlags::COMPUTE))
            .ok_or(ErrorKind::Unavailable)?;
        let count = families[family].queue_count.min(MOST_QUEUES);
        let family = family as u32;
        // SAFETY: as above.
        let offered = unsafe { system.instance.enumerate_device_extension_properties(physical) };
        let offered = offered.map_err(|code| refused("vkEnumerateDeviceExtensionProperties", code))?;
        let is_offered =
            |name: &CStr| offered.iter().any(|offer| offer.extension_name_as_c_str() == Ok(name));
        let wanted = [ash::ext::calibrated_timestamps::NAME, vk::KHR_PORTABILITY_SUBSET_NAME];
        let extensions: Vec<&CStr> = wanted.into_iter().filter(|name| is_offered(name)).collect();
        let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
        let priorities = vec![1.0; count as usize];
        let queues =
            [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
        let mut timelines = vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .push_next(&mut timelines);
        // SAFETY: all that `info` asks for is there, and it points at nothing that goes before the call returns.
        let driver = unsafe { system.instance.create_device(physical, &info, None) };
        let driver = driver.map_err(|code| refused("vkCreateDevice", code))?;
        let queues: Vec<_> = (0..count)
            .map(|index| {
                // SAFETY: so many were asked for.
                let raw = unsafe { driver.get_device_queue(family, index) };
                Queue { raw, family, lock: queue_lock() }
            })
            .collect();
        let handle = driver.handle();
        let watch = Arc::new(Watch {
            driver,
            lost: AtomicBool::new(false),
            turns: Turns::new(),
            refused: AtomicU64::new(0),
            log: Mutex::default(),
        });
        let layered = Arc::new(Self { physical, extensions, queues, watch: watch.clone(), system });
        let known = Known {
            device: handle,
            queues: layered.queues.iter().map(|queue| queue.raw).collect(),
            watch,
            layered: Arc::downgrade(&layered),
        };
        KNOWN.write().unwrap_or_else(PoisonError::into_inner).push(known);
        Ok(layered)
    }

    /// The VkDevice that `device` was opened on, if it was made here.
    pub fn of(device: &Device) -> Option<Arc<Self>> {
        let raw = vulkan::raw_parts(device).ok()?.device;
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|known| known.device.as_raw() == raw.0)?.layered.upgrade()
    }

    /// Opens it as a device of ours.
    ///
    /// # Errors
    /// What the backend has against it.
    pub fn open(self: &Arc<Self>) -> Result<Device> {
        let existing = ExistingDevice::new(
            get_instance_proc_addr,
            RawInstance(self.system.instance.handle().as_raw()),
            RawPhysicalDevice(self.physical.as_raw()),
            RawDevice(self.watch.driver.handle().as_raw()),
            self.clone(),
        );
        let mut existing = existing.extensions(self.extensions.iter().copied());
        // All but the last, if there are more: see `MOST_QUEUES`.
        for queue in &self.queues[..self.queues.len().max(2) - 1] {
            existing = existing.queue(queue.existing());
        }
        // SAFETY: all of it was made as it is said to be, is kept alive by this, and used by nobody but under its locks.
        unsafe { vulkan::open(existing) }
    }

    /// Has `adopter` adopt the last of the queues: the only one, where there are no more.
    ///
    /// # Errors
    /// What the backend has against it.
    pub fn adopt(
        &self,
        adopter: &Device,
        keep_alive: Arc<dyn Any + Send + Sync>,
        options: &StreamOptions,
    ) -> Result<Stream> {
        let queue = self.foreign_queue().existing();
        // SAFETY: the queue lives as long as its device, which its adopter keeps, and has one lock.
        unsafe { vulkan::adopt_queue(adopter, queue, keep_alive, options) }
    }

    /// The queue that [`adopt`](Self::adopt) is about.
    pub fn foreign_queue(&self) -> &Queue {
        &self.queues[self.queues.len() - 1]
    }

    /// All queues.
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// What it is asked to do, and what it answers.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Holds all work back that is submitted to the queue from here on.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn hold(self: &Arc<Self>, queue: &Queue) -> Result<QueueHold> {
        let semaphore = self.make_semaphore()?;
        let batch = Batch { waits: &[(semaphore, 1)], ..Batch::default() };
        // SAFETY: the semaphore lives as long as the device; there are no commands. Not watched: it waits for the host, which a
        // user's own submission may.
        unsafe { self.submit_by(self.watch.driver.fp_v1_0().queue_submit, queue, batch) }?;
        Ok(QueueHold { layered: self.clone(), semaphore })
    }

    /// A timeline semaphore of the user's, at 0. It lives as long as the device.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn make_semaphore(&self) -> Result<RawSemaphore> {
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: `info` is well formed.
        let made = unsafe { self.watch.driver.create_semaphore(&info, None) };
        let made = made.map_err(|code| refused("vkCreateSemaphore", code))?;
        let mut log = lock(&self.watch.log);
        log.submitted.insert(made, 0);
        log.graveyard.push(Grave::Semaphore(made));
        Ok(RawSemaphore(made.as_raw()))
    }

    /// Raises a semaphore, as a user would.
    ///
    /// # Errors
    /// What the driver refused.
    ///
    /// # Safety
    /// As for vkSignalSemaphore.
    pub unsafe fn signal(&self, semaphore: RawSemaphore, value: u64) -> Result<()> {
        let semaphore = vk::Semaphore::from_raw(semaphore.0);
        let info = vk::SemaphoreSignalInfo::default().semaphore(semaphore).value(value);
        // SAFETY: the caller's.
        let answer = unsafe { signal_semaphore(self.watch.driver.handle(), &info) };
        answer.result().map_err(|code| refused("vkSignalSemaphore", code))
    }

    /// Submits one batch to a queue, as a user would, past the stream that may stand for it.
    ///
    /// # Errors
    /// What the driver refused.
    ///
    /// # Safety
    /// The semaphores are timeline semaphores of this device, and the commands live until they are done.
    pub unsafe fn submit(&self, queue: &Queue, batch: Batch<'_>) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.submit_by(queue_submit, queue, batch) }
    }

    unsafe fn submit_by(&self, submit: vk::PFN_vkQueueSubmit, queue: &Queue, batch: Batch<'_>) -> Result<()> {
        let semaphores = |pairs: &[(RawSemaphore, u64)]| -> (Vec<vk::Semaphore>, Vec<u64>) {
            pairs.iter().map(|(semaphore, value)| (vk::Semaphore::from_raw(semaphore.0), *value)).unzip()
        };
        let (waits, wait_values) = semaphores(batch.waits);
        let (signals, signal_values) = semaphores(batch.signals);
        let stages = vec![vk::PipelineStageFlags::ALL_COMMANDS; waits.len()];
        let commands: Vec<_> =
            batch.commands.iter().map(|commands| vk::CommandBuffer::from_raw(commands.raw().0)).collect();
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&wait_values)
            .signal_semaphore_values(&signal_values);
        let batch = vk::SubmitInfo::default()
            .wait_semaphores(&waits)
            .wait_dst_stage_mask(&stages)
            .command_buffers(&commands)
            .signal_semaphores(&signals)
            .push_next(&mut values);
        let mut answer = vk::Result::NOT_READY;
        (queue.lock)(&mut || {
            // SAFETY: the caller's; `batch` and what it points at are there until the call returns, and nobody else uses the queue.
            answer = unsafe { submit(queue.raw, 1, &raw const batch, vk::Fence::null()) };
        });
        answer.result().map_err(|code| refused("vkQueueSubmit", code))
    }
}

/// One lock for one queue.
fn queue_lock() -> QueueLock {
    let turn = Mutex::new(());
    Arc::new(move |call| {
        let _turn = lock(&turn);
        call();
    })
}

impl Drop for Layered {
    fn drop(&mut self) {
        let driver = &self.watch.driver;
        KNOWN.write().unwrap_or_else(PoisonError::into_inner).retain(|known| known.device != driver.handle());
        // SAFETY: nobody has a queue of it any more.
        let _ = unsafe { driver.device_wait_idle() };
        for grave in std::mem::take(&mut lock(&self.watch.log).graveyard) {
            match grave {
                // SAFETY: nothing is on its way any more, and whoever had it has let go of it.
                Grave::Semaphore(semaphore) => unsafe { driver.destroy_semaphore(semaphore, None) },
                // SAFETY: as above.
                Grave::CommandPool(pool) => unsafe { driver.destroy_command_pool(pool, None) },
                // SAFETY: as above.
                Grave::QueryPool(pool) => unsafe { driver.destroy_query_pool(pool, None) },
            }
        }
        // SAFETY: this was the last reference, and whoever made something from the device had one.
        unsafe { driver.destroy_device(None) };
    }
}

impl fmt::Debug for Layered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").field("queues", &self.queues).finish_non_exhaustive()
    }
}

/// What a user submits in one go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// What has to be reached first.
    pub waits: &'a [(RawSemaphore, u64)],
    /// What is run.
    pub commands: &'a [&'a Commands],
    /// What is signaled then.
    pub signals: &'a [(RawSemaphore, u64)],
}

/// A queue stands still until this is dropped.
pub struct QueueHold {
    layered: Arc<Layered>,
    semaphore: RawSemaphore,
}

impl Drop for QueueHold {
    fn drop(&mut self) {
        let semaphore = vk::Semaphore::from_raw(self.semaphore.0);
        let info = vk::SemaphoreSignalInfo::default().semaphore(semaphore).value(1);
        // SAFETY: the semaphore lives as long as the device, and nobody else signals it.
        let _ = unsafe { self.layered.watch.driver.signal_semaphore(&info) };
    }
}

impl fmt::Debug for QueueHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueHold").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// From here on, the functions that stand in front.

fn watch_where(is: impl Fn(&Known) -> bool) -> Option<Arc<Watch>> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    known.iter().find(|known| is(known)).map(|known| known.watch.clone())
}

fn watch_of(device: vk::Device) -> Option<Arc<Watch>> {
    watch_where(|known| known.device == device)
}

/// What a device answers that is not known here, which none is that came by this way.
const UNKNOWN: vk::Result = vk::Result::ERROR_UNKNOWN;
const LOST: vk::Result = vk::Result::ERROR_DEVICE_LOST;

unsafe extern "system" fn get_instance_proc_addr(
    instance: *mut c_void,
    name: *const c_char,
) -> vk::PFN_vkVoidFunction {
    let get = SYSTEM.get()?.get;
    // SAFETY: the caller's call.
    let found = unsafe { get(vk::Instance::from_raw(instance as u64), name) };
    // SAFETY: the caller's name.
    in_front(found, unsafe { CStr::from_ptr(name) })
}

unsafe extern "system" fn get_device_proc_addr(
    device: vk::Device,
    name: *const c_char,
) -> vk::PFN_vkVoidFunction {
    let get = SYSTEM.get()?.instance.fp_v1_0().get_device_proc_addr;
    // SAFETY: the caller's call.
    let found = unsafe { get(device, name) };
    // SAFETY: the caller's name.
    in_front(found, unsafe { CStr::from_ptr(name) })
}

/// What stands in front of the function of this name, or that itself.
fn in_front(found: vk::PFN_vkVoidFunction, name: &CStr) -> vk::PFN_vkVoidFunction {
    macro_rules! any {
        ($function:ident: $type:ty) => {
            // SAFETY: whoever asked for it by name gives it that name's type back.
            Some(unsafe { transmute::<$type, unsafe extern "system" fn()>($function) })
        };
    }
    // What the driver does not have, this does not either.
    found?;
    match name.to_bytes() {
        b"vkGetInstanceProcAddr" => any!(get_instance_proc_addr: GetInstanceProcAddr),
        b"vkGetDeviceProcAddr" => any!(get_device_proc_addr: vk::PFN_vkGetDeviceProcAddr),
        b"vkQueueSubmit" => any!(queue_submit: vk::PFN_vkQueueSubmit),
        b"vkGetSemaphoreCounterValue" | b"vkGetSemaphoreCounterValueKHR" => {
            any!(get_semaphore_counter_value: vk::PFN_vkGetSemaphoreCounterValue)
        }
        b"vkWaitSemaphores" | b"vkWaitSemaphoresKHR" => any!(wait_semaphores: vk::PFN_vkWaitSemaphores),
        b"vkSignalSemaphore" | b"vkSignalSemaphoreKHR" => any!(signal_semaphore: vk::PFN_vkSignalSemaphore),
        b"vkCreateSemaphore" => any!(create_semaphore: vk::PFN_vkCreateSemaphore),
        b"vkDestroySemaphore" => any!(destroy_semaphore: vk::PFN_vkDestroySemaphore),
        b"vkDestroyCommandPool" => any!(destroy_command_pool: vk::PFN_vkDestroyCommandPool),
        b"vkDestroyQueryPool" => any!(destroy_query_pool: vk::PFN_vkDestroyQueryPool),
        b"vkGetQueryPoolResults" => any!(get_query_pool_results: vk::PFN_vkGetQueryPoolResults),
        b"vkQueueWaitIdle" => any!(queue_wait_idle: vk::PFN_vkQueueWaitIdle),
        b"vkDeviceWaitIdle" => any!(device_wait_idle: vk::PFN_vkDeviceWaitIdle),
        _ => found,
    }
}

/// As `slice::from_raw_parts`, where nothing may be at null.
unsafe fn many<'a, T>(at: *const T, count: u32) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's: there are so many.
    unsafe { slice::from_raw_parts(at, count as usize) }
}

/// The structure of this type in a chain of extensions.
unsafe fn in_chain<T: vk::TaggedStructure>(chain: *const c_void) -> Option<*const T> {
    let mut next = chain.cast::<vk::BaseInStructure<'_>>();
    while !next.is_null() {
        // SAFETY: the caller's: each begins with its type and what comes next.
        let header = unsafe { &*next };
        if header.s_type == T::STRUCTURE_TYPE {
            return Some(next.cast());
        }
        next = header.p_next;
    }
    None
}

/// The waits and the signals of a batch, with the values of those semaphores that have some.
type Pairs = Vec<(vk::Semaphore, u64)>;

unsafe fn pairs(batch: &vk::SubmitInfo<'_>) -> (Pairs, Pairs) {
    // SAFETY: the caller's batch.
    let waits = unsafe { many(batch.p_wait_semaphores, batch.wait_semaphore_count) };
    // SAFETY: the caller's batch.
    let signals = unsafe { many(batch.p_signal_semaphores, batch.signal_semaphore_count) };
    // SAFETY: the caller's batch.
    let Some(values) = (unsafe { in_chain::<vk::TimelineSemaphoreSubmitInfo<'_>>(batch.p_next) }) else {
        return (Vec::new(), Vec::new());
    };
    // SAFETY: it was found by its type.
    let values = unsafe { &*values };
    // SAFETY: the caller's batch.
    let wait_values = unsafe { many(values.p_wait_semaphore_values, values.wait_semaphore_value_count) };
    // SAFETY: the caller's batch.
    let signal_values =
        unsafe { many(values.p_signal_semaphore_values, values.signal_semaphore_value_count) };
    let zip = |semaphores: &[vk::Semaphore], values: &[u64]| {
        semaphores.iter().copied().zip(values.iter().copied()).collect()
    };
    (zip(waits, wait_values), zip(signals, signal_values))
}

unsafe extern "system" fn queue_submit(
    queue: vk::Queue,
    count: u32,
    batches: *const vk::SubmitInfo<'_>,
    fence: vk::Fence,
) -> vk::Result {
    let Some(watch) = watch_where(|known| known.queues.contains(&queue)) else { return UNKNOWN };
    if watch.is_lost() {
        return LOST;
    }
    if watch.refuses(queue) {
        lock(&watch.log).calls.refused += 1;
        return vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    }
    // SAFETY: the caller's.
    let listed = unsafe { many(batches, count) };
    // SAFETY: the caller's.
    let listed: Vec<_> = listed.iter().map(|batch| unsafe { pairs(batch) }).collect();
    // Before the call: what others have on their way by now counts.
    let early = early_waits(&lock(&watch.log), &listed);
    let answer = {
        let _turn = watch.turns.act();
        // SAFETY: the caller's call.
        unsafe { (watch.driver.fp_v1_0().queue_submit)(queue, count, batches, fence) }
    };
    if answer == vk::Result::SUCCESS {
        let mut log = lock(&watch.log);
        log.calls.submissions += 1;
        log.calls.batches += u64::from(count);
        let submission = log.calls.submissions;
        log.calls.early_waits.extend(early.into_iter().map(|wait| EarlyWait { submission, ..wait }));
        for (semaphore, value) in listed.into_iter().flat_map(|(_, signals)| signals) {
            log.submitted.entry(semaphore).and_modify(|highest| *highest = value.max(*highest));
        }
    }
    answer
}

fn early_waits(log: &Log, batches: &[(Pairs, Pairs)]) -> Vec<EarlyWait> {
    let mut early = Vec::new();
    let mut within = HashMap::new();
    for (waits, signals) in batches {
        for (semaphore, value) in waits {
            let Some(known) = log.submitted.get(semaphore) else { continue };
            let submitted = within.get(semaphore).copied().unwrap_or(0).max(*known);
            if *value > submitted {
                early.push(EarlyWait { submission: 0, value: *value, submitted });
            }
        }
        within.extend(signals.iter().copied());
    }
    early
}

unsafe extern "system" fn get_semaphore_counter_value(
    device: vk::Device,
    semaphore: vk::Semaphore,
    value: *mut u64,
) -> vk::Result {
    let Some(watch) = watch_of(device) else { return UNKNOWN };
    lock(&watch.log).calls.counter_reads += 1;
    if watch.is_lost() {
        return LOST;
    }
    let _turn = watch.turns.look();
    // SAFETY: the caller's call.
    unsafe { (watch.driver.fp_v1_2().get_semaphore_counter_value)(device, semaphore, value) }
}

unsafe extern "system" fn wait_semaphores(
    device: vk::Device,
    info: *const vk::SemaphoreWaitInfo<'_>,
    timeout: u64,
) -> vk::Result {
    /// After so long a wait looks whether the device was lost, which the one beneath is not, and lets others have a turn.
    const SLICE: Duration = Duration::from_micros(500);
    let Some(watch) = watch_of(device) else { return UNKNOWN };
    let begun = Instant::now();
    let timeout = Duration::from_nanos(timeout);
    // SAFETY: the caller's.
    let asked = unsafe { &*info };
    lock(&watch.log).calls.waits.push(HostWait {
        semaphores: asked.semaphore_count as usize,
        any: asked.flags.contains(vk::SemaphoreWaitFlags::ANY),
        timeout,
    });
    loop {
        if watch.is_lost() {
            return LOST;
        }
        let left = timeout.saturating_sub(begun.elapsed());
        let slice = left.min(SLICE);
        let _turn = watch.turns.look();
        // SAFETY: the caller's call, in pieces.
        let answer =
            unsafe { (watch.driver.fp_v1_2().wait_semaphores)(device, info, slice.as_nanos() as u64) };
        if answer != vk::Result::TIMEOUT || slice == left {
            return answer;
        }
    }
}

unsafe extern "system" fn signal_semaphore(
    device: vk::Device,
    info: *const vk::SemaphoreSignalInfo<'_>,
) -> vk::Result {
    let Some(watch) = watch_of(device) else { return UNKNOWN };
    // Passed on by a lost device as well: the one beneath may have work that waits for it.
    let answer = {
        let _turn = watch.turns.act();
        // SAFETY: the caller's call.
        unsafe { (watch.driver.fp_v1_2().signal_semaphore)(device, info) }
    };
    if answer == vk::Result::SUCCESS {
        // SAFETY: the caller's.
        let asked = unsafe { &*info };
        let mut log = lock(&watch.log);
        log.calls.host_signals += 1;
        log.submitted.entry(asked.semaphore).and_modify(|highest| *highest = asked.value.max(*highest));
    }
    if watch.is_lost() { LOST } else { answer }
}

unsafe extern "system" fn create_semaphore(
    device: vk::Device,
    info: *const vk::SemaphoreCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    semaphore: *mut vk::Semaphore,
) -> vk::Result {
    let Some(watch) = watch_of(device) else { return UNKNOWN };
    if watch.is_lost() {
        return LOST;
    }
    // SAFETY: the caller's call.
    let answer = unsafe { (watch.driver.fp_v1_0().create_semaphore)(device, info, allocator, semaphore) };
    if answer != vk::Result::SUCCESS {
        return answer;
    }
    // SAFETY: the caller's.
    let asked = unsafe { &*info };
    // SAFETY: the caller's.
    let kind = unsafe { in_chain::<vk::SemaphoreTypeCreateInfo<'_>>(asked.p_next) };
    // SAFETY: it was found by its type.
    let kind = kind.map(|kind| unsafe { &*kind });
    if let Some(kind) = kind.filter(|kind| kind.semaphore_type == vk::SemaphoreType::TIMELINE) {
        // SAFETY: the driver has written to it.
        let made = unsafe { *semaphore };
        let mut log = lock(&watch.log);
        log.calls.semaphores_made += 1;
        log.alive.insert(made);
        log.submitted.insert(made, kind.initial_value);
    }
    answer
}

unsafe extern "system" fn destroy_semaphore(
    device: vk::Device,
    semaphore: vk::Semaphore,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let Some(watch) = watch_of(device) else { return };
    {
        let mut log = lock(&watch.log);
        log.alive.remove(&semaphore);
        log.submitted.remove(&semaphore);
    }
    if !watch.buries(Grave::Semaphore(semaphore)) {
        // SAFETY: the caller's call.
        unsafe { (watch.driver.fp_v1_0().destroy_semaphore)(device, semaphore, allocator) };
    }
}

unsafe extern "system" fn destroy_command_pool(
    device: vk::Device,
    pool: vk::CommandPool,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let Some(watch) = watch_of(device) else { return };
    if !watch.buries(Grave::CommandPool(pool)) {
        // SAFETY: the caller's call.
        unsafe { (watch.driver.fp_v1_0().destroy_command_pool)(device, pool, allocator) };
    }
}

unsafe extern "system" fn destroy_query_pool(
    device: vk::Device,
    pool: vk::QueryPool,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let Some(watch) = watch_of(device) else { return };
    if !watch.buries(Grave::QueryPool(pool)) {
        // SAFETY: the caller's call.
        unsafe { (watch.driver.fp_v1_0().destroy_query_pool)(device, pool, allocator) };
    }
}

unsafe extern "system" fn get_query_pool_results(
    device: vk::Device,
    pool: vk::QueryPool,
    first: u32,
    count: u32,
    size: usize,
    data: *mut c_void,
    stride: vk::DeviceSize,
    flags: vk::QueryResultFlags,
) -> vk::Result {
    let Some(watch) = watch_of(device) else { return UNKNOWN };
    if watch.is_lost() {
        return LOST;
    }
    let get = watch.driver.fp_v1_0().get_query_pool_results;
    // SAFETY: the caller's call.
    unsafe { get(device, pool, first, count, size, data, stride, flags) }
}

unsafe extern "system" fn queue_wait_idle(queue: vk::Queue) -> vk::Result {
    let Some(watch) = watch_where(|known| known.queues.contains(&queue)) else { return UNKNOWN };
    lock(&watch.log).calls.idles += 1;
    if watch.is_lost() {
        return LOST;
    }
    // SAFETY: the caller's call.
    unsafe { (watch.driver.fp_v1_0().queue_wait_idle)(queue) }
}

unsafe extern "system" fn device_wait_idle(device: vk::Device) -> vk::Result {
    let Some(watch) = watch_of(device) else { return UNKNOWN };
    lock(&watch.log).calls.idles += 1;
    if watch.is_lost() {
        return LOST;
    }
    // SAFETY: the caller's call.
    unsafe { (watch.driver.fp_v1_0().device_wait_idle)(device) }
}

/// The error of a subject that has no VkDevice of a user's.
pub(super) fn not_layered() -> Error {
    Error::with_text(ErrorKind::WrongDevice, "not a VkDevice that was made for tests")
}
