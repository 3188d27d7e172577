//! What the training forms lower to kernels of our own: attention, products, gradients, and functions that ggml looks up.

use super::lower::Lowering;
use super::profile::Phase;
use super::terms::{self, Matrix};
use crate::error::Result;
use crate::ir::{GradOp, Leaf, MaskRule, Op, Sym, Value, ValueId};
use crate::kernel::{ops, Side};
use crate::runtime::{Kernel, Tensor};
use quant::Type;

impl Lowering<'_, '_> {
    /// An op of ours, timed where somebody asked.
    pub(super) fn own(
        &mut self,
        phase: Phase,
        flops: u64,
        ne: [i64; 4],
        src: &[Tensor],
        kernel: Kernel,
    ) -> Result<Tensor> {
        let kernel = match self.profile {
            Some(profile) => profile.timed(phase, flops, kernel),
            None => kernel,
        };
        self.builder.custom(ne, src, kernel)
    }

    /// Operations of a product of two sources: two for every multiplication.
    fn flops(&self, value: &Value) -> u64 {
        self.term_flops(value, value.src(1))
    }

    /// Operations of a product with activations `rows` whose results are `value`'s.
    fn term_flops(&self, value: &Value, rows: ValueId) -> u64 {
        let results: i64 = self.ne(value).iter().product();
        2 * results as u64 * self.ne(self.program.get(rows))[0] as u64
    }

    pub(super) fn mask_rule(&self, id: ValueId, value: &Value) -> Result<MaskRule> {
        let mask = value.sources().iter().flatten().find_map(|&s| match self.program.get(s).leaf() {
            Some(Leaf::Mask(rule)) => Some(*rule),
            _ => None,
        });
        mask.ok_or_else(|| self.refuse(id, "attention without a mask of a known rule"))
    }

    /// q, k, v, and sinks where the op has them, for our kernels.
    fn attention_sources(&mut self, value: &Value, sinks_at: usize) -> Result<(Vec<Tensor>, bool)> {
        let mut src = Vec::new();
        for s in value.sources().iter().take(sinks_at - 1).flatten() {
            src.push(self.tensor(*s)?);
        }
        let sinks = value.sources().get(sinks_at).copied().flatten();
        if let Some(sinks) = sinks {
            src.push(self.tensor(sinks)?);
        }
        Ok((src, sinks.is_some()))
    }

    fn scores(&self, value: &Value, rule: MaskRule, has_sinks: bool) -> ops::AttentionSpec {
        ops::AttentionSpec {
            layout: self.inputs.layout.clone(),
            rule,
            scale: value.param_f32(0),
            max_bias: value.param_f32(1),
            softcap: value.param_f32(2),
            has_sinks,
        }
    }

    pub(super) fn attention(&mut self, id: ValueId, value: &Value) -> Result<Tensor> {
        let rule = self.mask_rule(id, value)?;
        let (src, has_sinks) = self.attention_sources(value, 4)?;
        let spec = self.scores(value, rule, has_sinks);
        let ne = self.ne(value);
        self.own(Phase::Attention, 0, ne, &src, ops::attention(spec))
    }

    /// As it is where nothing is dropped: in references and measurements.
    pub(super) fn dropout(&mut self, value: &Value) -> Result<Tensor> {
        let (x, ne) = (self.tensor(value.src(0))?, self.ne(value));
        let weight = u64::from(value.params[0] as u32) | u64::from(value.params[1] as u32) << 32;
        let kernel = match self.inputs.draws.clone() {
            Some(draws) => ops::per_row(move |place, x, out| draws.row(weight, place, x, out)),
            None => ops::per_row(|_, x, out| out.copy_from_slice(x)),
        };
        self.own(Phase::Other, 0, ne, &[x], kernel)
    }

    /// A product with a frozen weight or a trainable factor, if that is what the node is.
    pub(super) fn linear(&mut self, value: &Value) -> Result<Option<Tensor>> {
        let weight = self.program.as_weight(value.src(0));
        if let Some(info) = weight.map(|w| self.program.weight(w)).filter(|info| info.ne[2] * info.ne[3] != 1) {
            return self.stack(value, info.ty);
        }
        let x = self.program.get(value.src(1));
        let rows_dense = x.ne[2] == Sym::fixed(1) || x.is_contiguous();
        if !rows_dense || x.nb[0] != Sym::fixed(4) || x.ty != Type::F32 {
            return Ok(None);
        }
        if self.program.get(value.src(0)).leaf() == Some(&Leaf::Param) {
            let (a, x) = (self.tensor(value.src(0))?, self.tensor(value.src(1))?);
            let ne = self.ne(value);
            return self.own(Phase::Products, self.flops(value), ne, &[a, x], ops::product()).map(Some);
        }
        let Some(weight) = weight else { return Ok(None) };
        let info = self.program.weight(weight);
        let Some(data) = self.weights[weight.0 as usize] else { return Ok(None) };
        let x = self.tensor(value.src(1))?;
        let ne = self.ne(value);
        self.own(Phase::Products, self.flops(value), ne, &[x], ops::linear(info, &data)?).map(Some)
    }

    /// A value that is a sum of products with matrices whose bytes are at hand.
    pub(super) fn sum_of_products(&mut self, id: ValueId, value: &Value) -> Result<Option<Tensor>> {
        let is_there = |id: ValueId| self.given.contains_key(&id) || self.done.contains_key(&id);
        let Some(terms) = terms::terms(self.program, &self.uses, &is_there, id) else { return Ok(None) };
        let (mut sources, mut specs) = (Vec::new(), Vec::with_capacity(terms.len()));
        let flops = terms.iter().map(|t| self.term_flops(value, t.rows)).sum();
        for term in &terms {
            let matrix = match term.matrix {
                Matrix::Weight(w) => match &self.weights[w.0 as usize] {
                    Some(data) => ops::frozen(self.program.weight(w), data)?,
                    None => return Ok(None),
                },
                Matrix::Factor(factor) => {
                    sources.push(self.tensor(factor)?);
                    ops::TermMatrix::Source(sources.len() - 1)
                }
            };
            sources.push(self.rounded(term.rows)?);
            specs.push(ops::TermSpec { matrix, side: term.side, rows: sources.len() - 1 });
        }
        let ne = self.ne(value);
        self.own(Phase::Products, flops, ne, &sources, ops::sum_of_products(specs)).map(Some)
    }

    fn rounded(&mut self, id: ValueId) -> Result<Tensor> {
        if let Some(&tensor) = self.rounded.get(&id) {
            return Ok(tensor);
        }
        let x = self.tensor(id)?;
        let [n, rows @ ..] = self.builder.ne(x);
        let ne = [(n + 1) / 2, rows[0], rows[1], rows[2]];
        let tensor = self.own(Phase::Other, 0, ne, &[x], ops::rounded())?;
        self.rounded.insert(id, tensor);
        Ok(tensor)
    }

    /// A product with a stack of weights, one per head, decoded first: ggml would round the activations to the weights'
    /// precision.
    fn stack(&mut self, value: &Value, ty: Type) -> Result<Option<Tensor>> {
        if ty == Type::F32 {
            return Ok(None);
        }
        let mut src = self.sources(value)?;
        let Some(weight) = src.first().copied().flatten() else { return Ok(None) };
        let mut cast = self.spec("CPY", Type::F32, self.builder.ne(weight), vec![Some(weight)])?;
        cast.is_cast = true;
        src[0] = Some(self.builder.node(&cast)?);
        let spec = self.spec("MUL_MAT", value.ty, self.ne(value), src)?;
        self.builder.node(&spec).map(Some)
    }

    /// A function that ggml's CPU reads from a table of 16-bit floats, computed instead: its gradient is that of the
    /// function, not of the table.
    pub(super) fn tabled(&mut self, value: &Value, op: &Op) -> Result<Option<Tensor>> {
        let rows_apart = |x: &Value| x.nb[0] == Sym::fixed(4) && (x.is_contiguous() || x.ne[2..] == [Sym::fixed(1); 2]);
        let sources: Vec<_> = value.sources().iter().flatten().copied().collect();
        if !sources.iter().all(|&s| self.program.get(s).ty == Type::F32 && rows_apart(self.program.get(s))) {
            return Ok(None);
        }
        let Some(kernel) = ops::tabled(op, value) else { return Ok(None) };
        let src = sources.into_iter().map(|s| self.tensor(s)).collect::<Result<Vec<_>>>()?;
        let ne = self.ne(value);
        self.own(Phase::Other, 0, ne, &src, kernel).map(Some)
    }

    pub(super) fn gradient(&mut self, id: ValueId, value: &Value, op: &GradOp) -> Result<Tensor> {
        let ne = self.ne(value);
        match op {
            GradOp::LinearBack if self.program.get(value.src(0)).leaf() == Some(&Leaf::Param) => {
                let (a, dy) = (self.tensor(value.src(0))?, self.tensor(value.src(1))?);
                self.own(Phase::Products, self.flops(value), ne, &[a, dy], ops::product_back())
            }
            GradOp::LinearBack => {
                let weight = self.program.as_weight(value.src(0)).ok_or_else(|| self.refuse(id, "no weight"))?;
                let info = self.program.weight(weight);
                let data =
                    self.weights[weight.0 as usize].ok_or_else(|| self.refuse(id, "its weight cannot be read"))?;
                let dy = self.tensor(value.src(1))?;
                self.own(Phase::Products, self.flops(value), ne, &[dy], ops::linear_back(info, &data)?)
            }
            GradOp::ExpertsBack => self.routed(id, value, Side::Transposed),
            GradOp::AttentionBack => {
                let rule = self.mask_rule(id, value)?;
                let (src, has_sinks) = self.attention_sources(value, 5)?;
                let spec = self.scores(value, rule, has_sinks);
                self.own(Phase::Attention, 0, ne, &src, ops::attention_back(spec))
            }
            other => {
                let src = self.sources(value)?.into_iter().flatten().collect::<Vec<_>>();
                let kernel = ops::gradient(other, value, self.n_tokens).ok_or_else(|| self.refuse(id, "no kernel"))?;
                self.own(Phase::Other, 0, ne, &src, kernel)
            }
        }
    }
}
