#!/usr/bin/env python3
"""Perplexity, and damage against a second model, by Hugging Face transformers in float32.

An evaluation that shares no code with pare, to hold `pare eval` against. Prints one JSON object.

    hf_evaluate.py MODEL --data FILE --protocol stride --context 512 --stride 256
    hf_evaluate.py COMPRESSED --data FILE --reference ORIGINAL
    hf_evaluate.py MODEL --input-ids IN.safetensors --save-logits OUT.safetensors

Protocols (token i is scored given the tokens before it in its window):
    disjoint   windows of L tokens, tail dropped, targets 1..L-1 of each
    stride     windows of at most L, one every S tokens, targets not scored before
    llamacpp   windows of L, tail dropped, targets L/2+1..L-1; with BOS, the first token of every window is
               replaced by it
    word       every token of a page, behind BOS (else EOS) in the first window and behind one token of
               context in later ones; the result is per word of the page

BOS policies: auto (the tokenizer's own), never, always (in front of the text even where the tokenizer adds
none), once (the same, but llamacpp replaces nothing). `word` takes no special token but its prefix.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
import sys
import time
from dataclasses import dataclass

import torch
import transformers
from safetensors.torch import load_file, save_file

ROWS_IN_DOUBLE = 256  # rows of logits widened to float64 at a time: 100 MB at a vocabulary of 49,152


@dataclass
class Window:
    """Tokens to feed, and the targets that the logits from position `first` on predict."""
    ids: list
    first: int
    targets: list


@dataclass
class Stream:
    """The tokens of a text after BOS insertion, cut into pages (one, except for `word`)."""
    pages: list
    words: int
    bytes: int

    def ids(self):
        return list(itertools.chain.from_iterable(self.pages))


# ---- models and tokens

def load_model(path, dtype=torch.float32):
    """Load a directory or a .gguf file; refuse one that would be filled up with random weights."""
    path = pathlib.Path(path)
    where, options = path, {}
    if path.suffix == ".gguf":
        where, options["gguf_file"] = path.parent, path.name
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        where, dtype=dtype, local_files_only=True, output_loading_info=True, **options)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            raise SystemExit(f"{path}: {kind}: {sorted(map(str, info[kind]))[:8]}")
    return model.eval()


def load_tokenizer(path):
    path = pathlib.Path(path)
    options = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    return transformers.AutoTokenizer.from_pretrained(
        path.parent if options else path, local_files_only=True, **options)


def adds_bos(tokenizer):
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def read_text(path):
    text = pathlib.Path(path).read_bytes().decode("utf-8")
    if "<unk>" in text:
        print(f"note: {path} contains <unk>: compare ratios, not published values", file=sys.stderr)
    return text


def encode(tokenizer, text, bos, limit=None):
    """The stream of the window protocols: whole text once, then BOS by policy, then the limit."""
    ids = tokenizer(text, add_special_tokens=bos == "auto", verbose=False)["input_ids"]
    if bos in ("once", "always"):
        ids = [require_bos(tokenizer)] + ids
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        print("note: double BOS, one removed", file=sys.stderr)
        ids = ids[1:]
    ids = ids[:limit]
    return Stream([ids], words=0, bytes=0)


def encode_pages(tokenizer, text, split, limit=None):
    """The stream of `word`: pages without special tokens, words and bytes of exactly that text."""
    texts = re.split(r"(?m)^(?= = [^=\n]+ = $)", text) if split == "wikitext" else [text]
    stream, left = Stream([], 0, 0), math.inf if limit is None else limit
    for page in texts:
        if not page.strip() or left <= 0:
            continue
        coded = tokenizer(page, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = coded["input_ids"]
        if len(ids) > left:
            ids = ids[:left]
            page = page[:coded["offset_mapping"][left - 1][1]]
        stream.pages.append(ids)
        stream.words += len(re.split(r"\s+", page))
        stream.bytes += len(page.encode("utf-8"))
        left -= len(ids)
    return stream


def require_bos(tokenizer):
    if tokenizer.bos_token_id is None:
        raise SystemExit("this tokenizer has no BOS token")
    return tokenizer.bos_token_id


def token_hash(ids):
    data = b"".join(int(i).to_bytes(4, "little") for i in ids)
    return hashlib.sha256(data).hexdigest()[:16]


# ---- protocols

def disjoint(ids, length):
    for begin in range(0, len(ids) // length * length, length):
        window = ids[begin:begin + length]
        yield Window(window, 0, window[1:])


def llamacpp(ids, length, bos):
    if len(ids) < 2 * length:
        raise SystemExit(f"llamacpp needs two windows: {len(ids)} tokens, {2 * length} wanted")
    for begin in range(0, len(ids) // length * length, length):
        window = ids[begin:begin + length]
        fed = window if bos is None else [bos] + window[1:]
        yield Window(fed, length // 2, window[length // 2 + 1:])


def strided(ids, length, stride):
    done = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        first = max(done, begin + 1)  # a window's own first token has nothing before it
        if first < end:
            yield Window(ids[begin:end], first - 1 - begin, ids[first:end])
        done = end
        if end == len(ids):
            return


def rolling(ids, length, prefix):
    done = min(length, len(ids))
    yield Window([prefix] + ids[:done - 1], 0, ids[:done])
    while done < len(ids):
        count = min(len(ids) - done, length)
        end = done + count
        fed = ids[end - length - 1:end - 1]
        yield Window(fed, len(fed) - count, ids[done:end])
        done = end


def windows_of(protocol, stream, tokenizer, length, stride, bos):
    if protocol == "disjoint":
        return disjoint(stream.pages[0], length)
    if protocol == "stride":
        return strided(stream.pages[0], length, stride)
    if protocol == "llamacpp":
        replaces = bos == "always" or (bos == "auto" and adds_bos(tokenizer))
        return llamacpp(stream.pages[0], length, tokenizer.bos_token_id if replaces else None)
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if prefix is None:
        raise SystemExit("word needs a BOS or an EOS token")
    return itertools.chain.from_iterable(rolling(page, length, prefix) for page in stream.pages)


# ---- scoring

def batches(windows, size):
    """Consecutive windows of equal length, at most `size` of them."""
    for _, same in itertools.groupby(windows, key=lambda w: len(w.ids)):
        while batch := list(itertools.islice(same, size)):
            yield batch


class Model:
    """A model and the seconds its forward passes took."""

    def __init__(self, path):
        self.network = load_model(path)
        self.seconds, self.fed = 0.0, 0

    @torch.inference_mode()
    def logits(self, batch):
        ids = torch.tensor([w.ids for w in batch])
        began = time.perf_counter()
        out = self.network(input_ids=ids, use_cache=False).logits
        self.seconds += time.perf_counter() - began
        self.fed += ids.numel()
        return out

    def warm_up(self, batch):
        self.logits(batch)
        self.seconds, self.fed = 0.0, 0


def log_probabilities(logits):
    """Float32 logits, float64 log-sum-exp."""
    wide = logits.double()
    return wide - torch.logsumexp(wide, dim=-1, keepdim=True)


def score(model, reference, windows, batch_size):
    """Per scored token: nll; with a reference also its nll, KL, change of p, same top token."""
    rows = {"nll": [], "nll_reference": [], "kl": [], "dp": [], "same_top": []}
    window_means, warm = [], False
    for batch in batches(windows, batch_size):
        if not warm:
            for m in filter(None, (model, reference)):
                m.warm_up(batch[:1])
            warm = True
        logits = model.logits(batch)
        base = reference.logits(batch) if reference else None
        for i, window in enumerate(batch):
            nll = []
            for at in range(0, len(window.targets), ROWS_IN_DOUBLE):
                y = torch.tensor(window.targets[at:at + ROWS_IN_DOUBLE])[:, None]
                here = slice(window.first + at, window.first + at + len(y))
                lp = log_probabilities(logits[i, here])
                nll.append(-lp.gather(1, y)[:, 0])
                if reference:
                    lo = log_probabilities(base[i, here])
                    rows["nll_reference"].append(-lo.gather(1, y)[:, 0])
                    rows["kl"].append((lo.exp() * (lo - lp)).sum(1))
                    rows["dp"].append((lp.gather(1, y).exp() - lo.gather(1, y).exp())[:, 0])
                    rows["same_top"].append(logits[i, here].argmax(1) == base[i, here].argmax(1))
            rows["nll"] += nll
            window_means.append(torch.cat(nll).mean())
    if not window_means:
        raise SystemExit("no window: the text is shorter than the context")
    return {k: torch.cat(v) for k, v in rows.items() if v}, torch.stack(window_means)


# ---- results

def digits(x):
    return float(f"{float(x):.10g}")


def standard_error(x):
    return x.std(correction=1) / math.sqrt(len(x)) if len(x) > 1 else torch.tensor(math.nan)


def perplexity_fields(rows, window_means, stream, protocol):
    nll = rows["nll"]
    mean, se = nll.mean(), standard_error(nll)
    out = {"perplexity": digits(mean.exp()), "mean_nll": digits(mean), "perplexity_se": digits(mean.exp() * se)}
    if len(window_means) >= 8:
        out["perplexity_se_windows"] = digits(mean.exp() * standard_error(window_means))
    if protocol == "word":
        out["token_perplexity"] = out["perplexity"]
        out["perplexity"] = digits((nll.sum() / stream.words).exp())
        out["bits_per_byte"] = digits(nll.sum() / (math.log(2) * stream.bytes))
        out |= {"pages": len(stream.pages), "words": stream.words, "bytes": stream.bytes}
    return out


def damage_fields(rows):
    kl, same, d = rows["kl"], rows["same_top"].double(), rows["nll"] - rows["nll_reference"]
    n = len(kl)
    quantile = lambda q: digits(torch.quantile(kl, q))  # linear interpolation at q*(n-1)
    return {
        "reference_token_perplexity": digits(rows["nll_reference"].mean().exp()),
        "kl_mean": digits(kl.mean()), "kl_mean_se": digits(standard_error(kl)),
        "kl_median": quantile(0.5), "kl_p90": quantile(0.9), "kl_p95": quantile(0.95),
        "kl_p99": quantile(0.99), "kl_p999": quantile(0.999), "kl_max": digits(kl.max()),
        "dp_mean": digits(rows["dp"].mean()), "dp_rms": digits(rows["dp"].square().mean().sqrt()),
        "same_top": digits(same.mean()),
        "same_top_se": digits(math.sqrt(same.mean() * (1 - same.mean()) / (n - 1))) if n > 1 else None,
        "ln_ratio": digits(d.mean()), "ln_ratio_se": digits(standard_error(d)),
    }


def evaluate(model_path, data, protocol="disjoint", context=512, stride=None, tokens=None, bos="auto",
             reference_path=None, pages="one", batch=4):
    tokenizer, text = load_tokenizer(model_path), read_text(data)
    if protocol == "word":
        stream = encode_pages(tokenizer, text, pages, tokens)
    else:
        stream = encode(tokenizer, text, bos, tokens)
    stride = stride or context
    windows = windows_of(protocol, stream, tokenizer, context, stride, bos)
    model, reference = Model(model_path), Model(reference_path) if reference_path else None
    began = time.perf_counter()
    rows, window_means = score(model, reference, windows, batch)
    ids = stream.ids()
    result = {"model": pathlib.Path(model_path).name, "data": pathlib.Path(data).name, "protocol": protocol,
              "context": context}
    if protocol == "stride":
        result["stride"] = stride
    result |= {"bos": "prefix" if protocol == "word" else bos, "tokens": len(ids), "token_hash": token_hash(ids),
               "windows": len(window_means), "scored": len(rows["nll"])}
    result |= perplexity_fields(rows, window_means, stream, protocol)
    if reference:
        result["reference"] = pathlib.Path(reference_path).name
        result |= damage_fields(rows)
    return result | {
        "forward_tokens_per_second": digits(model.fed / model.seconds),
        "seconds": digits(time.perf_counter() - began),
        "threads": torch.get_num_threads(), "batch": batch, "dtype": "float32",
        "torch": torch.__version__, "transformers": transformers.__version__,
    }


@torch.inference_mode()
def save_logits(model_path, ids_path, out_path):
    ids = load_file(ids_path)["input_ids"]
    logits = load_model(model_path)(input_ids=ids, use_cache=False).logits
    save_file({"input_ids": ids, "logits": logits.contiguous()}, out_path)
    return {"model": pathlib.Path(model_path).name, "input_ids": list(ids.shape), "logits": list(logits.shape),
            "token_hash": token_hash(ids.flatten().tolist())}


def add_evaluation_options(parser):
    parser.add_argument("--context", type=int, default=512, help="tokens in a window (512)")
    parser.add_argument("--tokens", type=int, help="only so many tokens of the stream, BOS included")
    parser.add_argument("--protocol", choices=["disjoint", "stride", "llamacpp", "word"], default="disjoint")
    parser.add_argument("--stride", type=int, help="for stride: tokens between windows (the context)")
    parser.add_argument("--bos", choices=["auto", "always", "never", "once"], default="auto")
    parser.add_argument("--pages", choices=["one", "wikitext"], default="one",
                        help="for word: the file is one page, or one per first-level heading")
    parser.add_argument("--reference", type=pathlib.Path, metavar="MODEL", help="the original to compare with")
    parser.add_argument("--batch", type=int, default=4, help="windows in one forward pass (4)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch (all cores)")


def check_evaluation_options(parser, args):
    for name, least in [("context", 2), ("tokens", 2), ("stride", 1), ("batch", 1), ("threads", 1)]:
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name} must be at least {least}")
    if args.stride and (args.protocol != "stride" or args.stride > args.context):
        parser.error("--stride belongs to --protocol stride and is at most --context")


def evaluate_with(args):
    return evaluate(args.model, args.data, args.protocol, args.context, args.stride, args.tokens, args.bos,
                    args.reference, args.pages, args.batch)


def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="model directory, or .gguf file")
    parser.add_argument("--data", type=pathlib.Path, help="UTF-8 text to evaluate on")
    add_evaluation_options(parser)
    parser.add_argument("--input-ids", type=pathlib.Path, metavar="FILE", help="safetensors with int64 input_ids")
    parser.add_argument("--save-logits", type=pathlib.Path, metavar="FILE", help="where their logits go")
    args = parser.parse_args()
    check_evaluation_options(parser, args)
    if bool(args.input_ids) != bool(args.save_logits) or bool(args.data) == bool(args.input_ids):
        parser.error("give --data, or --input-ids together with --save-logits")

    quiet()
    torch.set_num_threads(args.threads)
    if args.input_ids:
        result = save_logits(args.model, args.input_ids, args.save_logits)
    else:
        result = evaluate_with(args)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
