//! scratch
use llama_align::*;
use llama_align::adapter::*;
use std::sync::Arc;
use std::time::Instant;
fn rnd(s: &mut u64) -> f32 { *s ^= *s << 13; *s ^= *s >> 7; *s ^= *s << 17; ((*s >> 40) as f32 / (1u64 << 24) as f32) - 0.5 }
fn main() {
    let rt = runtime::Runtime::linked().unwrap();
    let mut seed = 88172645463325252u64;
    for path in std::env::args().skip(1) {
        let model = match runtime::Model::open(&rt, std::path::Path::new(&path)) { Ok(m) => m, Err(e) => { println!("{path}: {e}"); continue } };
        let trace = match trace::trace(&model) { Ok(t) => std::sync::Arc::new(t), Err(e) => { println!("{path}: {e}"); continue } };
        let mut factors = vec![];
        for name in trace.linears().keys() {
            let w = trace.program.weights.iter().find(|w| &w.name == name).unwrap();
            let (n_in, n_out) = (w.ne[0] as usize, w.ne[1] as usize);
            let a = (0..n_in * 16).map(|_| rnd(&mut seed) * 2.0 / (n_in as f32).sqrt()).collect();
            let b = (0..n_out * 16).map(|_| rnd(&mut seed) * 0.02).collect();
            factors.push(Factor { weight: name.clone(), rank: 16, n_in, n_out, a, b });
        }
        let delta = engine::Delta { lora: Lora { alpha: 32.0, factors }, scale: 1.0, trainable: true };
        let mut e = engine::Engine::new(&model, &trace, vec![delta], 2).unwrap();
        let seqs: Vec<data::Sequence> = [40usize, 70].iter().map(|&n| data::Sequence { tokens: (0..n).map(|i| ((i * 7919 + n * 13 + 5) % model.n_vocab()) as i32).collect(), prompt_len: 10 }).collect();
        let refs: Vec<&data::Sequence> = seqs.iter().collect();
        let l0 = e.forward(&refs).unwrap();
        let n: usize = l0.iter().map(|v| v.len()).sum();
        let g: Vec<Vec<f32>> = l0.iter().map(|v| vec![1.0 / n as f32; v.len()]).collect();
        e.zero_gradients();
        e.backward(&g).unwrap();
        // directional difference
        for pick in ["lora_a", "lora_b"] {
            let ids: Vec<usize> = e.trainable().into_iter().filter(|&i| e.parameter_info(i).0.ends_with(pick)).collect();
            let dirs: Vec<Vec<f32>> = ids.iter().map(|&i| e.gradient(i).to_vec()).collect();
            let norm: f64 = dirs.iter().flatten().map(|&x| (x as f64).powi(2)).sum::<f64>().sqrt();
            let h = 0.002 / norm;
            let mut val = [0f64; 2];
            for (k, s) in [1.0f64, -1.0].iter().enumerate() {
                for (&i, d) in ids.iter().zip(&dirs) { for (p, d) in e.parameter_mut(i).iter_mut().zip(d) { *p += (s * h) as f32 * d; } }
                let l = e.log_probs(&refs).unwrap();
                val[k] = l.iter().flatten().map(|&x| x as f64).sum::<f64>() / n as f64;
                for (&i, d) in ids.iter().zip(&dirs) { for (p, d) in e.parameter_mut(i).iter_mut().zip(d) { *p -= (s * h) as f32 * d; } }
            }
            println!("{pick}: analytic {} numeric {}", norm, (val[0] - val[1]) / (2.0 * h * norm));
        }
        let big: Vec<data::Sequence> = (0..4).map(|k| data::Sequence { tokens: (0..512usize).map(|i| ((i * 7919 + k * 13 + 5) % model.n_vocab()) as i32).collect(), prompt_len: 1 }).collect();
        for part in [4usize, 2, 1] { for _ in 0..2 {
            let t = Instant::now(); let (mut tf, mut tb) = (0.0, 0.0);
            for c in big.chunks(part) { let r: Vec<&data::Sequence> = c.iter().collect();
                let t0 = Instant::now(); let l = e.forward(&r).unwrap(); tf += t0.elapsed().as_secs_f64();
                let t0 = Instant::now(); e.backward(&l.iter().map(|v| vec![1.0; v.len()]).collect::<Vec<_>>()).unwrap(); tb += t0.elapsed().as_secs_f64(); }
            println!("{part}x512: {:.0} tok/s fwd {tf:.2} bwd {tb:.2} peak {} MB", 2048.0 / t.elapsed().as_secs_f64(), e.peak_bytes() >> 20);
        } }
        let _ = Arc::strong_count(&model);
    }
}
