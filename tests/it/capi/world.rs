//! A tiny model with rows, an adapter and a trainer behind live handles, and handles of each type that were freed.

use crate::tiny;
use llama_align::capi::*;
use llama_align::gguf;
use llama_align::runtime::abi::{LlamaModel, ModelSpec};
use llama_align::runtime::{Host, Layout as HostLayout, Runtime, HOST_ABI};
use quant::Type;
use std::ffi::{c_char, CStr, CString};
use std::path::PathBuf;
use std::ptr::{null, null_mut};

/// Preference pairs: no multiple of a step's rows.
pub(super) const PAIRS: [[&str; 3]; 6] = [
    ["one", "two and two", "three"],
    ["a longer prompt", "yes", "no"],
    ["what?", "that", "this, and that"],
    ["four", "five", "six"],
    ["seven", "eight nine", "ten"],
    ["eleven", "twelve", "thirteen"],
];

pub(super) fn error() -> llama_align_error {
    llama_align_error { struct_size: size_of::<llama_align_error>() as u32, status: 0, message: [0; 1016] }
}

pub(super) fn message(err: &llama_align_error) -> String {
    // SAFETY: the library terminates the message.
    unsafe { CStr::from_ptr(err.message.as_ptr()) }.to_str().unwrap().to_owned()
}

/// Runs one call and gives back what it made.
///
/// # Panics
/// If the call fails.
pub(super) fn made<T>(call: impl FnOnce(*mut *mut T, *mut llama_align_error) -> i32) -> *mut T {
    let (mut out, mut err) = (null_mut(), error());
    let status = call(&mut out, &mut err);
    assert_eq!(status, LLAMA_ALIGN_OK, "{}", message(&err));
    assert!(!out.is_null());
    out
}

/// Owned strings and the array of their pointers.
pub(super) struct Texts {
    _owned: Vec<CString>,
    pub(super) pointers: Vec<*const c_char>,
}

impl Texts {
    pub(super) fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let owned: Vec<_> = texts.into_iter().map(|t| CString::new(t).unwrap()).collect();
        let pointers = owned.iter().map(|t| t.as_ptr()).collect();
        Self { _owned: owned, pointers }
    }

    /// A column of the pairs; behind the last one, each pair as JSON.
    pub(super) fn column(i: usize) -> Self {
        let json = |[p, c, r]: &[&str; 3]| serde_json::json!({ "prompt": p, "chosen": c, "rejected": r }).to_string();
        if i == PAIRS[0].len() {
            let rows: Vec<String> = PAIRS.iter().map(json).collect();
            return Self::new(rows.iter().map(String::as_str));
        }
        Self::new(PAIRS.iter().map(|row| row[i]))
    }
}

pub(super) struct World {
    pub(super) directory: tempfile::TempDir,
    /// As of a host that has the built-in llama.cpp.
    pub(super) runtime: *mut llama_align_runtime,
    /// A model that this host has open.
    pub(super) live: *mut LlamaModel,
    pub(super) model: *mut llama_align_model,
    pub(super) dataset: *mut llama_align_dataset,
    pub(super) adapter: *mut llama_align_adapter,
    /// An adapter of whole weights.
    pub(super) whole: *mut llama_align_adapter,
    pub(super) trainer: *mut llama_align_trainer,
}

impl World {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        tiny::find("llama-untied").write(&path, Type::Q8_0).unwrap();
        let rows = PAIRS.map(|[p, c, r]| serde_json::json!({"prompt": p, "chosen": c, "rejected": r}).to_string());
        std::fs::write(directory.path().join("rows.jsonl"), rows.join("\n")).unwrap();
        let (runtime, live) = (null_mut(), null_mut());
        let mut world = Self {
            directory,
            runtime,
            live,
            model: null_mut(),
            dataset: null_mut(),
            adapter: null_mut(),
            whole: null_mut(),
            trainer: null_mut(),
        };
        let path = world.path("model.gguf");
        // SAFETY: arguments are what the header asks for, here and below.
        world.model = made(|out, err| unsafe { llama_align_model_open(path.as_ptr(), out, err) });
        let host = world.host();
        // SAFETY: as above.
        world.runtime = made(|out, err| unsafe { llama_align_runtime_from_host((&raw const host).cast(), out, err) });
        let mut no_devices = [null_mut()];
        let spec = ModelSpec { devices: no_devices.as_mut_ptr(), n_gpu_layers: 0 };
        // SAFETY: a path, and no devices.
        world.live = unsafe { (host.table.model_load)(path.as_ptr(), &spec) };
        assert!(!world.live.is_null());
        world.dataset = world.pairs(LLAMA_ALIGN_METHOD_DPO);
        world.adapter = world.adapter();
        world.whole = world.adapter_of(LLAMA_ALIGN_ADAPTER_FULL);
        // Its own adapter: one trainer moves an adapter, and tests make others for `adapter`.
        let moved = world.adapter();
        world.trainer = world.trainer(moved, world.dataset, &trainer_params());
        llama_align_adapter_free(moved);
        world
    }

    /// Devices of the runtime.
    pub(super) fn n_devices(&self) -> usize {
        let mut n = 0;
        // SAFETY: a live runtime.
        assert_eq!(unsafe { llama_align_runtime_device_count(self.runtime, &mut n, null_mut()) }, LLAMA_ALIGN_OK);
        n as usize
    }

    /// What a host would fill in.
    pub(super) fn host(&self) -> Host {
        let table = Runtime::linked().unwrap().table();
        Host { abi: HOST_ABI, struct_size: size_of::<Host>() as u32, layout: HostLayout::OURS, table }
    }

    /// The model with one weight changed, as `tuned.gguf`.
    pub(super) fn write_tuned(&self) {
        let path = self.file("model.gguf");
        let (file, mut bytes) = (gguf::File::open(&path).unwrap(), std::fs::read(&path).unwrap());
        // Behind the scale of the first block.
        bytes[file.tensor("blk.0.attn_q.weight").unwrap().offset as usize + 2] ^= 1;
        std::fs::write(self.file("tuned.gguf"), bytes).unwrap();
    }

    /// A finished run of the program, as `run`.
    pub(super) fn write_run(&self) {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_llama-align"));
        program.args(["train", "-m", "model.gguf", "-d", "rows.jsonl", "-o", "run", "-t", "1", "--max-steps", "1"]);
        let ran = program.args(["--samples", "0"]).current_dir(self.directory.path()).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    pub(super) fn path(&self, name: &str) -> CString {
        CString::new(self.file(name).to_str().unwrap()).unwrap()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn pairs(&self, method: u32) -> *mut llama_align_dataset {
        let [prompts, chosen, rejected] = [0, 1, 2].map(Texts::column);
        let params = dataset_params(method);
        made(|out, err| {
            let [p, c, r] = [&prompts, &chosen, &rejected].map(|t| t.pointers.as_ptr());
            // SAFETY: the columns have as many strings as there are rows.
            unsafe { llama_align_dataset_from_pairs(self.model, p, c, r, PAIRS.len(), &params, out, err) }
        })
    }

    pub(super) fn adapter(&self) -> *mut llama_align_adapter {
        self.adapter_of(0)
    }

    /// A new one with these flags.
    pub(super) fn adapter_of(&self, flags: u32) -> *mut llama_align_adapter {
        let params = adapter_params(flags);
        // SAFETY: a live model.
        made(|out, err| unsafe { llama_align_adapter_new(self.model, null(), &params, out, err) })
    }

    pub(super) fn trainer(
        &self,
        adapter: *mut llama_align_adapter,
        dataset: *mut llama_align_dataset,
        params: &llama_align_trainer_params,
    ) -> *mut llama_align_trainer {
        // SAFETY: live handles.
        made(|out, err| unsafe { llama_align_trainer_new(adapter, dataset, params, out, err) })
    }

    /// The adapter's file in memory.
    pub(super) fn bytes(adapter: *const llama_align_adapter) -> Vec<u8> {
        let (mut n, mut err) = (0, error());
        // SAFETY: a live adapter; the buffer is as long as it is said to be.
        unsafe {
            let status = llama_align_adapter_to_memory(adapter, null_mut(), 0, &mut n, &mut err);
            assert_eq!(status, LLAMA_ALIGN_OK, "{}", message(&err));
            let mut bytes = vec![0; n];
            assert_eq!(llama_align_adapter_to_memory(adapter, bytes.as_mut_ptr(), n, &mut n, &mut err), LLAMA_ALIGN_OK);
            assert_eq!(n, bytes.len());
            bytes
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        llama_align_model_free(self.model);
        llama_align_dataset_free(self.dataset);
        llama_align_adapter_free(self.adapter);
        llama_align_adapter_free(self.whole);
        llama_align_trainer_free(self.trainer);
        llama_align_runtime_free(self.runtime);
        // SAFETY: the host's, freed once, after all that was made from it.
        unsafe { (self.host().table.model_free)(self.live) };
    }
}

pub(super) fn dataset_params(method: u32) -> llama_align_dataset_params {
    let struct_size = size_of::<llama_align_dataset_params>() as u32;
    llama_align_dataset_params { struct_size, method, max_length: 0, flags: 0, too_long: 0, loss_mask: 0 }
}

pub(super) fn adapter_params(flags: u32) -> llama_align_adapter_params {
    // SAFETY: any bytes are a value; `init` fills them in.
    let mut params: llama_align_adapter_params = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the struct.
    let status = unsafe { llama_align_adapter_params_init(&mut params, size_of_val(&params) as u32, null_mut()) };
    assert_eq!(status, LLAMA_ALIGN_OK);
    llama_align_adapter_params { flags, ..params }
}

/// Three steps of four rows on one thread: tests run beside each other.
pub(super) fn trainer_params() -> llama_align_trainer_params {
    // SAFETY: any bytes are a value; `init` fills them in.
    let mut params: llama_align_trainer_params = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the struct.
    let status = unsafe { llama_align_trainer_params_init(&mut params, size_of_val(&params) as u32, null_mut()) };
    assert_eq!(status, LLAMA_ALIGN_OK);
    llama_align_trainer_params { n_threads: 1, batch_size: 2, max_steps: 3, learning_rate: 1e-3, ..params }
}

/// Ratios for a model of two blocks, on one thread.
pub(super) fn hma_params() -> llama_align_hma_params {
    // SAFETY: numbers only.
    let mut params: llama_align_hma_params = unsafe { std::mem::zeroed() };
    // SAFETY: the struct has that size.
    let status = unsafe { llama_align_hma_params_init(&mut params, size_of_val(&params) as u32, null_mut()) };
    assert_eq!(status, LLAMA_ALIGN_OK);
    llama_align_hma_params { n_threads: 1, n_groups: 0, ..params }
}
