//! The two models of a command: a base with its adapter, or two files.

use super::args::HmaArgs;
use crate::adapter::{import, Lineage, Lora};
use crate::check::checked_trace;
use crate::cli::{open_adapter, open_model};
use crate::engine::Form;
use crate::error::{Error, Kind, Result};
use crate::gguf::{validate_adapter, File};
use crate::hma::{Blended, Side};
use crate::runtime::{Adapter, Model};
use crate::trace::Trace;
use crate::train::Precision;
use std::path::Path;
use std::sync::Arc;

/// One model with what it computes.
pub(super) struct Half {
    pub(super) model: Arc<Model>,
    pub(super) file: File,
    trace: Arc<Trace>,
}

impl Half {
    fn open(path: &Path, precision: &str, n_threads: usize) -> Result<(Self, Form)> {
        let (model, file) = open_model(path, None, None)?;
        let form = Precision::from_name(precision)?.form_for(&model)?;
        let (trace, _) = checked_trace(&model, n_threads, form)?;
        Ok((Self { model, file, trace }, form))
    }

    fn side(&self) -> Side<'_> {
        Side { model: &self.model, trace: &self.trace, file: &self.file }
    }
}

/// What aligns the model.
pub(super) enum After {
    Model(Box<Half>),
    Adapter(Box<Aligner>),
}

/// An adapter as it is blended, and as llama.cpp applies it.
pub(super) struct Aligner {
    file: File,
    pub(super) lora: Lora,
    pub(super) lineage: Lineage,
    live: Arc<Adapter>,
}

/// Both.
pub(super) struct Pair {
    pub(super) before: Half,
    pub(super) after: After,
    form: Form,
    n_threads: usize,
}

impl Pair {
    pub(super) fn open(args: &HmaArgs) -> Result<Self> {
        let n_threads = args.threads.count();
        let (before, form) = Half::open(&args.model, &args.precision, n_threads)?;
        let after = match (&args.after, &args.lora) {
            (Some(path), _) => After::Model(Box::new(Half::open(path, &args.precision, n_threads)?.0)),
            (None, Some(path)) => {
                let live = open_adapter(path, &before.model, &before.file)?;
                let file = File::open(path)?;
                validate_adapter(&file)?;
                let (lora, lineage) = (import(&file)?, Lineage::of_adapter(&file, "hma")?);
                After::Adapter(Box::new(Aligner { file, lora, lineage, live }))
            }
            (None, None) => return Err(Error::new(Kind::Argument, "give --after or --lora")),
        };
        Ok(Self { before, after, form, n_threads })
    }

    /// A session that blends them.
    pub(super) fn session(&self) -> Result<Blended> {
        let Self { before, after, form, n_threads } = self;
        match after {
            After::Model(after) => Blended::of_models(before.side(), after.side(), *n_threads, *form),
            After::Adapter(aligner) => {
                Blended::of_adapter(&before.model, &before.trace, &aligner.lora, *n_threads, *form)
            }
        }
    }

    /// The aligned model, for what it says itself.
    pub(super) fn aligned(&self) -> (&Arc<Model>, Vec<(Arc<Adapter>, f32)>) {
        match &self.after {
            After::Model(after) => (&after.model, Vec::new()),
            After::Adapter(aligner) => (&self.before.model, vec![(aligner.live.clone(), 1.0)]),
        }
    }

    /// The adapter with where it comes from, where there is one.
    pub(super) fn adapter(&self) -> Option<(&Lora, &Lineage)> {
        match &self.after {
            After::Model(_) => None,
            After::Adapter(aligner) => Some((&aligner.lora, &aligner.lineage)),
        }
    }

    /// The file that aligns.
    pub(super) fn after_file(&self) -> &File {
        match &self.after {
            After::Model(after) => &after.file,
            After::Adapter(aligner) => &aligner.file,
        }
    }
}
