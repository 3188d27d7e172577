use super::*;
use crate::loss::PreferenceLoss;
use crate::train::TrainOverrides;

#[test]
fn what_is_written_is_read_again() {
    let config = TrainConfig { lora_rank: 4, ..TrainConfig::default() }.resolve().unwrap();
    assert_eq!(TrainConfig::from_toml(&config.to_toml().unwrap(), "x").unwrap(), config);
    assert_eq!(config.learning_rate, Method::Dpo.learning_rate(config.delta));
}

#[test]
fn a_loss_brings_its_own_beta_and_says_whether_it_has_a_reference() {
    let config = |loss: &str| TrainConfig { loss_type: loss.into(), ..TrainConfig::default() }.resolve();
    assert_eq!((config("sigmoid").unwrap().beta, config("simpo").unwrap().beta), (0.1, 2.0));
    assert!(config("IPO").unwrap().has_reference().unwrap() && !config("orpo").unwrap().has_reference().unwrap());
    let kto = TrainConfig { method: Method::Kto, loss_type: "ipo".into(), ..TrainConfig::default() };
    assert!(kto.resolve().unwrap_err().to_string().contains("method dpo"));
    assert!(config("sigmoids").unwrap_err().to_string().contains("apo_zero"));
}

#[test]
fn unknown_keys_and_wild_values_are_refused_by_name() {
    let error = TrainConfig::from_toml("beta = 0.2\nbatchsize = 3\n", "run.toml").unwrap_err().to_string();
    assert!(error.contains("run.toml") && error.contains("batchsize") && error.contains('2'), "{error}");
    let config = TrainConfig { beta: f64::NAN, ..TrainConfig::default() };
    assert!(config.resolve().unwrap_err().to_string().contains("beta"));
    let flags = TrainOverrides { method: Some("rlhf".into()), ..TrainOverrides::default() };
    assert!(TrainConfig::default().apply(flags).is_err());
}

#[test]
fn insides_are_kept_where_they_take_a_quarter_of_what_is_free_at_most() {
    assert_eq!(Recompute::Auto.resolve(25, 100), Recompute::Never);
    assert_eq!(Recompute::Auto.resolve(26, 100), Recompute::Always);
    assert_eq!(Recompute::Never.resolve(1000, 100), Recompute::Never);
    assert!(Recompute::from_name("sometimes").is_err() && Precision::from_name("f16").is_err());
    assert!(Precision::Auto.resolve() != Precision::Auto);
}

#[test]
fn flags_of_losses_are_taken_and_those_a_loss_has_no_use_for_refused() {
    let apply = |loss: &str, flags: TrainOverrides| {
        let mut config = TrainConfig::default();
        config.apply(TrainOverrides { loss_type: Some(loss.into()), ..flags }).map_err(|e| e.to_string())?;
        config.mixture().map(|mixture| mixture.parts[0].1).map_err(|e| e.to_string())
    };
    let smooth = || TrainOverrides { label_smoothing: Some(0.2), ..TrainOverrides::default() };
    let gamma = || TrainOverrides { simpo_gamma: Some(0.5), ..TrainOverrides::default() };
    let sft = TrainOverrides { sft_weight: Some(0.7), beta: Some(0.3), ..TrainOverrides::default() };
    let robust = apply("robust", smooth()).unwrap();
    assert_eq!((robust.loss, robust.label_smoothing), (PreferenceLoss::Robust, 0.2));
    let simpo = apply("simpo", gamma()).unwrap();
    assert_eq!((simpo.loss, simpo.gamma), (PreferenceLoss::Simpo, 0.5));
    let ipo = apply("ipo", sft).unwrap();
    assert_eq!((ipo.loss, ipo.sft_weight, ipo.beta), (PreferenceLoss::Ipo, 0.7, 0.3));
    assert!(apply("sigmoid", smooth()).unwrap_err().contains("label-smoothing"));
    assert!(apply("ipo", gamma()).unwrap_err().contains("simpo-gamma"));
}

#[test]
fn flags_win_over_the_file() {
    let mut config = TrainConfig::from_toml("max_steps = 5\nlora_rank = 2", "x").unwrap();
    config.apply(TrainOverrides { epochs: Some(2.0), lora_rank: Some(8), ..TrainOverrides::default() }).unwrap();
    assert_eq!((config.lora_rank, config.n_steps(100)), (8, 26));
}

#[test]
fn steps_of_warm_up_stand_before_a_share_of_the_run() {
    let config = |ratio, steps| TrainConfig { warmup_ratio: ratio, warmup_steps: steps, ..TrainConfig::default() };
    assert_eq!(config(0.1, 0).schedule(25).n_warmup, 3);
    assert_eq!(config(0.1, 7).schedule(25).n_warmup, 7);
    assert_eq!(config(0.0, 0).schedule(25).n_warmup, 0);
}

#[test]
fn held_out_rewards_are_those_of_the_loss() {
    let by = |loss: &str, method| {
        let config = TrainConfig { loss_type: loss.into(), method, ..TrainConfig::default() }.resolve().unwrap();
        config.rewards().unwrap().reward(-12.0, -10.0, 4)
    };
    let dpo = |loss| by(loss, Method::Dpo);
    let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
    assert!(close(dpo("sigmoid"), -0.2) && close(dpo("ipo,sft"), -0.2) && close(dpo("cpo"), -1.2));
    assert!(close(dpo("simpo"), -6.0) && close(dpo("orpo"), -0.3));
    assert!(close(by("sigmoid", Method::Kto), -0.2) && close(by("sigmoid", Method::Sft), -0.2));
}
