"""Writes merged.json: a small model, two more of its family, and what mergekit makes of them by several recipes.

    pip install mergekit==0.1.5 && python tests/golden/merged.py

mergekit is run as a program on safetensors files; the numbers are compared with ours in tests/it/merge/golden.rs, which gives
GGUF files with the same numbers and the same recipe to `cook`. What is drawn at random (dare, della) is not compared.
"""

import json, pathlib, subprocess, sys, tempfile
import torch, yaml
from safetensors.torch import load_file, save_file

LAYERS = 3
# GGUF's names, and those of Hugging Face's Llama models.
BLOCK = {
    "attn_q.weight": "self_attn.q_proj.weight", "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight", "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight", "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight", "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight",
         "output_norm.weight": "model.norm.weight"}
NAMES |= {f"blk.{n}.{ours}": f"model.layers.{n}.{theirs}" for n in range(LAYERS) for ours, theirs in BLOCK.items()}

GRADIENT = [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0.25]}, {"value": 0.5}]


def models(*parameters, base=True):
    listed = [{"model": name, "parameters": p} for name, p in zip("ab", parameters)]
    return {"models": listed} | ({"base_model": "base"} if base else {})


def task(method, a, b, **parameters):
    return {"merge_method": method, "parameters": parameters} | models(a, b)


RECIPES = {
    "linear": {"merge_method": "linear"} | models({"weight": 0.3}, {"weight": 0.9}, base=False),
    "slerp with gradients": {
        "merge_method": "slerp", "base_model": "a", "parameters": {"t": GRADIENT},
        "slices": [{"sources": [{"model": m, "layer_range": [0, LAYERS]} for m in "ab"]}]},
    "nuslerp": {"merge_method": "nuslerp"} | models({"weight": 0.3}, {"weight": 0.9}, base=False),
    "nuslerp from a base": {"merge_method": "nuslerp"} | models({"weight": 0.3}, {"weight": 0.9}),
    "nuslerp by rows": {"merge_method": "nuslerp", "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True}}
    | models({"weight": 0.3}, {"weight": 0.9}, base=False),
    "nuslerp by columns": {"merge_method": "nuslerp", "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": False}}
    | models({"weight": 0.3}, {"weight": 0.9}, base=False),
    "task_arithmetic": task("task_arithmetic", {"weight": 0.5}, {"weight": [0.2, 0.8]}, **{"lambda": 1.5}),
    "ties": task("ties", {"weight": 0.5, "density": 0.5}, {"weight": 1.0, "density": 0.75}),
    "ties, not normalised": task("ties", {"weight": 0.5, "density": 0.5}, {"weight": 1.0, "density": 1.0}, normalize=False),
    "breadcrumbs": task("breadcrumbs", {"weight": 0.5, "density": 0.5, "gamma": 0.25}, {"weight": 1.0, "density": 0.5, "gamma": 0.125}),
    "breadcrumbs_ties": task("breadcrumbs_ties", {"weight": 0.5, "density": 0.5, "gamma": 0.25}, {"weight": 1.0, "density": 0.5, "gamma": 0.125}),
    "model_stock": {"merge_method": "model_stock"} | models({}, {}),
    "model_stock by rows": {"merge_method": "model_stock", "parameters": {"filter_wise": True}} | models({}, {}),
    "passthrough": {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]},
                   {"sources": [{"model": "b", "layer_range": [1, 3],
                                 "parameters": {"scale": [{"filter": "o_proj", "value": 0.5}, {"value": 1.0}]}}]}]},
}


def main():
    torch.manual_seed(1)
    draw = lambda: {name: torch.randn(8 if "norm" in name else (4, 8)) for name in NAMES}
    base = draw()
    shifted = lambda: {name: base[name] + 0.5 * x for name, x in draw().items()}
    tensors = {"base": base, "a": shifted(), "b": shifted()}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": 8,
              "intermediate_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 4,
              "tie_word_embeddings": False, "torch_dtype": "float32", "max_position_embeddings": 16, "rms_norm_eps": 1e-5}
    listed = lambda t: [float(x) for x in t.flatten()]
    out = {"models": {m: {ours: listed(x) for ours, x in t.items()} for m, t in tensors.items()}, "merges": []}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, content in tensors.items():
            (root / name).mkdir()
            save_file({NAMES[ours]: x.contiguous() for ours, x in content.items()}, root / name / "model.safetensors")
            (root / name / "config.json").write_text(json.dumps(config))
        for label, recipe in RECIPES.items():
            (root / "recipe.yml").write_text(yaml.safe_dump(recipe | {"dtype": "float32"}))
            command = [pathlib.Path(sys.executable).with_name("mergekit-yaml"), "recipe.yml", "out", "--no-copy-tokenizer", "--no-write-model-card"]
            subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
            found = {}
            for path in sorted((root / "out").glob("*.safetensors")):
                found |= load_file(path)
                path.unlink()
            back = {f"model.layers.{n}.{theirs}": f"blk.{n}.{ours}" for n in range(8) for ours, theirs in BLOCK.items()}
            back |= {theirs: ours for ours, theirs in NAMES.items()}
            merged = {back[name]: listed(x) for name, x in found.items()}
            out["merges"].append({"label": label, "recipe": yaml.safe_dump(recipe), "tensors": merged})
    round_all = lambda v: {k: round_all(x) for k, x in v.items()} if isinstance(v, dict) else (
        [round_all(x) for x in v] if isinstance(v, list) else (float(f"{v:.8g}") if isinstance(v, float) else v))
    path = pathlib.Path(__file__).with_name("merged.json")
    path.write_text(json.dumps(round_all(out), separators=(",", ":")) + "\n")
    print(path, path.stat().st_size)


main()
