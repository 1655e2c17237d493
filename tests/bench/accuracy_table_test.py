#!/usr/bin/env python3
"""bench/accuracy without a model: what is measured of a process, which rows there are, how the table is made."""

import json
import math
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "accuracy"))
import accuracy

ROWS = ROOT / "bench" / "accuracy" / "rows.txt"


def record(row, ratio, **other):
    return {"row": row, "method": row.split("/")[1], "scheme": row.split("/")[0], "perplexity": 10 * ratio,
            "reference_perplexity": 10.0, "perplexity_ratio": ratio, "log_ratio_error": 0.001, "kl_mean": 0.05,
            "top1_agreement": 0.9, "seconds": 12.34, "peak_bytes": 500_000_000, "file_bytes": 1234567, "fallbacks": 0,
            "token_hash": "d11b", **other}


def by_row(*records):
    return {r["row"]: r for r in records}


class Table(unittest.TestCase):
    def test_excess_removed_is_against_plain_rounding_of_the_group(self):
        lines = accuracy.table(["a/rtn", "a/gptq", "b/gptq"],
                               by_row(record("a/rtn", math.exp(0.4)), record("a/gptq", math.exp(0.1)), record("b/gptq", 1.5)))
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines[2:5]]
        self.assertEqual([c[4] for c in cells], ["-", "75.0%", "-"])
        self.assertEqual(cells[1][:2], ["gptq", "a"])
        self.assertEqual(cells[2][2:4], ["15.000", "1.5000 ± 0.0015"])
        self.assertEqual(cells[0][5:], ["0.0500", "90.0%", "12.3", "500 MB", "1,234,567"])
        self.assertTrue(all(len(c) == len(accuracy.HEADER) for c in cells))

    def test_order_is_that_of_the_rows_and_unlisted_rows_come_last(self):
        records = by_row(record("z/x", 1.1), record("b/gptq", 1.1), record("a/rtn", 1.2))
        lines = accuracy.table(["a/rtn", "b/gptq"], records)
        self.assertEqual([line.split("|")[2].strip() for line in lines[2:5]], ["a", "b", "z"])

    def test_fallbacks_are_said(self):
        self.assertIn("gptq (3 fell back)", accuracy.table(["a/gptq"], by_row(record("a/gptq", 1.1, fallbacks=3)))[2])

    def test_other_texts_are_said(self):
        same = accuracy.table([], by_row(record("a/x", 1.1), record("a/y", 1.1)))
        self.assertNotIn("do not compare", "\n".join(same))
        other = accuracy.table([], by_row(record("a/x", 1.1), record("a/y", 1.1, token_hash="ffff")))
        self.assertIn("do not compare", "\n".join(other))

    def test_the_last_record_of_a_row_counts(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "r.jsonl"
            path.write_text("\n".join(json.dumps(record("a/rtn", r)) for r in (1.5, 1.25)) + "\n")
            printed = subprocess.run([ROOT / "bench/accuracy/run", "--table", path], capture_output=True, text=True)
            self.assertEqual(printed.returncode, 0, printed.stderr)
            self.assertIn("1.2500", printed.stdout)
            self.assertNotIn("1.5000", printed.stdout)


class Rows(unittest.TestCase):
    def test_every_row_is_whole_and_has_a_name_of_its_own(self):
        lines = [l for l in ROWS.read_text().splitlines() if l.strip() and not l.startswith("#")]
        cells = [[c.strip() for c in line.split("|")] for line in lines]
        for row in cells:
            self.assertEqual(len(row), 5, row)
            self.assertTrue(all(row), row)
            self.assertIn(row[3], ("yes", "no"), row)
            asks = r"^prune .*--sparsity " if row[4].startswith("prune ") else r"--(scheme|target-bpw) "
            self.assertRegex(row[4], asks, row)
        names = [row[0] for row in cells]
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual(accuracy.row_names(ROWS), names)
        listed = subprocess.run([ROOT / "bench/accuracy/run", "--list"], capture_output=True, text=True, check=True)
        self.assertEqual(listed.stdout.split(), names)


FAKE = """#!/bin/sh
# A program that answers as `pare` does.
case "$1" in
  quantize)
    while [ "$1" != -o ]; do shift; done
    printf 12345 > "$2"
    echo '{"bits_per_weight":4.25,"fallbacks":0}' ;;
  evaluate)
    echo '{"results":[{"perplexity":11,"reference_perplexity":10,"perplexity_ratio":1.1,"log_ratio_error":0.01,
      "kl_mean":0.1,"kl_mean_error":0.001,"top1_agreement":0.8,"top1_agreement_error":0.01,"tokens":511,
      "token_hash":"abcd","context":512,"protocol":"disjoint"}]}' ;;
esac
"""


class Run(unittest.TestCase):
    def test_chosen_rows_are_run_and_recorded_with_what_the_kernel_counted(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            program = folder / "program"
            program.write_text(FAKE)
            program.chmod(0o755)
            command = [ROOT / "bench/accuracy/run", "model", "text", "text", program, "--results", folder / "r.jsonl"]
            done = subprocess.run([*command, "--rows", "int4-g64/rtn,int8-ch/*"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            records = [json.loads(line) for line in (folder / "r.jsonl").read_text().splitlines()]
            self.assertEqual([r["row"] for r in records], ["int8-ch/rtn", "int4-g64/rtn"])
            self.assertEqual([r["file_bytes"] for r in records], [5, 5])
            self.assertTrue(all(r["peak_bytes"] > 0 and r["seconds"] > 0 for r in records))
            self.assertIn("| rtn | int4-g64 | 11.000 |", done.stdout)
            none = subprocess.run([*command, "--rows", "nothing"], capture_output=True, text=True)
            self.assertEqual(none.returncode, 2)

    def test_a_failing_command_leaves_no_record(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            done = subprocess.run([ROOT / "bench/accuracy/run", "model", "text", "text", "false", "--rows", "int8-ch/rtn",
                                   "--results", folder / "r.jsonl"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertFalse((folder / "r.jsonl").exists())

    def test_memory_and_status_are_those_of_the_command(self):
        with tempfile.TemporaryDirectory() as name:
            cost = pathlib.Path(name) / "cost"
            hungry = [sys.executable, "-c", "x = bytearray(150_000_000); raise SystemExit(3)"]
            self.assertEqual(accuracy.measure(cost, pathlib.Path(name) / "out", hungry), 3)
            peak = json.loads(cost.read_text())["peak_bytes"]
            self.assertGreater(peak, 150_000_000)
            self.assertLess(peak, 250_000_000)


if __name__ == "__main__":
    unittest.main()
