//! Vector arithmetic chosen at run time: the crate is compiled for any x86-64, hot loops for what the CPU has.

/// Defines a function whose body is compiled for the portable target, for AVX2 and for AVX-512, and picks at run time.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn middle($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                let has_wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                let has_middle = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                if has_wide && has_middle {
                    // SAFETY: the CPU has the features, checked above.
                    return unsafe { wide($($arg),*) };
                }
                if has_middle {
                    // SAFETY: as above.
                    return unsafe { middle($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(super) use simd;

/// What hot loops are compiled for on this CPU, and whether BF16 products are its own.
pub fn instruction_set() -> String {
    #[cfg(target_arch = "x86_64")]
    let loops = if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        "avx512"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        "avx2"
    } else {
        "x86_64"
    };
    #[cfg(not(target_arch = "x86_64"))]
    let loops = std::env::consts::ARCH;
    let bf16 = if super::has_fast_bf16() { " + bf16" } else { "" };
    format!("{loops}{bf16}")
}

/// e^x to about 2 ulp; exactly 0 below −87, so that no subnormal ever enters a product (they cost 100 cycles each).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts: the first has few bits, so that n times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let scale = f32::from_bits(((n as i32 + 127) << 23) as u32);
    if x < -87.0 {
        0.0
    } else {
        p * scale
    }
}

/// The logistic function.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

simd! {
    /// Replaces each x by e^(x − shift) and returns the sum; −inf gives exactly 0.
    pub(crate) fn exp_shifted(row: &mut [f32], shift: f32) -> f32 {
        let mut sums = [0.0f32; 16];
        let mut chunks = row.chunks_exact_mut(16);
        for chunk in &mut chunks {
            for (x, sum) in chunk.iter_mut().zip(&mut sums) {
                *x = exp(*x - shift);
                *sum += *x;
            }
        }
        let mut total = 0.0;
        for x in chunks.into_remainder() {
            *x = exp(*x - shift);
            total += *x;
        }
        total + sums.iter().sum::<f32>()
    }
}

simd! {
    /// The largest entry, −inf for an empty row.
    pub(crate) fn maximum(row: &[f32]) -> f32 {
        let mut best = [f32::NEG_INFINITY; 16];
        let mut chunks = row.chunks_exact(16);
        for chunk in &mut chunks {
            for (b, &x) in best.iter_mut().zip(chunk) {
                *b = if x > *b { x } else { *b };
            }
        }
        chunks.remainder().iter().chain(&best).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_and_never_subnormal() {
        for i in -8800..8800 {
            let x = i as f32 * 0.01;
            let (found, wanted) = (f64::from(exp(x)), f64::from(x).exp());
            if x < -87.0 {
                assert_eq!(found, 0.0);
            } else {
                assert!((found - wanted).abs() <= 3e-7 * wanted, "{x}: {found} {wanted}");
            }
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn sums_and_maxima_cover_the_remainder() {
        let mut row: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
        let wanted: f64 = row.iter().map(|&x| f64::from(x - 1.0).exp()).sum();
        assert_eq!(maximum(&row), row.iter().copied().fold(f32::MIN, f32::max));
        assert!((f64::from(exp_shifted(&mut row, 1.0)) - wanted).abs() < 1e-5);
    }
}
