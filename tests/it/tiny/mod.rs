//! Tiny random models of many architectures, written as GGUF files that llama.cpp loads and decodes.
//!
//! Each has two to four blocks (one has 32), width 64 (one 128), a vocabulary of 288 tokens, random normal weights that
//! depend on nothing but a tensor's name, shape and role, and a working tokenizer: token `b` is byte `b`, then come a
//! few merges and the ChatML markers. Files are the same, byte for byte, wherever they are written.

mod block;
mod classic;
mod gated;
mod recipe;
mod sparse;
mod vocabulary;
mod weights;

use llama_align::error::Result;
use llama_align::gguf::{Value, Writer};
use quant::Type;
use recipe::{Feed, Recipe};
use std::path::Path;

/// One model: an architecture of llama.cpp and what is particular to this file.
#[derive(Clone, Debug)]
pub(crate) struct Tiny {
    /// The value of `general.architecture`.
    pub(crate) arch: &'static str,
    /// What distinguishes it from the architecture's other entries; empty for the only or plainest one.
    pub(crate) variant: &'static str,
    recipe: Recipe,
}

/// Every model, dense ones first.
pub(crate) fn all() -> Vec<Tiny> {
    let recipes = [gated::recipes(), classic::recipes(), sparse::recipes()];
    recipes.into_iter().flatten().map(|recipe| Tiny { arch: recipe.arch, variant: recipe.variant, recipe }).collect()
}

/// The model of that [`Tiny::name`].
///
/// # Panics
/// If there is none: the name is written in a test.
pub(crate) fn find(name: &str) -> Tiny {
    all().into_iter().find(|tiny| tiny.name() == name).unwrap_or_else(|| panic!("no tiny model is called {name}"))
}

impl Tiny {
    /// `arch` or `arch-variant`, unique among [`all`].
    pub(crate) fn name(&self) -> String {
        match self.variant {
            "" => self.arch.to_string(),
            variant => format!("{}-{variant}", self.arch),
        }
    }

    /// Writes the file. `weights` is the type of the blocks' matrices, the experts and the embeddings; norms, biases,
    /// routers and tables are F32 in every file.
    pub(crate) fn write(&self, path: &Path, weights: Type) -> Result<()> {
        let mut writer = Writer::new();
        for (key, value) in self.recipe.metadata() {
            writer.set(&key, value);
        }
        writer.set("general.file_type", Value::U32(file_type(weights)));
        writer.set("general.quantization_version", Value::U32(2));
        for tensor in self.recipe.all_tensors() {
            let data = tensor.encode(weights)?;
            writer.tensor(&tensor.name, tensor.stored(weights), &tensor.ne, data)?;
        }
        writer.write(path)
    }

    /// Positions a windowed layer looks back over, itself included: what `llama_model_n_swa` returns if not 0.
    pub(crate) fn window(&self) -> Option<usize> {
        self.recipe.window
    }

    /// Whether a router chooses among experts.
    pub(crate) fn is_moe(&self) -> bool {
        self.recipe.block.feed == Feed::Experts
    }

    /// Whether the model carries a state from token to token instead of attending.
    pub(crate) fn is_recurrent(&self) -> bool {
        self.recipe.block.feed == Feed::Mixer
    }
}

/// llama.cpp's number for a file whose matrices are mostly of that type (`llama_ftype`).
fn file_type(weights: Type) -> u32 {
    match weights {
        Type::F32 => 0,
        Type::F16 => 1,
        Type::Q4_0 => 2,
        Type::Q4_1 => 3,
        Type::Q8_0 => 7,
        // LLAMA_FTYPE_GUESSED: the loader then judges by the tensors.
        _ => 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::{all, find};
    use llama_align::gguf::{validate_model, File};
    use quant::Type;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_found() {
        let models = all();
        let names: HashSet<_> = models.iter().map(|tiny| tiny.name()).collect();
        assert!(models.len() == names.len() && models.len() >= 28, "{} models", models.len());
        assert_eq!(find("gemma2").window(), Some(48));
        assert!(find("llama-experts").is_moe() && !find("llama-tied").is_moe());
        assert_eq!(
            models.iter().filter(|tiny| tiny.is_recurrent()).map(|tiny| tiny.arch).collect::<Vec<_>>(),
            ["mamba"]
        );
    }

    #[test]
    fn every_model_is_valid_in_every_type() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        for tiny in all() {
            let sizes = [Type::F32, Type::F16, Type::Q8_0, Type::Q4_1, Type::Q4_0].map(|ty| {
                tiny.write(&path, ty).unwrap();
                let file = File::open(&path).and_then(|file| validate_model(&file).map(|()| file)).unwrap();
                let bytes = file.tensors().iter().map(|tensor| tensor.bytes).sum::<u64>();
                assert!(
                    file.tensors().iter().any(|tensor| tensor.ty == ty),
                    "{}: nothing in {}",
                    tiny.name(),
                    ty.name()
                );
                bytes
            });
            assert!(sizes.windows(2).all(|pair| pair[0] > pair[1]), "{}: {sizes:?}", tiny.name());
            assert!(sizes[0] < 4 << 20, "{}: {} bytes", tiny.name(), sizes[0]);
        }
    }
}
