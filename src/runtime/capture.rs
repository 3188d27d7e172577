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

/// What the scheduler's copy of a tensor on another device is a copy of: it is named `<backend>#<name>#<number>`, and cut
/// where that is longer than a name may be.
fn copied_name(name: &str) -> Option<(&str, bool)> {
    let (backend, rest) = name.split_once('#')?;
    if backend.is_empty() {
        return None;
    }
    match rest.rsplit_once('#') {
        Some((original, number)) if number.bytes().all(|b| b.is_ascii_digit()) => Some((original, false)),
        _ => Some((rest, true)),
    }
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
        if let Some(i) = self.original(&t, ty, &name) {
            self.index.insert(ptr as usize, i);
            return Ok(i);
        }
        // SAFETY: as above.
        let kind = unsafe { self.kind(ptr, &t, ty, &name) };
        let name = match &kind {
            RawKind::Input(_) => copied_name(&name).map_or(name.as_str(), |(original, _)| original).to_owned(),
            _ => name,
        };
        self.nodes.push(RawNode { kind, name, ty, ne: t.ne, nb: t.nb, params: t.op_params, src, view_src });
        self.index.insert(ptr as usize, self.nodes.len() - 1);
        Ok(self.nodes.len() - 1)
    }

    /// The captured node that a scheduler's copy stands for. Names are not unique: the last one of this shape is meant.
    fn original(&self, t: &GgmlTensor, ty: Type, name: &str) -> Option<usize> {
        if self.model.runtime.names().name(t.op) != "NONE" || t.flags & FLAG_INPUT != 0 {
            return None;
        }
        let (original, is_cut) = copied_name(name)?;
        self.nodes.iter().rposition(|n| {
            let named = if is_cut { n.name.starts_with(original) } else { n.name == original };
            named && n.ty == ty && n.ne == t.ne && !matches!(n.kind, RawKind::State)
        })
    }

    /// # Safety
    /// As [`Self::record`].
    unsafe fn kind(&self, ptr: *mut GgmlTensor, t: &GgmlTensor, ty: Type, name: &str) -> RawKind {
        let runtime = &self.model.runtime;
        if runtime.names().name(t.op) != "NONE" {
            return RawKind::Node(t.op);
        }
        let table = &runtime.table;
        // SAFETY: a non-null buffer of a live tensor is live.
        let (is_weight, is_host, buffer) = unsafe {
            if t.buffer.is_null() {
                (false, !t.data.is_null(), String::new())
            } else {
                let is_weight = (table.buffer_usage)(t.buffer) == table.usage_weights;
                (is_weight, (table.buffer_is_host)(t.buffer), super::text((table.buffer_name)(t.buffer)))
            }
        };
        let is_copy = !is_weight && copied_name(name).is_some();
        if t.flags & FLAG_INPUT != 0 || is_copy {
            let rows: i64 = t.ne[1] * t.ne[2] * t.ne[3];
            let bytes = ty.row_bytes(t.ne[0].max(0) as u64).unwrap_or(0) as usize * rows.max(0) as usize;
            if t.data.is_null() || t.nb[1] * rows.max(0) as usize != bytes {
                return RawKind::Input(Vec::new());
            }
            if is_host {
                // SAFETY: inputs lie contiguous in host memory and are filled when the callback asks.
                let data = unsafe { std::slice::from_raw_parts(t.data.cast::<u8>(), bytes) };
                return RawKind::Input(data.to_vec());
            }
            let mut data = vec![0u8; bytes];
            // SAFETY: a contiguous tensor of a device, filled when the callback asks; the copy has its size.
            unsafe { (table.tensor_get)(ptr, data.as_mut_ptr().cast(), 0, bytes) };
            return RawKind::Input(data);
        }
        if !is_weight {
            return RawKind::State;
        }
        let to_float = if ty == Type::F32 { None } else { runtime.to_float(ty) };
        let here = |data| WeightData { tensor: ptr, mapped: std::ptr::null_mut(), data, row_bytes: t.nb[1], to_float };
        // Repacked buffers keep a private layout that neither type nor strides betray; a GPU's own host memory is plain.
        let is_plain = PLAIN_BUFFERS.contains(&buffer.as_str()) || buffer.ends_with("_Host");
        if is_host && !t.data.is_null() && is_plain {
            return RawKind::Weight(Some(here(t.data.cast_const().cast())));
        }
        // SAFETY: a weight has a live buffer.
        let device = unsafe { (table.buffer_device)(t.buffer) };
        if self.model.devices().iter().any(|d| d.ptr == device) {
            return RawKind::Weight(Some(here(std::ptr::null())));
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
        // What stops the CPU would hide the nodes of devices behind it.
        abort: if model.devices().is_empty() { Some(always_stop) } else { None },
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
