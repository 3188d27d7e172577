//! What a function of the interface takes: the words of the misuse matrix.

use super::layouts::*;

/// Types of handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Runtime,
    Model,
    Dataset,
    Adapter,
    Trainer,
}

pub(super) const HANDLES: [Type; 5] = [Type::Runtime, Type::Model, Type::Dataset, Type::Adapter, Type::Trainer];

/// What an argument is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    Handle(Type),
    /// An adapter of whole weights.
    Whole,
    /// NULL has a meaning.
    OptionalHandle(Type),
    OutHandle,
    /// A file of the world that is read.
    Input(&'static str),
    /// A file that is read, or NULL.
    OptionalInput(&'static str),
    /// What a host fills in.
    Host,
    /// A llama.cpp that is a shared library.
    Library,
    /// A host's open model.
    LlamaModel,
    /// A file that is written.
    Output(&'static str),
    /// A directory that files are written into.
    OutputDirectory(&'static str),
    /// A string that may be NULL.
    OptionalText(&'static str),
    /// The same, of which none is wrong.
    OptionalName(&'static str),
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
    /// Ids of two rows.
    Ids,
    /// A recipe for these two models.
    Recipe(&'static str, &'static str),
    Rows,
    /// Two adapters.
    Adapters,
    /// Two times this file.
    Inputs(&'static str),
    /// Two numbers, or NULL.
    Scales,
    /// How many of these there are.
    Count,
    /// A handle that is not given, because another argument stands for it.
    Absent(Type),
    /// A number from 0 to 1 for every block of the model.
    Blocks,
    /// How many blocks it has.
    BlockCount,
    /// One of few numbers.
    Choice,
    /// A file that must not be there yet.
    NewFile(&'static str),
    /// A file that is made or replaced, or NULL; not the other one of the call.
    OptionalOutput(&'static str, &'static str),
    /// Where a number goes.
    OutNumber,
    /// The same, or NULL.
    OptionalOutNumber,
    Buffer,
    BufferBytes,
    /// A file's bytes, and their number.
    Bytes(&'static str),
    FileBytes(&'static str),
    /// Nothing can be wrong with it.
    Number(usize),
    /// One of a runtime's devices.
    Index,
    /// One of the world's rows.
    Row,
    /// The rejected answer.
    Answer,
    /// Weights of that answer's tokens, and how many there are.
    Weights,
    WeightCount,
    /// 0 or 1.
    Switch,
    /// The callback's argument.
    Any,
    Error,
}

/// One function: its name, its arguments, and how it is called with them.
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) slots: Vec<Slot>,
    pub(super) call: fn(&[usize]) -> i32,
}
