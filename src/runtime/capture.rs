//! Records every node of one decode before anything is computed.
//!
//! llama.cpp asks about all nodes of its graph before the first one runs; the abort callback then stops the decode. So a
//! capture touches no weight page and takes milliseconds (specs: tracing, section 1).

use super::abi::{ContextSpec, GgmlTensor, FLAG_INPUT};
use super::{Context, Model, WeightData};
use crate::error::{Error, Kind, Result};
use quant::Type;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

/// Where a captured tensor comes from.
#[derive(Clone, Debug)]
pub enum RawKind {
    /// An op's result; the number is the runtime's.
    Node(i32),
    /// A weight of the model, with its place; `None` if its bytes cannot be shared (a private layout, another device).
    Weight(Option<WeightData>),
    /// An input that was filled before the capture; its bytes.
    Input(Vec<u8>),
    /// Anything else without an op: the context's cache or state.
    State,
}

/// A tensor as the runtime described it.
#[derive(Clone, Debug)]
pub struct RawNode {
    /// Where it comes from.
    pub kind: RawKind,
    /// The runtime's name.
    pub name: String,
    /// Element type.
    pub ty: Type,
    /// Shape.
    pub ne: [i64; 4],
    /// Byte strides.
    pub nb: [usize; 4],
    /// `op_params`.
    pub params: [i32; 16],
    /// Sources as indices into the capture.
    pub src: Vec<Option<usize>>,
    /// The tensor whose memory this one uses, for views and in-place results.
    pub view_src: Option<usize>,
}

/// Buffers that hold weights as the file does.
const PLAIN_BUFFERS: [&str; 2] = ["CPU", "CPU_Mapped"];

/// True for buffers whose weights the CPU backend multiplies, whatever their layout.
fn on_cpu(buffer: &str) -> bool {
    buffer.starts_with("CPU") || buffer == "AMX"
}

struct Recorder {
    model: Arc<Model>,
    nodes: Vec<RawNode>,
    index: HashMap<usize, usize>,
    fault: Option<Error>,
}

impl Recorder {
    /// Copies a tensor and, first, sources that were never asked about (leaves).
    ///
    /// # Safety
    /// `ptr` is a live tensor of the graph that is being asked about.
    unsafe fn record(&mut self, ptr: *mut GgmlTensor) -> Result<usize> {
        if let Some(&i) = self.index.get(&(ptr as usize)) {
            return Ok(i);
        }
        // SAFETY: by the caller.
        let t = unsafe { *ptr };
        // SAFETY: names are NUL-terminated within their field.
        let name = unsafe { super::text(t.name.as_ptr()) };
        let ty = u32::try_from(t.ty).ok().and_then(Type::from_id);
        let ty = ty.ok_or_else(|| Error::new(Kind::Unsupported, format!("tensor {name} has unknown type {}", t.ty)))?;
        let n_src = t.src.iter().rposition(|s| !s.is_null()).map_or(0, |i| i + 1);
        let mut src = Vec::with_capacity(n_src);
        for &s in &t.src[..n_src] {
            // SAFETY: sources of a live node are live. A cast names itself as its second source.
            src.push(if s.is_null() || s == ptr { None } else { Some(unsafe { self.record(s) }?) });
        }
        // SAFETY: as above.
        let view_src = if t.view_src.is_null() { None } else { Some(unsafe { self.record(t.view_src) }?) };
        // SAFETY: as above.
        let kind = unsafe { self.kind(ptr, &t, ty, &name) };
        self.nodes.push(RawNode { kind, name, ty, ne: t.ne, nb: t.nb, params: t.op_params, src, view_src });
        self.index.insert(ptr as usize, self.nodes.len() - 1);
        Ok(self.nodes.len() - 1)
    }

    /// # Safety
    /// As [`Self::record`].
    unsafe fn kind(&self, ptr: *mut GgmlTensor, t: &GgmlTensor, ty: Type, name: &str) -> RawKind {
        let runtime = &self.model.runtime;
        if runtime.names().name(t.op) != "NONE" {
            return RawKind::Node(t.op);
        }
        if t.flags & FLAG_INPUT != 0 {
            let rows: i64 = t.ne[1] * t.ne[2] * t.ne[3];
            let bytes = ty.row_bytes(t.ne[0].max(0) as u64).unwrap_or(0) as usize * rows.max(0) as usize;
            let host = !t.data.is_null() && t.nb[1] * rows.max(0) as usize == bytes;
            if !host {
                return RawKind::Input(Vec::new());
            }
            // SAFETY: inputs lie contiguous in host memory and are filled when the callback asks.
            let data = unsafe { std::slice::from_raw_parts(t.data.cast::<u8>(), bytes) };
            return RawKind::Input(data.to_vec());
        }
        // SAFETY: a non-null buffer of a live tensor is live.
        let (is_weight, is_host, buffer) = unsafe {
            let table = &runtime.table;
            if t.buffer.is_null() {
                (false, false, String::new())
            } else {
                let is_weight = (table.buffer_usage)(t.buffer) == table.usage_weights;
                (is_weight, (table.buffer_is_host)(t.buffer), super::text((table.buffer_name)(t.buffer)))
            }
        };
        if !is_weight {
            return RawKind::State;
        }
        let to_float = if ty == Type::F32 { None } else { runtime.to_float(ty) };
        // Repacked buffers keep a private layout that neither type nor strides betray.
        if is_host && !t.data.is_null() && PLAIN_BUFFERS.contains(&buffer.as_str()) {
            let (mapped, data, row_bytes) = (std::ptr::null_mut(), t.data.cast(), t.nb[1]);
            return RawKind::Weight(Some(WeightData { tensor: ptr, mapped, data, row_bytes, to_float }));
        }
        let of_file = self.model.file.as_ref().filter(|_| on_cpu(&buffer)).and_then(|weights| {
            let info = weights.file.tensor(name)?;
            let same = info.ty == ty && info.ne.map(|n| n as i64) == t.ne;
            let (data, row_bytes) = (weights.file.data(info).as_ptr(), ty.row_bytes(info.ne[0])? as usize);
            same.then_some(WeightData { tensor: ptr, mapped: weights.buffer, data, row_bytes, to_float })
        });
        RawKind::Weight(of_file)
    }
}

unsafe extern "C" fn on_node(tensor: *mut GgmlTensor, ask: bool, user: *mut c_void) -> bool {
    // SAFETY: `user` is the recorder of the capture in progress; llama.cpp calls from the decoding thread only.
    let recorder = unsafe { &mut *user.cast::<Recorder>() };
    if ask && recorder.fault.is_none() {
        // SAFETY: the tensor is a live node of the graph.
        if let Err(fault) = unsafe { recorder.record(tensor) } {
            recorder.fault = Some(fault);
        }
    }
    false
}

unsafe extern "C" fn always_stop(_user: *mut c_void) -> bool {
    true
}

/// Captures the graph that llama.cpp builds for `tokens` as one sequence starting at `position`, logits wanted for
/// all tokens or only for the last.
pub fn capture(model: &Arc<Model>, tokens: &[i32], position: usize, all_logits: bool) -> Result<Vec<RawNode>> {
    let mut recorder = Box::new(Recorder { model: model.clone(), nodes: vec![], index: HashMap::new(), fault: None });
    let spec = ContextSpec {
        n_ctx: (position + tokens.len()).max(64) as u32,
        n_seq_max: 1,
        n_threads: 1,
        eval: Some(on_node),
        abort: Some(always_stop),
        user: std::ptr::from_mut::<Recorder>(&mut recorder).cast(),
    };
    let batch: Vec<_> = tokens.iter().enumerate().map(|(i, &t)| (t, position + i, 0)).collect();
    // SAFETY: the recorder outlives the context, which is dropped at the end of this block.
    unsafe {
        let mut context = Context::with_spec(model, &spec)?;
        context.decode_status(&batch, |i| all_logits || i + 1 == batch.len())?;
    }
    // The aborted decode logs errors that mean nothing.
    model.runtime.last_log();
    if let Some(fault) = recorder.fault.take() {
        return Err(fault);
    }
    if recorder.nodes.is_empty() {
        let message = format!("{}: llama.cpp built no graph for {} tokens", model.path().display(), tokens.len());
        return Err(Error::new(Kind::Unsupported, message));
    }
    Ok(std::mem::take(&mut recorder.nodes))
}
