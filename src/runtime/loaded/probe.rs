//! The handshake: a loaded runtime is asked for its version, and what that version is known for is compared with what it does.

use super::layout::{Layout, Params};
use super::symbols::{InitParams, Symbols};
use super::version::{Version, KNOWN};
use crate::error::{Error, Kind, Result};
use crate::runtime::abi::{GgmlTensor, FLAG_INPUT};
use crate::runtime::text;
use quant::Type;
use std::ffi::{c_char, c_int};

/// `ggml_tensor_overhead()`: an object's header and the tensor.
const OVERHEAD: usize = 32 + size_of::<GgmlTensor>();
/// `GGML_TENSOR_FLAG_OUTPUT`.
const FLAG_OUTPUT: i32 = 2;

/// What a runtime turned out to be.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) version: &'static Version,
    pub(super) model: Layout,
    pub(super) context: Layout,
}

fn unknown(message: impl Into<String>) -> Error {
    Error::new(Kind::Unsupported, message)
}

/// Compares everything that can be compared.
///
/// # Safety
/// The functions are those of one loaded ggml and llama.cpp.
///
/// # Errors
/// The first thing that is not as known: this library does not guess.
pub(super) unsafe fn probe(symbols: &Symbols) -> Result<Facts> {
    // SAFETY: by the caller. What a later probe relies on was compared by the one before.
    unsafe {
        let facts = known(symbols)?;
        tensors(symbols)?;
        names(symbols, facts.version)?;
        types(symbols, facts.version)?;
        Ok(facts)
    }
}

/// The entry of the list that the version and both structs of parameters agree with.
unsafe fn known(symbols: &Symbols) -> Result<Facts> {
    // SAFETY: a static string, and structs for which there is room.
    let (name, model, context) = unsafe {
        (
            text((symbols.ggml_version)()),
            written(symbols.llama_model_default_params),
            written(symbols.llama_context_default_params),
        )
    };
    let number = parse(&name).ok_or_else(|| unknown(format!("ggml calls its version \"{name}\"")))?;
    let mut reasons = Vec::new();
    for version in KNOWN.iter().filter(|v| (v.ggml[0]..=v.ggml[1]).contains(&number)) {
        let (facts_model, facts_context) = (Layout::of(&(version.model)()), Layout::of(&(version.context)()));
        let compared =
            [("llama_model_params", &facts_model, &model), ("llama_context_params", &facts_context, &context)]
                .into_iter()
                .try_for_each(|(what, layout, [a, b])| layout.compare([a, b]).map_err(|why| format!("{what}: {why}")));
        match compared {
            Ok(()) => return Ok(Facts { version, model: facts_model, context: facts_context }),
            Err(why) if !reasons.contains(&why) => reasons.push(why),
            Err(_) => {}
        }
    }
    if reasons.is_empty() {
        let message = format!("ggml {name} is none of the versions that were tried: {}", tried());
        return Err(unknown(message));
    }
    Err(unknown(format!("ggml {name} is known, but not with these structs: {}", reasons.join("; or "))))
}

/// The versions on the list, for messages.
fn tried() -> String {
    let number = |v: [u32; 3]| v.map(|n| n.to_string()).join(".");
    let within = |[first, last]: [[u32; 3]; 2]| {
        KNOWN.iter().any(|v| v.ggml != [first, last] && v.ggml[0] <= first && last <= v.ggml[1])
    };
    let ranges = KNOWN.iter().map(|v| v.ggml).filter(|&range| !within(range));
    let words = ranges.map(|[first, last]| match first == last {
        true => number(first),
        false => format!("{} to {}", number(first), number(last)),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// What a function returns by value in memory, twice, over different bytes.
unsafe fn written(defaults: unsafe extern "C" fn(*mut Params) -> *mut Params) -> [Params; 2] {
    [0xa5, 0x5a].map(|fill| {
        let mut params = Params::filled(fill);
        // SAFETY: there is room for any struct that llama.cpp had.
        unsafe { defaults(&mut params) };
        params
    })
}

/// The three numbers that a version begins with.
fn parse(version: &str) -> Option<[u32; 3]> {
    let numbers: Vec<&str> = version.split('.').collect();
    let [major, minor, patch] = numbers[..] else { return None };
    let patch = patch.split(|c: char| !c.is_ascii_digit()).next()?;
    Some([major.parse().ok()?, minor.parse().ok()?, patch.parse().ok()?])
}

/// The layout of `ggml_tensor`, by what ggml writes into one.
unsafe fn tensors(symbols: &Symbols) -> Result<()> {
    // SAFETY: plain question.
    let overhead = unsafe { (symbols.ggml_tensor_overhead)() };
    if overhead != OVERHEAD {
        let message = format!("ggml_tensor_overhead() is {overhead}, not {OVERHEAD}: tensors are laid out differently");
        return Err(unknown(message));
    }
    let params = InitParams { mem_size: 16 * overhead, mem_buffer: std::ptr::null_mut(), no_alloc: true };
    // SAFETY: the context has room for the few tensors made in it; tensors have the size that is read, compared above.
    unsafe {
        let ctx = (symbols.ggml_init)(params);
        if ctx.is_null() {
            return Err(Error::new(Kind::Memory, "ggml makes no context"));
        }
        let (f32, ne_a, ne_b) = (Type::F32.id() as c_int, [3i64, 5, 7, 11], [3i64, 2, 7, 11]);
        let a = (symbols.ggml_new_tensor)(ctx, f32, 4, ne_a.as_ptr());
        let b = (symbols.ggml_new_tensor)(ctx, f32, 4, ne_b.as_ptr());
        (symbols.ggml_set_name)(a, c"probe".as_ptr());
        (symbols.ggml_set_input)(a);
        (symbols.ggml_set_output)(b);
        let view = (symbols.ggml_view_2d)(ctx, a, 2, 4, 12, 24);
        let product = (symbols.ggml_mul_mat)(ctx, a, b);
        let wrong = differences([&*a, &*b, &*view, &*product], [a, b]);
        (symbols.ggml_free)(ctx);
        match wrong {
            None => Ok(()),
            Some(field) => Err(unknown(format!("ggml_tensor has {field} elsewhere than known"))),
        }
    }
}

/// The first field that does not hold what ggml was asked to put there.
fn differences([a, b, view, product]: [&GgmlTensor; 4], [a_ptr, b_ptr]: [*mut GgmlTensor; 2]) -> Option<&'static str> {
    let name: Vec<u8> = a.name.iter().take(6).map(|&c| c as u8).collect();
    let checks = [
        ("type", a.ty == Type::F32.id() as c_int),
        ("ne", a.ne == [3, 5, 7, 11] && b.ne == [3, 2, 7, 11] && product.ne == [5, 2, 7, 11]),
        ("nb", a.nb == [4, 12, 60, 420] && view.nb[..2] == [4, 12]),
        ("op", a.op == 0 && view.op != 0 && product.op != 0 && view.op != product.op),
        ("flags", a.flags & FLAG_INPUT != 0 && b.flags & FLAG_OUTPUT != 0),
        ("src", product.src[..3] == [a_ptr, b_ptr, std::ptr::null_mut()] && view.src[0] == a_ptr),
        ("view_src", view.view_src == a_ptr && a.view_src.is_null() && product.view_src.is_null()),
        ("view_offs", view.view_offs == 24),
        ("data", a.data.is_null() && product.data.is_null()),
        ("buffer", a.buffer.is_null() && product.buffer.is_null()),
        ("name", name == b"probe\0"),
        ("extra", a.extra.is_null() && product.extra.is_null()),
    ];
    checks.iter().find(|(_, holds)| !holds).map(|(field, _)| *field)
}

/// The numbers of ops: how many there are, and that the last is the last.
unsafe fn names(symbols: &Symbols, version: &Version) -> Result<()> {
    // SAFETY: the list ends with GLU, which every ggml with `ggml_glu_op_name` has: nothing is read past its end.
    let last = (0..version.n_ops).find(|&i| unsafe { text((symbols.ggml_op_name)(i as c_int)) } == "GLU");
    if last != Some(version.n_ops - 1) {
        let message = format!("op GLU is number {last:?}, not {}, in this ggml", version.n_ops - 1);
        return Err(unknown(message));
    }
    let lists = [(version.unary, symbols.ggml_unary_op_name), (version.glu, symbols.ggml_glu_op_name)];
    for (names, name_of) in lists {
        for (i, expected) in names.iter().enumerate() {
            // SAFETY: the names before were as expected, so that the list has this one at least.
            let name = unsafe { text(name_of(i as c_int)) };
            if name != *expected {
                return Err(unknown(format!("op {i} is {name} in this ggml, not {expected}")));
            }
        }
    }
    Ok(())
}

/// Element types: sizes, and one block of each through ggml's decoder and ours.
unsafe fn types(symbols: &Symbols, version: &Version) -> Result<()> {
    for &ty in Type::ALL.iter().filter(|t| t.id() < version.n_types) {
        // SAFETY: the number is below the count.
        let (name, traits) = unsafe {
            let traits = (symbols.ggml_get_type_traits)(ty.id() as c_int);
            (text((symbols.ggml_type_name)(ty.id() as c_int)), &*traits)
        };
        let same = name == ty.name()
            // SAFETY: the traits of a type begin with its name.
            && unsafe { text(traits.type_name.cast::<c_char>()) } == name
            && (traits.block_len, traits.block_bytes) == (ty.block_len() as i64, ty.block_bytes());
        if !same {
            let message = format!(
                "type {} is {name} with {} values in {} bytes in this ggml, not {}",
                ty.id(),
                traits.block_len,
                traits.block_bytes,
                ty.name()
            );
            return Err(unknown(message));
        }
        // Any byte will do that makes no infinite scale of two of it.
        let block = vec![0x2c; ty.block_bytes()];
        let (mut theirs, mut ours) = (vec![0f32; ty.block_len()], vec![0f32; ty.block_len()]);
        let (Some(decode), Ok(())) = (traits.to_float, quant::dequantize_row(ty, &block, &mut ours)) else { continue };
        if ty == Type::F32 {
            continue;
        }
        // SAFETY: one block, and room for its values.
        unsafe { decode(block.as_ptr().cast(), theirs.as_mut_ptr(), theirs.len() as i64) };
        let close = |a: f32, b: f32| (a - b).abs() <= 1e-5 * b.abs().max(1e-3);
        if let Some(i) = (0..ours.len()).find(|&i| !close(theirs[i], ours[i])) {
            let message = format!("value {i} of a block of {name} is {} in this ggml, not {}", theirs[i], ours[i]);
            return Err(unknown(message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_three_numbers() {
        assert_eq!(parse("0.26.0"), Some([0, 26, 0]));
        assert_eq!(parse("0.25.1-dirty"), Some([0, 25, 1]));
        assert_eq!(parse("b6432"), None);
        assert_eq!(parse("1.2"), None);
        assert_eq!(parse("0.x.1"), None);
    }

    #[test]
    fn entries_of_one_version_can_be_told_apart() {
        for (i, a) in KNOWN.iter().enumerate() {
            for b in &KNOWN[i + 1..] {
                let overlap = a.ggml[0] <= b.ggml[1] && b.ggml[0] <= a.ggml[1];
                let sizes = |v: &Version| (Layout::of(&(v.model)()).bytes, Layout::of(&(v.context)()).bytes);
                assert!(!overlap || sizes(a) != sizes(b), "{:?} and {:?} look alike", a.ggml, b.ggml);
            }
        }
    }

    /// The list agrees with the headers of the llama.cpp that is built in.
    #[cfg(feature = "linked")]
    #[test]
    fn the_built_in_release_is_described_as_its_headers_have_it() {
        use ggml_sys as sys;
        use std::mem::offset_of;
        // SAFETY: a static string.
        let version = parse(&unsafe { text(sys::ggml_version()) }).unwrap();
        let sizes = (size_of::<sys::llama_model_params>(), size_of::<sys::llama_context_params>());
        let fits = |v: &&Version| {
            let found = (Layout::of(&(v.model)()).bytes, Layout::of(&(v.context)()).bytes);
            (v.ggml[0]..=v.ggml[1]).contains(&version) && found == sizes
        };
        let known = KNOWN.iter().find(fits).expect("an entry of the list has its version and sizes");
        let (model, context) = (Layout::of(&(known.model)()), Layout::of(&(known.context)()));
        macro_rules! at {
            ($layout:ident: $ty:ident { $($field:ident),+ }) => {
                $(assert_eq!($layout.offset(stringify!($field)), Some(offset_of!(sys::$ty, $field)), stringify!($field));)+
            };
        }
        at!(model: llama_model_params { devices, n_gpu_layers, use_extra_bufts, load_mtp });
        at!(context: llama_context_params {
            n_ctx, n_batch, n_ubatch, n_seq_max, n_threads, n_threads_batch, flash_attn_type, type_k, type_v, cb_eval,
            cb_eval_user_data, abort_callback, abort_callback_data, no_perf, swa_full, kv_unified, ctx_other
        });
        assert_eq!(known.n_ops, sys::GGML_OP_COUNT as usize);
        assert_eq!(known.unary.len(), sys::GGML_UNARY_OP_COUNT as usize);
        assert_eq!(known.glu.len(), sys::GGML_GLU_OP_COUNT as usize);
        assert_eq!(known.n_types, sys::GGML_TYPE_COUNT);
    }
}
