//! Bad model files: header, keys, directory, hyper-parameters, tokenizer, template.

use super::image::{Image, N_KEYS_AT, N_TENSORS_AT};
use super::Case;
use llama_align::error::Kind;
use llama_align::gguf::{validate_model, Array, File, Value};
use quant::Type;

/// The whole corpus, made from one tiny model.
pub(super) fn cases() -> Vec<Case> {
    let model = Image::of("llama-tied");
    [header(&model), keys(&model), directory(&model), shapes(&model), sizes(&model), numbers(&model), tokenizer(&model)]
        .into_iter()
        .flatten()
        .collect()
}

fn format(what: impl Into<String>, bytes: Vec<u8>, says: &str) -> Case {
    Case::new(what, bytes, Kind::Format, says)
}

fn header(m: &Image) -> Vec<Case> {
    let version = |n: u32| m.put(4, &n.to_le_bytes());
    let mut cases = vec![
        format("nothing", vec![], ""),
        format("magic only", b"GGUF".to_vec(), "version"),
        format("another magic", m.put(0, b"GGML"), "no GGUF file"),
        format("magic backwards", m.put(0, b"FUGG"), "no GGUF file"),
        format("big endian", version(3u32.swap_bytes()), "big-endian"),
    ];
    for n in [0, 1, 4, 1 << 31] {
        cases.push(format(format!("version {n}"), version(n), &format!("version {n}")));
    }
    for n in [u64::MAX, 1 << 63, 1 << 32] {
        let says = format!("{n} keys");
        cases.push(format(format!("{n} keys"), m.put(N_KEYS_AT, &n.to_le_bytes()), &says));
        let says = format!("{n} tensors");
        cases.push(format(format!("{n} tensors"), m.put(N_TENSORS_AT, &n.to_le_bytes()), &says));
    }
    let one_more = |at: usize, n: usize| m.put(at, &(n as u64 + 1).to_le_bytes());
    cases.push(format("a key more than there are", one_more(N_KEYS_AT, m.keys.len()), "needs"));
    cases.push(format("a tensor more than there are", one_more(N_TENSORS_AT, m.tensors.len()), "tensor name"));
    cases
}

fn keys(m: &Image) -> Vec<Case> {
    let first = &m.keys[0];
    let name_at = first.entry.start;
    let length = |n: u64| m.put(name_at, &n.to_le_bytes());
    let tokens = m.key("tokenizer.ggml.tokens");
    let bos = m.key("tokenizer.ggml.add_bos_token");
    let twice = [&m.bytes[first.entry.clone()], &m.bytes[first.entry.clone()]].concat();
    let mut long_name = 65_536u64.to_le_bytes().to_vec();
    long_name.extend([b'x'; 65_536]);
    let mut no_name = 0u64.to_le_bytes().to_vec();
    no_name.extend(&m.bytes[first.type_at..first.entry.end]);
    vec![
        format("a key length of -1", length(u64::MAX), "a key needs"),
        format("a key length of 2^40", length(1 << 40), "a key needs"),
        format("an empty key", m.splice(first.entry.clone(), &no_name), "a key is empty"),
        format("a key of 65,536 bytes", m.splice(name_at..first.type_at, &long_name), "longer than 65535"),
        format("a key that is no UTF-8", m.put(name_at + 8, &[0xff]), "not UTF-8"),
        format("a NUL in a key", m.put(name_at + 10, &[0]), "control character"),
        format("a terminal's escape in a key", m.put(name_at + 10, b"\x1b[2J"), "control character"),
        format("a key twice", with_count(m.splice(first.entry.clone(), &twice), m.keys.len() + 1), "occurs twice"),
        format("type 13", m.put(first.type_at, &13u32.to_le_bytes()), "unknown type 13"),
        format("type 255", m.put(first.type_at, &255u32.to_le_bytes()), "unknown type 255"),
        format("an array of arrays", m.put(tokens.value_at, &9u32.to_le_bytes()), "array of arrays"),
        format("an array of type 77", m.put(tokens.value_at, &77u32.to_le_bytes()), "unknown type 77"),
        format(
            "an array of 2^63",
            m.put(tokens.value_at + 4, &(1u64 << 63).to_le_bytes()),
            "claims 9223372036854775808",
        ),
        format("a text past the end", m.put(first.value_at, &(1u64 << 50).to_le_bytes()), "general.architecture needs"),
        format("a truth value of 2", m.put(bos.value_at, &[2]), "truth value of 2"),
        format("no alignment", m.with("general.alignment", Value::U32(0)), "general.alignment"),
        format("an alignment of 3", m.with("general.alignment", Value::U32(3)), "general.alignment"),
        format("an alignment of 2^30", m.with("general.alignment", Value::U32(1 << 30)), "general.alignment"),
        format("a signed alignment", m.with("general.alignment", Value::I32(32)), "general.alignment"),
        format("a text as alignment", m.with("general.alignment", Value::String("32".into())), "general.alignment"),
        format("a number as architecture", m.with("general.architecture", Value::U32(7)), "general.architecture"),
        format("no architecture", m.without("general.architecture"), "general.architecture"),
        Case::new(
            "an adapter",
            m.with("general.type", Value::String("adapter".into())),
            Kind::Mismatch,
            "an adapter, not a model",
        ),
        Case::new("a part", m.with("split.count", Value::U16(2)), Kind::Unsupported, "split"),
    ]
}

/// The bytes with another count of keys.
fn with_count(mut bytes: Vec<u8>, n_keys: usize) -> Vec<u8> {
    bytes[N_KEYS_AT..N_KEYS_AT + 8].copy_from_slice(&(n_keys as u64).to_le_bytes());
    bytes
}

fn directory(m: &Image) -> Vec<Case> {
    let (first, second) = (&m.tensors[0], &m.tensors[1]);
    let mut long_name = 64u64.to_le_bytes().to_vec();
    long_name.extend([b'x'; 64]);
    let offset = |n: u64| m.put(second.offset_at, &n.to_le_bytes());
    let ne = |place: usize, n: u64| m.put(first.ne_at + 8 * place, &n.to_le_bytes());
    let ty = |n: u32| m.put(first.type_at, &n.to_le_bytes());
    let dims = |n: u32| m.put(first.n_dims_at, &n.to_le_bytes());
    let mut huge = m.clone();
    huge.bytes = ne(0, 1 << 62);
    let mut cases = vec![
        format("a name of 64 bytes", m.splice(first.entry.start..first.n_dims_at, &long_name), "longer than 63 bytes"),
        format(
            "a name twice",
            m.splice(second.entry.start..second.n_dims_at, &m.bytes[first.entry.start..first.n_dims_at]),
            "occurs twice",
        ),
        format("no dimensions", dims(0), "0 dimensions"),
        format("five dimensions", dims(5), "5 dimensions"),
        format("2^32-1 dimensions", dims(u32::MAX), "4294967295 dimensions"),
        format("an empty axis", ne(0, 0), "dimension of 0"),
        format("a negative axis", ne(1, u64::MAX), "dimension of"),
        format("2^62 squared elements", huge.put(first.ne_at + 8, &(1u64 << 62).to_le_bytes()), "cannot be q8_0"),
        format("rows of no whole block", ne(0, 63), "cannot be q8_0"),
        format("a removed type", ty(4), "removed type 4"),
        format("an unknown type", ty(1000), "removed type 1000"),
        format("an offset of no multiple", offset(1), "no multiple of 32"),
        format("an overlap", offset(0), "overlap"),
        format("an offset past the end", offset(1 << 40), "outside the file"),
        format("an offset that wraps", offset(u64::MAX - 31), "outside the file"),
        format("more rows than bytes", ne(1, 1 << 30), "outside the file"),
    ];
    // The last tensor's padding may be missing, its data may not.
    let last = m.tensor("output_norm.weight");
    let data_at = m.header_end().next_multiple_of(32)
        + u64::from_le_bytes(m.bytes[last.offset_at..last.offset_at + 8].try_into().unwrap()) as usize;
    cases.push(format("a byte too few", m.bytes[..data_at + 4 * 64 - 1].to_vec(), "output_norm.weight"));
    cases
}

/// Tensors that llama.cpp cannot multiply by. Shapes that do not fit are for its loader to refuse (see `program`).
fn shapes(m: &Image) -> Vec<Case> {
    let integers = |ty: Type, bytes: usize| {
        m.edited(|content| {
            let tensor = content.tensor("blk.1.ffn_down.weight");
            (tensor.1, tensor.3) = (ty, vec![1; tensor.2.iter().product::<u64>() as usize * bytes]);
        })
    };
    [(Type::I8, 1), (Type::I16, 2), (Type::I32, 4), (Type::I64, 8), (Type::F64, 8)]
        .map(|(ty, bytes)| {
            Case::new(
                format!("a weight of {}", ty.name()),
                integers(ty, bytes),
                Kind::Unsupported,
                "blk.1.ffn_down.weight",
            )
        })
        .into()
}

fn sizes(m: &Image) -> Vec<Case> {
    let mut cases = Vec::new();
    for key in ["block_count", "embedding_length", "context_length"] {
        let key = format!("llama.{key}");
        cases.push(format(format!("no {key}"), m.without(&key), &key));
        cases.push(format(format!("{key} of 0"), m.with(&key, Value::U32(0)), &key));
        cases.push(format(format!("{key} as text"), m.with(&key, Value::String("2".into())), &key));
        cases.push(format(format!("{key} as fraction"), m.with(&key, Value::F32(2.0)), &key));
    }
    let u32s: [(&str, &[u32]); 12] = [
        ("block_count", &[513, 1_000_000, u32::MAX]),
        ("attention.head_count", &[0, u32::MAX]),
        ("attention.head_count_kv", &[0, 3, u32::MAX]),
        ("feed_forward_length", &[0]),
        ("rope.dimension_count", &[0, 3, 18, u32::MAX]),
        ("expert_count", &[2, 1025, u32::MAX]),
        ("expert_used_count", &[1, u32::MAX]),
        ("expert_group_count", &[1, 7]),
        ("nextn_predict_layers", &[2, 3, u32::MAX]),
        ("attention.sliding_window", &[i32::MAX as u32, u32::MAX]),
        ("attention.key_length", &[0]),
        ("attention.value_length", &[0]),
    ];
    for (key, values) in u32s {
        for &value in values {
            let says = if key == "expert_count" && value < 1000 {
                "llama.expert_used_count".to_owned()
            } else {
                format!("llama.{key}")
            };
            cases.push(format(format!("{key} of {value}"), m.with(&format!("llama.{key}"), Value::U32(value)), &says));
        }
    }
    let none = Value::Array(Array::U32(vec![0, 4]));
    cases.push(format(
        "no heads in a block that attends",
        m.with("llama.attention.head_count", none),
        "is 0 or missing for block 0",
    ));
    cases.push(format("no number of heads", m.without("llama.attention.head_count"), "is 0 or missing for block 0"));
    let none = Value::Array(Array::U32(vec![2, 0]));
    cases.push(format(
        "no key heads in a block that attends",
        m.with("llama.attention.head_count_kv", none),
        "is 0 for block 1",
    ));
    let no_queries = m.edited(|content| content.tensors.retain(|t| t.0 != "blk.1.attn_q.weight"));
    cases.push(format("no queries in a block that attends", no_queries, "blk.1.attn_output.weight"));
    let negative = m.with("llama.attention.head_count", Value::I32(-4));
    cases.push(format("-4 heads", negative, "llama.attention.head_count is -4"));
    let each = |v: Vec<i32>| m.with("llama.attention.head_count", Value::Array(Array::I32(v)));
    cases.push(format("-1 heads in one block", each(vec![4, -1]), "llama.attention.head_count is -1"));
    let bools = m.with("llama.attention.head_count", Value::Array(Array::Bool(vec![true, true])));
    cases.push(format("truth values as heads", bools, "llama.attention.head_count"));
    let wide = m.with("llama.attention.sliding_window", Value::U32(100_000));
    let wide = Image::read(wide).with("llama.context_length", Value::U32(200_000));
    cases.push(Case::new("a window of 100,000 tokens", wide, Kind::Unsupported, "llama.attention.sliding_window"));
    cases
}

fn numbers(m: &Image) -> Vec<Case> {
    let mut cases = Vec::new();
    let bad = [f32::NAN, f32::INFINITY, -1.0];
    for key in ["attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor"] {
        let key = format!("llama.{key}");
        for value in bad {
            cases.push(format(format!("{key} of {value}"), m.with(&key, Value::F32(value)), &key));
        }
        cases.push(format(format!("{key} as text"), m.with(&key, Value::String("1".into())), &key));
    }
    cases.push(format("rope.freq_base of 0", m.with("llama.rope.freq_base", Value::F32(0.0)), "llama.rope.freq_base"));
    // Keys that no rule is about.
    cases.push(format("a NaN somewhere", m.with("llama.logit_scale", Value::F32(f32::NAN)), "llama.logit_scale"));
    cases.push(format("an infinity somewhere", m.with("llama.x", Value::F64(f64::INFINITY)), "llama.x"));
    let list = Value::Array(Array::F32(vec![1.0, f32::NAN]));
    cases.push(format("a NaN in a list", m.with("llama.y", list), "llama.y"));
    let scaling = "llama.rope.scaling.type";
    cases.push(format("an unknown RoPE", m.with(scaling, Value::String("zzz".into())), scaling));
    cases.push(format("a number for RoPE", m.with(scaling, Value::U32(1)), scaling));
    cases
}

fn tokenizer(m: &Image) -> Vec<Case> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let with = |name: &str, value| m.with(&key(name), value);
    let n = 288;
    let mut cases = vec![
        format("no tokens", m.without(&key("tokens")), "tokenizer.ggml.tokens"),
        format("an empty list of tokens", with("tokens", Value::Array(Array::String(vec![]))), "tokenizer.ggml.tokens"),
        format("numbers as tokens", with("tokens", Value::Array(Array::U32(vec![1, 2]))), "tokenizer.ggml.tokens"),
        format("a token twice", m.edited(|c| c.texts("tokenizer.ggml.tokens")[7] = "he".into()), "twice"),
        format(
            "a token twice up to a NUL",
            m.edited(|c| c.texts("tokenizer.ggml.tokens")[7] = "he\0x".into()),
            "twice",
        ),
        format(
            "the name of an empty token",
            m.edited(|c| {
                let tokens = c.texts("tokenizer.ggml.tokens");
                (tokens[7], tokens[8]) = (String::new(), "[EMPTY_7]".into());
            }),
            "twice",
        ),
        format(
            "a token of 1 MiB",
            m.edited(|c| c.texts("tokenizer.ggml.tokens")[7] = "x".repeat(1 << 20)),
            "1048576 bytes",
        ),
        format(
            "a token of 10 MB",
            m.edited(|c| c.texts("tokenizer.ggml.tokens")[7] = "x".repeat(10_000_000)),
            "10000000 bytes",
        ),
        format(
            "a merge without a space",
            m.edited(|c| c.texts("tokenizer.ggml.merges")[3] = "in".into()),
            "joins nothing",
        ),
        format(
            "a merge that is a space",
            m.edited(|c| c.texts("tokenizer.ggml.merges")[3] = " ".into()),
            "joins nothing",
        ),
        format("numbers as merges", with("merges", Value::Array(Array::U32(vec![1]))), "tokenizer.ggml.merges"),
        format("scores of bytes", with("scores", Value::Array(Array::U8(vec![1; n]))), "tokenizer.ggml.scores"),
        format("too few scores", with("scores", Value::Array(Array::F32(vec![1.0; n - 1]))), "tokenizer.ggml.scores"),
        format("kinds of bytes", with("token_type", Value::Array(Array::I8(vec![1; n]))), "tokenizer.ggml.token_type"),
        format("too few kinds", with("token_type", Value::Array(Array::I32(vec![1; 3]))), "tokenizer.ggml.token_type"),
        format("no kind of tokenizer", m.without(&key("model")), "tokenizer.ggml.model"),
        format("a number as template", m.with("tokenizer.chat_template", Value::U32(1)), "tokenizer.chat_template"),
        format(
            "a template of 5 MiB",
            m.with("tokenizer.chat_template", Value::String("x".repeat(5 << 20))),
            "tokenizer.chat_template",
        ),
    ];
    for name in ["none", "no_vocab", "test", "rwkv", "t5", "bert", "zzz"] {
        let bytes = with("model", Value::String(name.into()));
        cases.push(Case::new(format!("tokenizer {name}"), bytes, Kind::Unsupported, format!("{name:?}")));
    }
    let spm = with("model", Value::String("llama".into()));
    cases.push(Case::new("SentencePiece without byte tokens", spm, Kind::Unsupported, "no token for the byte 0x"));
    for name in ["bos", "eos", "eot", "unknown", "padding"] {
        let id = format!("{name}_token_id");
        cases.push(format(format!("{id} of {n}"), with(&id, Value::U32(n as u32)), &id));
        cases.push(format(format!("{id} of -1"), with(&id, Value::I32(-1)), &id));
    }
    for name in ["add_bos_token", "add_eos_token", "add_space_prefix"] {
        cases.push(format(format!("{name} as number"), with(name, Value::U32(1)), name));
    }
    cases
}

#[test]
fn every_bad_model_is_refused_by_name() {
    let cases = cases();
    assert!(cases.len() >= 120, "{} cases", cases.len());
    let verdict = |case: &Case| File::from_bytes(case.bytes.clone(), "bad.gguf").and_then(|f| validate_model(&f));
    let objections: Vec<_> = cases.iter().filter_map(|case| case.objection("bad.gguf", verdict(case))).collect();
    assert!(objections.is_empty(), "{}", objections.join("\n"));
}

#[test]
fn trailing_bytes_and_version_two_are_fine() {
    let model = Image::of("llama-tied");
    let longer = [model.bytes.as_slice(), b"garbage"].concat();
    for bytes in [longer, model.put(4, &2u32.to_le_bytes())] {
        File::from_bytes(bytes, "x").and_then(|f| validate_model(&f)).unwrap();
    }
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(File::open(dir.path()).unwrap_err().kind(), Kind::Format);
    assert_eq!(File::open(&dir.path().join("missing")).unwrap_err().kind(), Kind::Missing);
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert_eq!(File::open(&empty).unwrap_err().kind(), Kind::Format);
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if made.is_ok_and(|s| s.success()) {
        assert_eq!(File::open(&pipe).unwrap_err().kind(), Kind::Format);
    }
}
