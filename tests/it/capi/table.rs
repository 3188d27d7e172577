//! Every function with a status, and what each of its arguments is: the misuse matrix is made from this.

use super::layouts::*;
use super::slots::{Function, Slot, Type};
use llama_align::capi::*;

macro_rules! function {
    ($name:ident, [$($slot:expr),+ $(,)?], |$a:ident| $($argument:expr),+) => {
        Function {
            name: stringify!($name),
            slots: vec![$($slot),+],
            // SAFETY: the matrix passes valid pointers, and nothing but what the function promises to refuse.
            call: |$a| unsafe { $name($($argument),+) },
        }
    };
}

pub(super) use function;

pub(super) fn functions() -> Vec<Function> {
    own().into_iter().chain(super::table_neurons::functions()).collect()
}

fn own() -> Vec<Function> {
    use Slot::*;
    use Type as H;
    vec![
        function!(llama_align_runtime_built_in, [OutHandle, Error], |a| a[0] as _, a[1] as _),
        function!(llama_align_runtime_from_host, [Host, OutHandle, Error], |a| a[0] as _, a[1] as _, a[2] as _),
        function!(llama_align_runtime_from_process, [OutHandle, Error], |a| a[0] as _, a[1] as _),
        function!(llama_align_runtime_from_library, [Library, OutHandle, Error], |a| a[0] as _, a[1] as _, a[2] as _),
        function!(
            llama_align_runtime_describe,
            [Handle(H::Runtime), OutStruct(RUNTIME_INFO), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_runtime_set_log,
            [Handle(H::Runtime), Any, Any, Error],
            |a| a[0] as _,
            None,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_runtime_device_count,
            [Handle(H::Runtime), OutNumber, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_runtime_device,
            [Handle(H::Runtime), Index, OutStruct(DEVICE), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_model_params_init,
            [Init(MODEL), InitSize(MODEL), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_model_open_on,
            [Handle(H::Runtime), Input("model.gguf"), OptionalText("none"), Params(MODEL), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _,
            a[5] as _
        ),
        function!(
            llama_align_model_open_with,
            [Handle(H::Runtime), Input("model.gguf"), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_model_attach,
            [Handle(H::Runtime), LlamaModel, OptionalInput("model.gguf"), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_model_placement,
            [Handle(H::Model), OutStruct(PLACEMENT), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_from_memory,
            [Handle(H::Model), Bytes("adapter.gguf"), FileBytes("adapter.gguf"), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2],
            a[3] as _,
            a[4] as _
        ),
        function!(llama_align_model_open, [Input("model.gguf"), OutHandle, Error], |a| a[0] as _, a[1] as _, a[2] as _),
        function!(
            llama_align_model_describe,
            [Handle(H::Model), OutStruct(MODEL_INFO), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_check_params_init,
            [Init(CHECK), InitSize(CHECK), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_model_check,
            [Handle(H::Model), Params(CHECK), OptionalOutStruct(CHECK_REPORT), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_dataset_params_init,
            [Init(DATASET), InitSize(DATASET), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_dataset_open,
            [Handle(H::Model), Input("rows.jsonl"), Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_dataset_from_json,
            [Handle(H::Model), Texts(3), Rows, Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2],
            a[3] as _,
            a[4] as _,
            a[5] as _
        ),
        function!(
            llama_align_dataset_from_completions,
            [Handle(H::Model), Texts(0), Texts(1), Rows, Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3],
            a[4] as _,
            a[5] as _,
            a[6] as _
        ),
        function!(
            llama_align_dataset_from_labelled,
            [Handle(H::Model), Texts(0), Texts(1), Labels, Rows, Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4],
            a[5] as _,
            a[6] as _,
            a[7] as _
        ),
        function!(
            llama_align_dataset_from_pairs,
            [Handle(H::Model), Texts(0), Texts(1), Texts(2), Rows, Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4],
            a[5] as _,
            a[6] as _,
            a[7] as _
        ),
        function!(
            llama_align_dataset_without,
            [Handle(H::Dataset), Ids, Number(2), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2],
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_dataset_count,
            [Handle(H::Dataset), OutNumber, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_dataset_describe,
            [Handle(H::Dataset), OutStruct(DATASET_INFO), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_params_init,
            [Init(ADAPTER), InitSize(ADAPTER), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_new,
            [Handle(H::Model), OptionalText("attn_q"), Params(ADAPTER), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_adapter_load,
            [Handle(H::Model), Input("adapter.gguf"), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_adapter_save,
            [Handle(H::Adapter), Output("saved.gguf"), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_to_memory,
            [Handle(H::Adapter), Buffer, BufferBytes, OutNumber, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2],
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_limit_params_init,
            [Init(LIMIT), InitSize(LIMIT), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_adapter_sum,
            [Adapters, Scales, Count, OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2],
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_adapter_truncate,
            [Handle(H::Adapter), Params(LIMIT), OptionalOutStruct(KEPT), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_adapter_extract,
            [
                Handle(H::Model),
                Input("tuned.gguf"),
                Params(LIMIT),
                Number(7),
                OptionalOutStruct(KEPT),
                OutHandle,
                Error
            ],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _,
            a[5] as _,
            a[6] as _
        ),
        function!(
            llama_align_merge_params_init,
            [Init(MERGE), InitSize(MERGE), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_merge_files,
            [
                Recipe("model.gguf", "tuned.gguf"),
                Number(7),
                OptionalText("keep"),
                Params(MERGE),
                NewFile("merged.gguf"),
                OptionalOutput("merged.json", "merged.gguf"),
                OptionalOutStruct(MERGE_REPORT),
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
            llama_align_fold_files,
            [
                Input("model.gguf"),
                Inputs("adapter.gguf"),
                Scales,
                Count,
                OptionalText("Q8_0"),
                Params(MERGE),
                NewFile("folded.gguf"),
                OptionalOutput("folded.json", "folded.gguf"),
                OptionalOutStruct(MERGE_REPORT),
                Error
            ],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3],
            a[4] as _,
            a[5] as _,
            a[6] as _,
            a[7] as _,
            a[8] as _,
            a[9] as _
        ),
        function!(llama_align_hma_params_init, [Init(HMA), InitSize(HMA), Error], |a| a[0] as _, a[1] as _, a[2] as _),
        function!(
            llama_align_hma,
            [
                Handle(H::Dataset),
                OptionalHandle(H::Adapter),
                Absent(H::Model),
                Params(HMA),
                OutNumber,
                BlockCount,
                OptionalOutStruct(HMA_REPORT),
                Error
            ],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _,
            a[5],
            a[6] as _,
            a[7] as _
        ),
        function!(
            llama_align_adapter_scale_blocks,
            [Handle(H::Adapter), Blocks, BlockCount, OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2],
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_average_files,
            [
                Input("model.gguf"),
                Input("tuned.gguf"),
                Blocks,
                BlockCount,
                Choice,
                OptionalText("Q8_0"),
                Params(MERGE),
                NewFile("mean.gguf"),
                OptionalOutput("mean.json", "mean.gguf"),
                OptionalOutStruct(MERGE_REPORT),
                Error
            ],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3],
            a[4] as _,
            a[5] as _,
            a[6] as _,
            a[7] as _,
            a[8] as _,
            a[9] as _,
            a[10] as _
        ),
        function!(
            llama_align_trainer_params_init,
            [Init(TRAINER), InitSize(TRAINER), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_trainer_new,
            [Handle(H::Adapter), Handle(H::Dataset), Params(TRAINER), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_trainer_resume,
            [
                Handle(H::Adapter),
                Handle(H::Dataset),
                Params(TRAINER),
                Input("checkpoint.gguf"),
                Number(0),
                OutHandle,
                Error
            ],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _,
            a[5] as _,
            a[6] as _
        ),
        function!(
            llama_align_trainer_save,
            [Handle(H::Trainer), Output("saved.gguf"), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_trainer_step,
            [Handle(H::Trainer), OptionalOutStruct(PROGRESS), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_trainer_run_for,
            [Handle(H::Trainer), Number(0), Any, Any, Error],
            |a| a[0] as _,
            a[1] as _,
            None,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_trainer_run,
            [Handle(H::Trainer), Any, Any, Error],
            |a| a[0] as _,
            None,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_trainer_set_paused,
            [Handle(H::Trainer), Switch, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(llama_align_trainer_cancel, [Handle(H::Trainer), Error], |a| a[0] as _, a[1] as _),
        function!(
            llama_align_trainer_report,
            [Handle(H::Trainer), OutStruct(PROGRESS), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_evaluate_params_init,
            [Init(EVALUATE), InitSize(EVALUATE), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_evaluate,
            [Handle(H::Dataset), OptionalHandle(H::Adapter), Params(EVALUATE), OutStruct(EVALUATION), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _
        ),
        function!(
            llama_align_dataset_open_columns,
            [Handle(H::Model), Input("rows.jsonl"), OptionalText("chosen=chosen"), Params(DATASET), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _,
            a[5] as _
        ),
        function!(
            llama_align_adapter_from_peft,
            [Handle(H::Model), Input("peft"), OutHandle, Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_adapter_to_peft,
            [Handle(H::Adapter), OutputDirectory("peft"), OptionalName("org/base"), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _
        ),
        function!(
            llama_align_task_params_init,
            [Init(TASK), InitSize(TASK), Error],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _
        ),
        function!(
            llama_align_task_run,
            [
                Handle(H::Model),
                OptionalHandle(H::Adapter),
                Number(LLAMA_ALIGN_TASK_PAIRS as usize),
                Input("rows.jsonl"),
                Params(TASK),
                OutStruct(TASK_REPORT),
                Error
            ],
            |a| a[0] as _,
            a[1] as _,
            a[2] as _,
            a[3] as _,
            a[4] as _,
            a[5] as _,
            a[6] as _
        ),
        function!(llama_align_report_write, [Input("run"), Error], |a| a[0] as _, a[1] as _),
    ]
}
