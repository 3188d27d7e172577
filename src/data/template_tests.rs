use super::*;
use std::time::{Duration, Instant};

const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}\
    {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const TURNS: &str =
    "{{ bos_token }}\n{%- if messages[0].role == 'system' -%}\n  {{ raise_exception('no system role') }}\n\
    {%- endif -%}\n{% for m in messages %}\n    {%- set role = 'model' if m.role == 'assistant' else m.role %}\n\
    {{- '<start_of_turn>' ~ role ~ '\n' ~ (m.content | trim) ~ '<end_of_turn>\n' }}\n{%- endfor %}\n\
    {%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}\n";
const REASONING: &str = "{%- set ns = namespace(last=-1) %}\n{%- for m in messages %}\n\
    {%- if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}\n{%- endfor %}\n\
    {% for m in messages %}\n{% if m.role == 'assistant' %}\n{% generation %}\n\
    [A{{ ' last' if loop.index0 > ns.last }}]{{ m['content'].split('</think>')[-1].lstrip('\n') }}{{ eos_token }}\n\
    {%- endgeneration -%}\n{% else %}\n[{{ m.role | upper }}]{{ m.content.strip() | tojson }}\n{% endif %}\n{% endfor %}\n\
    {{ messages | length }} {{ {'b': [1, 2], 'a': none} | tojson }} {{ {'k': [1]} | tojson(indent=2) }}\n";

fn dialogue() -> Vec<Message> {
    vec![
        Message::new("user", " What is \"x\"? <é> \n"),
        Message::new("assistant", "<think>hm</think>\nA letter."),
        Message::new("user", "Thanks & bye"),
        Message::new("assistant", "Bye"),
    ]
}

#[test]
fn equals_an_independent_renderer() {
    let twin = |source: &str, messages: &[Message], add: bool| {
        let messages: Vec<_> =
            messages.iter().map(|m| hf_chat_template::Message::new(m.role.as_str(), m.content.as_str())).collect();
        let config = r#"{"bos_token":"<s>","eos_token":"</s>","chat_template":""}"#;
        let config: hf_chat_template::TokenizerConfig = serde_json::from_str(config).unwrap();
        let template = hf_chat_template::ChatTemplate::from_template_and_config(source, &config).unwrap();
        template.render_messages(&messages, add).unwrap()
    };
    for source in [CHATML, TURNS, REASONING] {
        let template = Template::new(source, "<s>", "</s>").unwrap();
        for add in [false, true] {
            for n in 1..=dialogue().len() {
                let messages = &dialogue()[..n];
                assert_eq!(template.render(messages, add).unwrap(), twin(source, messages, add), "{source}");
            }
        }
    }
}

#[test]
fn renders_chatml_byte_for_byte() {
    let got = Template::new(CHATML, "", "").unwrap().render(&[Message::new("user", "Hi")], true).unwrap();
    let expected = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(got, expected);
}

#[test]
fn refusal_of_a_template_is_an_error_of_the_data() {
    let template = Template::new(TURNS, "<s>", "").unwrap();
    let error = template.render(&[Message::new("system", "x")], true).unwrap_err();
    assert_eq!(error.kind(), Kind::Data);
    assert!(error.to_string().contains("no system role"), "{error}");
    assert_eq!(Template::new("{% if %}", "", "").unwrap_err().kind(), Kind::Format);
    assert_eq!(Template::new(&" ".repeat(SOURCE_BYTES_MAX + 1), "", "").unwrap_err().kind(), Kind::Format);
}

#[test]
fn the_date_is_always_the_same() {
    let template = Template::new("{{ strftime_now('%d %b %Y, %A, day %j') }}", "", "").unwrap();
    assert_eq!(template.render(&[], false).unwrap(), "26 Jul 2024, Friday, day 208");
    assert!(Template::new("{{ strftime_now('%Q') }}", "", "").unwrap().render(&[], false).is_err());
}

#[test]
fn json_is_pythons() {
    let value = "{'b': ['é', 1.5, true], 'a': {'d': none, 'c': '\"/'}}";
    let cases = [
        ("", r#"{"b": ["é", 1.5, true], "a": {"d": null, "c": "\"/"}}"#),
        ("ensure_ascii=true", r#"{"b": ["\u00e9", 1.5, true], "a": {"d": null, "c": "\"/"}}"#),
        ("sort_keys=true", r#"{"a": {"c": "\"/", "d": null}, "b": ["é", 1.5, true]}"#),
        ("separators=(',', ':')", r#"{"b":["é",1.5,true],"a":{"d":null,"c":"\"/"}}"#),
    ];
    for (options, expected) in cases {
        let template = Template::new(&format!("{{{{ {value} | tojson({options}) }}}}"), "", "").unwrap();
        assert_eq!(template.render(&[], false).unwrap(), expected, "{options}");
    }
    let fails = |options: &str| {
        Template::new(&format!("{{{{ [1] | tojson({options}) }}}}"), "", "").unwrap().render(&[], false).is_err()
    };
    assert!(fails("spaces=3") && fails("separators=(',',)") && fails("indent=2, separators=(',', ':')"));
}

#[test]
fn hostile_templates_end_with_an_error() {
    let hostile = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ i * j }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
        "{% set s = 'x' * 100000 %}{% for i in range(1000) %}{{ s }}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{{ [1] | tojson(indent=9999999999) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include '/etc/passwd' %}",
        "{% extends 'chat' %}",
        "{% import 'chat' as x %}{{ x }}",
        "{{ messages[99999].content.nothing }}",
        "{{ 1 // 0 }}",
        "{{ raise_exception('no') }}",
        "{{ 'x' | no_such_filter }}",
    ];
    for source in hostile {
        let began = Instant::now();
        let result = Template::new(source, "", "").and_then(|t| t.render(&[Message::new("user", "hi")], true));
        assert!(result.is_err(), "{source}: {result:?}");
        // Some 100 ms when optimised; the limit leaves room for slow machines and unoptimised builds.
        assert!(began.elapsed() < Duration::from_secs(8), "{source}: {:?}", began.elapsed());
    }
}

#[test]
fn fuel_grows_with_the_dialogue() {
    let messages: Vec<_> = (0..2000).map(|i| Message::new(["user", "assistant"][i % 2], "words")).collect();
    assert!(Template::new(REASONING, "", "").unwrap().render(&messages, true).is_ok());
}

#[test]
fn generation_tags_become_blocks_that_print_their_inside() {
    assert_eq!(
        without_generation_tags("a{%- generation +%}b{%endgeneration%}{% x"),
        "a{%- if true +%}b{% endif %}{% x"
    );
    assert_eq!(without_generation_tags("{{ add_generation_prompt }}"), "{{ add_generation_prompt }}");
}
