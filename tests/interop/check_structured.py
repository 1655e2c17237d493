"""Structured pruning of pare against transformers: every output is loaded by its own class, without a warning about
weights, and gives pare's logits. See README.md.

    check_structured.py BUILD/pare TEXT MODEL...
"""
import pathlib
import sys
import tempfile
import warnings

import torch
from common import config, pare, require
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4


def cuts_of(settings):
    """Options by what the family has."""
    layers = settings.get("num_hidden_layers", settings.get("n_layer"))
    middle = str(layers // 2)
    cuts = {
        "channels": ["--structure", "mlp", "--sparsity", "0.25", "--multiple", "4", "--repair"],
        "channels by weight": ["--structure", "mlp", "--sparsity", "0.25", "--multiple", "4", "--importance", "weight"],
        "a layer": ["--drop-layers", middle],
    }
    if settings["model_type"] == "gpt2":
        return cuts
    heads, groups = settings["num_attention_heads"], settings.get("num_key_value_heads") or settings["num_attention_heads"]
    if groups > 1:
        cuts["groups"] = ["--structure", "heads", "--kv-heads", str(groups - 1), "--repair"]
    if heads > groups:
        cuts["queries"] = ["--structure", "heads", "--heads", str(heads - groups), "--head-units", "queries"]
    hidden = settings["hidden_size"] * 3 // 4
    cuts["hidden size"] = ["--structure", "hidden", "--hidden", str(hidden), "--repair"]
    cuts["everything"] = ["--structure", "layers,hidden,heads,mlp", "--layers", str(layers - 1), "--hidden", str(hidden),
                          "--kv-heads", str(max(1, groups - 1)), "--intermediate",
                          str(settings["intermediate_size"] * 3 // 4), "--keep-first", "0", "--keep-last", "0", "--repair"]
    return cuts


def random_ids(settings, rows, length):
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(0, settings["vocab_size"], (rows, length), generator=generator)


def check(program, model, work, name, options):
    out, data = work / name.replace(" ", "-"), work / "data.safetensors"
    save_file({"input_ids": random_ids(config(model), 32, 32)}, data)  # fixtures have no tokenizer
    pare(program, "prune", model, *options, "--data", data, "--samples", "16", "--context", "32", "-o", out, "--no-report",
         "--no-speed", "--force", "--restart")
    settings = config(out)
    length = 24
    ids = random_ids(settings, 2, length)
    ids_file, logits_file = work / "ids.safetensors", work / "logits.safetensors"
    save_file({"input_ids": ids}, ids_file)
    pare(program, "evaluate", out, "--input-ids", ids_file, "--save-logits", logits_file, "--force")
    ours = load_file(logits_file)["logits"].reshape(2, length, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs_model, info = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    problems = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(key)}
    require(not problems, f"{model.name} {name}: all tensors have their place {problems or ''}")
    with torch.no_grad():
        theirs = theirs_model.eval()(ids).logits
    error = (ours - theirs).abs().max().item() / max(1.0, theirs.abs().max().item())
    parameters = sum(p.numel() for p in theirs_model.parameters())
    require(error < TOLERANCE, f"{model.name} {name}: logits within {error:.1e}, {parameters} parameters")


def check_vocabulary(program, text, model, work):
    out = work / "vocabulary"
    pare(program, "prune", model, "--structure", "vocabulary", "--keep-corpus", text, "-o", out, "--no-speed", "--force",
         "--restart")
    old, new = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(out)
    sample = pathlib.Path(text).read_text(encoding="utf-8")[:20000]
    before, after = old.convert_ids_to_tokens(old(sample)["input_ids"]), new.convert_ids_to_tokens(new(sample)["input_ids"])
    require(before == after, f"{model.name} vocabulary: {len(old)} -> {len(new)} tokens, the same {len(after)} in the text")
    check(program, out, work, "vocabulary and channels", ["--structure", "mlp", "--sparsity", "0.25", "--multiple", "4"])


def main():
    program, text, models = sys.argv[1], sys.argv[2], [pathlib.Path(path) for path in sys.argv[3:]]
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            work = pathlib.Path(folder)
            for name, options in cuts_of(config(model)).items():
                check(program, model, work, name, options)
            if (model / "tokenizer.json").exists():
                check_vocabulary(program, text, model, work)


main()
