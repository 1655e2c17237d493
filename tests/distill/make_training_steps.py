#!/usr/bin/env python3
"""Ten steps of training every fixture family with PyTorch: writes training_steps_expected.h to standard output.

    pip install torch transformers safetensors
    python make_training_steps.py FIXTURES > training_steps_expected.h      # the folder of make_fixtures.py

Plain AdamW in float32: lr 1e-3, betas 0.9 and 0.95, eps 1e-8, decay 0.1 but none for vectors, gradients clipped to
norm 1, cross-entropy on the fixture's own ids, no dropout. Weights are named and laid out as save_pretrained writes them.
"""

import pathlib
import sys
import tempfile

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

FAMILIES = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gpt2", "mixtral"]
STEPS, SAMPLES = 10, 8


def train(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = load_file(folder / "expected.safetensors")["input_ids"]
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW([{"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
                                   {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits = model(ids).logits[:, :-1]
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    with tempfile.TemporaryDirectory() as tmp:
        model.save_pretrained(tmp)
        weights = {}
        for file in sorted(pathlib.Path(tmp).glob("*.safetensors")):
            weights.update(load_file(file))
    return losses, norms, weights


def samples(folder, weights):
    """Elements that training moved, from tensors all over the model."""
    before = {}
    for file in sorted(folder.glob("model*.safetensors")):
        before.update(load_file(file))
    generator = torch.Generator().manual_seed(1)
    names = sorted(weights)
    chosen = []
    while len(chosen) < SAMPLES:
        name = names[torch.randint(len(names), (1,), generator=generator).item()]
        index = torch.randint(weights[name].numel(), (1,), generator=generator).item()
        value = weights[name].flatten()[index].item()
        if abs(value - before[name].float().flatten()[index].item()) < 2e-3 or any(c[0] == name for c in chosen):
            continue
        chosen.append((name, index, value))
    return chosen


def main():
    fixtures = pathlib.Path(sys.argv[1])
    print("// tests/distill/training_steps_expected.h: made by make_training_steps.py; torch "
          f"{torch.__version__.split('+')[0]}.\n#pragma once\n")
    print("#include <cstdint>\n#include <vector>\n\nnamespace pare::test {\n")
    print("struct ExpectedWeight {\n  const char* name;  // of the checkpoint\n  int64_t index;     // in its own layout"
          "\n  double value;\n};")
    print("struct ExpectedSteps {\n  const char* fixture;\n  std::vector<double> losses, norms;  // before each step"
          "\n  double sum_of_absolutes;           // of all weights, after the last step"
          "\n  std::vector<ExpectedWeight> weights;\n};\n")
    print("inline const std::vector<ExpectedSteps>& expected_steps() {")
    print("  static const std::vector<ExpectedSteps> all = {")
    for family in FAMILIES:
        losses, norms, weights = train(fixtures / family)
        total = sum(w.double().abs().sum().item() for w in weights.values())
        print(f'      {{"{family}",')
        print("       {" + ", ".join(f"{x:.9g}" for x in losses) + "},")
        print("       {" + ", ".join(f"{x:.9g}" for x in norms) + "},")
        print(f"       {total:.12g},")
        rows = [f'{{"{n}", {i}, {v:.9g}}}' for n, i, v in samples(fixtures / family, weights)]
        print("       {" + ",\n        ".join(rows) + "}},")
    print("  };\n  return all;\n}\n\n}  // namespace pare::test")


main()
