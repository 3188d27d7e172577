use super::*;
use crate::data::Controls;
use proptest::prelude::*;

const CHAT: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";
const CHAT_BOS: &str = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// One token per byte; three control tokens.
#[derive(Clone, Copy)]
pub(in crate::data) struct Bytes {
    pub(in crate::data) adds_bos: bool,
    /// Puts a space before text that does not begin with a control token, as SentencePiece does.
    pub(in crate::data) spaced: bool,
}

pub(in crate::data) const BOS: i32 = 256;
pub(in crate::data) const EOS: i32 = 257;
pub(in crate::data) const EOT: i32 = 258;
const CONTROL: [(&str, i32); 3] = [("<s>", BOS), ("</s>", EOS), ("<|end|>", EOT)];

impl Tokenize for Bytes {
    fn tokenize(&self, text: &str, parse_special: bool) -> Result<Vec<i32>> {
        let control_first = CONTROL.iter().any(|(name, _)| parse_special && text.starts_with(name));
        let space = if self.spaced && !text.is_empty() && !control_first { " " } else { "" };
        let spaced = format!("{space}{text}");
        let mut rest = spaced.as_str();
        let mut tokens = Vec::new();
        while let Some(first) = rest.chars().next() {
            let control = CONTROL.iter().find(|(name, _)| parse_special && rest.starts_with(name));
            let (bytes, token) = control.map_or((first.len_utf8(), None), |(name, token)| (name.len(), Some(*token)));
            match token {
                Some(token) => tokens.push(token),
                None => tokens.extend(rest.as_bytes()[..bytes].iter().map(|b| i32::from(*b))),
            }
            rest = &rest[bytes..];
        }
        Ok(tokens)
    }
    fn controls(&self) -> &Controls {
        static NAMES: std::sync::LazyLock<Controls> =
            std::sync::LazyLock::new(|| Controls::new(CONTROL.map(|(name, _)| name.to_owned())));
        &NAMES
    }
    fn bos(&self) -> Option<i32> {
        Some(BOS)
    }
    fn eos(&self) -> Option<i32> {
        Some(EOS)
    }
    fn eot(&self) -> Option<i32> {
        Some(EOT)
    }
    fn adds_bos(&self) -> bool {
        self.adds_bos
    }
    fn text_of(&self, token: i32) -> String {
        let control = CONTROL.iter().find(|(_, t)| *t == token);
        control.map_or_else(|| char::from(token as u8).to_string(), |(name, _)| (*name).to_owned())
    }
}

pub(in crate::data) fn decode(tokens: &[i32]) -> String {
    let mut bytes = Vec::new();
    for token in tokens {
        match CONTROL.iter().find(|(_, t)| t == token) {
            Some((name, _)) => bytes.extend(name.as_bytes()),
            None => bytes.push(*token as u8),
        }
    }
    String::from_utf8(bytes).unwrap()
}

const WITH_BOS: Bytes = Bytes { adds_bos: true, spaced: false };
const WITHOUT_BOS: Bytes = Bytes { adds_bos: false, spaced: false };

fn options(apply_template: bool) -> EncodeOptions {
    EncodeOptions { apply_template, ..EncodeOptions::default() }
}

fn text(s: &str) -> Text {
    Text::Plain(s.to_owned())
}

fn template(source: &str) -> Template {
    Template::new(source, "<s>", "</s>").unwrap()
}

fn parts(sequence: &Sequence) -> (String, String) {
    (decode(&sequence.tokens[..sequence.prompt_len]), decode(&sequence.tokens[sequence.prompt_len..]))
}

fn encode(tokenizer: &Bytes, source: Option<&str>, apply: bool, prompt: &str, answer: &str) -> (String, String) {
    let template = source.map(template);
    let encoder = Encoder::new(tokenizer, template.as_ref(), &options(apply)).unwrap();
    let sequence = encoder.sequence(&text(prompt), &text(answer)).unwrap();
    assert_eq!(encoder.prompt(&text(prompt)).unwrap(), sequence.tokens[..sequence.prompt_len]);
    parts(&sequence)
}

fn both(prompt: &str, answer: &str) -> (String, String) {
    (prompt.to_owned(), answer.to_owned())
}

#[test]
fn plain_text_ends_with_eos_once() {
    assert_eq!(encode(&WITH_BOS, None, true, "Q:", " A"), both("<s>Q:", " A</s>"));
    assert_eq!(encode(&WITHOUT_BOS, None, true, "Q:", " A</s>"), both("Q:", " A</s>"));
    // Names that files write around texts are not doubled; elsewhere they are text.
    assert_eq!(encode(&WITH_BOS, None, true, "<s><s>Q:", " A"), both("<s>Q:", " A</s>"));
    assert_eq!(encode(&WITH_BOS, Some(CHAT), false, "Q:", " A"), both("<s>Q:", " A</s>"));
}

#[test]
fn a_string_prompt_becomes_a_user_message() {
    let expected = both("<s><|user|>Q<|end|>\n<|assistant|>", "A<|end|>");
    assert_eq!(encode(&WITH_BOS, Some(CHAT), true, "Q", " A\n"), expected);
    assert_eq!(encode(&WITH_BOS, Some(CHAT_BOS), true, "Q", "A"), expected);
    assert_eq!(encode(&WITHOUT_BOS, Some(CHAT_BOS), true, "Q", "A"), expected);
    let without = both("<|user|>Q<|end|>\n<|assistant|>", "A<|end|>");
    assert_eq!(encode(&WITHOUT_BOS, Some(CHAT), true, "Q", "A"), without);
}

#[test]
fn a_dialogue_in_plain_text_becomes_its_turns() {
    let prompt = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:";
    let head = "<|user|>a<|end|>\n<|assistant|>b<|end|>\n<|user|>c<|end|>\n<|assistant|>";
    assert_eq!(encode(&WITHOUT_BOS, Some(CHAT), true, prompt, " d"), both(head, "d<|end|>"));
    assert_eq!(encode(&WITHOUT_BOS, None, true, prompt, " d"), both(prompt, " d</s>"));
}

#[test]
fn message_lists_go_through_the_template_always() {
    let prompt = Text::Messages(vec![Message::new("system", "S"), Message::new("user", "U")]);
    let answer = Text::Messages(vec![Message::new("assistant", "A")]);
    let chat = template(CHAT);
    let got = Encoder::new(&WITHOUT_BOS, Some(&chat), &options(false)).unwrap().sequence(&prompt, &answer).unwrap();
    assert_eq!(parts(&got), both("<|system|>S<|end|>\n<|user|>U<|end|>\n<|assistant|>", "A<|end|>"));
    let error = Encoder::new(&WITHOUT_BOS, None, &options(true)).unwrap().sequence(&prompt, &answer).unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch);
}

#[test]
fn the_turn_ends_with_its_end_whatever_the_template_writes() {
    let source = |tail: &str| {
        format!("{{% for m in messages %}}[{{{{ m.role }}}}]{{{{ m.content }}}}{tail}{{% endfor %}}{{% if add_generation_prompt %}}[assistant]{{% endif %}}")
    };
    for (tail, end) in [("", "<|end|>"), ("</s>", "</s>"), ("<|end|> \n\n", "<|end|>"), ("<|end|>;", "<|end|>;<|end|>")]
    {
        let got = encode(&WITHOUT_BOS, Some(&source(tail)), true, "Q", "A");
        assert_eq!(got.1, format!("A{end}"), "{tail:?}");
    }
}

#[test]
fn a_dummy_space_stays_out_of_answers() {
    let spaced = Bytes { adds_bos: true, spaced: true };
    assert_eq!(encode(&spaced, None, true, "Q:", "A"), both("<s> Q:", "A</s>"));
    assert_eq!(encode(&spaced, None, true, "Q:", " A"), both("<s> Q:", " A</s>"));
}

#[test]
fn faults_are_errors() {
    let fails = |source: &str, prompt: &str, answer: &str| {
        let template = template(source);
        let encoder = Encoder::new(&WITHOUT_BOS, Some(&template), &options(true)).unwrap();
        encoder.sequence(&text(prompt), &text(answer)).unwrap_err()
    };
    let otherwise =
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}{% if add_generation_prompt %}bot:{% endif %}";
    assert!(fails(otherwise, "Q", "A").to_string().contains("told apart"));
    assert!(fails(CHAT, "Q", " ").to_string().contains("answer has no tokens"));
    assert!(fails("{{ raise_exception('never') }}", "Q", "A").to_string().contains("never"));
    let plain = Encoder::new(&WITHOUT_BOS, None, &options(true)).unwrap();
    assert!(plain.sequence(&text(""), &text("A")).unwrap_err().to_string().contains("prompt has no tokens"));
    assert!(plain.sequence(&text("Q"), &text("</s>")).unwrap_err().to_string().contains("answer has no tokens"));
}

/// Control tokens of a sequence, in order.
fn control(tokens: &[i32]) -> Vec<i32> {
    tokens.iter().copied().filter(|token| *token >= BOS).collect()
}

#[test]
fn names_of_control_tokens_in_data_stay_text() {
    let messages = |list: &[(&str, &str)]| Text::Messages(list.iter().map(|(r, c)| Message::new(*r, *c)).collect());
    let prompt = messages(&[("system", "<s>"), ("user", " <|end|>\n<|user|>x</s> <think>")]);
    let answer = messages(&[("assistant", "</s><|end|>")]);
    for spaced in [false, true] {
        let tokenizer = Bytes { adds_bos: true, spaced };
        let chat = template(CHAT);
        let encoder = Encoder::new(&tokenizer, Some(&chat), &options(true)).unwrap();
        let sequence = encoder.sequence(&prompt, &answer).unwrap();
        assert_eq!(control(&sequence.tokens), [BOS, EOT, EOT, EOT]);
        if !spaced {
            let (head, turn) = parts(&sequence);
            assert_eq!(head, "<s><|system|><s><|end|>\n<|user|> <|end|>\n<|user|>x</s> <think><|end|>\n<|assistant|>");
            assert_eq!(turn, "</s><|end|><|end|>");
        }
        let parsed = EncodeOptions { parse_special: true, ..options(true) };
        let encoder = Encoder::new(&tokenizer, Some(&chat), &parsed).unwrap();
        let sequence = encoder.sequence(&prompt, &messages(&[("assistant", "x</s>")])).unwrap();
        assert_eq!(control(&sequence.tokens), [BOS, BOS, EOT, EOT, EOS, EOT, EOS, EOT]);
    }
    let plain = Encoder::new(&WITH_BOS, None, &options(true)).unwrap();
    let sequence = plain.sequence(&text("a<s>b"), &text("x</s>y</s>")).unwrap();
    assert_eq!(control(&sequence.tokens), [BOS, EOS]);
    assert_eq!(parts(&sequence), both("<s>a<s>b", "x</s>y</s>"));
}

#[test]
fn masks_choose_the_tokens_with_a_loss() {
    let messages = |list: &[(&str, &str)]| Text::Messages(list.iter().map(|(r, c)| Message::new(*r, *c)).collect());
    let prompt = messages(&[("system", "S"), ("user", "U"), ("assistant", "A<s>"), ("user", "V")]);
    let answer = messages(&[("assistant", "B")]);
    let chat = template(CHAT_BOS);
    let scored = |mask| {
        let encoder = Encoder::new(&WITHOUT_BOS, Some(&chat), &EncodeOptions { mask, ..options(true) }).unwrap();
        let sequence = encoder.sequence(&prompt, &answer).unwrap();
        assert_eq!(sequence.scored().count(), sequence.n_scored());
        let whole = decode(&sequence.tokens);
        (whole, decode(&sequence.scored().map(|i| sequence.tokens[i]).collect::<Vec<_>>()))
    };
    let (whole, last) = scored(LossMask::Completion);
    assert_eq!(
        (last.as_str(), scored(LossMask::Assistant)),
        ("B<|end|>", (whole.clone(), "A<s><|end|>B<|end|>".into()))
    );
    assert_eq!(scored(LossMask::All), (whole.clone(), whole["<s>".len()..].to_owned()));
    // A template that ends no turn cannot tell where an earlier one ends.
    let open = template("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}");
    let options = EncodeOptions { mask: LossMask::Assistant, ..options(true) };
    let error = Encoder::new(&WITHOUT_BOS, Some(&open), &options).unwrap().sequence(&prompt, &answer).unwrap_err();
    assert!(error.to_string().contains("loss mask completion"), "{error}");
}

#[test]
fn a_text_is_learned_from_its_second_token() {
    let encoder = |tokenizer| Encoder::new(tokenizer, None, &options(true)).unwrap();
    let sequence = encoder(&WITH_BOS).text("abc").unwrap();
    assert_eq!((parts(&sequence), sequence.n_scored()), (both("<s>", "abc</s>"), 4));
    assert_eq!(parts(&encoder(&WITHOUT_BOS).text("a").unwrap()), both("a", "</s>"));
    assert!(encoder(&WITHOUT_BOS).text("").is_err());
}

proptest! {
    #[test]
    fn the_prompt_begins_every_answer_and_bos_comes_once(
        prompt in "\\PC{1,40}", answers in proptest::collection::vec("[^\\s]\\PC{0,40}", 1..4),
        adds_bos: bool, spaced: bool, source in proptest::option::of(prop_oneof![Just(CHAT), Just(CHAT_BOS)]),
    ) {
        let tokenizer = Bytes { adds_bos, spaced };
        let template = source.map(template);
        let encoder = Encoder::new(&tokenizer, template.as_ref(), &options(true)).unwrap();
        let head = encoder.prompt(&text(&prompt)).unwrap();
        for answer in answers {
            let sequence = encoder.sequence(&text(&prompt), &text(&answer)).unwrap();
            prop_assert_eq!(&sequence.tokens[..sequence.prompt_len], head.as_slice());
            prop_assert!(sequence.tokens.len() > sequence.prompt_len);
            let bos = sequence.tokens.iter().filter(|token| **token == BOS).count();
            let due = adds_bos || source == Some(CHAT_BOS);
            prop_assert_eq!(bos, usize::from(due));
            let end = if source.is_some() { EOT } else { EOS };
            prop_assert_eq!(sequence.tokens.iter().rposition(|t| *t == end), Some(sequence.tokens.len() - 1));
            let body = decode(&sequence.tokens[sequence.prompt_len..sequence.tokens.len() - 1]);
            prop_assert_eq!(body.trim(), answer.trim());
        }
    }
}
