//! What the program can do, from C: tasks, columns, packs, dropout, PEFT's files.

use super::behaviour::run;
use super::world::{dataset_params, error, made, message, trainer_params, World};
use llama_align::adapter::{import, Linear, Lora, LoraShape};
use llama_align::capi::*;
use llama_align::check::checked_trace;
use llama_align::data::{Dataset, EncodeOptions};
use llama_align::engine::{Delta, Engine};
use llama_align::evaluate::{self, Subject, Task, TaskParams};
use llama_align::gguf::File;
use llama_align::runtime::{Model, Runtime};
use llama_align::train::{Method, Observer, Precision, StepReport, TrainConfig, Trainer};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ptr::{null, null_mut};

struct Silent;

impl Observer for Silent {
    fn on_step(&mut self, _: &StepReport) -> llama_align::error::Result<bool> {
        Ok(true)
    }
}

fn params() -> llama_align_task_params {
    // SAFETY: any bytes are a value.
    let mut params: llama_align_task_params = unsafe { std::mem::zeroed() };
    // SAFETY: the struct has that size.
    let status = unsafe { llama_align_task_params_init(&mut params, size_of_val(&params) as u32, null_mut()) };
    assert_eq!(status, LLAMA_ALIGN_OK);
    llama_align_task_params { n_threads: 1, ..params }
}

/// Metrics by name, or status and message.
fn task(
    world: &World,
    adapter: *const llama_align_adapter,
    number: u32,
    items: &str,
    params: &llama_align_task_params,
) -> Result<BTreeMap<String, f64>, (i32, String)> {
    // SAFETY: any bytes are a value.
    let mut report: llama_align_task_report = unsafe { std::mem::zeroed() };
    report.struct_size = size_of_val(&report) as u32;
    let (path, mut err) = (world.path(items), error());
    // SAFETY: live handles, a path, structs that say their sizes.
    let status =
        unsafe { llama_align_task_run(world.model, adapter, number, path.as_ptr(), params, &mut report, &mut err) };
    if status != LLAMA_ALIGN_OK {
        return Err((status, message(&err)));
    }
    let metrics = report.names.iter().zip(report.values).take(report.n_metrics as usize);
    // SAFETY: names are terminated.
    let text = |name: &[std::ffi::c_char; 24]| unsafe { CStr::from_ptr(name.as_ptr()) }.to_str().unwrap().to_owned();
    Ok(metrics.map(|(name, value)| (text(name), value)).collect())
}

/// An adapter that was trained, so that it says something.
fn trained(world: &World) -> *mut llama_align_adapter {
    let adapter = world.adapter();
    let trainer =
        world.trainer(adapter, world.dataset, &llama_align_trainer_params { learning_rate: 0.01, ..trainer_params() });
    assert_eq!(run(trainer), LLAMA_ALIGN_OK);
    llama_align_trainer_free(trainer);
    adapter
}

#[test]
fn tasks_give_what_they_give_in_rust() {
    let world = World::new();
    let adapter = trained(&world);
    let path = world.path("adapter.gguf");
    // SAFETY: a live adapter, a path.
    assert_eq!(unsafe { llama_align_adapter_save(adapter, path.as_ptr(), null_mut()) }, LLAMA_ALIGN_OK);
    let model = Model::open(&Runtime::linked().unwrap(), &world.file("model.gguf")).unwrap();
    let form = Precision::Auto.form();
    let (trace, _) = checked_trace(&model, 1, form).unwrap();
    let lora = import(&File::open(&world.file("adapter.gguf")).unwrap()).unwrap();
    let subject = |lora: Option<Lora>| {
        let deltas = lora.into_iter().map(|lora| Delta { lora, scale: 1.0, trainable: false }).collect();
        let engine = Engine::with_form(&model, &trace, deltas, 1, form).unwrap();
        Subject { model: model.clone(), engine: Some(engine), adapters: Vec::new(), n_threads: 1 }
    };
    for (number, kind) in
        [(LLAMA_ALIGN_TASK_PAIRS, Task::Pairs), (LLAMA_ALIGN_TASK_NLL, Task::Nll), (LLAMA_ALIGN_TASK_KL, Task::Kl)]
    {
        let own = TaskParams::default();
        let items = evaluate::load(kind, &world.file("rows.jsonl"), &model, &own).unwrap();
        let (mut now, mut base) = (subject(Some(lora.clone())), subject(None));
        let wanted = evaluate::run(kind, &items, &mut now, Some(&mut base), &own, &mut |_, _| {}).unwrap();
        let found = task(&world, adapter, number, "rows.jsonl", &params()).unwrap();
        let wanted: BTreeMap<String, f64> = wanted.metrics.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        assert_eq!(found, wanted, "{}", kind.name());
        if kind != Task::Kl {
            assert_ne!(task(&world, null(), number, "rows.jsonl", &params()).unwrap(), found);
        }
    }
    let choices =
        r#"[{"question": "Which?", "mc1_targets": {"this": 1, "that": 0}, "mc2_targets": {"this": 1, "that": 0}}]"#;
    std::fs::write(world.file("mc.json"), choices).unwrap();
    let found = task(&world, adapter, LLAMA_ALIGN_TASK_MC, "mc.json", &params()).unwrap();
    assert!(found.contains_key("mc1") && found.contains_key("mc2_norm"), "{found:?}");
    std::fs::write(world.file("gsm.jsonl"), "{\"question\": \"1 + 1?\", \"answer\": \"#### 2\"}\n").unwrap();
    let short = llama_align_task_params { n_predict: 4, ..params() };
    let found = task(&world, adapter, LLAMA_ALIGN_TASK_EXACT_MATCH, "gsm.jsonl", &short).unwrap();
    assert!(found.contains_key("exact_match"), "{found:?}");
    let refused = |adapter, number| task(&world, adapter, number, "rows.jsonl", &params()).unwrap_err();
    assert!(refused(null(), LLAMA_ALIGN_TASK_KL).1.contains("LLAMA_ALIGN_TASK_KL"));
    assert!(refused(adapter, 7).1.contains("LLAMA_ALIGN_TASK_"));
    let other = World::new();
    assert_eq!(refused(other.adapter, LLAMA_ALIGN_TASK_NLL).0, LLAMA_ALIGN_ERR_MISMATCH);
    llama_align_adapter_free(adapter);
}

#[test]
fn columns_are_found_by_other_names() {
    let world = World::new();
    let rows = std::fs::read_to_string(world.file("rows.jsonl")).unwrap();
    let renamed =
        rows.replace("\"prompt\"", "\"ask\"").replace("\"chosen\"", "\"yes\"").replace("\"rejected\"", "\"no\"");
    std::fs::write(world.file("other.jsonl"), renamed).unwrap();
    let (path, params) = (world.path("other.jsonl"), dataset_params(LLAMA_ALIGN_METHOD_DPO));
    let columns = c"prompt=ask,chosen=yes,rejected=no";
    // SAFETY: a live model, paths, texts.
    let dataset = made(|out, err| unsafe {
        llama_align_dataset_open_columns(world.model, path.as_ptr(), columns.as_ptr(), &params, out, err)
    });
    let train = |dataset| {
        let adapter = world.adapter();
        let trainer = world.trainer(adapter, dataset, &trainer_params());
        assert_eq!(run(trainer), LLAMA_ALIGN_OK);
        let bytes = World::bytes(adapter);
        llama_align_trainer_free(trainer);
        llama_align_adapter_free(adapter);
        bytes
    };
    assert!(train(dataset) == train(world.dataset));
    let (mut out, mut err) = (null_mut(), error());
    // SAFETY: as above.
    let status =
        unsafe { llama_align_dataset_open_columns(world.model, path.as_ptr(), null(), &params, &mut out, &mut err) };
    assert!(status == LLAMA_ALIGN_ERR_DATA && out.is_null(), "{status}: {}", message(&err));
    llama_align_dataset_free(dataset);
}

/// Packs, dropout and rsLoRA from C and from Rust: the same factors, bit for bit, and other ones than without.
#[test]
fn packs_dropout_and_rslora_are_the_same_run() {
    let world = World::new();
    let train = |flags: u32, trainer: llama_align_trainer_params| {
        let dataset = world.pairs(LLAMA_ALIGN_METHOD_SFT);
        // SAFETY: any bytes are a value.
        let mut of: llama_align_adapter_params = unsafe { std::mem::zeroed() };
        // SAFETY: the struct has that size.
        unsafe { llama_align_adapter_params_init(&mut of, size_of_val(&of) as u32, null_mut()) };
        of.flags = flags;
        // SAFETY: a live model.
        let adapter = made(|out, err| unsafe { llama_align_adapter_new(world.model, null(), &of, out, err) });
        let trainer = world.trainer(adapter, dataset, &trainer);
        assert_eq!(run(trainer), LLAMA_ALIGN_OK);
        let bytes = World::bytes(adapter);
        llama_align_trainer_free(trainer);
        llama_align_adapter_free(adapter);
        llama_align_dataset_free(dataset);
        import(&File::from_bytes(bytes, "adapter").unwrap()).unwrap()
    };
    let plain = llama_align_trainer_params { method: LLAMA_ALIGN_METHOD_SFT, max_steps: 2, ..trainer_params() };
    let all = llama_align_trainer_params { flags: LLAMA_ALIGN_TRAINER_PACKING, lora_dropout: 0.25, ..plain };
    let found = train(LLAMA_ALIGN_ADAPTER_RSLORA, all);

    let model = Model::open(&Runtime::linked().unwrap(), &world.file("model.gguf")).unwrap();
    let rows = llama_align::data::read_all(&world.file("rows.jsonl")).unwrap();
    let options = EncodeOptions { max_length: 512, ..EncodeOptions::default() };
    let rows = Method::Sft.rows(rows).unwrap();
    let data = Dataset::encode(&rows, model.as_ref(), model.template().unwrap().as_ref(), &options).unwrap();
    let config = TrainConfig {
        method: Method::Sft,
        threads: 1,
        batch_size: plain.batch_size as usize,
        learning_rate: plain.learning_rate,
        max_steps: 2,
        max_length: 512,
        packing: true,
        lora_dropout: 0.25,
        use_rslora: true,
        ..TrainConfig::default()
    };
    let (config, form) = (config.resolve().unwrap(), Precision::Auto.form());
    let (trace, _) = checked_trace(&model, 1, form).unwrap();
    let shape: LoraShape = config.shape();
    let lora = shape.init(&Linear::all(&trace), 0).unwrap();
    let delta = Delta { lora, scale: 1.0, trainable: true };
    let mut engine = Engine::with_dropout(&model, &trace, vec![delta], 1, form, 0.25).unwrap();
    Trainer::new(&config, &data, &mut engine, &mut Silent).unwrap().run(&mut engine, &mut Silent).unwrap();
    let wanted = engine.deltas().remove(0).lora;
    let sorted = |lora: &Lora| lora.factors.iter().map(|f| (f.weight.clone(), f.clone())).collect::<BTreeMap<_, _>>();
    assert_eq!((found.alpha, sorted(&found)), (wanted.alpha, sorted(&wanted)));
    assert_eq!(found.alpha, 32.0 * 4.0);
    for other in
        [train(0, all), train(LLAMA_ALIGN_ADAPTER_RSLORA, llama_align_trainer_params { lora_dropout: 0.0, ..all })]
    {
        assert_ne!(sorted(&other), sorted(&found));
    }
    // Packed, the rows are fewer than a step takes: each is in both steps, and not so without packs.
    let apart = llama_align_trainer_params { flags: 0, ..all };
    assert_ne!(sorted(&train(LLAMA_ALIGN_ADAPTER_RSLORA, apart)), sorted(&found));
}

#[test]
fn adapters_go_out_to_peft_and_come_back() {
    let world = World::new();
    let adapter = trained(&world);
    std::fs::create_dir(world.file("peft")).unwrap();
    let path = world.path("peft");
    // SAFETY: a live adapter, texts.
    let status = unsafe { llama_align_adapter_to_peft(adapter, path.as_ptr(), c"org/base".as_ptr(), null_mut()) };
    assert_eq!(status, LLAMA_ALIGN_OK);
    let config = std::fs::read_to_string(world.file("peft/adapter_config.json")).unwrap();
    assert!(config.contains("\"base_model_name_or_path\": \"org/base\""), "{config}");
    // SAFETY: a live model, a path.
    let back = made(|out, err| unsafe { llama_align_adapter_from_peft(world.model, path.as_ptr(), out, err) });
    let lora = |adapter| import(&File::from_bytes(World::bytes(adapter), "adapter").unwrap()).unwrap();
    assert_eq!(lora(back), lora(adapter));
    llama_align_adapter_free(back);
    llama_align_adapter_free(adapter);
}
