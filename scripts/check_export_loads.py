#!/usr/bin/env python3
"""Does a directory written by `pare export` load in Hugging Face transformers, and what is it worth there?

Loads it with AutoModelForCausalLM and AutoTokenizer, nothing missing and nothing left over, encodes and
decodes the text, and prints one JSON object with the perplexity. Exits with 1 when any of that fails.

    check_export_loads.py DIR --data FILE [--tokens 20480] [--reference ORIGINAL] [--max-perplexity X]
"""

import argparse
import json
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench" / "peers"))

import torch

import hf_evaluate

ROUND_TRIP_CHARACTERS = 4000


def tokenizer_problem(tokenizer, text):
    """What decoding the ids of the text's beginning loses, or None."""
    piece = text[:ROUND_TRIP_CHARACTERS].strip()
    ids = tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return None if back.strip() == piece else "decoded text differs from the text"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="exported directory, or .gguf file")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="UTF-8 text to evaluate on")
    parser.add_argument("--max-perplexity", type=float, help="fail above this")
    hf_evaluate.add_evaluation_options(parser)
    args = parser.parse_args()
    hf_evaluate.check_evaluation_options(parser, args)

    hf_evaluate.quiet()
    torch.set_num_threads(args.threads)
    result = hf_evaluate.evaluate_with(args)
    problems = []
    if problem := tokenizer_problem(hf_evaluate.load_tokenizer(args.model), args.data.read_text(encoding="utf-8")):
        problems.append(problem)
    if not math.isfinite(result["perplexity"]):
        problems.append("perplexity is not finite")
    elif args.max_perplexity and result["perplexity"] > args.max_perplexity:
        problems.append(f"perplexity is above {args.max_perplexity}")
    print(json.dumps(result | {"problems": problems}))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
