//! Free changes of some output rows of a weight: D has values there only. As an adapter it is exact: A holds the rows, B puts
//! them where they belong (one 1 in each of its columns), and the rank is their number.

use super::export::METHOD;
use super::{Change, Factor, Lineage, Linear, Lora};
use crate::error::{Error, Kind, Result};
use crate::gguf::{Value, Writer, BASE_HASH};
use quant::Type;
use std::path::Path;

/// The change of some rows of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    /// Name of the weight, such as `blk.0.attn_q.weight`.
    pub weight: String,
    /// Length of its rows.
    pub n_in: usize,
    /// Number of its rows.
    pub n_out: usize,
    /// Which rows change, rising.
    pub rows: Vec<usize>,
    /// Their changes \[n_in, rows\].
    pub values: Vec<f32>,
}

impl RowChange {
    /// None yet, of these rows.
    pub fn zero(linear: &Linear, rows: Vec<usize>) -> Self {
        let (n_in, n_out, n) = (linear.n_in, linear.n_out, rows.len());
        Self { weight: linear.name.clone(), n_in, n_out, rows, values: vec![0.0; n_in * n] }
    }

    /// The same as factors: A the rows, B one-hot.
    pub fn to_factor(&self) -> Factor {
        let rank = self.rows.len();
        let mut b = vec![0.0; self.n_out * rank];
        self.rows.iter().enumerate().for_each(|(k, row)| b[row * rank + k] = 1.0);
        let Self { weight, n_in, n_out, values, .. } = self;
        let (n_in, n_out) = (*n_in, *n_out);
        Factor { weight: weight.clone(), rank, n_in, n_out, n_experts: 1, a: values.clone(), b, alpha: None }
    }

    /// The way back; `None` where B is not one-hot with rising rows.
    pub fn of_factor(factor: &Factor) -> Option<Self> {
        let Factor { weight, rank, n_in, n_out, a, b, .. } = factor;
        let mut rows = Vec::with_capacity(*rank);
        for (row, b) in b.chunks_exact(*rank).enumerate() {
            match b.iter().filter(|&&v| v != 0.0).count() {
                0 => {}
                1 if b.get(rows.len()) == Some(&1.0) => rows.push(row),
                _ => return None,
            }
        }
        let fits = rows.len() == *rank && factor.n_experts == 1;
        fits.then(|| Self { weight: weight.clone(), n_in: *n_in, n_out: *n_out, rows, values: a.clone() })
    }

    /// The same with all the rows that do not change.
    pub fn to_change(&self) -> Change {
        let mut values = vec![0.0; self.n_in * self.n_out];
        for (row, own) in self.rows.iter().zip(self.values.chunks_exact(self.n_in)) {
            values[row * self.n_in..][..self.n_in].copy_from_slice(own);
        }
        Change { weight: self.weight.clone(), n_in: self.n_in, n_out: self.n_out, values }
    }

    /// Takes over a change of the same weight.
    ///
    /// # Errors
    /// If it changes a row that is none of these.
    pub fn take(&mut self, change: &Change) -> Result<()> {
        for (row, values) in change.values.chunks_exact(self.n_in).enumerate() {
            match self.rows.binary_search(&row) {
                Ok(k) => self.values[k * self.n_in..][..self.n_in].copy_from_slice(values),
                Err(_) if values.iter().all(|&v| v == 0.0) => {}
                Err(_) => {
                    let message = format!("row {row} of {} is changed already and may not move", self.weight);
                    return Err(Error::new(Kind::Mismatch, message));
                }
            }
        }
        Ok(())
    }

    /// True where the exact factors have no more numbers than the weight.
    pub fn fits_factors(&self) -> bool {
        self.rows.len() * (self.n_in + self.n_out) <= self.n_in * self.n_out
    }
}

/// The adapter that is these changes exactly; a weight of which no row changes has no factors.
pub fn one_hot(changes: &[RowChange]) -> Lora {
    Lora::plain(changes.iter().filter(|c| !c.rows.is_empty()).map(RowChange::to_factor).collect())
}

/// Writes changes of rows, in F32, each with the rows that they are of; weights that do not change are left out.
/// `import_changes` reads them. The file is complete under its name or absent; equal changes give equal bytes.
///
/// # Errors
/// If a name is too long, or the file cannot be written.
pub fn export_rows(changes: &[RowChange], lineage: &Lineage, path: &Path) -> Result<()> {
    let text = |s: &str| Value::String(s.to_owned());
    let mut writer = Writer::new();
    writer.set("general.architecture", text(&lineage.architecture));
    writer.set("general.type", text(super::change::KIND));
    if let Some(hash) = &lineage.base_hash {
        writer.set(BASE_HASH, text(hash));
    }
    writer.set(METHOD, text(&lineage.method));
    for change in changes.iter().filter(|c| c.values.iter().any(|&v| v != 0.0)) {
        let (weight, n) = (&change.weight, change.rows.len() as u64);
        let rows = change.rows.iter().flat_map(|&row| (row as i32).to_le_bytes()).collect();
        writer.tensor(&format!("{weight}{}", super::change::ROWS), Type::I32, &[n], rows)?;
        let bytes = change.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.tensor(&format!("{weight}{}", super::change::SUFFIX), Type::F32, &[change.n_in as u64, n], bytes)?;
    }
    writer.write(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> RowChange {
        let linear = Linear { name: "w".into(), n_in: 3, n_out: 5, n_experts: 1 };
        let mut change = RowChange::zero(&linear, vec![1, 4]);
        change.values.iter_mut().enumerate().for_each(|(i, v)| *v = i as f32 + 1.0);
        change
    }

    #[test]
    fn rows_are_factors_and_changes_and_come_back() {
        let factor = change().to_factor();
        assert_eq!((factor.rank, &factor.b), (2, &vec![0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]));
        assert_eq!(RowChange::of_factor(&factor), Some(change()));
        let whole = change().to_change();
        for (k, &value) in whole.values.iter().enumerate() {
            let (row, column) = (k / 3, k % 3);
            let product: f32 = (0..2).map(|r| factor.b[row * 2 + r] * factor.a[r * 3 + column]).sum();
            assert_eq!(value, product);
        }
        let mut fresh = RowChange { values: vec![0.0; 6], ..change() };
        fresh.take(&whole).unwrap();
        assert_eq!(fresh, change());
        let mut other = RowChange { rows: vec![0, 4], values: vec![0.0; 6], ..change() };
        assert!(other.take(&whole).unwrap_err().to_string().contains("row 1 of w"));
        for broken in [0.5, 2.0] {
            assert_eq!(
                RowChange::of_factor(&Factor { b: factor.b.iter().map(|b| b * broken).collect(), ..factor.clone() }),
                None
            );
        }
        // Rows that do not rise.
        let turned = vec![0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        assert_eq!(RowChange::of_factor(&Factor { b: turned, ..factor }), None);
        let wide =
            |rows: usize| RowChange { rows: (0..rows).collect(), n_in: 100, n_out: 100, ..change() }.fits_factors();
        assert!(wide(50) && !wide(51));
    }
}
