"""The result record that every peer script writes: one JSON object a line of a .jsonl file.

A peer script fills `peer` and leaves `ours` null; the ratio is taken where both were measured.
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import time

NOISY_SPREAD = 0.10  # (p90 - p10) / median
LOADED = 0.5         # load average before the run, of this machine's other work
WARM_UP_AGREES, WARM_UP_SECONDS = 0.03, 2.0


def machine():
    """Call once, before the first measurement: later the load is our own."""
    info = pathlib.Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.exists() else []
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(),
            "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load_before": round(os.getloadavg()[0], 2), "gpu": None}


def timed(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def warm_up(call):
    """Until two successive calls agree, at most two seconds, at least once."""
    last, spent = timed(call), 0.0
    while spent < WARM_UP_SECONDS:
        now = timed(call)
        spent += now
        if abs(now - last) <= WARM_UP_AGREES * last:
            return
        last = now


def summary(name, version, samples, unit="s"):
    deciles = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples * 9
    return {"name": name, "version": version, "min": min(samples), "median": statistics.median(samples),
            "p10": deciles[0], "p90": deciles[-1], "n": len(samples), "unit": unit}


def record(case, params, machine, isa, threads, work_bytes, ops, peer, limit, verified, pinned):
    flags = ["noisy"] * ((peer["p90"] - peer["p10"]) / peer["median"] > NOISY_SPREAD)
    flags += ["loaded"] * (machine["load_before"] > LOADED) + ["unpinned"] * (not pinned)
    return {"schema": 1, **revision(), "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "machine": machine, "build": {"python": platform.python_version()},
            "isa": isa, "threads": threads, "case": case, "params": params, "bytes": work_bytes, "ops": ops,
            "ours": None, "peer": peer, "limit": limit, "ratio_peer": None, "share_of_limit": None,
            "verified": verified, "flags": flags}


def revision():
    def git(*args):
        here = pathlib.Path(__file__).resolve().parent
        done = subprocess.run(["git", "-C", here, *args], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "--short", "HEAD"), "dirty": None if changes is None else bool(changes)}


def append(path, result):
    """Add the record to a .jsonl file, or print it where none was named."""
    line = json.dumps(result)
    if path is None:
        print(line)
        return
    with open(path, "a", encoding="utf-8") as out:
        out.write(line + "\n")
