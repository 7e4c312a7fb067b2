//! The loader and the system's instance, handles as others write them, and words for Vulkan's errors.

use crate::{
    error::{Error, ErrorKind, Result},
    primitive::lock,
};
use ash::vk::{self, Handle};
use std::{
    ffi::{CStr, c_char, c_void},
    fmt,
    mem::transmute,
    sync::Mutex,
};

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident = $raw:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(transparent)]
        pub struct $name(
            /// The handle, as a number.
            pub u64,
        );

        // Which way each of them goes is another question.
        #[allow(dead_code)]
        impl $name {
            pub(super) fn handle(self) -> vk::$raw {
                vk::$raw::from_raw(self.0)
            }

            pub(super) fn of(handle: vk::$raw) -> Self {
                Self(handle.as_raw())
            }
        }

        #[cfg(feature = "ash-0_38")]
        impl From<vk::$raw> for $name {
            fn from(handle: vk::$raw) -> Self {
                Self::of(handle)
            }
        }

        #[cfg(feature = "ash-0_38")]
        impl From<$name> for vk::$raw {
            fn from(raw: $name) -> Self {
                raw.handle()
            }
        }
    )*};
}

handles! {
    /// A `VkInstance`.
    RawInstance = Instance;
    /// A `VkPhysicalDevice`.
    RawPhysicalDevice = PhysicalDevice;
    /// A `VkDevice`.
    RawDevice = Device;
    /// A `VkQueue`.
    RawQueue = Queue;
    /// A `VkSemaphore`, a timeline one.
    RawSemaphore = Semaphore;
    /// A `VkCommandBuffer`.
    RawCommandBuffer = CommandBuffer;
}

/// `vkGetInstanceProcAddr`, by which all other functions are found.
pub type GetInstanceProcAddr = unsafe extern "system" fn(
    instance: *mut c_void,
    name: *const c_char,
) -> Option<unsafe extern "system" fn()>;

/// What the system's library is called.
const NAMES: &[&str] = if cfg!(windows) {
    &["vulkan-1.dll"]
} else if cfg!(target_vendor = "apple") {
    &["libvulkan.dylib", "libvulkan.1.dylib", "libMoltenVK.dylib"]
} else if cfg!(target_os = "android") {
    &["libvulkan.so"]
} else {
    &["libvulkan.so.1", "libvulkan.so"]
};

/// As ash has it.
pub(super) fn entry(get: GetInstanceProcAddr) -> ash::Entry {
    // SAFETY: the same function, whose handle ash gives a type of its own.
    let get_instance_proc_addr =
        unsafe { transmute::<GetInstanceProcAddr, vk::PFN_vkGetInstanceProcAddr>(get) };
    // SAFETY: what is given out under that name is that function.
    unsafe { ash::Entry::from_static_fn(ash::StaticFn { get_instance_proc_addr }) }
}

/// The system's loader, and an instance of our own. Made with the first device, and never destroyed: to make one takes up to
/// half a second.
pub(super) struct System {
    pub(super) get: GetInstanceProcAddr,
    pub(super) instance: ash::Instance,
}

impl System {
    /// # Errors
    /// [`ErrorKind::Unavailable`], with what was looked for.
    pub(super) fn get() -> Result<&'static Self> {
        static MADE: Mutex<Option<&'static System>> = Mutex::new(None);
        let mut made = lock(&MADE);
        if let Some(system) = *made {
            return Ok(system);
        }
        let system: &'static Self = Box::leak(Box::new(Self::make()?));
        *made = Some(system);
        Ok(system)
    }

    fn make() -> Result<Self> {
        let get = load()?;
        let entry = entry(get);
        // SAFETY: the loader's own function, with nothing to be kept alive.
        let version = unsafe { entry.try_enumerate_instance_version() };
        let version = version.ok().flatten().unwrap_or(vk::API_VERSION_1_0);
        if version < vk::API_VERSION_1_2 {
            return Err(unavailable(format!("Vulkan's loader is of version {}", said(version))));
        }
        let application = vk::ApplicationInfo::default()
            .engine_name(c"gpu-events")
            .api_version(version.min(vk::API_VERSION_1_3));
        // SAFETY: as above.
        let extensions = unsafe { entry.enumerate_instance_extension_properties(None) }.unwrap_or_default();
        let portable = extensions
            .iter()
            .any(|offered| offered.extension_name_as_c_str() == Ok(vk::KHR_PORTABILITY_ENUMERATION_NAME));
        // Drivers on top of another one, as MoltenVK is, are shown to those alone who ask.
        let (flags, enabled) = if portable {
            let name = vk::KHR_PORTABILITY_ENUMERATION_NAME.as_ptr();
            (vk::InstanceCreateFlags::ENUMERATE_PORTABILITY_KHR, vec![name])
        } else {
            (vk::InstanceCreateFlags::empty(), Vec::new())
        };
        let info = vk::InstanceCreateInfo::default()
            .flags(flags)
            .application_info(&application)
            .enabled_extension_names(&enabled);
        // SAFETY: what `info` points at lives to the end of the call.
        let instance = unsafe { entry.create_instance(&info, None) }
            .map_err(|code| unavailable(format!("Vulkan's loader finds no driver: {}", say(code))))?;
        Ok(Self { get, instance })
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("System").finish_non_exhaustive()
    }
}

fn load() -> Result<GetInstanceProcAddr> {
    let mut why = Vec::new();
    for name in NAMES {
        // SAFETY: the loader is made to be loaded in this way.
        match unsafe { libloading::Library::new(*name) } {
            Ok(library) => {
                // SAFETY: the loader's function of this name has this type.
                let found = unsafe { library.get::<GetInstanceProcAddr>("vkGetInstanceProcAddr") };
                let found = found.map(|get| *get).map_err(|error| unavailable(error.to_string()));
                // Never unloaded: what it has started runs on.
                std::mem::forget(library);
                return found;
            }
            Err(error) => why.push(error.to_string()),
        }
    }
    Err(unavailable(format!(
        "Vulkan's loader is not installed: looked for {} ({})",
        NAMES.join(" and "),
        why.join("; ")
    )))
}

pub(super) fn unavailable(text: String) -> Error {
    Error::with_text(ErrorKind::Unavailable, text)
}

/// A version, as people write it.
pub(super) fn said(version: u32) -> String {
    format!("{}.{}", vk::api_version_major(version), vk::api_version_minor(version))
}

/// What an answer is called.
pub(super) fn say(code: vk::Result) -> String {
    // ash's text for a person, and its name for whoever looks it up.
    format!("{code:?} ({}), {code}", code.as_raw())
}

/// The error that an answer is.
#[cold]
pub(in crate::backend) fn error(call: &str, code: vk::Result) -> Error {
    let kind = match code {
        vk::Result::ERROR_DEVICE_LOST => ErrorKind::DeviceLost,
        vk::Result::ERROR_OUT_OF_HOST_MEMORY
        | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY
        | vk::Result::ERROR_TOO_MANY_OBJECTS
        | vk::Result::ERROR_OUT_OF_POOL_MEMORY => ErrorKind::Resources,
        vk::Result::ERROR_INITIALIZATION_FAILED
        | vk::Result::ERROR_INCOMPATIBLE_DRIVER
        | vk::Result::ERROR_EXTENSION_NOT_PRESENT
        | vk::Result::ERROR_FEATURE_NOT_PRESENT => ErrorKind::Unavailable,
        _ => ErrorKind::Driver,
    };
    Error::with_text(kind, format!("{call}: {}", say(code)))
}

/// A name that a driver gives.
pub(super) fn text(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|byte| byte.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned())
}
