//! Devices that a runtime can compute on, and how a model is spread over them.

use super::abi::{GgmlDevice, DEVICE_GPU, DEVICE_IGPU};
use super::{text, Runtime};
use crate::error::{Error, Kind, Result};
use std::sync::Arc;

/// A device of a runtime: a GPU, or the CPU itself.
#[derive(Clone, Debug)]
pub struct Device {
    pub(super) ptr: *mut GgmlDevice,
    /// The runtime's name: `CUDA0`, `Metal`, `Vulkan0`, `CPU`.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Bytes that are free, as the device says.
    pub memory_free: usize,
    /// Bytes that it has.
    pub memory_total: usize,
    kind: i32,
}

// SAFETY: ggml's devices live as long as the process; asking them needs no particular thread.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// True for what weights can be moved to: a GPU, integrated or not.
    pub fn is_gpu(&self) -> bool {
        [DEVICE_GPU, DEVICE_IGPU].contains(&self.kind)
    }
}

/// Where a model's weights go.
#[derive(Clone, Debug, Default)]
pub struct Offload {
    /// Devices; none keeps everything on the CPU.
    pub devices: Vec<Device>,
    /// Blocks that go to the devices, counted from the last; `None` for all, and the output weights.
    pub n_gpu_layers: Option<u32>,
}

/// More blocks than any model has.
pub const ALL_LAYERS: u32 = i32::MAX as u32;

impl Offload {
    /// Reads `--device` (names separated by commas, or `none`) and `-ngl`. Without either the CPU computes; a number of
    /// layers alone means every GPU.
    ///
    /// # Errors
    /// If a name is that of no GPU, or layers are to be moved and there is none.
    pub fn parse(runtime: &Arc<Runtime>, names: Option<&str>, n_gpu_layers: Option<u32>) -> Result<Self> {
        Self::named(runtime, names, n_gpu_layers, ["--device", "-ngl"])
    }

    /// The same where both are called something else, which messages say.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn named(
        runtime: &Arc<Runtime>,
        names: Option<&str>,
        n_gpu_layers: Option<u32>,
        [device, layers]: [&str; 2],
    ) -> Result<Self> {
        let gpus: Vec<_> = runtime.devices().into_iter().filter(Device::is_gpu).collect();
        let known = || match gpus.iter().map(|d| d.name.as_str()).collect::<Vec<_>>() {
            names if names.is_empty() => "this runtime has none".to_owned(),
            names => format!("this runtime has {}", names.join(", ")),
        };
        let wanted = names.map(|names| names.split(',').map(str::trim).filter(|n| !n.is_empty()).collect::<Vec<_>>());
        let devices = match wanted.as_deref() {
            Some(["none"]) => Vec::new(),
            Some([]) => return Err(Error::new(Kind::Argument, format!("{device}: no name given; {}", known()))),
            Some(names) => names
                .iter()
                .map(|name| {
                    let found = gpus.iter().find(|d| d.name.eq_ignore_ascii_case(name)).cloned();
                    found
                        .ok_or_else(|| Error::new(Kind::Argument, format!("{device} {name}: no such GPU; {}", known())))
                })
                .collect::<Result<_>>()?,
            None if n_gpu_layers.is_some_and(|n| n > 0) => gpus.clone(),
            None => Vec::new(),
        };
        if devices.is_empty() && n_gpu_layers.is_some_and(|n| n > 0) {
            let message = format!("{layers} {}: no GPU to move layers to; {}", n_gpu_layers.unwrap_or(0), known());
            return Err(Error::new(Kind::Argument, message));
        }
        Ok(Self { devices, n_gpu_layers })
    }
}

impl Runtime {
    /// Every device, in the runtime's order.
    pub fn devices(&self) -> Vec<Device> {
        let table = &self.table;
        // SAFETY: plain call.
        let n = unsafe { (table.dev_count)() };
        let describe = |i: usize| {
            let (mut memory_free, mut memory_total) = (0, 0);
            // SAFETY: below the count; devices and their names live as long as the process.
            unsafe {
                let ptr = (table.dev_get)(i);
                (table.dev_memory)(ptr, &mut memory_free, &mut memory_total);
                let (name, description) = (text((table.dev_name)(ptr)), text((table.dev_description)(ptr)));
                Device { ptr, name, description, memory_free, memory_total, kind: (table.dev_type)(ptr) }
            }
        };
        (0..n).map(describe).collect()
    }
}
