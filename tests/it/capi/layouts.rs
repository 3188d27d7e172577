//! The structs of the interface, as far as the misuse matrix has to know them.

use super::world::{hma_params, trainer_params};
use llama_align::capi::*;
use std::mem::offset_of;

/// A struct: its size, its fields of which few values are known, and its fields that may not be NaN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) bytes: usize,
    pub(super) choices: &'static [usize],
    pub(super) reals: &'static [usize],
    pub(super) singles: &'static [usize],
    /// Counts that may not be 0.
    pub(super) counts: &'static [usize],
    /// Writes the defaults.
    pub(super) init: fn(usize, u32) -> i32,
}

macro_rules! init {
    ($name:ident) => {
        // SAFETY: the block has room for every struct.
        |at, bytes| unsafe { $name(at as _, bytes, std::ptr::null_mut()) }
    };
}

const fn plain<T>() -> Layout {
    Layout { bytes: size_of::<T>(), choices: &[], reals: &[], singles: &[], counts: &[], init: |_, _| i32::MIN }
}

pub(super) const MODEL: Layout =
    Layout { init: init!(llama_align_model_params_init), ..plain::<llama_align_model_params>() };
pub(super) const CHECK: Layout = Layout {
    choices: &[offset_of!(llama_align_check_params, precision)],
    init: init!(llama_align_check_params_init),
    ..plain::<llama_align_check_params>()
};
pub(super) const DATASET: Layout = Layout {
    init: init!(llama_align_dataset_params_init),
    choices: &[
        offset_of!(llama_align_dataset_params, method),
        offset_of!(llama_align_dataset_params, max_length),
        offset_of!(llama_align_dataset_params, flags),
        offset_of!(llama_align_dataset_params, too_long),
        offset_of!(llama_align_dataset_params, loss_mask),
    ],
    ..plain::<llama_align_dataset_params>()
};
pub(super) const ADAPTER: Layout = Layout {
    init: init!(llama_align_adapter_params_init),
    choices: &[offset_of!(llama_align_adapter_params, flags), offset_of!(llama_align_adapter_params, rank)],
    singles: &[offset_of!(llama_align_adapter_params, alpha)],
    counts: &[offset_of!(llama_align_adapter_params, rank)],
    ..plain::<llama_align_adapter_params>()
};
pub(super) const TRAINER: Layout = Layout {
    init: |at, _| {
        // SAFETY: the block has room for every struct.
        unsafe { (at as *mut llama_align_trainer_params).write(trainer_params()) };
        LLAMA_ALIGN_OK
    },
    choices: &[
        offset_of!(llama_align_trainer_params, method),
        offset_of!(llama_align_trainer_params, schedule),
        offset_of!(llama_align_trainer_params, precision),
        offset_of!(llama_align_trainer_params, batch_size),
        offset_of!(llama_align_trainer_params, grad_accum),
        offset_of!(llama_align_trainer_params, micro_batch_tokens),
        offset_of!(llama_align_trainer_params, loss),
        offset_of!(llama_align_trainer_params, optim),
        offset_of!(llama_align_trainer_params, flags),
        offset_of!(llama_align_trainer_params, recompute),
    ],
    reals: &[
        offset_of!(llama_align_trainer_params, epochs),
        offset_of!(llama_align_trainer_params, learning_rate),
        offset_of!(llama_align_trainer_params, warmup_ratio),
        offset_of!(llama_align_trainer_params, min_lr),
        offset_of!(llama_align_trainer_params, loraplus_lr_ratio),
        offset_of!(llama_align_trainer_params, lora_dropout),
        offset_of!(llama_align_trainer_params, beta),
        offset_of!(llama_align_trainer_params, label_smoothing),
        offset_of!(llama_align_trainer_params, simpo_gamma),
        offset_of!(llama_align_trainer_params, cpo_alpha),
        offset_of!(llama_align_trainer_params, sft_weight),
        offset_of!(llama_align_trainer_params, desirable_weight),
        offset_of!(llama_align_trainer_params, undesirable_weight),
        offset_of!(llama_align_trainer_params, max_grad_norm),
        offset_of!(llama_align_trainer_params, weight_decay),
        offset_of!(llama_align_trainer_params, sgd_momentum),
        offset_of!(llama_align_trainer_params, adam_beta1),
        offset_of!(llama_align_trainer_params, adam_beta2),
        offset_of!(llama_align_trainer_params, adam_epsilon),
        offset_of!(llama_align_trainer_params, rejected_share),
        offset_of!(llama_align_trainer_params, loss_weights),
    ],
    counts: &[
        offset_of!(llama_align_trainer_params, method),
        offset_of!(llama_align_trainer_params, batch_size),
        offset_of!(llama_align_trainer_params, grad_accum),
        offset_of!(llama_align_trainer_params, micro_batch_tokens),
    ],
    ..plain::<llama_align_trainer_params>()
};
pub(super) const EVALUATE: Layout = Layout {
    init: init!(llama_align_evaluate_params_init),
    choices: &[
        offset_of!(llama_align_evaluate_params, precision),
        offset_of!(llama_align_evaluate_params, micro_batch_tokens),
    ],
    reals: &[offset_of!(llama_align_evaluate_params, beta)],
    counts: &[offset_of!(llama_align_evaluate_params, micro_batch_tokens)],
    ..plain::<llama_align_evaluate_params>()
};
pub(super) const TASK: Layout = Layout {
    init: init!(llama_align_task_params_init),
    choices: &[
        offset_of!(llama_align_task_params, precision),
        offset_of!(llama_align_task_params, flags),
        offset_of!(llama_align_task_params, max_length),
    ],
    ..plain::<llama_align_task_params>()
};
pub(super) const TASK_REPORT: Layout = plain::<llama_align_task_report>();
pub(super) const LIMIT: Layout = Layout {
    init: init!(llama_align_limit_params_init),
    choices: &[offset_of!(llama_align_limit_params, rank)],
    reals: &[offset_of!(llama_align_limit_params, energy)],
    counts: &[offset_of!(llama_align_limit_params, rank)],
    ..plain::<llama_align_limit_params>()
};
pub(super) const NEURONS: Layout = Layout {
    init: init!(llama_align_neurons_params_init),
    choices: &[
        offset_of!(llama_align_neurons_params, granularity),
        offset_of!(llama_align_neurons_params, flags),
        offset_of!(llama_align_neurons_params, reserved),
    ],
    reals: &[offset_of!(llama_align_neurons_params, ratio), offset_of!(llama_align_neurons_params, skip)],
    ..plain::<llama_align_neurons_params>()
};
pub(super) const WEIGH: Layout = Layout {
    init: init!(llama_align_weigh_params_init),
    choices: &[offset_of!(llama_align_weigh_params, precision), offset_of!(llama_align_weigh_params, reserved)],
    reals: &[offset_of!(llama_align_weigh_params, share)],
    ..plain::<llama_align_weigh_params>()
};
pub(super) const MERGE: Layout = Layout {
    init: init!(llama_align_merge_params_init),
    choices: &[offset_of!(llama_align_merge_params, flags), offset_of!(llama_align_merge_params, reserved)],
    reals: &[offset_of!(llama_align_merge_params, min_cosine), offset_of!(llama_align_merge_params, min_gain)],
    ..plain::<llama_align_merge_params>()
};
pub(super) const HMA: Layout = Layout {
    init: |at, _| {
        // SAFETY: the block has room for every struct.
        unsafe { (at as *mut llama_align_hma_params).write(hma_params()) };
        LLAMA_ALIGN_OK
    },
    choices: &[
        offset_of!(llama_align_hma_params, precision),
        offset_of!(llama_align_hma_params, micro_batch_tokens),
        offset_of!(llama_align_hma_params, solver),
        offset_of!(llama_align_hma_params, group_rule),
        offset_of!(llama_align_hma_params, n_groups),
        offset_of!(llama_align_hma_params, others),
        offset_of!(llama_align_hma_params, epochs),
        offset_of!(llama_align_hma_params, evaluations),
        offset_of!(llama_align_hma_params, reserved),
    ],
    reals: &[
        offset_of!(llama_align_hma_params, pre_weight),
        offset_of!(llama_align_hma_params, epsilon),
        offset_of!(llama_align_hma_params, learning_rate),
        offset_of!(llama_align_hma_params, rho),
    ],
    counts: &[offset_of!(llama_align_hma_params, micro_batch_tokens), offset_of!(llama_align_hma_params, evaluations)],
    ..plain::<llama_align_hma_params>()
};
pub(super) const HMA_REPORT: Layout = plain::<llama_align_hma_report>();
pub(super) const KEPT: Layout = plain::<llama_align_kept>();
pub(super) const MERGE_REPORT: Layout = plain::<llama_align_merge_report>();
pub(super) const RUNTIME_INFO: Layout = plain::<llama_align_runtime_info>();
pub(super) const DEVICE: Layout = plain::<llama_align_device>();
pub(super) const MODEL_INFO: Layout = plain::<llama_align_model_info>();
pub(super) const PLACEMENT: Layout = plain::<llama_align_placement>();
pub(super) const CHECK_REPORT: Layout = plain::<llama_align_check_report>();
pub(super) const DATASET_INFO: Layout = plain::<llama_align_dataset_info>();
pub(super) const PROGRESS: Layout = plain::<llama_align_progress>();
pub(super) const EVALUATION: Layout = plain::<llama_align_evaluation>();
