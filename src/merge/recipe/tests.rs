use super::*;

fn refused(text: &str) -> String {
    let error = Recipe::parse(text, "r.yml").unwrap_err();
    assert_eq!(error.kind(), Kind::Argument, "{error}");
    error.to_string()
}

#[test]
fn words_that_mean_nothing_are_refused_by_name() {
    let two = "models: [{model: a.gguf}, {model: b.gguf}]\n";
    for (text, says) in [
        ("merge_method: karcher\nmodels: [{model: a}]".to_owned(), "merge_method karcher: is not known"),
        (format!("merge_method: linear\n{two}tokenizer: {{source: union}}"), "tokenizer"),
        (format!("merge_method: linear\n{two}chat_template: auto"), "chat_template"),
        (format!("merge_method: linear\n{two}base_model: a.gguf"), "takes no base_model"),
        (format!("merge_method: linear\n{two}dtype: int64"), "dtype int64"),
        (format!("merge_method: linear\n{two}tokenizer_source: c.gguf"), "tokenizer_source c.gguf"),
        (format!("merge_method: linear\n{two}tokenizer_source: base"), "tokenizer_source base"),
        (format!("merge_method: linear\n{two}parameters: {{density: 0.5}}"), "parameter density of linear is unknown"),
        (
            format!("merge_method: ties\n{two}base_model: a.gguf\nparameters: {{rescale: true}}"),
            "parameter rescale of ties",
        ),
        (format!("merge_method: slerp\n{two}base_model: a.gguf\nparameters: {{t: []}}"), "t is an empty list"),
        (format!("merge_method: linear\n{two}slices: []"), "either models or slices"),
        ("merge_method: linear".to_owned(), "either models or slices"),
        ("merge_method: linear\nmodels: []".to_owned(), "names no models"),
        (
            "merge_method: slerp\nslices: [{sources: [{model: a}, {model: b}]}]\nbase_model: c".to_owned(),
            "base_model c",
        ),
        ("merge_method: linear\nmodels: [{model: a, parameters: {normalize: true}}]".to_owned(), "for all models"),
        ("merge_method: linear\nmodels: [{model: a, layer_range: [0, 1]}]".to_owned(), "layer_range"),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: {filter: x, value: 1}}}]".to_owned(),
            "list of filter",
        ),
        ("merge_method: [".to_owned(), "r.yml"),
    ] {
        let found = refused(&text);
        assert!(found.contains(says), "{text}: {found}");
    }
}

#[test]
fn a_document_in_mergekits_words_is_understood() {
    let text = "
# as people write them
slices:
  - sources:
      - model: a.gguf
        layer_range: [0, 4]
      - model: b.gguf
        layer_range: [0, 4]
merge_method: slerp
base_model: a.gguf
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: 0.5
    - value: 0.25 # the rest
dtype: bfloat16
";
    let recipe = Recipe::parse(text, "r.yml").unwrap();
    assert_eq!((recipe.models(), recipe.out_type()), (vec!["a.gguf", "b.gguf"], Some(Type::BF16)));
    let text = "
models:
  - model: base.gguf
  - model: x.gguf
    parameters: {density: 0.5, weight: 0.5}
  - model: y.gguf
    parameters: {density: [1, 0.5], weight: 1}
merge_method: ties
base_model: base.gguf
parameters: {normalize: false, int8_mask: true}
out_dtype: q4_k
dtype: float32
";
    let recipe = Recipe::parse(text, "r.yml").unwrap();
    assert_eq!((recipe.models().len(), recipe.out_type()), (3, Some(Type::Q4_K)));
    assert!(recipe.notes[0].contains("int8_mask"), "{:?}", recipe.notes);
}
