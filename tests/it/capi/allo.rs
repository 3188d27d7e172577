//! ALLO from C: its stages, one call after another, leave what `train --method allo` leaves.

use super::behaviour::run;
use super::change::{fails, neurons_params, ok, program};
use super::world::{made, trainer_params, World};
use llama_align::capi::*;
use llama_align::mask::Mask;
use std::ffi::CString;
use std::ptr::{null, null_mut};

fn weigh_params() -> llama_align_weigh_params {
    // SAFETY: any bytes are a value; `init` fills them in.
    let mut params: llama_align_weigh_params = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the struct.
    ok(|err| unsafe { llama_align_weigh_params_init(&mut params, size_of_val(&params) as u32, err) });
    params
}

impl World {
    fn stage(
        &self,
        adapter: *mut llama_align_adapter,
        rows: *mut llama_align_dataset,
        params: &llama_align_trainer_params,
    ) {
        let trainer = self.trainer(adapter, rows, params);
        assert_eq!(run(trainer), LLAMA_ALIGN_OK);
        llama_align_trainer_free(trainer);
    }

    /// The stages with factors, held by rows; the adapter that they leave.
    fn allo(&self, weigh: &llama_align_weigh_params) -> *mut llama_align_adapter {
        let bad = self.pairs(LLAMA_ALIGN_METHOD_NPO);
        let (warm, policy) = (self.adapter(), self.adapter());
        let learning = llama_align_trainer_params { max_steps: 2, rejected_share: 0.3, ..trainer_params() };
        let warm_up = llama_align_trainer_params { max_steps: 2, learning_rate: 2e-4, rejected_share: 1.0, ..learning };
        let (method, warmup_ratio) = (LLAMA_ALIGN_METHOD_NPO, 0.03);
        let forgetting =
            llama_align_trainer_params { method, warmup_ratio, max_steps: 1, learning_rate: 1e-4, ..warm_up };
        self.stage(warm, self.dataset, &warm_up);
        self.save(warm, "warm.gguf");
        self.same("warm.gguf", "run/warm-up/adapter.gguf");
        let masks = [("forgetting.gguf", 0.1), ("learning.gguf", 0.2)].map(|(name, ratio)| {
            let (path, params) = (self.path(name), llama_align_neurons_params { ratio, ..neurons_params() });
            // SAFETY: a live adapter, a path.
            ok(|err| unsafe { llama_align_adapter_neurons(warm, &params, path.as_ptr(), err) });
            path
        });
        // SAFETY: live handles.
        ok(|err| unsafe { llama_align_dataset_weigh(bad, warm, weigh, null_mut(), err) });
        let held = |policy, mask: &CString| {
            // SAFETY: as above.
            ok(|err| unsafe { llama_align_adapter_set_mask(policy, mask.as_ptr(), err) });
        };
        held(policy, &masks[0]);
        self.stage(policy, bad, &forgetting);
        self.save(policy, "forgotten.gguf");
        self.same("forgotten.gguf", "run/forgetting/adapter.gguf");
        // As the program does: a file has its own order of weights, and sums over all of them depend on it in their last bits.
        let forgotten = self.path("forgotten.gguf");
        llama_align_adapter_free(policy);
        // SAFETY: a live model, a path.
        let policy = made(|out, err| unsafe { llama_align_adapter_load(self.model, forgotten.as_ptr(), out, err) });
        held(policy, &masks[1]);
        self.stage(policy, self.dataset, &learning);
        self.save(policy, "learned.gguf");
        self.same("learned.gguf", "run/adapter.gguf");
        llama_align_adapter_free(warm);
        llama_align_dataset_free(bad);
        policy
    }
}

#[test]
fn its_stages_are_the_programs_run_to_the_byte() {
    let world = World::new();
    let share = llama_align_weigh_params { share: 0.4, ..weigh_params() };
    let below = llama_align_weigh_params { below: -1e-4, ..weigh_params() };
    for (choice, weigh) in [(["--tokens-share", "0.4"], share), (["--tokens-below", "-0.0001"], below)] {
        let run =
            ["train", "-m", "model.gguf", "-d", "rows.jsonl", "-o", "run", "--overwrite", "-t", "1", "--samples", "0"];
        let stages = ["--method", "allo", "--stage-steps", "2,1,2", "--learning-rate", "1e-3", "--batch-size", "2"];
        let shares = ["--mask-ratio", "0.2", "--forget-ratio", "0.1", "--rejected-share", "0.3"];
        program(&world, &[&run[..], &stages, &shares, &choice].concat());
        let policy = world.allo(&weigh);
        for stage in ["forgetting", "learning"] {
            let [own, wanted] = [format!("{stage}.gguf"), format!("run/{stage}-mask.gguf")]
                .map(|name| Mask::read(&world.file(&name)).unwrap());
            // Each in the order of what it was made from.
            assert_eq!(own.count(), wanted.count(), "{stage}");
            for tensor in own.tensors() {
                let name = &tensor.shape.name;
                assert!(wanted.tensor(name).unwrap().bits == tensor.bits, "{stage}: {name}");
            }
        }
        llama_align_adapter_free(policy);
    }
}

#[test]
fn tokens_are_weighed_by_what_became_less_likely() {
    let world = World::new();
    let warm = world.adapter();
    let weigh = |rows: *mut llama_align_dataset, params: &llama_align_weigh_params| {
        let mut n = u64::MAX;
        // SAFETY: live handles.
        let told = fails(|err| unsafe { llama_align_dataset_weigh(rows, warm, params, &mut n, err) });
        (told.0, told.1, n)
    };
    // Nothing has moved: no token is less likely, and all are equally likely.
    let rows = world.pairs(LLAMA_ALIGN_METHOD_DPO);
    let all: usize = (0..super::world::PAIRS.len()).map(|row| super::table_neurons::answer_tokens(rows, row, 1)).sum();
    let share = llama_align_weigh_params { share: 0.1, ..weigh_params() };
    assert_eq!(weigh(rows, &weigh_params()), (LLAMA_ALIGN_OK, String::new(), 0));
    assert_eq!(weigh(rows, &share), (LLAMA_ALIGN_OK, String::new(), all as u64));
    world.stage(warm, world.dataset, &trainer_params());
    let (status, _, n) = weigh(rows, &weigh_params());
    assert!(status == LLAMA_ALIGN_OK && n > 0 && n <= all as u64, "{n} of {all}");
    let (_, _, fewer) = weigh(rows, &share);
    assert!(fewer > 0 && fewer < n.max(2), "{fewer} of {n}");
    let sft = world.pairs(LLAMA_ALIGN_METHOD_SFT);
    for (rows, params, status, says) in [
        (sft, weigh_params(), LLAMA_ALIGN_ERR_MISMATCH, "no pair"),
        (rows, llama_align_weigh_params { below: f64::NAN, ..weigh_params() }, LLAMA_ALIGN_ERR_ARGUMENT, "below"),
        (rows, llama_align_weigh_params { below: 0.5, ..share }, LLAMA_ALIGN_ERR_ARGUMENT, "beside share"),
    ] {
        let (found, said, _) = weigh(rows, &params);
        assert!(found == status && said.contains(says), "{found}: {said}");
    }
    // SAFETY: live handles; NULL stands for the defaults.
    ok(|err| unsafe { llama_align_dataset_weigh(rows, warm, null(), null_mut(), err) });
    llama_align_dataset_free(sft);
    llama_align_dataset_free(rows);
    llama_align_adapter_free(warm);
}
