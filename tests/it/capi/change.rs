//! What moves beside factors and in their place: runs from C leave the bytes of the program's.

use super::behaviour::run;
use super::world::{adapter_params, error, made, message, trainer_params, Texts, World};
use crate::tiny;
use llama_align::capi::*;
use llama_align::mask::{Granularity, Mask};
use quant::Type;
use std::ffi::CString;
use std::fs;
use std::process::Command;
use std::ptr::{null, null_mut};

/// The run of [`trainer_params`].
const TRAIN: [&str; 13] = [
    "train",
    "-d",
    "rows.jsonl",
    "-t",
    "1",
    "--batch-size",
    "2",
    "--max-steps",
    "3",
    "--learning-rate",
    "1e-3",
    "--samples",
    "0",
];

pub(super) fn program(world: &World, args: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-align"));
    let ran = command.args(args).current_dir(world.directory.path()).output().unwrap();
    assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

pub(super) fn train(world: &World, args: &[&str]) {
    program(world, &[&TRAIN[..], args].concat());
}

/// A call that must succeed.
pub(super) fn ok(call: impl FnOnce(*mut llama_align_error) -> i32) {
    let mut err = error();
    let status = call(&mut err);
    assert_eq!(status, LLAMA_ALIGN_OK, "{}", message(&err));
}

/// A call that must fail: its status and message.
pub(super) fn fails(call: impl FnOnce(*mut llama_align_error) -> i32) -> (i32, String) {
    let mut err = error();
    (call(&mut err), message(&err))
}

impl World {
    /// Trains to the end, and leaves the adapter and its changes beside each other; the adapter lives on.
    fn left(&self, adapter: *mut llama_align_adapter, params: &llama_align_trainer_params, has_factors: bool) {
        let trainer = self.trainer(adapter, self.dataset, params);
        assert_eq!(run(trainer), LLAMA_ALIGN_OK);
        llama_align_trainer_free(trainer);
        if has_factors {
            self.save(adapter, "c.gguf");
        }
        self.save_change(adapter, "c.change.gguf");
    }

    pub(super) fn save(&self, adapter: *const llama_align_adapter, name: &str) {
        let path = self.path(name);
        // SAFETY: a live adapter and a path.
        ok(|err| unsafe { llama_align_adapter_save(adapter, path.as_ptr(), err) });
    }

    pub(super) fn save_change(&self, adapter: *const llama_align_adapter, name: &str) {
        let path = self.path(name);
        // SAFETY: as above.
        ok(|err| unsafe { llama_align_adapter_save_change(adapter, path.as_ptr(), err) });
    }

    fn load_change(&self, adapter: *mut llama_align_adapter, name: &str) {
        let path = self.path(name);
        // SAFETY: as above.
        ok(|err| unsafe { llama_align_adapter_load_change(adapter, path.as_ptr(), err) });
    }

    pub(super) fn same(&self, one: &str, other: &str) {
        let bytes = |name: &str| fs::read(self.file(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(bytes(one) == bytes(other), "{one} is not {other}");
    }

    /// The model with files folded in.
    fn fold(&self, files: &[&str], output: &str) -> (i32, String) {
        let (model, output) = (self.path("model.gguf"), self.path(output));
        let paths: Vec<CString> = files.iter().map(|name| self.path(name)).collect();
        let texts = Texts::new(paths.iter().map(|path| path.to_str().unwrap()));
        let (list, n) = (texts.pointers.as_ptr(), files.len());
        // SAFETY: paths, as many as there are.
        fails(|err| unsafe {
            let (no_report, no_told) = (null(), null_mut());
            let params = null();
            llama_align_fold_files(
                model.as_ptr(),
                list,
                null(),
                n,
                null(),
                params,
                output.as_ptr(),
                no_report,
                no_told,
                err,
            )
        })
    }

    fn measured(&self, adapter: *const llama_align_adapter) -> llama_align_evaluation {
        // SAFETY: any bytes are a value.
        let mut out: llama_align_evaluation = unsafe { std::mem::zeroed() };
        out.struct_size = size_of_val(&out) as u32;
        // SAFETY: live handles.
        ok(|err| unsafe { llama_align_evaluate(self.dataset, adapter, null(), &mut out, err) });
        out
    }
}

#[test]
fn norms_beside_factors_are_the_programs_to_the_byte() {
    let world = World::new();
    train(&world, &["-m", "model.gguf", "--train-norms", "-o", "norms"]);
    let adapter = world.adapter_of(LLAMA_ALIGN_ADAPTER_NORMS);
    world.left(adapter, &trainer_params(), true);
    world.same("c.gguf", "norms/adapter.gguf");
    world.same("c.change.gguf", "norms/change.gguf");
    // Kept insides give the same bits; where they do not fit, the run is refused.
    for recompute in [LLAMA_ALIGN_RECOMPUTE_NEVER, LLAMA_ALIGN_RECOMPUTE_AUTO] {
        let adapter = world.adapter_of(LLAMA_ALIGN_ADAPTER_NORMS);
        world.left(adapter, &llama_align_trainer_params { recompute, max_memory: 1 << 40, ..trainer_params() }, true);
        world.same("c.change.gguf", "norms/change.gguf");
        llama_align_adapter_free(adapter);
    }
    let small = llama_align_trainer_params { max_memory: 1 << 20, ..trainer_params() };
    let mut out = null_mut();
    // SAFETY: live handles.
    let (status, said) =
        fails(|err| unsafe { llama_align_trainer_new(world.adapter, world.dataset, &small, &mut out, err) });
    assert!(status == LLAMA_ALIGN_ERR_ARGUMENT && said.contains("memory"), "{status}: {said}");
    // What is measured has the norms: the factors alone give something else.
    let path = world.path("c.gguf");
    // SAFETY: a live model and a path.
    let alone = made(|out, err| unsafe { llama_align_adapter_load(world.model, path.as_ptr(), out, err) });
    let [with, without] = [adapter, alone].map(|a| world.measured(a).logps_chosen);
    assert!(with.is_finite() && with != without, "{with} {without}");
    // And what only has a place for factors is refused.
    let mut out = null_mut();
    // SAFETY: a live adapter.
    let (status, said) =
        fails(|err| unsafe { llama_align_adapter_truncate(adapter, null(), null_mut(), &mut out, err) });
    assert!(status == LLAMA_ALIGN_ERR_UNSUPPORTED && said.contains("norms"), "{status}: {said}");
    let path = world.path("none.gguf");
    // SAFETY: as above.
    let (status, said) = fails(|err| unsafe { llama_align_adapter_save_change(alone, path.as_ptr(), err) });
    assert!(status == LLAMA_ALIGN_ERR_ARGUMENT && said.contains("factors"), "{status}: {said}");
    // One file from both, as the program makes it.
    assert_eq!(world.fold(&["c.gguf", "c.change.gguf"], "folded.gguf"), (LLAMA_ALIGN_OK, String::new()));
    let merge = ["merge", "-m", "model.gguf", "--lora", "norms/adapter.gguf", "--change", "norms/change.gguf"];
    program(&world, &[&merge[..], &["--no-verify", "-o", "merged.gguf"]].concat());
    world.same("folded.gguf", "merged.gguf");
    let (status, said) = world.fold(&["c.change.gguf", "c.change.gguf"], "twice.gguf");
    assert!(status == LLAMA_ALIGN_ERR_ARGUMENT && said.contains("more than one"), "{status}: {said}");
    llama_align_adapter_free(adapter);
    llama_align_adapter_free(alone);
}

#[test]
fn biases_are_asked_for_where_there_are_some() {
    let mut world = World::new();
    let (flags, mut out) = (adapter_params(LLAMA_ALIGN_ADAPTER_BIASES), null_mut());
    // SAFETY: a live model.
    let (status, said) = fails(|err| unsafe { llama_align_adapter_new(world.model, null(), &flags, &mut out, err) });
    assert!(status == LLAMA_ALIGN_ERR_ARGUMENT && said.contains("have none"), "{status}: {said}");
    tiny::find("qwen2").write(&world.file("qwen2.gguf"), Type::Q8_0).unwrap();
    let path = world.path("qwen2.gguf");
    llama_align_model_free(world.model);
    llama_align_dataset_free(world.dataset);
    // SAFETY: a path.
    world.model = made(|out, err| unsafe { llama_align_model_open(path.as_ptr(), out, err) });
    world.dataset = world.pairs(LLAMA_ALIGN_METHOD_DPO);
    train(&world, &["-m", "qwen2.gguf", "--train-biases", "-o", "biases"]);
    let adapter = world.adapter_of(LLAMA_ALIGN_ADAPTER_BIASES);
    world.left(adapter, &trainer_params(), true);
    world.same("c.gguf", "biases/adapter.gguf");
    world.same("c.change.gguf", "biases/change.gguf");
    llama_align_adapter_free(adapter);
}

#[test]
fn whole_weights_are_the_programs_to_the_byte() {
    let world = World::new();
    let full = ["-m", "model.gguf", "--delta", "full"];
    train(&world, &[&full[..], &["-o", "full"]].concat());
    let adapter = world.adapter_of(LLAMA_ALIGN_ADAPTER_FULL);
    world.left(adapter, &trainer_params(), false);
    world.same("c.change.gguf", "full/change.gguf");
    assert!(world.measured(adapter).reward_margin > 0.0);
    // From a checkpoint after each step, of C's and of the program's.
    let path = world.path("cut.gguf");
    for at in [1, 2] {
        let cut = world.adapter_of(LLAMA_ALIGN_ADAPTER_FULL);
        let trainer = world.trainer(cut, world.dataset, &trainer_params());
        for _ in 0..at {
            // SAFETY: a live trainer.
            assert_eq!(unsafe { llama_align_trainer_step(trainer, null_mut(), null_mut()) }, LLAMA_ALIGN_MORE);
        }
        // SAFETY: as above.
        ok(|err| unsafe { llama_align_trainer_save(trainer, path.as_ptr(), err) });
        llama_align_trainer_free(trainer);
        llama_align_adapter_free(cut);
        world.resumed("cut.gguf", "full/change.gguf", LLAMA_ALIGN_RECOMPUTE_ALWAYS);
    }
    let saving = ["-o", "saved", "--save-steps", "1", "--save-total-limit", "0"];
    // The program reads lines, C has counted rows: the same numbers.
    train(&world, &[&full[..], &saving].concat());
    world.resumed("saved/checkpoint-2.gguf", "full/change.gguf", LLAMA_ALIGN_RECOMPUTE_AUTO);

    // A mask of single weights: the same ranking, and the same run under it; then on from there.
    let (mask, mut params) = (world.path("mask.gguf"), neurons_params());
    (params.granularity, params.ratio) = (LLAMA_ALIGN_NEURONS_WEIGHT, 0.05);
    // SAFETY: a live adapter, a path.
    ok(|err| unsafe { llama_align_adapter_neurons(adapter, &params, mask.as_ptr(), err) });
    program(&world, &["neurons", "-m", "model.gguf", "--change", "full/change.gguf", "-o", "wanted.gguf"]);
    let [own, wanted] = ["mask.gguf", "wanted.gguf"].map(|name| Mask::read(&world.file(name)).unwrap());
    assert_eq!((own.granularity(), own.count()), (Granularity::Weight, own.n() / 20));
    assert!(own.tensors() == wanted.tensors(), "another mask than the program's");
    train(&world, &[&full[..], &["--mask", "mask.gguf", "-o", "held"]].concat());
    let held = world.adapter_of(LLAMA_ALIGN_ADAPTER_FULL);
    // SAFETY: as above.
    ok(|err| unsafe { llama_align_adapter_set_mask(held, mask.as_ptr(), err) });
    world.left(held, &trainer_params(), false);
    world.same("c.change.gguf", "held/change.gguf");
    train(&world, &[&full[..], &["--change", "held/change.gguf", "-o", "on"]].concat());
    let on = world.adapter_of(LLAMA_ALIGN_ADAPTER_FULL);
    world.load_change(on, "held/change.gguf");
    world.left(on, &trainer_params(), false);
    world.same("c.change.gguf", "on/change.gguf");

    // Into a model; never as factors.
    assert_eq!(world.fold(&["c.change.gguf"], "folded.gguf"), (LLAMA_ALIGN_OK, String::new()));
    program(&world, &["merge", "-m", "model.gguf", "--change", "on/change.gguf", "--no-verify", "-o", "merged.gguf"]);
    world.same("folded.gguf", "merged.gguf");
    // SAFETY: as above.
    let (status, said) = fails(|err| unsafe { llama_align_adapter_save(adapter, mask.as_ptr(), err) });
    assert!(status == LLAMA_ALIGN_ERR_UNSUPPORTED && said.contains("_save_change"), "{status}: {said}");
    let refused = llama_align_adapter_params { rank: 8, ..adapter_params(LLAMA_ALIGN_ADAPTER_FULL) };
    let mut out = null_mut();
    // SAFETY: a live model.
    let (status, said) = fails(|err| unsafe { llama_align_adapter_new(world.model, null(), &refused, &mut out, err) });
    assert!(status == LLAMA_ALIGN_ERR_ARGUMENT && said.contains("no factors"), "{status}: {said}");
    for adapter in [adapter, held, on] {
        llama_align_adapter_free(adapter);
    }
}

pub(super) fn neurons_params() -> llama_align_neurons_params {
    // SAFETY: any bytes are a value; `init` fills them in.
    let mut params: llama_align_neurons_params = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the struct.
    ok(|err| unsafe { llama_align_neurons_params_init(&mut params, size_of_val(&params) as u32, err) });
    params
}

impl World {
    /// A run of whole weights that goes on from a checkpoint leaves these changes.
    fn resumed(&self, checkpoint: &str, wanted: &str, recompute: u32) {
        let (adapter, path) = (self.adapter_of(LLAMA_ALIGN_ADAPTER_FULL), self.path(checkpoint));
        let params = llama_align_trainer_params { recompute, ..trainer_params() };
        // SAFETY: live handles, a path.
        let trainer = made(|out, err| unsafe {
            llama_align_trainer_resume(adapter, self.dataset, &params, path.as_ptr(), 0, out, err)
        });
        assert_eq!(run(trainer), LLAMA_ALIGN_OK);
        self.save_change(adapter, "resumed.gguf");
        self.same("resumed.gguf", wanted);
        llama_align_trainer_free(trainer);
        llama_align_adapter_free(adapter);
    }
}

#[test]
fn blocks_patterns_and_several_losses_are_the_programs_to_the_byte() {
    let world = World::new();
    fs::write(world.file("run.toml"), "[rank_pattern]\nattn_q = 4\n[alpha_pattern]\n\"blk.1.ffn_down\" = 8.0\n")
        .unwrap();
    let shape = ["--lora-targets", "attn_q,ffn_down", "--layers-to-transform", "1", "--config", "run.toml"];
    let losses = ["--loss-type", "sigmoid,bco_pair", "--loss-weights", "0.8,0.2"];
    train(&world, &[&["-m", "model.gguf", "-o", "shaped"], &shape[..], &losses].concat());
    let [targets, layers, ranks, alphas] =
        ["attn_q,ffn_down", "1", "attn_q=4", "blk.1.ffn_down=8"].map(|text| CString::new(text).unwrap());
    let adapter = made(|out, err| {
        let [targets, layers, ranks, alphas] = [&targets, &layers, &ranks, &alphas].map(|text| text.as_ptr());
        // SAFETY: a live model and strings.
        unsafe { llama_align_adapter_new_shaped(world.model, targets, layers, ranks, alphas, null(), out, err) }
    });
    let mut params = trainer_params();
    params.loss_weights[LLAMA_ALIGN_LOSS_SIGMOID as usize] = 0.8;
    params.loss_weights[LLAMA_ALIGN_LOSS_BCO_PAIR as usize] = 0.2;
    let trainer = world.trainer(adapter, world.dataset, &params);
    assert_eq!(run(trainer), LLAMA_ALIGN_OK);
    world.save(adapter, "c.gguf");
    world.same("c.gguf", "shaped/adapter.gguf");
    llama_align_trainer_free(trainer);
    llama_align_adapter_free(adapter);
}
