#!/usr/bin/env python3
"""Whole commands on a GPU, on models of random weights: GPTQ jobs, and the first token of a cold start.

    gpu_jobs.py --pare PROGRAM --bench PROGRAM --folder DIR --json FILE [--jobs gptq/1B,gptq/8B,ttft/135M,...]

Makes the model and random token ids in DIR, runs the command, and appends one JSON object per case: {"case", "ours":
{"seconds", ...}, "limit": {"probe", "operations"}}. The limit of a job is the arithmetic that it cannot avoid, at the
rate of gpu.gemm_bf16 of the same run; bench/gpu_table.py divides. A case that fails has "error" in place of "ours", and the exit
code is 1. Standard library only.
"""

import argparse
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import time

# hidden, intermediate, blocks, heads, kv heads, head dim, vocabulary, positions, tied
SHAPES = json.loads((pathlib.Path(__file__).resolve().parent / "gpu_shapes.json").read_text())
PROMPTS = (16, 512)


def write_ids(path, rows, tokens, vocabulary):
    """safetensors with input_ids, I32 [rows, tokens]."""
    draw = random.Random(0)
    data = struct.pack(f"<{rows * tokens}i", *(draw.randrange(3, vocabulary) for _ in range(rows * tokens)))
    header = json.dumps({"input_ids": {"dtype": "I32", "shape": [rows, tokens], "data_offsets": [0, len(data)]}})
    header += " " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)


def job_operations(shape, tokens, context):
    """Forward pass of the blocks, causal attention, and half of each second moment (it is symmetric)."""
    hidden, inner, blocks, heads, kv_heads, head_dim = shape[:6]
    weights = hidden * (heads + 2 * kv_heads) * head_dim + heads * head_dim * hidden + 3 * hidden * inner
    inputs = [hidden, heads * head_dim, hidden, inner]
    block = {
        "forward": 2 * weights * tokens,
        "attention": 2 * tokens * context * heads * head_dim,
        "moments": sum(tokens * k * k for k in inputs),
        "factors": sum(4 * k ** 3 / 3 for k in inputs),
    }
    return {name: blocks * count for name, count in block.items()}


def last_json(text):
    """The last line, or else the whole, that is a JSON object."""
    for part in [text, *reversed(text.strip().splitlines())]:
        try:
            value = json.loads(part)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return {}


class Jobs:
    def __init__(self, args):
        self.args = args
        self.folder = pathlib.Path(args.folder) / "gpu-jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.failed = False
        self.end = time.monotonic() + args.limit

    def run(self, command):
        began = time.monotonic()
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=max(1.0, self.end - began))
        return time.monotonic() - began, done

    def write(self, case, **record):
        self.failed = self.failed or "error" in record
        with open(self.args.json, "a") as out:
            out.write(json.dumps({"case": case, **record}) + "\n")
        print(case, json.dumps(record.get("ours") or record.get("error")), file=sys.stderr, flush=True)

    def made(self, shape, form):
        path = self.folder / (shape if form == "bf16" else f"{shape}-{form}.pare")
        if not path.exists():
            seconds, done = self.run([self.args.bench, "--make-model", shape, path, "--form", form])
            if done.returncode:
                raise RuntimeError(f"--make-model: {done.stderr[-400:]}")
            print(f"made {path.name} in {seconds:.1f} s", file=sys.stderr)
        return path

    def quantize(self, method, shape):
        samples, context = (4, 16) if self.args.tiny else (128, 2048)
        model, ids, out = self.made(shape, "bf16"), self.folder / "ids.safetensors", self.folder / "out.pare"
        write_ids(ids, samples, context, SHAPES[shape][6])
        options = ["--method", method, "--scheme", "int4-g128", "--order", "natural"] if method == "gptq" else \
            ["--method", method, "--scheme", "int4-g128"]
        seconds, done = self.run([self.args.pare, "quantize", model, *options, "--data", ids, "--samples", samples, "--context", context,
                                  "--device", self.args.device, "--json", "--no-report", "--force", "-o", out])
        case = f"job/{method}/{shape}"
        if done.returncode:
            return self.write(case, error=f"exit {done.returncode}: {done.stderr[-600:]}")
        summary = last_json(done.stdout)
        operations = job_operations(SHAPES[shape], samples * context, context)
        counted = sum(operations[name] for name in ("forward", "attention", "moments"))
        keep = {k: v for k, v in summary.items() if isinstance(v, (int, float, str))}
        self.write(case, ours={"name": "pare quantize", "seconds": summary.get("seconds", seconds), "unit": "s",
                               "wall_seconds": seconds, "samples": samples, "context": context, "summary": keep},
                   ops=counted, operations=operations, limit={"probe": "gpu.gemm_bf16", "operations": counted})

    def first_token(self, shape, form):
        model = self.made(shape, form)
        for prompt in PROMPTS[:1] if self.args.tiny else PROMPTS:
            self.case, runs = f"ttft/{shape}/{form}/prompt{prompt}", []
            for _ in range(2 if self.args.tiny else 3):
                seconds, done = self.run([self.args.bench, "--gpu", "--first-token", model, "--prompt", prompt])
                if done.returncode:
                    self.write(self.case, error=done.stderr[-400:])
                    break
                runs.append({**last_json(done.stdout), "wall_seconds": seconds})
            else:
                best = sorted(runs, key=lambda one: one["total"])[len(runs) // 2]
                self.write(self.case,
                           ours={"name": "pare_bench --first-token", "seconds": best["total"], "unit": "s",
                                 "stages": best, "n": len(runs)})

    def do(self, job):
        family, shape, *form = job.split("/")
        form = form[0] if form else "w4+head4"
        self.case = f"ttft/{shape}/{form}/prompt{PROMPTS[0]}" if family == "ttft" else f"job/{family}/{shape}"
        try:
            if family == "ttft":
                self.first_token(shape, form)
            else:
                self.quantize(family, shape)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            self.write(self.case, error=str(error)[:400])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pare", required=True, type=pathlib.Path)
    parser.add_argument("--bench", required=True, type=pathlib.Path, help="pare_bench")
    parser.add_argument("--folder", required=True, help="room for 23 GB; what is made there is removed")
    parser.add_argument("--json", required=True)
    parser.add_argument("--jobs", default="ttft/135M,ttft/1B,gptq/1B,gptq/8B")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=float, default=280, help="seconds of all jobs together")
    parser.add_argument("--tiny", action="store_true", help="4 x 16 tokens, to try the script")
    args = parser.parse_args()
    args.pare, args.bench = args.pare.resolve(), args.bench.resolve()
    jobs = Jobs(args)
    try:
        for job in args.jobs.split(","):
            jobs.do(job)
    finally:
        shutil.rmtree(jobs.folder, ignore_errors=True)
    return 1 if jobs.failed else 0


if __name__ == "__main__":
    sys.exit(main())
