"""Calibration windows of a text, the same for every peer: each tool would otherwise draw other ones."""

import random

import hf_evaluate

SEED = 0


def draw(model_path, data, samples, context):
    """`samples` lists of `context` token ids, from places that a seeded generator chose; in the order of the text."""
    tokenizer = hf_evaluate.load_tokenizer(model_path)
    ids = hf_evaluate.encode(tokenizer, hf_evaluate.read_text(data), "auto").ids()
    last = len(ids) - context
    if last < 0:
        raise SystemExit(f"{data}: {len(ids)} tokens, one window needs {context}")
    generator = random.Random(SEED)
    starts = sorted(generator.sample(range(last + 1), min(samples, last + 1)))
    return [list(ids[start:start + context]) for start in starts]
