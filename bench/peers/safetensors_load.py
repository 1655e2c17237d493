#!/usr/bin/env python3
"""Time of safetensors load_file on the CPU, the peer of `load/cpu`.

load_file maps the file and may return before its pages are read, so two things are timed: `lazy`, the
call alone, and `touched`, the call and one byte of every page. The limit is a plain read of the same file.
Appends one result record for each to a .jsonl file, and prints a line each to standard error.

    safetensors_load.py MODEL_OR_FILE [--cold] --out results.jsonl
"""

import argparse
import os
import pathlib
import statistics
import sys

import safetensors
import torch
from safetensors.torch import load_file

import result_record

REQUEST = 16 << 20
PAGE = 4096


def files_of(path):
    files = sorted(path.glob("model*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise SystemExit(f"{path}: no model*.safetensors")
    return files


def load(files):
    return [load_file(f) for f in files]


def load_and_touch(files):
    return sum(int(t.contiguous().view(-1).view(torch.uint8)[::PAGE].sum())
               for tensors in load(files) for t in tensors.values() if t.numel())


def read(files):
    for f in files:
        with open(f, "rb", buffering=0) as source:
            while source.read(REQUEST):
                pass


def drop_from_cache(files):
    for f in files:
        with open(f, "rb") as source:
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(calls, files, samples, cold):
    """Seconds of each call, taken in turns."""
    seconds = {name: [] for name in calls}
    for _ in range(samples):
        for name, call in calls.items():
            if cold:
                drop_from_cache(files)
            seconds[name].append(result_record.timed(lambda: call(files)))
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="model directory or .safetensors file")
    parser.add_argument("--cold", action="store_true", help="drop the file from the page cache before every call")
    parser.add_argument("--samples", type=int, default=15, help="timed calls (15)")
    parser.add_argument("--name", help="name of the model in the case (its directory's name)")
    parser.add_argument("--out", type=pathlib.Path, help=".jsonl to append to (standard output)")
    args = parser.parse_args()

    machine, files = result_record.machine(), files_of(args.model)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    size = sum(f.stat().st_size for f in files)
    kinds = sorted({str(t.dtype).removeprefix("torch.") for tensors in load(files) for t in tensors.values()})
    calls = {"lazy": load, "touched": load_and_touch, "read": read}
    if not args.cold:
        for call in calls.values():
            result_record.warm_up(lambda: call(files))
    seconds = measure(calls, files, args.samples, args.cold)

    whole = statistics.median(seconds["read"])
    for way in ("lazy", "touched"):
        peer = result_record.summary(f"safetensors-{way}", safetensors.__version__, seconds[way])
        limit = {"probe": "file.read", "value": size / whole, "unit": "B/s", "time": whole}
        name = args.name or args.model.resolve().name
        case = f"load/cpu/{'cold' if args.cold else 'warm'}/{name}/{'+'.join(kinds)}"
        result_record.append(args.out, result_record.record(
            case, {"files": len(files), "way": way, "dtypes": kinds}, machine, None, 1, size, 0, peer, limit,
            verified=None, pinned=True))
        print(f"{case} {way}: {peer['median'] * 1e3:.2f} ms for {size / 1e6:.1f} MB, "
              f"plain read {whole * 1e3:.2f} ms", file=sys.stderr)


if __name__ == "__main__":
    main()
