//! Sums over slices for merging, in F64. Partial sums lie side by side in lanes, so that they are formed in vector registers;
//! their number is fixed, so that every CPU gives the same bits.

use super::simd::simd;

/// Partial sums.
const LANES: usize = 16;

simd! {
    /// c0·x0 + c1·x1, rounded once.
    pub(crate) fn sum_of_two(c: [f64; 2], x0: &[f32], x1: &[f32], out: &mut [f32]) {
        for ((o, &a), &b) in out.iter_mut().zip(x0).zip(x1) {
            *o = (c[0] * f64::from(a) + c[1] * f64::from(b)) as f32;
        }
    }
}

simd! {
    /// Of the wanted changes w = target − before and the realised ones r = stored − before: Σ w·w, Σ r·r, Σ w·r, Σ (r − w)².
    pub(crate) fn change_sums(before: &[f32], target: &[f32], stored: &[f32]) -> [f64; 4] {
        let mut lanes = [[0.0f64; LANES]; 4];
        let n = before.len() / LANES * LANES;
        let wholes = before.chunks_exact(LANES).zip(target.chunks_exact(LANES)).zip(stored.chunks_exact(LANES));
        for ((before, target), stored) in wholes {
            for i in 0..LANES {
                add_change(&mut lanes, i, before[i], target[i], stored[i]);
            }
        }
        for i in n..before.len() {
            add_change(&mut lanes, i - n, before[i], target[i], stored[i]);
        }
        lanes.map(|lane| lane.iter().sum())
    }
}

#[inline(always)]
fn add_change(lanes: &mut [[f64; LANES]; 4], i: usize, before: f32, target: f32, stored: f32) {
    let before = f64::from(before);
    let (wanted, realised) = (f64::from(target) - before, f64::from(stored) - before);
    let error = realised - wanted;
    lanes[0][i] += wanted * wanted;
    lanes[1][i] += realised * realised;
    lanes[2][i] += wanted * realised;
    lanes[3][i] += error * error;
}

simd! {
    /// Σ (x − base)·(y − base); the base is empty where it is zero.
    pub(crate) fn product_of_changes(base: &[f32], x: &[f32], y: &[f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let zeros = [0.0f32; LANES];
        let n = x.len() / LANES * LANES;
        for (i, (x, y)) in x.chunks_exact(LANES).zip(y.chunks_exact(LANES)).enumerate() {
            let base = if base.is_empty() { &zeros[..] } else { &base[i * LANES..(i + 1) * LANES] };
            for (i, lane) in lanes.iter_mut().enumerate() {
                *lane += (f64::from(x[i]) - f64::from(base[i])) * (f64::from(y[i]) - f64::from(base[i]));
            }
        }
        for i in n..x.len() {
            let base = f64::from(base.get(i).copied().unwrap_or(0.0));
            lanes[i - n] += (f64::from(x[i]) - base) * (f64::from(y[i]) - base);
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers: every sum is exact in any order.
    #[test]
    fn sums_are_those_of_the_definition() {
        for n in [0, 1, 15, 16, 17, 100] {
            let list = |k: usize| (0..n).map(|i| (i * k % 7) as f32 - 3.0).collect::<Vec<_>>();
            let (a, b, c) = (list(1), list(2), list(3));
            let mut wanted = [0.0f64; 4];
            let mut product = [0.0f64; 2];
            for i in 0..n {
                let [x, y, z] = [a[i], b[i], c[i]].map(f64::from);
                let (w, r) = (y - x, z - x);
                wanted.iter_mut().zip([w * w, r * r, w * r, (r - w) * (r - w)]).for_each(|(t, v)| *t += v);
                product[0] += w * r;
                product[1] += y * z;
            }
            assert_eq!(change_sums(&a, &b, &c), wanted);
            assert_eq!([product_of_changes(&a, &b, &c), product_of_changes(&[], &b, &c)], product);
            let mut out = vec![0.0; n];
            sum_of_two([0.5, 2.0], &a, &b, &mut out);
            assert!(out.iter().zip(&a).zip(&b).all(|((o, x), y)| *o == 0.5 * x + 2.0 * y));
        }
    }
}
