//! The forward ops of the dense core (specs: vjp, sections 1 to 9).

use super::array::{dot, indices, rows, Array};
use super::attention::{soft_max, Attention};
use super::evaluate::Oracle;
use super::experts;
use super::function::{glu, unary};
use super::rope::rotate;
use llama_align::ir::{Glu, Op, Value, ValueId};

/// A node from its sources, which are known.
pub(crate) fn compute(oracle: &Oracle, id: ValueId, op: &Op) -> Array {
    let value = oracle.program().get(id);
    let ne = oracle.ne(id);
    let src = |i: usize| oracle.known(value.src(i));
    let optional = |i: usize| value.sources().get(i).copied().flatten().map(|s| oracle.known(s));
    let p = |i: usize| f64::from(value.param_f32(i));
    match op {
        // A copy may also change the shape; elements keep their order.
        Op::Cont | Op::Cast => Array::new(ne, src(0).to_vec()),
        Op::Add => src(0).zip(&src(1), |a, b| a + b),
        Op::Sub => src(0).zip(&src(1), |a, b| a - b),
        Op::Mul => src(0).zip(&src(1), |a, b| a * b),
        Op::Div => src(0).zip(&src(1), |a, b| a / b),
        Op::Scale => src(0).map(|x| p(0) * x + p(1)),
        Op::Clamp => src(0).map(|x| x.max(p(0)).min(p(1))),
        Op::Sqr => src(0).map(|x| x * x),
        Op::Sqrt => src(0).map(f64::sqrt),
        Op::Log => src(0).map(f64::ln),
        Op::SumRows => src(0).by_row(1, |_, x, y| y[0] = x.iter().sum()),
        Op::Mean => src(0).by_row(1, |_, x, y| y[0] = x.iter().sum::<f64>() / x.len() as f64),
        Op::Repeat => {
            let small = src(0);
            Array::build(ne, |i| small.tiled(i))
        }
        Op::Concat => concat(&src(0), &src(1), value.params[0] as usize, ne),
        Op::MulMat => mul_mat(&src(0), &src(1)),
        Op::MulMatId => experts::mul_mat_id(&src(0), &src(1), &src(2)),
        Op::AddId => experts::add_id(&src(0), &src(1), &src(2)),
        Op::Other(name) if name == "ARGSORT" => experts::argsort(&src(0), value.params[0] == 1),
        Op::GetRows => get_rows(&src(0), &src(1), ne),
        Op::RmsNorm => src(0).by_row(ne[0], |_, x, y| {
            let r = 1.0 / (dot(x, x) / x.len() as f64 + p(0)).sqrt();
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * r);
        }),
        Op::Norm => src(0).by_row(ne[0], |_, x, y| {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.len() as f64;
            y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) / (variance + p(0)).sqrt());
        }),
        Op::L2Norm => src(0).by_row(ne[0], |_, x, y| {
            let size = dot(x, x).sqrt().max(p(0));
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x / size);
        }),
        Op::SoftMax => soft_max(value, &src(0), optional(1).as_ref(), optional(2).as_ref()),
        Op::Rope => rotate(value, &src(0), &src(1), optional(2).as_ref(), 1.0),
        Op::Attention => operands(oracle, value, 3).output(value),
        Op::Unary(kind) => src(0).map(|x| unary(*kind, x, [p(1), p(2), p(3), p(4)]).0),
        Op::Glu(kind) => gated(*kind, value, &src(0), optional(1).as_ref(), ne),
        Op::View | Op::Reshape | Op::Permute | Op::Transpose | Op::Dropout | Op::Grad(_) | Op::Other(_) => {
            panic!("the oracle has no {}", oracle.program().describe(id))
        }
    }
}

/// q, k, v of an attention node; mask and sinks, where there are any, follow from source `rest` on.
pub(crate) fn operands(oracle: &Oracle, value: &Value, rest: usize) -> Attention {
    let optional = |i: usize| value.sources().get(i).copied().flatten().map(|s| oracle.known(s));
    let [q, k, v] = [0, 1, 2].map(|i| oracle.known(value.src(i)).with_rows());
    Attention { q, k, v, mask: optional(rest), sinks: optional(rest + 1) }
}

/// `y[n, m] = Σ_k a[k, n]·b[k, m]`; heads of `b` are grouped over those of `a`.
pub(crate) fn mul_mat(a: &Array, b: &Array) -> Array {
    assert_eq!(a.ne[0], b.ne[0]);
    let (a, ratio) = (a.with_rows(), [b.ne[2] / a.ne[2], b.ne[3] / a.ne[3]]);
    b.by_row(a.ne[1], |[_, _, i2, i3], x, y| {
        for (n, y) in y.iter_mut().enumerate() {
            *y = dot(a.row([0, n, i2 / ratio[0], i3 / ratio[1]]), x);
        }
    })
}

/// Row `ids[i, i2]` of plane `i2`.
fn get_rows(table: &Array, ids: &Array, ne: [usize; 4]) -> Array {
    let table = table.with_rows();
    let mut out = Vec::with_capacity(ne.iter().product());
    for [_, i, i2, i3] in rows(ne) {
        out.extend_from_slice(table.row([0, ids.at([i, i2, i3, 0]) as usize, i2, i3]));
    }
    Array::new(ne, out)
}

fn concat(a: &Array, b: &Array, dim: usize, ne: [usize; 4]) -> Array {
    Array::build(ne, |mut i| {
        if i[dim] < a.ne[dim] {
            return a.at(i);
        }
        i[dim] -= a.ne[dim];
        b.at(i)
    })
}

/// Index of gate and multiplier within the fused source for an index of the result.
pub(crate) fn halves(value: &Value, i: [usize; 4], n: usize) -> [[usize; 4]; 2] {
    let (first, second) = (i, [i[0] + n, i[1], i[2], i[3]]);
    if value.params[1] == 0 {
        [first, second]
    } else {
        [second, first]
    }
}

fn gated(kind: Glu, value: &Value, a: &Array, b: Option<&Array>, ne: [usize; 4]) -> Array {
    let p = [f64::from(value.param_f32(2)), f64::from(value.param_f32(3))];
    let out = indices(ne).map(|i| match b {
        Some(b) => glu(kind, a.at(i), b.at(i), p).0,
        None => {
            let [gate, up] = halves(value, i, ne[0]);
            glu(kind, a.at(gate), a.at(up), p).0
        }
    });
    Array::new(ne, out.collect())
}
