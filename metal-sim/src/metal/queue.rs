//! `MTLCommandQueue`.

use super::command_buffer::CommandBuffer;
use super::device::Device;
use super::{Label, new_id};
use crate::control::{COUNTS, Nil, count, gives_nil};
use crate::violation::violation;
use objc2::rc::Retained;
use objc2::runtime::{NSObject, NSObjectProtocol};
use objc2::{AnyThread, DefinedClass, Message, define_class, msg_send};
use objc2_foundation::NSString;
use objc2_metal::MTLCommandQueue;
use std::sync::{Condvar, Mutex, PoisonError};

pub(super) struct QueueState {
    pub(super) id: u64,
    pub(super) device: Retained<Device>,
    label: Label,
    /// How many more command buffers there may be before one completes.
    places: Mutex<usize>,
    freed: Condvar,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLCommandQueue"]
    #[ivars = QueueState]
    pub(super) struct CommandQueue;

    unsafe impl NSObjectProtocol for CommandQueue {}

    unsafe impl MTLCommandQueue for CommandQueue {
        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Device> {
            self.ivars().device.clone()
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }

        #[unsafe(method_id(commandBuffer))]
        fn command_buffer(&self) -> Option<Retained<CommandBuffer>> {
            self.create(true)
        }

        #[unsafe(method_id(commandBufferWithUnretainedReferences))]
        fn command_buffer_unretained(&self) -> Option<Retained<CommandBuffer>> {
            self.create(false)
        }
    }
);

impl CommandQueue {
    pub(super) fn new(device: Retained<Device>, max: usize) -> Retained<Self> {
        if max == 0 {
            violation("a command queue for no command buffers");
        }
        let state = QueueState {
            id: new_id(),
            device,
            label: Label::default(),
            places: Mutex::new(max.max(1)),
            freed: Condvar::new(),
        };
        let this = Self::alloc().set_ivars(state);
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }

    fn create(&self, retain: bool) -> Option<Retained<CommandBuffer>> {
        if gives_nil(Nil::CommandBuffer) {
            return None;
        }
        count(&COUNTS.command_buffers);
        let mut places = self.ivars().places.lock().unwrap_or_else(PoisonError::into_inner);
        if *places == 0 {
            count(&COUNTS.blocked_creations);
            let full = |places: &mut usize| *places == 0;
            places = self.ivars().freed.wait_while(places, full).unwrap_or_else(PoisonError::into_inner);
        }
        *places -= 1;
        drop(places);
        Some(CommandBuffer::new(self.retain(), retain))
    }

    /// Gives a place back: a command buffer has completed, or is gone without having been committed.
    pub(super) fn free_place(&self) {
        *self.ivars().places.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.ivars().freed.notify_one();
    }
}
