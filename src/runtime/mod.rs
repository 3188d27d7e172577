//! The only door to ggml and llama.cpp: a table of functions, and safe owners of what they return.
//!
//! **In:** a model file, or (later) a host's table. **Out:** models, contexts, captured nodes, graphs that run.
//! **Invariant:** nothing outside this folder calls ggml; every argument that could make ggml abort is checked first.

pub mod abi;
mod attach;
mod backend;
mod capture;
mod context;
mod device;
mod graph;
mod guard;
mod host;
#[cfg(feature = "linked")]
mod linked;
#[cfg(all(feature = "loaded", unix, target_arch = "x86_64"))]
mod loaded;
#[cfg(any(feature = "linked", feature = "loaded"))]
mod log;
mod model;
mod names;
mod observe;

pub use abi::ToFloat;
pub use backend::{Backend, Tally};
pub use capture::{capture, RawKind, RawNode};
pub use context::{Adapter, Context, Sampler, SamplerParams};
pub use device::{Device, Offload, ALL_LAYERS};
pub use graph::{Call, Graph, GraphBuilder, Kernel, Memory, NodeSpec, Operand, Region, Tensor};
pub use host::{Host, Layout, HOST_ABI};
pub use model::{Model, WeightData};
pub use names::Names;
pub use observe::{observe, Observed};

use crate::error::{Error, Kind, Result};
use abi::Table;
use std::ffi::CStr;
use std::sync::Arc;

/// A runtime: its functions and its numbers for ops.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) table: Table,
    names: Names,
}

impl Runtime {
    /// The llama.cpp that is built into this library.
    #[cfg(feature = "linked")]
    pub fn linked() -> Result<Arc<Self>> {
        // SAFETY: the table holds the built-in llama.cpp's functions.
        unsafe { Self::from_table(linked::table()) }
    }

    /// The llama.cpp that this process has loaded, whatever its files are called: a host's own, whose models may be attached.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if there is none, or more than one, or one that is not known: the message has the reason.
    #[cfg(feature = "loaded")]
    pub fn from_process() -> Result<Arc<Self>> {
        #[cfg(all(unix, target_arch = "x86_64"))]
        {
            let (table, _) = loaded::from_process()?;
            // SAFETY: the table holds the functions of one loaded llama.cpp that is never unloaded.
            unsafe { Self::from_table(table) }
        }
        #[cfg(not(all(unix, target_arch = "x86_64")))]
        Err(Error::new(Kind::Unsupported, LOADED_ELSEWHERE))
    }

    /// The llama.cpp in a shared library, or in the one `libllama` of a directory; it is loaded unless the process has it.
    ///
    /// # Errors
    /// [`Kind::Missing`] if there is no such library, [`Kind::Unsupported`] if it cannot be loaded or is not known.
    #[cfg(feature = "loaded")]
    pub fn from_library(path: &std::path::Path) -> Result<Arc<Self>> {
        #[cfg(all(unix, target_arch = "x86_64"))]
        {
            let (table, _) = loaded::from_library(path)?;
            // SAFETY: as above.
            unsafe { Self::from_table(table) }
        }
        #[cfg(not(all(unix, target_arch = "x86_64")))]
        Err(Error::new(Kind::Unsupported, format!("{}: {LOADED_ELSEWHERE}", path.display())))
    }

    /// Takes a filled table after comparing what can be compared.
    ///
    /// # Safety
    /// Every function is that of one loaded ggml and llama.cpp whose tensors are laid out as [`abi::GgmlTensor`], and stays
    /// loaded as long as the result lives.
    pub unsafe fn from_table(table: Table) -> Result<Arc<Self>> {
        // SAFETY: the table's functions are those of one loaded ggml.
        let overhead = unsafe { (table.tensor_overhead)() };
        if overhead < size_of::<abi::GgmlTensor>() || overhead > size_of::<abi::GgmlTensor>() + 64 {
            let message = format!("ggml_tensor_overhead() is {overhead}: this ggml lays its tensors out differently");
            return Err(Error::new(Kind::Unsupported, message));
        }
        let names = Names::read(&table)?;
        Ok(Arc::new(Self { table, names }))
    }

    /// The functions that it calls.
    pub fn table(&self) -> Table {
        self.table
    }

    /// ggml's numbers for ops, by name.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The version that ggml reports.
    pub fn version(&self) -> String {
        // SAFETY: ggml returns a static string.
        unsafe { text((self.table.ggml_version)()) }
    }

    /// ggml's decoder of a type's rows to F32; `None` for F32 itself and for integer types.
    pub fn to_float(&self, ty: quant::Type) -> Option<ToFloat> {
        // SAFETY: `quant::Type` holds only ids that ggml has.
        unsafe { (self.table.to_float)(ty.id() as i32) }
    }

    /// Decodes whole rows to F32 with ggml's own decoder.
    ///
    /// # Errors
    /// If the bytes do not hold that many values of the type, or ggml has no decoder of it.
    pub fn dequantize(&self, ty: quant::Type, bytes: &[u8], values: &mut [f32]) -> Result<()> {
        if ty.row_bytes(values.len() as u64) != Some(bytes.len() as u64) {
            let message = format!("{} bytes do not hold {} values of {}", bytes.len(), values.len(), ty.name());
            return Err(Error::new(Kind::Argument, message));
        }
        if ty == quant::Type::F32 {
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            return Ok(());
        }
        let Some(decode) = self.to_float(ty) else {
            return Err(Error::new(Kind::Unsupported, format!("ggml has no decoder of {}", ty.name())));
        };
        // Blocks hold numbers of 16 bits; in a file they lie where those may lie.
        let copy: Vec<u8>;
        let bytes = if (bytes.as_ptr() as usize).is_multiple_of(2) {
            bytes
        } else {
            copy = bytes.to_vec();
            &copy
        };
        // SAFETY: the bytes hold as many values as there is room for, checked above.
        unsafe { decode(bytes.as_ptr().cast(), values.as_mut_ptr(), values.len() as i64) };
        Ok(())
    }

    /// True for types that ggml encodes without an importance matrix.
    pub fn can_quantize(ty: quant::Type) -> bool {
        Self::can_encode(ty) && !Self::needs_imatrix(ty)
    }

    /// True for types that ggml encodes, with an importance matrix if need be.
    pub fn can_encode(ty: quant::Type) -> bool {
        use quant::Type::*;
        !matches!(ty, Q8_1 | Q8_K | I8 | I16 | I32 | I64 | F64)
    }

    /// True for types that ggml does not encode without an importance matrix.
    pub fn needs_imatrix(ty: quant::Type) -> bool {
        use quant::Type::*;
        matches!(ty, IQ2_XXS | IQ2_XS | IQ1_S)
    }

    /// Quantises rows of `n_per_row` values with ggml's own encoder.
    ///
    /// # Errors
    /// If the values are no whole rows of whole blocks or not all finite, or ggml does not encode the type.
    pub fn quantize(&self, ty: quant::Type, values: &[f32], n_per_row: usize) -> Result<Vec<u8>> {
        self.quantize_with(ty, values, n_per_row, None)
    }

    /// The same with an importance matrix: a number for every value of a row.
    pub fn quantize_with(
        &self,
        ty: quant::Type,
        values: &[f32],
        n_per_row: usize,
        imatrix: Option<&[f32]>,
    ) -> Result<Vec<u8>> {
        let row = ty.row_bytes(n_per_row as u64).filter(|_| n_per_row > 0 && values.len().is_multiple_of(n_per_row));
        let Some(row) = row else {
            let message = format!("{} values in rows of {n_per_row} cannot be stored as {}", values.len(), ty.name());
            return Err(Error::new(Kind::Argument, message));
        };
        if imatrix.is_some_and(|importances| importances.len() != n_per_row) {
            return Err(Error::new(Kind::Argument, "the importance matrix is for rows of another length"));
        }
        if !Self::can_encode(ty) || (Self::needs_imatrix(ty) && imatrix.is_none()) {
            let message = format!("ggml does not encode {} without an importance matrix", ty.name());
            return Err(Error::new(Kind::Unsupported, message));
        }
        // The encoders of the code-book types fail an assertion on what is no number.
        if let Some(bad) = values.iter().chain(imatrix.unwrap_or_default()).position(|v| !v.is_finite()) {
            let what = values.get(bad).map_or("an importance that is no number".to_owned(), |v| format!("{v}"));
            return Err(Error::new(Kind::Numeric, format!("value {bad} is {what}")));
        }
        let n_rows = values.len() / n_per_row;
        let mut out = vec![0u8; row as usize * n_rows];
        // SAFETY: `out` has room for `n_rows` rows, and the matrix has a number for each value of one, checked above.
        let written = guard::guarded(|| unsafe {
            let (src, dst) = (values.as_ptr(), out.as_mut_ptr().cast());
            let imatrix = imatrix.map_or(std::ptr::null(), <[f32]>::as_ptr);
            (self.table.quantize)(ty.id() as i32, src, dst, n_rows as i64, n_per_row as i64, imatrix)
        })?;
        if written == out.len() {
            Ok(out)
        } else {
            Err(Error::new(Kind::Unsupported, format!("ggml wrote {written} bytes of {} as {}", out.len(), ty.name())))
        }
    }

    /// The last error lines that llama.cpp logged, for messages.
    pub(crate) fn last_log(&self) -> String {
        let mut buf = vec![0u8; 4096];
        // SAFETY: the buffer has the length that is passed.
        let n = unsafe { (self.table.last_log)(buf.as_mut_ptr().cast(), buf.len()) };
        buf.truncate(n);
        String::from_utf8_lossy(&buf).trim().replace('\n', "; ")
    }
}

#[cfg(all(feature = "loaded", not(all(unix, target_arch = "x86_64"))))]
const LOADED_ELSEWHERE: &str = "how a loaded llama.cpp passes its parameters is known for Unix on x86-64 only";

/// The threads that are started where `wanted` are asked for: no more than there are cores. ggml's threads spin while they
/// wait for each other, so that a few too many make a computation a hundred times slower.
fn n_threads_started(wanted: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    wanted.clamp(1, cores)
}

/// A copy of a C string; empty for NULL.
///
/// # Safety
/// `ptr` is NULL or NUL-terminated and alive.
unsafe fn text(ptr: *const std::ffi::c_char) -> String {
    if ptr.is_null() {
        return String::new();
    }
    // SAFETY: by the caller.
    unsafe { CStr::from_ptr(ptr) }.to_string_lossy().into_owned()
}
