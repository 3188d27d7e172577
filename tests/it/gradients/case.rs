//! A tiny model with an adapter on every linear weight, and a batch with a loss.

use crate::models::{open, Opened};
use crate::oracle::{self, Array, Oracle, Target};
use crate::random::Random;
use crate::tiny::Tiny;
use llama_align::adapter::{norms_and_biases, Change, Factor, Lora};
use llama_align::autodiff::differentiate;
use llama_align::data::{Sample, Sequence};
use llama_align::engine::{adapt_changed, Adapted, Delta, Engine, Form, Layout, Plan, Role};
use llama_align::ir::{Leaf, Op, ValueId};
use llama_align::trace::{trace, Trace};
use quant::Type;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// Tokens of a sequence, and how many of them are the prompt.
pub(crate) type Lengths = (usize, usize);

/// Two sequences of different length: one longer than every window of the tiny models and than a block of the attention
/// kernel's queries (64), one shorter.
const SEQUENCES: [Lengths; 2] = [(70, 7), (33, 20)];
const RANK: usize = 3;

/// Everything that the runs of one model share.
pub(crate) struct Case {
    pub(crate) opened: Opened,
    pub(crate) trace: Arc<Trace>,
    pub(crate) delta: Delta,
    /// Of norms and biases, where they move as well.
    pub(crate) changes: Vec<Change>,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) layout: Layout,
    /// d loss / d log p of every completion token, per sequence.
    pub(crate) weights: Vec<Vec<f32>>,
    pub(crate) targets: Vec<Target>,
    pub(crate) decoded: Rc<Vec<Array>>,
}

/// The adapted program with its backward pass.
pub(crate) struct Backward {
    pub(crate) adapted: Adapted,
    /// Holds the cotangent of the logits.
    pub(crate) logits_seed: ValueId,
    /// The hidden state that each block leaves, with the leaf that holds its cotangent.
    pub(crate) taps: Vec<(ValueId, ValueId)>,
    /// Of each parameter.
    pub(crate) gradients: Vec<ValueId>,
}

impl Case {
    pub(crate) fn new(tiny: &Tiny, weights: Type) -> Self {
        Self::with(tiny, weights, &SEQUENCES, |_| {})
    }

    /// With other sequences, and a trace that was changed.
    pub(crate) fn with(tiny: &Tiny, weights: Type, lengths: &[Lengths], change: impl Fn(&mut Trace)) -> Self {
        Self::of(tiny, weights, change, |random, n_vocab| {
            let sequence = |&(n, prompt_len): &Lengths| {
                let tokens = (0..n).map(|_| random.below(n_vocab) as i32).collect();
                Sequence::new(tokens, prompt_len)
            };
            lengths.iter().map(sequence).collect()
        })
    }

    /// A pair whose answers read one prompt of 70 tokens, longer than every window, between two other sequences.
    pub(crate) fn pair(tiny: &Tiny, weights: Type) -> Self {
        Self::of(
            tiny,
            weights,
            |_| {},
            |random, n_vocab| {
                let mut drawn = |n: usize| (0..n).map(|_| random.below(n_vocab) as i32).collect::<Vec<_>>();
                let (prompt, answers, others) = (drawn(70), [drawn(40), drawn(9)], [drawn(9), drawn(20)]);
                let [chosen, rejected] = answers.map(|answer| Sequence::new([prompt.clone(), answer].concat(), 70));
                let [before, behind] = others.map(|tokens| Sequence::new(tokens, 3));
                let pair = Sample::pair(1, chosen, rejected);
                std::iter::once(before).chain(pair.sequences().cloned()).chain([behind]).collect()
            },
        )
    }

    fn of(
        tiny: &Tiny,
        weights: Type,
        change: impl Fn(&mut Trace),
        draw: impl FnOnce(&mut Random, usize) -> Vec<Sequence>,
    ) -> Self {
        let opened = open(tiny, weights).unwrap();
        let mut trace = trace(&opened.model).unwrap();
        change(&mut trace);
        let trace = Arc::new(trace);
        let n_vocab = opened.model.n_vocab();
        let mut random = Random::of(&tiny.name());
        let sequences = draw(&mut random, n_vocab);
        let layout = Layout::of(&sequences.iter().collect::<Vec<_>>()).unwrap();
        let scored = |s: &Sequence| s.tokens.len() - s.prompt_len;
        let weights: Vec<_> = sequences.iter().map(|s| random.vector(scored(s), 1.0)).collect();
        let targets = oracle::targets(&layout, &sequences, &weights);
        let decoded = oracle::decode(&trace.program, &opened.file);
        Self {
            delta: adapter(&trace),
            changes: Vec::new(),
            opened,
            trace,
            sequences,
            layout,
            weights,
            targets,
            decoded,
        }
    }

    /// Norms and biases of every block move as well, by a tenth of what they are.
    pub(crate) fn with_vectors(mut self) -> Self {
        let is_there = |ending: &str| self.trace.program.weights.iter().any(|w| w.name.ends_with(ending));
        let (norms, biases) = (is_there("norm.weight"), is_there(".bias"));
        for linear in norms_and_biases(&self.trace, norms, biases).unwrap() {
            let mut random = Random::of(&format!("{} change", linear.name));
            let values = random.vector(linear.n_in * linear.n_out, 0.1);
            self.changes.push(Change { values, ..Change::zero(&linear) });
        }
        self
    }

    fn adapted(&self) -> Adapted {
        adapt_changed(&self.trace, std::slice::from_ref(&self.delta), &self.changes, Form::Training).unwrap()
    }

    pub(crate) fn backward(&self) -> Backward {
        let mut planned = self.adapted();
        let plan = Plan::make(&mut planned).unwrap();
        let hidden = plan.blocks.iter().map(|block| *block.writes.last().unwrap());
        let mut adapted = self.adapted();
        let mut leaf = |value: ValueId| {
            let ne = adapted.program.get(value).ne;
            (value, adapted.program.leaf(Leaf::Input, Type::F32, ne, "cotangent"))
        };
        let mut seeds: Vec<_> = hidden.map(&mut leaf).collect();
        let taps = seeds.clone();
        let (_, logits_seed) = leaf(adapted.logits);
        seeds.push((adapted.logits, logits_seed));
        let wanted: Vec<_> = adapted.parameters.iter().map(|p| p.value).collect();
        let found = differentiate(&mut adapted.program, &seeds, &wanted, &BTreeSet::new()).unwrap();
        let gradients = found.into_iter().map(|g| g.expect("every adapted weight is used")).collect();
        Backward { adapted, logits_seed, taps, gradients }
    }

    /// The oracle of an adapted program with the adapter's factors.
    pub(crate) fn oracle<'a>(&'a self, adapted: &'a Adapted) -> Oracle<'a> {
        let mut oracle = Oracle::new(&adapted.program, &self.layout, self.decoded.clone());
        for parameter in &adapted.parameters {
            let factors = &self.delta.lora.factors;
            let values = match parameter.role {
                Role::A(_, f) => &factors[f].a,
                Role::B(_, f) => &factors[f].b,
                Role::Change(c) => &self.changes[c].values,
                Role::Ratio => panic!("no number multiplies a fixed delta"),
            };
            let values = values.iter().map(|&x| f64::from(x)).collect();
            oracle.give(parameter.value, Array::new(oracle.ne(parameter.value), values));
        }
        oracle
    }

    pub(crate) fn engine(&self, n_threads: usize) -> Engine {
        self.engine_in(Form::Training, n_threads)
    }

    pub(crate) fn engine_in(&self, form: Form, n_threads: usize) -> Engine {
        let moving = (vec![self.delta.clone()], self.changes.clone());
        Engine::with_all(&self.opened.model, &self.trace, moving, n_threads, form, 0.0).unwrap()
    }

    /// Whether a router chooses: no backend has an op for what leads back from its experts.
    pub(crate) fn is_moe(&self) -> bool {
        !self.trace.program.values.iter().all(|v| v.op() != Some(&Op::MulMatId))
    }

    pub(crate) fn batch(&self) -> Vec<&Sequence> {
        self.sequences.iter().collect()
    }

    /// A cotangent: random numbers in ±`size` at places that hold a token, zeros where the layout pads.
    pub(crate) fn on_real_tokens(&self, ne: [usize; 4], name: &str, size: f32) -> Array {
        let mut values = vec![0.0; ne.iter().product()];
        let per_token = values.len() / self.layout.n_tokens();
        let mut random = Random::of(name);
        for t in self.real() {
            let drawn = random.vector(per_token, size).into_iter().map(f64::from);
            values[t * per_token..][..per_token].iter_mut().zip(drawn).for_each(|(v, d)| *v = d);
        }
        Array::new(ne, values)
    }

    /// As [`Array::distance`], over places that hold a token: nothing reads what the layout pads with.
    pub(crate) fn distance_on_real_tokens(&self, wanted: &Array, found: &[f32]) -> f64 {
        let wanted = wanted.to_vec();
        let per_token = wanted.len() / self.layout.n_tokens();
        let places = self.real().flat_map(|t| t * per_token..(t + 1) * per_token);
        let (wanted, found): (Vec<_>, Vec<_>) = places.map(|i| (wanted[i], found[i])).unzip();
        Array::new([wanted.len(), 1, 1, 1], wanted).distance(&found)
    }

    fn real(&self) -> impl Iterator<Item = usize> + '_ {
        self.layout.spans().iter().flat_map(|s| s.rest..s.end())
    }
}

/// Random factors on every linear weight and every stack of experts: A as PEFT draws it, B of a size at which the delta matters.
fn adapter(trace: &Trace) -> Delta {
    let info = |name: &str| trace.program.weights.iter().find(|w| w.name == name).unwrap();
    let factor = |weight: String| {
        let [n_in, n_out, n_experts, _] = info(&weight).ne.map(|n| n as usize);
        let mut random = Random::of(&format!("{weight} factors"));
        let a = random.vector(n_in * RANK * n_experts, 1.0 / (n_in as f32).sqrt());
        let b = random.vector(n_out * RANK * n_experts, 0.2);
        Factor { weight, rank: RANK, n_in, n_out, n_experts, a, b, alpha: None }
    };
    let factors = trace.adaptable().into_keys().map(factor).collect();
    Delta { lora: Lora { alpha: 6.0, factors }, scale: 0.75, trainable: true }
}
