//! Files cut at every byte and files changed at random: the reader never panics, and what validation accepts llama.cpp
//! loads, or refuses, without ending the process.

use super::adapters;
use super::image::Image;
use super::program::run;
use crate::models::runtime;
use llama_align::error::{Kind, Result};
use llama_align::gguf::{validate_model, Array, File, Value};
use llama_align::merge::{fold, merge, Method, Options};
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Files whose graphs differ: learned positions, windows, experts, fused projections, part of a head turned.
const MODELS: [&str; 8] = ["llama-tied", "gpt2", "gemma2", "gemma3", "llama-experts", "phi2", "qwen", "deepseek2"];
const MUTATIONS: usize = 4000;
/// Accepted files that the program then really opens; each takes a tenth of a second.
const OPENED: usize = 500;
/// Files that are merged or folded; each takes some milliseconds.
const MERGED: usize = 600;

/// How many times as much `make test-full` does.
fn effort() -> usize {
    std::env::var("LLAMA_ALIGN_FUZZ").map_or(1, |n| n.parse().expect("LLAMA_ALIGN_FUZZ is a number"))
}

fn verdict(bytes: Vec<u8>) -> Result<()> {
    File::from_bytes(bytes, "x").and_then(|file| validate_model(&file))
}

#[test]
fn a_file_cut_anywhere_in_its_header_is_refused() {
    let model = Image::of("llama-tied");
    for end in 0..=model.header_end() {
        let error = verdict(model.bytes[..end].to_vec()).expect_err("a cut file");
        assert!(error.to_string().starts_with("x: "), "{end}: {error}");
    }
}

/// Draws for one mutation: it can be made again instead of being kept.
struct Dice(ChaCha8Rng);

impl Dice {
    fn of(target: &str, mutation: usize) -> Self {
        let key = format!("hostile mutation {mutation} of {target}");
        Self(ChaCha8Rng::from_seed(*blake3::hash(key.as_bytes()).as_bytes()))
    }

    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// Integers at which something changes.
    fn integer(&mut self) -> u64 {
        let edges = [0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 33, 63, 64, 65, 96, 127, 288, 511, 513, 1 << 16, 1 << 24];
        let wide = [u64::MAX, u64::MAX - 31, 1 << 31, (1 << 31) - 1, 1 << 32, u64::from(u32::MAX), 1 << 62, 1 << 63];
        match self.below(4) {
            0 => self.one_of(&wide),
            _ => self.one_of(&edges),
        }
    }

    fn value(&mut self) -> Value {
        let float = self.one_of(&[0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e38, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE]);
        let list: Vec<u32> = (0..self.below(5)).map(|_| self.integer() as u32).collect();
        match self.below(9) {
            0..=2 => Value::U32(self.integer() as u32),
            3 | 4 => Value::F32(float),
            5 => Value::Bool(self.below(2) == 0),
            6 => Value::String(self.one_of(&["", "linear", "yarn", "zzz"]).into()),
            7 => Value::Array(Array::U32(list)),
            _ => Value::I32(self.integer() as i32),
        }
    }

    /// One change: a field of the header overwritten or spliced, a key with another value, a byte anywhere.
    fn mutate(&mut self, model: &Image) -> Vec<u8> {
        let key = &model.keys[self.below(model.keys.len())];
        let tensor = &model.tensors[self.below(model.tensors.len())];
        let number = self.integer();
        match self.below(10) {
            // Keys of the architecture decide what graph is built: most changes that are accepted are made here.
            0..=3 => {
                let own: Vec<_> =
                    model.keys.iter().filter(|k| !k.name.contains("token") && !k.name.starts_with("general")).collect();
                let extra = [
                    "rope.dimension_count",
                    "attention.key_length",
                    "attention.value_length",
                    "attention.scale",
                    "attention.sliding_window",
                    "logit_scale",
                    "expert_used_count",
                    "attention.max_alibi_bias",
                ];
                let arch = own[0].name.split('.').next().unwrap_or_default();
                let name = match self.below(2) {
                    0 => self.one_of(&own).name.clone(),
                    _ => format!("{arch}.{}", self.one_of(&extra)),
                };
                let value = self.value();
                model.with(&name, value)
            }
            4 => model.put(tensor.ne_at + 8 * self.below(2), &number.to_le_bytes()),
            5 => model.put(tensor.type_at, &(self.below(45) as u32).to_le_bytes()),
            6 => {
                model.put(self.one_of(&[tensor.offset_at, tensor.entry.start, key.entry.start]), &number.to_le_bytes())
            }
            7 => model.splice(self.one_of(&[&key.entry, &tensor.entry]).clone(), &[]),
            8 => {
                let at = self.below(model.header_end());
                model.put(at, &[self.below(256) as u8])
            }
            _ => {
                let at = self.below(model.bytes.len());
                let bytes = model.put(at, &[self.below(256) as u8]);
                bytes[..bytes.len() - self.below(64)].to_vec()
            }
        }
    }
}

#[test]
fn what_is_accepted_is_loaded_or_refused_but_never_aborts() {
    let models = MODELS.map(Image::of);
    let (mutations, opened) = (MUTATIONS * effort(), OPENED * effort());
    let mutant = |i: usize| Dice::of("tiny models", i).mutate(&models[i % models.len()]);
    let accepted: Vec<usize> = (0..mutations).filter(|&i| verdict(mutant(i)).is_ok()).collect();
    assert!(accepted.len() > opened, "only {} of {mutations} were accepted", accepted.len());
    let stride = accepted.len() / opened;
    let chosen: Vec<_> = accepted.iter().step_by(stride).collect();
    let loaded: usize = std::thread::scope(|scope| {
        let half = |part: usize| {
            let (chosen, mutant) = (&chosen, &mutant);
            scope.spawn(move || {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("mutant.gguf");
                chosen.iter().skip(part).step_by(2).fold(0, |loaded, &&i| {
                    std::fs::write(&path, mutant(i)).unwrap();
                    // Asserts that it ends with a status of its own.
                    let ran = run(dir.path(), &["check", "-m", "mutant.gguf", "-t", "1"]);
                    loaded + usize::from(ran.status == 0)
                })
            })
        };
        let halves = [half(0), half(1)];
        halves.map(|h| h.join().unwrap()).iter().sum()
    });
    // Otherwise the mutants are too wild to test anything behind the loader.
    assert!(loaded * 5 > chosen.len(), "{loaded} of {} pass the check", chosen.len());
}

/// Adapters that are accepted are folded, merged models are merged, in this process: an assertion of ggml would end it.
#[test]
fn what_is_accepted_is_merged_or_refused_but_never_aborts() {
    let dir = tempfile::tempdir().unwrap();
    let (path, output) = (dir.path().join("mutant.gguf"), dir.path().join("out.gguf"));
    let base = Image::of(adapters::BASE);
    let (good, adapter) = (dir.path().join("good.gguf"), Image::read(adapters::good(&base)));
    std::fs::write(&good, &base.bytes).unwrap();
    let good = File::open(&good).unwrap();
    let method = Method::linear(&[0.5, 0.5]);
    let options = Options { overwrite: true, ..Options::default() };
    let mut made = [0; 2];
    for i in 0..MERGED * effort() {
        let of_adapter = i % 2 == 0;
        std::fs::write(&path, Dice::of("merge", i).mutate(if of_adapter { &adapter } else { &base })).unwrap();
        let Ok(mutant) = File::open(&path) else { continue };
        let result = match of_adapter {
            true => fold(&runtime(), &good, &[(&mutant, 1.0)], &options, Some(&output), &mut |_| {}),
            false => merge(&runtime(), &[&mutant, &good], None, &method, &options, Some(&output), &mut |_| {}),
        };
        match result {
            Ok(_) => {
                made[i % 2] += 1;
                File::open(&output).and_then(|file| validate_model(&file)).unwrap();
                std::fs::remove_file(&output).unwrap();
            }
            Err(error) => assert!(!output.exists() && error.kind() != Kind::Internal, "{i}: {error}"),
        }
    }
    // Most changes of a model make it another one than the one that it is merged with.
    assert!(made.iter().all(|&n| n > MERGED * effort() / 150), "{made:?} were made");
}
