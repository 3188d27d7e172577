//! What must never reach an output: memory that belongs to no tensor (CVE-2026-7482: a tensor past the end of its file, and a
//! quantiser that copies what lies there), and numbers that are none.

use super::adapters;
use super::image::Image;
use super::program::{files, refused, run};
use crate::models::runtime;
use llama_align::error::{Kind, Result};
use llama_align::gguf::File;
use llama_align::merge::{fold, merge, Method, Options, OutType, Report};
use quant::Type;
use std::path::Path;

/// Merges `bad.gguf` with `good.gguf` in this order, or folds an adapter into the first.
fn attempt(dir: &Path, names: &[&str], out: OutType) -> Result<Report> {
    let files = names.iter().map(|name| File::open(&dir.join(name))).collect::<Result<Vec<_>>>()?;
    let (options, output) = (Options { out, overwrite: true, ..Options::default() }, dir.join("out.gguf"));
    let (runtime, method) = (runtime(), Method::linear(&[0.5, 0.5]));
    match files.as_slice() {
        [base, adapter] if adapter.get("adapter.type").is_some() => {
            fold(&runtime, base, &[(adapter, 1.0)], &options, Some(&output), &mut |_| {})
        }
        _ => {
            let models: Vec<&File> = files.iter().collect();
            merge(&runtime, &models, None, &method, &options, Some(&output), &mut |_| {})
        }
    }
}

#[test]
fn a_tensor_past_the_end_of_its_file_never_reaches_an_output() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = Image::of(adapters::BASE);
    let adapter = Image::read(adapters::good(&good));
    std::fs::write(dir.join("good.gguf"), &good.bytes).unwrap();
    std::fs::write(dir.join("adapter.gguf"), &adapter.bytes).unwrap();
    let bad = |image: &Image| -> Vec<Vec<u8>> {
        let data = image.header_end().next_multiple_of(32) as u64;
        let length = image.bytes.len() as u64;
        let offsets = [length - data, (length - data).next_multiple_of(32) + 32, 1 << 32, 1 << 62, u64::MAX - 31];
        let offsets = offsets.map(|offset| offset.next_multiple_of(32));
        // One more row than there are bytes for, and a file that ends within its data.
        let longer = |ne_at: usize| image.put(ne_at + 8, &(1u64 << 40).to_le_bytes());
        let moved =
            image.tensors.iter().flat_map(|t| offsets.map(|offset| image.put(t.offset_at, &offset.to_le_bytes())));
        let matrices = image.tensors.iter().filter(|t| t.type_at - t.ne_at >= 16).map(|t| longer(t.ne_at));
        let cut = (1..20).map(|n| image.bytes[..image.bytes.len() - 97 * n].to_vec());
        moved.chain(matrices).chain(cut).collect()
    };
    let before = files(dir);
    let mut n = 0;
    for (image, orders) in [
        (&good, &[["bad.gguf", "good.gguf"], ["good.gguf", "bad.gguf"], ["bad.gguf", "adapter.gguf"]][..]),
        (&adapter, &[["good.gguf", "bad.gguf"]]),
    ] {
        for bytes in bad(image) {
            std::fs::write(dir.join("bad.gguf"), bytes).unwrap();
            for names in orders {
                let error = attempt(dir, names, OutType::Named(Type::Q8_0)).unwrap_err();
                assert!(error.kind() == Kind::Format && error.to_string().contains("bad.gguf"), "{names:?}: {error}");
                n += 1;
            }
            std::fs::remove_file(dir.join("bad.gguf")).unwrap();
        }
    }
    assert!(n > 300, "{n} attempts");
    assert_eq!(files(dir), before);
    std::fs::write(dir.join("bad.gguf"), bad(&good).swap_remove(0)).unwrap();
    refused(
        dir,
        &["merge", "-m", "bad.gguf", "-m", "good.gguf", "-o", "out.gguf"],
        65,
        &["bad.gguf", "outside the file"],
    );
    refused(dir, &["merge", "-m", "bad.gguf", "--lora", "adapter.gguf", "-o", "out.gguf"], 65, &["outside the file"]);
}

/// Fills memory that is then free with a pattern.
fn taint(pattern: &[u8; 16]) {
    let sizes = (6..22).flat_map(|i| [1usize << i, (1 << i) + 48, 3 << (i - 1)]);
    let blocks: Vec<Vec<u8>> = sizes.flat_map(|n| std::iter::repeat_n(n, 4)).map(|n| pattern.repeat(n / 16)).collect();
    assert!(blocks.iter().all(|b| std::hint::black_box(b).len() >= 64));
}

#[test]
fn outputs_hold_nothing_of_the_memory_they_were_made_in() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = Image::of(adapters::BASE);
    std::fs::write(dir.join("a.gguf"), &good.bytes).unwrap();
    let other = good.edited(|content| content.tensor("blk.0.ffn_up.weight").3[40] ^= 5);
    // The last tensor without its padding, which other writers leave away.
    std::fs::write(dir.join("b.gguf"), &other[..other.len() - other.len() % 32]).unwrap();
    std::fs::write(dir.join("adapter.gguf"), adapters::good(&good)).unwrap();
    let types = [OutType::Keep, OutType::Named(Type::F16), OutType::Named(Type::Q4_0), OutType::Named(Type::F32)];
    for (i, out) in types.into_iter().enumerate() {
        for names in [["a.gguf", "b.gguf"], ["a.gguf", "adapter.gguf"]] {
            let made = [*b"CANARY-of-a-heap", *b"another-pattern!"].map(|pattern| {
                taint(&pattern);
                attempt(dir, &names, out).unwrap();
                let bytes = std::fs::read(dir.join("out.gguf")).unwrap();
                assert!(bytes.windows(8).all(|w| w != &pattern[..8]), "{names:?} {i}");
                bytes
            });
            assert!(made[0] == made[1], "{names:?} {i}: the bytes depend on the heap");
        }
    }
}

#[test]
fn weights_that_are_no_numbers_stop_a_merge_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = Image::of(adapters::BASE);
    std::fs::write(dir.join("good.gguf"), &good.bytes).unwrap();
    std::fs::write(dir.join("adapter.gguf"), adapters::good(&good)).unwrap();
    // The scale of the third block of a weight, in 16 bits.
    for (what, scale) in [("NaN", 0x7e00u16), ("infinite", 0x7c00)] {
        let bytes = good.edited(|content| {
            content.tensor("blk.0.attn_q.weight").3[68..70].copy_from_slice(&scale.to_le_bytes());
        });
        std::fs::write(dir.join("bad.gguf"), bytes).unwrap();
        for names in [["bad.gguf", "good.gguf"], ["good.gguf", "bad.gguf"]] {
            let error = attempt(dir, &names, OutType::Keep).unwrap_err();
            assert!(
                error.kind() == Kind::Numeric && error.to_string().contains("blk.0.attn_q.weight"),
                "{what}: {error}"
            );
        }
        refused(dir, &["merge", "-m", "bad.gguf", "-m", "good.gguf", "-o", "out.gguf"], 76, &["blk.0.attn_q.weight"]);
    }
    // Zeros are numbers.
    std::fs::write(dir.join("zero.gguf"), good.edited(|c| c.tensor("blk.0.attn_q.weight").3.fill(0))).unwrap();
    attempt(dir, &["zero.gguf", "good.gguf"], OutType::Keep).unwrap();
    // An adapter of a larger rank than its weight has rows is unusual, and fine.
    let adapter = Image::read(adapters::good(&good)).edited(|content| {
        let wide = |ne: Vec<u64>| (ne.clone(), vec![0; ne.iter().product::<u64>() as usize * 4]);
        for (name, ne) in [("lora_a", vec![64, 100]), ("lora_b", vec![100, 64])] {
            let tensor = content.tensor(&format!("blk.0.attn_q.weight.{name}"));
            (tensor.2, tensor.3) = wide(ne);
        }
    });
    std::fs::write(dir.join("wide.gguf"), adapter).unwrap();
    attempt(dir, &["good.gguf", "wide.gguf"], OutType::Keep).unwrap();
    let ran = run(dir, &["generate", "-m", "good.gguf", "-p", "hi", "-n", "1", "-t", "1", "--lora", "wide.gguf"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
}
