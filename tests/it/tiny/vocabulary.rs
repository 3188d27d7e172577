//! One working tokenizer for every tiny model: byte-level BPE in GPT-2's alphabet, ChatML markers and template.

use llama_align::gguf::{Array, Value};

/// Number of tokens: 256 bytes, the merges, four markers.
pub(super) const SIZE: usize = 256 + MERGES.len() + MARKERS.len();

/// Merges in order of rank. `Ġ` is the space of GPT-2's alphabet; every left and right side is an earlier token.
const MERGES: [(&str, &str); 28] = [
    ("Ġ", "t"),
    ("h", "e"),
    ("i", "n"),
    ("Ġ", "a"),
    ("r", "e"),
    ("o", "n"),
    ("Ġt", "he"),
    ("e", "r"),
    ("a", "t"),
    ("o", "u"),
    ("e", "s"),
    ("Ġ", "w"),
    ("n", "d"),
    ("i", "s"),
    ("o", "r"),
    ("in", "g"),
    ("e", "n"),
    ("Ġ", "s"),
    ("i", "t"),
    ("Ġ", "o"),
    ("Ġa", "nd"),
    ("Ġ", "in"),
    ("a", "l"),
    ("Ġ", "is"),
    ("y", "ou"),
    ("Ġ", "you"),
    ("l", "l"),
    ("Ġo", "f"),
];

/// Tokens that text cannot spell, marked as control tokens; their ids follow the merges'.
const MARKERS: [&str; 4] = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"];

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
                      + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}\
                      {{ '<|im_start|>assistant\\n' }}{% endif %}";

/// GGUF's numbers for the kind of a token.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// The tokenizer's keys. A conversation turn ends with `<|im_end|>`, which is therefore the end token.
pub(super) fn keys(add_bos: bool) -> Vec<(&'static str, Value)> {
    let tokens = tokens();
    let kinds = (0..tokens.len()).map(|i| if i < SIZE - MARKERS.len() { NORMAL } else { CONTROL }).collect();
    let merges = MERGES.iter().map(|(left, right)| format!("{left} {right}")).collect();
    vec![
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
        ("tokenizer.ggml.merges", Value::Array(Array::String(merges))),
        ("tokenizer.ggml.bos_token_id", Value::U32(marker("<|bos|>"))),
        ("tokenizer.ggml.eos_token_id", Value::U32(marker("<|im_end|>"))),
        ("tokenizer.ggml.padding_token_id", Value::U32(marker("<|eos|>"))),
        ("tokenizer.ggml.add_bos_token", Value::Bool(add_bos)),
        ("tokenizer.chat_template", Value::String(CHATML.into())),
    ]
}

fn tokens() -> Vec<String> {
    let bytes = (0..=255u8).map(|byte| letter(byte).to_string());
    let merged = MERGES.iter().map(|(left, right)| format!("{left}{right}"));
    bytes.chain(merged).chain(MARKERS.iter().map(|m| m.to_string())).collect()
}

fn marker(name: &str) -> u32 {
    let at = MARKERS.iter().position(|m| *m == name).expect("a marker of the table");
    (SIZE - MARKERS.len() + at) as u32
}

/// The letter that stands for a byte: itself if it prints in Latin-1, else the next free code point from U+0100 on.
fn letter(byte: u8) -> char {
    let prints = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if prints(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&b| !prints(b)).count() as u32;
    char::from_u32(0x100 + rank).expect("below U+0200")
}

#[cfg(test)]
mod tests {
    use super::{letter, tokens, MERGES, SIZE};
    use std::collections::HashSet;

    #[test]
    fn tokens_are_distinct_and_merges_join_earlier_ones() {
        let tokens = tokens();
        assert_eq!(tokens.len(), SIZE);
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), SIZE);
        for (rank, (left, right)) in MERGES.iter().enumerate() {
            let known = &tokens[..256 + rank];
            assert!(known.iter().any(|t| t == left) && known.iter().any(|t| t == right), "{left} {right}");
        }
    }

    #[test]
    fn letters_are_gpt2s() {
        assert_eq!([b'!', b' ', b'\n', 0, 0xad, 0xff].map(letter), ['!', 'Ġ', 'Ċ', 'Ā', 'Ń', 'ÿ']);
    }
}
