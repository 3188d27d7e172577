//! Reading an adapter file back into factors.

use super::{Factor, Lora};
use crate::error::{Error, Kind, Result};
use crate::gguf::{validate_adapter, File};

/// The factors of a validated adapter file, of whatever type they are stored in.
pub fn import(file: &File) -> Result<Lora> {
    let info = validate_adapter(file)?;
    let values = |name: String| -> Result<Vec<f32>> {
        let fault = |what: &str| Error::new(Kind::Format, format!("{}: tensor {name}: {what}", file.path().display()));
        let tensor = file.tensor(&name).ok_or_else(|| fault("is missing"))?;
        let mut out = vec![0.0; tensor.ne.iter().product::<u64>() as usize];
        quant::dequantize_row(tensor.ty, file.data(tensor), &mut out).map_err(|e| fault(&e.to_string()))?;
        Ok(out)
    };
    let factors = info
        .pairs
        .iter()
        .map(|pair| {
            let a = values(format!("{}.lora_a", pair.weight))?;
            let b = values(format!("{}.lora_b", pair.weight))?;
            let [rank, n_in, n_out, n_experts] = [pair.rank, pair.n_in, pair.n_out, pair.n_experts].map(|n| n as usize);
            Ok(Factor { weight: pair.weight.clone(), rank, n_in, n_out, n_experts, a, b, alpha: None })
        })
        .collect::<Result<_>>()?;
    Ok(Lora { alpha: info.alpha, factors })
}

#[cfg(test)]
mod tests {
    use super::super::{export, Lineage, Linear, Lora};
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_bytes_repeat() {
        let linear = Linear::new("blk.0.attn_q.weight", 32, 48);
        let mut lora = Lora::init(&[linear], 4, 8.0, 3);
        lora.factors[0].b[5] = 1.5;
        let lineage = Lineage {
            architecture: "llama".into(),
            base_name: Some("tiny".into()),
            base_hash: Some("ab".into()),
            method: "dpo".into(),
        };
        let directory = tempfile::tempdir().unwrap();
        let paths = ["one.gguf", "two.gguf"].map(|n| directory.path().join(n));
        for path in &paths {
            export(&lora, &lineage, path).unwrap();
        }
        assert_eq!(import(&File::open(&paths[0]).unwrap()).unwrap(), lora);
        assert_eq!(std::fs::read(&paths[0]).unwrap(), std::fs::read(&paths[1]).unwrap());
        // An alpha of its own is folded into B, for the file has one alpha: 1.5 · 4/8.
        lora.factors[0].alpha = Some(4.0);
        export(&lora, &lineage, &paths[1]).unwrap();
        let folded = import(&File::open(&paths[1]).unwrap()).unwrap();
        assert_eq!((folded.alpha, folded.factors[0].alpha, folded.factors[0].b[5]), (8.0, None, 0.75));
    }
}
