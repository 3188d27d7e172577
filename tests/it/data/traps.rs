//! What other trainers fell into, and the test that would see it here:
//!
//! | trap | seen in | held by |
//! |---|---|---|
//! | BOS once more before chosen and rejected | axolotl #1616 | `traps::a_pair_has_one_bos_at_its_beginning` |
//! | an end token too many | unsloth #3228 | `traps::an_answer_ends_once` |
//! | truncation that takes from the prompt | trl #2209 | `traps::a_cut_row_keeps_its_prompt_and_is_cut_at_its_end` |
//! | a token counted that has no loss | trl #6879 | `traps::what_is_counted_is_what_is_scored` |
//! | `keep_end`, deprecated where it was invented | trl 2 | `traps::a_cut_row_keeps_its_prompt_and_is_cut_at_its_end` |
//! | tokens that merge where prompt and answer meet | trl | `traps::what_could_merge_where_prompt_and_answer_meet_stays_apart` |
//! | DPO behind SFT whose reference is the bare base | LLaMA-Factory #8974 | `continued::the_reference_is_the_model_with_the_adapter_that_a_run_starts_from` |
//! | a mask that silences every row, unseen | trl #4201, unsloth #1262 | `traps::a_template_without_generation_tags_silences_nobody` |
//! | rows in which nothing has a loss | trl #4201 | `traps::rows_without_a_loss_are_refused_or_counted` |
//! | `{% generation %}` unknown to the engine | llama-cpp-python #2225 | `traps::generation_tags_change_nothing` |
//! | micro-batches weighed alike, whatever they hold | transformers, 2024 | `trainer::splitting_a_step_changes_nothing_but_rounding` |
//! | a packed row that sees its neighbour | transformers | `trainer::packed_rows_make_the_step_that_they_make_alone` |
//! | log(1 − exp x) by subtraction (ORPO) | LLaMA-Factory | `preference_tests::extremes_stay_finite` |
//! | control tokens spelled by the data | many | `special::names_in_data_are_text_in_thousands_of_rows` |
//! | resuming without the optimizer's memory | mlx-lm, axolotl | `kill::dpo` |

use crate::models::{open, Opened};
use crate::tiny::find;
use llama_align::data::{
    rows_from_json, Columns, Dataset, EncodeOptions, Encoder, LossMask, Message, Rows, Sample, Sequence, Template,
    Text, Tokenize, TooLong,
};
use llama_align::error::Result;
use llama_align::runtime::Model;
use quant::Type;

/// One whose tokenizer puts BOS before every text, and one whose does not.
fn models() -> [Opened; 2] {
    let opened = ["llama-tied", "gemma2"].map(|name| open(&find(name), Type::F32).unwrap());
    let adds: Vec<bool> = opened.iter().map(|o| o.model.adds_bos()).collect();
    assert!(adds.contains(&true) && adds.contains(&false), "{adds:?}");
    opened
}

/// ChatML, and ChatML that begins with BOS as Llama 3's and Gemma's templates do.
fn templates(model: &Model) -> [Template; 2] {
    let own = model.chat_template().unwrap();
    let names = [model.bos(), model.eos()].map(|token| model.text_of(token.unwrap()));
    [own.to_owned(), format!("{{{{ bos_token }}}}{own}")].map(|t| Template::new(&t, &names[0], &names[1]).unwrap())
}

fn read(rows: &str) -> Result<Rows> {
    rows_from_json("rows.jsonl", &rows.lines().collect::<Vec<_>>(), &Columns::default())
}

fn dataset(rows: &str, model: &Model, template: Option<&Template>, options: &EncodeOptions) -> Dataset {
    let rows = read(rows).unwrap();
    Dataset::encode(&rows, model, template, options).unwrap()
}

fn pair(sample: &Sample) -> [&Sequence; 2] {
    match sample {
        Sample::Pair { chosen, rejected, .. } => [chosen, rejected],
        other => panic!("{other:?}"),
    }
}

fn count(tokens: &[i32], token: Option<i32>) -> usize {
    tokens.iter().filter(|t| Some(**t) == token).count()
}

fn spelled(model: &Model, tokens: &[i32]) -> String {
    String::from_utf8(tokens.iter().flat_map(|token| model.piece(*token, true)).collect()).unwrap()
}

const PAIRS: &str = r#"{"prompt":"the rest","chosen":"in it","rejected":"on"}
{"prompt":[{"role":"user","content":"you"}],"chosen":[{"role":"assistant","content":"in"}],"rejected":[{"role":"assistant","content":"or"}]}
"#;
/// The same prompts and answers as text of their own.
const PLAIN: &str = "{\"prompt\":\"the rest\",\"chosen\":\" in it\",\"rejected\":\" on\"}\n";

#[test]
fn a_pair_has_one_bos_at_its_beginning() {
    for opened in models() {
        let model = opened.model.as_ref();
        let check = |rows: &str, template: Option<&Template>, due: bool| {
            for sample in &dataset(rows, model, template, &EncodeOptions::default()).samples {
                let [chosen, rejected] = pair(sample);
                assert_eq!(chosen.tokens[..chosen.prompt_len], rejected.tokens[..rejected.prompt_len]);
                for sequence in [chosen, rejected] {
                    assert_eq!(count(&sequence.tokens, model.bos()), usize::from(due), "{sequence:?}");
                    assert_eq!(sequence.tokens.first().copied() == model.bos(), due, "{sequence:?}");
                }
            }
        };
        let [own, with_bos] = templates(model);
        check(PAIRS, Some(&own), model.adds_bos());
        check(PAIRS, Some(&with_bos), true);
        check(PLAIN, None, model.adds_bos());
    }
}

#[test]
fn an_answer_ends_once() {
    for opened in models() {
        let model = opened.model.as_ref();
        let [own, _] = templates(model);
        let end = model.text_of(model.eos().unwrap());
        // Files of other programs write the end's name behind the answer.
        let ended = format!("{{\"prompt\":\"the rest\",\"chosen\":\" in it{end}\",\"rejected\":\" on\"}}\n");
        for (rows, template) in [(PAIRS, Some(&own)), (PLAIN, None), (&ended, None)] {
            for sample in &dataset(rows, model, template, &EncodeOptions::default()).samples {
                for sequence in pair(sample) {
                    let answer = &sequence.tokens[sequence.prompt_len..];
                    let ends = [model.eot(), model.eos()];
                    assert_eq!(answer.iter().filter(|t| ends.contains(&Some(**t))).count(), 1, "{rows}");
                    assert!(ends.contains(&answer.last().copied()), "{rows}");
                }
            }
        }
    }
}

#[test]
fn a_cut_row_keeps_its_prompt_and_is_cut_at_its_end() {
    let opened = &models()[0];
    let model = opened.model.as_ref();
    let [own, _] = templates(model);
    let whole = dataset(PAIRS, model, Some(&own), &EncodeOptions::default());
    let [chosen, rejected] = pair(&whole.samples[0]);
    let longest = chosen.tokens.len().max(rejected.tokens.len());
    for max_length in chosen.prompt_len + 2..longest {
        let options = EncodeOptions { max_length, too_long: TooLong::Truncate, ..EncodeOptions::default() };
        let cut = dataset(PAIRS, model, Some(&own), &options);
        let cut = pair(cut.samples.iter().find(|s| s.line() == 1).unwrap());
        for (cut, whole) in cut.iter().zip([chosen, rejected]) {
            assert_eq!(cut.prompt_len, whole.prompt_len);
            assert_eq!(cut.tokens, whole.tokens[..max_length.min(whole.tokens.len())]);
        }
    }
    let error = TooLong::from_name("keep_end").unwrap_err().to_string();
    assert!(error.contains("keep_end is none of drop, truncate, error"), "{error}");
}

/// The report, which a run prints and divides by, counts the tokens whose log-probs the loss sees.
#[test]
fn what_is_counted_is_what_is_scored() {
    let opened = &models()[0];
    let model = opened.model.as_ref();
    let [own, _] = templates(model);
    let turns = [("user", "the"), ("assistant", "in"), ("user", "a"), ("assistant", "of it")];
    let turn = |(role, content): (&str, &str)| format!("{{\"role\":\"{role}\",\"content\":\"{content}\"}}");
    let chat = format!("{{\"messages\":[{}]}}\n", turns.map(turn).join(","));
    for mask in [LossMask::Completion, LossMask::Assistant, LossMask::All] {
        let whole = dataset(&chat, model, Some(&own), &EncodeOptions { mask, ..EncodeOptions::default() });
        let n = whole.samples[0].sequences().next().unwrap().tokens.len();
        for max_length in [n, n - 1, n - 3] {
            let options = EncodeOptions { mask, max_length, too_long: TooLong::Truncate, ..EncodeOptions::default() };
            let data = dataset(&chat, model, Some(&own), &options);
            let sequence = data.samples[0].sequences().next().unwrap();
            let scored: Vec<usize> = sequence.scored().collect();
            assert_eq!((data.report.tokens, data.report.answer_tokens), (max_length, scored.len()), "{mask:?}");
            assert!(scored.iter().all(|&place| place >= 1 && place < max_length), "{mask:?}");
        }
    }
}

/// The tokenizer joins "h" and "e": text that was tokenised whole would have another prompt than the one that is served.
#[test]
fn what_could_merge_where_prompt_and_answer_meet_stays_apart() {
    for opened in models() {
        let model = opened.model.as_ref();
        let encoder = Encoder::new(model, None, &EncodeOptions::default()).unwrap();
        for (prompt, answer) in [("th", "e"), ("yo", "u and"), ("a ", "the"), ("i", "n")] {
            let whole = model.tokenize(&format!("{prompt}{answer}"), false).unwrap();
            let alone = model.tokenize(prompt, false).unwrap();
            assert!(!whole.starts_with(&alone), "{prompt}|{answer} does not merge");
            let (prompt, answer) = (Text::Plain(prompt.into()), Text::Plain(answer.into()));
            let sequence = encoder.sequence(&prompt, &answer).unwrap();
            assert_eq!(sequence.tokens[..sequence.prompt_len], encoder.prompt(&prompt).unwrap());
            assert!(sequence.tokens[..sequence.prompt_len].ends_with(&alone));
        }
    }
}

fn dialogue() -> (Text, Text) {
    let prompt = [("user", "the"), ("assistant", "in it"), ("user", "a")].map(|(r, c)| Message::new(r, c));
    (Text::Messages(prompt.to_vec()), Text::Messages(vec![Message::new("assistant", "of it")]))
}

fn scored(model: &Model, template: &Template, mask: LossMask) -> (String, String) {
    let options = EncodeOptions { mask, ..EncodeOptions::default() };
    let (prompt, answer) = dialogue();
    let encoder = Encoder::new(model, Some(template), &options).unwrap();
    let sequence = encoder.sequence(&prompt, &answer).unwrap();
    let chosen: Vec<i32> = sequence.scored().map(|place| sequence.tokens[place]).collect();
    (spelled(model, &sequence.tokens), spelled(model, &chosen))
}

/// Where turns begin and end is found by rendering beginnings of the dialogue, not by tags.
#[test]
fn a_template_without_generation_tags_silences_nobody() {
    let opened = &models()[0];
    let model = opened.model.as_ref();
    let [own, _] = templates(model);
    assert!(!model.chat_template().unwrap().contains("generation %}"));
    assert_eq!(scored(model, &own, LossMask::Assistant).1, "in it<|im_end|>of it<|im_end|>");
    assert_eq!(scored(model, &own, LossMask::Completion).1, "of it<|im_end|>");
}

#[test]
fn generation_tags_change_nothing() {
    let opened = &models()[0];
    let model = opened.model.as_ref();
    let [own, _] = templates(model);
    let tagged = "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}\
        {% generation %}{{ message.content }}<|im_end|>{% endgeneration %}{% else %}{{ message.content }}<|im_end|>{% endif %}\n\
        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    // The engine takes a line break behind a block away, as Hugging Face has it do.
    let tagged = Template::new(&tagged.replace("endif %}\n{% endfor", "endif %}\n\n{% endfor"), "", "").unwrap();
    for mask in [LossMask::Completion, LossMask::Assistant, LossMask::All] {
        assert_eq!(scored(model, &tagged, mask), scored(model, &own, mask), "{mask:?}");
    }
}

#[test]
fn rows_without_a_loss_are_refused_or_counted() {
    let opened = &models()[0];
    let model = opened.model.as_ref();
    let [own, _] = templates(model);
    // Nobody answers, or says nothing.
    for messages in [
        r#"[{"role":"user","content":"the"}]"#,
        r#"[{"role":"user","content":"the"},{"role":"assistant","content":""}]"#,
        r#"[{"role":"user","content":"the"},{"role":"assistant","content":"in"},{"role":"user","content":"a"}]"#,
    ] {
        let text = format!("{{\"messages\":{messages}}}\n");
        for mask in [LossMask::Completion, LossMask::Assistant] {
            let options = EncodeOptions { mask, ..EncodeOptions::default() };
            let found = read(&text).and_then(|rows| Dataset::encode(&rows, model, Some(&own), &options));
            let error = found.unwrap_err().to_string();
            assert!(error.contains("rows.jsonl:1"), "{messages}: {error}");
        }
    }
    // A prompt that fills the length leaves no answer to learn.
    let rows = "{\"prompt\":\"the\",\"completion\":\"in\"}\n{\"prompt\":\"the rest of it and you and all of it\",\"completion\":\"on\"}\n";
    let whole = dataset(rows, model, Some(&own), &EncodeOptions::default());
    let max_length = whole.samples[0].sequences().next().unwrap().tokens.len();
    let options = EncodeOptions { max_length, too_long: TooLong::Truncate, ..EncodeOptions::default() };
    let cut = dataset(rows, model, Some(&own), &options);
    assert_eq!((cut.samples.len(), cut.report.dropped_too_long, cut.report.truncated), (1, 1, 0));
    assert!(cut.samples.iter().flat_map(Sample::sequences).all(|s| s.n_scored() > 0));
}

/// Every test of the table above is there.
#[test]
fn the_table_names_tests_that_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("tests/it/data/traps.rs")).unwrap();
    let rows: Vec<&str> = table.lines().filter(|l| l.starts_with("//! |") && l.contains("::")).collect();
    assert!(rows.len() >= 15, "{} rows", rows.len());
    let directories =
        ["tests/it/data", "tests/it/resume", "tests/it", "src/loss"].map(|directory| root.join(directory));
    for row in rows {
        let named = row.rsplit('`').nth(1).unwrap();
        let (file, test) = named.split_once("::").unwrap();
        let text = directories.iter().find_map(|d| std::fs::read_to_string(d.join(format!("{file}.rs"))).ok());
        let text = text.unwrap_or_else(|| panic!("no file of tests is called {file}"));
        assert!(text.contains(&format!("#[test]\nfn {test}() {{")), "{named} is no test");
    }
}
