//! `llama_align_device`: what a runtime can compute on, and models that are opened there.

use super::guard::{create, guard};
use super::handle::get;
use super::model::{llama_align_model, ModelObject};
use super::params::{init, read, Out, Params, Struct};
use super::runtime::{llama_align_runtime, RuntimeObject};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{fill, text};
use super::LLAMA_ALIGN_OK;
use crate::runtime::Offload;
use std::ffi::c_char;
use std::path::Path;

/// All blocks if devices are named, none otherwise.
pub const LLAMA_ALIGN_GPU_LAYERS_AUTO: u32 = 0xffff_ffff;

/// A device of a runtime. Strings are UTF-8, terminated, and cut where they are longer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_device {
    /// sizeof(llama_align_device), set by the caller.
    pub struct_size: u32,
    /// 1 for a GPU, which weights can be moved to; 0 for the CPU and what helps it.
    pub is_gpu: u32,
    /// Bytes that it has, as it says.
    pub total_bytes: u64,
    /// Bytes of them that are free, as it says.
    pub free_bytes: u64,
    /// The runtime's name of it, such as "CUDA0", "Vulkan0", "CPU": what llama_align_model_open_on() takes.
    pub name: [c_char; 64],
    /// What it is.
    pub description: [c_char; 128],
}

/// How a model is opened. Fill it in with llama_align_model_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_model_params {
    /// sizeof(llama_align_model_params).
    pub struct_size: u32,
    /// Blocks whose weights go to the devices, counted from the last, as llama.cpp counts: one more than there are takes the
    /// output weights too, and so does every larger number but AUTO. Default LLAMA_ALIGN_GPU_LAYERS_AUTO.
    pub n_gpu_layers: u32,
}

// SAFETY: numbers and bytes only; no padding, as a test compares.
unsafe impl Struct for llama_align_device {
    const NAME: &'static str = "llama_align_device";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_model_params {
    const NAME: &'static str = "llama_align_model_params";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_model_params {
    fn defaults() -> Self {
        Self { struct_size: size_of::<Self>() as u32, n_gpu_layers: LLAMA_ALIGN_GPU_LAYERS_AUTO }
    }
}

/// Devices of a runtime, the CPU among them. `runtime` (borrowed): not NULL. `out` (borrowed): not NULL; gets their number. Any
/// thread, callback-safe. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_runtime_device_count(
    runtime: *const llama_align_runtime,
    out: *mut u64,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let runtime = get::<RuntimeObject>(runtime)?;
        if out.is_null() {
            return Err(argument("out is NULL"));
        }
        let n = runtime.log.during(|| runtime.runtime.devices().len());
        // SAFETY: not NULL, and writable by the caller.
        unsafe { out.write(n as u64) };
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Describes a device. `runtime` (borrowed): not NULL. `index`: below llama_align_runtime_device_count(). `out` (borrowed): not
/// NULL, struct_size set. Any thread, callback-safe. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_runtime_device(
    runtime: *const llama_align_runtime,
    index: u64,
    out: *mut llama_align_device,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let runtime = get::<RuntimeObject>(runtime)?;
        // SAFETY: `out` is what the header asks for.
        let out = unsafe { Out::new(out) }?;
        let devices = runtime.log.during(|| runtime.runtime.devices());
        let device = usize::try_from(index).ok().and_then(|i| devices.get(i));
        let device =
            device.ok_or_else(|| argument(format!("index: {index}, but the runtime has {} devices", devices.len())))?;
        let mut value = llama_align_device {
            struct_size: 0,
            is_gpu: u32::from(device.is_gpu()),
            total_bytes: device.memory_total as u64,
            free_bytes: device.memory_free as u64,
            name: [0; 64],
            description: [0; 128],
        };
        fill(&mut value.name, &device.name);
        fill(&mut value.description, &device.description);
        out.put(value);
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_model_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_model_params_init(
    params: *mut llama_align_model_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Opens a GGUF model with weights on devices, which then train: what they have no operation for runs on the CPU, and the log says
/// what that was. `runtime`: shared. `path` (borrowed): not NULL. `devices` (borrowed): names separated by commas, "none" for the CPU
/// alone, or NULL: every GPU if n_gpu_layers asks for blocks to be moved, else the CPU alone. `params` (borrowed): NULL for the
/// defaults. Precision must be AUTO wherever such a model is used: devices form products in numbers of their own. `out` (owned): not
/// NULL; NULL is written on failure. Errors: ARGUMENT (also a device that the runtime does not have), MISSING, IO, FORMAT,
/// MISMATCH (an adapter), UNSUPPORTED, MEMORY, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_model_open_on(
    runtime: *const llama_align_runtime,
    path: *const c_char,
    devices: *const c_char,
    params: *const llama_align_model_params,
    out: *mut *mut llama_align_model,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let runtime = get::<RuntimeObject>(runtime)?;
        // SAFETY: pointers are what the header asks for.
        let (path, params) = unsafe { (Path::new(text(path, "path")?), read(params)?) };
        // SAFETY: as above.
        let names = if devices.is_null() { None } else { Some(unsafe { text(devices, "devices") }?) };
        let llama_align_model_params { struct_size: _, n_gpu_layers } = params;
        let layers = (n_gpu_layers != LLAMA_ALIGN_GPU_LAYERS_AUTO).then_some(n_gpu_layers);
        let offload =
            runtime.log.during(|| Offload::named(&runtime.runtime, names, layers, ["devices:", "n_gpu_layers:"]))?;
        ModelObject::open(&runtime.runtime, runtime.log.clone(), path, &offload)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}
