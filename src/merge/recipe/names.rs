//! Names of tensors as Hugging Face's models of the Llama kind have them, for the filters of recipes written for those.

/// Parts of a block.
const PARTS: [(&str, &str); 13] = [
    ("attn_q.", "self_attn.q_proj."),
    ("attn_k.", "self_attn.k_proj."),
    ("attn_v.", "self_attn.v_proj."),
    ("attn_output.", "self_attn.o_proj."),
    ("attn_q_norm.", "self_attn.q_norm."),
    ("attn_k_norm.", "self_attn.k_norm."),
    ("attn_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
    ("ffn_gate_inp.", "mlp.gate."),
    ("ffn_gate.", "mlp.gate_proj."),
    ("ffn_up.", "mlp.up_proj."),
    ("ffn_down.", "mlp.down_proj."),
    ("ffn_", "mlp."),
];

/// Such a model's name of a tensor, where it is known; the own one otherwise.
pub(super) fn of_hugging_face(tensor: &str) -> String {
    match tensor {
        "token_embd.weight" => return "model.embed_tokens.weight".to_owned(),
        "output.weight" => return "lm_head.weight".to_owned(),
        "output_norm.weight" => return "model.norm.weight".to_owned(),
        _ => {}
    }
    let Some((block, part)) = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return tensor.to_owned();
    };
    let known = PARTS.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", part.strip_prefix(ours)?)));
    format!("model.layers.{block}.{}", known.unwrap_or_else(|| part.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_what_lies_around_them() {
        assert_eq!(of_hugging_face("blk.12.attn_output.weight"), "model.layers.12.self_attn.o_proj.weight");
        assert_eq!(of_hugging_face("blk.0.ffn_up_exps.weight"), "model.layers.0.mlp.up_exps.weight");
        assert_eq!(of_hugging_face("output.weight"), "lm_head.weight");
        assert_eq!(of_hugging_face("rope_freqs.weight"), "rope_freqs.weight");
    }
}
