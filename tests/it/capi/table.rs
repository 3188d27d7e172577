//! Every function with a status, and what each of its arguments is: the misuse matrix is made from this.

use super::world::{trainer_params, Texts, World, PAIRS};
use llama_align::capi::*;
use std::ffi::CString;
use std::mem::offset_of;

/// Types of handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Model,
    Dataset,
    Adapter,
    Trainer,
}

pub(super) const HANDLES: [Type; 4] = [Type::Model, Type::Dataset, Type::Adapter, Type::Trainer];

/// What an argument is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    Handle(Type),
    /// NULL has a meaning.
    OptionalHandle(Type),
    OutHandle,
    /// A file of the world that is read.
    Input(&'static str),
    /// A file that is written.
    Output(&'static str),
    /// A string that may be NULL.
    OptionalText(&'static str),
    Params(Layout),
    /// Where a params struct is initialised.
    Init(Layout),
    /// The size that goes with it.
    InitSize(Layout),
    OutStruct(Layout),
    OptionalOutStruct(Layout),
    /// A column of strings.
    Texts(usize),
    Labels,
    Rows,
    /// Where a number goes.
    OutNumber,
    Buffer,
    BufferBytes,
    /// Nothing can be wrong with it.
    Number(usize),
    /// The callback's argument.
    Any,
    Error,
}

/// A struct: its size, its fields of which few values are known, and its fields that may not be NaN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) bytes: usize,
    pub(super) choices: &'static [usize],
    pub(super) reals: &'static [usize],
    pub(super) singles: &'static [usize],
    /// Counts that may not be 0.
    pub(super) counts: &'static [usize],
}

const fn plain<T>() -> Layout {
    Layout { bytes: size_of::<T>(), choices: &[], reals: &[], singles: &[], counts: &[] }
}

const CHECK: Layout =
    Layout { choices: &[offset_of!(llama_align_check_params, precision)], ..plain::<llama_align_check_params>() };
const DATASET: Layout = Layout {
    choices: &[
        offset_of!(llama_align_dataset_params, method),
        offset_of!(llama_align_dataset_params, max_length),
        offset_of!(llama_align_dataset_params, flags),
    ],
    ..plain::<llama_align_dataset_params>()
};
const ADAPTER: Layout = Layout {
    choices: &[offset_of!(llama_align_adapter_params, flags), offset_of!(llama_align_adapter_params, rank)],
    singles: &[offset_of!(llama_align_adapter_params, alpha)],
    counts: &[offset_of!(llama_align_adapter_params, rank)],
    ..plain::<llama_align_adapter_params>()
};
const TRAINER: Layout = Layout {
    choices: &[
        offset_of!(llama_align_trainer_params, method),
        offset_of!(llama_align_trainer_params, schedule),
        offset_of!(llama_align_trainer_params, precision),
        offset_of!(llama_align_trainer_params, batch_size),
        offset_of!(llama_align_trainer_params, grad_accum),
        offset_of!(llama_align_trainer_params, micro_batch_tokens),
    ],
    reals: &[
        offset_of!(llama_align_trainer_params, epochs),
        offset_of!(llama_align_trainer_params, learning_rate),
        offset_of!(llama_align_trainer_params, warmup_ratio),
        offset_of!(llama_align_trainer_params, beta),
        offset_of!(llama_align_trainer_params, desirable_weight),
        offset_of!(llama_align_trainer_params, undesirable_weight),
        offset_of!(llama_align_trainer_params, max_grad_norm),
        offset_of!(llama_align_trainer_params, weight_decay),
        offset_of!(llama_align_trainer_params, adam_beta1),
        offset_of!(llama_align_trainer_params, adam_beta2),
        offset_of!(llama_align_trainer_params, adam_epsilon),
    ],
    counts: &[
        offset_of!(llama_align_trainer_params, method),
        offset_of!(llama_align_trainer_params, batch_size),
        offset_of!(llama_align_trainer_params, grad_accum),
        offset_of!(llama_align_trainer_params, micro_batch_tokens),
    ],
    ..plain::<llama_align_trainer_params>()
};
const EVALUATE: Layout = Layout {
    choices: &[
        offset_of!(llama_align_evaluate_params, precision),
        offset_of!(llama_align_evaluate_params, micro_batch_tokens),
    ],
    reals: &[offset_of!(llama_align_evaluate_params, beta)],
    counts: &[offset_of!(llama_align_evaluate_params, micro_batch_tokens)],
    ..plain::<llama_align_evaluate_params>()
};
const MODEL_INFO: Layout = plain::<llama_align_model_info>();
const CHECK_REPORT: Layout = plain::<llama_align_check_report>();
const DATASET_INFO: Layout = plain::<llama_align_dataset_info>();
const PROGRESS: Layout = plain::<llama_align_progress>();
const EVALUATION: Layout = plain::<llama_align_evaluation>();

/// One function: its name, its arguments, and how it is called with them.
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) slots: Vec<Slot>,
    pub(super) call: fn(&[usize]) -> i32,
}

macro_rules! function {
    ($name:ident, [$($slot:expr),+ $(,)?], |$a:ident| $($argument:expr),+) => {
        Function {
            name: stringify!($name),
            slots: vec![$($slot),+],
            // SAFETY: the matrix passes valid pointers, and nothing but what the function promises to refuse.
            call: |$a| unsafe { $name($($argument),+) },
        }
    };
}

pub(super) fn functions() -> Vec<Function> {
    use Slot::*;
    use Type as H;
    vec![
        function!(llama_align_model_open, [Input("model.gguf"), OutHandle, Error], |a| a[0] as _, a[1] as _, a[2] as _),
        function!(
            llama_align_model_describe,
            [Handle(H::Model), OutStruct(MODEL_INFO), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_check_params_init,
            [Init(CHECK), InitSize(CHECK), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_model_check,
            [Handle(H::Model), Params(CHECK), OptionalOutStruct(CHECK_REPORT), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_dataset_params_init,
            [Init(DATASET), InitSize(DATASET), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_dataset_open,
            [Handle(H::Model), Input("rows.jsonl"), Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_dataset_from_completions,
            [Handle(H::Model), Texts(0), Texts(1), Rows, Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3],
            a[4] as _,
            a[5] as _,
            a[6] as _
        ),
        function!(
            llama_align_dataset_from_labelled,
            [Handle(H::Model), Texts(0), Texts(1), Labels, Rows, Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4],
            a[5] as _,
            a[6] as _,
            a[7] as _
        ),
        function!(
            llama_align_dataset_from_pairs,
            [Handle(H::Model), Texts(0), Texts(1), Texts(2), Rows, Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4],
            a[5] as _,
            a[6] as _,
            a[7] as _
        ),
        function!(
            llama_align_dataset_count,
            [Handle(H::Dataset), OutNumber, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_dataset_describe,
            [Handle(H::Dataset), OutStruct(DATASET_INFO), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_params_init,
            [Init(ADAPTER), InitSize(ADAPTER), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_new,
            [Handle(H::Model), OptionalText("attn_q"), Params(ADAPTER), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_adapter_load,
            [Handle(H::Model), Input("adapter.gguf"), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_adapter_save,
            [Handle(H::Adapter), Output("saved.gguf"), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_to_memory,
            [Handle(H::Adapter), Buffer, BufferBytes, OutNumber, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2],
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_trainer_params_init,
            [Init(TRAINER), InitSize(TRAINER), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_trainer_new,
            [Handle(H::Adapter), Handle(H::Dataset), Params(TRAINER), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_trainer_step,
            [Handle(H::Trainer), OptionalOutStruct(PROGRESS), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_trainer_run_for,
            [Handle(H::Trainer), Number(0), Any, Any, Error],
            |a| a[0] as _,
            a[1] as _,
            None,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_trainer_run,
            [Handle(H::Trainer), Any, Any, Error],
            |a| a[0] as _,
            None,
            a[2] as _,
            a[3] as _
        ),
        function!(llama_align_trainer_cancel, [Handle(H::Trainer), Error], |a| a[0] as _, a[1] as _),
        function!(
            llama_align_trainer_report,
            [Handle(H::Trainer), OutStruct(PROGRESS), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_evaluate_params_init,
            [Init(EVALUATE), InitSize(EVALUATE), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_evaluate,
            [Handle(H::Dataset), OptionalHandle(H::Adapter), Params(EVALUATE), OutStruct(EVALUATION), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
    ]
}

/// Memory that arguments point to; it lives as long as this.
#[derive(Default)]
pub(super) struct Arena {
    blocks: Vec<Vec<u64>>,
    strings: Vec<CString>,
    columns: Vec<Texts>,
}

/// Bytes of a block: more than any struct may say to have.
const BLOCK_WORDS: usize = 1024;

impl Arena {
    /// A block whose first word is `struct_size`; the rest is `fill`.
    pub(super) fn block(&mut self, struct_size: u32, fill: u8) -> usize {
        self.blocks.push(vec![u64::from_ne_bytes([fill; 8]); BLOCK_WORDS]);
        let at = self.blocks.last_mut().unwrap().as_mut_ptr();
        // SAFETY: the block is larger than a u32.
        unsafe { at.cast::<u32>().write(struct_size) };
        at as usize
    }

    pub(super) fn string(&mut self, text: impl Into<Vec<u8>>) -> usize {
        self.strings.push(CString::new(text).unwrap());
        self.strings.last().unwrap().as_ptr() as usize
    }

    /// A copy of an argument's column, and a way to change it.
    pub(super) fn column(&mut self, i: usize) -> &mut Texts {
        self.columns.push(Texts::column(i));
        self.columns.last_mut().unwrap()
    }

    /// A params struct with its defaults; a trainer's is for one thread.
    pub(super) fn params(&mut self, layout: Layout) -> usize {
        let at = self.block(0, 0);
        // SAFETY: a block has room for every struct.
        let status = unsafe {
            match layout.bytes {
                n if n == CHECK.bytes => llama_align_check_params_init(at as _, n as u32, std::ptr::null_mut()),
                n if n == DATASET.bytes => llama_align_dataset_params_init(at as _, n as u32, std::ptr::null_mut()),
                n if n == TRAINER.bytes => {
                    (at as *mut llama_align_trainer_params).write(trainer_params());
                    LLAMA_ALIGN_OK
                }
                // The adapter's and the evaluation's have the same size.
                n if layout.singles.is_empty() => {
                    llama_align_evaluate_params_init(at as _, n as u32, std::ptr::null_mut())
                }
                n => llama_align_adapter_params_init(at as _, n as u32, std::ptr::null_mut()),
            }
        };
        assert_eq!(status, LLAMA_ALIGN_OK);
        at
    }

    /// A valid value of an argument.
    pub(super) fn valid(&mut self, slot: Slot, world: &World) -> usize {
        match slot {
            Slot::Handle(handle) | Slot::OptionalHandle(handle) => world.handle(handle),
            Slot::OutHandle => self.block(1, 1),
            Slot::Input(name) | Slot::Output(name) => self.string(world.file(name).to_str().unwrap()),
            Slot::OptionalText(text) => self.string(text),
            Slot::Params(layout) => self.params(layout),
            Slot::Init(_) => self.block(0, 9),
            Slot::InitSize(layout) => layout.bytes,
            Slot::OutStruct(layout) | Slot::OptionalOutStruct(layout) => self.block(layout.bytes as u32, 9),
            Slot::Texts(i) => self.column(i).pointers.as_ptr() as usize,
            Slot::Labels => self.block(1, 1),
            Slot::Rows => PAIRS.len(),
            Slot::OutNumber => self.block(9, 9),
            Slot::Buffer => {
                self.blocks.push(vec![0; 1 << 18]);
                self.blocks.last().unwrap().as_ptr() as usize
            }
            Slot::BufferBytes => 8 << 18,
            Slot::Number(n) => n,
            Slot::Any => 0,
            Slot::Error => self.block(size_of::<llama_align_error>() as u32, 9),
        }
    }
}

impl World {
    pub(super) fn handle(&self, handle: Type) -> usize {
        match handle {
            Type::Model => self.model as usize,
            Type::Dataset => self.dataset as usize,
            Type::Adapter => self.adapter as usize,
            Type::Trainer => self.trainer as usize,
        }
    }
}
