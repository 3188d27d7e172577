//! Sizes as functions of the token count, from two captures and checked against a third.

use super::Capture;
use crate::error::{Error, Kind, Result};
use crate::ir::Sym;

/// Shape, strides and view offset of every captured tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) ne: [Sym; 4],
    pub(super) nb: [Sym; 4],
    /// Byte offset of a `VIEW` relative to its source.
    pub(super) offset: Sym,
    /// The prediction held for the verifying capture.
    pub(super) verified: bool,
}

/// The offset that a `VIEW` keeps in its first eight bytes of `op_params`.
pub(super) fn view_offset(params: &[i32; 16]) -> i64 {
    (i64::from(params[1]) << 32) | i64::from(params[0] as u32)
}

/// Fits every tensor of the captures; tensors are matched by their place in the capture, which must have one topology.
pub(super) fn sizes(fit: &[Capture; 2], verify: &Capture) -> Result<Vec<Option<Size>>> {
    let [first, second] = fit;
    let same = |other: &Capture| {
        other.nodes.len() == first.nodes.len()
            && other
                .nodes
                .iter()
                .zip(&first.nodes)
                .all(|(a, b)| a.src == b.src && a.ty == b.ty && a.view_src == b.view_src)
    };
    if !same(second) || !same(verify) {
        let message = "its graph has another structure at another number of tokens";
        return Err(Error::new(Kind::Unsupported, message));
    }
    let (t0, t1, t2) = (first.n_tokens() as i64, second.n_tokens() as i64, verify.n_tokens() as i64);
    Ok((0..first.nodes.len())
        .map(|i| {
            let (a, b, c) = (&first.nodes[i], &second.nodes[i], &verify.nodes[i]);
            let line = |x: i64, y: i64| Sym::fit(t0, x, t1, y);
            let mut ne = [Sym::default(); 4];
            let mut nb = [Sym::default(); 4];
            for axis in 0..4 {
                ne[axis] = line(a.ne[axis], b.ne[axis])?;
                nb[axis] = line(a.nb[axis] as i64, b.nb[axis] as i64)?;
            }
            let offset = line(view_offset(&a.params), view_offset(&b.params))?;
            let verified = (0..4).all(|k| ne[k].at(t2) == c.ne[k] && nb[k].at(t2) == c.nb[k] as i64);
            Some(Size { ne, nb, offset, verified })
        })
        .collect())
}
