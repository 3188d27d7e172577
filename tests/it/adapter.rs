//! An exported adapter in llama.cpp's hands: what it computes with the file is what our program computes with the factors.

use crate::tiny;
use llama_align::adapter::{export, import, Lineage, Linear, Lora, LoraShape};
use llama_align::data::Sequence;
use llama_align::engine::{Delta, Engine, Form};
use llama_align::gguf::{self, base_hash, check_fits, validate_adapter};
use llama_align::runtime::{Adapter, Context, Model, Runtime};
use llama_align::trace::{trace, Trace};
use quant::Type;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens of the sequence, a multiple of the packing's alignment, and how many of their logits are compared.
const N: usize = 128;
const N_COMPARED: usize = 16;

struct Fixture {
    _directory: tempfile::TempDir,
    path: PathBuf,
    model: Arc<Model>,
    trace: Arc<Trace>,
}

impl Fixture {
    fn new(name: &str, ty: Type) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        tiny::find(name).write(&path, ty).unwrap();
        let model = Model::open(&Runtime::linked().unwrap(), &path).unwrap();
        let trace = Arc::new(trace(&model).unwrap());
        Self { _directory: directory, path, model, trace }
    }

    /// Factors that change a lot: B is far from zero.
    fn lora(&self, rank: usize, alpha: f32, seed: u64) -> Lora {
        Self::moved(Lora::init(&Linear::all(&self.trace), rank, alpha, seed))
    }

    fn moved(mut lora: Lora) -> Lora {
        for (f, factor) in lora.factors.iter_mut().enumerate() {
            for (i, b) in factor.b.iter_mut().enumerate() {
                *b = ((i * 31 + f * 17) as f32 * 0.7).sin() * 0.2;
            }
        }
        lora
    }

    fn export(&self, lora: &Lora, name: &str) -> PathBuf {
        let file = gguf::File::open(&self.path).unwrap();
        let lineage = Lineage {
            architecture: self.model.architecture(),
            base_name: Some("tiny".into()),
            base_hash: Some(base_hash(&file)),
            method: "dpo".into(),
        };
        let path = self.path.with_file_name(name);
        export(lora, &lineage, &path).unwrap();
        path
    }

    fn sequence(&self) -> Sequence {
        let n_vocab = self.model.n_vocab();
        let tokens = (0..N).map(|i| ((i * 7919 + 29) % n_vocab) as i32).collect();
        Sequence::new(tokens, N - N_COMPARED)
    }

    /// The last logits by `llama_decode` with adapter files, each at its scale.
    fn decoded(&self, adapters: &[(&Path, f32)]) -> Vec<f32> {
        let loaded: Vec<_> =
            adapters.iter().map(|(path, scale)| (Adapter::open(&self.model, path).unwrap(), *scale)).collect();
        let mut context = Context::new(&self.model, N, 1, 1).unwrap();
        context.set_adapters(&loaded).unwrap();
        let batch: Vec<_> = self.sequence().tokens.iter().enumerate().map(|(i, &t)| (t, i, 0)).collect();
        let wanted = N - N_COMPARED - 1..N - 1;
        context.decode(&batch, |i| wanted.contains(&i)).unwrap();
        wanted.flat_map(|i| context.logits(i).unwrap().to_vec()).collect()
    }

    /// The same by our program.
    fn computed(&self, deltas: Vec<Delta>) -> Vec<f32> {
        let mut engine = Engine::with_form(&self.model, &self.trace, deltas, 1, Form::Runtime).unwrap();
        let mut out = Vec::new();
        engine.visit_logits(&[&self.sequence()], &mut |_, _, logits| out.extend_from_slice(logits)).unwrap();
        out
    }
}

fn delta(lora: Lora, scale: f32) -> Delta {
    Delta { lora, scale, trainable: false }
}

#[test]
fn the_program_with_a_delta_equals_a_decode_with_the_file() {
    let models = [
        ("llama-untied", Type::Q4_1),
        ("llama-biases", Type::F32),
        ("qwen2", Type::Q8_0),
        ("gemma2", Type::Q4_0),
        ("phi3", Type::F16),
        ("gpt2", Type::Q8_0),
        ("stablelm", Type::Q4_1),
        ("bloom", Type::F32),
        ("llama-experts", Type::Q8_0),
        ("qwen3moe", Type::F32),
        ("qwen2moe", Type::Q4_0),
        ("olmoe", Type::F16),
        ("gpt-oss", Type::Q8_0),
    ];
    for (name, ty) in models {
        let fixture = Fixture::new(name, ty);
        let lora = fixture.lora(4, 8.0, 3);
        let path = fixture.export(&lora, "adapter.gguf");
        let file = gguf::File::open(&path).unwrap();
        check_fits(&validate_adapter(&file).unwrap(), &gguf::File::open(&fixture.path).unwrap()).unwrap();
        assert_eq!(import(&file).unwrap(), {
            let mut l = lora.clone();
            l.factors.sort_by(|a, b| a.weight.cmp(&b.weight));
            l
        });
        let (decoded, computed) = (fixture.decoded(&[(&path, 1.0)]), fixture.computed(vec![delta(lora, 1.0)]));
        assert_eq!(decoded.len(), N_COMPARED * fixture.model.n_vocab());
        assert!(decoded == computed, "{name} {}: llama.cpp computes something else with the file", ty.name());
        assert!(decoded != fixture.decoded(&[]), "{name}: the adapter changes nothing");
    }
}

#[test]
fn scales_alphas_and_several_adapters_mean_the_same() {
    let fixture = Fixture::new("llama-tied", Type::Q8_0);
    let (first, second) = (fixture.lora(4, 8.0, 1), fixture.lora(2, 0.0, 2));
    let paths = [fixture.export(&first, "first.gguf"), fixture.export(&second, "second.gguf")];
    for scale in [0.5, 0.0, -1.0] {
        let computed = fixture.computed(vec![delta(first.clone(), scale)]);
        assert!(fixture.decoded(&[(&paths[0], scale)]) == computed, "scale {scale}");
    }
    // An alpha of 0 means no alpha: the scale alone.
    assert!(fixture.decoded(&[(&paths[1], 0.25)]) == fixture.computed(vec![delta(second, 0.25)]));
}

#[test]
fn equal_factors_give_equal_bytes_without_clock_or_path() {
    let fixture = Fixture::new("llama-tied", Type::F32);
    let lora = fixture.lora(4, 8.0, 9);
    let bytes = |name| std::fs::read(fixture.export(&lora, name)).unwrap();
    assert!(bytes("one.gguf") == bytes("two.gguf"));
}

/// Ranks and alphas of some modules' own, and rsLoRA: a file has one alpha, so B takes the ratios in. These are powers of two,
/// so nothing is rounded.
#[test]
fn ranks_and_alphas_of_their_own_mean_the_same_in_the_file() {
    let fixture = Fixture::new("llama-untied", Type::Q8_0);
    for (rank_stabilized, own_alpha) in [(false, 2.0), (true, 16.0)] {
        let shape = LoraShape {
            rank: 4,
            alpha: 8.0,
            rank_stabilized,
            rank_pattern: [("q_proj".to_owned(), 16), ("blk.1.ffn_down".to_owned(), 1)].into(),
            alpha_pattern: [("ffn_up".to_owned(), own_alpha)].into(),
        };
        let lora = Fixture::moved(shape.init(&Linear::all(&fixture.trace), 3).unwrap());
        let scales: std::collections::BTreeSet<_> = lora.factors.iter().map(|f| lora.scale(f).to_bits()).collect();
        assert_eq!(scales.len(), 3, "{scales:?}");
        let path = fixture.export(&lora, "own.gguf");
        assert!(fixture.decoded(&[(&path, 1.0)]) == fixture.computed(vec![delta(lora, 1.0)]), "{rank_stabilized}");
    }
}
