//! Which type a tensor is stored in.

use super::Fidelity;
use crate::error::{Error, Kind, Result};
use crate::gguf::Entry;
use crate::runtime::Runtime;
use quant::Type;
use std::fmt;

/// Which types the output's tensors get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutType {
    /// Each tensor's type in the first model.
    Keep,
    /// As `Keep`, but a tensor whose change does not survive well enough is stored as Q8_0, and if that is not enough as F16.
    Auto(Bound),
    /// This type for every matrix; Q8_0 or F16 where rows are no whole number of its blocks.
    Named(Type),
}

/// How well a tensor's change has to survive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At least this cosine of wanted and realised change: all of it, and little noise.
    Cosine(f64),
    /// At least this share of the change, along its own direction, however much noise comes with it.
    Gain(f64),
}

impl Default for Bound {
    fn default() -> Self {
        Self::Cosine(0.9)
    }
}

impl Bound {
    /// True if the change survived well enough, or none was wanted.
    pub fn holds(self, fidelity: &Fidelity) -> bool {
        let (found, min) = match self {
            Self::Cosine(min) => (fidelity.cosine(), min),
            Self::Gain(min) => (fidelity.gain(), min),
        };
        found.is_none_or(|found| found >= min)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cosine(min) => write!(f, "a cosine of {min}"),
            Self::Gain(min) => write!(f, "a gain of {min}"),
        }
    }
}

impl OutType {
    /// `keep`, `auto`, or the name of a type that ggml can encode, in any case.
    pub fn from_name(name: &str, bound: Bound) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "keep" => Ok(Self::Keep),
            "auto" => Ok(Self::Auto(bound)),
            _ => type_from_name(name).map(Self::Named).map_err(|what| {
                let message = format!("--outtype {name}: {what}");
                Error::new(Kind::Argument, message)
            }),
        }
    }

    /// The bound below which a tensor's type is raised.
    pub fn bound(self) -> Option<Bound> {
        match self {
            Self::Auto(bound) => Some(bound),
            _ => None,
        }
    }

    /// Types to try for a tensor, one after another until its change survives. `entry.ty` is its type in the first model.
    /// `importance` tells whether an importance matrix has this tensor.
    pub(super) fn rungs(self, entry: &Entry, all_f32: bool, importance: bool) -> Result<Vec<Type>> {
        let encodes = |ty: Type| Runtime::can_quantize(ty) || (importance && Runtime::can_encode(ty));
        let own = encodes(entry.ty).then_some(entry.ty);
        let rungs = match self {
            Self::Keep => own.into_iter().collect(),
            Self::Auto(_) => {
                let larger = |ty: &Type| entry.bytes_as(*ty).is_some_and(|bytes| bytes > entry.bytes());
                own.into_iter().chain([Type::Q8_0, Type::F16].into_iter().filter(larger)).collect()
            }
            Self::Named(ty) if is_matrix(entry) && (all_f32 || entry.ty != Type::F32) => {
                let fits = [ty, Type::Q8_0, Type::F16].into_iter().find(|ty| entry.bytes_as(*ty).is_some());
                if let Some(ty) = fits.filter(|ty| !encodes(*ty)) {
                    return Err(lacks_importance(entry, ty));
                }
                fits.into_iter().collect()
            }
            Self::Named(_) => own.into_iter().collect::<Vec<_>>(),
        };
        if rungs.is_empty() {
            return Err(lacks_importance(entry, entry.ty));
        }
        Ok(rungs)
    }
}

fn lacks_importance(entry: &Entry, ty: Type) -> Error {
    let what =
        format!("tensor {} as {}, which ggml does not encode without an importance matrix", entry.name, ty.name());
    Error::new(Kind::Unsupported, what + " that has this tensor: give one (--imatrix), or choose another --outtype")
}

/// A type by its name, in any case, if weights can be stored as it.
pub(super) fn type_from_name(name: &str) -> std::result::Result<Type, &'static str> {
    match Type::ALL.iter().find(|ty| ty.name().eq_ignore_ascii_case(name)) {
        Some(&ty) if Runtime::can_encode(ty) => Ok(ty),
        Some(_) => Err("no weights are of this type"),
        None => Err("no type; keep, auto, F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K, Q4_0 and others are known"),
    }
}

/// A type for the tensors whose name a pattern is found in, as `llama-quantize --tensor-type` understands it.
#[derive(Clone, Debug)]
pub struct TensorType {
    text: String,
    pattern: regex_lite::Regex,
    ty: Type,
}

impl TensorType {
    /// `PATTERN=TYPE`, the pattern a regular expression.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |what: &str| Error::new(Kind::Argument, format!("--tensor-type {text}: {what}"));
        let (pattern, ty) = text.rsplit_once('=').ok_or_else(|| refuse("expected PATTERN=TYPE"))?;
        let ty = type_from_name(ty).map_err(refuse)?;
        let pattern = regex_lite::RegexBuilder::new(pattern).case_insensitive(true).build();
        let pattern = pattern.map_err(|e| refuse(&e.to_string()))?;
        Ok(Self { text: text.to_owned(), pattern, ty })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The type, if this tensor is meant.
    pub(super) fn of(&self, entry: &Entry) -> Option<Type> {
        // As llama-quantize leaves vectors alone, whatever the pattern.
        (self.fits(entry) && (!is_vector(entry) || self.ty == Type::F32)).then_some(self.ty)
    }

    /// If its name is meant.
    pub(super) fn fits(&self, entry: &Entry) -> bool {
        self.pattern.is_match(&entry.name)
    }
}

/// Small or delicate tensors that llama.cpp's own quantiser leaves alone, by parts of their names.
const LEFT_ALONE: [&str; 13] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "position_embd",
    "token_types",
    "ssm_conv1d",
    "shortconv.conv",
    "indexer.k_proj",
    "indexer.q_proj",
    "attn_rel_b",
];

/// True for norms, biases and the like, which llama.cpp adds and multiplies in F32 only.
pub(super) fn is_vector(entry: &Entry) -> bool {
    entry.ne[1..].iter().all(|&n| n == 1)
}

/// True for what llama.cpp's own quantiser would quantise.
fn is_matrix(entry: &Entry) -> bool {
    !is_vector(entry) && entry.name.ends_with(".weight") && !LEFT_ALONE.iter().any(|part| entry.name.contains(part))
}

/// llama.cpp's number for a file (`llama_ftype`) whose tensors are mostly of this type, as its loader guesses it.
pub(super) fn file_type(tensors: &[Entry]) -> u32 {
    // F32 is what small tensors are in every file.
    let count = |ty: Type| tensors.iter().filter(|t| t.ty == ty).count();
    let most = Type::ALL.iter().copied().filter(|&ty| ty != Type::F32).max_by_key(|&ty| count(ty));
    match most.filter(|&ty| count(ty) > 0).unwrap_or(Type::F32) {
        Type::F32 => 0,
        Type::F16 => 1,
        Type::Q4_0 => 2,
        Type::Q4_1 => 3,
        Type::Q8_0 => 7,
        Type::Q5_0 => 8,
        Type::Q5_1 => 9,
        Type::Q2_K => 10,
        Type::Q3_K => 12,
        Type::Q4_K => 15,
        Type::Q5_K => 17,
        Type::Q6_K => 18,
        Type::IQ2_XXS => 19,
        Type::IQ2_XS => 20,
        Type::IQ3_XXS => 23,
        Type::IQ1_S => 24,
        Type::IQ4_NL => 25,
        Type::IQ3_S => 26,
        Type::IQ2_S => 28,
        Type::IQ4_XS => 30,
        Type::IQ1_M => 31,
        Type::BF16 => 32,
        Type::TQ1_0 => 36,
        Type::TQ2_0 => 37,
        Type::MXFP4 => 38,
        Type::NVFP4 => 39,
        Type::Q1_0 => 40,
        Type::Q2_0 => 41,
        // LLAMA_FTYPE_GUESSED.
        _ => 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, ty: Type, ne: &[u64]) -> Entry {
        Entry::new(name, ty, ne).unwrap()
    }

    #[test]
    fn names_of_types_are_understood_in_any_case() {
        let of = |name: &str| OutType::from_name(name, Bound::default());
        assert_eq!(of("keep").unwrap(), OutType::Keep);
        assert_eq!(of("AUTO").unwrap(), OutType::Auto(Bound::Cosine(0.9)));
        assert_eq!(of("q4_k").unwrap(), OutType::Named(Type::Q4_K));
        assert_eq!(of("BF16").unwrap(), OutType::Named(Type::BF16));
        assert_eq!(of("iq2_xxs").unwrap(), OutType::Named(Type::IQ2_XXS));
        for bad in ["", "q9", "i32", "q8_1"] {
            assert_eq!(of(bad).unwrap_err().kind(), Kind::Argument, "{bad}");
        }
    }

    #[test]
    fn rungs_lead_from_the_own_type_upwards() {
        let auto = OutType::Auto(Bound::Cosine(0.9));
        let rungs = |out: OutType, ty: Type, ne: &[u64]| {
            out.rungs(&entry("blk.0.attn_q.weight", ty, ne), false, false).unwrap()
        };
        assert_eq!(rungs(auto, Type::Q4_1, &[64, 2]), [Type::Q4_1, Type::Q8_0, Type::F16]);
        assert_eq!(rungs(auto, Type::Q8_0, &[64, 2]), [Type::Q8_0, Type::F16]);
        assert_eq!(rungs(auto, Type::BF16, &[64, 2]), [Type::BF16]);
        assert_eq!(rungs(auto, Type::F32, &[3, 2]), [Type::F32]);
        assert_eq!(rungs(auto, Type::IQ2_XXS, &[256, 2]), [Type::Q8_0, Type::F16]);
        assert_eq!(rungs(OutType::Keep, Type::IQ3_S, &[256, 2]), [Type::IQ3_S]);
        assert_eq!(rungs(OutType::Named(Type::Q4_K), Type::F16, &[256, 2]), [Type::Q4_K]);
        assert_eq!(rungs(OutType::Named(Type::Q4_K), Type::F16, &[96, 2]), [Type::Q8_0]);
        assert_eq!(rungs(OutType::Named(Type::Q4_K), Type::F16, &[90, 2]), [Type::F16]);
        let needs = entry("w.weight", Type::IQ1_S, &[256, 2]);
        for out in [OutType::Keep, OutType::Named(Type::IQ2_XS)] {
            let error = out.rungs(&needs, false, false).unwrap_err();
            assert!(error.kind() == Kind::Unsupported && error.to_string().contains("w.weight"), "{error}");
            assert_eq!(out.rungs(&needs, false, true).unwrap().len(), 1);
        }
    }

    #[test]
    fn patterns_are_found_anywhere_in_a_name() {
        let of = |text: &str, name: &str| TensorType::parse(text).unwrap().of(&entry(name, Type::F16, &[256, 2]));
        assert_eq!(of(r"blk\..*ffn_down=q6_k", "blk.7.ffn_down.weight"), Some(Type::Q6_K));
        assert_eq!(of("attn_v=Q8_0", "blk.7.ffn_down.weight"), None);
        let norm = |text: &str| TensorType::parse(text).unwrap().of(&entry("blk.0.attn_norm.weight", Type::F32, &[64]));
        assert_eq!((norm("norm=q8_0"), norm("norm=f32")), (None, Some(Type::F32)));
        for (bad, says) in
            [("attn", "PATTERN=TYPE"), ("attn=q9", "no type"), ("(=f16", "(=f16"), ("a=i8", "no weights")]
        {
            let error = TensorType::parse(bad).unwrap_err();
            assert!(error.kind() == Kind::Argument && error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn small_tensors_stay_what_they_are() {
        let named = OutType::Named(Type::Q8_0);
        let to = |name: &str, ty: Type, ne: &[u64], all_f32| named.rungs(&entry(name, ty, ne), all_f32, false).unwrap();
        assert_eq!(to("blk.0.attn_q.weight", Type::F32, &[64, 64], true), [Type::Q8_0]);
        // A matrix that a quantised model keeps in F32 has its reasons.
        assert_eq!(to("blk.0.attn_q.weight", Type::F32, &[64, 64], false), [Type::F32]);
        for name in ["blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight", "position_embd.weight", "blk.0.attn_q.bias"]
        {
            assert_eq!(to(name, Type::F32, &[64, 64], true), [Type::F32], "{name}");
        }
        assert_eq!(to("blk.0.x.weight", Type::F32, &[64, 1], true), [Type::F32]);
    }
}
