//! Attention: heads, masks, soft-cap, slopes and sinks in every combination, on packed sequences.

use super::holds;
use crate::small::{floats, Small};
use llama_align::data::Sequence;
use llama_align::engine::Layout;
use llama_align::ir::{MaskRule, Op, Span, Sym, ValueId};

/// Queries' heads, keys' heads, length of a key, of a value. Six heads are no power of two: ALiBi then has two bases.
const SHAPES: [[i64; 4]; 3] = [[6, 2, 8, 8], [4, 4, 6, 10], [3, 1, 8, 4]];

/// Longer than a block of 64 queries, and shorter than the window; padding after both.
fn apart() -> Layout {
    Layout::new([[1; 67].as_slice(), &[1; 5]]).unwrap()
}

/// Two answers of a pair to one prompt, the first longer than a block of 64 queries; before and behind them others.
fn branched() -> Layout {
    let sequence = |n: usize, shared: usize| Sequence { shared, ..Sequence::new(vec![1; n], 1) };
    let sequences = [sequence(5, 0), sequence(71, 0), sequence(40, 23), sequence(9, 0)];
    let layout = Layout::of(&sequences.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!((layout.n_tokens(), layout.spans()[2].shared), (64 + 128 + 64, 23));
    layout
}

/// Where masks, slopes, caps and sinks meet.
fn check(layout: Layout, span: Span, [heads, kv_heads, dk, dv]: [i64; 4], alibi: bool, softcap: f32, has_sinks: bool) {
    let mut s = Small::new(layout);
    let (t, one) = (Sym::per_token(1), Sym::fixed(1));
    let projected = |s: &mut Small, d: i64, heads: i64, name: &str| {
        let x = s.random([Sym::fixed(d), Sym::fixed(heads), t, one], name);
        (x, s.program.permute(x, [0, 2, 1, 3]))
    };
    let (q, q_view) = projected(&mut s, dk, heads, "q");
    let (k, k_view) = projected(&mut s, dk, kv_heads, "k");
    let (v, v_view) = projected(&mut s, dv, kv_heads, "v");
    let mask = s.mask(MaskRule { span, alibi });
    let mut src = vec![q_view, k_view, v_view, mask];
    if has_sinks {
        let sinks = (0..heads).map(|h| 1.5 - h as f32).collect();
        src.push(s.input([heads as usize, 1, 1, 1], sinks));
    }
    let params = floats(&[(0, 1.3), (1, if alibi { 8.0 } else { 0.0 }), (2, softcap)]);
    let ne = [Sym::fixed(dv), Sym::fixed(heads), t, one];
    let raw = s.node(Op::Attention, ne, &src, params);
    let y = real_tokens(&mut s, raw, ne);
    let name = format!("{span:?} {heads}/{kv_heads} alibi {alibi} cap {softcap} sinks {has_sinks}");
    holds(&mut s, &name, y, &[q, k, v]);
}

/// Zeros at the places that pad: what attention leaves there is nobody's business.
fn real_tokens(s: &mut Small, x: ValueId, ne: [Sym; 4]) -> ValueId {
    let spans = s.layout.spans().to_vec();
    let is_real = |t: usize| spans.iter().any(|span| (span.start..span.end()).contains(&t));
    let ones = (0..s.layout.n_tokens()).map(|t| if is_real(t) { 1.0 } else { 0.0 }).collect();
    let (t, one) = (Sym::per_token(1), Sym::fixed(1));
    let chosen = s.leaf(llama_align::ir::Leaf::Input, [one, one, t, one], ones);
    s.node(Op::Mul, ne, &[x, chosen], [0; 16])
}

#[test]
fn with_every_mask() {
    for span in [Span::Causal, Span::Window(9), Span::Window(64), Span::Chunk(16), Span::Symmetric(5), Span::Full] {
        for alibi in [false, true] {
            check(apart(), span, SHAPES[0], alibi, 0.0, false);
            check(branched(), span, SHAPES[0], alibi, 0.0, false);
        }
    }
}

#[test]
fn with_every_sharing_of_heads_caps_and_sinks() {
    for shape in SHAPES {
        for (softcap, has_sinks, alibi) in
            [(0.0, true, false), (0.8, false, false), (0.8, true, true), (0.8, false, true)]
        {
            check(apart(), Span::Window(20), shape, alibi, softcap, has_sinks);
            check(branched(), Span::Window(20), shape, alibi, softcap, has_sinks);
        }
    }
}

/// Values that are a part of the keys, as in latent attention: both cotangents meet in one place.
#[test]
fn with_values_inside_the_keys() {
    let mut s = Small::new(Layout::new([[1; 30].as_slice(), &[1; 9]]).unwrap());
    let (t, one) = (Sym::per_token(1), Sym::fixed(1));
    let q = s.random([Sym::fixed(10), Sym::fixed(4), t, one], "q");
    let k = s.random([Sym::fixed(10), one, t, one], "k");
    let (q_view, k_view) = (s.program.permute(q, [0, 2, 1, 3]), s.program.permute(k, [0, 2, 1, 3]));
    let nb = s.program.get(k).nb;
    let v = s.program.view(k, [Sym::fixed(6), one, t, one], nb, Sym::default());
    let v_view = s.program.permute(v, [0, 2, 1, 3]);
    let mask = s.mask(MaskRule { span: Span::Causal, alibi: false });
    let ne = [Sym::fixed(6), Sym::fixed(4), t, one];
    let raw = s.node(Op::Attention, ne, &[q_view, k_view, v_view, mask], floats(&[(0, 0.9)]));
    let y = real_tokens(&mut s, raw, ne);
    holds(&mut s, "values inside the keys", y, &[q, k]);
}

/// The tests above would not see a mask, a cap or sinks that change nothing.
#[test]
fn every_ingredient_changes_the_result() {
    let output = |span: Span, alibi: bool, softcap: f32, has_sinks: bool| {
        let mut s = Small::new(Layout::bare(&[1; 40]));
        let (t, one) = (Sym::per_token(1), Sym::fixed(1));
        let mut src: Vec<_> = ["q", "k", "v"].map(|n| s.random([Sym::fixed(8), t, Sym::fixed(2), one], n)).to_vec();
        src.push(s.mask(MaskRule { span, alibi }));
        if has_sinks {
            src.push(s.input([2, 1, 1, 1], vec![1.5, 0.5]));
        }
        let params = floats(&[(0, 1.3), (1, if alibi { 8.0 } else { 0.0 }), (2, softcap)]);
        let y = s.node(Op::Attention, [Sym::fixed(8), Sym::fixed(2), t, one], &src, params);
        let y = s.oracle().value(y);
        y
    };
    let plain = output(Span::Causal, false, 0.0, false);
    let narrow: Vec<f32> = plain.slice().iter().map(|&x| x as f32).collect();
    for other in [
        output(Span::Window(9), false, 0.0, false),
        output(Span::Causal, true, 0.0, false),
        output(Span::Causal, false, 0.8, false),
        output(Span::Causal, false, 0.0, true),
    ] {
        assert!(other.distance(&narrow) > 0.02);
    }
}
