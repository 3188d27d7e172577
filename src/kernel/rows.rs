//! Fused backward kernels on contiguous rows (specs: vjp, sections 1, 2, 4, 5).

use super::simd::{exp, sigmoid, simd};
use crate::ir::{Glu, Unary};

/// Σ a·b in F64, four sums.
#[inline(always)]
fn dot64(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (mut x, mut y) = (a.chunks_exact(8), b.chunks_exact(8));
    for (x, y) in (&mut x).zip(&mut y) {
        for ((s, &x), &y) in sums.iter_mut().zip(x).zip(y) {
            *s += f64::from(x) * f64::from(y);
        }
    }
    let rest: f64 = x.remainder().iter().zip(y.remainder()).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    rest + sums.iter().sum::<f64>()
}

simd! {
    /// RMS_NORM: dx = r·(dy − x·r²·Σxdy/n), r = (Σx²/n + ε)^−½.
    pub fn rms_norm_back(x: &[f32], dy: &[f32], eps: f32, dx: &mut [f32]) {
        let n = x.len() as f64;
        let r = 1.0 / (dot64(x, x) / n + f64::from(eps)).sqrt();
        let (scale, along) = (r as f32, (r * r * r * dot64(x, dy) / n) as f32);
        for ((d, &x), &g) in dx.iter_mut().zip(x).zip(dy) {
            *d = scale * g - along * x;
        }
    }
}

simd! {
    /// NORM: dx = r·(dy − mean(dy) − y·mean(y·dy)), y = (x − mean(x))·r, variance over n.
    pub fn norm_back(x: &[f32], dy: &[f32], eps: f32, dx: &mut [f32]) {
        let n = x.len() as f64;
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let mean_g = dy.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let (mut square, mut with) = (0.0f64, 0.0f64);
        for (&v, &g) in x.iter().zip(dy) {
            let c = f64::from(v) - mean;
            square += c * c;
            with += c * f64::from(g);
        }
        let r = 1.0 / (square / n + f64::from(eps)).sqrt();
        let (scale, along, mean, mean_g) = (r as f32, (r * r * r * with / n) as f32, mean as f32, mean_g as f32);
        for ((d, &v), &g) in dx.iter_mut().zip(x).zip(dy) {
            *d = scale * (g - mean_g) - along * (v - mean);
        }
    }
}

simd! {
    /// L2_NORM: y = x/D, D = max(‖x‖, ε); dx = (dy − y·Σ(y·dy)·[‖x‖ > ε])/D.
    pub fn l2_norm_back(x: &[f32], dy: &[f32], eps: f32, dx: &mut [f32]) {
        let size = dot64(x, x).sqrt();
        let d = size.max(f64::from(eps));
        let along = if size > f64::from(eps) { dot64(x, dy) / (d * d * d) } else { 0.0 };
        let (inverse, along) = ((1.0 / d) as f32, along as f32);
        for ((o, &v), &g) in dx.iter_mut().zip(x).zip(dy) {
            *o = inverse * g - along * v;
        }
    }
}

simd! {
    /// SOFT_MAX from its result: dx = scale·y·(dy − Σ y·dy).
    pub fn soft_max_back(y: &[f32], dy: &[f32], scale: f32, dx: &mut [f32]) {
        let along = dot64(y, dy) as f32;
        for ((d, &y), &g) in dx.iter_mut().zip(y).zip(dy) {
            *d = scale * y * (g - along);
        }
    }
}

/// Standard normal density and distribution function (Abramowitz and Stegun 7.1.26, |error| < 1.5e-7).
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let poly = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let tail = 0.5 * poly * exp(-z * z);
    let phi = 0.398_942_3 * exp(-0.5 * x * x);
    (phi, if x < 0.0 { tail } else { 1.0 - tail })
}

/// Slopes of the gate functions.
#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

#[inline(always)]
fn gelu_parts(x: f32) -> (f32, f32) {
    // s = sigmoid(2u), u = √(2/π)(x + a·x³); value x·s, slope s(1 + x·2u'·(1 − s)).
    const TWO_C: f32 = 1.595_769;
    const A: f32 = 0.044_715;
    let square = x * x;
    let s = sigmoid(TWO_C * x * (1.0 + A * square));
    (x * s, s * (1.0 + x * TWO_C * (1.0 + 3.0 * A * square) * (1.0 - s)))
}

#[inline(always)]
fn quick_parts(x: f32) -> (f32, f32) {
    let s = sigmoid(1.702 * x);
    (x * s, s * (1.0 + 1.702 * x * (1.0 - s)))
}

#[inline(always)]
fn erf_parts(x: f32) -> (f32, f32) {
    let (density, below) = normal(x);
    (x * below, below + x * density)
}

simd! {
    /// The tanh form of GELU.
    pub fn gelu(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = gelu_parts(x).0;
        }
    }
}

simd! {
    /// x·sigmoid(1.702·x).
    pub fn gelu_quick(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = quick_parts(x).0;
        }
    }
}

macro_rules! elementwise {
    ($name:ident, |$x:ident, $p:ident| $slope:expr) => {
        simd! {
            fn $name(x: &[f32], dy: &[f32], $p: [f32; 4], dx: &mut [f32]) {
                let _ = $p;
                for ((d, &$x), &g) in dx.iter_mut().zip(x).zip(dy) {
                    *d = g * $slope;
                }
            }
        }
    };
}

elementwise!(silu_back, |x, p| silu_slope(x));
elementwise!(gelu_back, |x, p| gelu_parts(x).1);
elementwise!(gelu_erf_back, |x, p| erf_parts(x).1);
elementwise!(gelu_quick_back, |x, p| quick_parts(x).1);
elementwise!(relu_back, |x, p| if x > 0.0 { 1.0 } else { 0.0 });
elementwise!(abs_back, |x, p| if x > 0.0 {
    1.0
} else if x < 0.0 {
    -1.0
} else {
    0.0
});
elementwise!(exp_back, |x, p| exp(x));
elementwise!(softplus_back, |x, p| sigmoid(x));
elementwise!(sigmoid_back, |x, p| sigmoid(x) * sigmoid(-x));
elementwise!(tanh_back, |x, p| 4.0 * sigmoid(2.0 * x) * sigmoid(-2.0 * x));
elementwise!(clamp_back, |x, p| if x > p[0] && x < p[1] { 1.0 } else { 0.0 });
// op_params[1..4] of XIELU, already soft-plussed: αn, αp, β, ε.
elementwise!(xielu_back, |x, p| if x > 0.0 { 2.0 * p[1] * x + p[2] } else { p[0] * (exp(x) - 1.0) + p[2] });

/// dy·f'(x) for a unary function; `params` are XIELU's four numbers.
pub fn unary_back(kind: Unary, x: &[f32], dy: &[f32], params: [f32; 4], dx: &mut [f32]) {
    match kind {
        Unary::Silu => silu_back(x, dy, params, dx),
        Unary::Gelu => gelu_back(x, dy, params, dx),
        Unary::GeluErf => gelu_erf_back(x, dy, params, dx),
        Unary::GeluQuick => gelu_quick_back(x, dy, params, dx),
        Unary::Relu => relu_back(x, dy, params, dx),
        Unary::Abs => abs_back(x, dy, params, dx),
        Unary::Exp | Unary::Expm1 => exp_back(x, dy, params, dx),
        Unary::Softplus => softplus_back(x, dy, params, dx),
        Unary::Sigmoid => sigmoid_back(x, dy, params, dx),
        Unary::Tanh => tanh_back(x, dy, params, dx),
        Unary::Xielu => xielu_back(x, dy, params, dx),
        Unary::Neg => dx.iter_mut().zip(dy).for_each(|(d, g)| *d = -g),
        Unary::Sgn | Unary::Step => dx.fill(0.0),
    }
}

/// Gradient of CLAMP: nothing passes at or beyond a bound.
pub fn clamp_gradient(x: &[f32], dy: &[f32], bounds: [f32; 2], dx: &mut [f32]) {
    clamp_back(x, dy, [bounds[0], bounds[1], 0.0, 0.0], dx);
}

macro_rules! gated {
    ($gate:ident, $mul:ident, |$a:ident, $b:ident, $p:ident| $value:expr, $slope:expr) => {
        simd! {
            fn $gate(a: &[f32], b: &[f32], dy: &[f32], $p: [f32; 2], out: &mut [f32]) {
                let _ = $p;
                for (((o, &$a), &$b), &g) in out.iter_mut().zip(a).zip(b).zip(dy) {
                    *o = g * $slope;
                }
            }
        }
        simd! {
            fn $mul(a: &[f32], b: &[f32], dy: &[f32], $p: [f32; 2], out: &mut [f32]) {
                let _ = $p;
                for (((o, &$a), &$b), &g) in out.iter_mut().zip(a).zip(b).zip(dy) {
                    let _ = $b;
                    *o = g * $value;
                }
            }
        }
    };
}

gated!(swiglu_gate, swiglu_mul, |a, b, p| a * sigmoid(a), b * silu_slope(a));
gated!(geglu_gate, geglu_mul, |a, b, p| gelu_parts(a).0, b * gelu_parts(a).1);
gated!(geglu_erf_gate, geglu_erf_mul, |a, b, p| erf_parts(a).0, b * erf_parts(a).1);
gated!(geglu_quick_gate, geglu_quick_mul, |a, b, p| quick_parts(a).0, b * quick_parts(a).1);
gated!(reglu_gate, reglu_mul, |a, b, p| if a > 0.0 { a } else { 0.0 }, if a > 0.0 { b } else { 0.0 });
// X = min(a, limit), Y = clamp(b, ±limit): y = X·sigmoid(αX)·(Y + 1); p = [α, limit].
gated!(
    oai_gate_inner,
    oai_mul,
    |a, b, p| if b.abs() < p[1] { a.min(p[1]) * sigmoid(p[0] * a.min(p[1])) } else { 0.0 },
    if a < p[1] {
        (b.clamp(-p[1], p[1]) + 1.0) * sigmoid(p[0] * a) * (1.0 + p[0] * a * (1.0 - sigmoid(p[0] * a)))
    } else {
        0.0
    }
);

/// Gradient of the gate of a gated unit; `params` are SWIGLU_OAI's α and limit.
pub fn glu_back_gate(kind: Glu, a: &[f32], b: &[f32], dy: &[f32], params: [f32; 2], out: &mut [f32]) {
    match kind {
        Glu::Swiglu => swiglu_gate(a, b, dy, params, out),
        Glu::Geglu => geglu_gate(a, b, dy, params, out),
        Glu::GegluErf => geglu_erf_gate(a, b, dy, params, out),
        Glu::GegluQuick => geglu_quick_gate(a, b, dy, params, out),
        Glu::Reglu => reglu_gate(a, b, dy, params, out),
        Glu::SwigluOai => oai_gate_inner(a, b, dy, params, out),
    }
}

/// Gradient of the multiplier of a gated unit.
pub fn glu_back_mul(kind: Glu, a: &[f32], b: &[f32], dy: &[f32], params: [f32; 2], out: &mut [f32]) {
    match kind {
        Glu::Swiglu => swiglu_mul(a, b, dy, params, out),
        Glu::Geglu => geglu_mul(a, b, dy, params, out),
        Glu::GegluErf => geglu_erf_mul(a, b, dy, params, out),
        Glu::GegluQuick => geglu_quick_mul(a, b, dy, params, out),
        Glu::Reglu => reglu_mul(a, b, dy, params, out),
        Glu::SwigluOai => oai_mul(a, b, dy, params, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: [f32; 5] = [-3.0, -1.0, -0.25, 0.5, 2.0];

    fn close(found: &[f32], wanted: &[f64]) {
        let top = wanted.iter().fold(0.0f64, |m, w| m.max(w.abs()));
        for (f, w) in found.iter().zip(wanted) {
            assert!((f64::from(*f) - w).abs() <= 2e-6 * top, "{found:?} {wanted:?}");
        }
    }

    /// Golden vector V4 of specs `vjp`.
    #[test]
    fn slopes_of_unary_functions() {
        let cases: [(Unary, [f64; 5]); 6] = [
            (Unary::Silu, [-0.088104106, 0.0723294881, 0.376289978, 0.739961187, 1.09078425]),
            (Unary::Gelu, [-0.0115841666, -0.0829640838, 0.304645905, 0.867369904, 1.08609926]),
            (Unary::GeluErf, [-0.0119456472, -0.0833154706, 0.304626645, 0.867495125, 1.0852318]),
            (Unary::GeluQuick, [-0.0245483239, -0.0677796066, 0.293499559, 0.879221912, 1.07381535]),
            (Unary::Softplus, [0.0474258732, 0.268941421, 0.437823499, 0.622459331, 0.880797078]),
            (Unary::Xielu, [-0.355191638, -0.0689085029, 0.300920705, 1.2, 3.3]),
        ];
        for (kind, wanted) in cases {
            let mut found = [0.0; 5];
            unary_back(kind, &X, &[1.0; 5], [0.9, 0.7, 0.5, -1e-6], &mut found);
            close(&found, &wanted);
        }
    }

    /// Golden vector V5, first half.
    #[test]
    fn gates_of_swiglu_oai_clamp_one_side_only() {
        let a = [-1.5, 1.4, 1.45, -0.57, -1.3, 0.91];
        let b = [-0.8, 1.36, -1.3, -1.48, -0.07, 1.5];
        let dy = [0.63, 1.27, -0.96, -1.02, 1.22, 0.71];
        let mut out = [0.0; 6];
        glu_back_gate(Glu::SwigluOai, &a, &b, &dy, [1.702, 1.2], &mut out);
        close(&out, &[-0.0124548561, 0.0, 0.0, 0.0166250426, -0.111271041, 1.63793275]);
        glu_back_mul(Glu::SwigluOai, &a, &b, &dy, [1.702, 1.2], &mut out);
        close(&out, &[-0.068252815, 0.0, 0.0, 0.0, -0.15641877, 0.0]);
    }

    /// Golden vector V3 with the gain multiplied into dy, as its own op does.
    #[test]
    fn norms_match_the_golden_rows() {
        let x = [0.99, 0.99, -1.24, -0.67];
        let (w, dy) = ([1.48f32, -0.41, -1.38, 0.76], [-0.82f32, -1.14, 1.11, 0.86]);
        let d: Vec<f32> = w.iter().zip(&dy).map(|(w, d)| w * d).collect();
        let mut dx = [0.0; 4];
        rms_norm_back(&x, &d, 0.01, &mut dx);
        close(&dx, &[-1.39540713, 0.288394521, -1.30916839, 0.776361648]);
        norm_back(&x, &d, 0.01, &mut dx);
        close(&dx, &[-0.99260715, 0.691453253, -0.890295898, 1.19144979]);
    }
}
