//! Every loss against TRL's own trainers: values and slopes (`tests/golden/losses.py`).

use llama_align::loss::{kl_baseline, kto, ExampleLogps, PairLogps, Preference, PreferenceLoss};
use serde_json::Value;

const GOLDEN: &str = include_str!("../golden/losses.json");
/// Relative, or absolute below 1: TRL takes ORPO's term in 32 bits, all else is 64.
const ROUNDED: f64 = 1e-6;
const EXACT: f64 = 1e-12;

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("{key} in {case}"))
}

fn near(found: f64, wanted: &Value, limit: f64, what: &str) {
    let wanted = wanted.as_f64().unwrap();
    assert!((found - wanted).abs() <= limit * wanted.abs().max(1.0), "{what}: {found}, TRL has {wanted}");
}

#[test]
fn on_pairs_have_the_values_and_slopes_of_trl() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let (constants, cases) = (&golden["constants"], &golden["cases"]);
    for (loss, name) in PreferenceLoss::ALL {
        let of_loss = cases[name].as_array().unwrap_or_else(|| panic!("no golden values of {name}"));
        assert!(of_loss.len() >= 12);
        for case in of_loss {
            let n = |key: &str| case[key].as_u64().unwrap() as usize;
            let pair = PairLogps {
                chosen: number(case, "chosen"),
                rejected: number(case, "rejected"),
                ref_chosen: number(case, "ref_chosen"),
                ref_rejected: number(case, "ref_rejected"),
                n_chosen: n("n_chosen"),
                n_rejected: n("n_rejected"),
            };
            let found = Preference {
                loss,
                beta: number(case, "beta"),
                label_smoothing: number(constants, "label_smoothing"),
                gamma: number(constants, "gamma"),
                cpo_alpha: 0.0,
                sft_weight: 0.0,
            }
            .of(&pair, 1);
            let (mut value, mut d_chosen, mut limit) = (found.loss, found.d_chosen, EXACT);
            if loss == PreferenceLoss::Orpo {
                // Without the likelihood, which TRL takes over the prompt as well.
                let tokens = pair.n_chosen as f64;
                (value, d_chosen, limit) = (value + pair.chosen / tokens, d_chosen + 1.0 / tokens, ROUNDED);
            }
            let what = format!("{name} {case}");
            near(value, &case["loss"], limit, &what);
            near(d_chosen, &case["slopes"][0], limit, &what);
            near(found.d_rejected, &case["slopes"][1], limit, &what);
        }
    }
}

#[test]
fn on_examples_have_the_values_and_slopes_of_trl() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let weights = [0, 1].map(|i| golden["constants"]["kto_weights"][i].as_f64().unwrap());
    let cases = golden["cases"]["kto"].as_array().unwrap();
    for desirable in [false, true] {
        assert!(cases.iter().any(|case| case["desirable"] == desirable));
    }
    for case in cases {
        let example = ExampleLogps {
            policy: number(case, "policy"),
            reference: number(case, "reference"),
            desirable: case["desirable"].as_bool().unwrap(),
        };
        let kl = kl_baseline(&[number(case, "mismatched") - number(case, "ref_mismatched")]);
        let found = kto(&example, kl, number(case, "beta"), weights, 1);
        near(found.loss, &case["loss"], EXACT, &case.to_string());
        near(found.d_policy, &case["slopes"][0], EXACT, &case.to_string());
    }
}
