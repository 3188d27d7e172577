//! Checkpoints from C: a run that another trainer, or another process, goes on with.

use super::behaviour::{report, run};
use super::world::{error, made, message, trainer_params, World};
use llama_align::capi::*;
use std::ptr::null_mut;

const METHODS: [u32; 3] = [LLAMA_ALIGN_METHOD_SFT, LLAMA_ALIGN_METHOD_DPO, LLAMA_ALIGN_METHOD_KTO];

fn params(method: u32) -> llama_align_trainer_params {
    llama_align_trainer_params { method, optim: LLAMA_ALIGN_OPTIM_SGD, learning_rate: 0.01, ..trainer_params() }
}

/// Trains, with a checkpoint and another trainer on another adapter after `at` steps; gives the adapter's file.
fn trained(world: &World, method: u32, at: Option<usize>) -> Vec<u8> {
    let (mut adapter, dataset, path) = (world.adapter(), world.pairs(method), world.path("run.gguf"));
    let mut trainer = world.trainer(adapter, dataset, &params(method));
    if let Some(at) = at {
        // SAFETY: live handles, a path.
        unsafe {
            for _ in 0..at {
                assert_eq!(llama_align_trainer_step(trainer, null_mut(), null_mut()), LLAMA_ALIGN_MORE);
            }
            assert_eq!(llama_align_trainer_save(trainer, path.as_ptr(), null_mut()), LLAMA_ALIGN_OK);
            // What is not in the checkpoint does not count.
            assert!(llama_align_trainer_step(trainer, null_mut(), null_mut()) >= 0);
        }
        let before = report(trainer);
        llama_align_trainer_free(trainer);
        llama_align_adapter_free(adapter);
        adapter = world.adapter();
        trainer = made(|out, err| {
            // SAFETY: as above.
            unsafe { llama_align_trainer_resume(adapter, dataset, &params(method), path.as_ptr(), 0, out, err) }
        });
        assert_eq!((report(trainer).step, before.n_steps), (at as u64, report(trainer).n_steps));
    }
    assert_eq!(run(trainer), LLAMA_ALIGN_OK);
    let bytes = World::bytes(adapter);
    llama_align_trainer_free(trainer);
    llama_align_adapter_free(adapter);
    llama_align_dataset_free(dataset);
    bytes
}

#[test]
fn a_run_that_is_taken_up_ends_with_the_same_bits() {
    let world = World::new();
    for method in METHODS {
        let whole = trained(&world, method, None);
        for at in [0, 1, 2] {
            assert!(trained(&world, method, Some(at)) == whole, "method {method}, taken up after {at} steps");
        }
    }
}

#[test]
fn what_is_another_run_is_refused() {
    let world = World::new();
    let (adapter, path) = (world.adapter(), world.path("run.gguf"));
    // SAFETY: live handles, a path.
    unsafe {
        assert_eq!(llama_align_trainer_step(world.trainer, null_mut(), null_mut()), LLAMA_ALIGN_MORE);
        assert_eq!(llama_align_trainer_save(world.trainer, path.as_ptr(), null_mut()), LLAMA_ALIGN_OK);
    }
    let tried = |params: llama_align_trainer_params, flags: u32| {
        let (mut out, mut err) = (null_mut(), error());
        // SAFETY: as above.
        let status = unsafe {
            llama_align_trainer_resume(adapter, world.dataset, &params, path.as_ptr(), flags, &mut out, &mut err)
        };
        llama_align_trainer_free(out);
        (status, message(&err))
    };
    let good = trainer_params();
    let (mismatch, argument) = (LLAMA_ALIGN_ERR_MISMATCH, LLAMA_ALIGN_ERR_ARGUMENT);
    for (params, flags, status, says) in [
        (good, 0, LLAMA_ALIGN_OK, ""),
        (good, LLAMA_ALIGN_RESUME_INEXACT, LLAMA_ALIGN_OK, ""),
        (good, 2, argument, "flags"),
        (llama_align_trainer_params { seed: 9, ..good }, 0, mismatch, "seed is 9"),
        (llama_align_trainer_params { seed: 9, ..good }, 1, mismatch, "seed is 9"),
        (llama_align_trainer_params { n_threads: 2, ..good }, 0, mismatch, "threads is 2"),
        (llama_align_trainer_params { n_threads: 2, ..good }, 1, LLAMA_ALIGN_OK, ""),
        (llama_align_trainer_params { loss: LLAMA_ALIGN_LOSS_IPO, ..good }, 0, mismatch, "ipo"),
    ] {
        let (found, text) = tried(params, flags);
        assert!(found == status && text.contains(says), "{found}: {text}");
    }
    // Nothing is claimed or changed by what was refused, and a damaged file is found.
    let mut bytes = std::fs::read(world.file("run.gguf")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(world.file("run.gguf"), bytes).unwrap();
    let (status, text) = tried(good, 0);
    assert!(status == LLAMA_ALIGN_ERR_FORMAT && text.contains("damaged"), "{status}: {text}");
    llama_align_adapter_free(adapter);
}
