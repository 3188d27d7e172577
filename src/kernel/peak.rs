//! What this machine's arithmetic units give at most, measured: the yardstick for products.

use super::bf16::{product, Results, Stretch, Strips, ROWS, STRIP};
use gemm::{gemm, Parallelism};
use std::time::Instant;

/// Seconds that each thread multiplies.
const SECONDS: f64 = 0.2;

/// GFLOP/s of small products whose operands stay in the first-level cache, on `n_threads` at once; best of three.
pub fn peak_gflops(in_bf16: bool, n_threads: usize) -> f64 {
    let one = || if in_bf16 { bf16_rate() } else { f32_rate() };
    let all = || -> f64 {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|t| t.join().unwrap_or(0.0)).sum()
        })
    };
    (0..3).map(|_| all()).fold(0.0, f64::max)
}

/// Repeats `call`, which does `flops`, for a while; GFLOP/s.
fn rate(flops: f64, mut call: impl FnMut()) -> f64 {
    let (begun, mut n) = (Instant::now(), 0u64);
    while begun.elapsed().as_secs_f64() < SECONDS {
        (0..64).for_each(|_| call());
        n += 64;
    }
    n as f64 * flops / begun.elapsed().as_secs_f64() * 1e-9
}

fn bf16_rate() -> f64 {
    const PAIRS: usize = 128;
    let rows = vec![0x3f80u16; ROWS * 2 * PAIRS];
    let mut strips = vec![0x3f80u16; Strips::len(PAIRS, STRIP)];
    let mut out = vec![0.0f32; ROWS * STRIP];
    let stretch = Stretch { rows: rows.as_ptr(), row_next: 2 * PAIRS, strip: strips.as_mut_ptr(), pairs: PAIRS };
    rate((2 * ROWS * STRIP * 2 * PAIRS) as f64, || {
        let results = Results { data: out.as_mut_ptr(), stride: STRIP, columns: STRIP, add: false };
        // SAFETY: rows, strip and results have these sizes.
        unsafe { product(&[stretch], ROWS, results) };
        std::hint::black_box(&mut out);
    })
}

fn f32_rate() -> f64 {
    const N: usize = 96;
    let (a, b, mut c) = (vec![1.0f32; N * N], vec![1.0f32; N * N], vec![0.0f32; N * N]);
    rate((2 * N * N * N) as f64, || {
        let s = N as isize;
        // SAFETY: three square matrices of N columns.
        unsafe {
            gemm(
                N,
                N,
                N,
                c.as_mut_ptr(),
                s,
                1,
                false,
                a.as_ptr(),
                s,
                1,
                b.as_ptr(),
                s,
                1,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        std::hint::black_box(&mut c);
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_rate_is_measured() {
        for in_bf16 in [false, true] {
            let rate = super::peak_gflops(in_bf16, 1);
            assert!(rate > 0.01 && rate.is_finite(), "{rate}");
        }
    }
}
