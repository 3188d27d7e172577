//! A mask as a file: a GGUF of its bits, eight to a byte, with what it was made of.

use super::{Bits, Granularity, Mask, Shape, TensorMask};
use crate::error::{Error, Kind, Result};
use crate::gguf::{Array, File, Value, Writer};
use quant::Type;
use std::path::Path;

/// `general.type` of a mask.
const KIND: &str = "mask";
const GRANULARITY: &str = "llama_align.mask.granularity";
const N_IN: &str = "llama_align.mask.n_in";
const N_OUT: &str = "llama_align.mask.n_out";
/// Before the keys of the provenance.
const FROM: &str = "llama_align.mask.from.";
/// Behind a tensor's name.
const SUFFIX: &str = ".mask";

impl Mask {
    /// Writes the file for a model of this architecture and fingerprint (`gguf::base_hash`); the name holds it complete or
    /// what it held before. Equal masks give equal bytes.
    ///
    /// # Errors
    /// If a name is too long, or the file cannot be written.
    pub fn write(&self, path: &Path, architecture: &str, base_hash: &str) -> Result<()> {
        let text = |s: &str| Value::String(s.to_owned());
        let mut writer = Writer::new();
        writer.set("general.type", text(KIND));
        writer.set("general.architecture", text(architecture));
        writer.set(crate::gguf::BASE_HASH, text(base_hash));
        writer.set(GRANULARITY, text(self.granularity().name()));
        let sizes = |of: fn(&Shape) -> usize| {
            Value::Array(Array::U64(self.tensors().iter().map(|t| of(&t.shape) as u64).collect()))
        };
        writer.set(N_IN, sizes(|s| s.n_in));
        writer.set(N_OUT, sizes(|s| s.n_out));
        for (key, value) in &self.provenance {
            writer.set(&format!("{FROM}{key}"), text(value));
        }
        for tensor in self.tensors() {
            let bytes = tensor.bits.to_bytes();
            writer.tensor(&format!("{}{SUFFIX}", tensor.shape.name), Type::I8, &[bytes.len() as u64], bytes)?;
        }
        writer.write(path)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is none, or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_file(&File::open(path)?)
    }

    /// As [`Self::read`], of an open file.
    ///
    /// # Errors
    /// If it is none, or damaged.
    pub fn from_file(file: &File) -> Result<Self> {
        let fault = |what: &str| Error::new(Kind::Format, format!("{}: {what}", file.path().display()));
        if !is_mask(file) {
            return Err(fault("is no mask"));
        }
        let granularity = file.get(GRANULARITY).and_then(Value::as_str);
        let granularity = granularity.and_then(|name| Granularity::from_name(name).ok());
        let granularity = granularity.ok_or_else(|| file.fault(GRANULARITY, "is no granularity of masks"))?;
        let sizes = |key: &str| match file.get(key) {
            Some(Value::Array(Array::U64(sizes))) if sizes.len() == file.tensors().len() => Ok(sizes),
            _ => Err(file.fault(key, "is no list of 64-bit numbers, one for every tensor")),
        };
        let mut tensors = Vec::new();
        for ((tensor, &n_in), &n_out) in file.tensors().iter().zip(sizes(N_IN)?).zip(sizes(N_OUT)?) {
            let fault = |what: &str| fault(&format!("tensor {} {what}", tensor.name));
            let name = tensor.name.strip_suffix(SUFFIX).ok_or_else(|| fault("is no part of a mask"))?;
            // As many bits as bytes are there: the product cannot be large.
            let size = |n: u64| usize::try_from(n).ok().filter(|&n| n > 0);
            let sides = size(n_in).zip(size(n_out)).filter(|(a, b)| a.checked_mul(*b).is_some());
            let (n_in, n_out) = sides.ok_or_else(|| fault("has no shape"))?;
            let shape = Shape { name: name.to_owned(), n_in, n_out };
            let bits = Bits::from_bytes(shape.units(granularity), file.data(tensor)).filter(|_| tensor.ty == Type::I8);
            let bits = bits.ok_or_else(|| fault("does not hold the bits that its shape needs"))?;
            tensors.push(TensorMask { shape, bits });
        }
        let mut mask = Self::new(granularity, tensors);
        for (key, value) in file.keys() {
            if let (Some(key), Some(text)) = (key.strip_prefix(FROM), value.as_str()) {
                mask.provenance.insert(key.to_owned(), text.to_owned());
            }
        }
        Ok(mask)
    }

    /// Refuses a mask that was made for another model: `base` is the fingerprint of this one.
    ///
    /// # Errors
    /// If the file tells another fingerprint.
    pub fn check_base(file: &File, base: &str) -> Result<()> {
        match file.get(crate::gguf::BASE_HASH).and_then(Value::as_str) {
            Some(own) if own != base => {
                let message = format!("{}: the mask was made for another model", file.path().display());
                Err(Error::new(Kind::Mismatch, message))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a file says that it is a mask.
pub fn is_mask(file: &File) -> bool {
    file.get("general.type").and_then(Value::as_str) == Some(KIND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask() -> Mask {
        let mut bits = Bits::none(21);
        [0, 5, 20].iter().for_each(|&i| bits.set(i));
        let shape = Shape { name: "blk.0.attn_q.weight".into(), n_in: 7, n_out: 3 };
        let mut mask = Mask::new(Granularity::Weight, vec![TensorMask { shape, bits }]);
        mask.provenance.insert("ratio".into(), "0.15".into());
        mask
    }

    #[test]
    fn a_file_gives_the_mask_again_and_equal_masks_equal_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
        mask().write(&a, "llama", "f00d").unwrap();
        mask().write(&b, "llama", "f00d").unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        assert_eq!(Mask::read(&a).unwrap(), mask());
        let file = File::open(&a).unwrap();
        Mask::check_base(&file, "f00d").unwrap();
        assert_eq!(Mask::check_base(&file, "beef").unwrap_err().kind(), Kind::Mismatch);
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        let write = |change: &dyn Fn(&mut Writer) -> Option<u8>| {
            let mut writer = Writer::new();
            let text = |s: &str| Value::String(s.to_owned());
            writer.set("general.type", text("mask"));
            writer.set(GRANULARITY, text("row"));
            writer.set(N_IN, Value::Array(Array::U64(vec![4])));
            writer.set(N_OUT, Value::Array(Array::U64(vec![9])));
            let bits = change(&mut writer).unwrap_or(1);
            writer.tensor("w.mask", Type::I8, &[2], vec![1, bits]).unwrap();
            Mask::from_file(&File::from_bytes(writer.to_bytes(), "m.gguf").unwrap())
        };
        assert_eq!(write(&|_| None).unwrap().count(), 2);
        let key = |key: &'static str, value: Value| {
            move |w: &mut Writer| {
                w.set(key, value.clone());
                None
            }
        };
        let text = |s: &str| Value::String(s.to_owned());
        let sizes = |sizes: &[u64]| Value::Array(Array::U64(sizes.to_vec()));
        for (says, change) in [
            ("no mask", &key("general.type", text("adapter")) as &dyn Fn(&mut Writer) -> Option<u8>),
            ("granularity", &key(GRANULARITY, text("block"))),
            ("n_in", &key(N_IN, sizes(&[4, 4]))),
            ("n_out", &key(N_OUT, Value::U64(9))),
            ("no shape", &key(N_OUT, sizes(&[u64::MAX]))),
            ("no shape", &key(N_IN, sizes(&[0]))),
            ("w.mask", &key(N_OUT, sizes(&[17]))),
            ("w.mask", &|_| Some(2)),
        ] {
            let error = write(change).unwrap_err();
            assert!(error.kind() == Kind::Format && error.to_string().contains(says), "{says}: {error}");
        }
    }
}
