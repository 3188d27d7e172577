//! Masked updates: golden vector G3 of specs `allo_hbat`, 1.12, and the properties T6 to T9.

use super::super::clip::clip_factor;
use super::*;

const ADAM: OptimizerParams =
    OptimizerParams::AdamW(AdamWParams { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 });
const SGD: OptimizerParams = OptimizerParams::Sgd(SgdParams { momentum: 0.9, weight_decay: 0.0 });
const N: usize = 200;

fn mask(chosen: impl Fn(usize) -> bool) -> Bits {
    let mut bits = Bits::none(N);
    (0..N).filter(|&i| chosen(i)).for_each(|i| bits.set(i));
    bits
}

fn gradient(step: usize) -> Vec<f32> {
    (0..N).map(|i| ((step * 31 + i * 7) as f32).sin() * 0.3).collect()
}

fn norm(gradient: &[f32]) -> f64 {
    gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
}

/// Where `step(optimizer, values, gradient, clipping factor)` leads from 0, 1, 2, … in six steps.
fn run(params: OptimizerParams, step: impl Fn(&mut Optimizer, &mut [f32], &[f32], f32)) -> Vec<f32> {
    let mut optimizer = Optimizer::new(params, [N].into_iter());
    let mut values: Vec<f32> = (0..N).map(|i| i as f32 * 0.01).collect();
    for k in 0..6 {
        let gradient = gradient(k);
        optimizer.begin();
        step(&mut optimizer, &mut values, &gradient, clip_factor(norm(&gradient), 1.0));
    }
    values
}

/// G3, with PyTorch's place of ε: what is masked out stays 1 exactly, the other follows the recurrence.
#[test]
fn g3_one_of_two_moves() {
    let mut optimizer = Optimizer::new(ADAM, [2].into_iter());
    let (mut values, mut free) = ([1.0f32, 1.0], Bits::none(2));
    free.set(0);
    let (mut theta, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
    for (t, gradient) in [[0.5f32, -2.0], [-0.25, 4.0]].iter().enumerate() {
        optimizer.begin();
        optimizer.update_free(0, &mut values, gradient, 1.0, 0.1, &free);
        let (g, t) = (f64::from(gradient[0]), t as i32 + 1);
        (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
        theta -= 0.1 * m / (1.0 - 0.9f64.powi(t)) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
        assert!((f64::from(values[0]) - theta).abs() < 1e-7, "{} {theta}", values[0]);
        if t == 1 {
            assert!((theta - 0.900_000_002).abs() < 1e-9);
        }
    }
    assert_eq!(values[1], 1.0);
}

/// T6 and T7: what is masked out keeps its bits, what is free moves as without a mask, and a mask of all is none.
#[test]
fn free_numbers_move_as_without_a_mask_and_others_not_at_all() {
    let decays = OptimizerParams::AdamW(AdamWParams { weight_decay: 0.1, ..AdamWParams::default() });
    for params in [ADAM, SGD, decays] {
        let plain = run(params, |o, v, g, f| o.update(0, v, g, f, 0.01));
        let all = run(params, |o, v, g, f| o.update_free(0, v, g, f, 0.01, &Bits::all(N)));
        assert_eq!(plain, all);
        let free = mask(|i| i % 3 == 0 || (70..140).contains(&i));
        let masked = run(params, |o, v, g, f| o.update_free(0, v, g, f, 0.01, &free));
        for i in 0..N {
            let wanted = if free.get(i) { plain[i] } else { i as f32 * 0.01 };
            assert_eq!(masked[i].to_bits(), wanted.to_bits(), "{i}");
        }
    }
}

/// T8: the mask on the update, on the clipped gradient, and an update that is taken back.
#[test]
fn the_three_ways_to_mask_agree() {
    let free = mask(|i| i * i % 5 < 2);
    let masked_gradient = |g: &[f32]| g.iter().enumerate().map(|(i, &g)| if free.get(i) { g } else { 0.0 }).collect();
    for params in [ADAM, SGD] {
        let update = run(params, |o, v, g, f| o.update_free(0, v, g, f, 0.01, &free));
        let gradient = run(params, |o, v, g, f| {
            let g: Vec<f32> = masked_gradient(g);
            o.update(0, v, &g, f, 0.01);
        });
        let restored = run(params, |o, v, g, f| {
            let before = v.to_vec();
            o.update(0, v, g, f, 0.01);
            (0..N).filter(|&i| !free.get(i)).for_each(|i| v[i] = before[i]);
        });
        assert!(update == gradient && update == restored);
    }
}

/// T9: masking before the norm is taken is another method, wherever clipping cuts.
#[test]
fn masking_before_clipping_is_something_else() {
    let free = mask(|i| i < 20);
    let wanted = run(SGD, |o, v, g, f| o.update_free(0, v, g, f, 0.01, &free));
    let early = run(SGD, |o, v, g, _| {
        let g: Vec<f32> = g.iter().enumerate().map(|(i, &g)| if free.get(i) { g } else { 0.0 }).collect();
        o.update(0, v, &g, clip_factor(norm(&g), 1.0), 0.01);
    });
    assert!(norm(&gradient(0)) > 1.0 && wanted != early);
}
