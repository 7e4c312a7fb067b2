//! In place of `interop.rs` where only one of the two sides is built, or they have no way to share: nothing is native.

use super::Source;
#[cfg(feature = "cuda")]
use super::Waited;
#[cfg(feature = "cuda")]
use crate::error::Result;

#[cfg(feature = "cuda")]
#[derive(Debug, Default)]
pub(super) struct Bridged(());

#[cfg(feature = "cuda")]
impl Bridged {
    pub(super) fn let_go(&self) {}
}

#[cfg(feature = "cuda")]
pub(super) fn gate_closes() {}

#[cfg(feature = "cuda")]
pub(super) fn gate_opens() {}

#[cfg(feature = "cuda")]
pub(super) fn of_cuda<G>(_gpu: &G) -> &'static [&'static str] {
    &[]
}

#[cfg(feature = "cuda")]
pub(super) fn cuda_waits<Q>(_queue: &Q, _source: &Source<'_>) -> Result<Waited> {
    Ok(Waited::Unsupported)
}

#[cfg(feature = "vulkan")]
pub(super) use of_vulkan::{Bridges, EXTENSIONS, can_export, vulkan_waits, ways};

#[cfg(feature = "vulkan")]
mod of_vulkan {
    use super::Source;
    use ash::vk;
    use std::ffi::CStr;

    pub(in crate::backend) const EXTENSIONS: &[&CStr] = &[];

    pub(in crate::backend) fn ways(_offered: u32) -> u32 {
        0
    }

    pub(in crate::backend) fn can_export(_instance: &ash::Instance, _physical: vk::PhysicalDevice) -> bool {
        false
    }

    pub(in crate::backend) fn vulkan_waits<G, S>(_gpu: &G, _source: &Source<'_>) -> Option<(S, u64)> {
        None
    }

    pub(in crate::backend) struct Bridges;

    impl Bridges {
        pub(in crate::backend) fn new(
            _instance: &ash::Instance,
            _device: &ash::Device,
            _possible: bool,
            _uuid: [u8; vk::UUID_SIZE],
            _ways: Vec<vk::Queue>,
        ) -> Self {
            Self
        }

        pub(in crate::backend) fn natives(_possible: bool) -> &'static [&'static str] {
            &[]
        }

        pub(in crate::backend) fn are_possible(&self) -> bool {
            false
        }

        pub(in crate::backend) fn count(&self) -> usize {
            0
        }

        pub(in crate::backend) fn let_go(&self) {}

        pub(in crate::backend) fn destroy(&self) {}
    }
}
