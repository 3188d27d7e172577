//! Mixtures of experts: products with chosen matrices and what leads back from them (specs: vjp, section 9).

use super::array::{dense, dot, rows, Array};

/// The expert of slot `i[1]` of token `i[2]`.
fn chosen(choices: &Array, i: [usize; 4]) -> usize {
    choices.at([i[1], i[2], 0, 0]) as usize
}

/// `y[n, e, t] = Σ_k a[k, n, choices[e, t]]·b[k, e mod b.ne1, t]`.
pub(crate) fn mul_mat_id(a: &Array, b: &Array, choices: &Array) -> Array {
    let (a, b) = (a.with_rows(), b.with_rows());
    let ne = [a.ne[1], choices.ne[0], choices.ne[1], 1];
    Array::build(ne, |i| dot(a.row([0, i[0], chosen(choices, i), 0]), b.row([0, i[1] % b.ne[1], i[2], 0])))
}

/// `y[n, e, t] = x[n, e, t] + bias[n, choices[e, t]]`.
pub(crate) fn add_id(x: &Array, bias: &Array, choices: &Array) -> Array {
    Array::build(x.ne, |i| x.at(i) + bias.at([i[0], chosen(choices, i), 0, 0]))
}

/// Numbers of a row's entries in order of their size.
pub(crate) fn argsort(x: &Array, descending: bool) -> Array {
    x.by_row(x.ne[0], |_, x, y| {
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|&a, &b| if descending { x[b].total_cmp(&x[a]) } else { x[a].total_cmp(&x[b]) });
        y.iter_mut().zip(order).for_each(|(y, i)| *y = i as f64);
    })
}

/// W \[K, N, E\], dy \[N, k, T\] → Σ_n W\[k, n, choice\]·dy\[n\].
pub(crate) fn experts_back(w: &Array, dy: &Array, choices: &Array) -> Array {
    let w = w.with_rows();
    dy.by_row(w.ne[0], |i, dy, dx| {
        for (n, dy) in dy.iter().enumerate() {
            let row = w.row([0, n, chosen(choices, i), 0]);
            dx.iter_mut().zip(row).for_each(|(dx, w)| *dx += dy * w);
        }
    })
}

/// a \[K, 1 or k, T\], b \[R, k, T\] → \[K, R, E\].
pub(crate) fn experts_sum(a: &Array, b: &Array, choices: &Array, ne: [usize; 4]) -> Array {
    let (a, b, stride) = (a.with_rows(), b.with_rows(), dense(ne));
    let mut out = vec![0.0; ne.iter().product()];
    for i in rows(b.ne) {
        let (x, dy) = (a.row([0, i[1] % a.ne[1], i[2], 0]), b.row(i));
        for (r, dy) in dy.iter().enumerate() {
            let to = &mut out[chosen(choices, i) * stride[2] + r * stride[1]..][..ne[0]];
            to.iter_mut().zip(x).for_each(|(to, x)| *to += x * dy);
        }
    }
    Array::new(ne, out)
}

/// dy \[n, k, T\] → \[n, R, T\].
pub(crate) fn rows_back(dy: &Array, choices: &Array, ne: [usize; 4]) -> Array {
    let (dy, stride) = (dy.with_rows(), dense(ne));
    let mut out = vec![0.0; ne.iter().product()];
    for i in rows(dy.ne) {
        let to = &mut out[chosen(choices, i) * stride[1] + i[2] * stride[2]..][..ne[0]];
        to.iter_mut().zip(dy.row(i)).for_each(|(to, dy)| *to += dy);
    }
    Array::new(ne, out)
}
