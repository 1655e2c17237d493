#!/usr/bin/env python3
"""Speed of a perplexity evaluation in PyTorch on the CPU, the peer of `eval/ppl`.

One call is a forward pass over a batch of disjoint windows and the mean loss of their targets. Appends
one result record per thread count to a .jsonl file, and prints tokens per second to standard error.

    torch_dense.py MODEL --data FILE --context 512 --batch 4 --threads 1,2 --out results.jsonl

With --serve it answers requests on standard input instead, a JSON object a line: token ids, their context and a
thread count in, the seconds of one call and its loss out. So another program can time it in turns with its own code.

    torch_dense.py MODEL --serve
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import sys
import time

# Before torch is imported, because its thread pool reads them once: one thread per core, not moving.
PINNING = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
for name, value in PINNING.items():
    os.environ.setdefault(name, value)

import torch
import torch.nn.functional as F

import hf_evaluate
import result_record

DTYPES = {"float32": (torch.float32, "f32"), "bfloat16": (torch.bfloat16, "bf16")}
PROBE_SIZE, PROBE_CALLS = 2048, 5
LOSS_BOUND = {"float32": 1e-4, "bfloat16": 2e-2}  # against the float64 sum of float32 logits


def batches_of(model_path, data, context, batch):
    """Every full batch of the text, as tensors [batch, context]."""
    tokenizer = hf_evaluate.load_tokenizer(model_path)
    ids = hf_evaluate.encode(tokenizer, hf_evaluate.read_text(data), "never").ids()
    count = len(ids) // (context * batch)
    if count == 0:
        raise SystemExit(f"{data}: {len(ids)} tokens, one batch needs {context * batch}")
    return torch.tensor(ids[:count * context * batch]).reshape(count, batch, context)


@torch.inference_mode()
def loss_of(model, ids):
    logits = model(input_ids=ids, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())


@torch.inference_mode()
def loss_in_double(model_path, ids):
    logits = hf_evaluate.load_model(model_path)(input_ids=ids, use_cache=False).logits
    rows = [-hf_evaluate.log_probabilities(one[:-1]).gather(1, y[1:, None]) for one, y in zip(logits, ids)]
    return torch.cat(rows).mean().item()


def work(model, batch, context):
    """Bytes of weights read and operations done in one call."""
    c = model.config
    matrices = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    linear = 2 * sum(w.numel() for w in matrices) * batch * context
    attention = 2 * context * context * c.num_attention_heads * head_dim * c.num_hidden_layers * batch
    return sum(w.numel() * w.element_size() for w in matrices), linear + attention


def gemm_rates(dtype):
    a, b = torch.randn(2, PROBE_SIZE, PROBE_SIZE).to(dtype)
    product = lambda: torch.mm(a, b)
    result_record.warm_up(product)
    return [2 * PROBE_SIZE ** 3 / result_record.timed(product) for _ in range(PROBE_CALLS)]


def measure(model, windows, threads, samples, dtype):
    """Seconds per call by the clock and of processor time, between two looks at a plain matrix product."""
    torch.set_num_threads(threads)
    turn = itertools.cycle(windows)
    call = lambda: loss_of(model, next(turn))
    rates = gemm_rates(dtype)
    result_record.warm_up(call)
    seconds, busy = [], []
    for _ in range(samples):
        before = time.process_time()
        seconds.append(result_record.timed(call))
        busy.append(time.process_time() - before)
    return seconds, busy, statistics.median(rates + gemm_rates(dtype))


def serve(model, short):
    print(json.dumps({"name": f"torch-{short}", "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        ids = torch.tensor(request["ids"]).reshape(-1, request["context"])
        torch.set_num_threads(request["threads"])
        busy = time.process_time()
        began = time.perf_counter()
        loss = loss_of(model, ids).item()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "processor_seconds": time.process_time() - busy, "loss": loss}),
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="model directory")
    parser.add_argument("--data", type=pathlib.Path, help="UTF-8 text")
    parser.add_argument("--serve", action="store_true", help="answer requests on standard input")
    parser.add_argument("--context", type=int, default=512, help="tokens in a window (512)")
    parser.add_argument("--batch", type=int, default=4, help="windows in a call (4)")
    parser.add_argument("--threads", default="1,2", help="thread counts, one record each (1,2)")
    parser.add_argument("--samples", type=int, default=15, help="timed calls (15)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--name", help="name of the model in the case (its directory's name)")
    parser.add_argument("--out", type=pathlib.Path, help=".jsonl to append to (standard output)")
    args = parser.parse_args()
    if args.serve == bool(args.data):
        parser.error("give --data FILE or --serve")

    hf_evaluate.quiet()
    machine = result_record.machine()
    dtype, short = DTYPES[args.dtype]
    if args.serve:
        serve(hf_evaluate.load_model(args.model, dtype), short)
        return
    windows = batches_of(args.model, args.data, args.context, args.batch)
    model = hf_evaluate.load_model(args.model, dtype)
    error = abs(loss_of(model, windows[0]).item() - loss_in_double(args.model, windows[0]))
    verified = {"what": "mean loss of one batch", "max_error": error, "bound": LOSS_BOUND[args.dtype]}
    if error > verified["bound"]:
        raise SystemExit(f"mean loss is off by {error}, bound {verified['bound']}")

    work_bytes, ops = work(model, args.batch, args.context)
    tokens = args.batch * args.context
    for threads in map(int, args.threads.split(",")):
        seconds, busy, rate = measure(model, windows, threads, args.samples, dtype)
        peer = result_record.summary(f"torch-{short}", torch.__version__, seconds)
        limit = {"probe": f"torch.gemm_{short}", "value": rate, "unit": "op/s", "time": ops / rate}
        peer |= {"tokens_per_second": tokens / peer["median"], "share_of_limit": limit["time"] / peer["median"]}
        if threads == 1:  # of more threads it would count their waiting for each other
            peer["cpu_median"] = statistics.median(busy)
        case = f"eval/ppl/{args.name or args.model.resolve().name}/{short}/ctx{args.context}/t{threads}"
        params = {"context": args.context, "batch": args.batch, "tokens": tokens, "dtype": args.dtype}
        result_record.append(args.out, result_record.record(
            case, params, machine, {"used": torch.backends.cpu.get_cpu_capability().lower()}, threads,
            work_bytes, ops, peer, limit, verified,
            pinned=all(os.environ[k] == v for k, v in PINNING.items())))
        print(f"{case}: {peer['tokens_per_second']:.1f} tokens/s, "
              f"{peer['share_of_limit']:.0%} of {limit['probe']}", file=sys.stderr)


if __name__ == "__main__":
    main()
