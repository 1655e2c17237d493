#!/usr/bin/env python3
"""The parts of bench/accuracy/run that a shell cannot do well. Standard library only.

    accuracy.py measure COST.json STDOUT -- COMMAND...   runs it; seconds, processor seconds and peak memory of the kernel
    accuracy.py record RESULTS.jsonl PREFIX --row R --method M --scheme S   adds what PREFIX.{cost,quantize,evaluate}.json say
    accuracy.py table ROWS RESULTS.jsonl                 Markdown; the last record of each row, in the order of ROWS
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peers"))
import result_record

HEADER = ("method", "scheme", "perplexity", "ratio", "excess removed", "KL", "top-1", "seconds", "peak memory", "bytes")


def measure(cost_path, out_path, command):
    """Exit status of the command. wait4 gives what the kernel counted for this child and its threads."""
    load = os.getloadavg()[0]
    began = time.monotonic()
    with open(out_path, "wb") as out:
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)])
        _, status, usage = os.wait4(pid, 0)
    cost = {"seconds": time.monotonic() - began, "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024, "load_before": round(load, 2), "command": command}
    pathlib.Path(cost_path).write_text(json.dumps(cost), encoding="utf-8")
    return os.waitstatus_to_exitcode(status)


def read_json(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def bytes_on_disk(path):
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


def make_record(prefix, row, method, scheme):
    cost, quantized = read_json(prefix + ".cost.json"), read_json(prefix + ".quantize.json")
    evaluation = read_json(prefix + ".evaluate.json")["results"][0]
    taken = ("perplexity", "reference_perplexity", "perplexity_ratio", "log_ratio_error", "kl_mean", "kl_mean_error",
             "top1_agreement", "top1_agreement_error", "tokens", "token_hash", "context", "protocol")
    return {"schema": 1, **result_record.revision(),
            "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "machine": result_record.machine(), "row": row, "method": method, "scheme": scheme, **cost,
            "bits_per_weight": quantized.get("bits_per_weight"), "sparsity": quantized.get("sparsity_reached"),
            "fallbacks": quantized["fallbacks"],
            "file_bytes": bytes_on_disk(prefix + ".pare"), **{name: evaluation[name] for name in taken}}


def row_names(path):
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    return [line.split("|")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def latest(path):
    records = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.strip():
            record = json.loads(line)
            records[record["row"]] = record
    return records


def removed(record, base):
    """Share of the log-perplexity excess of plain rounding or plain magnitude that is gone."""
    if base is None or base is record:
        return "-"
    excess = math.log(base["perplexity_ratio"])
    return f"{1 - math.log(record['perplexity_ratio']) / excess:.1%}" if excess > 0 else "-"


def cells(record, base):
    notes = f" ({record['fallbacks']} fell back)" if record["fallbacks"] else ""
    return (record["method"] + notes, record["scheme"], f"{record['perplexity']:.3f}",
            f"{record['perplexity_ratio']:.4f} ± {record['perplexity_ratio'] * record['log_ratio_error']:.4f}",
            removed(record, base), f"{record['kl_mean']:.4f}", f"{record['top1_agreement']:.1%}",
            f"{record['seconds']:.1f}", f"{record['peak_bytes'] / 1e6:.0f} MB", f"{record['file_bytes']:,}")


def table(names, records):
    """Lines of Markdown. Records of rows that are no longer listed come last, by name."""
    order = [name for name in names if name in records] + sorted(set(records) - set(names))
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---" + "|---:" * (len(HEADER) - 2) + "|"]
    for name in order:
        group = name.split("/")[0]
        base = records.get(group + "/rtn") or records.get(group + "/magnitude")
        lines.append("| " + " | ".join(cells(records[name], base)) + " |")
    references = {(r["reference_perplexity"], r["token_hash"]) for r in records.values()}
    for perplexity, token_hash in sorted(references):
        lines += ["", f"Original: {perplexity:.5f} on the tokens {token_hash}."]
    if len(references) > 1:
        lines += ["", "Rows of different texts or models: their figures do not compare."]
    return lines


def main(arguments):
    if arguments[:1] == ["measure"] and len(arguments) > 4 and arguments[3] == "--":
        return measure(arguments[1], arguments[2], arguments[4:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("results")
    recording.add_argument("prefix")
    for name in ("row", "method", "scheme"):
        recording.add_argument("--" + name, required=True)
    printing = commands.add_parser("table")
    printing.add_argument("rows")
    printing.add_argument("results")
    options = parser.parse_args(arguments)
    if options.command == "record":
        result_record.append(options.results, make_record(options.prefix, options.row, options.method, options.scheme))
    else:
        print("\n".join(table(row_names(options.rows), latest(options.results))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
