"""Values and slopes of losses by TRL's own trainers, on drawn log-probs.

    losses.py OUTPUT

Nothing is written out anew: the methods of TRL's classes run, on stand-ins for trainer and model that hand them a pair's log-probs,
and PyTorch differentiates what they return. `tests/it/losses.rs` compares. Two losses are compared without their likelihood
term, which TRL takes over prompt and answer: CPO and ORPO.
"""

import collections
import json
import pathlib
import random
import sys
from importlib.metadata import version
from types import SimpleNamespace as Stand

import torch
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

# The names in this program, and what TRL is told.
DPO = ["sigmoid", "robust", "hinge", "ipo", "sigmoid_norm", "apo_zero", "apo_down", "bco_pair", "nca_pair", "sppo_hard"]
FREE = ["cdpo", "simpo", "cpo", "orpo"]
N_CASES = 12
SMOOTHING, GAMMA, WEIGHTS = 0.2, 0.7, [1.3, 0.8]


def leaf(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def trainer(**more):
    same = lambda x: x
    accelerator = Stand(device=torch.device("cpu"), gather=same, gather_for_metrics=same)
    metrics = collections.defaultdict(lambda: collections.defaultdict(list))
    return Stand(accelerator=accelerator, _metrics=metrics, _total_train_tokens=0, _tp_size=1, model=Stand(training=False),
                 aux_loss_enabled=False, precompute_ref_logps=True, **more)


class Model:
    """Hands out log-probs: each answer's sum, spread evenly over its tokens behind a prompt of one."""

    def __init__(self, sums, lengths):
        width = max(lengths)
        self.mask = torch.zeros(len(sums), width + 1, dtype=torch.long)
        rows = []
        for i, (value, n) in enumerate(zip(sums, lengths)):
            self.mask[i, 1 : n + 1] = 1
            rows.append(torch.cat([(value / n).expand(n), torch.zeros(width - n, dtype=torch.float64)]))
        self.log_probs = torch.stack(rows)
        self.tokens = torch.ones_like(self.mask)

    def __call__(self, **_):
        some = torch.zeros_like(self.log_probs)
        return Stand(log_probs=self.log_probs, entropy=some, mean_logits=some, is_top1=some.bool())


def dpo(loss, beta, pair):
    values = [leaf(pair["chosen"]), leaf(pair["rejected"])]
    model = Model(values, [pair["n_chosen"], pair["n_rejected"]])
    own = trainer(ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[loss], loss_weights=[1.0], beta=beta,
                  label_smoothing=SMOOTHING, use_weighting=False)
    inputs = {"input_ids": model.tokens, "attention_mask": model.tokens, "completion_mask": model.mask,
              "ref_chosen_logps": torch.tensor([pair["ref_chosen"]], dtype=torch.float64),
              "ref_rejected_logps": torch.tensor([pair["ref_rejected"]], dtype=torch.float64)}
    return DPOTrainer._compute_loss(own, model, inputs, False), values


def free(loss, beta, pair):
    values = [leaf(pair["chosen"]), leaf(pair["rejected"])]
    own = trainer(beta=beta, alpha=0.0, simpo_gamma=GAMMA, label_smoothing=0.0, loss_type="sigmoid")
    means = [(value / pair[n])[None] for value, n in zip(values, ("n_chosen", "n_rejected"))]
    if loss == "cdpo":
        own.label_smoothing = SMOOTHING
        ratios = [(value - pair[ref])[None] for value, ref in zip(values, ("ref_chosen", "ref_rejected"))]
        found = CPOTrainer.cpo_loss(own, *ratios)[0]
    elif loss == "simpo":
        own.loss_type = "simpo"
        found = CPOTrainer.cpo_loss(own, *means)[0]
    elif loss == "cpo":
        found = CPOTrainer.cpo_loss(own, *(value[None] for value in values))[0]
    else:
        # A term that the trainer subtracts.
        found = -ORPOTrainer.odds_ratio_loss(own, *means)[0]
    return found.sum(), values


def kto(beta, example):
    value, other = leaf(example["policy"]), torch.tensor(example["mismatched"], dtype=torch.float64)
    model, mismatched = Model([value], [5]), Model([other], [5])
    own = trainer(beta=beta, loss_type="kto", desirable_weight=WEIGHTS[0], undesirable_weight=WEIGHTS[1], calculate_KL=True)
    own._compute_kl_logps = lambda *_: mismatched.log_probs.sum(-1)
    number = lambda x: torch.tensor([x], dtype=torch.float64)
    inputs = {"input_ids": model.tokens, "attention_mask": model.tokens, "completion_mask": model.mask,
              "label": torch.tensor([example["desirable"]]), "ref_logps": number(example["reference"]),
              "ref_KL_logps": number(example["ref_mismatched"])}
    return KTOTrainer._compute_loss(own, model, inputs, False), [value]


def case(found, values, **given):
    slopes = torch.autograd.grad(found, values)
    return {**given, "loss": found.item(), "slopes": [slope.item() for slope in slopes]}


def main():
    drawn = random.Random(6)
    cases = {name: [] for name in [*DPO, *FREE, "kto"]}
    for _ in range(N_CASES):
        n_chosen, n_rejected = drawn.randint(1, 30), drawn.randint(1, 30)
        near = lambda n: round(-n * drawn.uniform(0.2, 3.0), 3)
        pair = {"chosen": near(n_chosen), "rejected": near(n_rejected), "n_chosen": n_chosen, "n_rejected": n_rejected}
        pair |= {f"ref_{key}": round(pair[key] + drawn.uniform(-9, 9), 3) for key in ("chosen", "rejected")}
        beta = round(drawn.uniform(0.05, 0.6), 3)
        for loss in DPO:
            cases[loss].append(case(*dpo(loss, beta, pair), beta=beta, **pair))
        for loss in FREE:
            own = round(5 * beta, 3) if loss == "simpo" else beta
            cases[loss].append(case(*free(loss, own, pair), beta=own, **pair))
        example = {"policy": pair["chosen"], "reference": pair["ref_chosen"], "desirable": drawn.random() < 0.5}
        example |= {"mismatched": pair["rejected"], "ref_mismatched": pair["ref_rejected"]}
        cases["kto"].append(case(*kto(beta, example), beta=beta, **example))
    constants = {"label_smoothing": SMOOTHING, "gamma": GAMMA, "kto_weights": WEIGHTS}
    versions = {name: version(name) for name in ("torch", "trl")}
    listed = (f'"{name}": [\n  ' + ",\n  ".join(map(json.dumps, of)) + "\n ]" for name, of in cases.items())
    text = f'{{"versions": {json.dumps(versions)},\n"constants": {json.dumps(constants)},\n"cases": {{\n ' + ",\n ".join(listed) + "\n}}\n"
    json.loads(text)
    pathlib.Path(sys.argv[1]).write_text(text)


if __name__ == "__main__":
    main()
