use super::*;

fn plan(text: &str) -> Result<Allo> {
    Allo::from_toml(text, "f", &TrainOverrides::default(), &AlloOverrides::default())
}

#[test]
fn stages_have_the_papers_defaults() {
    let full = plan("delta = \"full\"").unwrap();
    assert_eq!(full.stages.each_ref().map(|s| s.method), [Method::Dpo, Method::Npo, Method::Dpo]);
    for (stage, rate) in full.stages.iter().zip([1e-6, 5e-7, 5e-6]) {
        assert!((stage.learning_rate / rate - 1.0).abs() < 1e-12 && stage.epochs == 1.0 && stage.beta == 0.1);
        assert_eq!((stage.max_grad_norm, stage.weight_decay, stage.delta), (1.0, 0.0, DeltaKind::Full));
    }
    assert_eq!(full.stages.each_ref().map(|s| s.warmup_ratio), [0.1, 0.03, 0.1]);
    assert_eq!(full.stages.each_ref().map(|s| s.rejected_share), [1.0, 1.0, 0.1]);
    assert_eq!((full.ratios(), full.granularity().unwrap()), ([0.025, 0.05], Granularity::Weight));
    let lora = plan("").unwrap();
    assert_eq!((lora.granularity().unwrap(), lora.stages[2].learning_rate), (Granularity::Row, 3e-4));
    assert!((lora.stages[1].learning_rate - 3e-5).abs() < 1e-12);
}

#[test]
fn the_top_holds_for_all_tables_for_one_and_flags_win() {
    let text = "learning_rate = 1e-3\nloss_type = \"ipo\"\nrejected_share = 0.3\nbatch_size = 2\nseed = 4\n\
        [allo]\nmask_ratio = 0.1\nforget_ratio = 0.02\ntokens_share = 0.2\n\
        [allo.warm_up]\nmax_steps = 7\n[allo.forgetting]\nlearning_rate = 2e-6\nwarmup_ratio = 0.5\nbeta = 0.3\n";
    let read = plan(text).unwrap();
    let [warm_up, forgetting, learning] = &read.stages;
    assert!((warm_up.learning_rate - 2e-4).abs() < 1e-12 && warm_up.max_steps == 7);
    assert_eq!((forgetting.learning_rate, forgetting.warmup_ratio, forgetting.beta), (2e-6, 0.5, 0.3));
    assert_eq!((learning.learning_rate, learning.rejected_share, learning.max_steps), (1e-3, 0.3, 0));
    assert_eq!((warm_up.loss_type.as_str(), learning.loss_type.as_str()), ("ipo", "ipo"));
    assert!(read.stages.iter().all(|s| s.batch_size == 2 && s.seed == 4));
    assert_eq!((read.ratios(), read.choice.tokens_share), ([0.02, 0.1], Some(0.2)));
    let flags = TrainOverrides { learning_rate: Some(1e-4), batch_size: Some(3), ..TrainOverrides::default() };
    let own = AlloOverrides { stage_steps: Some(vec![3, 2, 1]), tokens_below: Some(-0.5), ..AlloOverrides::default() };
    let over = Allo::from_toml(text, "f", &flags, &own).unwrap();
    assert_eq!(over.stages.each_ref().map(|s| s.max_steps), [3, 2, 1]);
    assert_eq!(
        (over.stages[2].learning_rate, over.stages[1].learning_rate, over.stages[0].batch_size),
        (1e-4, 2e-6, 3)
    );
    assert_eq!((over.choice.tokens_share, over.choice.tokens_below), (None, -0.5));
}

#[test]
fn a_plan_is_read_as_it_was_written() {
    let text = "learning_rate = 1e-3\nrejected_share = 0.3\nloss_type = \"ipo\"\nseed = 4\nmax_steps = 2\n[allo]\n\
        tokens_share = 0.2\n[allo.forgetting]\nbeta = 0.3\nmax_steps = 1\n[allo.warm_up]\nlora_rank = 4\nepochs = 2.0\nmax_steps = 0\n";
    for text in [text, "delta = \"full\"\n", ""] {
        let read = plan(text).unwrap();
        let written = read.to_toml().unwrap();
        assert_eq!(plan(&written).unwrap(), read, "{written}");
        assert_eq!(plan(&written).unwrap().to_toml().unwrap(), written);
    }
}

#[test]
fn what_the_stages_decide_and_what_means_nothing_is_refused() {
    for (text, says) in [
        ("mask = \"m.gguf\"", "mask"),
        ("[allo.learning]\nmask = \"m.gguf\"", "mask"),
        ("[allo.forgetting]\nmethod = \"dpo\"", "method"),
        ("token_weights = \"w.jsonl\"", "token-weights"),
        ("[allo]\nmask_ratio = 0.0", "mask-ratio"),
        ("[allo]\nmask_ratio = 0.1\nforget_ratio = 0.2", "forget-ratio"),
        ("[allo]\ntokens_share = 1.5", "tokens-share"),
        ("[allo]\ntokens_below = nan", "tokens-below"),
        ("[allo]\ngranularity = \"weight\"", "granularity"),
        ("[allo]\ngranularity = \"block\"", "granularity"),
        ("[allo]\nratio = 0.1", "ratio"),
        ("[allo.forgetting]\nloss_type = \"ipo\"", "loss-type"),
        ("[allo.warm_up]\nlernrate = 1", "lernrate"),
        ("[allo]\nwarm_up = 3", "warm_up"),
        ("[grid]\nseed = [0, 1]", "grid"),
        ("train_norms = true", "train-norms"),
        ("batchsize = 3", "batchsize"),
        ("desirable_weight = 1.0", "desirable-weight"),
    ] {
        let error = plan(text).unwrap_err();
        assert!(error.kind() == Kind::Argument && error.to_string().contains(says), "{text}: {error}");
    }
    let steps = |steps: &[usize]| AlloOverrides { stage_steps: Some(steps.to_vec()), ..AlloOverrides::default() };
    let two = Allo::from_toml("", "f", &TrainOverrides::default(), &steps(&[1, 2])).unwrap_err();
    assert!(two.to_string().contains("stage-steps"), "{two}");
}
