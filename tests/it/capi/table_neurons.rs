//! The functions about neurons and tokens that matter, and about changes of whole weights, as the misuse matrix has to know them.

use super::layouts::*;
use super::slots::{Function, Slot, Type};
use super::table::function;
use super::world::{error, message, World, PAIRS};
use llama_align::capi::*;
use std::ptr::null_mut;

pub(super) fn functions() -> Vec<Function> {
    use Slot::*;
    use Type as H;
    vec![
        function!(
            llama_align_neurons_params_init,
            [Init(NEURONS), InitSize(NEURONS), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_neurons,
            [Handle(H::Adapter), Params(NEURONS), Output("neurons.gguf"), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_adapter_new_shaped,
            [
                Handle(H::Model),
                OptionalText("attn_q"),
                OptionalText("0"),
                OptionalText("attn_q=4"),
                OptionalText("attn_q=8"),
                Params(ADAPTER),
                OutHandle,
                Error
            ],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _,
            a[5] as _,
            a[6] as _,
            a[7] as _
        ),
        function!(
            llama_align_adapter_save_change,
            [Whole, Output("saved.gguf"), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_load_change,
            [Whole, Input("change.gguf"), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_set_mask,
            [Handle(H::Adapter), Input("mask.gguf"), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_from_rows,
            [Handle(H::Model), OptionalText("attn_q"), Input("mask.gguf"), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_dataset_answer_tokens,
            [Handle(H::Dataset), Row, Answer, OutNumber, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_dataset_set_weights,
            [Handle(H::Dataset), Row, Answer, Weights, WeightCount, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4],
            a[5] as _
        ),
        function!(
            llama_align_weigh_params_init,
            [Init(WEIGH), InitSize(WEIGH), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_dataset_weigh,
            [Handle(H::Dataset), Handle(H::Adapter), Params(WEIGH), OptionalOutNumber, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_dataset_load_weights,
            [Handle(H::Dataset), Input("weights.jsonl"), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
    ]
}

/// Tokens of an answer of the world's rows.
pub(super) fn answer_tokens(dataset: *const llama_align_dataset, row: usize, answer: u32) -> usize {
    let (mut n, mut err) = (0, error());
    // SAFETY: a live dataset.
    let status = unsafe { llama_align_dataset_answer_tokens(dataset, row as u64, answer, &mut n, &mut err) };
    assert_eq!(status, LLAMA_ALIGN_OK, "{}", message(&err));
    n as usize
}

impl World {
    /// A mask of all rows, and weights for all tokens, half of them 0.
    pub(super) fn write_neurons(&self) {
        // SAFETY: any bytes are a value; `init` fills them in.
        let mut params: llama_align_neurons_params = unsafe { std::mem::zeroed() };
        let path = self.path("mask.gguf");
        // SAFETY: live handles, and a struct of that size.
        let status = unsafe {
            llama_align_neurons_params_init(&mut params, size_of_val(&params) as u32, null_mut());
            params.ratio = 1.0;
            llama_align_adapter_neurons(self.adapter, &params, path.as_ptr(), null_mut())
        };
        assert_eq!(status, LLAMA_ALIGN_OK);
        let weights = |row: usize, answer: u32| -> Vec<u32> {
            (0..answer_tokens(self.dataset, row, answer) as u32).map(|i| i % 2).collect()
        };
        let line = |row: usize| {
            serde_json::json!({ "line": row + 1, "chosen": weights(row, 0), "rejected": weights(row, 1) }).to_string()
        };
        let lines: Vec<String> = (0..PAIRS.len()).map(line).collect();
        std::fs::write(self.file("weights.jsonl"), lines.join("\n")).unwrap();
    }
}
