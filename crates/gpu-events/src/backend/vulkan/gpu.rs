//! A GPU as this process sees it: a `VkDevice`, of ours or of the user's, and what all streams on it share.

use super::{
    ExistingDevice, RawParts,
    clock::{self, GpuClock},
    driver::{
        GetInstanceProcAddr, RawDevice, RawInstance, RawPhysicalDevice, System, entry, error, said, text,
        unavailable,
    },
    port::{Family, Port, QueueLock},
    pump::Pump,
    queue::Queue,
};
use crate::{
    backend::{
        Lane, defer,
        interop::{self, Bridges},
        reaper::{KeepAlive, Kept, Reaper},
    },
    contain::contain,
    error::{Error, ErrorKind, Result},
    fork,
    primitive::lock,
    timeline::relay,
};
use ash::vk;
use std::{
    ffi::{CStr, CString},
    fmt,
    mem::ManuallyDrop,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

/// The driver's objects, which go last, and on the pump's thread.
pub(super) struct Driver {
    pub(super) device: ash::Device,
    /// Every semaphore that was ever made: to make one takes up to 400 µs, so they are used again and again.
    semaphores: Mutex<Vec<vk::Semaphore>>,
    families: Mutex<Vec<Arc<Family>>>,
    /// The queues of a device that is not ours.
    ports: Mutex<Vec<Arc<Port>>>,
    bridges: Bridges,
    /// The device was made by us.
    ours: bool,
    keep_alive: Option<KeepAlive>,
}

impl Driver {
    fn new_semaphore(&self) -> Result<vk::Semaphore> {
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device is there, with timeline semaphores enabled.
        let raw = unsafe { self.device.create_semaphore(&info, None) }
            .map_err(|code| error("vkCreateSemaphore", code))?;
        lock(&self.semaphores).push(raw);
        Ok(raw)
    }

    /// Whether the queues have come past all that was submitted to them. That a counter has its value does not mean that the
    /// driver is through with the semaphore: some touch those that a submission waited for after they have signaled its end.
    fn is_through(&self) -> bool {
        const MOST: u64 = 10_000_000_000;
        std::mem::take(&mut *lock(&self.ports)).iter().all(|port| {
            let info = vk::FenceCreateInfo::default();
            // SAFETY: the device is there.
            let Ok(fence) = (unsafe { self.device.create_fence(&info, None) }) else { return false };
            let submitted = port.submit_fence(&self.device, fence);
            let fences = [fence];
            // SAFETY: the fence was made above.
            let waited = submitted.and_then(|()| unsafe { self.device.wait_for_fences(&fences, true, MOST) });
            match waited {
                Ok(()) | Err(vk::Result::ERROR_DEVICE_LOST) => {
                    // SAFETY: it was signaled, or nothing is on its way any more.
                    unsafe { self.device.destroy_fence(fence, None) };
                    true
                }
                Err(_) => false,
            }
        })
    }

    /// Gives everything back. Nothing of ours is on its way any more, unless the device is lost.
    pub(super) fn destroy(mut self) {
        if self.ours {
            // SAFETY: nobody else has a queue of it. To be sure of what the counters say already.
            let _ = unsafe { self.device.device_wait_idle() };
        } else if !self.is_through() {
            // What the user's queue still stands behind may stand there for ever.
            std::mem::forget(self);
            return;
        }
        self.bridges.destroy();
        for family in std::mem::take(&mut *lock(&self.families)) {
            family.destroy(&self.device);
        }
        for semaphore in std::mem::take(&mut *lock(&self.semaphores)) {
            // SAFETY: all that signals it or waits for it is done.
            unsafe { self.device.destroy_semaphore(semaphore, None) };
        }
        if self.ours {
            // SAFETY: all that was made from it is gone.
            unsafe { self.device.destroy_device(None) };
        }
        // A user's destructor.
        contain(|| drop(self.keep_alive.take()));
    }
}

/// A device and what hangs on it.
pub(in crate::backend) struct Gpu {
    pub(super) name: String,
    /// Its number among the system's, if it was opened by that.
    pub(super) index: Option<u32>,
    pub(super) parts: RawParts,
    /// Taken by `drop` alone.
    driver: ManuallyDrop<Driver>,
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    ports: Vec<Arc<Port>>,
    next: AtomicUsize,
    /// Queues that were adopted since.
    adopted: Mutex<Vec<Weak<Port>>>,
    pub(super) clock: GpuClock,
    pub(super) emulated: bool,
    /// Times can be taken on the streams that are made here.
    pub(super) timed: bool,
    /// How far apart a semaphore's value and one that is waited for may be.
    pub(super) furthest: u64,
    pub(super) pump: Arc<Pump>,
    pub(super) reaper: Arc<Reaper>,
    lost: OnceLock<Error>,
    /// Every lane with a driver half here, to be told of the loss.
    lanes: Mutex<Vec<Weak<Lane>>>,
    /// Semaphores that nobody uses, and the values that they have come to.
    spare: Mutex<Vec<(vk::Semaphore, u64)>>,
}

/// What is known of a physical device without opening it.
pub(super) struct Described {
    pub(super) physical: vk::PhysicalDevice,
    pub(super) name: String,
    timestamp_period: f32,
    uuid: [u8; vk::UUID_SIZE],
    furthest: u64,
    /// The CPU does its work.
    pub(super) emulated: bool,
    /// The family that streams of our own go to.
    family: Option<(u32, vk::QueueFamilyProperties)>,
    /// The family of queues that are kept for signals to others, and how many they are.
    ways: Option<(u32, u32)>,
    /// It can share semaphores with others.
    pub(super) exports: bool,
    extensions: Vec<CString>,
}

impl Described {
    /// The system's devices that can be used, those that are a CPU's last.
    pub(super) fn all() -> Result<Vec<Self>> {
        let system = System::get()?;
        // SAFETY: the instance is there.
        let physical = unsafe { system.instance.enumerate_physical_devices() }
            .map_err(|code| error("vkEnumeratePhysicalDevices", code))?;
        let mut why = Vec::new();
        let mut found = Vec::new();
        for physical in physical {
            match Self::of(&system.instance, physical) {
                Ok(described) => found.push(described),
                Err(error) => why.push(error.to_string()),
            }
        }
        if found.is_empty() {
            let why = if why.is_empty() { "there is none".to_owned() } else { why.join("; ") };
            return Err(unavailable(format!("Vulkan finds no GPU here: {why}")));
        }
        found.sort_by_key(|described| described.emulated);
        Ok(found)
    }

    fn of(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Result<Self> {
        // SAFETY: the physical device is of this instance.
        let properties = unsafe { instance.get_physical_device_properties(physical) };
        let name = text(&properties.device_name);
        if properties.api_version < vk::API_VERSION_1_2 {
            let version = said(properties.api_version);
            return Err(Error::with_text(
                ErrorKind::Unsupported,
                format!("{name} has Vulkan {version} alone"),
            ));
        }
        let mut timelines = vk::PhysicalDeviceTimelineSemaphoreProperties::default();
        let mut ids = vk::PhysicalDeviceIDProperties::default();
        let mut more = vk::PhysicalDeviceProperties2::default().push_next(&mut timelines).push_next(&mut ids);
        // SAFETY: as above.
        unsafe { instance.get_physical_device_properties2(physical, &mut more) };
        let mut has = vk::PhysicalDeviceTimelineSemaphoreFeatures::default();
        let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut has);
        // SAFETY: as above.
        unsafe { instance.get_physical_device_features2(physical, &mut features) };
        if has.timeline_semaphore == vk::FALSE {
            return Err(Error::with_text(
                ErrorKind::Unsupported,
                format!("{name} has no timeline semaphores"),
            ));
        }
        // SAFETY: as above.
        let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
        let computes = |family: &vk::QueueFamilyProperties| {
            family.queue_count > 0 && family.queue_flags.contains(vk::QueueFlags::COMPUTE)
        };
        let family = (0..).zip(families.clone()).find(|(_, family)| computes(family));
        let its = family.map(|(index, _)| index);
        // Not the family of the streams, all of whose queues are theirs; rather one that computes than one that only copies.
        let passes = vk::QueueFlags::COMPUTE | vk::QueueFlags::TRANSFER;
        let ways = (0..).zip(&families).filter(|(index, family)| {
            family.queue_count > 0 && family.queue_flags.intersects(passes) && Some(*index) != its
        });
        let ways = ways.max_by_key(|(_, family)| computes(family));
        let ways = ways.map(|(index, family)| (index, interop::ways(family.queue_count)));
        // SAFETY: as above.
        let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }
            .map_err(|code| error("vkEnumerateDeviceExtensionProperties", code))?;
        let extensions: Vec<_> =
            extensions.iter().filter_map(|it| Some(it.extension_name_as_c_str().ok()?.to_owned())).collect();
        let offers = |name: &&CStr| extensions.iter().any(|offered: &CString| offered.as_c_str() == *name);
        let exports = !interop::EXTENSIONS.is_empty()
            && interop::EXTENSIONS.iter().all(offers)
            && interop::can_export(instance, physical);
        Ok(Self {
            physical,
            name,
            timestamp_period: properties.limits.timestamp_period,
            uuid: ids.device_uuid,
            furthest: timelines.max_timeline_semaphore_value_difference,
            emulated: properties.device_type == vk::PhysicalDeviceType::CPU,
            family,
            ways: ways.filter(|_| exports),
            exports,
            extensions,
        })
    }

    fn offers(&self, extension: &CStr) -> bool {
        self.extensions.iter().any(|offered| offered.as_c_str() == extension)
    }

    pub(super) fn is_calibrated(&self) -> bool {
        self.offers(ash::ext::calibrated_timestamps::NAME)
    }

    pub(super) fn is_timed(&self) -> bool {
        self.family.is_some_and(|(_, family)| family.timestamp_valid_bits > 0)
    }

    pub(super) fn clock(&self) -> crate::time::Clock {
        clock::of_gpu(self.uuid, self.timestamp_period, self.is_calibrated())
    }
}

impl Gpu {
    /// The system's GPU of this number: the one that is open already, if it is.
    pub(super) fn get(index: u32) -> Result<Arc<Self>> {
        static OPEN: Mutex<Vec<(u32, Weak<Gpu>)>> = Mutex::new(Vec::new());
        let mut open = lock(&OPEN);
        open.retain(|(_, gpu)| gpu.strong_count() > 0);
        let known = open.iter().find(|(known, _)| *known == index).and_then(|(_, gpu)| gpu.upgrade());
        // One that is lost is of no use; a new `VkDevice` may be.
        if let Some(gpu) = known.filter(|gpu| gpu.lost.get().is_none()) {
            return Ok(gpu);
        }
        let described = Described::all()?.into_iter().nth(index as usize);
        let described = described
            .ok_or_else(|| unavailable(format!("there is no GPU number {index} here that Vulkan can use")))?;
        let gpu = Self::make(index, described)?;
        open.retain(|(known, _)| *known != index);
        open.push((index, Arc::downgrade(&gpu)));
        Ok(gpu)
    }

    /// Makes a device of our own.
    fn make(index: u32, described: Described) -> Result<Arc<Self>> {
        let system = System::get()?;
        let Some((family, properties)) = described.family else {
            return Err(unavailable(format!("{} has no queue for compute", described.name)));
        };
        // Where times of different queues don't compare, all streams share one.
        let count = if described.is_calibrated() { properties.queue_count.min(MOST_QUEUES) } else { 1 };
        let most = described.ways.map_or(count, |(_, ways)| count.max(ways));
        let priorities = vec![1.0; most as usize];
        let its = |(index, count): (u32, u32)| {
            let priorities = &priorities[..count as usize];
            vk::DeviceQueueCreateInfo::default().queue_family_index(index).queue_priorities(priorities)
        };
        let queues: Vec<_> = [(family, count)].into_iter().chain(described.ways).map(its).collect();
        let wanted = [
            ash::ext::calibrated_timestamps::NAME,
            // Who has it must enable it.
            vk::KHR_PORTABILITY_SUBSET_NAME,
        ];
        let wanted = wanted.into_iter().chain(interop::EXTENSIONS.iter().copied());
        let enabled: Vec<&CStr> = wanted.filter(|name| described.offers(name)).collect();
        let names: Vec<_> = enabled.iter().map(|name| name.as_ptr()).collect();
        let mut timelines = vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .push_next(&mut timelines);
        // SAFETY: all that `info` asks for was seen to be there.
        let device = unsafe { system.instance.create_device(described.physical, &info, None) }
            .map_err(|code| error("vkCreateDevice", code))?;
        // SAFETY: so many were asked for.
        let queues = (0..count).map(|index| unsafe { device.get_device_queue(family, index) });
        let queues = queues.map(|queue| (queue, family, None)).collect();
        let ways =
            described.ways.into_iter().flat_map(|(family, count)| (0..count).map(move |at| (family, at)));
        // SAFETY: as above.
        let ways = ways.map(|(family, index)| unsafe { device.get_device_queue(family, index) }).collect();
        let instance = system.instance.clone();
        let made = Made { instance, get: system.get, device, enabled, ours: true, ways };
        Self::build(Some(index), &described, made, queues, None)
    }

    /// A device of the user's.
    pub(super) fn adopt(existing: ExistingDevice) -> Result<Arc<Self>> {
        let ExistingDevice { get, instance, physical, device, extensions, queues, keep_alive } = existing;
        let entry = entry(get);
        // SAFETY: the caller of `open` says that these are what they are said to be.
        let instance = unsafe { ash::Instance::load(entry.static_fn(), instance.handle()) };
        let name = c"vkGetPhysicalDeviceProperties2";
        // SAFETY: the instance is there.
        if unsafe { entry.get_instance_proc_addr(instance.handle(), name.as_ptr()) }.is_none() {
            return Err(Error::with_text(
                ErrorKind::Unsupported,
                "the VkInstance was made for Vulkan 1.0: it needs 1.2",
            ));
        }
        // SAFETY: as above.
        let device = unsafe { ash::Device::load(instance.fp_v1_0(), device.handle()) };
        for name in [c"vkGetSemaphoreCounterValue", c"vkWaitSemaphores", c"vkSignalSemaphore"] {
            // SAFETY: the device is there.
            if unsafe { instance.get_device_proc_addr(device.handle(), name.as_ptr()) }.is_none() {
                return Err(Error::with_text(
                    ErrorKind::Unsupported,
                    format!("the VkDevice has no {}: it needs Vulkan 1.2", name.to_string_lossy()),
                ));
            }
        }
        let described = Described::of(&instance, physical.handle())?;
        let enabled = extensions.iter().map(CString::as_c_str).collect();
        let made = Made { instance, get, device, enabled, ours: false, ways: Vec::new() };
        let queues = queues.into_iter().map(|queue| (queue.queue.handle(), queue.family, Some(queue.lock)));
        Self::build(None, &described, made, queues.collect(), Some(keep_alive))
    }

    fn build(
        index: Option<u32>,
        described: &Described,
        made: Made<'_>,
        queues: Vec<(vk::Queue, u32, Option<QueueLock>)>,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Arc<Self>> {
        let Made { instance, get, device, enabled, ours, ways } = made;
        let shares = described.exports && interop::EXTENSIONS.iter().all(|name| enabled.contains(name));
        let bridges = Bridges::new(&instance, &device, shares, described.uuid, ways);
        let calibrated = enabled
            .contains(&ash::ext::calibrated_timestamps::NAME)
            .then(|| ash::ext::calibrated_timestamps::Device::new(&instance, &device));
        let clock = clock::of_gpu(described.uuid, described.timestamp_period, calibrated.is_some());
        // SAFETY: the physical device is of this instance.
        let families = unsafe { instance.get_physical_device_queue_family_properties(described.physical) };
        let bits = queues.iter().filter_map(|(_, family, _)| families.get(*family as usize));
        let bits = bits.map(|family| family.timestamp_valid_bits).filter(|bits| *bits > 0).min();
        let clock = GpuClock::new(clock, bits.unwrap_or(64), calibrated);
        let parts = RawParts {
            get_instance_proc_addr: get,
            instance: RawInstance::of(instance.handle()),
            physical_device: RawPhysicalDevice::of(described.physical),
            device: RawDevice::of(device.handle()),
        };
        let driver = Driver {
            device,
            semaphores: Mutex::default(),
            families: Mutex::default(),
            ports: Mutex::default(),
            bridges,
            ours,
            keep_alive,
        };
        let opened = (|| {
            let mut ports = Vec::new();
            for (queue, family, access) in queues {
                let family = family_of(&driver, &instance, described.physical, family)?;
                // Without calibration the first queue's times are the device's.
                let timed = clock.is_of_device() || ports.is_empty();
                ports.push(Arc::new(Port::new(queue, family, access, timed)));
            }
            let pump =
                Pump::start(&described.name, &driver.device, driver.new_semaphore()?, described.emulated)?;
            Ok((ports, pump))
        })();
        let (ports, pump) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                driver.destroy();
                return Err(error);
            }
        };
        if !driver.ours {
            lock(&driver.ports).extend(ports.iter().cloned());
        }
        let gpu = Arc::new(Self {
            name: described.name.clone(),
            index,
            emulated: described.emulated,
            parts,
            driver: ManuallyDrop::new(driver),
            instance,
            physical: described.physical,
            timed: ports.iter().any(|port| port.timed),
            ports,
            next: AtomicUsize::new(0),
            adopted: Mutex::default(),
            clock,
            furthest: described.furthest,
            reaper: pump.reaper.clone(),
            pump,
            lost: OnceLock::new(),
            lanes: Mutex::default(),
            spare: Mutex::default(),
        });
        gpu.pump.belongs_to(&gpu);
        Ok(gpu)
    }

    /// The device's functions.
    #[inline]
    pub(in crate::backend) fn functions(&self) -> &ash::Device {
        &self.driver.device
    }

    /// What the device shares with CUDA.
    pub(in crate::backend) fn bridges(&self) -> &Bridges {
        &self.driver.bridges
    }

    /// Whether this is the same `VkDevice`.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.parts.device == other.parts.device
    }

    /// The queue for the next stream.
    pub(super) fn port(&self) -> Result<Arc<Port>> {
        // Relaxed: streams are spread evenly enough.
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let port = self.ports.get(next.checked_rem(self.ports.len()).unwrap_or(0));
        port.cloned().ok_or_else(|| {
            Error::with_text(
                ErrorKind::Unsupported,
                "this device was opened with no queue to make streams on: adopt one",
            )
        })
    }

    /// A queue of the user's.
    pub(super) fn adopted_port(&self, raw: vk::Queue, family: u32, access: QueueLock) -> Result<Arc<Port>> {
        let mut adopted = lock(&self.adopted);
        adopted.retain(|port| port.strong_count() > 0);
        let known = adopted.iter().filter_map(Weak::upgrade).chain(self.ports.iter().cloned());
        if let Some(port) = known.into_iter().find(|port| port.raw == raw) {
            // Its lock is known already, and must be the one for all.
            return Ok(port);
        }
        let family = family_of(&self.driver, &self.instance, self.physical, family)?;
        let timed = self.clock.is_of_device() || self.ports.is_empty();
        let port = Arc::new(Port::new(raw, family, Some(access), timed));
        adopted.push(Arc::downgrade(&port));
        if !self.driver.ours {
            lock(&self.driver.ports).push(port.clone());
        }
        Ok(port)
    }

    /// A semaphore that nobody else has.
    pub(super) fn semaphore(self: &Arc<Self>) -> Result<Arc<Semaphore>> {
        let spare = lock(&self.spare).pop();
        let (raw, base) = match spare {
            Some(spare) => spare,
            None => (self.driver.new_semaphore()?, 0),
        };
        let highest = AtomicU64::new(base);
        Ok(Arc::new(Semaphore { raw, base, highest, gpu: Some(self.clone()), _keep_alive: None }))
    }

    /// Lets a lane be told when the device is lost.
    pub(super) fn admit(&self, lane: &Arc<Lane>) {
        {
            let mut lanes = lock(&self.lanes);
            if lanes.len() == lanes.capacity() {
                lanes.retain(|lane| lane.strong_count() > 0);
            }
            lanes.push(Arc::downgrade(lane));
        }
        // Lost meanwhile: whoever met it has looked at the list before we were on it, or finds us.
        if let Some(error) = self.lost.get() {
            lane.fail(1, error.clone());
        }
    }

    /// The error of every call once the device is lost.
    #[inline]
    pub(in crate::backend) fn check(&self) -> Result<()> {
        self.lost.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// The error that an answer is. If it says that the device is lost, everybody is told: by the pump, since whoever asks
    /// may hold a lock.
    #[cold]
    pub(in crate::backend) fn refused(&self, call: &str, code: vk::Result) -> Error {
        let error = error(call, code);
        if code == vk::Result::ERROR_DEVICE_LOST {
            self.pump.tell_lost(error.clone());
        }
        error
    }

    /// The device is lost: every stream of it has failed, and everyone who waits for one of them is told. With no lock held.
    #[cold]
    pub(super) fn lose(&self, error: Error) {
        // The first loss is the one that is told.
        let error = self.lost.get_or_init(|| error).clone();
        let lanes: Vec<_> = lock(&self.lanes).iter().filter_map(Weak::upgrade).collect();
        relay::batch(
            || {
                for lane in &lanes {
                    // What the GPU still does to memory nobody knows.
                    lane.runs_on();
                    lane.fail(lane.completed() + 1, error.clone());
                }
            },
            || {
                for queue in lanes.iter().filter_map(|lane| lane.downcast::<Queue>()) {
                    let dropped = queue.give_up_from(0, error.clone());
                    defer(move || drop(dropped));
                }
                self.bridges().let_go();
            },
        );
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }
}

/// No more queues than this are made: streams share them.
const MOST_QUEUES: u32 = 16;

/// A device, and how it came about.
struct Made<'a> {
    instance: ash::Instance,
    get: GetInstanceProcAddr,
    device: ash::Device,
    enabled: Vec<&'a CStr>,
    ours: bool,
    /// Queues for signals to others.
    ways: Vec<vk::Queue>,
}

/// What streams on queues of a family share, made when it is first used.
fn family_of(
    driver: &Driver,
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    index: u32,
) -> Result<Arc<Family>> {
    let mut families = lock(&driver.families);
    if let Some(family) = families.iter().find(|family| family.index == index) {
        return Ok(family.clone());
    }
    // SAFETY: the physical device is of this instance.
    let properties = unsafe { instance.get_physical_device_queue_family_properties(physical) };
    let Some(properties) = properties.get(index as usize) else {
        return Err(Error::with_text(
            ErrorKind::InvalidArgument,
            format!("the device has no queue family number {index}"),
        ));
    };
    let family = Arc::new(Family::new(driver, index, properties)?);
    families.push(family.clone());
    Ok(family)
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // In a fork's child all of this is the parent's (R41).
        if !fork::happened() {
            // SAFETY: dropped here, once, and nobody uses it afterwards.
            let driver = unsafe { ManuallyDrop::take(&mut self.driver) };
            // To destroy a device takes milliseconds, and what keeps a user's alive has a destructor of theirs.
            self.pump.end(driver);
        }
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("name", &self.name)
            .field("lost", &self.lost.get())
            .finish_non_exhaustive()
    }
}

/// A timeline semaphore while it is in use. Those that nobody uses any more go on to the next, from where they stand: a
/// stream's positions are counted from `base`.
pub(in crate::backend) struct Semaphore {
    pub(in crate::backend) raw: vk::Semaphore,
    pub(super) base: u64,
    /// The highest value that was submitted to be signaled.
    pub(super) highest: AtomicU64,
    /// None for a user's.
    gpu: Option<Arc<Gpu>>,
    /// What keeps a user's.
    _keep_alive: Option<Kept>,
}

impl Semaphore {
    /// One of the user's, or one that is kept elsewhere.
    pub(in crate::backend) fn foreign(raw: vk::Semaphore, keep_alive: Option<Kept>) -> Arc<Self> {
        Arc::new(Self { raw, base: 0, highest: AtomicU64::new(0), gpu: None, _keep_alive: keep_alive })
    }

    /// Whether it is ours, and was submitted to be signaled to more than it has come to.
    pub(super) fn is_awaited(&self, device: &ash::Device) -> bool {
        // Relaxed: for whoever is the last to use it.
        let highest = self.highest.load(Ordering::Relaxed);
        // SAFETY: the semaphore is there for as long as its device is.
        let value = unsafe { device.get_semaphore_counter_value(self.raw) };
        self.gpu.is_some() && highest != u64::MAX && value.is_ok_and(|value| value < highest)
    }

    /// The value that stands for a position.
    #[inline]
    pub(super) fn value(&self, position: u64) -> u64 {
        self.base + position
    }

    /// Nobody knows what becomes of it: it is not used again.
    pub(super) fn forget(&self) {
        self.raise(u64::MAX);
    }

    /// That value is on its way.
    pub(super) fn raise(&self, value: u64) {
        // Relaxed: for whoever drops the last reference, which synchronizes.
        self.highest.fetch_max(value, Ordering::Relaxed);
    }

    /// The position that the GPU has reached.
    #[inline]
    pub(in crate::backend) fn reached(&self, device: &ash::Device) -> Result<u64, vk::Result> {
        // SAFETY: the semaphore is there for as long as its device is.
        let value = unsafe { device.get_semaphore_counter_value(self.raw) }?;
        Ok(value.saturating_sub(self.base))
    }
}

impl Semaphore {
    /// Blocks until the GPU has reached the position, or for so long. False if that can't be waited for.
    pub(super) fn block(&self, device: &ash::Device, position: u64, until: Instant) -> bool {
        let (semaphores, values) = ([self.raw], [self.value(position)]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        let left = until.saturating_duration_since(Instant::now()).as_nanos() as u64;
        // SAFETY: the semaphore is there for as long as its device is.
        matches!(unsafe { device.wait_semaphores(&info, left) }, Ok(()) | Err(vk::Result::TIMEOUT))
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        let Some(gpu) = self.gpu.take() else { return };
        let highest = *self.highest.get_mut();
        if !fork::happened() && !gpu.is_lost() && highest != u64::MAX {
            lock(&gpu.spare).push((self.raw, highest));
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("raw", &self.raw).field("base", &self.base).finish_non_exhaustive()
    }
}
