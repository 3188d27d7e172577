//! The gradient ops that only backward programs hold.

use super::array::{dense, dot, indices, rows, Array};
use super::evaluate::Oracle;
use super::experts;
use super::forward::{halves, operands};
use super::function::{glu, unary};
use super::rope::rotate;
use llama_align::ir::{Glu, GradOp, Placement, Value, ValueId};

/// A node from its sources, which are known.
pub(crate) fn compute(oracle: &Oracle, id: ValueId, op: &GradOp) -> Array {
    let value = oracle.program().get(id);
    let ne = oracle.ne(id);
    let src = |i: usize| oracle.known(value.src(i));
    let p = |i: usize| f64::from(value.param_f32(i));
    match op {
        GradOp::LinearBack => linear_back(&src(0), &src(1)),
        GradOp::OuterSum => outer_sum(&src(0), &src(1)),
        GradOp::ExpertsBack => experts::experts_back(&src(0), &src(1), &src(2)),
        GradOp::ExpertsSum => experts::experts_sum(&src(0), &src(1), &src(2), ne),
        GradOp::RowsBack => experts::rows_back(&src(0), &src(1), ne),
        GradOp::UnaryBack(kind) => src(0).zip(&src(1), |x, dy| dy * unary(*kind, x, [p(1), p(2), p(3), p(4)]).1),
        GradOp::ClampBack => src(0).zip(&src(1), |x, dy| if x > p(0) && x < p(1) { dy } else { 0.0 }),
        GradOp::GluBackGate(kind) => split(*kind, value, [&src(0), &src(1), &src(2)], |_, by_gate, _| by_gate),
        GradOp::GluBackMul(kind) => split(*kind, value, [&src(0), &src(1), &src(2)], |_, _, by_up| by_up),
        GradOp::GluBackFused(kind) => fused(*kind, value, &src(0), &src(1)),
        GradOp::RmsNormBack => normalised(&src(0), &src(1), |x, dy, dx| {
            let n = x.len() as f64;
            let r = 1.0 / (dot(x, x) / n + p(0)).sqrt();
            let y: Vec<_> = x.iter().map(|x| x * r).collect();
            let mean = dot(&y, dy) / n;
            (0..x.len()).for_each(|i| dx[i] = r * (dy[i] - y[i] * mean));
        }),
        GradOp::NormBack => normalised(&src(0), &src(1), |x, dy, dx| {
            let n = x.len() as f64;
            let (mu, mean_dy) = (x.iter().sum::<f64>() / n, dy.iter().sum::<f64>() / n);
            let variance = x.iter().map(|x| (x - mu) * (x - mu)).sum::<f64>() / n;
            let r = 1.0 / (variance + p(0)).sqrt();
            let y: Vec<_> = x.iter().map(|x| (x - mu) * r).collect();
            let mean = dot(&y, dy) / n;
            (0..x.len()).for_each(|i| dx[i] = r * (dy[i] - mean_dy - y[i] * mean));
        }),
        GradOp::L2NormBack => normalised(&src(0), &src(1), |x, dy, dx| {
            let size = dot(x, x).sqrt();
            let d = size.max(p(0));
            let y: Vec<_> = x.iter().map(|x| x / d).collect();
            let along = if size > p(0) { dot(&y, dy) } else { 0.0 };
            (0..x.len()).for_each(|i| dx[i] = (dy[i] - y[i] * along) / d);
        }),
        GradOp::SoftMaxBack => normalised(&src(0), &src(1), |y, dy, dx| {
            let along = dot(y, dy);
            (0..y.len()).for_each(|i| dx[i] = p(0) * y[i] * (dy[i] - along));
        }),
        GradOp::AttentionBack => {
            let parts = operands(oracle, value, 4).gradients(value, &src(3).with_rows());
            Array::new(ne, parts.iter().flat_map(Array::to_vec).collect())
        }
        GradOp::Scatter(placements) => scatter(oracle, value, placements, ne),
        GradOp::SumTo => sum_to(&src(0), ne),
        GradOp::RopeBack => {
            let factors = value.sources().get(2).copied().flatten().map(|s| oracle.known(s));
            rotate(value, &src(0), &src(1), factors.as_ref(), -1.0)
        }
    }
}

/// W \[K, N\], dy \[N, M\] → Σ_n W\[k, n\]·dy\[n, m\].
fn linear_back(w: &Array, dy: &Array) -> Array {
    let w = w.with_rows();
    dy.by_row(w.ne[0], |_, dy, dx| {
        for (n, dy) in dy.iter().enumerate() {
            dx.iter_mut().zip(w.row([0, n, 0, 0])).for_each(|(dx, w)| *dx += dy * w);
        }
    })
}

/// a \[K, M\], b \[R, M\] → Σ_m a\[k, m\]·b\[r, m\] as \[K, R\].
fn outer_sum(a: &Array, b: &Array) -> Array {
    assert_eq!(a.ne[1..], b.ne[1..]);
    let (k, a, b) = (a.ne[0], a.with_rows(), b.with_rows());
    let mut out = vec![0.0; k * b.ne[0]];
    for i in rows(a.ne) {
        for (out, b) in out.chunks_exact_mut(k).zip(b.row(i)) {
            out.iter_mut().zip(a.row(i)).for_each(|(out, a)| *out += a * b);
        }
    }
    Array::new([k, b.ne[0], 1, 1], out)
}

/// Row by row over x and dy of one shape.
fn normalised(x: &Array, dy: &Array, f: impl Fn(&[f64], &[f64], &mut [f64])) -> Array {
    assert_eq!(x.ne, dy.ne);
    let dy = dy.with_rows();
    x.by_row(x.ne[0], |i, x, dx| f(x, dy.row(i), dx))
}

fn limits(value: &Value) -> [f64; 2] {
    [f64::from(value.param_f32(2)), f64::from(value.param_f32(3))]
}

fn split(kind: Glu, value: &Value, [a, b, dy]: [&Array; 3], part: fn(f64, f64, f64) -> f64) -> Array {
    Array::build(dy.ne, |i| {
        let (y, by_gate, by_up) = glu(kind, a.at(i), b.at(i), limits(value));
        dy.at(i) * part(y, by_gate, by_up)
    })
}

fn fused(kind: Glu, value: &Value, x: &Array, dy: &Array) -> Array {
    let (n, strides) = (dy.ne[0], dense(x.ne));
    let place = |i: [usize; 4]| (0..4).map(|axis| i[axis] * strides[axis]).sum::<usize>();
    let mut out = vec![0.0; x.ne.iter().product()];
    for i in indices(dy.ne) {
        let [gate, up] = halves(value, i, n);
        let (_, by_gate, by_up) = glu(kind, x.at(gate), x.at(up), limits(value));
        (out[place(gate)], out[place(up)]) = (dy.at(i) * by_gate, dy.at(i) * by_up);
    }
    Array::new(x.ne, out)
}

fn scatter(oracle: &Oracle, value: &Value, placements: &[Placement], ne: [usize; 4]) -> Array {
    let mut out = vec![0.0; ne.iter().product()];
    for (k, place) in placements.iter().enumerate() {
        let dy = oracle.known(value.src(k));
        let stride = place.stride.map(|s| oracle.size(s));
        for i in indices(dy.ne) {
            out[oracle.size(place.offset) + (0..4).map(|axis| i[axis] * stride[axis]).sum::<usize>()] += dy.at(i);
        }
    }
    Array::new(ne, out)
}

/// Sums over everything that a tiled operand of this shape is read for.
fn sum_to(z: &Array, ne: [usize; 4]) -> Array {
    let (strides, mut out) = (dense(ne), vec![0.0; ne.iter().product()]);
    for i in indices(z.ne) {
        out[(0..4).map(|axis| i[axis] % ne[axis] * strides[axis]).sum::<usize>()] += z.at(i);
    }
    Array::new(ne, out)
}
