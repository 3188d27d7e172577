"""Ten optimizer steps of LoRA with PyTorch, transformers and PEFT on the tiny llama of the tests.

    trajectory.py INPUTS OUTPUT

INPUTS is what the test `golden::write_inputs` wrote: model.gguf, the adapters to start from, inputs.json. OUTPUT is the
JSON that `tests/it/golden.rs` compares this project's trainer with. Nothing here is shared with the trainer: the forward
pass is transformers', the deltas PEFT's, gradients, clipping and AdamW are PyTorch's, the losses are written out below.

The model runs in float32. Log-probs are taken of its logits in float64, so that what is compared is the model's rounding
and not that of a long sum.
"""

import importlib.metadata
import json
import math
import pathlib
import sys

import gguf
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
PACKAGES = ["gguf", "numpy", "peft", "safetensors", "torch", "transformers"]


def tensors(path):
    """Tensors of a GGUF by name, rows first as in PyTorch."""
    return {t.name: torch.tensor(t.data) for t in gguf.GGUFReader(path).tensors}


def fields(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def module_of(name):
    """blk.0.attn_q.weight -> model.layers.0.self_attn.q_proj"""
    _, layer, module = name.split(".")[:3]
    return f"model.layers.{layer}.{MODULES[module]}"


def heads_of(name, config):
    """Heads whose rows llama.cpp keeps in its own order, or None."""
    if "attn_q." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if "attn_k." in name else None


def to_halves(rows, heads):
    """Rows of a projection to queries or keys from llama.cpp's order, in which the two numbers that RoPE rotates into each
    other are neighbours, to Hugging Face's, in which they lie half a head apart."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def to_neighbours(rows, heads):
    """The inverse of to_halves."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


def load_base(path):
    keys = fields(path)
    weights = tensors(path)
    config = LlamaConfig(
        vocab_size=weights["token_embd.weight"].shape[0],
        hidden_size=keys["llama.embedding_length"],
        intermediate_size=keys["llama.feed_forward_length"],
        num_hidden_layers=keys["llama.block_count"],
        num_attention_heads=keys["llama.attention.head_count"],
        num_key_value_heads=keys["llama.attention.head_count_kv"],
        max_position_embeddings=keys["llama.context_length"],
        rms_norm_eps=keys["llama.attention.layer_norm_rms_epsilon"],
        hidden_act="silu",
        tie_word_embeddings="output.weight" not in weights,
        attn_implementation="eager",
    )
    state = {}
    for name, value in weights.items():
        heads = heads_of(name, config)
        value = to_halves(value, heads) if heads else value
        state[OUTSIDE.get(name) or module_of(name) + ".weight"] = value
    model = LlamaForCausalLM(config).float()
    model.load_state_dict(state, strict=True)
    return model


def factors(model):
    """The factor parameters by their names in the adapter file."""
    found = dict(model.named_parameters())
    names = {}
    for layer in range(model.config.num_hidden_layers):
        for short, module in MODULES.items():
            for ours, peft in (("a", "A"), ("b", "B")):
                key = f"base_model.model.model.layers.{layer}.{module}.lora_{peft}.default.weight"
                if key in found:
                    names[f"blk.{layer}.{short}.weight.lora_{ours}"] = found[key]
    return names


def load(inputs, adapter):
    start = tensors(inputs / adapter)
    rank = next(t.shape[0] for name, t in start.items() if name.endswith(".lora_a"))
    alpha = fields(inputs / adapter)["adapter.lora.alpha"]
    base = load_base(inputs / "model.gguf")
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", bias="none")
    model = get_peft_model(base, config)
    parameters = factors(model)
    assert parameters.keys() == start.keys(), "PEFT adapts other weights than the adapter file"
    assert len(parameters) == sum(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            heads = heads_of(name, model.config) if name.endswith(".lora_b") else None
            parameter.copy_(to_halves(start[name], heads) if heads else start[name])
    return model.train(), parameters


def token_logps(model, tokens, prompt_len):
    """log p of every completion token, float64."""
    logits = model(input_ids=torch.tensor([tokens])).logits[0]
    logps = torch.log_softmax(logits.double(), -1)
    return logps[range(prompt_len - 1, len(tokens) - 1), tokens[prompt_len:]]


def summed(model, row):
    return [token_logps(model, tokens, row["prompt_len"]).sum() for tokens in row["sequences"]]


def mismatched(rows, i):
    """Row i's prompt with the completion of the next row."""
    own, following = rows[i], rows[(i + 1) % len(rows)]
    tokens = own["sequences"][0][: own["prompt_len"]] + following["sequences"][0][following["prompt_len"] :]
    return {"sequences": [tokens], "prompt_len": own["prompt_len"]}


def sft_step(case, model, rows, ids, references):
    logps = torch.cat([token_logps(model, rows[i]["sequences"][0], rows[i]["prompt_len"]) for i in ids])
    return -logps.mean(), {}


def dpo_step(case, model, rows, ids, references):
    chosen, rejected = (torch.stack(s) for s in zip(*(summed(model, rows[i]) for i in ids)))
    ref_chosen, ref_rejected = (torch.stack(s) for s in zip(*(references["rows"][i] for i in ids)))
    rewards = case["beta"] * (chosen - ref_chosen), case["beta"] * (rejected - ref_rejected)
    loss = -logsigmoid(rewards[0] - rewards[1]).mean()
    return loss, {
        "rewards/chosen": rewards[0].mean(),
        "rewards/rejected": rewards[1].mean(),
        "rewards/margins": (rewards[0] - rewards[1]).mean(),
        "rewards/accuracies": (rewards[0] > rewards[1]).double().mean(),
        "logps/chosen": chosen.mean(),
        "logps/rejected": rejected.mean(),
    }


def kto_step(case, model, rows, ids, references):
    with torch.no_grad():
        apart = torch.stack([summed(model, mismatched(rows, i))[0] - references["mismatched"][i] for i in ids])
        kl = apart.mean().clamp(min=0)
    logps = torch.stack([summed(model, rows[i])[0] for i in ids])
    ratios = logps - torch.stack([references["rows"][i][0] for i in ids])
    good = torch.tensor([rows[i]["desirable"] for i in ids])
    wanted = case["desirable_weight"] * (1 - torch.sigmoid(case["beta"] * (ratios - kl)))
    unwanted = case["undesirable_weight"] * (1 - torch.sigmoid(case["beta"] * (kl - ratios)))
    rewards = case["beta"] * ratios
    metrics = {"kl": kl}
    for name, chosen in (("chosen", good), ("rejected", ~good)):
        if chosen.any():
            metrics[f"rewards/{name}"] = rewards[chosen].mean()
            metrics[f"logps/{name}"] = logps[chosen].mean()
    return torch.where(good, wanted, unwanted).mean(), metrics


STEPS = {"sft": sft_step, "dpo": dpo_step, "kto": kto_step}


def run(inputs, case, rows):
    model, parameters = load(inputs, case["adapter"])
    with torch.no_grad():
        references = {
            "rows": [summed(model, row) for row in rows],
            "mismatched": [summed(model, mismatched(rows, i))[0] for i in range(len(rows))],
        }
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=case["learning_rate"],
        betas=case["adam_betas"],
        eps=case["adam_epsilon"],
        weight_decay=case["weight_decay"],
    )
    # The trainer leaves out the first rate of this schedule, 0, in which a step moves nothing; so one step of the schedule
    # is taken ahead, and warm-up and run are one step longer.
    n_steps = len(case["steps"])
    n_warmup = math.ceil(case["warmup_ratio"] * n_steps)
    scheduler = get_cosine_schedule_with_warmup(optimizer, n_warmup + 1, n_steps + 1)
    optimizer.step()  # no gradient yet: changes nothing, but the scheduler wants to see it
    scheduler.step()
    reports = []
    for ids in case["steps"]:
        optimizer.zero_grad()
        loss, metrics = STEPS[case["method"]](case, model, rows, ids, references)
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters.values(), case["max_grad_norm"])
        report = {"loss": loss, "grad_norm": grad_norm, "learning_rate": scheduler.get_last_lr()[0], **metrics}
        reports.append({key: rounded(value) for key, value in report.items()})
        optimizer.step()
        scheduler.step()
    return {"steps": reports, "factors": {name: hexed(name, p, model.config) for name, p in parameters.items()}}


def rounded(value):
    """As a number of 12 digits: far below what is compared, and the file stays readable."""
    value = value.item() if torch.is_tensor(value) else value
    return float(f"{value:.12g}")


def hexed(name, parameter, config):
    """The bits of a factor in the adapter file's order, little-endian float32."""
    heads = heads_of(name, config) if name.endswith(".lora_b") else None
    value = parameter.detach()
    value = to_neighbours(value, heads) if heads else value
    return value.numpy().astype("<f4").tobytes().hex()


def main():
    inputs, output = map(pathlib.Path, sys.argv[1:])
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    given = json.loads((inputs / "inputs.json").read_text())
    golden = {
        "inputs": (inputs / "digest").read_text(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "cases": {case["name"]: run(inputs, case, given["rows"][case["method"]]) for case in given["cases"]},
    }
    output.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
