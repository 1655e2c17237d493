#!/usr/bin/env python3
"""GPTQ by llm-compressor on the CPU: INT4, symmetric, groups of 64, the peer of `pare quantize --method gptq`.

    gptq_llmcompressor.py MODEL --data FILE -o OUT [--samples 64] [--context 512] [--threads 2] [--dtype auto]

Writes a compressed-tensors folder and prints one JSON object: seconds of each phase by the clock, versions. The seconds and
the memory of the whole process are for the caller to measure (gptq_compare does). Settings are the tool's defaults but
for the scheme: blocks of 128 columns, damping 0.01, columns by activity with static groups, lm_head kept.
"""

import argparse
import json
import os
import sys
import time

BEGAN = time.monotonic()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--dtype", default="auto", help="auto (of the file), bfloat16 or float32")
    return parser.parse_args()


OPTIONS = arguments()
os.environ["OMP_NUM_THREADS"] = str(OPTIONS.threads)  # before torch is imported, which reads them once
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")   # else threads that wait burn the time of those that work
os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")

import datasets
import llmcompressor
import torch
import transformers
from llmcompressor.modifiers.gptq import GPTQModifier

import windows


def main():
    torch.set_num_threads(OPTIONS.threads)
    imported = time.monotonic()
    dtype = OPTIONS.dtype if OPTIONS.dtype == "auto" else getattr(torch, OPTIONS.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(OPTIONS.model, dtype=dtype, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(OPTIONS.model, local_files_only=True)
    rows = windows.draw(OPTIONS.model, OPTIONS.data, OPTIONS.samples, OPTIONS.context)
    data = datasets.Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(r) for r in rows]})
    loaded = time.monotonic()
    weights = {"num_bits": OPTIONS.bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": OPTIONS.group}
    recipe = GPTQModifier(ignore=["lm_head"], config_groups={"group_0": {"targets": ["Linear"], "weights": weights}})
    llmcompressor.oneshot(model=model, tokenizer=tokenizer, dataset=data, recipe=recipe, max_seq_length=OPTIONS.context,
                          num_calibration_samples=OPTIONS.samples, batch_size=OPTIONS.batch,
                          shuffle_calibration_samples=False)
    quantized = time.monotonic()
    model.save_pretrained(OPTIONS.output, save_compressed=True)
    tokenizer.save_pretrained(OPTIONS.output)
    saved = time.monotonic()
    print(json.dumps({"tool": "llmcompressor", "dtype": str(model.dtype), "threads": torch.get_num_threads(),
                      "versions": {m.__name__: m.__version__ for m in (llmcompressor, torch, transformers)},
                      "import_seconds": imported - BEGAN, "load_seconds": loaded - imported,
                      "quantize_seconds": quantized - loaded, "save_seconds": saved - quantized}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
