"""Adapters as PEFT saves them, on the tiny models of the tests, and what transformers and PEFT make of a text with them.

    adapters.py INPUTS OUTPUT

INPUTS holds the models that the test `peft::write_models` wrote, one GGUF for each architecture. OUTPUT gets a directory for
each: adapter_config.json and adapter_model.safetensors by `save_pretrained`, and logps.json: tokens and the log-probs of all
but the first, without and with the adapter. The model is rebuilt from the GGUF by this file; nothing is shared with the
project.
"""

import json
import pathlib
import sys

import torch
import transformers
from peft import LoraConfig, get_peft_model

from trajectory import fields, tensors, to_halves

N_TOKENS = 20
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
GEMMA = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# What each architecture's adapter has of its own: its modules, and patterns of ranks and scales.
ADAPTERS = {
    "llama": dict(r=4, lora_alpha=6, target_modules=list("qkvo"), rank_pattern={"q_proj": 2}),
    "qwen2": dict(r=4, lora_alpha=8, target_modules="all", alpha_pattern={r"layers\.1\.mlp\..*": 20}),
    "qwen3": dict(r=9, lora_alpha=6, target_modules="all", use_rslora=True, rank_pattern={"down_proj": 4}),
    "gemma2": dict(r=4, lora_alpha=8, target_modules="all", layers_to_transform=[1]),
    "gemma3": dict(r=3, lora_alpha=7, target_modules="all", alpha_pattern={"up_proj": 2}),
}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def config_of(arch, keys, weights):
    key = lambda name, otherwise=None: keys.get(f"{arch}.{name}", otherwise)
    heads, layers = key("attention.head_count"), key("block_count")
    head = key("attention.key_length", key("embedding_length") // heads)
    common = dict(
        vocab_size=weights["token_embd.weight"].shape[0],
        hidden_size=key("embedding_length"),
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key("attention.head_count_kv"),
        head_dim=head,
        max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings="output.weight" not in weights,
        attn_implementation="eager",
    )
    # llama.cpp: every n-th layer looks back over everything; Gemma 2's n is 2.
    pattern = key("attention.sliding_window_pattern", 2)
    kinds = ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(layers)]
    gemma = dict(
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=head,
        sliding_window=key("attention.sliding_window"),
        layer_types=kinds,
        attn_logit_softcapping=key("attn_logit_softcapping"),
        final_logit_softcapping=key("final_logit_softcapping"),
    )
    theta = lambda name: {"rope_type": "default", "rope_theta": key(name, 10000.0)}
    plain = dict(common, rope_parameters=theta("rope.freq_base"))
    if arch == "llama":
        return transformers.LlamaConfig(**plain)
    if arch == "qwen2":
        return transformers.Qwen2Config(**plain)
    if arch == "qwen3":
        return transformers.Qwen3Config(**plain)
    if arch == "gemma2":
        return transformers.Gemma2Config(**plain, **gemma)
    both = {"full_attention": theta("rope.freq_base"), "sliding_attention": theta("rope.freq_base_swa")}
    return transformers.Gemma3TextConfig(**common, **gemma, rope_parameters=both)


def model_of(arch, path):
    weights = tensors(path)
    config = config_of(arch, fields(path), weights)
    names = {**BLOCK, **GEMMA} if arch.startswith("gemma") else BLOCK
    state = {}
    for name, value in weights.items():
        if name in OUTSIDE:
            full = OUTSIDE[name]
        else:
            _, layer, module, kind = name.split(".")
            full = f"model.layers.{layer}.{names[module]}.{kind}"
        if arch == "llama" and "attn_q." in name:
            value = to_halves(value, config.num_attention_heads)
        if arch == "llama" and "attn_k." in name:
            value = to_halves(value, config.num_key_value_heads)
        # Gemma's norms multiply by 1 + w; the GGUF holds the sum.
        state[full] = value - 1.0 if arch.startswith("gemma") and "norm" in name else value
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(m == "lm_head.weight" for m in missing), (missing, unexpected)
    model.tie_weights()
    return model.eval()


def logps(model, tokens):
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double()
    rows = torch.log_softmax(logits[:-1], dim=-1)
    return rows.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()


def main(inputs, output):
    for arch, lora in ADAPTERS.items():
        torch.manual_seed(7)
        model = model_of(arch, inputs / f"{arch}.gguf")
        tokens = torch.randint(0, 284, (N_TOKENS,)).tolist()
        before = logps(model, tokens)
        modules = lora.pop("target_modules")
        modules = MODULES if modules == "all" else [m + "_proj" for m in modules]
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=modules, **lora)).eval()
        for name, parameter in sorted(adapted.named_parameters()):
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.15)
        directory = output / arch
        adapted.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)
        found = dict(tokens=tokens, before=before, after=logps(adapted, tokens))
        (directory / "logps.json").write_text(json.dumps(found) + "\n")
        print(arch, "mean change", sum(abs(a - b) for a, b in zip(found["before"], found["after"])) / (N_TOKENS - 1))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
