//! Rows that move: their gradients are those of A in the oracle's program, where B is one-hot, and rows of a whole weight's.

use super::case::Case;
use super::seeded;
use crate::tiny::find;
use llama_align::adapter::{one_hot, Linear, RowChange};
use llama_align::engine::{Delta, Engine, Form};
use quant::Type;

/// Every third row, but none of some weights; random changes.
fn rows(case: &Case) -> Vec<RowChange> {
    let change = |(i, linear): (usize, &Linear)| {
        let mut random = crate::random::Random::of(&linear.name);
        let mut change = RowChange::zero(linear, (i % 3..linear.n_out).step_by(3).collect());
        change.values = random.vector(change.values.len(), 0.05);
        change
    };
    Linear::all(&case.trace).iter().enumerate().filter(|(i, _)| i % 5 != 4).map(change).collect()
}

fn distance(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let sum = |of: &dyn Fn(usize) -> f64| (0..wanted.len()).map(|i| of(i).powi(2)).sum::<f64>().sqrt();
    sum(&|i| f64::from(found[i]) - f64::from(wanted[i])) / sum(&|i| f64::from(wanted[i]))
}

#[test]
fn of_rows_are_the_oracles_and_rows_of_whole_weights() {
    for (model, ty, form, limit) in [
        ("llama-untied", Type::F32, Form::Training, super::ENGINE),
        ("gemma2", Type::F32, Form::Training, super::ENGINE),
        ("qwen3", Type::Q4_1, Form::Training, super::ENGINE),
        ("qwen3", Type::F32, Form::TrainingOps, super::ENGINE),
    ] {
        let mut case = Case::new(&find(model), ty);
        let rows = rows(&case);
        case.delta = Delta { lora: one_hot(&rows), scale: 1.0, trainable: true };
        let backward = case.backward();
        let oracle = &mut seeded(&case, &backward, false);
        let mut engine = Engine::with_rows(&case.opened.model, &case.trace, &rows, 1, form).unwrap();
        engine.forward(&case.batch()).unwrap();
        engine.zero_gradients();
        engine.backward(&case.weights).unwrap();
        let moving = engine.trainable();
        assert_eq!(moving.len(), rows.len());
        // Parameters are as many as the rows' numbers.
        let numbers: usize = moving.iter().map(|&i| engine.parameter_info(i).1).sum();
        assert_eq!(numbers, rows.iter().map(|r| r.rows.len() * r.n_in).sum::<usize>());
        let changes = rows.iter().map(RowChange::to_change).collect();
        let (trace, model_of) = (&case.trace, &case.opened.model);
        let mut whole = Engine::with_changes(model_of, trace, Vec::new(), changes, 1, Form::Training).unwrap();
        whole.forward(&case.batch()).unwrap();
        whole.zero_gradients();
        whole.backward(&case.weights).unwrap();
        for (k, (&i, rows)) in moving.iter().zip(&rows).enumerate() {
            let (name, gradient) = (engine.parameter_info(i).0.to_owned(), engine.gradient(i));
            let error = oracle.value(backward.gradients[i]).distance(gradient);
            assert!(error <= limit, "{model} {} {form:?} {name}: {error:e}", ty.name());
            let of = |row: &usize| whole.gradient(k)[row * rows.n_in..][..rows.n_in].to_vec();
            let error = distance(gradient, &rows.rows.iter().flat_map(of).collect::<Vec<_>>());
            assert!(error <= limit, "{model} {} {form:?} {name} of the whole: {error:e}", ty.name());
        }
    }
}
