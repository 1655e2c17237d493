#!/usr/bin/env python3
"""Joins what one run on a GPU measured: ours and peers by `case`, shares of limits, goals reached or not.

    gpu_table.py RESULTS.jsonl... [--goals bench/gpu_goals.json] [--out FILE]

Prints the table; --out writes {"cases": [...], "goals": [...], "probes": {...}} as JSON. A ratio is the peer's seconds by
ours, of one unit each; above 1 we are faster. Standard library only.
"""

import argparse
import json
import pathlib
import re
import statistics

HERE = pathlib.Path(__file__).resolve().parent
LOWER_IS_BETTER = ("seconds", "loss_share", "distinct")


def read(paths):
    for path in paths:
        if not pathlib.Path(path).exists():
            continue
        for line in open(path, encoding="utf-8"):
            try:
                yield json.loads(line)
            except ValueError:  # the last line of a program that was stopped
                continue


def our_seconds(record):
    """Of one unit: a product, a step, a load, a job."""
    ours = record["ours"]
    if "seconds" in ours:
        return ours["seconds"]
    return ours["median"] / (record.get("params") or {}).get("calls_per_sample", 1)


def joined(records):
    """One entry per case, the last of ours and of each peer."""
    cases = {}
    for record in records:
        name = record.get("case")
        if not name:
            continue
        entry = cases.setdefault(name, {"case": name, "ours": None, "peers": {}})
        if record.get("ours"):
            entry["ours"] = record
            entry.pop("error", None)
            if "distinct" in record:
                entry["distinct"] = record["distinct"]
        elif record.get("error"):
            entry["error"] = record["error"]
        if record.get("peer") and record.get("ours") and record.get("ratio_peer"):
            entry["peers"][record["peer"]["name"]] = {"ratio": record["ratio_peer"]}
        elif record.get("peer") and not record.get("ours"):
            entry["peers"][record["peer"]["name"]] = dict(record["peer"])
    return cases


def probe_rates(records):
    rates = {}
    for record in records:
        limit = record.get("limit") or {}
        if limit.get("value"):
            rates.setdefault(limit["probe"], []).append(limit["value"])
    return {name: statistics.median(values) for name, values in rates.items()}


def complete(entry, rates):
    """Adds seconds, share and ratios to a case."""
    record = entry["ours"]
    if record is None:
        return
    entry["seconds"] = our_seconds(record)
    entry["share"] = record.get("share_of_limit")
    limit = record.get("limit") or {}
    if entry["share"] is None and limit.get("operations") and rates.get(limit["probe"]):
        entry["share"] = limit["operations"] / rates[limit["probe"]] / entry["seconds"]
    entry["limit"] = limit.get("probe", "")
    params = record.get("params") or {}
    for peer in entry["peers"].values():
        if peer.get("seconds"):
            peer["ratio"] = peer["seconds"] / entry["seconds"]
        if peer.get("loss_bytes") and params.get("logit_bytes"):
            peer["loss_share"] = params["logit_bytes"] / peer["loss_bytes"]


def value_of(entry, goal):
    """What the goal is about; None where it was not measured."""
    if goal["what"] in ("share", "seconds", "distinct"):
        return entry.get(goal["what"])
    key = "loss_share" if goal["what"] == "loss_share" else "ratio"
    peers = entry["peers"]
    if "peer" in goal:
        return peers.get(goal["peer"], {}).get(key)
    values = [peer[key] for peer in peers.values() if key in peer]
    return min(values) if values else None


def judged(goals, cases):
    """One line per goal and case; a goal that no case was measured for has one line without a case."""
    lines = []
    for goal in goals:
        matching = [entry for name, entry in cases.items() if re.fullmatch(goal["case"], name)]
        measured = [(entry, value_of(entry, goal)) for entry in matching]
        measured = [(entry, value) for entry, value in measured if value is not None]
        for entry, value in measured:
            lower_is_better = goal["what"] in LOWER_IS_BETTER
            reached = value <= goal["goal"] if lower_is_better else value >= goal["goal"]
            lines.append({**goal, "case": entry["case"], "value": value, "reached": reached})
        if not measured:
            lines.append({**goal, "value": None, "reached": None})
    return lines


def shown(seconds):
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            return f"{seconds / size:.4g} {unit}"


def report(paths, goals_path=HERE / "gpu_goals.json"):
    """The tables as text, and {"cases", "goals", "probes"}."""
    records = list(read(paths))
    rates, cases = probe_rates(records), joined(records)
    for entry in cases.values():
        complete(entry, rates)
    goals = judged(json.loads(pathlib.Path(goals_path).read_text(encoding="utf-8")), cases)
    lines = ["| goal | case | measure | wanted | got | |", "|---|---|---|---:|---:|---|"]
    for line in goals:
        sign = "<=" if line["what"] in LOWER_IS_BETTER else ">="
        got = "" if line["value"] is None else f"{line['value']:.3g}"
        verdict = {True: "reached", False: "NOT reached", None: "not measured"}[line["reached"]]
        measure = f"{line['what']} {line.get('peer', '')}".strip()
        name = line["case"].replace("|", "\\|")
        lines.append(f"| {line['item']} | {name} | {measure} | {sign} {line['goal']} | {got} | {verdict} |")
    lines += ["", "| case | ours | share of limit | ratio to peer |", "|---|---:|---:|---|"]
    for name, entry in cases.items():
        share = f"{100 * entry['share']:.0f} % of {entry['limit']}" if entry.get("share") else ""
        ratios = ", ".join(f"{peer['ratio']:.2f}x {who}" if "ratio" in peer else f"{who}: {peer['error']}"
                           for who, peer in entry["peers"].items() if "ratio" in peer or peer.get("error"))
        ours = shown(entry["seconds"]) if entry.get("seconds") else "not measured"
        if entry.get("error"):
            ours = "failed: " + entry["error"].replace("\n", " ").replace("|", "\\|")[-200:]
        lines.append(f"| {name} | {ours} | {share} | {ratios} |")
    lines += ["", "limits: " + ", ".join(f"{name} {rate:.4g}/s" for name, rate in sorted(rates.items()))]
    return "\n".join(lines) + "\n", {"cases": list(cases.values()), "goals": goals, "probes": rates}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--goals", default=HERE / "gpu_goals.json")
    parser.add_argument("--out")
    args = parser.parse_args()
    text, parts = report(args.results, args.goals)
    print(text, end="")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as out:
            json.dump(parts, out, indent=1)


if __name__ == "__main__":
    main()
