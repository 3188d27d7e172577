//! From PEFT's directory to factors.

use super::config::Config;
use super::names::Names;
use super::{CONFIG, WEIGHTS};
use crate::adapter::{Factor, Lora};
use crate::error::{Error, Kind, Result};
use crate::gguf::File;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// A matrix as the file has it: rows first.
struct Stored {
    shape: [usize; 2],
    values: Vec<f32>,
}

/// The two factors of a weight, and the module's path.
#[derive(Default)]
struct Found {
    module: String,
    factors: [Option<Stored>; 2],
}

/// The factors of an adapter that PEFT has saved, for a model in GGUF.
///
/// # Errors
/// [`Kind::Unsupported`] for what an adapter in GGUF cannot hold, named; [`Kind::Mismatch`] if the shapes are another model's.
pub fn read(directory: &Path, base: &File) -> Result<Lora> {
    let names = Names::of(base)?;
    let config = Config::read(&directory.join(CONFIG))?;
    let path = directory.join(WEIGHTS);
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, "cannot read PEFT's factors", &e))?;
    let fault = |kind: Kind, what: String| Error::new(kind, format!("{}: {what}", path.display()));
    let file = SafeTensors::deserialize(&bytes).map_err(|e| fault(Kind::Format, e.to_string()))?;
    let mut weights: BTreeMap<String, Found> = BTreeMap::new();
    for (name, view) in file.iter() {
        let parts = name.strip_prefix("base_model.model.").and_then(|rest| {
            let halves = [(".lora_A.weight", 0), (".lora_B.weight", 1)];
            halves.into_iter().find_map(|(end, half)| Some((rest.strip_suffix(end)?, half)))
        });
        let Some((weight, module, half)) = parts.and_then(|(m, half)| Some((Names::weight(m)?, m, half))) else {
            let what = format!("tensor {name}: is no factor of a linear weight of a block that GGUF has a name for");
            return Err(fault(Kind::Unsupported, what));
        };
        let found = weights.entry(weight).or_default();
        found.module = module.to_owned();
        found.factors[half] = Some(stored(&view).map_err(|e| fault(e.kind(), format!("tensor {name}: {e}")))?);
    }
    if weights.is_empty() {
        return Err(fault(Kind::Format, "an adapter without factors".into()));
    }
    let alpha = config.alpha();
    let factors = weights.into_iter().map(|(weight, found)| {
        let Found { module, factors: [Some(a), Some(b)] } = found else {
            return Err(fault(Kind::Format, format!("{weight}: has only one of its two factors")));
        };
        let (rank, n_in, n_out) = (a.shape[0], a.shape[1], b.shape[0]);
        if rank == 0 || b.shape[1] != rank {
            let what = format!("{module}: factors of shapes {:?} and {:?} do not multiply", a.shape, b.shape);
            return Err(fault(Kind::Format, what));
        }
        let wanted = base.tensor(&weight).map(|t| [t.ne[0] as usize, t.ne[1] as usize]);
        if wanted != Some([n_in, n_out]) {
            let wanted = wanted.map_or("not there".to_owned(), |ne| format!("{ne:?}"));
            let what = format!(
                "{module} is for a weight of {:?}; {weight} of {} is {wanted}",
                [n_in, n_out],
                base.path().display()
            );
            return Err(fault(Kind::Mismatch, what));
        }
        let own = (config.scale(&module, rank)? * rank as f64) as f32;
        let b = names.to_gguf(&weight, &b.values, rank)?;
        Ok(Factor { weight, rank, n_in, n_out, n_experts: 1, a: a.values, b, alpha: (own != alpha).then_some(own) })
    });
    Ok(Lora { alpha, factors: factors.collect::<Result<_>>()? })
}

fn stored(view: &TensorView) -> Result<Stored> {
    let &[rows, columns] = view.shape() else {
        return Err(Error::new(Kind::Unsupported, format!("has {} axes instead of 2", view.shape().len())));
    };
    let bytes = view.data();
    let pair = |b: &[u8]| b.try_into().map_or(0, u16::from_le_bytes);
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| b.try_into().map_or(0.0, f32::from_le_bytes)).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_bits(pair(b)).to_f32()).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(|b| half::bf16::from_bits(pair(b)).to_f32()).collect(),
        other => return Err(Error::new(Kind::Unsupported, format!("is of type {other:?}, not F32, F16 or BF16"))),
    };
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(Stored { shape: [rows, columns], values }),
        false => Err(Error::new(Kind::Format, "holds a number that is not finite")),
    }
}
