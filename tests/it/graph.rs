//! Values of a program as the engine computes them: one of its training forms, in one graph on one thread.

use crate::models::runtime;
use llama_align::engine::{input_bytes, Form, Inputs, Layout, Lowering, Scope};
use llama_align::ir::{Program, ValueId};
use llama_align::runtime::{Backend, GraphBuilder, Memory, WeightData};
use std::collections::HashMap;
use std::sync::Arc;

/// The outputs' values from the given ones, by kernels of ours.
pub(crate) fn run(
    program: &Program,
    weights: &[Option<WeightData>],
    layout: &Layout,
    given: &[(ValueId, Vec<f32>)],
    outputs: &[ValueId],
) -> Vec<Vec<f32>> {
    run_in(Form::Training, program, weights, layout, given, outputs)
}

/// The same in a form of choice; what is made of ggml's ops goes through its scheduler.
pub(crate) fn run_in(
    form: Form,
    program: &Program,
    weights: &[Option<WeightData>],
    layout: &Layout,
    given: &[(ValueId, Vec<f32>)],
    outputs: &[ValueId],
) -> Vec<Vec<f32>> {
    let (runtime, n_tokens) = (runtime(), layout.n_tokens());
    let elements = |id: &ValueId| program.get(*id).ne.iter().map(|n| n.at(n_tokens as i64) as usize).product::<usize>();
    let floats = given.iter().map(|(id, _)| id).chain(outputs).map(|id| 4 * elements(id));
    let bytes = Memory::bytes_for(floats) + input_bytes(program, form, layout);
    let mut memory = Memory::new(&runtime, bytes + 64).unwrap();
    let inputs = Inputs::place(program, form, &Arc::new(layout.clone()), &mut memory).unwrap();
    let mut regions = HashMap::new();
    for (id, values) in given {
        let region = memory.take(4 * elements(id)).unwrap();
        memory.floats_mut(region).copy_from_slice(values);
        regions.insert(*id, region);
    }
    let targets: Vec<_> = outputs.iter().map(|id| memory.take(4 * elements(id)).unwrap()).collect();
    let names = runtime.names();
    let scope = Scope { program, weights, names, form, inputs: &inputs, given: &regions, n_tokens, profile: None };
    let mut backend = match form {
        Form::TrainingOps => Backend::scheduled(&runtime, &[], 1).unwrap(),
        _ => Backend::new(&runtime, 1).unwrap(),
    };
    let builder = GraphBuilder::new(&mut backend, &mut memory, 32 * program.values.len() + 512).unwrap();
    let mut lowering = Lowering::new(scope, builder);
    for (&id, &region) in outputs.iter().zip(&targets) {
        lowering.output(id, region).unwrap();
    }
    lowering.finish().compute().unwrap();
    targets.iter().map(|&region| memory.floats(region).to_vec()).collect()
}
