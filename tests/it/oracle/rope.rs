//! Rotary positions: the rotation and its transpose (specs: vjp, section 6).

use super::array::{rows, Array};
use llama_align::ir::Value;

/// ggml's numbers of the modes.
const NORMAL: i32 = 0;
const NEOX: i32 = 2;
const MROPE: i32 = 8;
const IMROPE: i32 = 40;

/// x \[d, heads, T\], positions \[T\] or \[4T\], frequency divisors or none; `sign` −1 turns back.
pub(crate) fn rotate(value: &Value, x: &Array, positions: &Array, factors: Option<&Array>, sign: f64) -> Array {
    let (n_dims, mode, shift) = (value.params[1] as usize, value.params[2], value.params[15] as usize);
    assert!([NORMAL, NEOX, MROPE, IMROPE].contains(&mode), "the oracle has no ROPE of mode {mode}");
    let mut out = x.to_vec();
    let d = x.ne[0];
    for (i, row) in rows(x.ne).zip(out.chunks_exact_mut(d)) {
        for pair in 0..n_dims / 2 {
            let position = positions.at([i[2] + x.ne[2] * section(value, pair), 0, 0, 0]);
            let divisor = factors.map_or(1.0, |f| f.at([pair, 0, 0, 0]));
            let (angle, size) = angle(value, n_dims, pair, position, divisor);
            let (sin, cos) = (sign * angle.sin() * size, angle.cos() * size);
            let (first, second) = match mode {
                NORMAL => (shift + 2 * pair, shift + 2 * pair + 1),
                _ => (shift + pair, shift + pair + n_dims / 2),
            };
            let (a, b) = (row[first], row[second]);
            (row[first], row[second]) = (a * cos - b * sin, a * sin + b * cos);
        }
    }
    Array::new(x.ne, out)
}

/// Which of the four position rows turns a pair.
fn section(value: &Value, pair: usize) -> usize {
    let sizes: [usize; 4] = [0, 1, 2, 3].map(|k| value.params[11 + k] as usize);
    let total = sizes.iter().sum::<usize>();
    match value.params[2] {
        MROPE => {
            let ends = sizes.iter().scan(0, |end, size| {
                *end += size;
                Some(*end)
            });
            ends.take_while(|&end| end <= pair % total).count()
        }
        IMROPE => {
            let sector = pair % total;
            [0, 1, 2].into_iter().find(|&k| sector % 3 == k && sector < 3 * sizes[k]).unwrap_or(3)
        }
        _ => 0,
    }
}

/// Angle and magnitude of a pair, with YaRN (Peng et al. 2023) where it is on.
fn angle(value: &Value, n_dims: usize, pair: usize, position: f64, divisor: f64) -> (f64, f64) {
    let p = |i: usize| f64::from(value.param_f32(i));
    let (base, scale, ext, magnitude) = (p(5), p(6), p(7), p(8));
    let extrapolated = position * base.powf(-2.0 * pair as f64 / n_dims as f64) / divisor;
    let interpolated = scale * extrapolated;
    if ext == 0.0 {
        return (interpolated, magnitude);
    }
    let context = f64::from(value.params[4]);
    let dimension =
        |turns: f64| n_dims as f64 * (context / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * base.ln());
    let low = dimension(p(9)).floor().max(0.0);
    let high = dimension(p(10)).ceil().min(n_dims as f64 - 1.0);
    let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
    let mix = (1.0 - ramp) * ext;
    (interpolated * (1.0 - mix) + extrapolated * mix, magnitude * (1.0 + 0.1 * (1.0 / scale).ln()))
}
