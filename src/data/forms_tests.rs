use super::*;

fn parse(json: &str) -> Result<(Form, Example), String> {
    parse_row(json, &Columns::default())
}

fn plain(s: &str) -> Text {
    Text::Plain(s.to_owned())
}

fn messages(list: &[(&str, &str)]) -> Text {
    Text::Messages(list.iter().map(|(role, content)| Message::new(*role, *content)).collect())
}

#[test]
fn all_string_forms() {
    let (form, example) = parse(r#"{"id":1,"prompt":"p","completion":"c"}"#).unwrap();
    assert_eq!((form, example), (Form::Completion, Example::Completion { prompt: plain("p"), completion: plain("c") }));
    let (form, example) = parse(r#"{"prompt":"p","chosen":"a","rejected":"b","label":null}"#).unwrap();
    assert_eq!(form, Form::Pair);
    assert_eq!(example, Example::Pair { prompt: plain("p"), chosen: plain("a"), rejected: plain("b") });
    let (form, example) = parse(r#"{"prompt":"p","completion":"c","label":false}"#).unwrap();
    assert_eq!(form, Form::Labelled);
    assert_eq!(example, Example::Labelled { prompt: plain("p"), completion: plain("c"), label: false });
    // Axolotl's icr rows; an empty `input` asks nothing.
    let (form, example) = parse(r#"{"system":"s","input":"p","chosen":"a","rejected":"b"}"#).unwrap();
    let answer = |text: &str| messages(&[("assistant", text)]);
    let prompt = messages(&[("system", "s"), ("user", "p")]);
    assert_eq!((form, example), (Form::Pair, Example::Pair { prompt, chosen: answer("a"), rejected: answer("b") }));
    assert_eq!(parse(r#"{"input":" ","chosen":"h a","rejected":"h b"}"#).unwrap().0, Form::ImplicitPair);
    let line = r#"{"chosen":"\n\nHuman: h\n\nAssistant: a","rejected":"\n\nHuman: h\n\nAssistant: b"}"#;
    let (form, example) = parse(line).unwrap();
    assert_eq!(form, Form::ImplicitPair);
    let prompt = plain("\n\nHuman: h\n\nAssistant:");
    assert_eq!(example, Example::Pair { prompt, chosen: plain(" a"), rejected: plain(" b") });
}

#[test]
fn all_message_forms() {
    const U: &str = r#"{"role":"user","content":"u"}"#;
    let a = |text: &str| format!(r#"{{"role":"assistant","content":"{text}","tool_calls":[]}}"#);
    let prompt = messages(&[("user", "u")]);
    let answer = |text: &str| messages(&[("assistant", text)]);
    let sft = Example::Completion { prompt: prompt.clone(), completion: answer("x") };
    let pair = Example::Pair { prompt, chosen: answer("x"), rejected: answer("y") };
    let (x, y) = (a("x"), a("y"));
    let cases = [
        (format!(r#"{{"messages":[{U},{x}]}}"#), Form::Messages, &sft),
        (format!(r#"{{"prompt":[{U}],"completion":[{x}],"tools":[]}}"#), Form::Completion, &sft),
        (format!(r#"{{"prompt":[{U}],"chosen":[{x}],"rejected":[{y}]}}"#), Form::Pair, &pair),
        (format!(r#"{{"chosen":[{U},{x}],"rejected":[{U},{y}]}}"#), Form::ImplicitPair, &pair),
        (format!(r#"{{"prompt":"u","chosen":[{U},{x}],"rejected":[{U},{y}]}}"#), Form::Pair, &pair),
    ];
    for (line, form, example) in cases {
        assert_eq!(parse(&line).as_ref(), Ok(&(form, example.clone())), "{line}");
    }
}

#[test]
fn faults_are_named() {
    let cases = [
        ("[1]", "one JSON object per line"),
        ("{\"prompt\":", "column"),
        (r#"{"prompt":"a","prompt":"b","completion":"c"}"#, "duplicate field `prompt`"),
        (r#"{"prompt":"a"}"#, "found prompt; expected one of"),
        (r#"{"id":"a"}"#, "none of these keys"),
        (r#"{"text":" "}"#, "\"text\" is empty"),
        (r#"{"text":"a","label":1}"#, "fit no form"),
        (r#"{"instruction":"a","input":1,"output":"c"}"#, "\"input\" must be a string"),
        (r#"{"instruction":"a","history":[["q"]],"output":"c"}"#, "\"history[0]\" must be a pair of strings"),
        (r#"{"conversations":[{"from":"function_call","value":"x"}]}"#, "\"function_call\", which is not supported"),
        (r#"{"conversations":[{"from":"human","value":"x"}],"chosen":1,"rejected":"y"}"#, "\"chosen\" must be"),
        (r#"{"messages":[{"role":"user","content":"u"}],"completion":"c"}"#, "fit no form"),
        (r#"{"question":"","output":"c"}"#, "\"question\" is empty"),
        (r#"{"prompt":"a","completion":"c","chosen":"x","rejected":"y"}"#, "fit no form"),
        (r#"{"prompt":1,"completion":"c"}"#, "\"prompt\" must be a string or a list of messages, not a number"),
        (r#"{"prompt":"a","completion":"c","label":1}"#, "\"label\" must be true or false, not a number"),
        (r#"{"prompt":" ","completion":"c"}"#, "\"prompt\" is empty"),
        (r#"{"prompt":"a","completion":" \n"}"#, "\"completion\" is empty"),
        (r#"{"prompt":"a","chosen":"x","rejected":"x"}"#, "are equal"),
        (r#"{"chosen":"x","rejected":"x"}"#, "are equal"),
        (r#"{"chosen":"x","rejected":"y"}"#, "no prompt in common"),
        (r#"{"prompt":"a","completion":[{"role":"assistant","content":"c"}]}"#, "must both be"),
        (r#"{"messages":[]}"#, "\"messages\" is empty"),
        (r#"{"messages":[{"role":"user","content":"u"}]}"#, "must be the assistant's"),
        (r#"{"messages":[{"role":"assistant","content":"u"}]}"#, "nothing before"),
        (r#"{"messages":[{"role":"user","content":["x"]}]}"#, "\"messages[0].content\" must be a string, not a list"),
        (r#"{"messages":[{"role":"user"}]}"#, "\"messages[0]\" lacks \"content\""),
        (r#"{"messages":[{"role":"","content":"x"}]}"#, "role\" is empty"),
        (r#"{"messages":[{"role":"a","content":"x","tool_calls":[{}]}]}"#, "tool_calls"),
        (r#"{"prompt":"a","completion":"c","tools":[{}]}"#, "tools"),
        (
            r#"{"prompt":"z","chosen":[{"role":"user","content":"u"},{"role":"assistant","content":"1"}],
            "rejected":[{"role":"user","content":"u"},{"role":"assistant","content":"2"}]}"#,
            "\"prompt\" is none of",
        ),
        (r#"{"prompt":[{"role":"user","content":"u"}],"completion":[{"role":"user","content":"1"}]}"#, "exactly one"),
    ];
    for (line, expected) in cases {
        let error = parse(line).expect_err(line);
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn shapes_of_other_programs() {
    let asked = messages(&[("user", "u")]);
    let said = |text: &str| messages(&[("assistant", text)]);
    let completion = |prompt: &Text, c: &str| Example::Completion { prompt: prompt.clone(), completion: said(c) };
    let pair =
        |prompt: &Text, c: &str, r: &str| Example::Pair { prompt: prompt.clone(), chosen: said(c), rejected: said(r) };
    let systematic = messages(&[("system", "s"), ("user", "u")]);
    let earlier = messages(&[("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "u")]);
    let cases = [
        // ShareGPT, with LLaMA-Factory's system, ranking and KTO columns.
        (
            r#"{"conversations":[{"from":"human","value":"u"},{"from":"gpt","value":"x"}],"system":"s"}"#,
            Form::Messages,
            completion(&systematic, "x"),
        ),
        (
            r#"{"conversations":[{"from":"human","value":"u"}],"chosen":{"from":"gpt","value":"x"},
                "rejected":{"from":"gpt","value":"y"}}"#,
            Form::MessagesPair,
            pair(&asked, "x", "y"),
        ),
        (
            r#"{"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"x"}],"kto_tag":false}"#,
            Form::LabelledMessages,
            Example::Labelled { prompt: asked.clone(), completion: said("x"), label: false },
        ),
        // axolotl's chat_template.default, TRL's prompt beside messages (no_robots).
        (
            r#"{"messages":[{"role":"user","content":"u"}],"chosen":{"role":"assistant","content":"x"},
                "rejected":{"role":"assistant","content":"y"}}"#,
            Form::MessagesPair,
            pair(&asked, "x", "y"),
        ),
        (
            r#"{"prompt":"p","messages":[{"role":"user","content":"u"},{"role":"assistant","content":"x"}]}"#,
            Form::Messages,
            completion(&asked, "x"),
        ),
        // Alpaca, with LLaMA-Factory's system and history.
        (
            r#"{"instruction":"i","input":"n","output":"o","text":"all of it"}"#,
            Form::Completion,
            Example::Completion { prompt: plain("i\nn"), completion: plain("o") },
        ),
        (
            r#"{"instruction":"u","input":"","output":"x","system":"s","history":[["q","a"]]}"#,
            Form::Completion,
            completion(&earlier, "x"),
        ),
        (
            r#"{"instruction":"i","input":"","chosen":"a","rejected":"b","output":"other"}"#,
            Form::Pair,
            Example::Pair { prompt: plain("i"), chosen: plain("a"), rejected: plain("b") },
        ),
        // Intel/Orca, argilla, GSM8K.
        (r#"{"system":"s","question":"u","chosen":"x","rejected":"y"}"#, Form::Pair, pair(&systematic, "x", "y")),
        (
            r#"{"instruction":"p","chosen_response":"a","rejected_response":"b","input":""}"#,
            Form::Pair,
            Example::Pair { prompt: plain("p"), chosen: plain("a"), rejected: plain("b") },
        ),
        (
            r#"{"question":"p","answer":"c"}"#,
            Form::Completion,
            Example::Completion { prompt: plain("p"), completion: plain("c") },
        ),
        (r#"{"text":"all"}"#, Form::Text, Example::Text { text: "all".into() }),
    ];
    for (json, form, example) in cases {
        assert_eq!(parse(json), Ok((form, example)), "{json}");
    }
    // ultrafeedback_binarized has the chosen dialogue once more as "messages".
    let json = r#"{"prompt":"u","chosen":[{"role":"user","content":"u"},{"role":"assistant","content":"x"}],
        "rejected":[{"role":"user","content":"u"},{"role":"assistant","content":"y"}],
        "messages":[{"role":"user","content":"u"},{"role":"assistant","content":"x"}],"score_chosen":1}"#;
    assert_eq!(parse(json), Ok((Form::Pair, pair(&asked, "x", "y"))));
}

#[test]
fn columns_are_mapped() {
    let columns = Columns::parse("prompt=q,chosen=right_answer,rejected=hallucinated_answer,system=knowledge").unwrap();
    let row = r#"{"knowledge":"k","q":"u","prompt":"no","right_answer":"x","hallucinated_answer":"y"}"#;
    let (form, example) = parse_row(row, &columns).unwrap();
    assert_eq!(form, Form::Pair);
    let prompt = messages(&[("system", "k"), ("user", "u")]);
    let said = |text: &str| messages(&[("assistant", text)]);
    assert_eq!(example, Example::Pair { prompt, chosen: said("x"), rejected: said("y") });
    let error = parse_row(r#"{"prompt":"u","right_answer":"x","hallucinated_answer":"y"}"#, &columns).unwrap_err();
    assert_eq!(error, "lacks \"q\", the column that prompt is mapped to");
}
