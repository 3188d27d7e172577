//! The numbers of a tiny model: which distribution each tensor is drawn from, and how it is stored.

use llama_align::error::{Error, Kind, Result};
use quant::Type;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a tensor is for: decides its distribution and whether it takes the file's weight type.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// A matrix of a block, an expert stack or an embedding: `z / sqrt(ne0)`, in the file's weight type.
    Matrix,
    /// A matrix that llama.cpp's own quantiser leaves alone (router, positions, convolution): `z / sqrt(ne0)`, F32.
    Plain,
    /// A norm's gain: `1 + 0.1 z`, F32.
    Gain,
    /// A bias, or the sinks of an attention layer: `0.1 z`, F32.
    Bias,
    /// Divisors of RoPE's frequencies: `1 + |z| + i/4` for pair `i`, so that no two pairs turn alike; F32.
    Factors,
    /// A state-space decay: `-(1 + i) (1 + 0.1 |z|)` for state `i` of `ne0`, always negative; F32.
    Decay,
}

/// A tensor to be drawn: `ne` in ggml order (`ne0` fastest).
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) ne: Vec<u64>,
    pub(super) role: Role,
}

impl Tensor {
    pub(super) fn new(name: impl Into<String>, ne: &[usize], role: Role) -> Self {
        Self { name: name.into(), ne: ne.iter().map(|&n| n as u64).collect(), role }
    }

    /// The type it is stored in when the file's weight type is `weights`.
    pub(super) fn stored(&self, weights: Type) -> Type {
        match self.role {
            Role::Matrix => weights,
            _ => Type::F32,
        }
    }

    /// Its values. They depend on its name, shape and role only: two variants of an architecture hold the same numbers
    /// where they hold the same tensor, and differ in nothing but what the variant is about.
    pub(super) fn draw(&self) -> Vec<f32> {
        let mut normal = Normal::of(&self.name);
        let row = self.ne[0] as usize;
        let count = self.ne.iter().product::<u64>() as usize;
        let scale = 1.0 / (row as f32).sqrt();
        let value = |i: usize, z: f32| match self.role {
            Role::Matrix | Role::Plain => z * scale,
            Role::Gain => 1.0 + 0.1 * z,
            Role::Bias => 0.1 * z,
            Role::Factors => 1.0 + z.abs() + 0.25 * i as f32,
            Role::Decay => -((i % row + 1) as f32) * (1.0 + 0.1 * z.abs()),
        };
        (0..count).map(|i| value(i, normal.next())).collect()
    }

    /// The values as the file holds them, row by row.
    ///
    /// # Errors
    /// If `ne0` is no whole number of the type's blocks, or the type has no encoder.
    pub(super) fn encode(&self, weights: Type) -> Result<Vec<u8>> {
        let ty = self.stored(weights);
        let mut bytes = Vec::new();
        for row in self.draw().chunks_exact(self.ne[0] as usize) {
            let coded = quant::quantize_row(ty, row);
            bytes.extend(coded.map_err(|e| Error::new(Kind::Internal, format!("{}: {e}", self.name)))?);
        }
        Ok(bytes)
    }
}

/// Standard normal numbers: the sum of twelve uniforms minus six (mean 0, variance 1, |z| <= 6). Sums of small integers
/// are exact, so that the bytes of a file do not depend on a platform's logarithm and cosine.
struct Normal(ChaCha8Rng);

impl Normal {
    /// The seed is fixed; the stream is the first eight bytes of BLAKE3 of the tensor's name.
    fn of(name: &str) -> Self {
        let mut rng = ChaCha8Rng::from_seed(*b"tiny random models (llama-align)");
        let mut stream = [0; 8];
        stream.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
        rng.set_stream(u64::from_le_bytes(stream));
        Self(rng)
    }

    fn next(&mut self) -> f32 {
        let sum: u64 = (0..3)
            .map(|_| {
                let bits = self.0.next_u64();
                (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48)
            })
            .sum();
        sum as f32 / 65536.0 - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Role, Tensor};
    use quant::Type;

    #[test]
    fn the_numbers_are_normal_and_stay_what_they_are() {
        let plain = Tensor::new("blk.0.attn_q.weight", &[64, 640], Role::Matrix);
        let values = plain.draw();
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let square = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / n;
        // Standard errors are 6e-4 and 1.1e-4.
        assert!(mean.abs() < 2.5e-3, "mean {mean}");
        assert!((square - 1.0 / 64.0).abs() < 5e-4, "second moment {square}");
        assert_eq!(values[..4].iter().map(|x| x.to_bits()).collect::<Vec<_>>(), FIRST);
    }

    /// The first four values of `blk.0.attn_q.weight`: files made on any machine are equal.
    const FIRST: [u32; 4] = [3187927552, 1044538880, 3190630912, 1034880512];

    #[test]
    fn only_matrices_take_the_weight_type() {
        let ne = [64, 3];
        let bytes = |role, ty| Tensor::new("t", &ne, role).encode(ty).unwrap().len();
        assert_eq!(bytes(Role::Matrix, Type::F16), 2 * 64 * 3);
        assert_eq!(bytes(Role::Matrix, Type::Q8_0), 2 * 34 * 3);
        assert_eq!(bytes(Role::Matrix, Type::Q4_0), 2 * 18 * 3);
        assert_eq!(bytes(Role::Gain, Type::Q4_0), 4 * 64 * 3);
        assert!(Tensor::new("t", &[48, 2], Role::Matrix).encode(Type::Q8_0).is_err(), "48 is no multiple of 32");
    }
}
