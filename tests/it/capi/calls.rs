//! Callbacks and threads: what may happen while a call trains.

use super::behaviour::{report, run};
use super::world::{error, message, trainer_params, World};
use llama_align::capi::*;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

/// What a callback saw, and what it is to do.
#[derive(Default)]
struct Seen {
    trainer: AtomicUsize,
    adapter: AtomicUsize,
    n_reference: AtomicUsize,
    n_steps: AtomicUsize,
    stop_in_reference: bool,
    stop_at: usize,
    answer: AtomicI32,
    /// Statuses of calls from inside.
    inside: [AtomicI32; 5],
}

unsafe extern "C" fn watch(progress: *const llama_align_progress, user_data: *mut c_void) -> i32 {
    // SAFETY: the tests pass a `Seen`, the library a progress.
    let (progress, seen) = unsafe { (&*progress, &*user_data.cast::<Seen>()) };
    let (trainer, adapter) = (seen.trainer.load(Ordering::Relaxed), seen.adapter.load(Ordering::Relaxed));
    let (trainer, adapter) = (trainer as *mut llama_align_trainer, adapter as *mut llama_align_adapter);
    let mut n = 0;
    // SAFETY: live handles.
    let statuses = unsafe {
        [
            llama_align_trainer_step(trainer, null_mut(), null_mut()),
            llama_align_trainer_run(trainer, None, null_mut(), null_mut()),
            llama_align_trainer_run_for(trainer, 1, None, null_mut(), null_mut()),
            llama_align_adapter_to_memory(adapter, null_mut(), 0, &mut n, null_mut()),
            if report(trainer).step == progress.step { LLAMA_ALIGN_OK } else { LLAMA_ALIGN_ERR_INTERNAL },
        ]
    };
    seen.inside.iter().zip(statuses).for_each(|(place, status)| place.store(status, Ordering::Relaxed));
    let stop = if progress.phase == LLAMA_ALIGN_PHASE_REFERENCE {
        seen.n_reference.fetch_add(1, Ordering::Relaxed);
        seen.stop_in_reference
    } else {
        seen.n_steps.fetch_add(1, Ordering::Relaxed);
        progress.step as usize == seen.stop_at
    };
    if stop {
        LLAMA_ALIGN_STOP
    } else {
        seen.answer.load(Ordering::Relaxed)
    }
}

/// A fresh DPO trainer, and a run of it that is watched.
fn watched(world: &World, seen: &Seen) -> (*mut llama_align_trainer, *mut llama_align_adapter) {
    let adapter = world.adapter();
    let params = llama_align_trainer_params { micro_batch_tokens: 64, ..trainer_params() };
    let trainer = world.trainer(adapter, world.dataset, &params);
    seen.trainer.store(trainer as usize, Ordering::Relaxed);
    seen.adapter.store(adapter as usize, Ordering::Relaxed);
    (trainer, adapter)
}

fn run_watched(trainer: *mut llama_align_trainer, seen: &Seen) -> (i32, String) {
    let mut err = error();
    let user_data = (&raw const *seen).cast_mut().cast();
    // SAFETY: the callback's argument lives longer than the call.
    let status = unsafe { llama_align_trainer_run(trainer, Some(watch), user_data, &mut err) };
    (status, message(&err))
}

#[test]
fn callbacks_see_every_step_may_stop_and_may_not_train() {
    let world = World::new();
    let seen = Seen { stop_at: 2, ..Seen::default() };
    let (trainer, adapter) = watched(&world, &seen);
    assert_eq!(run_watched(trainer, &seen).0, LLAMA_ALIGN_CANCELLED);
    assert_eq!(seen.n_steps.load(Ordering::Relaxed), 2);
    assert!(seen.n_reference.load(Ordering::Relaxed) > 1);
    let (busy, ok) = (LLAMA_ALIGN_ERR_BUSY, LLAMA_ALIGN_OK);
    assert_eq!(seen.inside.each_ref().map(|s| s.load(Ordering::Relaxed)), [busy, busy, busy, ok, ok]);
    assert_eq!((run(trainer), report(trainer).step), (LLAMA_ALIGN_OK, 3));
    let stopped = World::bytes(adapter);
    let unwatched = Seen::default();
    let (straight, other) = watched(&world, &unwatched);
    assert_eq!(run(straight), LLAMA_ALIGN_OK);
    assert!(stopped == World::bytes(other), "a stop changed the run");
    llama_align_trainer_free(straight);
    llama_align_adapter_free(other);
    llama_align_trainer_free(trainer);
    llama_align_adapter_free(adapter);

    // Stopped in the reference, then with an answer that is none, then to the end.
    let mut seen = Seen { stop_in_reference: true, ..Seen::default() };
    let (trainer, adapter) = watched(&world, &seen);
    assert_eq!(run_watched(trainer, &seen).0, LLAMA_ALIGN_CANCELLED);
    assert_eq!((seen.n_reference.load(Ordering::Relaxed), report(trainer).phase), (1, LLAMA_ALIGN_PHASE_REFERENCE));
    seen.stop_in_reference = false;
    seen.answer.store(7, Ordering::Relaxed);
    let (status, said) = run_watched(trainer, &seen);
    assert!(status == LLAMA_ALIGN_ERR_ARGUMENT && said.contains("returned 7"), "{status}: {said}");
    seen.answer.store(LLAMA_ALIGN_CONTINUE, Ordering::Relaxed);
    assert_eq!(run_watched(trainer, &seen).0, LLAMA_ALIGN_OK);
    assert!(World::bytes(adapter) == stopped, "stops and faults changed the run");
    llama_align_trainer_free(trainer);
    llama_align_adapter_free(adapter);
}

/// Frees all that the call works on, after its first step.
unsafe extern "C" fn free_all(progress: *const llama_align_progress, user_data: *mut c_void) -> i32 {
    // SAFETY: the test passes a world and its trainer, the library a progress.
    let (progress, (world, trainer)) = unsafe { (&*progress, &*user_data.cast::<(World, *mut llama_align_trainer)>()) };
    if progress.phase == LLAMA_ALIGN_PHASE_STEP {
        assert_eq!(progress.step, 1, "a freed trainer makes another step");
        llama_align_model_free(world.model);
        llama_align_dataset_free(world.dataset);
        llama_align_trainer_free(*trainer);
    }
    LLAMA_ALIGN_CONTINUE
}

#[test]
fn a_callback_may_free_everything_under_its_call() {
    let world = World::new();
    let trainer = world.trainer(world.adapter, world.dataset, &trainer_params());
    let mut both = (world, trainer);
    let user_data = (&raw mut both).cast();
    // SAFETY: the callback's argument lives longer than the call.
    let status = unsafe { llama_align_trainer_run(trainer, Some(free_all), user_data, null_mut()) };
    assert_eq!(status, LLAMA_ALIGN_CANCELLED);
    assert!(!World::bytes(both.0.adapter).is_empty(), "the adapter is still there");
    // SAFETY: what was freed is refused.
    let status = unsafe { llama_align_trainer_run(trainer, None, null_mut(), null_mut()) };
    assert_eq!(status, LLAMA_ALIGN_ERR_ARGUMENT);
}

/// A trainer on its own adapter, paused.
fn paused(world: &World, dataset: *mut llama_align_dataset, method: u32) -> (Elsewhere, *mut llama_align_adapter) {
    // Batches so small that the reference has several.
    let params = llama_align_trainer_params { method, micro_batch_tokens: 64, ..trainer_params() };
    let adapter = world.adapter();
    let trainer = world.trainer(adapter, dataset, &params);
    set_paused(trainer, 1);
    (Elsewhere(trainer), adapter)
}

fn set_paused(trainer: *mut llama_align_trainer, paused: u32) {
    // SAFETY: a live trainer.
    assert_eq!(unsafe { llama_align_trainer_set_paused(trainer, paused, null_mut()) }, LLAMA_ALIGN_OK);
}

/// A run that pauses itself when it first hears of a phase.
struct Pause {
    trainer: Elsewhere,
    phase: u32,
    done: AtomicBool,
}

unsafe extern "C" fn pause_at(progress: *const llama_align_progress, user_data: *mut c_void) -> i32 {
    // SAFETY: the test passes a pause, the library a progress.
    let (progress, pause) = unsafe { (&*progress, &*user_data.cast::<Pause>()) };
    if progress.phase == pause.phase && !pause.done.swap(true, Ordering::AcqRel) {
        set_paused(pause.trainer.0, 1);
    }
    LLAMA_ALIGN_CONTINUE
}

impl Pause {
    fn run(&self) -> i32 {
        let user_data = (&raw const *self).cast_mut().cast();
        // SAFETY: the callback's argument lives longer than the call.
        unsafe { llama_align_trainer_run(self.trainer.0, Some(pause_at), user_data, null_mut()) }
    }
}

#[test]
fn a_pause_from_another_thread_holds_a_run_and_leaves_no_trace() {
    let world = World::new();
    for (method, phase) in [
        (LLAMA_ALIGN_METHOD_SFT, LLAMA_ALIGN_PHASE_STEP),
        (LLAMA_ALIGN_METHOD_DPO, LLAMA_ALIGN_PHASE_STEP),
        (LLAMA_ALIGN_METHOD_DPO, LLAMA_ALIGN_PHASE_REFERENCE),
    ] {
        let dataset = world.pairs(method);
        let (straight, unpaused) = paused(&world, dataset, method);
        // Whoever trains on its own thread gets it back.
        // SAFETY: a live trainer.
        unsafe {
            assert_eq!(llama_align_trainer_step(straight.0, null_mut(), null_mut()), LLAMA_ALIGN_MORE);
            let begun = std::time::Instant::now();
            assert_eq!(llama_align_trainer_run_for(straight.0, 30, None, null_mut(), null_mut()), LLAMA_ALIGN_MORE);
            assert!(begun.elapsed().as_millis() >= 30);
        }
        assert_eq!(report(straight.0).phase, LLAMA_ALIGN_PHASE_NEW, "a step in a pause");
        set_paused(straight.0, 0);
        assert_eq!(run(straight.0), LLAMA_ALIGN_OK);

        let (trainer, adapter) = paused(&world, dataset, method);
        set_paused(trainer.0, 0);
        let pause = Pause { trainer, phase, done: AtomicBool::new(false) };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| pause.run());
            let begun = std::time::Instant::now();
            while !pause.done.load(Ordering::Acquire) {
                assert!(begun.elapsed().as_secs() < 60, "no progress in a minute");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let held = report(trainer.0);
            std::thread::sleep(std::time::Duration::from_millis(50));
            let later = report(trainer.0);
            assert!(!thread.is_finished() && later.step == held.step, "it went on: {later:?}");
            assert!(later.phase == phase && later.step < later.n_steps, "{later:?}");
            set_paused(trainer.0, 0);
            assert_eq!(thread.join().unwrap(), LLAMA_ALIGN_OK);
        });
        assert!(World::bytes(adapter) == World::bytes(unpaused), "a pause changed the run");
        for elsewhere in [straight, trainer] {
            llama_align_trainer_free(elsewhere.0);
        }
        for adapter in [adapter, unpaused] {
            llama_align_adapter_free(adapter);
        }
        llama_align_dataset_free(dataset);
    }
}

#[test]
fn a_paused_run_ends_when_it_is_cancelled_or_freed() {
    let world = World::new();
    let dataset = world.pairs(LLAMA_ALIGN_METHOD_SFT);
    let (trainer, adapter) = paused(&world, dataset, LLAMA_ALIGN_METHOD_SFT);
    let ends = |end: &dyn Fn()| {
        let ran = std::thread::scope(|scope| {
            let thread = scope.spawn(move || trainer.run());
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert!(!thread.is_finished(), "it did not wait");
            end();
            thread.join().unwrap()
        });
        assert_eq!(ran, LLAMA_ALIGN_CANCELLED);
    };
    // SAFETY: a live trainer.
    ends(&|| assert_eq!(unsafe { llama_align_trainer_cancel(trainer.0, null_mut()) }, LLAMA_ALIGN_OK));
    assert_eq!(report(trainer.0).phase, LLAMA_ALIGN_PHASE_NEW);
    ends(&|| llama_align_trainer_free(trainer.0));
    llama_align_adapter_free(adapter);
    llama_align_dataset_free(dataset);
}

/// Handles are numbers: another thread may have them.
#[derive(Clone, Copy)]
struct Elsewhere(*mut llama_align_trainer);

// SAFETY: never dereferenced.
unsafe impl Send for Elsewhere {}
// SAFETY: as above.
unsafe impl Sync for Elsewhere {}

impl Elsewhere {
    fn run(self) -> i32 {
        run(self.0)
    }
}

/// Waits until another thread's run has made a step.
fn wait_for_a_step(trainer: *mut llama_align_trainer) {
    let begun = std::time::Instant::now();
    while report(trainer).step == 0 {
        assert!(begun.elapsed().as_secs() < 60, "no step in a minute");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn other_threads_cancel_get_busy_and_may_free() {
    let world = World::new();
    let params = llama_align_trainer_params { max_steps: 1 << 40, ..trainer_params() };
    let sft = llama_align_trainer_params { method: LLAMA_ALIGN_METHOD_SFT, ..params };
    let dataset = world.pairs(LLAMA_ALIGN_METHOD_SFT);
    let trainer = world.trainer(world.adapter, dataset, &sft);
    let elsewhere = Elsewhere(trainer);
    let ran = std::thread::scope(|scope| {
        let thread = scope.spawn(move || elsewhere.run());
        wait_for_a_step(trainer);
        let mut err = error();
        // SAFETY: a live trainer.
        unsafe {
            assert_eq!(llama_align_trainer_step(trainer, null_mut(), &mut err), LLAMA_ALIGN_ERR_BUSY);
            assert!(message(&err).contains("another call"), "{}", message(&err));
            // A second trainer may not move the adapter.
            let mut second = null_mut();
            let status = llama_align_trainer_new(world.adapter, dataset, &sft, &mut second, &mut err);
            assert!(status == LLAMA_ALIGN_ERR_BUSY && second.is_null(), "{status}");
            // Reading it is fine.
            assert!(!World::bytes(world.adapter).is_empty());
            assert_eq!(llama_align_trainer_cancel(trainer, &mut err), LLAMA_ALIGN_OK);
        }
        thread.join().unwrap()
    });
    assert_eq!(ran, LLAMA_ALIGN_CANCELLED);
    // SAFETY: a live trainer.
    unsafe {
        // One that comes early stops the next call before its first step.
        let before = report(trainer).step;
        assert_eq!(llama_align_trainer_cancel(trainer, null_mut()), LLAMA_ALIGN_OK);
        assert_eq!(llama_align_trainer_step(trainer, null_mut(), null_mut()), LLAMA_ALIGN_CANCELLED);
        assert_eq!(report(trainer).step, before);
        assert_eq!(llama_align_trainer_step(trainer, null_mut(), null_mut()), LLAMA_ALIGN_MORE);
    }
    // Freed while it runs: the run ends, the adapter is free for another trainer.
    let ran = std::thread::scope(|scope| {
        let before = report(trainer).step;
        let thread = scope.spawn(move || elsewhere.run());
        while report(trainer).step == before {
            std::thread::yield_now();
        }
        llama_align_trainer_free(trainer);
        thread.join().unwrap()
    });
    assert_eq!(ran, LLAMA_ALIGN_CANCELLED);
    let next = world.trainer(world.adapter, dataset, &sft);
    llama_align_trainer_free(next);
    llama_align_dataset_free(dataset);
}
