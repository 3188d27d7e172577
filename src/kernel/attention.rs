//! Attention in F32, per sequence and head, forward and backward, without ever holding a T × T matrix. A sequence's first tokens
//! may lie in the one before it: the answers of a pair read one prompt.
//!
//! Formulas: specs `vjp`, section 7. u = scale·q·k; with a soft-cap s = cap·tanh(u/cap); z = s + slope·mask;
//! P = softmax(z) over the open keys and the sink; O = P·V.

use super::simd::{exp, exp_shifted, maximum, simd};
use super::Share;
use crate::ir::MaskRule;
use gemm::{gemm, Parallelism};

/// Queries per block: scores of one block against all its keys stay in the second-level cache.
const BLOCK: usize = 64;

/// q, k or v in the graph's memory.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// First element.
    pub data: *const f32,
    /// Floats between tokens.
    pub token: usize,
    /// Floats between heads.
    pub head: usize,
}

/// Sizes: q is \[dk, heads\] per token, k \[dk, kv_heads\], v \[dv, kv_heads\].
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Length of a query and a key.
    pub dk: usize,
    /// Length of a value.
    pub dv: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; consecutive query heads share one.
    pub kv_heads: usize,
}

/// How scores are formed.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// Multiplies q·k.
    pub scale: f32,
    /// ALiBi's largest bias, 0 for none.
    pub max_bias: f32,
    /// Soft cap, 0 for none.
    pub softcap: f32,
    /// Which keys are open.
    pub rule: MaskRule,
}

/// One sequence on the packed axis: its first `shared` tokens lie where those of the place before it begin.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// First token.
    pub start: usize,
    /// Tokens.
    pub len: usize,
    /// Tokens whose results are the place's before it.
    pub shared: usize,
    /// First token behind the shared ones.
    pub rest: usize,
}

impl Place {
    /// Where token `i` lies.
    fn at(&self, i: usize) -> usize {
        if i < self.shared {
            self.start + i
        } else {
            self.rest + i - self.shared
        }
    }

    /// Behind its last token.
    fn end(&self) -> usize {
        self.rest + self.len - self.shared
    }

    /// Tokens `from..to` as at most two runs: how many come before each, first place, length.
    fn runs(&self, from: usize, to: usize) -> [(usize, usize, usize); 2] {
        let split = self.shared.clamp(from, to);
        [(0, self.at(from), split - from), (split - from, self.at(split), to - split)]
    }
}

/// Floats of scratch that a thread needs when the longest sequence has `len` tokens.
pub fn scratch_floats(len: usize) -> usize {
    3 * BLOCK * len + 2 * BLOCK
}

/// ALiBi's slope of a head (vjp 5).
fn slope(head: usize, heads: usize, max_bias: f32) -> f32 {
    if max_bias == 0.0 {
        return 1.0;
    }
    let n = 1usize << heads.ilog2();
    let (m0, m1) = (2f32.powf(-max_bias / n as f32), 2f32.powf(-max_bias / 2.0 / n as f32));
    if head < n {
        m0.powi(head as i32 + 1)
    } else {
        m1.powi(2 * (head - n) as i32 + 1)
    }
}

simd! {
    /// u → s = cap·tanh(u/cap), in place.
    fn cap_scores(row: &mut [f32], cap: f32) {
        for u in row {
            // tanh(y) = 1 − 2/(e^{2y} + 1)
            *u = cap * (1.0 - 2.0 / (exp(2.0 * (*u / cap)) + 1.0));
        }
    }
}

simd! {
    fn scale_row(row: &mut [f32], factor: f32) {
        for x in row {
            *x *= factor;
        }
    }
}

simd! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0.0f32; 16];
        let (mut x, mut y) = (a.chunks_exact(16), b.chunks_exact(16));
        for (x, y) in (&mut x).zip(&mut y) {
            for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
                *s += x * y;
            }
        }
        let rest: f32 = x.remainder().iter().zip(y.remainder()).map(|(x, y)| x * y).sum();
        rest + sums.iter().sum::<f32>()
    }
}

simd! {
    /// dP → du = P·(dP − D)·(1 − (s/cap)²), into `dp`.
    fn score_gradient(dp: &mut [f32], p: &[f32], d: f32, s: &[f32], cap: f32) {
        if cap == 0.0 {
            for (g, &p) in dp.iter_mut().zip(p) {
                *g = p * (*g - d);
            }
        } else {
            for ((g, &p), &s) in dp.iter_mut().zip(p).zip(s) {
                let t = s / cap;
                *g = p * (*g - d) * (1.0 - t * t);
            }
        }
    }
}

/// Keys that some query of `from..to` sees: a superset, the mask decides inside.
fn key_range(rule: MaskRule, from: usize, to: usize, len: usize) -> (usize, usize) {
    use crate::ir::Span;
    match rule.span {
        Span::Causal => (0, to),
        Span::Window(w) => ((from + 1).saturating_sub(w), to),
        Span::Chunk(c) => (from / c * c, to),
        Span::Symmetric(w) => ((from + 1).saturating_sub(w), (to + w - 1).min(len)),
        Span::Full => (0, len),
    }
}

/// One block of queries of one head of one sequence.
struct Block<'a> {
    q: *const f32,
    /// The head's key of the axis' first token.
    k: *const f32,
    k_token: usize,
    q_token: usize,
    dk: usize,
    rows: usize,
    keys: usize,
    /// Where the keys lie.
    runs: [(usize, usize, usize); 2],
    first_query: usize,
    first_key: usize,
    scores: &'a Scores,
    slope: f32,
    sink: f32,
}

impl Block<'_> {
    /// P into `p` \[rows × keys\], and where there is a soft-cap the capped scores into `s`.
    ///
    /// # Safety
    /// q and k hold the block's rows and keys.
    unsafe fn probabilities(&self, p: &mut [f32], s: Option<&mut [f32]>) {
        let (rows, keys) = (self.rows, self.keys);
        for (before, place, n) in self.runs {
            let (z, k) = (p[before..].as_mut_ptr(), self.k.wrapping_add(place * self.k_token));
            let (q, k) = ((self.q, 1, self.q_token), (k, self.k_token, 1));
            // SAFETY: by the caller; p holds rows × keys.
            unsafe { product([rows, n, self.dk], z, (1, keys), false, q, k, self.scores.scale) };
        }
        if self.scores.softcap != 0.0 {
            cap_scores(&mut p[..rows * keys], self.scores.softcap);
            if let Some(s) = s {
                s[..rows * keys].copy_from_slice(&p[..rows * keys]);
            }
        }
        for (i, row) in p.chunks_exact_mut(keys).take(rows).enumerate() {
            let query = self.first_query + i;
            for (j, z) in row.iter_mut().enumerate() {
                let key = self.first_key + j;
                if !self.scores.rule.span.open(query, key) {
                    *z = f32::NEG_INFINITY;
                } else if self.scores.rule.alibi {
                    *z -= self.slope * query.abs_diff(key) as f32;
                }
            }
            let top = maximum(row).max(self.sink);
            let mut sum = exp_shifted(row, top);
            if self.sink > f32::NEG_INFINITY {
                sum += (self.sink - top).exp();
            }
            scale_row(row, 1.0 / sum);
        }
    }
}

/// dst\[m × n\] (+)= alpha · lhs\[m × k\] · rhs\[k × n\]; strides are (column, row).
///
/// # Safety
/// The pointers hold the matrices.
unsafe fn product(
    [m, n, k]: [usize; 3],
    dst: *mut f32,
    (dst_cs, dst_rs): (usize, usize),
    add: bool,
    (lhs, lhs_cs, lhs_rs): (*const f32, usize, usize),
    (rhs, rhs_cs, rhs_rs): (*const f32, usize, usize),
    alpha: f32,
) {
    let i = |x: usize| x as isize;
    // SAFETY: by the caller.
    unsafe {
        gemm(
            m,
            n,
            k,
            dst,
            i(dst_cs),
            i(dst_rs),
            add,
            lhs,
            i(lhs_cs),
            i(lhs_rs),
            rhs,
            i(rhs_cs),
            i(rhs_rs),
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// All operands of an attention op.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// Queries.
    pub q: Heads,
    /// Keys.
    pub k: Heads,
    /// Values.
    pub v: Heads,
    /// One sink per query head, or null.
    pub sinks: *const f32,
    /// Sizes.
    pub sizes: Sizes,
}

impl Operands {
    fn block<'a>(&self, scores: &'a Scores, place: Place, head: usize, from: usize, to: usize) -> Block<'a> {
        let group = self.sizes.heads / self.sizes.kv_heads;
        let (first_key, last_key) = key_range(scores.rule, from, to, place.len);
        Block {
            q: self.q.data.wrapping_add(place.at(from) * self.q.token + head * self.q.head),
            k: self.k.data.wrapping_add(head / group * self.k.head),
            k_token: self.k.token,
            q_token: self.q.token,
            dk: self.sizes.dk,
            rows: to - from,
            keys: last_key - first_key,
            runs: place.runs(first_key, last_key),
            first_query: from,
            first_key,
            scores,
            slope: slope(head, self.sizes.heads, scores.max_bias),
            // SAFETY: one sink per head where there are sinks.
            sink: if self.sinks.is_null() { f32::NEG_INFINITY } else { unsafe { *self.sinks.add(head) } },
        }
    }

    /// The head's value at a place of the axis.
    fn values(&self, place: usize, head: usize) -> *const f32 {
        let group = self.sizes.heads / self.sizes.kv_heads;
        self.v.data.wrapping_add(place * self.v.token + head / group * self.v.head)
    }
}

/// This thread's share of O \[dv, heads, T\], contiguous; tokens outside every sequence get zeros.
///
/// # Safety
/// The operands hold `n_tokens` tokens, `out` as many; no other thread writes this share.
pub unsafe fn forward(
    x: &Operands,
    scores: &Scores,
    places: &[Place],
    n_tokens: usize,
    out: *mut f32,
    scratch: &mut [f32],
    share: Share,
) {
    let Sizes { dv, heads, .. } = x.sizes;
    let out_token = dv * heads;
    // SAFETY: padding lies within n_tokens; each thread clears its own part of it.
    unsafe { clear_padding(places, n_tokens, out, out_token, share) };
    let blocks = places.iter().flat_map(|&p| (p.shared..p.len).step_by(BLOCK).map(move |from| (p, from)));
    let tasks = blocks.flat_map(|(p, from)| (0..heads).map(move |h| (p, from, h)));
    for (place, from, head) in tasks.enumerate().filter(|(i, _)| i % share.nth == share.ith).map(|(_, t)| t) {
        let block = x.block(scores, place, head, from, (from + BLOCK).min(place.len));
        let (p, _) = scratch.split_at_mut(block.rows * block.keys);
        // SAFETY: rows and keys of this sequence and head.
        unsafe {
            block.probabilities(p, None);
            let o = out.add(place.at(from) * out_token + head * dv);
            let mut add = false;
            for (before, key, n) in block.runs.into_iter().filter(|run| run.2 > 0) {
                let (p, v) = ((p[before..].as_ptr(), 1, block.keys), (x.values(key, head), 1, x.v.token));
                product([block.rows, dv, n], o, (1, out_token), add, p, v, 1.0);
                add = true;
            }
        }
    }
}

/// Where the gradients go: \[dk, heads, T\], \[dk, kv_heads, T\], \[dv, kv_heads, T\], each contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Gradients {
    /// Of the queries.
    pub dq: *mut f32,
    /// Of the keys.
    pub dk: *mut f32,
    /// Of the values.
    pub dv: *mut f32,
}

/// This thread's share of the gradients from d_out \[dv, heads, T\]; a task is one kv head of one sequence
/// and those that share its tokens.
///
/// # Safety
/// As [`forward`].
#[allow(clippy::too_many_arguments)] // each stands for itself in the formulas
pub unsafe fn backward(
    x: &Operands,
    scores: &Scores,
    places: &[Place],
    n_tokens: usize,
    d_out: *const f32,
    g: Gradients,
    scratch: &mut [f32],
    share: Share,
) {
    let Sizes { dk, dv, heads, kv_heads } = x.sizes;
    let group = heads / kv_heads;
    let widths = [(g.dq, dk * heads), (g.dk, dk * kv_heads), (g.dv, dv * kv_heads)];
    for (data, width) in widths {
        // SAFETY: as in `forward`.
        unsafe { clear_padding(places, n_tokens, data, width, share) };
    }
    let groups = places.chunk_by(|_, next| next.shared > 0);
    let tasks = groups.flat_map(|group| (0..kv_heads).map(move |j| (group, j)));
    for (places, j) in tasks.enumerate().filter(|(i, _)| i % share.nth == share.ith).map(|(_, t)| t) {
        for (data, width, d) in [(g.dk, dk * kv_heads, dk), (g.dv, dv * kv_heads, dv)] {
            for t in places.iter().flat_map(|p| p.rest..p.end()) {
                // SAFETY: this task owns this kv head's part of these tokens.
                unsafe { std::slice::from_raw_parts_mut(data.add(t * width + j * d), d).fill(0.0) };
            }
        }
        for (&place, head) in places.iter().flat_map(|p| (j * group..(j + 1) * group).map(move |head| (p, head))) {
            for from in (place.shared..place.len).step_by(BLOCK) {
                let block = x.block(scores, place, head, from, (from + BLOCK).min(place.len));
                // SAFETY: as above.
                unsafe { block_backward(x, &block, place, head, d_out, g, scratch) };
            }
        }
    }
}

/// # Safety
/// As [`backward`].
unsafe fn block_backward(
    x: &Operands,
    b: &Block,
    place: Place,
    head: usize,
    d_out: *const f32,
    g: Gradients,
    scratch: &mut [f32],
) {
    let Sizes { dk, dv, heads, kv_heads } = x.sizes;
    let j = head / (heads / kv_heads);
    let (rows, keys, n) = (b.rows, b.keys, b.rows * b.keys);
    let (p, rest) = scratch.split_at_mut(n);
    let (dp, s) = rest.split_at_mut(n);
    let query = place.at(b.first_query);
    // SAFETY: rows, keys and gradients of this sequence and head.
    unsafe {
        b.probabilities(p, (b.scores.softcap != 0.0).then_some(&mut s[..n]));
        let d_o = (d_out.add(query * dv * heads + head * dv), 1, dv * heads);
        for (before, key, n) in b.runs {
            let (dp, v) = (dp[before..].as_mut_ptr(), (x.values(key, head), x.v.token, 1));
            product([rows, n, dv], dp, (1, keys), false, d_o, v, 1.0);
            let (d_v, p) = (g.dv.add(key * dv * kv_heads + j * dv), (p[before..].as_ptr(), keys, 1));
            product([n, dv, rows], d_v, (1, dv * kv_heads), true, p, d_o, 1.0);
        }
        for i in 0..rows {
            let row = i * keys..(i + 1) * keys;
            let d = dot(&p[row.clone()], &dp[row.clone()]);
            let capped = if b.scores.softcap == 0.0 { &[][..] } else { &s[row.clone()] };
            score_gradient(&mut dp[row.clone()], &p[row], d, capped, b.scores.softcap);
        }
        let d_q = g.dq.add(query * dk * heads + head * dk);
        let mut add = false;
        for (before, key, n) in b.runs.into_iter().filter(|run| run.2 > 0) {
            let (du, k) = (dp[before..].as_ptr(), b.k.wrapping_add(key * b.k_token));
            product([rows, dk, n], d_q, (1, dk * heads), add, (du, 1, keys), (k, 1, b.k_token), b.scores.scale);
            let (d_k, q) = (g.dk.add(key * dk * kv_heads + j * dk), (b.q, 1, b.q_token));
            product([n, dk, rows], d_k, (1, dk * kv_heads), true, (du, keys, 1), q, b.scores.scale);
            add = true;
        }
    }
}

/// # Safety
/// `data` holds `n_tokens` rows of `width` floats.
unsafe fn clear_padding(places: &[Place], n_tokens: usize, data: *mut f32, width: usize, share: Share) {
    let starts = places.iter().skip(1).map(|p| p.rest).chain([n_tokens]);
    for (i, (place, next)) in places.iter().zip(starts).enumerate() {
        if i % share.nth == share.ith {
            let from = place.end();
            // SAFETY: by the caller; padding after a sequence belongs to one thread.
            unsafe { std::slice::from_raw_parts_mut(data.add(from * width), (next - from) * width).fill(0.0) };
        }
    }
}
