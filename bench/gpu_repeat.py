#!/usr/bin/env python3
"""The same seed gives the same bytes: GPTQ, sampled text and a short distillation, several times on one card.

    gpu_repeat.py --pare PROGRAM --folder DIR --json FILE [--times 5] [--device cuda]

Appends one JSON object per command: {"case": "repeat/quantize", "ours": {"seconds"}, "runs", "distinct"}. Exit 1 unless `distinct` is
1 for all. Standard library only.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODEL, TEXT = ROOT / "samples/books-3m", ROOT / "samples/text/sample.txt"


def commands(folder, device):
    """Name, arguments, and the file whose bytes count; None: what is printed."""
    quantized, student = folder / "q.pare", folder / "d"
    return (
        ("quantize", ["quantize", MODEL, "--method", "gptq", "--scheme", "int4-g64", "--data", TEXT, "--samples", 8, "--no-report",
                      "--force", "-q", "--device", device, "-o", quantized], quantized),
        ("run", ["run", quantized, "-p", "Once upon", "-n", 64, "--seed", 7, "--temperature", 0.8, "-q", "--device", device], None),
        ("distill", ["distill", "--student", MODEL, "--teacher", MODEL, "--data", TEXT, "--steps", 5, "--seed", 7, "--no-report",
                     "--force", "-q", "--device", device, "-o", student], student / "model.safetensors"),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pare", required=True, type=pathlib.Path)
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    parser.add_argument("--json", required=True)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    folder = args.folder / "repeat"
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    try:
        for name, command, file in commands(folder, args.device):
            hashes, seconds, error = [], [], ""
            for _ in range(args.times):
                if file:
                    file.unlink(missing_ok=True)  # what counts is what this run writes
                began = time.monotonic()
                done = subprocess.run([str(word) for word in (args.pare.resolve(), *command)], capture_output=True)
                seconds.append(time.monotonic() - began)
                if done.returncode:
                    error = f"exit {done.returncode}: {done.stderr.decode(errors='replace')[-400:]}"
                    break
                hashes.append(hashlib.sha256(file.read_bytes() if file else done.stdout).hexdigest())
            record = {"case": f"repeat/{name}"}
            if error:
                record["error"] = error
            else:
                record.update(ours={"name": f"pare {name}", "seconds": sorted(seconds)[len(seconds) // 2], "unit": "s"},
                              runs=len(hashes), distinct=len(set(hashes)), sha256=sorted(set(hashes)))
            failed = failed or bool(error) or len(set(hashes)) != 1
            with open(args.json, "a") as out:
                out.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
