//! Names of control tokens in the data stay text, and ordinary rows keep the tokens that they always had.

use crate::models::open;
use crate::random::Random;
use crate::tiny::all;
use llama_align::data::{EncodeOptions, Encoder, Message, Template, Text, Tokenize};
use llama_align::runtime::Model;
use quant::Type;

const N_ROWS: usize = 5000;

/// ChatML as the tiny models have it, and one that reads the data: it trims, and leaves out what was thought.
const READING: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}\
    {{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content | trim }}{% endif %}<|im_end|>\n\
    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Pieces that rows are made of: ordinary text, parts of names, and whole names.
const ORDINARY: [&str; 12] = [" the", "in", " a < b", "é", "\n", "</think>", "<b>", " |", "1 <2", "[x]", "日本", " "];
const HOSTILE: [&str; 8] =
    ["<|im_end|>", "<|im_start|>system\n", "<|eos|>", "<|bos|>", "<|im_", "end|>", "<|im_<think></think>end|>", "<"];

fn content(random: &mut Random, hostile: bool) -> String {
    let mut text = "x".to_owned();
    for _ in 0..1 + random.below(8) {
        let name = hostile && random.below(2) == 0;
        text.push_str(if name { HOSTILE[random.below(HOSTILE.len())] } else { ORDINARY[random.below(ORDINARY.len())] });
    }
    text + "y"
}

fn dialogue(random: &mut Random, hostile: bool) -> (Text, Text) {
    let mut messages = Vec::new();
    if random.below(2) == 0 {
        messages.push(Message::new("system", content(random, hostile)));
    }
    for _ in 0..random.below(3) {
        messages.push(Message::new("user", content(random, hostile)));
        messages.push(Message::new("assistant", content(random, hostile)));
    }
    messages.push(Message::new("user", content(random, hostile)));
    let answer = Message::new("assistant", content(random, hostile));
    (Text::Messages(messages), Text::Messages(vec![answer]))
}

/// Tokens that text cannot spell, in order.
fn control(model: &Model, tokens: &[i32]) -> Vec<i32> {
    tokens.iter().copied().filter(|token| model.piece(*token, false).is_empty()).collect()
}

fn text(model: &Model, tokens: &[i32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| model.piece(*token, true)).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_turn_ends_with_its_end_token_once() {
    let opened = open(&all()[0], Type::F32).unwrap();
    let model = opened.model.as_ref();
    let template = model.template().unwrap().unwrap();
    let encoder = Encoder::new(model, Some(&template), &EncodeOptions::default()).unwrap();
    let sequence = encoder.sequence(&Text::Plain("the".into()), &Text::Plain("in it".into())).unwrap();
    // The template writes a line break behind it, which a model that has ended its turn never does.
    let answer = &sequence.tokens[sequence.prompt_len..];
    assert_eq!(text(model, answer), "in it<|im_end|>");
    assert_eq!(model.text_of(answer[answer.len() - 1]), "<|im_end|>");
}

#[test]
fn names_in_data_are_text_in_thousands_of_rows() {
    let opened = open(&all()[0], Type::F32).unwrap();
    let model = opened.model.as_ref();
    let own = model.template().unwrap().unwrap();
    let reading = Template::new(READING, "", "").unwrap();
    let mut random = Random::of("special");
    let parsing = EncodeOptions { parse_special: true, ..EncodeOptions::default() };
    for row in 0..N_ROWS {
        let template = if row % 2 == 0 { &own } else { &reading };
        let hostile = row % 4 < 2;
        let (prompt, answer) = dialogue(&mut random, hostile);
        let (Text::Messages(messages), Text::Messages(answers)) = (&prompt, &answer) else { unreachable!() };
        let encoder = Encoder::new(model, Some(template), &EncodeOptions::default()).unwrap();
        let sequence = encoder.sequence(&prompt, &answer).unwrap();
        // The control tokens are the template's: those of a dialogue that says nothing but "x".
        let harmless = |m: &Message| Message::new(m.role.as_str(), "x");
        let bare = Text::Messages(messages.iter().map(harmless).collect());
        let bare = encoder.sequence(&bare, &Text::Messages(answers.iter().map(harmless).collect())).unwrap();
        assert_eq!(control(model, &sequence.tokens), control(model, &bare.tokens), "row {row}: {prompt:?} {answer:?}");
        // Its text is the whole rendering, up to the end of the turn.
        let whole: Vec<Message> = messages.iter().chain(answers).cloned().collect();
        let whole = template.render(&whole, false).unwrap();
        let bos = if model.adds_bos() { model.text_of(model.bos().unwrap()) } else { String::new() };
        assert_eq!(text(model, &sequence.tokens), bos + whole.trim_end_matches('\n'), "row {row}");
        if !hostile {
            let parsed = Encoder::new(model, Some(template), &parsing).unwrap();
            assert_eq!(sequence, parsed.sequence(&prompt, &answer).unwrap(), "row {row}: an ordinary row has changed");
        }
    }
}
