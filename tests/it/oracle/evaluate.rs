//! Values on demand: leaves from the layout and from outside, everything else from its sources.

use super::array::{dense, Array};
use super::{forward, gradient};
use llama_align::engine::Layout;
use llama_align::ir::{Leaf, MaskRule, Op, Program, Sym, Value, ValueId};
use std::rc::Rc;

/// An evaluation of one program for one batch; it remembers what it has computed.
#[derive(Clone)]
pub(crate) struct Oracle<'a> {
    program: &'a Program,
    layout: &'a Layout,
    weights: Rc<Vec<Array>>,
    values: Vec<Option<Array>>,
}

impl<'a> Oracle<'a> {
    /// Weights are by `WeightId`.
    pub(crate) fn new(program: &'a Program, layout: &'a Layout, weights: Rc<Vec<Array>>) -> Self {
        Self { program, layout, weights, values: vec![None; program.values.len()] }
    }

    pub(crate) fn program(&self) -> &'a Program {
        self.program
    }

    /// Sets a parameter, an input, or any other value instead of computing it.
    pub(crate) fn give(&mut self, id: ValueId, array: Array) {
        assert_eq!(array.ne, self.ne(id), "{}", self.program.describe(id));
        self.values[id.0 as usize] = Some(array);
    }

    /// The same evaluation with other values, everything that depends on them to be computed again.
    pub(crate) fn with(&self, changes: &[(ValueId, Array)]) -> Self {
        let mut other = self.clone();
        let mut stale = vec![false; self.program.values.len()];
        for (id, array) in changes {
            other.give(*id, array.clone());
            stale[id.0 as usize] = true;
        }
        for id in self.program.ids() {
            if !stale[id.0 as usize] && self.sources(id).any(|s| stale[s.0 as usize]) {
                stale[id.0 as usize] = true;
                other.values[id.0 as usize] = None;
            }
        }
        other
    }

    fn sources(&self, id: ValueId) -> impl Iterator<Item = ValueId> + 'a {
        self.program.get(id).sources().iter().flatten().copied()
    }

    /// The shape of a value in this batch.
    pub(crate) fn ne(&self, id: ValueId) -> [usize; 4] {
        self.program.get(id).ne.map(|n| self.size(n))
    }

    /// A size in this batch.
    pub(crate) fn size(&self, size: Sym) -> usize {
        usize::try_from(size.at(self.layout.n_tokens() as i64)).expect("sizes are not negative")
    }

    /// A value, computing what leads to it.
    pub(crate) fn value(&mut self, id: ValueId) -> Array {
        let mut needed = vec![false; id.0 as usize + 1];
        needed[id.0 as usize] = true;
        for i in (0..=id.0).rev().filter(|i| self.values[*i as usize].is_none()) {
            if needed[i as usize] {
                self.sources(ValueId(i)).for_each(|s| needed[s.0 as usize] = true);
            }
        }
        for i in (0..=id.0).filter(|i| needed[*i as usize]) {
            if self.values[i as usize].is_none() {
                self.values[i as usize] = Some(self.compute(ValueId(i)));
            }
        }
        self.known(id)
    }

    /// Log of the denominator of every row of an attention's softmax \[Tq, H\].
    pub(crate) fn log_sums(&mut self, attention: ValueId) -> Array {
        self.value(attention);
        let value = self.program.get(attention);
        forward::operands(self, value, 3).log_sums(value)
    }

    /// A value that was computed before.
    pub(crate) fn known(&self, id: ValueId) -> Array {
        self.values[id.0 as usize].clone().expect("sources are computed before their user")
    }

    fn compute(&self, id: ValueId) -> Array {
        let value = self.program.get(id);
        let array = match (value.leaf(), value.op()) {
            (Some(leaf), _) => self.leaf(id, leaf),
            (_, Some(op)) if op.is_view() => self.view(id, value),
            (_, Some(Op::Grad(op))) => gradient::compute(self, id, op),
            (_, Some(op)) => forward::compute(self, id, op),
            (None, None) => unreachable!("a value is a leaf or an operation"),
        };
        assert_eq!(array.ne, self.ne(id), "{}", self.program.describe(id));
        array
    }

    /// Views follow the strides that the program states, so that a wrong stride shows.
    fn view(&self, id: ValueId, value: &Value) -> Array {
        let source = self.known(value.src(0));
        if value.ty.is_quantized() {
            assert!(value.op() == Some(&Op::Reshape) && source.is_dense(), "{}", self.program.describe(id));
            return source.view(self.ne(id), dense(self.ne(id)), 0);
        }
        let element = value.ty.block_bytes();
        let stride = value.nb.map(|nb| self.size(nb) / element);
        source.view(self.ne(id), stride, self.size(value.offset) / element)
    }

    fn leaf(&self, id: ValueId, leaf: &Leaf) -> Array {
        let (ne, positions) = (self.ne(id), self.layout.positions());
        let numbers = |list: &[i32]| Array::build(ne, |i| f64::from(list[i[0]]));
        match leaf {
            Leaf::Weight(w) => self.weights[w.0 as usize].clone(),
            Leaf::Tokens => numbers(self.layout.tokens()),
            Leaf::Positions { sections: 1 } => numbers(&positions),
            // Time, height and width alike, then zeros.
            Leaf::Positions { .. } => {
                let n = positions.len();
                Array::build(ne, |i| if i[0] < 3 * n { f64::from(positions[i[0] % n]) } else { 0.0 })
            }
            Leaf::Mask(rule) => self.mask(*rule),
            Leaf::Constant(c) => Array::build(ne, |_| f64::from(*c)),
            Leaf::Table(table) => {
                let per_token: Vec<_> = positions.iter().map(|&p| f64::from(table[p as usize])).collect();
                Array::new(ne, per_token)
            }
            Leaf::Param | Leaf::Input => panic!("{} was not given", self.program.describe(id)),
        }
    }

    /// \[keys, queries\], open within a sequence by the rule; padding sees itself.
    fn mask(&self, rule: MaskRule) -> Array {
        let n = self.layout.n_tokens();
        let mut entries = vec![f64::NEG_INFINITY; n * n];
        (0..n).for_each(|i| entries[i * n + i] = 0.0);
        for span in self.layout.spans() {
            for (query, key) in (span.shared..span.len).flat_map(|q| (0..span.len).map(move |k| (q, k))) {
                entries[span.place(query) * n + span.place(key)] = f64::from(rule.entry(query, key));
            }
        }
        Array::new([n, n, 1, 1], entries)
    }
}
