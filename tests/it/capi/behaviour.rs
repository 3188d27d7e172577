//! What the interface does when it is used as it should be.

use super::world::{dataset_params, error, made, message, trainer_params, Texts, World, PAIRS};
use llama_align::adapter::{to_bytes, Lineage, Linear, Lora};
use llama_align::capi::*;
use llama_align::check::checked_trace;
use llama_align::data::{read_all, Dataset, EncodeOptions, TokenWeights};
use llama_align::engine::{Delta, Engine};
use llama_align::error::Result;
use llama_align::gguf;
use llama_align::runtime::{Model, Runtime};
use llama_align::train::{Method, Observer, Precision, StepReport, TrainConfig, Trainer};
use std::ffi::CStr;
use std::ptr::{null, null_mut};

/// The loss of every step.
#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn on_step(&mut self, report: &StepReport) -> Result<bool> {
        self.0.push(report.loss);
        Ok(true)
    }
}

/// Weights of a row's answer of so many tokens.
type Weigh<'a> = dyn Fn(usize, usize, usize) -> Vec<f32> + 'a;

/// The adapter file that the Rust interface trains from the same rows and configuration.
fn trained_in_rust(world: &World, method: Method) -> Vec<u8> {
    trained_with_weights(world, method, None).0
}

/// The same with weights of tokens, of a row's answer `k` of so many tokens, and the loss of every step.
fn trained_with_weights(world: &World, method: Method, weigh: Option<&Weigh<'_>>) -> (Vec<u8>, Vec<f64>) {
    let path = world.file("model.gguf");
    let model = Model::open(&Runtime::linked().unwrap(), &path).unwrap();
    let rows = method.rows(read_all(&world.file("rows.jsonl")).unwrap()).unwrap();
    let options = EncodeOptions { max_length: 512, ..EncodeOptions::default() };
    let data = Dataset::encode(&rows, model.as_ref(), model.template().unwrap().as_ref(), &options).unwrap();
    let config = TrainConfig {
        method,
        threads: 1,
        batch_size: 2,
        max_steps: 3,
        max_length: 512,
        learning_rate: 1e-3,
        ..TrainConfig::default()
    };
    let config = config.resolve().unwrap();
    let form = Precision::Auto.form();
    let (trace, _) = checked_trace(&model, 1, form).unwrap();
    let lora = Lora::init(&Linear::all(&trace), 16, 32.0, 0);
    let delta = Delta { lora, scale: 1.0, trainable: true };
    let mut engine = Engine::with_form(&model, &trace, vec![delta], 1, form).unwrap();
    let mut losses = Losses::default();
    let mut trainer = Trainer::new(&config, &data, &mut engine, &mut losses).unwrap();
    if let Some(weigh) = weigh {
        trainer.weigh(TokenWeights::from_fn(&data, |row, k, s| weigh(row, k, s.n_scored())));
    }
    trainer.run(&mut engine, &mut losses).unwrap();
    let file = gguf::File::open(&path).unwrap();
    let base_name = file.get("general.name").and_then(gguf::Value::as_str).map(str::to_owned);
    let (architecture, base_hash) = (model.architecture(), gguf::base_hash(&file));
    let lineage = Lineage { architecture, base_name, base_hash: Some(base_hash), method: method.name().into() };
    (to_bytes(&engine.deltas().remove(0).lora, &lineage).unwrap(), losses.0)
}

/// A dataset of the world's file for a method.
fn opened(world: &World, method: u32) -> *mut llama_align_dataset {
    let (path, params) = (world.path("rows.jsonl"), dataset_params(method));
    // SAFETY: a live model and a path.
    made(|out, err| unsafe { llama_align_dataset_open(world.model, path.as_ptr(), &params, out, err) })
}

/// Trains all steps with `drive` and gives the adapter's file.
fn trained(world: &World, method: u32, drive: impl Fn(*mut llama_align_trainer)) -> Vec<u8> {
    let (adapter, dataset) = (world.adapter(), opened(world, method));
    let trainer = world.trainer(adapter, dataset, &llama_align_trainer_params { method, ..trainer_params() });
    drive(trainer);
    let bytes = World::bytes(adapter);
    llama_align_adapter_free(adapter);
    llama_align_dataset_free(dataset);
    llama_align_trainer_free(trainer);
    bytes
}

pub(super) fn run(trainer: *mut llama_align_trainer) -> i32 {
    let mut err = error();
    // SAFETY: no callback.
    let status = unsafe { llama_align_trainer_run(trainer, None, null_mut(), &mut err) };
    assert!(status >= 0, "{}", message(&err));
    status
}

pub(super) fn report(trainer: *const llama_align_trainer) -> llama_align_progress {
    // SAFETY: any bytes are a value.
    let mut progress: llama_align_progress = unsafe { std::mem::zeroed() };
    progress.struct_size = size_of_val(&progress) as u32;
    // SAFETY: the struct has the size that it says.
    assert_eq!(unsafe { llama_align_trainer_report(trainer, &mut progress, null_mut()) }, LLAMA_ALIGN_OK);
    progress
}

#[test]
fn a_run_from_c_is_the_same_run_bit_for_bit() {
    let world = World::new();
    for (number, method) in [
        (LLAMA_ALIGN_METHOD_SFT, Method::Sft),
        (LLAMA_ALIGN_METHOD_DPO, Method::Dpo),
        (LLAMA_ALIGN_METHOD_KTO, Method::Kto),
    ] {
        let wanted = trained_in_rust(&world, method);
        let at_once = trained(&world, number, |t| assert_eq!(run(t), LLAMA_ALIGN_OK));
        assert!(at_once == wanted, "{method:?}: another adapter than from Rust");
        let by_steps = trained(&world, number, |t| {
            let mut n = 0;
            // SAFETY: a live trainer.
            while unsafe { llama_align_trainer_step(t, null_mut(), null_mut()) } == LLAMA_ALIGN_MORE {
                n += 1;
            }
            assert_eq!((n, report(t).step, report(t).n_steps), (2, 3, 3));
        });
        assert!(by_steps == wanted, "{method:?}: steps differ from a run");
        let by_time = trained(&world, number, |t| {
            // SAFETY: a live trainer.
            let slice = |ms| unsafe { llama_align_trainer_run_for(t, ms, None, null_mut(), null_mut()) };
            assert_eq!((slice(0), report(t).step), (LLAMA_ALIGN_MORE, 1));
            assert_eq!((slice(3_600_000), report(t).step), (LLAMA_ALIGN_OK, 3));
            assert_eq!((slice(0), report(t).step), (LLAMA_ALIGN_OK, 3));
        });
        assert!(by_time == wanted, "{method:?}: slices of time differ from a run");
    }
}

/// Weights that are set, and those of a file, are Rust's: losses and bytes.
#[test]
fn weights_of_tokens_act_as_from_rust() {
    let world = World::new();
    let weigh =
        |row: usize, k: usize, n: usize| (0..n).map(|i| [1.0, 0.0, 0.5][(row + k + i) % 3]).collect::<Vec<f32>>();
    for (number, method, n_answers) in
        [(LLAMA_ALIGN_METHOD_SFT, Method::Sft, 1u32), (LLAMA_ALIGN_METHOD_DPO, Method::Dpo, 2)]
    {
        let (wanted, losses) = trained_with_weights(&world, method, Some(&weigh));
        let (plain, unweighted) = trained_with_weights(&world, method, None);
        // At its beginning DPO costs ln 2 whatever the weights.
        let step = usize::from(method == Method::Dpo);
        assert!(losses[step] != unweighted[step] && wanted != plain, "{method:?}: weights that do nothing");
        let (set, loaded) = (opened(&world, number), opened(&world, number));
        let mut lines = String::new();
        for row in 0..PAIRS.len() {
            let mut line = serde_json::json!({ "line": row + 1 });
            for answer in 0..n_answers {
                let mut n = 0u64;
                // SAFETY: a live dataset; as many weights as are said.
                let status = unsafe { llama_align_dataset_answer_tokens(set, row as u64, answer, &mut n, null_mut()) };
                assert_eq!(status, LLAMA_ALIGN_OK);
                let weights = weigh(row, answer as usize, n as usize);
                let (values, count) = (weights.as_ptr(), weights.len());
                // SAFETY: as above.
                let status =
                    unsafe { llama_align_dataset_set_weights(set, row as u64, answer, values, count, null_mut()) };
                assert_eq!(status, LLAMA_ALIGN_OK);
                let key = if n_answers == 1 { "completion" } else { ["chosen", "rejected"][answer as usize] };
                line[key] = weights.into();
            }
            lines.push_str(&format!("{line}\n"));
        }
        std::fs::write(world.file("weights.jsonl"), lines).unwrap();
        let (path, mut err) = (world.path("weights.jsonl"), error());
        // SAFETY: a live dataset, and a path.
        let status = unsafe { llama_align_dataset_load_weights(loaded, path.as_ptr(), &mut err) };
        assert_eq!(status, LLAMA_ALIGN_OK, "{}", message(&err));
        for dataset in [set, loaded] {
            let adapter = world.adapter();
            let params = llama_align_trainer_params { method: number, ..trainer_params() };
            let trainer = world.trainer(adapter, dataset, &params);
            for wanted in &losses {
                // SAFETY: a live trainer.
                unsafe { llama_align_trainer_step(trainer, null_mut(), null_mut()) };
                assert_eq!(report(trainer).loss, *wanted, "{method:?} step {}", report(trainer).step);
            }
            assert!(World::bytes(adapter) == wanted, "{method:?}: another adapter than from Rust");
            llama_align_trainer_free(trainer);
            llama_align_adapter_free(adapter);
            llama_align_dataset_free(dataset);
        }
    }
}

/// What a handle's listener was told.
static HEARD: std::sync::Mutex<Vec<(u32, String)>> = std::sync::Mutex::new(Vec::new());

unsafe extern "C" fn listen(level: u32, text: *const std::ffi::c_char, user_data: *mut std::ffi::c_void) {
    // SAFETY: the library passes a string, and back what it was given.
    let (line, who) = unsafe { (CStr::from_ptr(text).to_str().unwrap(), *user_data.cast::<u32>()) };
    HEARD.lock().unwrap().push((level, format!("{who}: {line}")));
}

#[test]
fn a_runtime_tells_its_listener_what_it_and_its_models_do_and_nobody_else() {
    let world = World::new();
    let path = world.path("model.gguf");
    let mut names = [1u32, 2];
    // SAFETY: arguments are what the header asks for, here and below.
    let [one, two] = [0, 1].map(|_| made(|out, err| unsafe { llama_align_runtime_built_in(out, err) }));
    let listen_to = |runtime, function, name: *mut u32| {
        // SAFETY: the names live longer than the runtimes.
        let status = unsafe { llama_align_runtime_set_log(runtime, function, name.cast(), null_mut()) };
        assert_eq!(status, LLAMA_ALIGN_OK);
    };
    listen_to(one, Some(listen), &mut names[0]);
    listen_to(two, Some(listen), &mut names[1]);
    // SAFETY: a live runtime, and a path.
    let open = |runtime| made(|out, err| unsafe { llama_align_model_open_with(runtime, path.as_ptr(), out, err) });
    let model = open(one);
    // SAFETY: a live model.
    assert_eq!(unsafe { llama_align_model_check(model, null(), null_mut(), null_mut()) }, LLAMA_ALIGN_OK);
    let heard = || std::mem::take(&mut *HEARD.lock().unwrap());
    let lines = heard();
    let says = |level: u32, text: &str| lines.iter().any(|(l, line)| *l == level && line.contains(text));
    assert!(
        says(LLAMA_ALIGN_LOG_INFO, "2 blocks, opened") && says(LLAMA_ALIGN_LOG_INFO, "checked: logits differ by 0")
    );
    // llama.cpp's own lines come as well; all of them are the first runtime's.
    assert!(lines.iter().any(|(level, _)| *level == LLAMA_ALIGN_LOG_DEBUG), "{lines:?}");
    assert!(lines.iter().all(|(_, line)| line.starts_with("1: ")), "{lines:?}");
    listen_to(one, None, null_mut());
    // Its model goes on silently, and another runtime's, or one without any, is not heard of there.
    // SAFETY: a live runtime, and a path.
    let others = [open(one), made(|out, err| unsafe { llama_align_model_open(path.as_ptr(), out, err) })];
    assert_eq!(heard(), []);
    let last = open(two);
    let lines = heard();
    assert!(!lines.is_empty() && lines.iter().all(|(_, line)| line.starts_with("2: ")), "{lines:?}");
    for model in others.into_iter().chain([model, last]) {
        llama_align_model_free(model);
    }
    llama_align_runtime_free(one);
    llama_align_runtime_free(two);
}

#[test]
fn rows_as_json_have_masks_and_lengths() {
    let world = World::new();
    let turn = |role: &str, text: &str| format!(r#"{{"role":"{role}","content":"{text}"}}"#);
    let list = [turn("user", "the"), turn("assistant", "in"), turn("user", "a"), turn("assistant", "of it")].join(",");
    let row = std::ffi::CString::new(format!("{{\"messages\":[{list}]}}")).unwrap();
    let rows = [row.as_ptr(), row.as_ptr()];
    let make = |params: &llama_align_dataset_params| {
        let (mut out, mut err) = (null_mut(), error());
        // SAFETY: two strings; the struct is complete.
        let status =
            unsafe { llama_align_dataset_from_json(world.model, rows.as_ptr(), 2, params, &mut out, &mut err) };
        if status < 0 {
            return Err((status, message(&err)));
        }
        // SAFETY: any bytes are a value; the size is that of the struct.
        let mut info: llama_align_dataset_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of_val(&info) as u32;
        // SAFETY: a live dataset.
        assert_eq!(unsafe { llama_align_dataset_describe(out, &mut info, null_mut()) }, LLAMA_ALIGN_OK);
        llama_align_dataset_free(out);
        Ok(info)
    };
    let sft = dataset_params(LLAMA_ALIGN_METHOD_SFT);
    let scored = |loss_mask| make(&llama_align_dataset_params { loss_mask, ..sft }).unwrap().n_answer_tokens;
    let [completion, assistant, all] =
        [LLAMA_ALIGN_LOSS_MASK_COMPLETION, LLAMA_ALIGN_LOSS_MASK_ASSISTANT, LLAMA_ALIGN_LOSS_MASK_ALL].map(scored);
    assert!(completion < assistant && assistant < all, "{completion} {assistant} {all}");
    let long = llama_align_dataset_params { max_length: 20, loss_mask: LLAMA_ALIGN_LOSS_MASK_ALL, ..sft };
    let cut = make(&llama_align_dataset_params { too_long: LLAMA_ALIGN_TOO_LONG_TRUNCATE, ..long }).unwrap();
    assert_eq!((cut.n_rows, cut.n_truncated, cut.n_answer_tokens), (2, 2, 38));
    let refused = make(&llama_align_dataset_params { too_long: LLAMA_ALIGN_TOO_LONG_ERROR, ..long }).unwrap_err();
    assert!(refused.0 == LLAMA_ALIGN_ERR_DATA && refused.1.contains("rows:1: the row has"), "{refused:?}");
    let pairs = llama_align_dataset_params { loss_mask: 7, ..sft };
    assert!(make(&pairs).unwrap_err().1.contains("loss_mask: 7"));
}

#[test]
fn rows_from_memory_are_those_of_a_file() {
    let world = World::new();
    let describe = |dataset: *mut llama_align_dataset| {
        // SAFETY: any bytes are a value; the size is that of the struct.
        unsafe {
            let mut info: llama_align_dataset_info = std::mem::zeroed();
            info.struct_size = size_of_val(&info) as u32;
            assert_eq!(llama_align_dataset_describe(dataset, &mut info, null_mut()), LLAMA_ALIGN_OK);
            let mut n = 0;
            assert_eq!(llama_align_dataset_count(dataset, &mut n, null_mut()), LLAMA_ALIGN_OK);
            assert_eq!(n, info.n_rows);
            llama_align_dataset_free(dataset);
            [info.n_rows, info.n_dropped, info.n_tokens, info.n_answer_tokens, info.n_longest]
        }
    };
    for method in [LLAMA_ALIGN_METHOD_NONE, LLAMA_ALIGN_METHOD_SFT, LLAMA_ALIGN_METHOD_DPO, LLAMA_ALIGN_METHOD_KTO] {
        assert_eq!(describe(world.pairs(method)), describe(opened(&world, method)), "method {method}");
    }
    let (prompts, completions) = (Texts::column(0), Texts::column(1));
    let (p, c, n) = (prompts.pointers.as_ptr(), completions.pointers.as_ptr(), PAIRS.len());
    // SAFETY: the columns have `n` strings.
    let sft = made(|out, err| unsafe { llama_align_dataset_from_completions(world.model, p, c, n, null(), out, err) });
    assert_eq!(describe(sft), describe(opened(&world, LLAMA_ALIGN_METHOD_SFT)));
    let labels = [1u8, 0, 1, 1, 0, 1];
    let kept = |method| {
        let params = dataset_params(method);
        let l = labels.as_ptr();
        // SAFETY: as above.
        describe(made(|out, err| unsafe {
            llama_align_dataset_from_labelled(world.model, p, c, l, n, &params, out, err)
        }))[0]
    };
    assert_eq!((kept(LLAMA_ALIGN_METHOD_KTO), kept(LLAMA_ALIGN_METHOD_SFT)), (6, 4));
    let mut err = error();
    let (mut out, params) = (null_mut(), dataset_params(LLAMA_ALIGN_METHOD_DPO));
    // SAFETY: as above.
    let status = unsafe { llama_align_dataset_from_completions(world.model, p, c, n, &params, &mut out, &mut err) };
    assert!(status == LLAMA_ALIGN_ERR_DATA && message(&err).contains("preference pairs"), "{}", message(&err));
}

#[test]
fn handles_are_freed_in_any_order() {
    let mut orders = vec![];
    for a in 0..4 {
        for b in (0..4).filter(|&b| b != a) {
            for c in (0..4).filter(|&c| c != a && c != b) {
                orders.push([a, b, c, 6 - a - b - c]);
            }
        }
    }
    assert_eq!(orders.len(), 24);
    for order in orders {
        let world = World::new();
        for (i, which) in order.into_iter().enumerate() {
            match which {
                0 => llama_align_model_free(world.model),
                1 => llama_align_dataset_free(world.dataset),
                2 => llama_align_adapter_free(world.adapter),
                _ => llama_align_trainer_free(world.trainer),
            }
            if !order[..=i].contains(&3) {
                // SAFETY: a live trainer.
                let status = unsafe { llama_align_trainer_step(world.trainer, null_mut(), null_mut()) };
                assert!([LLAMA_ALIGN_OK, LLAMA_ALIGN_MORE].contains(&status), "{order:?}");
            }
        }
    }
}

#[test]
fn a_check_an_evaluation_and_a_saved_adapter_agree() {
    let world = World::new();
    // SAFETY: structs have the size that they say; handles are live.
    unsafe {
        let mut check: llama_align_check_report = std::mem::zeroed();
        check.struct_size = size_of_val(&check) as u32;
        assert_eq!(llama_align_model_check(world.model, null(), &mut check, null_mut()), LLAMA_ALIGN_OK);
        assert!(check.max_abs_diff == 0.0 && check.max_rel_diff <= check.bound && check.n_trainable > 0);
        let mut info: llama_align_model_info = std::mem::zeroed();
        info.struct_size = size_of_val(&info) as u32;
        assert_eq!(llama_align_model_describe(world.model, &mut info, null_mut()), LLAMA_ALIGN_OK);
        assert_eq!((CStr::from_ptr(info.architecture.as_ptr()), info.n_vocab), (c"llama", 288));

        let evaluate = |adapter| {
            let mut out: llama_align_evaluation = std::mem::zeroed();
            out.struct_size = size_of_val(&out) as u32;
            let mut err = error();
            let status = llama_align_evaluate(world.dataset, adapter, null(), &mut out, &mut err);
            assert_eq!(status, LLAMA_ALIGN_OK, "{}", message(&err));
            out
        };
        let base = evaluate(null());
        assert!(base.n_pairs == 6 && base.reward_margin.is_nan() && base.has_adapter == 0 && base.nll > 0.0);
        let fresh = evaluate(world.adapter);
        assert_eq!((fresh.reward_margin, fresh.nll), (0.0, base.nll), "a fresh adapter changes something");
        let params = llama_align_trainer_params { max_steps: 12, ..trainer_params() };
        let trainer = world.trainer(world.adapter, world.dataset, &params);
        assert_eq!(run(trainer), LLAMA_ALIGN_OK);
        llama_align_trainer_free(trainer);
        let after = evaluate(world.adapter);
        assert!(after.reward_margin > 0.0 && after.has_adapter == 1, "{after:?}");

        let path = world.path("saved.gguf");
        assert_eq!(llama_align_adapter_save(world.adapter, path.as_ptr(), null_mut()), LLAMA_ALIGN_OK);
        let bytes = World::bytes(world.adapter);
        assert!(std::fs::read(world.file("saved.gguf")).unwrap() == bytes, "the file is not what is in memory");
        let loaded = made(|out, err| llama_align_adapter_load(world.model, path.as_ptr(), out, err));
        // A loaded adapter has its factors in the order of their names.
        assert_eq!(World::bytes(loaded).len(), bytes.len());
        assert_eq!((evaluate(loaded).reward_margin, evaluate(loaded).nll), (after.reward_margin, after.nll));
        llama_align_adapter_free(loaded);
    }
}

#[test]
fn ratios_between_a_model_and_its_adapter_are_those_of_rust() {
    let world = World::new();
    let params = llama_align_trainer_params { max_steps: 12, ..trainer_params() };
    // SAFETY: structs have the size that they say; handles are live; there are two blocks.
    unsafe {
        let trainer = world.trainer(world.adapter, world.dataset, &params);
        assert_eq!(run(trainer), LLAMA_ALIGN_OK);
        llama_align_trainer_free(trainer);
        let (mut ratios, mut err) = ([0.0f64; 2], error());
        let mut report: llama_align_hma_report = std::mem::zeroed();
        report.struct_size = size_of_val(&report) as u32;
        let params = super::world::hma_params();
        let (rows, adapter) = (world.dataset, world.adapter);
        let status = llama_align_hma(rows, adapter, null(), &params, ratios.as_mut_ptr(), 2, &mut report, &mut err);
        assert_eq!(status, LLAMA_ALIGN_OK, "{}", message(&err));
        assert!((ratios[0] + ratios[1] - 0.4).abs() < 1e-12 && ratios[0] != ratios[1], "{ratios:?}");
        assert!(report.nll <= report.nll_uniform && report.nll_after < report.nll_before, "{report:?}");
        assert_eq!((report.n_groups, report.n_responses), (2, 6));
        // The scaled adapter is what was measured.
        let scales = ratios.map(|r| 1.0 - r);
        let scaled = made(|out, err| llama_align_adapter_scale_blocks(adapter, scales.as_ptr(), 2, out, err));
        let mut told: llama_align_evaluation = std::mem::zeroed();
        told.struct_size = size_of_val(&told) as u32;
        assert_eq!(llama_align_evaluate(rows, scaled, null(), &mut told, null_mut()), LLAMA_ALIGN_OK);
        assert!((told.nll - report.nll).abs() < 2e-2 * report.nll, "{} and {}", told.nll, report.nll);
        llama_align_adapter_free(scaled);
        // Neither and both are refused.
        for (adapter, after) in [(null_mut(), null_mut()), (world.adapter, world.model)] {
            let status = llama_align_hma(rows, adapter, after, &params, ratios.as_mut_ptr(), 2, null_mut(), &mut err);
            assert_eq!(status, LLAMA_ALIGN_ERR_ARGUMENT);
            assert!(message(&err).contains("exactly one"), "{}", message(&err));
        }
        // Two models.
        world.write_tuned();
        let path = world.path("tuned.gguf");
        let tuned = made(|out, err| llama_align_model_open(path.as_ptr(), out, err));
        let status = llama_align_hma(rows, null(), tuned, &params, ratios.as_mut_ptr(), 2, &mut report, &mut err);
        assert_eq!(status, LLAMA_ALIGN_OK, "{}", message(&err));
        assert!((ratios[0] + ratios[1] - 0.4).abs() < 1e-12 && report.nll <= report.nll_uniform);
        llama_align_model_free(tuned);
    }
}

#[test]
fn what_does_not_belong_together_is_a_mismatch() {
    let (world, other) = (World::new(), World::new());
    let (mut err, mut out) = (error(), null_mut());
    // SAFETY: live handles.
    unsafe {
        let params = trainer_params();
        let status = llama_align_trainer_new(world.adapter, other.dataset, &params, &mut out, &mut err);
        assert!(status == LLAMA_ALIGN_ERR_MISMATCH && message(&err).contains("model handles"), "{}", message(&err));
        let sft = llama_align_trainer_params { method: LLAMA_ALIGN_METHOD_SFT, ..params };
        let status = llama_align_trainer_new(world.adapter, world.dataset, &sft, &mut out, &mut err);
        assert!(status == LLAMA_ALIGN_ERR_MISMATCH && message(&err).contains("does not suit"), "{}", message(&err));
        // A refusal leaves the adapter free for a trainer.
        llama_align_trainer_free(world.trainer(world.adapter, world.dataset, &params));
    }
    assert!(out.is_null());
}

#[test]
fn versions_and_names_are_what_the_crate_says() {
    // SAFETY: static strings.
    let text = |ptr| unsafe { CStr::from_ptr(ptr) }.to_str().unwrap().to_owned();
    assert_eq!(text(llama_align_version()), env!("CARGO_PKG_VERSION"));
    assert_eq!(llama_align_abi(), LLAMA_ALIGN_ABI);
    let names: std::collections::BTreeSet<_> = (-14..=2).map(|s| text(llama_align_status_name(s))).collect();
    assert!(names.len() == 17 && !names.contains("unknown"), "{names:?}");
    assert_eq!(
        (text(llama_align_status_name(3)), text(llama_align_status_name(-15))),
        ("unknown".into(), "unknown".into())
    );
}
