//! LoRA's dropout (Hu et al. 2021; PEFT's `lora_dropout`): A sees x with some of its numbers set to zero and the others scaled
//! up, so that their expectation stays. W sees x as it is.
//!
//! What is dropped is a function of seed, step, weight, the tokens so far and channel: no generator has a state that a checkpoint
//! would have to hold, neighbours on the packed axis do not matter, a prompt that two answers share drops the same whether it
//! is computed once or twice, and so does a block that is computed again.

use super::layout::Layout;

/// Odd, near 2⁶⁴ divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Numbers that share one draw of 64 bits.
const LANES: usize = 4;

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014): a bijection whose results look drawn.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hashed(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let bytes = *hasher.finalize().as_bytes();
    u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

/// What tells the draws of weights apart.
pub(super) fn weight_key(name: &str) -> u64 {
    hashed(&[b"lora_dropout weight", name.as_bytes()])
}

/// What a batch draws from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Draws {
    /// Of 65536 numbers so many are dropped.
    n_dropped: u32,
    /// One key per place on the packed axis; what pads has 0.
    keys: Vec<u64>,
}

impl Draws {
    /// For one step's batch; `rate` is in [0, 1).
    pub(super) fn new(rate: f32, seed: u64, step: u64, layout: &Layout) -> Self {
        let mut keys = vec![0; layout.n_tokens()];
        let begin = hashed(&[b"lora_dropout", &seed.to_le_bytes(), &step.to_le_bytes()]);
        for span in layout.spans() {
            let mut key = begin;
            for place in (0..span.len).map(|i| span.place(i)) {
                let token = u64::from(layout.tokens()[place] as u32);
                key = mix(key.wrapping_add(GOLDEN) ^ token);
                keys[place] = key;
            }
        }
        Self { n_dropped: (f64::from(rate) * 65536.0).round().min(65535.0) as u32, keys }
    }

    /// What the numbers that are left are multiplied by.
    fn factor(&self) -> f32 {
        (65536.0 / f64::from(65536 - self.n_dropped)) as f32
    }

    /// x [n] at a place of the packed axis, as the factor A of a weight sees it. Linear in x, and its own transpose.
    pub(super) fn row(&self, weight: u64, place: usize, x: &[f32], out: &mut [f32]) {
        let (factor, key) = (self.factor(), mix(self.keys.get(place).copied().unwrap_or(0) ^ weight));
        for ((out, x), i) in out.chunks_mut(LANES).zip(x.chunks(LANES)).zip(0u64..) {
            let draws = mix(key.wrapping_add(i.wrapping_mul(GOLDEN)));
            for ((out, &x), lane) in out.iter_mut().zip(x).zip(0..) {
                let draw = (draws >> (16 * lane)) as u16;
                *out = if u32::from(draw) < self.n_dropped { 0.0 } else { factor * x };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sequence;

    const N: usize = 1000;

    fn layout(sequences: &[&[i32]]) -> Layout {
        Layout::new(sequences.iter().copied()).unwrap()
    }

    /// What is kept of ones at a place.
    fn kept(draws: &Draws, weight: &str, place: usize) -> Vec<bool> {
        let mut out = vec![f32::NAN; N];
        draws.row(weight_key(weight), place, &[1.0; N], &mut out);
        let factor = draws.factor();
        assert!(out.iter().all(|&y| y == 0.0 || y == factor));
        out.iter().map(|&y| y != 0.0).collect()
    }

    fn share(a: &[bool], b: &[bool]) -> f64 {
        a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / N as f64
    }

    #[test]
    fn so_many_are_dropped_and_the_mean_stays() {
        let layout = layout(&[&[7; 60], &[9; 64]]);
        for rate in [0.05f32, 0.25, 0.5] {
            let draws = Draws::new(rate, 3, 11, &layout);
            let n_kept: usize = (0..60).map(|place| kept(&draws, "w", place).iter().filter(|k| **k).count()).sum();
            let found = n_kept as f64 / (60 * N) as f64;
            // Six standard deviations of 60 000 draws.
            let bound = 6.0 * (f64::from(rate) * (1.0 - f64::from(rate)) / (60.0 * N as f64)).sqrt();
            assert!((found - 1.0 + f64::from(rate)).abs() < bound, "{rate}: {found} kept");
            assert!((f64::from(draws.factor()) * (1.0 - f64::from(rate)) - 1.0).abs() < 1e-4);
        }
        assert_eq!(Draws::new(0.0, 3, 11, &layout).factor(), 1.0);
        assert!(kept(&Draws::new(0.0, 3, 11, &layout), "w", 0).iter().all(|&k| k));
    }

    #[test]
    fn draws_differ_by_seed_step_weight_and_text_only() {
        let [one, two, three] = [vec![7, 8, 9], vec![7, 8, 10], vec![1; 70]];
        let pack = layout(&[&one, &two]);
        let base = Draws::new(0.5, 3, 11, &pack);
        let own = kept(&base, "w", 2);
        for (what, other) in [
            ("seed", kept(&Draws::new(0.5, 4, 11, &pack), "w", 2)),
            ("step", kept(&Draws::new(0.5, 3, 12, &pack), "w", 2)),
            ("weight", kept(&base, "v", 2)),
            ("place", kept(&base, "w", 1)),
            ("last token", kept(&base, "w", 66)),
            ("an equal token elsewhere", kept(&Draws::new(0.5, 3, 11, &layout(&[&[8, 8, 9]])), "w", 2)),
        ] {
            assert!((0.4..0.6).contains(&share(&own, &other)), "{what}");
        }
        // Behind another neighbour, or in another sequence that begins alike, the same text drops the same.
        let moved = Draws::new(0.5, 3, 11, &layout(&[&three, &one]));
        assert_eq!(kept(&moved, "w", 130), own);
        assert_eq!(kept(&base, "w", 65), kept(&base, "w", 1));
    }

    #[test]
    fn a_prompt_that_is_computed_once_drops_what_it_drops_alone() {
        let prompt: Vec<i32> = (0..60).collect();
        let sequence = |answer: i32, shared| Sequence {
            shared,
            ..Sequence::new(prompt.iter().copied().chain([answer; 10]).collect(), prompt.len())
        };
        let (a, b) = (sequence(101, 0), sequence(102, 60));
        let together = Layout::of(&[&a, &b]).unwrap();
        let apart = layout(&[&a.tokens, &b.tokens]);
        let (span, own) = (together.spans()[1], apart.spans()[1]);
        assert!(span.shared == 60 && together.n_tokens() < apart.n_tokens());
        let (x, y) = (Draws::new(0.5, 3, 11, &together), Draws::new(0.5, 3, 11, &apart));
        assert!((0..70).all(|i| x.keys[span.place(i)] == y.keys[own.place(i)]));
        assert_ne!(x.keys[span.place(69)], x.keys[together.spans()[0].place(69)]);
    }
}
