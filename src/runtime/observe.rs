//! Reads named values out of a decode: what each block left, as the runtime computed it.

use super::abi::{ContextSpec, GgmlTensor};
use super::{Context, Model};
use crate::error::{Error, Kind, Result};
use quant::Type;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::sync::Arc;

/// What a decode computed.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The values that were asked for and seen, by the runtime's name, in F32.
    pub values: BTreeMap<String, Vec<f32>>,
    /// Logits \[V, T\].
    pub logits: Vec<f32>,
}

struct Observer {
    model: Arc<Model>,
    wanted: BTreeSet<String>,
    values: BTreeMap<String, Vec<f32>>,
}

unsafe extern "C" fn on_value(tensor: *mut GgmlTensor, ask: bool, user: *mut c_void) -> bool {
    // SAFETY: `user` is the observer of the decode in progress; llama.cpp calls from the decoding thread only, with a live
    // tensor whose name is NUL-terminated.
    let (observer, t, name) =
        unsafe { (&mut *user.cast::<Observer>(), &*tensor, super::text((*tensor).name.as_ptr())) };
    if ask {
        return observer.wanted.contains(&name);
    }
    if observer.wanted.contains(&name) {
        let n: i64 = t.ne.iter().product();
        let dense = t.nb[0] == 4 && (1..4).all(|a| t.nb[a] == t.nb[a - 1] * t.ne[a - 1] as usize);
        if dense && t.ty == Type::F32.id() as i32 {
            let mut values = vec![0.0f32; n as usize];
            // SAFETY: the tensor was computed and holds as many floats, one after another.
            unsafe { (observer.model.runtime.table.tensor_get)(tensor, values.as_mut_ptr().cast(), 0, 4 * n as usize) };
            observer.values.insert(name, values);
        }
    }
    true
}

/// Decodes one sequence from position 0 and reads the values of these names.
pub fn observe(model: &Arc<Model>, tokens: &[i32], names: BTreeSet<String>, n_threads: usize) -> Result<Observed> {
    let mut observer = Box::new(Observer { model: model.clone(), wanted: names, values: BTreeMap::new() });
    let spec = ContextSpec {
        n_ctx: tokens.len() as u32,
        n_seq_max: 1,
        n_threads: super::n_threads_started(n_threads) as i32,
        eval: Some(on_value),
        abort: None,
        user: std::ptr::from_mut::<Observer>(&mut observer).cast(),
    };
    let batch: Vec<_> = tokens.iter().enumerate().map(|(i, &t)| (t, i, 0)).collect();
    let mut logits = Vec::with_capacity(tokens.len() * model.n_vocab());
    // SAFETY: the observer outlives the context, which is dropped at the end of this block.
    unsafe {
        let mut context = Context::with_spec(model, &spec)?;
        context.decode(&batch, |_| true)?;
        for i in 0..tokens.len() {
            logits.extend_from_slice(context.logits(i)?);
        }
    }
    if observer.values.is_empty() && !observer.wanted.is_empty() {
        let message = format!("{}: llama.cpp showed none of its values", model.path().display());
        return Err(Error::new(Kind::Unsupported, message));
    }
    Ok(Observed { values: std::mem::take(&mut observer.values), logits })
}
