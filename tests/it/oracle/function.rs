//! Functions of one number and their slopes (specs: vjp, sections 1 and 2). GELU is exact, not the runtime's table.

use llama_align::ir::{Glu, Unary};

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Distribution function of the standard normal, by the series of erf near 0 and the continued fraction of erfc beyond.
fn normal_below(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let half_tail = if z < 2.5 {
        // erf z = 2/√π · e^(−z²) · Σ 2^n z^(2n+1) / (1·3·…·(2n+1)): all terms positive.
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= 2.0 * z * z / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 - sum * (-z * z).exp() / std::f64::consts::PI.sqrt()
    } else {
        // erfc z = e^(−z²)/√π · 1/(z + ½/(z + 1/(z + 3/2/(z + …)))).
        let fraction = (1..200).rev().fold(z, |f, n| z + 0.5 * f64::from(n) / f);
        0.5 * (-z * z).exp() / std::f64::consts::PI.sqrt() / fraction
    };
    if x < 0.0 {
        half_tail
    } else {
        1.0 - half_tail
    }
}

/// √(2/π) and the cubic coefficient of the tanh form of GELU.
const C: f64 = 0.797_884_560_802_865_4;
const A: f64 = 0.044_715;

/// Value and slope of a function; `p` are XIELU's αn, αp, β, ε.
pub(crate) fn unary(kind: Unary, x: f64, p: [f64; 4]) -> (f64, f64) {
    let s = sigmoid(x);
    let positive = if x > 0.0 { 1.0 } else { 0.0 };
    match kind {
        Unary::Abs => (x.abs(), if x == 0.0 { 0.0 } else { x.signum() }),
        Unary::Sgn => (if x == 0.0 { 0.0 } else { x.signum() }, 0.0),
        Unary::Neg => (-x, -1.0),
        Unary::Step => (positive, 0.0),
        Unary::Tanh => (x.tanh(), 1.0 - x.tanh() * x.tanh()),
        Unary::Relu => (x.max(0.0), positive),
        Unary::Sigmoid => (s, s * (1.0 - s)),
        Unary::Gelu => {
            let t = (C * (x + A * x * x * x)).tanh();
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * C * (1.0 + 3.0 * A * x * x))
        }
        Unary::GeluErf => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            (x * normal_below(x), normal_below(x) + x * density)
        }
        Unary::GeluQuick => {
            let q = sigmoid(1.702 * x);
            (x * q, q * (1.0 + 1.702 * x * (1.0 - q)))
        }
        Unary::Silu => (x * s, s * (1.0 + x * (1.0 - s))),
        Unary::Exp => (x.exp(), x.exp()),
        Unary::Expm1 => (x.exp_m1(), x.exp()),
        Unary::Softplus => (if x > 20.0 { x } else { x.exp().ln_1p() }, s),
        Unary::Xielu if x > 0.0 => (p[1] * x * x + p[2] * x, 2.0 * p[1] * x + p[2]),
        Unary::Xielu => (p[0] * (x.min(p[3]).exp_m1() - x) + p[2] * x, p[0] * x.exp_m1() + p[2]),
    }
}

/// Value of a gated unit, slope by the gate, slope by the multiplier; `p` are SWIGLU_OAI's α and limit.
pub(crate) fn glu(kind: Glu, gate: f64, up: f64, p: [f64; 2]) -> (f64, f64, f64) {
    let act = match kind {
        Glu::SwigluOai => return swiglu_oai(gate, up, p),
        Glu::Reglu => Unary::Relu,
        Glu::Geglu => Unary::Gelu,
        Glu::Swiglu => Unary::Silu,
        Glu::GegluErf => Unary::GeluErf,
        Glu::GegluQuick => Unary::GeluQuick,
    };
    let (value, slope) = unary(act, gate, [0.0; 4]);
    (value * up, slope * up, value)
}

/// X = min(gate, limit), Y = clamp(up, ±limit): X·sg(αX)·(Y + 1).
fn swiglu_oai(gate: f64, up: f64, [alpha, limit]: [f64; 2]) -> (f64, f64, f64) {
    let (x, y) = (gate.min(limit), up.clamp(-limit, limit));
    let s = sigmoid(alpha * x);
    let by_gate = if gate < limit { (y + 1.0) * s * (1.0 + alpha * x * (1.0 - s)) } else { 0.0 };
    let by_up = if up.abs() < limit { x * s } else { 0.0 };
    (x * s * (y + 1.0), by_gate, by_up)
}
