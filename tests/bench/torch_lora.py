"""One measurement of PyTorch, transformers and PEFT: LoRA steps on a llama model dequantised from its GGUF.

    torch_lora.py MODEL.gguf --method sft|dpo --shape 4x512 --precision bf16|f32 --threads 2 [--steps 5] [--recompute]

Prints one line of JSON: tokens_per_s (median), its range, peak_rss_bytes, mm_gflops (what torch.mm reaches here). A step is
forward, loss over all tokens (sft) or over the second half of each answer (dpo: adapter off is the reference), backward,
clipping at norm 1 and AdamW; as in `llama-align bench`.
"""

import argparse
import json
import pathlib
import resource
import statistics
import sys
import time

import gguf
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "golden"))
import trajectory as names  # the names of GGUF tensors in transformers, and the order of rotated rows


def load(path, dtype):
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    weights = {t.name: torch.tensor(gguf.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    config = LlamaConfig(
        vocab_size=weights["token_embd.weight"].shape[0],
        hidden_size=keys["llama.embedding_length"],
        intermediate_size=keys["llama.feed_forward_length"],
        num_hidden_layers=keys["llama.block_count"],
        num_attention_heads=keys["llama.attention.head_count"],
        num_key_value_heads=keys["llama.attention.head_count_kv"],
        max_position_embeddings=keys["llama.context_length"],
        rms_norm_eps=keys["llama.attention.layer_norm_rms_epsilon"],
        rope_theta=keys.get("llama.rope.freq_base", 10000.0),
        tie_word_embeddings="output.weight" not in weights,
        attn_implementation="sdpa",
    )
    state = {}
    for name, value in weights.items():
        heads = names.heads_of(name, config)
        value = names.to_halves(value, heads) if heads else value
        state[names.OUTSIDE.get(name) or names.module_of(name) + ".weight"] = value
    model = LlamaForCausalLM(config)
    model.load_state_dict(state, strict=not config.tie_word_embeddings)
    return model.to(dtype)


def completion_logps(model, tokens, prompt_len):
    logits = model(input_ids=tokens, use_cache=False).logits[:, prompt_len - 1 : -1]
    picked = logits.gather(-1, tokens[:, prompt_len:, None]).squeeze(-1)
    return picked - torch.logsumexp(logits.float(), -1)


def mm_gflops(dtype, n=2048):
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        a @ b
        best = max(best, 2e-9 * n**3 / (time.perf_counter() - begun))
    return best


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("model")
    arguments.add_argument("--method", choices=["sft", "dpo"], default="sft")
    arguments.add_argument("--shape", default="4x512")
    arguments.add_argument("--precision", choices=["bf16", "f32"], default="bf16")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--steps", type=int, default=5)
    arguments.add_argument("--rank", type=int, default=16)
    arguments.add_argument("--recompute", action="store_true")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    rows, length = map(int, given.shape.split("x"))

    base = load(given.model, dtype)
    if given.recompute:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    lora = LoraConfig(r=given.rank, lora_alpha=2 * given.rank, lora_dropout=0.0, target_modules="all-linear", bias="none")
    model = get_peft_model(base, lora).to(dtype).train()
    moved = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moved, lr=1e-4, weight_decay=0.0)
    n_vocab = model.config.vocab_size

    def sft():
        tokens = torch.randint(n_vocab, (rows, length))
        return -completion_logps(model, tokens, 1).mean()

    def dpo():
        half = length // 2
        tokens = torch.randint(n_vocab, (2 * rows, half))
        tokens[rows:, : half // 2] = tokens[:rows, : half // 2]
        with torch.no_grad(), model.disable_adapter():
            reference = completion_logps(model, tokens, half // 2).sum(-1)
        ratio = completion_logps(model, tokens, half // 2).sum(-1) - reference
        return -torch.nn.functional.logsigmoid(0.1 * (ratio[:rows] - ratio[rows:])).mean()

    seconds = []
    for step in range(given.steps + 1):
        begun = time.perf_counter()
        loss = sft() if given.method == "sft" else dpo()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moved, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step > 0:
            seconds.append(time.perf_counter() - begun)
    tokens = rows * length
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "tokens_per_s": tokens / statistics.median(seconds),
        "tokens_per_s_min": tokens / max(seconds),
        "tokens_per_s_max": tokens / min(seconds),
        "peak_rss_bytes": peak,
        "mm_gflops": mm_gflops(dtype),
    }))


if __name__ == "__main__":
    main()
