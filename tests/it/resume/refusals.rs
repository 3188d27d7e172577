//! What is not the same run, or no longer a checkpoint, is refused by name.

use super::{damage, Workshop};
use crate::tiny;
use quant::Type;

const FLAGS: [&str; 14] = [
    "-t",
    "1",
    "--lora-rank",
    "2",
    "--batch-size",
    "2",
    "--grad-accum",
    "1",
    "--epochs",
    "2",
    "--save-steps",
    "3",
    "--save-total-limit",
    "0",
];

/// A run of twelve steps with all its checkpoints and without its result.
fn interrupted() -> Workshop {
    let shop = Workshop::new(12);
    shop.finish("run", &FLAGS);
    for result in ["adapter.gguf", "run.json"] {
        std::fs::remove_file(shop.path("run").join(result)).unwrap();
    }
    shop
}

#[test]
fn another_plan_configuration_model_or_data_is_refused_by_name() {
    let shop = interrupted();
    let auto = |more: &[&'static str]| [&["--resume", "auto"], more].concat();
    for (flags, says) in [
        (&["-t", "2"][..], &["threads is 2, the run was begun with 1", "--resume-inexact"][..]),
        (&["--precision", "f32"], &["precision"]),
        (&["--recompute", "always"], &["recompute", "always"]),
        (&["--learning-rate", "0.5"], &["learning-rate is 0.5"]),
        (&["--loss-type", "ipo"], &["loss-type", "ipo", "sigmoid"]),
        (&["--epochs", "3"], &["epochs"]),
        (&["--seed", "1"], &["seed"]),
        (&["--lora-rank", "4"], &["lora-rank"]),
        (&["--eval-data", "held-out.jsonl"], &["--eval-data", "none"]),
    ] {
        // On a machine without fast BF16 F32 is what the run has.
        if flags == ["--precision", "f32"] && !llama_align::kernel::has_fast_bf16() {
            continue;
        }
        shop.refused("run", &auto(flags), 78, &[&["checkpoint: "], says].concat());
    }
    shop.refused("run", &auto(&["--overwrite"]), 2, &["--overwrite"]);
    shop.refused("run", &["--resume-inexact"], 2, &["--resume"]);
    shop.refused("run", &["--resume", "run/checkpoint-7.gguf"], 66, &["checkpoint-7.gguf"]);
    shop.refused("run", &["--resume", "rows.jsonl"], 2, &["no checkpoint of the run"]);
    shop.refused("run", &["--resume", "run/metrics.jsonl"], 65, &["metrics.jsonl"]);
    shop.refused("run", &[], 73, &["--overwrite", "--resume"]);
    // Other rows, then another model, under the old names.
    std::fs::write(shop.path("rows.jsonl"), super::rows(13)).unwrap();
    shop.refused("run", &auto(&[]), 78, &["--data"]);
    std::fs::write(shop.path("rows.jsonl"), super::rows(12)).unwrap();
    tiny::find("llama-tied").write(&shop.path("m.gguf"), Type::Q4_0).unwrap();
    shop.refused("run", &auto(&[]), 78, &["model"]);
}

/// The inexact way goes on, with other bits; where it is not needed the bits are the same.
#[test]
fn another_plan_is_possible_where_it_is_asked_for() {
    let shop = interrupted();
    shop.finish("whole", &FLAGS);
    let from = |more: &[&'static str]| [&["--resume", "run/checkpoint-6.gguf", "--resume-inexact"], more].concat();
    shop.finish("run", &from(&["--recompute", "always"]));
    // All but the checkpoint's own record of the plan.
    for name in ["adapter.gguf", "metrics.jsonl"] {
        assert!(shop.files("run")[name] == shop.files("whole")[name], "recomputing changes {name}");
    }
    shop.finish("run", &from(&["-t", "2"]));
    assert_eq!(shop.files("run")["metrics.jsonl"].len(), shop.files("whole")["metrics.jsonl"].len());
}

#[test]
fn a_damaged_checkpoint_is_found_and_the_one_before_it_taken() {
    let shop = interrupted();
    shop.finish("whole", &FLAGS);
    damage(&shop.path("run/checkpoint-9.gguf"));
    let torn = std::fs::read(shop.path("run/checkpoint-6.gguf")).unwrap();
    std::fs::write(shop.path("run/checkpoint-6.gguf"), &torn[..torn.len() / 2]).unwrap();
    // What a killed process left.
    std::fs::write(shop.path("run/.abc.part"), "half").unwrap();
    shop.refused("run", &["--resume", "run/checkpoint-9.gguf"], 65, &["checkpoint-9.gguf", "damaged"]);
    shop.refused("run", &["--resume", "run/checkpoint-6.gguf"], 65, &["checkpoint-6.gguf"]);
    let ended = shop.run("run", &["--resume", "auto"]);
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    for text in ["checkpoint-9.gguf", "checkpoint-6.gguf", "checkpoint-3.gguf: the run goes on after step 3"] {
        assert!(ended.err.contains(text), "{}", ended.err);
    }
    shop.assert_same("whole", "run", "after damage");
    for result in ["run.json", "checkpoint-9.gguf", "checkpoint-6.gguf"] {
        std::fs::remove_file(shop.path("run").join(result)).unwrap();
    }
    damage(&shop.path("run/checkpoint-3.gguf"));
    shop.refused("run", &["--resume", "auto"], 65, &["no checkpoint can be read", "checkpoint-3.gguf", "damaged"]);
}

#[test]
fn a_run_that_ended_is_not_begun_again() {
    let shop = Workshop::new(12);
    shop.finish("run", &FLAGS);
    let before = shop.files("run");
    shop.finish("run", &[&FLAGS[..], &["--resume", "auto"]].concat());
    shop.finish("run", &["--resume", "auto"]);
    assert!(shop.files("run") == before);
    shop.refused("run", &["--resume", "auto", "--epochs", "3"], 78, &["epochs"]);
    // Lines that the checkpoint counts on.
    std::fs::remove_file(shop.path("run/run.json")).unwrap();
    std::fs::write(shop.path("run/metrics.jsonl"), "{}\n").unwrap();
    shop.refused("run", &["--resume", "auto"], 78, &["metrics.jsonl", "has 1 lines"]);
}

/// Nothing of where and when gets into what a run leaves.
#[test]
fn runs_in_other_directories_leave_the_same_bytes() {
    let (one, two) = (Workshop::new(12), Workshop::new(12));
    let deep = "somewhere/else";
    one.finish("run", &[&FLAGS[..], &["--eval-data", "held-out.jsonl"]].concat());
    std::fs::rename(two.path("held-out.jsonl"), two.path("other-name.jsonl")).unwrap();
    two.finish(deep, &[&FLAGS[..], &["--eval-data", "other-name.jsonl"]].concat());
    let (mut a, mut b) = (one.files("run"), two.files(deep));
    assert_eq!(a.len(), 9, "{:?}", a.keys());
    // The page shows the configuration, and so the name that the user gave the held-out rows; nothing else differs.
    let shown = |files: &mut std::collections::BTreeMap<String, Vec<u8>>| {
        String::from_utf8(files.remove("report.html").unwrap()).unwrap()
    };
    assert_eq!(shown(&mut a), shown(&mut b).replace("other-name.jsonl", "held-out.jsonl"));
    assert!(a == b, "directories or clocks got into a file");
    let keeps_two = [&FLAGS[..12], &["--save-total-limit", "2"]].concat();
    one.finish("short", &keeps_two);
    let kept: Vec<_> = one.files("short").into_keys().filter(|name| name.starts_with("checkpoint-")).collect();
    assert_eq!(kept, ["checkpoint-6.gguf", "checkpoint-9.gguf"]);
}
