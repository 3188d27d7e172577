//! Graphs that run: tensors, placed memory, our own ops, one computation.

use super::abi::{GgmlBuffer, GgmlContext, GgmlTensor, N_SRC, STATUS_SUCCESS};
use super::backend::Backend;
use super::{Runtime, WeightData};
use crate::error::{Error, Kind, Result};
use memmap2::MmapMut;
use quant::Type;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex};

/// Alignment of everything placed in a [`Memory`], in bytes.
pub(super) const ALIGNMENT: usize = 64;

/// A part of a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    offset: usize,
    bytes: usize,
}

impl Region {
    /// Its first `bytes`, all of it at most.
    pub fn head(self, bytes: usize) -> Self {
        Self { bytes: bytes.min(self.bytes), ..self }
    }
}

/// Memory that outlives graphs: parameters, inputs, what one graph leaves for the next.
#[derive(Debug)]
pub struct Memory {
    runtime: Arc<Runtime>,
    data: *mut u8,
    _map: MmapMut,
    buffer: *mut GgmlBuffer,
    capacity: usize,
    used: usize,
}

// SAFETY: exclusive access goes through `&mut`.
unsafe impl Send for Memory {}

impl Memory {
    /// Reserves `capacity` bytes, zeroed when first touched: pages that nothing uses take no memory.
    pub fn new(runtime: &Arc<Runtime>, capacity: usize) -> Result<Self> {
        let wanted = capacity;
        let refused = || Error::new(Kind::Memory, format!("no memory for {wanted} bytes"));
        let capacity = wanted.max(ALIGNMENT).checked_next_multiple_of(ALIGNMENT).filter(|&c| c <= isize::MAX as usize);
        let capacity = capacity.ok_or_else(refused)?;
        let mut map = MmapMut::map_anon(capacity).map_err(|_| refused())?;
        // SAFETY: the buffer wraps memory that outlives it: `drop` frees it first.
        let buffer = unsafe { (runtime.table.buffer_from_ptr)(map.as_mut_ptr().cast(), capacity) };
        if buffer.is_null() {
            return Err(Error::new(Kind::Memory, format!("ggml wraps no buffer of {capacity} bytes")));
        }
        Ok(Self { runtime: runtime.clone(), data: map.as_mut_ptr(), _map: map, buffer, capacity, used: 0 })
    }

    /// Takes the next `bytes`.
    pub fn take(&mut self, bytes: usize) -> Result<Region> {
        let end = self.used.checked_add(bytes.next_multiple_of(ALIGNMENT)).filter(|&end| end <= self.capacity);
        let Some(end) = end else {
            let message = format!("{bytes} more bytes do not fit {} of {} used", self.used, self.capacity);
            return Err(Error::new(Kind::Internal, message));
        };
        let region = Region { offset: self.used, bytes };
        self.used = end;
        Ok(region)
    }

    /// Bytes that `take` would have to find for regions of these sizes.
    pub fn bytes_for(sizes: impl Iterator<Item = usize>) -> usize {
        sizes.map(|b| b.next_multiple_of(ALIGNMENT)).sum()
    }

    /// Makes the capacity at least `capacity` bytes; what was taken keeps its place and content.
    pub fn ensure(&mut self, capacity: usize) -> Result<()> {
        if capacity > self.capacity {
            // SAFETY: the first `used` bytes are those that were taken.
            let kept = unsafe { std::slice::from_raw_parts(self.data, self.used) }.to_vec();
            // The old memory goes before the new one is touched, so that the two are never resident together.
            *self = Self::new(&self.runtime.clone(), 1)?;
            *self = Self::new(&self.runtime.clone(), capacity)?;
            // SAFETY: the new memory is larger.
            unsafe { std::ptr::copy_nonoverlapping(kept.as_ptr(), self.data, kept.len()) };
            self.used = kept.len();
        }
        Ok(())
    }

    /// One region to change and another to read.
    ///
    /// # Panics
    /// If they overlap, which would be a bug.
    pub fn floats_pair(&mut self, target: Region, source: Region) -> (&mut [f32], &[f32]) {
        let apart = target.offset + target.bytes <= source.offset || source.offset + source.bytes <= target.offset;
        assert!(apart, "regions of one memory overlap");
        // SAFETY: as in `floats_mut`, and the two do not overlap.
        unsafe {
            let target = std::slice::from_raw_parts_mut(self.data.add(target.offset).cast(), target.bytes / 4);
            (target, std::slice::from_raw_parts(self.data.add(source.offset).cast(), source.bytes / 4))
        }
    }

    /// Gives back everything taken after the first `used` bytes; those regions must not be used again.
    pub fn reset(&mut self, used: usize) {
        self.used = used.min(self.used);
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.used
    }

    /// A region as floats.
    pub fn floats(&self, region: Region) -> &[f32] {
        // SAFETY: regions lie within the memory and are aligned; graphs that write hold `&mut self`.
        unsafe { std::slice::from_raw_parts(self.data.add(region.offset).cast(), region.bytes / 4) }
    }

    /// A region as floats, to fill.
    pub fn floats_mut(&mut self, region: Region) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(region.offset).cast(), region.bytes / 4) }
    }

    /// A region as 32-bit integers, to fill.
    pub fn ints_mut(&mut self, region: Region) -> &mut [i32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(region.offset).cast(), region.bytes / 4) }
    }

    /// A region as 16-bit words, to fill.
    pub fn words_mut(&mut self, region: Region) -> &mut [u16] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(region.offset).cast(), region.bytes / 2) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by `new`; the buffer only points into the memory.
        unsafe {
            (self.runtime.table.buffer_free)(self.buffer);
        }
    }
}

/// A tensor of a graph under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor(usize);

/// An op to copy into a graph, in the runtime's own terms.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// The runtime's op number.
    pub op: i32,
    /// Result type.
    pub ty: Type,
    /// Result shape.
    pub ne: [i64; 4],
    /// Result strides in bytes.
    pub nb: [usize; 4],
    /// `op_params`.
    pub params: [i32; 16],
    /// Sources.
    pub src: Vec<Option<Tensor>>,
    /// For ops that only rename memory: whose, and at which byte.
    pub view: Option<(Tensor, usize)>,
    /// A cast: ggml wants the tensor itself as second source.
    pub is_cast: bool,
}

/// A tensor as an op of ours sees it while the graph runs.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// First byte.
    pub data: *mut u8,
    /// Shape.
    pub ne: [usize; 4],
    /// Byte strides.
    pub nb: [usize; 4],
}

/// One thread's part of a call of an op of ours.
#[derive(Debug)]
pub struct Call {
    dst: *mut GgmlTensor,
    /// This thread.
    pub ith: usize,
    /// Threads of the call.
    pub nth: usize,
}

impl Call {
    fn operand(t: &GgmlTensor) -> Operand {
        Operand { data: t.data.cast(), ne: t.ne.map(|n| n as usize), nb: t.nb }
    }

    /// The result.
    pub fn dst(&self) -> Operand {
        // SAFETY: ggml passes the live node.
        Self::operand(unsafe { &*self.dst })
    }

    /// The `i`-th source.
    pub fn src(&self, i: usize) -> Operand {
        // SAFETY: the builder checked that the op has this many sources; they are live and computed.
        unsafe {
            let src = (&(*self.dst).src)[i];
            assert!(!src.is_null(), "an op of ours reads a source it was not given: a bug in the lowering");
            Self::operand(&*src)
        }
    }
}

/// An op of ours: called once per thread, each writing its own part of the result.
pub type Kernel = Box<dyn Fn(&Call) -> Result<()> + Send + Sync>;

unsafe extern "C" fn call_kernel(dst: *mut GgmlTensor, ith: c_int, nth: c_int, user: *mut c_void) {
    // SAFETY: `user` is the boxed slot that the graph keeps alive while it runs.
    let slot = unsafe { &*user.cast::<KernelSlot>() };
    let call = Call { dst, ith: ith as usize, nth: nth as usize };
    // Neither an error nor a panic may cross ggml's frames; the first one is reported after the computation.
    let fault = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (slot.kernel)(&call))) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => Error::new(Kind::Internal, "an op of ours panicked"),
    };
    if let Ok(mut first) = slot.fault.lock() {
        first.get_or_insert(fault);
    }
}

/// Builds one graph and runs it. Borrows the memory that its leaves and results lie in.
#[derive(Debug)]
pub struct GraphBuilder<'a> {
    backend: &'a mut Backend,
    memory: &'a mut Memory,
    ctx: *mut GgmlContext,
    tensors: Vec<*mut GgmlTensor>,
    #[allow(clippy::vec_box)] // the address of each kernel must not move
    kernels: Vec<Box<KernelSlot>>,
    wanted: Vec<*mut GgmlTensor>,
    /// Results to fetch after the computation: those of a scheduled graph lie where they were computed.
    fetched: Vec<(*mut GgmlTensor, Region)>,
    n_tensors_max: usize,
}

struct KernelSlot {
    kernel: Kernel,
    fault: Mutex<Option<Error>>,
}

impl std::fmt::Debug for KernelSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("kernel")
    }
}

/// What a computation reports.
#[derive(Clone, Copy, Debug)]
pub struct Graph {
    /// Nodes that ran.
    pub n_nodes: usize,
}

impl<'a> GraphBuilder<'a> {
    /// Starts a graph of at most `n_tensors_max` tensors.
    pub fn new(backend: &'a mut Backend, memory: &'a mut Memory, n_tensors_max: usize) -> Result<Self> {
        backend.reserve(n_tensors_max + 8)?;
        let table = &backend.runtime.table;
        // SAFETY: plain calls; NULL is checked.
        let ctx = unsafe {
            let tensors = (n_tensors_max + 8) * (table.tensor_overhead)();
            (table.ctx_new)(tensors + (table.graph_overhead)(n_tensors_max + 8))
        };
        if ctx.is_null() {
            return Err(Error::new(Kind::Memory, format!("ggml makes no context for {n_tensors_max} tensors")));
        }
        let (tensors, kernels, wanted, fetched) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { backend, memory, ctx, tensors, kernels, wanted, fetched, n_tensors_max })
    }

    fn keep(&mut self, tensor: *mut GgmlTensor) -> Tensor {
        self.tensors.push(tensor);
        Tensor(self.tensors.len() - 1)
    }

    fn create(&mut self, ty: Type, ne: [i64; 4]) -> Result<*mut GgmlTensor> {
        if self.tensors.len() >= self.n_tensors_max {
            let message = format!("a graph outgrew its bound of {} tensors", self.n_tensors_max);
            return Err(Error::new(Kind::Internal, message));
        }
        if ne.iter().any(|&n| n < 1) || ne[0] % ty.block_len() as i64 != 0 {
            return Err(Error::new(Kind::Internal, format!("a tensor of shape {ne:?} cannot be {}", ty.name())));
        }
        // SAFETY: the context has room, checked above; four sizes are passed.
        Ok(unsafe { (self.backend.runtime.table.new_tensor)(self.ctx, ty.id() as c_int, 4, ne.as_ptr()) })
    }

    /// A weight of the model, where the runtime keeps it: in whatever layout, for the runtime's own products.
    pub fn weight(&mut self, weight: &WeightData) -> Tensor {
        self.keep(weight.tensor)
    }

    /// A weight of the model in the file's layout, for every op.
    pub fn plain_weight(&mut self, weight: &WeightData, ty: Type, ne: [i64; 4]) -> Result<Tensor> {
        if weight.is_shared() {
            return Ok(self.weight(weight));
        }
        let tensor = self.create(ty, ne)?;
        // SAFETY: the file was validated, and type and shape are those of its tensor: the bytes lie in the mapped buffer.
        let status =
            unsafe { (self.backend.runtime.table.tensor_place)(weight.mapped, tensor, weight.data.cast_mut().cast()) };
        if status != STATUS_SUCCESS {
            return Err(Error::new(Kind::Internal, format!("ggml places no weight (status {status})")));
        }
        Ok(self.keep(tensor))
    }

    /// A contiguous leaf that holds nothing: a shape for ops that only write.
    pub fn blank(&mut self, ty: Type, ne: [i64; 4]) -> Result<Tensor> {
        let tensor = self.create(ty, ne)?;
        Ok(self.keep(tensor))
    }

    /// A contiguous leaf in the memory.
    pub fn leaf(&mut self, ty: Type, ne: [i64; 4], region: Region) -> Result<Tensor> {
        let tensor = self.create(ty, ne)?;
        self.put(tensor, region)?;
        Ok(self.keep(tensor))
    }

    /// Copies an op into the graph.
    pub fn node(&mut self, spec: &NodeSpec) -> Result<Tensor> {
        if spec.src.len() > N_SRC {
            return Err(Error::new(Kind::Internal, format!("an op with {} sources", spec.src.len())));
        }
        let tensor = self.create(spec.ty, spec.ne)?;
        // SAFETY: freshly made in a live context, written before anything reads it; the pointers are live tensors.
        unsafe {
            let t = &mut *tensor;
            t.op = spec.op;
            t.nb = spec.nb;
            t.op_params = spec.params;
            for (slot, src) in t.src.iter_mut().zip(&spec.src) {
                *slot = src.map_or(std::ptr::null_mut(), |s| self.tensors[s.0]);
            }
            if spec.is_cast {
                t.src[1] = tensor;
            }
            if let Some((of, offset)) = spec.view {
                let parent = self.tensors[of.0];
                // ggml keeps views flat: the source is the owner of the memory, the offset relative to it.
                let (root, base) = match (*parent).view_src.is_null() {
                    true => (parent, 0),
                    false => ((*parent).view_src, (*parent).view_offs),
                };
                t.view_src = root;
                t.view_offs = base + offset;
                // A scheduled graph's views are placed with their owners, wherever those are moved.
                if !(*root).data.is_null() && !self.backend.is_scheduled() {
                    t.data = (*root).data.cast::<u8>().add(t.view_offs).cast();
                    t.buffer = (*root).buffer;
                }
            }
        }
        Ok(self.keep(tensor))
    }

    /// An op of ours with a contiguous F32 result.
    pub fn custom(&mut self, ne: [i64; 4], src: &[Tensor], kernel: Kernel) -> Result<Tensor> {
        if src.len() > N_SRC - 1 || ne.iter().any(|&n| n < 1) || self.tensors.len() >= self.n_tensors_max {
            return Err(Error::new(Kind::Internal, format!("no op of shape {ne:?} from {} sources", src.len())));
        }
        let mut args: Vec<_> = src.iter().map(|s| self.tensors[s.0]).collect();
        self.kernels.push(Box::new(KernelSlot { kernel, fault: Mutex::new(None) }));
        let slot = self.kernels.last().map_or(std::ptr::null(), |k| &raw const **k);
        let custom = self.backend.runtime.table.custom;
        // SAFETY: shape and sources checked; the boxed kernel lives until the builder is dropped, after the computation.
        let tensor = unsafe {
            custom(self.ctx, ne.as_ptr(), args.as_mut_ptr(), args.len() as c_int, call_kernel, slot.cast_mut().cast())
        };
        Ok(self.keep(tensor))
    }

    fn put(&mut self, tensor: *mut GgmlTensor, region: Region) -> Result<()> {
        // SAFETY: the region lies within the buffer; ggml checks that the tensor's size fits there, and so do we before.
        let status = unsafe {
            let t = &*tensor;
            let bytes = t.nb[3] * t.ne[3] as usize;
            if bytes > region.bytes {
                let message = format!("a tensor of {bytes} bytes does not fit a region of {}", region.bytes);
                return Err(Error::new(Kind::Internal, message));
            }
            let addr = self.memory.data.add(region.offset).cast();
            (self.backend.runtime.table.tensor_place)(self.memory.buffer, tensor, addr)
        };
        if status == STATUS_SUCCESS {
            Ok(())
        } else {
            Err(Error::new(Kind::Internal, format!("ggml places no tensor (status {status})")))
        }
    }

    /// Makes a node write its result to a region, to be read after the computation.
    pub fn place(&mut self, tensor: Tensor, region: Region) -> Result<()> {
        let ptr = self.tensors[tensor.0];
        if self.backend.is_scheduled() {
            // A result that lies in host memory from the start could be computed on the CPU only.
            self.fetched.push((ptr, region));
        } else {
            self.put(ptr, region)?;
        }
        self.wanted.push(ptr);
        Ok(())
    }

    /// Makes sure that a node runs although nothing reads it.
    pub fn want(&mut self, tensor: Tensor) {
        self.wanted.push(self.tensors[tensor.0]);
    }

    /// Threads that will run the graph.
    pub fn n_threads(&self) -> usize {
        self.backend.n_threads
    }

    /// Shape of a tensor.
    pub fn ne(&self, tensor: Tensor) -> [i64; 4] {
        // SAFETY: a live tensor of this builder.
        unsafe { (*self.tensors[tensor.0]).ne }
    }

    /// Byte strides of a tensor.
    pub fn nb(&self, tensor: Tensor) -> [usize; 4] {
        // SAFETY: as above.
        unsafe { (*self.tensors[tensor.0]).nb }
    }

    /// True if the device that a weight lies on, or else the first one, can run the op.
    pub fn supports(&mut self, spec: &NodeSpec) -> Result<bool> {
        let tensor = self.node(spec)?;
        Ok(self.backend.supports(self.tensors[tensor.0]))
    }

    /// Runs what leads to the placed and wanted tensors.
    pub fn compute(self) -> Result<Graph> {
        let table = &self.backend.runtime.table;
        // SAFETY: the context has room for a graph of this size; every node was checked when it was made.
        let (graph, n_nodes) = unsafe {
            let graph = (table.new_graph)(self.ctx, self.n_tensors_max);
            for &tensor in &self.wanted {
                (table.set_output)(tensor);
                (table.graph_expand)(graph, tensor);
            }
            (graph, (table.graph_n_nodes)(graph) as usize)
        };
        // SAFETY: the graph was just made; kernels and memory live until this method returns.
        let status = unsafe { self.backend.run(graph)? };
        if let Some(fault) = self.kernels.iter().find_map(|k| k.fault.lock().ok()?.take()) {
            return Err(fault);
        }
        if status != STATUS_SUCCESS {
            return Err(Error::new(Kind::Internal, format!("ggml computed no graph (status {status})")));
        }
        for &(tensor, region) in &self.fetched {
            self.fetch(tensor, region)?;
        }
        Ok(Graph { n_nodes })
    }

    /// Copies a computed tensor to a region of the memory.
    fn fetch(&self, tensor: *mut GgmlTensor, region: Region) -> Result<()> {
        // SAFETY: a live, computed, contiguous tensor; the region lies within the memory and is as large.
        unsafe {
            let t = &*tensor;
            let bytes = t.nb[3] * t.ne[3] as usize;
            if bytes > region.bytes {
                let message = format!("a tensor of {bytes} bytes does not fit a region of {}", region.bytes);
                return Err(Error::new(Kind::Internal, message));
            }
            let to = self.memory.data.add(region.offset).cast();
            (self.backend.runtime.table.tensor_get)(tensor, to, 0, bytes);
        }
        Ok(())
    }
}

impl Drop for GraphBuilder<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `new`; its tensors are not used after this.
        unsafe { (self.backend.runtime.table.ctx_free)(self.ctx) }
    }
}
