//! Timings, run by hand: `cargo test --release kernel::bench -- --ignored --nocapture`.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use quant::Type;

use super::reference::{random_bytes, Random};
use super::*;

/// Decoders as fast as ggml's, so that the F32 figures are those of real use.
unsafe extern "C" fn q8_0(src: *const c_void, dst: *mut f32, n: i64) {
    for i in 0..n as usize / 32 {
        // SAFETY: n elements are n / 32 blocks of 34 bytes.
        let (block, out) =
            unsafe { (&*src.cast::<[u8; 34]>().add(i), std::slice::from_raw_parts_mut(dst.add(i * 32), 32)) };
        let d = half(block, 0);
        for (o, &q) in out.iter_mut().zip(&block[2..]) {
            *o = f32::from(q as i8) * d;
        }
    }
}

unsafe extern "C" fn q4_1(src: *const c_void, dst: *mut f32, n: i64) {
    for i in 0..n as usize / 32 {
        // SAFETY: n elements are n / 32 blocks of 20 bytes.
        let (block, out) =
            unsafe { (&*src.cast::<[u8; 20]>().add(i), std::slice::from_raw_parts_mut(dst.add(i * 32), 32)) };
        let (d, m) = (half(block, 0), half(block, 2));
        let (low, high) = out.split_at_mut(16);
        for ((l, h), &q) in low.iter_mut().zip(high).zip(&block[4..]) {
            *l = f32::from(q & 15) * d + m;
            *h = f32::from(q >> 4) * d + m;
        }
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    super::reference::element(Type::F16, &block[at..at + 2], 0)
}

/// Waits for all threads; spinning, as ggml does.
fn barrier(count: &AtomicUsize, turn: usize, nth: usize) {
    count.fetch_add(1, Ordering::AcqRel);
    while count.load(Ordering::Acquire) < turn * nth {
        std::hint::spin_loop();
    }
}

const COPIES: usize = 12;
const CALLS: usize = 25;

/// Median seconds of `call(copy, share)` on `nth` threads.
fn median(nth: usize, call: &(dyn Fn(usize, Share) + Sync)) -> f64 {
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for ith in 1..nth {
            let count = &count;
            scope.spawn(move || {
                for i in 0..CALLS {
                    barrier(count, 2 * i + 1, nth);
                    call(i % COPIES, Share { ith, nth });
                    barrier(count, 2 * i + 2, nth);
                }
            });
        }
        let mut seconds = Vec::new();
        for i in 0..CALLS {
            barrier(&count, 2 * i + 1, nth);
            let start = Instant::now();
            call(i % COPIES, Share { ith: 0, nth });
            barrier(&count, 2 * i + 2, nth);
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        seconds[CALLS / 2]
    })
}

/// A pointer that threads may share: every call writes its own part behind it.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: see above; the buffers outlive the threads.
unsafe impl Sync for Shared {}

impl Shared {
    fn rows(&self, stride: usize) -> Rows {
        Rows { data: self.0, stride }
    }
    fn rows_mut(&self, stride: usize) -> RowsMut {
        RowsMut { data: self.0, stride, accumulate: false }
    }
}

const SHAPES: [[usize; 2]; 4] = [[576, 576], [576, 192], [576, 1536], [1536, 576]];

#[test]
#[ignore = "a timing, not a test"]
#[allow(clippy::print_stdout)] // its result
fn products_with_quantised_weights() {
    for (ty, decode) in [(Type::Q4_1, q4_1 as ToFloat), (Type::Q8_0, q8_0 as ToFloat)] {
        for [n_in, n_out] in SHAPES {
            let row_bytes = n_in / ty.block_len() * ty.block_bytes();
            let copies: Vec<_> = (0..COPIES as u64).map(|i| random_bytes(ty, n_in * n_out, &mut Random(i))).collect();
            // SAFETY: the copies outlive the weights.
            let weight = |b: &Vec<u8>| unsafe { Weight::new(ty, [n_in, n_out], row_bytes, b.as_ptr(), Some(decode)) };
            let weights: Vec<Weight> = copies.iter().map(|b| weight(b).unwrap()).collect();
            for t in [512, 1024] {
                for nth in [1, 2] {
                    let line = time(&weights, t, nth);
                    println!("{ty:?} [{n_in}, {n_out}] T={t} threads={nth}: {line}");
                }
            }
        }
    }
}

fn time(weights: &[Weight], t: usize, nth: usize) -> String {
    let (n_in, n_out) = (weights[0].n_in(), weights[0].n_out());
    let gflop = 2e-9 * (n_in * n_out * t) as f64;
    let mut x: Vec<f32> = (0..n_in * t).map(|i| (i % 13) as f32 - 6.0).collect();
    let mut y: Vec<f32> = (0..n_out * t).map(|i| (i % 11) as f32 - 5.0).collect();
    let (x, y) = (Shared(x.as_mut_ptr()), Shared(y.as_mut_ptr()));
    let mut scratch: Vec<Vec<f32>> = vec![vec![0.0; scratch_floats(&weights[0])]; nth];
    let scratch: Vec<Shared> = scratch.iter_mut().map(|s| Shared(s.as_mut_ptr())).collect();
    let f32_path = |back: bool| {
        let call = |copy: usize, share: Share| {
            let w = &weights[copy];
            // SAFETY: every thread has its own scratch; the activations have the shapes of `w`.
            unsafe {
                let own = std::slice::from_raw_parts_mut(scratch[share.ith].0, scratch_floats(w));
                if back {
                    transposed(w, y.rows(n_out), x.rows_mut(n_in), t, own, share).unwrap();
                } else {
                    forward(w, x.rows(n_in), y.rows_mut(n_out), t, own, share).unwrap();
                }
            }
        };
        gflop / median(nth, &call)
    };
    format!("F32 {:.0} / {:.0} GFLOP/s", f32_path(false), f32_path(true))
}
