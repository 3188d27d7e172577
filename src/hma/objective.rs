//! How likely a blend finds responses, and the slope of that by every block's ratio, without a written model.

use super::blend::{blend, Side};
use super::Shares;
use crate::adapter::Lora;
use crate::autodiff::layer_of;
use crate::data::Sequence;
use crate::engine::{Delta, Engine, Form};
use crate::error::{Error, Kind, Result};
use crate::os;
use crate::runtime::Model;
use crate::trace::Trace;
use crate::train::{packs, Recompute};
use std::sync::Arc;

/// A sum over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Negative log-likelihood of all tokens together, in nats.
    pub nll: f64,
    /// How many tokens.
    pub n_tokens: usize,
}

impl Likelihood {
    /// Per token.
    pub fn mean(&self) -> f64 {
        self.nll / self.n_tokens.max(1) as f64
    }
}

/// What a search makes small.
pub trait Objective {
    /// Responses there are.
    fn n_rows(&self) -> usize;
    /// Likelihood of some of them under a ratio for every block.
    fn nll(&mut self, rows: &[usize], layers: &[f64]) -> Result<Likelihood>;
    /// The same, and the slope of the sum by the ratio of every block.
    fn gradient(&mut self, rows: &[usize], layers: &[f64]) -> Result<(Likelihood, Vec<f64>)>;
}

/// A model before and after alignment in one session.
#[derive(Debug)]
pub struct Blended {
    model: Arc<Model>,
    engine: Engine,
    /// Parameter of the session and its tensor.
    ratios: Vec<(usize, String)>,
    n_layers: usize,
    is_tied: bool,
}

impl Blended {
    /// A base and its adapter: every block's part of the adapter is scaled, and nothing else is done, so that nothing is lost.
    pub fn of_adapter(
        model: &Arc<Model>,
        trace: &Arc<Trace>,
        lora: &Lora,
        n_threads: usize,
        form: Form,
    ) -> Result<Self> {
        let delta = Delta { lora: lora.clone(), scale: 1.0, trainable: true };
        Ok(Self::new(Engine::with_ratios(model, trace, vec![delta], n_threads, form)?, model))
    }

    /// Two models: two products for each weight in which they differ.
    pub fn of_models(before: Side, after: Side, n_threads: usize, form: Form) -> Result<Self> {
        let trace = Arc::new(blend(before, after)?);
        if trace.ratios.is_empty() {
            let (a, b) = (before.file.path().display(), after.file.path().display());
            return Err(Error::new(
                Kind::Mismatch,
                format!("{a} and {b} hold the same weights: there is nothing to blend"),
            ));
        }
        let engine = Engine::with_ratios(before.model, &trace, Vec::new(), n_threads, form)?;
        let is_tied = [before.file, after.file].iter().all(|file| file.tensor("output.weight").is_none());
        Ok(Self { is_tied, ..Self::new(engine, before.model) })
    }

    fn new(engine: Engine, model: &Arc<Model>) -> Self {
        let tensor = |name: &str| name.strip_suffix(".ratio").unwrap_or(name).to_owned();
        let ratios = engine.ratios().into_iter().map(|i| (i, tensor(engine.parameter_info(i).0))).collect();
        Self { model: model.clone(), engine, ratios, n_layers: model.n_layer(), is_tied: false }
    }

    /// The model before.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The embeddings serve as head too, in both models.
    pub fn is_tied(&self) -> bool {
        self.is_tied
    }

    /// Blocks of the model.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// Tensors with a ratio, by block: what a regulariser counts.
    pub fn n_linears(&self) -> Vec<usize> {
        let mut counts = vec![0; self.n_layers];
        for layer in self.ratios.iter().filter(|(i, _)| self.engine.is_trainable(*i)).filter_map(|(_, t)| layer_of(t)) {
            if let Some(count) = counts.get_mut(layer) {
                *count += 1;
            }
        }
        counts
    }

    /// Blends from now on as told.
    pub fn set(&mut self, shares: &Shares) {
        shares.set(&mut self.engine, self.is_tied);
    }

    /// The session, blending as it was last told.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The session alone.
    pub fn into_engine(self) -> Engine {
        self.engine
    }

    /// Likelihood of sequences' answers, packed.
    pub fn nll(&mut self, sequences: &[&Sequence], max_tokens: usize) -> Result<Likelihood> {
        let mut total = Likelihood::default();
        for pack in packs(sequences, max_tokens) {
            add(&mut total, &self.engine.log_probs(pack)?)?;
        }
        Ok(total)
    }

    /// The same, with the slope by the ratio of every block.
    pub fn gradient(&mut self, sequences: &[&Sequence], max_tokens: usize) -> Result<(Likelihood, Vec<f64>)> {
        let (mut total, mut slopes) = (Likelihood::default(), vec![0.0; self.n_layers]);
        for pack in packs(sequences, max_tokens) {
            let kept = self.engine.inner_bytes(max_tokens) as u64;
            let recompute = Recompute::Auto.resolve(kept, os::available_bytes());
            self.engine.set_recompute(recompute != Recompute::Never);
            let log_probs = self.engine.forward(pack)?;
            add(&mut total, &log_probs)?;
            let down: Vec<Vec<f32>> = log_probs.iter().map(|l| vec![-1.0; l.len()]).collect();
            self.engine.zero_gradients();
            self.engine.backward(&down)?;
            for (i, tensor) in self.ratios.iter().filter(|(i, _)| self.engine.is_trainable(*i)) {
                if let Some(slope) = layer_of(tensor).and_then(|layer| slopes.get_mut(layer)) {
                    // The session's number is the weight of the model after.
                    *slope -= f64::from(self.engine.gradient(*i)[0]);
                }
            }
        }
        match slopes.iter().all(|s| s.is_finite()) {
            true => Ok((total, slopes)),
            false => Err(Error::new(Kind::Numeric, "a slope by a ratio is no finite number")),
        }
    }
}

fn add(total: &mut Likelihood, log_probs: &[Vec<f32>]) -> Result<()> {
    let sum: f64 = log_probs.iter().flatten().map(|&l| f64::from(l)).sum();
    if !sum.is_finite() {
        return Err(Error::new(Kind::Numeric, "a likelihood is no finite number"));
    }
    total.nll -= sum;
    total.n_tokens += log_probs.iter().map(Vec::len).sum::<usize>();
    Ok(())
}

/// Responses under a blend.
#[derive(Debug)]
pub struct Responses<'a> {
    /// The two models.
    pub blended: &'a mut Blended,
    /// The responses with their prompts.
    pub sequences: Vec<&'a Sequence>,
    /// What tensors outside the blocks have; its blocks' ratios are the search's.
    pub shares: Shares,
    /// Tokens on the packed axis of one forward at most.
    pub max_tokens: usize,
}

impl Responses<'_> {
    fn set(&mut self, layers: &[f64]) {
        self.shares.layers.copy_from_slice(layers);
        self.blended.set(&self.shares);
    }
}

impl Objective for Responses<'_> {
    fn n_rows(&self) -> usize {
        self.sequences.len()
    }

    fn nll(&mut self, rows: &[usize], layers: &[f64]) -> Result<Likelihood> {
        self.set(layers);
        let sequences: Vec<&Sequence> = rows.iter().map(|&r| self.sequences[r]).collect();
        self.blended.nll(&sequences, self.max_tokens)
    }

    fn gradient(&mut self, rows: &[usize], layers: &[f64]) -> Result<(Likelihood, Vec<f64>)> {
        self.set(layers);
        let sequences: Vec<&Sequence> = rows.iter().map(|&r| self.sequences[r]).collect();
        self.blended.gradient(&sequences, self.max_tokens)
    }
}
