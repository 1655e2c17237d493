#!/usr/bin/env python3
"""Speed and memory of a training step in PyTorch on the CPU, the peer of `train/step`.

One call is a step: forward, mean cross-entropy of the next token, backward, clipping by the global norm, AdamW. Weights,
moments and arithmetic are float32. With --teacher the loss is KL(teacher || student) over the whole logits.

    torch_train.py MODEL --serve                      answers requests on standard input, a JSON object a line
    torch_train.py MODEL --data FILE --context 512 --batch 1 --steps 5 [--threads 2] [--teacher T]

The second form prints one JSON object: seconds of each step, tokens per second of the fastest, losses, peak bytes.
"""

import argparse
import json
import os
import pathlib
import resource
import sys
import time

for name, value in {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}.items():
    os.environ.setdefault(name, value)

import torch
import torch.nn.functional as F

import hf_evaluate


class Training:
    """AdamW as `pare finetune` sets it up: no decay on vectors, betas 0.9 and 0.95, decay 0.1, clip 1."""

    def __init__(self, path, lr, teacher=None):
        self.model = hf_evaluate.load_model(path).train()
        self.model.config.use_cache = False
        self.teacher = hf_evaluate.load_model(teacher) if teacher else None
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8)

    def step(self, inputs, targets):
        logits = self.model(input_ids=inputs).logits
        if self.teacher is None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        else:
            with torch.inference_mode():
                wanted = F.log_softmax(self.teacher(input_ids=inputs, use_cache=False).logits.flatten(0, 1), -1)
            loss = F.kl_div(F.log_softmax(logits.flatten(0, 1), -1), wanted.clone(), log_target=True,
                            reduction="batchmean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def windows_of(ids, context):
    """Inputs and targets of windows of `context` + 1 ids, which overlap by one."""
    rows = torch.tensor(ids).unfold(0, context + 1, context)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def serve(training):
    print(json.dumps({"name": "torch-f32", "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        torch.set_num_threads(request["threads"])
        inputs, targets = windows_of(request["ids"], request["context"])
        busy, began = time.process_time(), time.perf_counter()
        loss = training.step(inputs, targets)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "processor_seconds": time.process_time() - busy, "loss": loss}),
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--data", type=pathlib.Path, help="UTF-8 text")
    parser.add_argument("--teacher", type=pathlib.Path, help="train with KL to this model")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1, help="sequences of a step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-5)
    args = parser.parse_args()
    if args.serve == bool(args.data):
        parser.error("give --data FILE or --serve")
    hf_evaluate.quiet()
    torch.set_num_threads(args.threads)
    training = Training(args.model, args.lr, args.teacher)
    if args.serve:
        serve(training)
        return
    tokenizer = hf_evaluate.load_tokenizer(args.model)
    ids = hf_evaluate.encode(tokenizer, hf_evaluate.read_text(args.data), "never").ids()
    need = args.steps * args.batch * args.context + 1
    if len(ids) < need:
        raise SystemExit(f"{args.data}: {len(ids)} tokens, {need} needed")
    inputs, targets = windows_of(ids[:need], args.context)
    seconds, losses = [], []
    for step in range(args.steps):
        rows = slice(step * args.batch, (step + 1) * args.batch)
        began = time.perf_counter()
        losses.append(training.step(inputs[rows], targets[rows]))
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"tool": "torch " + torch.__version__, "seconds": seconds, "losses": losses,
                      "tokens_per_second": args.batch * args.context / min(seconds),
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
