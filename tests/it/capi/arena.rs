//! Memory that arguments point to, and their valid values.

use super::layouts::Layout;
use super::slots::{Slot, Type};
use super::table_neurons::answer_tokens;
use super::world::{Texts, World, PAIRS};
use llama_align::capi::*;
use llama_align::runtime::Host;
use std::ffi::CString;

/// The memory; it lives as long as this.
#[derive(Default)]
pub(super) struct Arena {
    blocks: Vec<Vec<u64>>,
    strings: Vec<CString>,
    columns: Vec<Texts>,
    byte_blocks: Vec<Vec<u8>>,
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

    pub(super) fn bytes(&mut self, bytes: Vec<u8>) -> usize {
        self.byte_blocks.push(bytes);
        self.byte_blocks.last().unwrap().as_ptr() as usize
    }

    /// What a host that has the built-in llama.cpp would fill in.
    pub(super) fn host(&mut self, world: &World) -> usize {
        let at = self.block(0, 0);
        // SAFETY: a block is larger than a host's struct.
        unsafe { (at as *mut Host).write(world.host()) };
        at
    }

    /// A copy of an argument's column, and a way to change it.
    pub(super) fn column(&mut self, i: usize) -> &mut Texts {
        self.columns.push(Texts::column(i));
        self.columns.last_mut().unwrap()
    }

    /// An array of two.
    pub(super) fn two<T: Copy>(&mut self, elements: [T; 2]) -> usize {
        let at = self.block(0, 0);
        // SAFETY: a block has room for two of anything here.
        unsafe { (at as *mut [T; 2]).write(elements) };
        at
    }

    /// A params struct with its defaults; a trainer's is for one thread.
    pub(super) fn params(&mut self, layout: Layout) -> usize {
        let at = self.block(0, 0);
        let status = (layout.init)(at, layout.bytes as u32);
        assert_eq!(status, LLAMA_ALIGN_OK);
        at
    }

    /// A valid value of an argument.
    pub(super) fn valid(&mut self, slot: Slot, world: &World) -> usize {
        match slot {
            Slot::Whole => world.whole as usize,
            Slot::Handle(handle) | Slot::OptionalHandle(handle) => world.handle(handle),
            Slot::OutHandle => self.block(1, 1),
            Slot::Host => self.host(world),
            Slot::Library => self.string(crate::loaded::library().to_str().unwrap()),
            Slot::LlamaModel => world.live as usize,
            Slot::Bytes(name) => self.bytes(std::fs::read(world.file(name)).unwrap()),
            Slot::FileBytes(name) => std::fs::metadata(world.file(name)).unwrap().len() as usize,
            Slot::Input(name)
            | Slot::OptionalInput(name)
            | Slot::Output(name)
            | Slot::OutputDirectory(name)
            | Slot::NewFile(name)
            | Slot::OptionalOutput(name, _) => self.string(world.file(name).to_str().unwrap()),
            Slot::OptionalText(text) | Slot::OptionalName(text) => self.string(text),
            Slot::Params(layout) => self.params(layout),
            Slot::Init(_) => self.block(0, 9),
            Slot::InitSize(layout) => layout.bytes,
            Slot::OutStruct(layout) | Slot::OptionalOutStruct(layout) => self.block(layout.bytes as u32, 9),
            Slot::Texts(i) => self.column(i).pointers.as_ptr() as usize,
            Slot::Labels => self.block(1, 1),
            Slot::Ids => {
                self.blocks.push(vec![2, 5]);
                self.blocks.last().unwrap().as_ptr() as usize
            }
            Slot::Recipe(a, b) => {
                let [a, b] = [a, b].map(|name| world.file(name).display().to_string());
                self.string(recipe(&a, &b))
            }
            Slot::Adapters => self.two([world.adapter; 2]),
            Slot::Inputs(name) => {
                let path = self.string(world.file(name).to_str().unwrap());
                self.two([path; 2])
            }
            Slot::Scales => self.two([0.5f32, -1.0]),
            Slot::Count => 2,
            Slot::Rows => PAIRS.len(),
            Slot::OutNumber | Slot::OptionalOutNumber => self.block(9, 9),
            Slot::Buffer => {
                self.blocks.push(vec![0; 1 << 18]);
                self.blocks.last().unwrap().as_ptr() as usize
            }
            Slot::BufferBytes => 8 << 18,
            Slot::Absent(_) | Slot::Choice | Slot::Row => 0,
            Slot::Answer => 1,
            Slot::Weights => self.block(0, 0),
            Slot::WeightCount => answer_tokens(world.dataset, 0, 1),
            Slot::Blocks => self.two([0.5f64, 0.25]),
            Slot::BlockCount => 2,
            Slot::Number(n) => n,
            Slot::Any | Slot::Index | Slot::Switch => 0,
            Slot::Error => self.block(size_of::<llama_align_error>() as u32, 9),
        }
    }
}

impl World {
    pub(super) fn handle(&self, handle: Type) -> usize {
        match handle {
            Type::Runtime => self.runtime as usize,
            Type::Model => self.model as usize,
            Type::Dataset => self.dataset as usize,
            Type::Adapter => self.adapter as usize,
            Type::Trainer => self.trainer as usize,
        }
    }
}

/// The mean of two models.
pub(super) fn recipe(a: &str, b: &str) -> String {
    let model = |path: &str| format!("  - model: \"{path}\"\n    parameters:\n      weight: 0.5\n");
    format!("merge_method: linear\nmodels:\n{}{}", model(a), model(b))
}
