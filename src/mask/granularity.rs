//! What a mask's bit stands for.

use crate::error::{Error, Kind, Result};

/// What is chosen as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// One number of a weight: what the paper calls a neuron.
    Weight,
    /// An output row.
    Row,
    /// An input column.
    Column,
    /// A whole tensor.
    Tensor,
}

impl Granularity {
    /// All of them with their names in flags and files.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Weight, "weight"), (Self::Row, "row"), (Self::Column, "column"), (Self::Tensor, "tensor")];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(own, _)| *own == self).map_or("weight", |(_, name)| name)
    }

    /// Reads its name.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(_, own)| *own == name).map(|(own, _)| own);
        let unknown = || format!("granularity: {name} is none of {}", Self::ALL.map(|(_, name)| name).join(", "));
        found.ok_or_else(|| Error::new(Kind::Argument, unknown()))
    }
}

/// A weight matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its name in the GGUF.
    pub name: String,
    /// Length of its rows.
    pub n_in: usize,
    /// Number of its rows.
    pub n_out: usize,
}

impl Shape {
    /// How many of its parts are chosen or not.
    pub fn units(&self, granularity: Granularity) -> usize {
        match granularity {
            Granularity::Weight => self.n_in * self.n_out,
            Granularity::Row => self.n_out,
            Granularity::Column => self.n_in,
            Granularity::Tensor => 1,
        }
    }

    /// Weights that one part has.
    pub fn weights_per_unit(&self, granularity: Granularity) -> usize {
        match granularity {
            Granularity::Weight => 1,
            Granularity::Row => self.n_in,
            Granularity::Column => self.n_out,
            Granularity::Tensor => self.n_in * self.n_out,
        }
    }
}
