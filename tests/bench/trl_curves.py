"""DPO by TRL's DPOTrainer and by this program: the same model, rows, order, initial factors, rates and steps, in F32.

    pip install -r tests/golden/requirements-trl.txt
    trl_curves.py PROGRAM MODEL.gguf PAIRS.jsonl OUTPUT [--steps 30] [--batch 4] [--accumulation 2] [--seed 0]
                  [--tokens program|trl] [--threads 1]

PROGRAM runs first: once with a rate at which nothing moves, which leaves the adapter that a run starts from, and once for good.
TRL then trains the dequantised model (a llama) from the same factors, at the rates that the program logged, in the order of the
program's rows, which is computed here anew and checked against the tokens that each step saw. Writes OUTPUT/curves.json and
prints a table in Markdown.

`--tokens trl` lets TRL tokenise for itself. Its sequences end with the line break that ChatML writes behind the token that ends
the turn; the program's end with that token, since a model that has ended its turn generates nothing more.
"""

import argparse
import json
import pathlib
import struct
import subprocess
import sys

import gguf
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import torch_lora
from torch_lora import names

BETA = 0.1
METRICS = ["loss", "rewards/margins", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "grad_norm"]


def chacha8(key):
    """The words of ChaCha with 8 rounds (RFC 8439's block with a 64-bit counter, no nonce)."""
    def rotated(x, n):
        return ((x << n) | (x >> (32 - n))) & 0xFFFFFFFF

    def quarter(s, a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = rotated(s[z] ^ s[x], n)

    constants, words = struct.unpack("<4I", b"expand 32-byte k"), struct.unpack("<8I", key)
    counter = 0
    while True:
        start = [*constants, *words, counter & 0xFFFFFFFF, counter >> 32, 0, 0]
        state = list(start)
        for _ in range(4):
            for i in range(4):
                quarter(state, i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(state, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        yield from ((a + b) & 0xFFFFFFFF for a, b in zip(state, start))
        counter += 1


def order(n, seed, epoch):
    """The program's permutation of an epoch (src/data/order.rs)."""
    words = chacha8(struct.pack("<QQ", seed, epoch) + b"data order/epoch")

    def below(bound):
        reject_from = 0xFFFFFFFF - (0xFFFFFFFF % bound + 1) % bound
        return next(word for word in words if word <= reject_from) % bound

    found = list(range(n))
    for last in range(n - 1, 0, -1):
        pick = below(last + 1)
        found[last], found[pick] = found[pick], found[last]
    return found


def program(given, output, *more):
    command = [given.program, "train", "-m", given.model, "-d", given.pairs, "-o", str(output), "--method", "dpo", "--overwrite"]
    command += ["--precision", "f32", "--batch-size", str(given.batch), "--grad-accum", str(given.accumulation), "--beta", str(BETA)]
    command += ["--seed", str(given.seed), "-t", str(given.threads), "--samples", "0", *more]
    subprocess.run(command, check=True)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "grad_norm" in line]


def start(base, path):
    """The model with the factors of an adapter file of zero effect."""
    reader = gguf.GGUFReader(path)
    tensors = {t.name: torch.tensor(t.data) for t in reader.tensors}
    rank = next(t.shape[0] for name, t in tensors.items() if name.endswith(".lora_a"))
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", bias="none")
    model = get_peft_model(base, config)
    parameters = names.factors(model)
    assert parameters.keys() == tensors.keys(), "PEFT adapts other weights than the adapter file"
    with torch.no_grad():
        for name, parameter in parameters.items():
            # B is zero at the start: the file's has moved by the smallest rate there is.
            parameter.copy_(tensors[name] if name.endswith("lora_a") else torch.zeros_like(parameter))
    return model


class Trainer(DPOTrainer):
    """TRL's, on the rows as they come."""

    program_tokens = False

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        dataset = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        if not self.program_tokens:
            return dataset
        end = processing_class.eos_token_id

        def ended(row):
            return {key: row[key][: row[key].index(end) + 1] for key in ("chosen_ids", "rejected_ids")}

        return dataset.map(ended)


def conversation(row):
    message = lambda role, text: [{"role": role, "content": text}]
    return {
        "prompt": message("user", row["prompt"]),
        # The program trims answers that become messages.
        "chosen": message("assistant", row["chosen"].strip()),
        "rejected": message("assistant", row["rejected"].strip()),
    }


def trl(given, rows, rates, adapter, output):
    torch.set_num_threads(given.threads)
    path = pathlib.Path(given.model)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # Beside eos: the trainer masks it out.
    tokenizer.pad_token = tokenizer.bos_token
    model = start(torch_lora.load(given.model, torch.float32), adapter)
    config = DPOConfig(
        output_dir=str(output / "trl"), seed=given.seed, use_cpu=True, bf16=False, beta=BETA, loss_type="sigmoid",
        per_device_train_batch_size=given.batch, gradient_accumulation_steps=given.accumulation, max_steps=len(rates),
        learning_rate=rates[0], max_grad_norm=1.0, weight_decay=0.0, logging_steps=1, save_strategy="no", report_to="none",
        gradient_checkpointing=False, max_length=1024, disable_tqdm=True,
    )
    moved = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moved, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)])
    Trainer.program_tokens = given.tokens == "program"
    trainer = Trainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
                      optimizers=(optimizer, scheduler))
    trainer.train()
    return [line for line in trainer.state.log_history if "grad_norm" in line]


def main():
    arguments = argparse.ArgumentParser()
    for name in ("program", "model", "pairs", "output"):
        arguments.add_argument(name)
    arguments.add_argument("--steps", type=int, default=30)
    arguments.add_argument("--batch", type=int, default=4)
    arguments.add_argument("--accumulation", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--tokens", choices=["program", "trl"], default="program")
    given = arguments.parse_args()
    output = pathlib.Path(given.output)
    output.mkdir(parents=True, exist_ok=True)

    program(given, output / "start", "--max-steps", "1", "--learning-rate", "1e-30")
    ours = program(given, output / "program", "--max-steps", str(given.steps))

    rows = [json.loads(line) for line in pathlib.Path(given.pairs).read_text().splitlines() if line.strip()]
    per_step = given.batch * given.accumulation
    per_epoch = len(rows) // per_step
    assert given.steps <= per_epoch, f"one epoch has {per_epoch} whole steps"
    picked = order(len(rows), given.seed, 0)[: given.steps * per_step]
    ordered = [conversation(rows[i]) for i in picked]
    rates = [line["learning_rate"] for line in ours]
    theirs = trl(given, ordered, rates, output / "start" / "adapter.gguf", output)
    assert len(ours) == len(theirs) == given.steps
    if given.tokens == "program":
        for a, b in zip(ours, theirs):
            assert a["num_tokens"] == b["num_tokens"], f"other rows or tokens: {a} {b}"

    (output / "curves.json").write_text(json.dumps({"program": ours, "trl": theirs}, indent=1) + "\n")
    print("| step | loss | TRL | margin | TRL | grad norm | TRL |\n|---|---|---|---|---|---|---|")
    for step, (a, b) in enumerate(zip(ours, theirs), 1):
        if step in (1, 2, 3) or step % 5 == 0:
            pairs = [f"{a[m]:.5f} | {b[m]:.5f}" for m in ("loss", "rewards/margins", "grad_norm")]
            print(f"| {step} | " + " | ".join(pairs) + " |")
    print("\n| metric | largest difference | at step | mean difference |\n|---|---|---|---|")
    for metric in METRICS:
        apart = [abs(a[metric] - b[metric]) for a, b in zip(ours, theirs)]
        print(f"| {metric} | {max(apart):.2e} | {apart.index(max(apart)) + 1} | {sum(apart) / len(apart):.2e} |")


if __name__ == "__main__":
    main()
