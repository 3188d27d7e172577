//! Strided tensors of f64 that share their memory.

use std::rc::Rc;

/// A tensor in ggml order; strides and offset count elements.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) ne: [usize; 4],
    pub(crate) stride: [usize; 4],
    pub(crate) offset: usize,
    data: Rc<Vec<f64>>,
}

/// Strides of a contiguous tensor.
pub(crate) fn dense(ne: [usize; 4]) -> [usize; 4] {
    [1, ne[0], ne[0] * ne[1], ne[0] * ne[1] * ne[2]]
}

/// All indices of a shape, axis 0 fastest.
pub(crate) fn indices(ne: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
    let n = ne.iter().product::<usize>();
    (0..n).map(move |i| [i % ne[0], i / ne[0] % ne[1], i / (ne[0] * ne[1]) % ne[2], i / (ne[0] * ne[1] * ne[2])])
}

/// Rows of a shape: indices with axis 0 at 0.
pub(crate) fn rows(ne: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
    indices([1, ne[1], ne[2], ne[3]])
}

/// Σ a·b, eight sums side by side so that the compiler may use vectors.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (mut x, mut y) = (a.chunks_exact(8), b.chunks_exact(8));
    for (x, y) in (&mut x).zip(&mut y) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    let rest: f64 = x.remainder().iter().zip(y.remainder()).map(|(x, y)| x * y).sum();
    rest + sums.iter().sum::<f64>()
}

/// Length of a vector.
pub(crate) fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

impl Array {
    pub(crate) fn new(ne: [usize; 4], data: Vec<f64>) -> Self {
        assert_eq!(ne.iter().product::<usize>(), data.len(), "{ne:?}");
        Self { ne, stride: dense(ne), offset: 0, data: Rc::new(data) }
    }

    /// Element by element from an index.
    pub(crate) fn build(ne: [usize; 4], f: impl FnMut([usize; 4]) -> f64) -> Self {
        Self::new(ne, indices(ne).map(f).collect())
    }

    /// Another look into the same memory.
    pub(crate) fn view(&self, ne: [usize; 4], stride: [usize; 4], offset: usize) -> Self {
        Self { ne, stride, offset: self.offset + offset, data: self.data.clone() }
    }

    fn place(&self, i: [usize; 4]) -> usize {
        self.offset + (0..4).map(|axis| i[axis] * self.stride[axis]).sum::<usize>()
    }

    pub(crate) fn at(&self, i: [usize; 4]) -> f64 {
        self.data[self.place(i)]
    }

    /// The element at an index that wraps on every axis, as a tiled operand is read.
    pub(crate) fn tiled(&self, i: [usize; 4]) -> f64 {
        self.at([0, 1, 2, 3].map(|axis| i[axis] % self.ne[axis]))
    }

    pub(crate) fn is_dense(&self) -> bool {
        let dense = dense(self.ne);
        (0..4).all(|axis| self.ne[axis] == 1 || self.stride[axis] == dense[axis])
    }

    /// A copy without gaps, or the same memory if there are none.
    pub(crate) fn contiguous(&self) -> Self {
        if self.is_dense() {
            return Self { stride: dense(self.ne), ..self.clone() };
        }
        Self::build(self.ne, |i| self.at(i))
    }

    /// The elements in order.
    pub(crate) fn to_vec(&self) -> Vec<f64> {
        self.contiguous().slice().to_vec()
    }

    /// The elements of a contiguous tensor.
    pub(crate) fn slice(&self) -> &[f64] {
        assert!(self.is_dense(), "a strided tensor has no slice");
        &self.data[self.offset..self.offset + self.ne.iter().product::<usize>()]
    }

    /// The row of axis 0 at an index; axis 0 must be without gaps.
    pub(crate) fn row(&self, i: [usize; 4]) -> &[f64] {
        assert!(self.stride[0] == 1 || self.ne[0] == 1);
        let start = self.place([0, i[1], i[2], i[3]]);
        &self.data[start..start + self.ne[0]]
    }

    /// The same with gap-free rows, whatever the outer strides.
    pub(crate) fn with_rows(&self) -> Self {
        if self.stride[0] == 1 || self.ne[0] == 1 {
            self.clone()
        } else {
            self.contiguous()
        }
    }

    /// Norm of the difference over this one's norm; infinite where one of them is not finite.
    pub(crate) fn distance(&self, found: &[f32]) -> f64 {
        let wanted = self.to_vec();
        assert_eq!(found.len(), wanted.len());
        let difference: Vec<_> = found.iter().zip(&wanted).map(|(&f, w)| f64::from(f) - w).collect();
        let error = norm(&difference) / norm(&wanted);
        if error.is_nan() {
            f64::INFINITY
        } else {
            error
        }
    }

    /// Every element through a function.
    pub(crate) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self::build(self.ne, |i| f(self.at(i)))
    }

    /// Element by element with a second operand, tiled over this one.
    pub(crate) fn zip(&self, other: &Array, f: impl Fn(f64, f64) -> f64) -> Self {
        Self::build(self.ne, |i| f(self.at(i), other.tiled(i)))
    }

    /// Row by row: `f(index, source row, result row)`, rows of the result `len` long.
    pub(crate) fn by_row(&self, len: usize, mut f: impl FnMut([usize; 4], &[f64], &mut [f64])) -> Self {
        let source = self.with_rows();
        let mut data = vec![0.0; len * self.ne[1] * self.ne[2] * self.ne[3]];
        for (i, out) in rows(self.ne).zip(data.chunks_exact_mut(len)) {
            f(i, source.row(i), out);
        }
        Self::new([len, self.ne[1], self.ne[2], self.ne[3]], data)
    }
}
