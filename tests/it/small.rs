//! Programs of a few values, built by hand: their gradients by the rules, by differences and by the engine.

use crate::graph::{run, run_in};
use crate::oracle::{norm, slope, Array, Oracle};
use crate::random::Random;
use llama_align::autodiff::differentiate;
use llama_align::engine::{Form, Layout};
use llama_align::ir::{Leaf, MaskRule, Op, Program, Sym, Value, ValueId, ValueKind};
use quant::Type;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A program with given leaves.
pub(crate) struct Small {
    pub(crate) program: Program,
    pub(crate) layout: Layout,
    pub(crate) leaves: Vec<(ValueId, Vec<f32>)>,
}

/// A result's cotangent and the gradients that it leads to.
pub(crate) struct Pullback {
    pub(crate) result: ValueId,
    pub(crate) seed: ValueId,
    pub(crate) wanted: Vec<ValueId>,
    pub(crate) gradients: Vec<ValueId>,
}

/// A shape without a token axis.
pub(crate) fn fixed(ne: [usize; 4]) -> [Sym; 4] {
    ne.map(|n| Sym::fixed(n as i64))
}

/// `op_params` from floats at some places.
pub(crate) fn floats(at: &[(usize, f32)]) -> [i32; 16] {
    let mut params = [0; 16];
    at.iter().for_each(|&(i, x)| params[i] = x.to_bits() as i32);
    params
}

impl Small {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { program: Program { architecture: "by-hand".into(), ..Program::default() }, layout, leaves: Vec::new() }
    }

    /// A leaf with these values.
    pub(crate) fn leaf(&mut self, leaf: Leaf, ne: [Sym; 4], values: Vec<f32>) -> ValueId {
        let id = self.program.leaf(leaf, Type::F32, ne, "leaf");
        self.leaves.push((id, values));
        id
    }

    pub(crate) fn input(&mut self, ne: [usize; 4], values: Vec<f32>) -> ValueId {
        self.leaf(Leaf::Input, fixed(ne), values)
    }

    /// An input with random values in ±1.
    pub(crate) fn random(&mut self, ne: [Sym; 4], name: &str) -> ValueId {
        let n = self.elements(ne);
        self.leaf(Leaf::Input, ne, Random::of(name).vector(n, 1.0))
    }

    /// A mask over the layout's tokens.
    pub(crate) fn mask(&mut self, rule: MaskRule) -> ValueId {
        let (one, t) = (Sym::fixed(1), Sym::per_token(1));
        self.program.push(Value {
            kind: ValueKind::Leaf(Leaf::Mask(rule)),
            ty: Type::F16,
            ne: [t, t, one, one],
            nb: [Sym::fixed(2), Sym::per_token(2), Sym::default(), Sym::default()],
            params: [0; 16],
            offset: Sym::default(),
            name: "mask".into(),
        })
    }

    pub(crate) fn elements(&self, ne: [Sym; 4]) -> usize {
        ne.iter().map(|n| n.at(self.layout.n_tokens() as i64) as usize).product()
    }

    /// A node with a contiguous F32 result.
    pub(crate) fn node(&mut self, op: Op, ne: [Sym; 4], src: &[ValueId], params: [i32; 16]) -> ValueId {
        self.program.node(op, Type::F32, ne, src, params)
    }

    /// Differentiates; the cotangent of the result is `dy`.
    pub(crate) fn pullback(&mut self, result: ValueId, dy: Vec<f32>, wanted: &[ValueId]) -> Pullback {
        let ne = self.program.get(result).ne;
        let seed = self.leaf(Leaf::Input, ne, dy);
        let found = differentiate(&mut self.program, &[(result, seed)], wanted, &BTreeSet::new()).unwrap();
        let gradients = found.into_iter().map(|g| g.expect("the result depends on it")).collect();
        Pullback { result, seed, wanted: wanted.to_vec(), gradients }
    }

    pub(crate) fn oracle(&self) -> Oracle<'_> {
        let mut oracle = Oracle::new(&self.program, &self.layout, Rc::new(Vec::new()));
        for (id, values) in &self.leaves {
            oracle.give(*id, Array::new(oracle.ne(*id), values.iter().map(|&x| f64::from(x)).collect()));
        }
        oracle
    }

    /// What the engine's kernels make of some values.
    pub(crate) fn engine(&self, outputs: &[ValueId]) -> Vec<Vec<f32>> {
        run(&self.program, &[], &self.layout, &self.leaves, outputs)
    }

    /// The worst error of the interpreted gradients against central differences, along one random direction each.
    pub(crate) fn difference_error(&self, pullback: &Pullback) -> f64 {
        let mut oracle = self.oracle();
        let dy = oracle.value(pullback.seed);
        oracle.value(pullback.result);
        let loss = |oracle: &mut Oracle| {
            let y = oracle.value(pullback.result).to_vec();
            y.iter().zip(dy.slice()).map(|(y, d)| y * d).sum::<f64>()
        };
        let pairs = pullback.wanted.iter().zip(&pullback.gradients);
        let errors = pairs.map(|(&id, &gradient)| {
            let gradient = oracle.value(gradient).to_vec();
            let direction = Random::of("direction").direction(gradient.len());
            let exact: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = norm(&gradient) / (gradient.len() as f64).sqrt();
            (slope(&oracle, &[(id, &direction)], &loss) - exact).abs() / size
        });
        errors.fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
    }

    /// The worst error of the engine's results against the oracle's, over the norm of each.
    pub(crate) fn engine_error(&self, form: Form, outputs: &[ValueId]) -> f64 {
        let mut oracle = self.oracle();
        let found = run_in(form, &self.program, &[], &self.layout, &self.leaves, outputs);
        let errors = outputs.iter().zip(&found).map(|(&id, found)| oracle.value(id).distance(found));
        errors.fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
    }
}
