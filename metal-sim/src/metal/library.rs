//! `MTLLibrary`, `MTLFunction`, `MTLComputePipelineState` and `MTLCompileOptions`.

use super::device::Device;
use super::{Label, downcast};
use crate::control::{Nil, gives_nil};
use crate::foundation::error;
use crate::kernels::{self, Kernel};
use objc2::rc::Retained;
use objc2::runtime::{NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{AnyThread, ClassType, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSError, NSString};
use objc2_metal::{MTLAllocation, MTLComputePipelineState, MTLFunction, MTLLibrary};
use std::sync::Mutex;

/// Threads of a threadgroup, at most.
pub(super) const MAX_THREADS: usize = 1024;
const EXECUTION_WIDTH: usize = 32;

// Codes of `MTLLibraryError`.
const COMPILE_FAILURE: isize = 3;

pub(super) struct LibraryState {
    device: Retained<Device>,
    functions: Vec<String>,
    label: Label,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLLibrary"]
    #[ivars = LibraryState]
    pub(super) struct Library;

    unsafe impl NSObjectProtocol for Library {}

    unsafe impl MTLLibrary for Library {
        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }

        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Device> {
            self.ivars().device.clone()
        }

        #[unsafe(method_id(newFunctionWithName:))]
        fn new_function(&self, name: &NSString) -> Option<Retained<Function>> {
            let name = name.to_string();
            let found = self.ivars().functions.contains(&name) && !gives_nil(Nil::Function);
            found.then(|| Function::new(self.ivars().device.clone(), name))
        }
    }
);

impl Library {
    /// "Compiles": finds the kernels' names, and notices what is no program at all.
    pub(super) fn compile(
        device: Retained<Device>,
        source: &NSString,
    ) -> Result<Retained<Self>, Retained<NSError>> {
        let source = source.to_string();
        let depth = source.chars().try_fold(0_usize, |depth, c| match c {
            '{' => Some(depth + 1),
            '}' => depth.checked_sub(1),
            _ => Some(depth),
        });
        if depth != Some(0) {
            return Err(error(
                "MTLLibraryErrorDomain",
                COMPILE_FAILURE,
                "simulated: the braces don't balance",
            ));
        }
        let functions = kernel_names(&source);
        if functions.is_empty() {
            return Err(error(
                "MTLLibraryErrorDomain",
                COMPILE_FAILURE,
                "simulated: there is no `kernel void NAME(`",
            ));
        }
        let this = Self::alloc().set_ivars(LibraryState { device, functions, label: Label::default() });
        // SAFETY: the initializer of the superclass.
        Ok(unsafe { msg_send![super(this), init] })
    }
}

/// The names in `kernel void NAME(`.
fn kernel_names(source: &str) -> Vec<String> {
    let after_kernel = source.split("kernel").skip(1);
    let names = after_kernel.filter_map(|rest| {
        let rest = rest.trim_start().strip_prefix("void")?;
        let (name, _) = rest.split_once('(')?;
        let name = rest.starts_with(char::is_whitespace).then(|| name.trim())?;
        let identifier = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        identifier.then(|| name.to_owned())
    });
    names.collect()
}

pub(super) struct FunctionState {
    device: Retained<Device>,
    name: String,
    label: Label,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLFunction"]
    #[ivars = FunctionState]
    pub(super) struct Function;

    unsafe impl NSObjectProtocol for Function {}

    unsafe impl MTLFunction for Function {
        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }

        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Device> {
            self.ivars().device.clone()
        }

        #[unsafe(method_id(name))]
        fn name(&self) -> Retained<NSString> {
            NSString::from_str(&self.ivars().name)
        }
    }
);

impl Function {
    fn new(device: Retained<Device>, name: String) -> Retained<Self> {
        let this = Self::alloc().set_ivars(FunctionState { device, name, label: Label::default() });
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }

    pub(super) fn of(function: &ProtocolObject<dyn MTLFunction>) -> &Self {
        downcast(function)
    }
}

pub(super) struct PipelineState {
    device: Retained<Device>,
    kernel: Kernel,
    label: Label,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLComputePipelineState"]
    #[ivars = PipelineState]
    pub(super) struct Pipeline;

    unsafe impl NSObjectProtocol for Pipeline {}

    unsafe impl MTLAllocation for Pipeline {
        #[unsafe(method(allocatedSize))]
        fn allocated_size(&self) -> usize {
            0
        }
    }

    unsafe impl MTLComputePipelineState for Pipeline {
        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Device> {
            self.ivars().device.clone()
        }

        #[unsafe(method(maxTotalThreadsPerThreadgroup))]
        fn max_threads(&self) -> usize {
            MAX_THREADS
        }

        #[unsafe(method(threadExecutionWidth))]
        fn execution_width(&self) -> usize {
            EXECUTION_WIDTH
        }

        #[unsafe(method(staticThreadgroupMemoryLength))]
        fn threadgroup_memory(&self) -> usize {
            0
        }
    }
);

impl Pipeline {
    pub(super) fn new(
        device: Retained<Device>,
        function: &Function,
    ) -> Result<Retained<Self>, Retained<NSError>> {
        let FunctionState { name, label, .. } = function.ivars();
        let Some(kernel) = kernels::find(name) else {
            let text = format!("simulated: no stand-in is registered for the kernel {name}");
            return Err(error("MTLComputePipelineErrorDomain", COMPILE_FAILURE, &text));
        };
        let this =
            Self::alloc().set_ivars(PipelineState { device, kernel, label: Label(Mutex::new(label.text())) });
        // SAFETY: the initializer of the superclass.
        Ok(unsafe { msg_send![super(this), init] })
    }

    pub(super) fn of(pipeline: &ProtocolObject<dyn MTLComputePipelineState>) -> &Self {
        downcast(pipeline)
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.ivars().kernel
    }
}

define_class!(
    /// Options that change nothing here.
    #[unsafe(super(NSObject))]
    #[name = "MTLCompileOptions"]
    pub(super) struct CompileOptions;
);

pub(crate) fn define_compile_options() {
    CompileOptions::class();
}
