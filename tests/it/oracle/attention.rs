//! Softmax attention and its gradients, and the softmax alone (specs: vjp, sections 5 and 7).

use super::array::{dot, Array};
use llama_align::ir::Value;

/// ALiBi's slope of a head.
fn slope(head: usize, heads: usize, max_bias: f64) -> f64 {
    if max_bias == 0.0 {
        return 1.0;
    }
    let n = 1 << heads.ilog2();
    let power = |bias: f64, k: usize| 2f64.powf(-bias / n as f64 * k as f64);
    if head < n {
        power(max_bias, head + 1)
    } else {
        power(max_bias / 2.0, 2 * (head - n) + 1)
    }
}

/// z → e^z over the sum of them and of the sink's; closed entries become 0. Returns the log of the denominator.
fn softmax(z: &mut [f64], sink: Option<f64>) -> f64 {
    let top = z.iter().copied().fold(sink.unwrap_or(f64::NEG_INFINITY), f64::max);
    let sum = z.iter().map(|z| (z - top).exp()).sum::<f64>() + sink.map_or(0.0, |s| (s - top).exp());
    let log = top + sum.ln();
    z.iter_mut().for_each(|z| *z = (*z - log).exp());
    log
}

/// SOFT_MAX: scale·x + slope·mask, with sinks where there are any.
pub(crate) fn soft_max(value: &Value, x: &Array, mask: Option<&Array>, sinks: Option<&Array>) -> Array {
    let (scale, max_bias) = (f64::from(value.param_f32(0)), f64::from(value.param_f32(1)));
    let heads = x.ne[2];
    x.by_row(x.ne[0], |i, row, out| {
        let slope = slope(i[2], heads, max_bias);
        for (k, (z, x)) in out.iter_mut().zip(row).enumerate() {
            let bias = mask.map_or(0.0, |m| m.at([k, i[1], i[2] % m.ne[2], i[3] % m.ne[3]]));
            *z = scale * x + if bias == 0.0 { 0.0 } else { slope * bias };
        }
        softmax(out, sinks.map(|s| s.at([i[2], 0, 0, 0])));
    })
}

/// The operands of FLASH_ATTN_EXT: q \[dk, Tq, H\], k \[dk, Tk, Hk\], v \[dv, Tk, Hk\], mask \[Tk, Tq\], sinks \[H\].
pub(crate) struct Attention {
    pub(crate) q: Array,
    pub(crate) k: Array,
    pub(crate) v: Array,
    pub(crate) mask: Option<Array>,
    pub(crate) sinks: Option<Array>,
}

/// What one query of one head sees.
struct Row {
    /// Probabilities of the keys.
    p: Vec<f64>,
    /// Slope of the soft-cap at each score, 1 without one.
    cap: Vec<f64>,
    log_sum: f64,
}

impl Attention {
    /// The key head that a query head reads: consecutive heads share one.
    fn shared(&self, head: usize) -> usize {
        head / (self.q.ne[2] / self.k.ne[2])
    }

    fn row(&self, value: &Value, query: usize, head: usize) -> Row {
        let [scale, max_bias, softcap] = [0, 1, 2].map(|i| f64::from(value.param_f32(i)));
        let slope = slope(head, self.q.ne[2], max_bias);
        let keys = self.k.ne[1];
        let (mut p, mut cap) = (vec![f64::NEG_INFINITY; keys], vec![1.0; keys]);
        for key in 0..keys {
            let bias = self.mask.as_ref().map_or(0.0, |m| m.at([key, query, 0, 0]));
            if bias == f64::NEG_INFINITY {
                continue;
            }
            let u = scale * dot(self.q.row([0, query, head, 0]), self.k.row([0, key, self.shared(head), 0]));
            p[key] = u + slope * bias;
            if softcap != 0.0 {
                let t = (u / softcap).tanh();
                p[key] = softcap * t + slope * bias;
                cap[key] = 1.0 - t * t;
            }
        }
        let log_sum = softmax(&mut p, self.sinks.as_ref().map(|s| s.at([head, 0, 0, 0])));
        Row { p, cap, log_sum }
    }

    fn queries(&self) -> impl Iterator<Item = (usize, usize)> {
        let (n, heads) = (self.q.ne[1], self.q.ne[2]);
        (0..n).flat_map(move |query| (0..heads).map(move |head| (query, head)))
    }

    /// O \[dv, H, Tq\].
    pub(crate) fn output(&self, value: &Value) -> Array {
        let (dv, heads) = (self.v.ne[0], self.q.ne[2]);
        let mut out = vec![0.0; dv * heads * self.q.ne[1]];
        for ((query, head), o) in self.queries().zip(out.chunks_exact_mut(dv)) {
            for (key, &p) in self.row(value, query, head).p.iter().enumerate().filter(|(_, p)| **p != 0.0) {
                add(o, p, self.v.row([0, key, self.shared(head), 0]));
            }
        }
        Array::new([dv, heads, self.q.ne[1], 1], out)
    }

    /// Log of each row's sum of exponentials \[Tq, H\].
    pub(crate) fn log_sums(&self, value: &Value) -> Array {
        Array::build([self.q.ne[1], self.q.ne[2], 1, 1], |i| self.row(value, i[0], i[1]).log_sum)
    }

    /// dq \[dk, H, Tq\], dk \[dk, Hk, Tk\] and dv \[dv, Hk, Tk\] from dO \[dv, H, Tq\].
    pub(crate) fn gradients(&self, value: &Value, d_out: &Array) -> [Array; 3] {
        let scale = f64::from(value.param_f32(0));
        let (dk, dv, heads, kv_heads, keys) = (self.k.ne[0], self.v.ne[0], self.q.ne[2], self.k.ne[2], self.k.ne[1]);
        let mut of_q = vec![0.0; dk * heads * self.q.ne[1]];
        let (mut of_k, mut of_v) = (vec![0.0; dk * kv_heads * keys], vec![0.0; dv * kv_heads * keys]);
        for ((query, head), dq) in self.queries().zip(of_q.chunks_exact_mut(dk)) {
            let (row, shared, d_o) = (self.row(value, query, head), self.shared(head), d_out.row([0, head, query, 0]));
            let open: Vec<_> = (0..keys).filter(|&key| row.p[key] != 0.0).collect();
            let dp: Vec<_> = open.iter().map(|&key| dot(d_o, self.v.row([0, key, shared, 0]))).collect();
            let mean: f64 = open.iter().zip(&dp).map(|(&key, dp)| row.p[key] * dp).sum();
            for (&key, dp) in open.iter().zip(&dp) {
                let du = scale * row.p[key] * (dp - mean) * row.cap[key];
                add(dq, du, self.k.row([0, key, shared, 0]));
                let place = key * kv_heads + shared;
                add(&mut of_k[place * dk..(place + 1) * dk], du, self.q.row([0, query, head, 0]));
                add(&mut of_v[place * dv..(place + 1) * dv], row.p[key], d_o);
            }
        }
        [
            Array::new([dk, heads, self.q.ne[1], 1], of_q),
            Array::new([dk, kv_heads, keys, 1], of_k),
            Array::new([dv, kv_heads, keys, 1], of_v),
        ]
    }
}

/// `sum += factor · row`.
fn add(sum: &mut [f64], factor: f64, row: &[f64]) {
    for (s, x) in sum.iter_mut().zip(row) {
        *s += factor * x;
    }
}
