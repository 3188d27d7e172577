//! Which of an adapter's numbers a mask leaves free.
//!
//! Row i of W + (α/r)·B·A moves with row i of B and with A. Where B's row is 0 and stays so, the weight's row keeps its bits
//! whatever A does; a row mask therefore holds rows of B, and a column mask columns of A. A single weight cannot be held so.

use super::{Bits, Granularity, Mask};
use crate::adapter::{Change, Factor, Lora, RowChange};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// What may move of what is trained, by the parameters' names: `<weight>.lora_a`, `<weight>.lora_b`, `<weight>.change`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold(BTreeMap<String, Bits>);

impl Hold {
    /// The free numbers of a parameter.
    pub fn of(&self, name: &str) -> Option<&Bits> {
        self.0.get(name)
    }

    /// Numbers that are free.
    pub fn n_free(&self) -> u64 {
        self.0.values().map(|bits| bits.count() as u64).sum()
    }
}

/// What a mask leaves free of an adapter. Columns of a fresh adapter's A outside of the mask become 0.
///
/// # Errors
/// For a mask of weights, one of other shapes, one that leaves nothing free, and an adapter that changes what is masked out
/// already: A's movements would move it further.
pub fn hold(mask: &Mask, lora: &mut Lora) -> Result<Hold> {
    if mask.granularity() == Granularity::Weight {
        let message = "mask: single weights cannot be held in B·A: --delta full, or a mask of rows, columns or tensors";
        return Err(Error::new(Kind::Unsupported, message));
    }
    let mut free = BTreeMap::new();
    for factor in &mut lora.factors {
        let [a, b] = hold_factor(mask, factor)?;
        free.insert(format!("{}.lora_a", factor.weight), a);
        free.insert(format!("{}.lora_b", factor.weight), b);
    }
    let hold = Hold(free);
    if hold.n_free() == 0 {
        return Err(Error::new(Kind::Argument, "mask: it leaves nothing free of the weights that are adapted"));
    }
    Ok(hold)
}

/// Changes of rows are free: what a mask holds is none of them.
pub fn hold_rows(changes: &[RowChange]) -> Hold {
    let moving = changes.iter().filter(|c| !c.rows.is_empty());
    Hold(moving.map(|c| (format!("{}.lora_a", c.weight), Bits::all(c.values.len()))).collect())
}

/// What a mask leaves free of changes that are none yet.
///
/// # Errors
/// For a mask of other shapes, and one that leaves nothing free.
pub fn hold_changes(mask: &Mask, changes: &[Change]) -> Result<Hold> {
    let mut free = BTreeMap::new();
    for change in changes {
        let Change { weight, n_in, n_out, values } = change;
        let bits = match mask.tensor(weight) {
            None => Bits::none(values.len()),
            Some(t) if (t.shape.n_in, t.shape.n_out) != (*n_in, *n_out) => {
                let message = format!("mask: tensor {weight} has another shape in the model");
                return Err(Error::new(Kind::Mismatch, message));
            }
            Some(t) => t.weights(mask.granularity()),
        };
        free.insert(format!("{weight}.change"), bits);
    }
    let hold = Hold(free);
    if hold.n_free() == 0 {
        return Err(Error::new(Kind::Argument, "mask: it leaves nothing free of the weights that are trained"));
    }
    Ok(hold)
}

fn hold_factor(mask: &Mask, factor: &mut Factor) -> Result<[Bits; 2]> {
    let (n_a, n_b) = (factor.a.len(), factor.b.len());
    factor.of_one_matrix("cannot be held by a mask")?;
    let refuse = |kind: Kind, what: &str| Err(Error::new(kind, format!("mask: tensor {} {what}", factor.weight)));
    let tensor = mask.tensor(&factor.weight);
    if tensor.is_some_and(|t| (t.shape.n_in, t.shape.n_out) != (factor.n_in, factor.n_out)) {
        return refuse(Kind::Mismatch, "has another shape in the model");
    }
    let units = match mask.granularity() {
        Granularity::Column => factor.n_in,
        Granularity::Row => factor.n_out,
        _ => 1,
    };
    let bits = tensor.map_or_else(|| Bits::none(units), |t| t.bits.clone());
    if bits.count() == 0 {
        if factor.b.iter().any(|&b| b != 0.0) {
            return refuse(Kind::Mismatch, "is masked out, but the adapter changes it; fold the adapter in first");
        }
        return Ok([Bits::none(n_a), Bits::none(n_b)]);
    }
    match mask.granularity() {
        Granularity::Row => {
            let held = bits.complement().widened(factor.rank);
            if held.runs().any(|run| factor.b[run].iter().any(|&b| b != 0.0)) {
                return refuse(Kind::Mismatch, "has masked-out rows that the adapter changes; fold it in first");
            }
            Ok([Bits::all(n_a), bits.widened(factor.rank)])
        }
        Granularity::Column => {
            let is_fresh = factor.b.iter().all(|&b| b == 0.0);
            let mut free = Bits::none(n_a);
            for (i, a) in factor.a.iter_mut().enumerate() {
                if bits.get(i % factor.n_in) {
                    free.set(i);
                } else if is_fresh {
                    *a = 0.0;
                } else if *a != 0.0 {
                    let what = "has masked-out columns that the adapter changes; fold it in first";
                    return Err(Error::new(Kind::Mismatch, format!("mask: tensor {} {what}", factor.weight)));
                }
            }
            Ok([free, Bits::all(n_b)])
        }
        _ => Ok([Bits::all(n_a), Bits::all(n_b)]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Shape, TensorMask};
    use super::*;

    fn lora() -> Lora {
        let factor = |weight: &str| Factor {
            weight: weight.into(),
            rank: 2,
            n_in: 3,
            n_out: 4,
            n_experts: 1,
            a: vec![1.0; 6],
            b: vec![0.0; 8],
            alpha: None,
        };
        Lora { alpha: 2.0, factors: vec![factor("x"), factor("y")] }
    }

    fn mask(granularity: Granularity, n: usize, chosen: &[usize]) -> Mask {
        let mut bits = Bits::none(n);
        chosen.iter().for_each(|&i| bits.set(i));
        Mask::new(granularity, vec![TensorMask { shape: Shape { name: "x".into(), n_in: 3, n_out: 4 }, bits }])
    }

    fn free(bits: &Bits) -> Vec<usize> {
        bits.runs().flatten().collect()
    }

    #[test]
    fn rows_hold_b_and_columns_hold_a() {
        let mut by_row = lora();
        let rows = hold(&mask(Granularity::Row, 4, &[1, 3]), &mut by_row).unwrap();
        assert_eq!(by_row, lora());
        let of = |hold: &Hold, name: &str| free(hold.of(name).unwrap());
        assert_eq!((of(&rows, "x.lora_a").len(), of(&rows, "x.lora_b")), (6, vec![2, 3, 6, 7]));
        assert!(of(&rows, "y.lora_a").is_empty() && of(&rows, "y.lora_b").is_empty());
        let mut by_column = lora();
        let columns = hold(&mask(Granularity::Column, 3, &[2]), &mut by_column).unwrap();
        assert_eq!(by_column.factors[0].a, [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!((of(&columns, "x.lora_a"), of(&columns, "x.lora_b").len()), (vec![2, 5], 8));
        let tensor = hold(&mask(Granularity::Tensor, 1, &[0]), &mut lora()).unwrap();
        assert_eq!(tensor.n_free(), 14);
    }

    #[test]
    fn what_cannot_be_held_is_refused() {
        let kind = |mask: &Mask, lora: &mut Lora| hold(mask, lora).unwrap_err().kind();
        assert_eq!(kind(&mask(Granularity::Weight, 12, &[0]), &mut lora()), Kind::Unsupported);
        assert_eq!(kind(&mask(Granularity::Row, 4, &[]), &mut lora()), Kind::Argument);
        let mut trained = lora();
        trained.factors[0].b[0] = 0.5;
        hold(&mask(Granularity::Row, 4, &[0]), &mut trained).unwrap();
        assert_eq!(kind(&mask(Granularity::Row, 4, &[1]), &mut trained), Kind::Mismatch);
        assert_eq!(kind(&mask(Granularity::Column, 3, &[1]), &mut trained), Kind::Mismatch);
        trained.factors[1].b[0] = 0.5;
        assert_eq!(kind(&mask(Granularity::Row, 4, &[0]), &mut trained), Kind::Mismatch);
        let mut other = lora();
        other.factors[0].n_in = 2;
        assert_eq!(kind(&mask(Granularity::Row, 4, &[0]), &mut other), Kind::Mismatch);
    }
}
