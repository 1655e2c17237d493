#!/usr/bin/env python3
"""GPTQ by GPTQModel on the CPU: INT4, symmetric, groups of 64, a second peer of `pare quantize --method gptq`.

    gptq_gptqmodel.py MODEL --data FILE -o OUT [--samples 64] [--context 512] [--threads 2] [--batch 1]

Writes a GPTQ folder and prints one JSON object as gptq_llmcompressor.py does. Settings are the tool's defaults but for the
scheme: blocks of 128 columns, lm_head kept.
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
    return parser.parse_args()


OPTIONS = arguments()
os.environ["OMP_NUM_THREADS"] = str(OPTIONS.threads)  # before torch is imported, which reads them once
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")   # else threads that wait burn the time of those that work
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, OPTIONS.threads)))  # its own count on 2 CPUs, 1, it then refuses
os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")

import gptqmodel
import torch
import transformers

import windows


def main():
    torch.set_num_threads(OPTIONS.threads)
    imported = time.monotonic()
    config = gptqmodel.QuantizeConfig(bits=OPTIONS.bits, group_size=OPTIONS.group, sym=True, device="cpu")
    model = gptqmodel.GPTQModel.load(OPTIONS.model, config)
    rows = windows.draw(OPTIONS.model, OPTIONS.data, OPTIONS.samples, OPTIONS.context)
    loaded = time.monotonic()
    model.quantize([{"input_ids": r, "attention_mask": [1] * len(r)} for r in rows], batch_size=OPTIONS.batch,
                   calibration_concat_size=None)
    quantized = time.monotonic()
    model.save(OPTIONS.output)
    saved = time.monotonic()
    print()
    print(json.dumps({"tool": "gptqmodel", "threads": torch.get_num_threads(),
                      "versions": {"gptqmodel": gptqmodel.__version__, "torch": torch.__version__,
                                   "transformers": transformers.__version__},
                      "import_seconds": imported - BEGAN, "load_seconds": loaded - imported,
                      "quantize_seconds": quantized - loaded, "save_seconds": saved - quantized}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
