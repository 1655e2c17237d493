#!/usr/bin/env python3
"""The steps of scripts/gpu. Written for a machine with a GPU and no network, where a call may end after some minutes: every step has a
limit, cut to the time that is left; the results are whole after each; a later call takes up where this one ended.

    scripts/gpu [--deps FOLDER|FILE.tar.xz] [--out FOLDER] [--only NAME,...] [--resume] [--minutes N] ...

Exit: 0 every step passed; 1 one failed; 3 none failed, but some are left (call again with --resume); 2 usage; 4 not a machine for it.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "bench")]
import gpu_machine
import gpu_table

PROGRAMS = ("pare", "pare_bench", "tests/engine/backends/backends_test")
LOG_BYTES = 400_000  # of one log in the archive: its beginning and its end


class Stopped(BaseException):
    """A signal asked for the end."""


class Step:
    """`command` takes the seconds it has; `least`: with fewer it is not begun; `peer`: with the environment of PyTorch."""

    def __init__(self, name, seconds, command, least=20, peer=False, why_not=""):
        self.name, self.seconds, self.command = name, seconds, command
        self.least, self.peer, self.why_not = least, peer, why_not

    def is_wanted(self, only):
        return not only or any(self.name == o or self.name.startswith(o + "-") for o in only)


class Results:
    """Records of steps, one line each, the last of a name counts; from them, after each step, what --out holds."""

    def __init__(self, state, out):
        self.state, self.out = state, out
        self.logs = state / "logs"
        for folder in (state, out, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.bench = state / "bench.jsonl"
        self.records = self.read(state / "records.jsonl")
        self.planned = []

    @staticmethod
    def read(path):
        records = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                records.append(json.loads(line))
            except ValueError:  # the last line of a call that was killed
                continue
        return records

    def last(self, name):
        return next((r for r in reversed(self.records) if r["step"] == name), None)

    def passed(self, name):
        return (self.last(name) or {}).get("exit") == 0

    def add(self, record):
        self.records.append(record)
        with open(self.state / "records.jsonl", "a") as out:
            out.write(json.dumps(record) + "\n")
        self.write()

    def clear(self):
        self.records = []
        for path in (self.state / "records.jsonl", self.bench):
            path.unlink(missing_ok=True)

    def take(self, earlier):
        """What an earlier call brought back, where this folder has nothing: its steps (not the build's) and its cases."""
        whole = json.loads((earlier / "gpu.json").read_text())
        steps = [s for s in whole["steps"] if not s["step"].startswith("build-")]
        with open(self.state / "records.jsonl", "w") as out:
            out.writelines(json.dumps(s) + "\n" for s in [whole["machine"], *steps])
        if (earlier / "bench.jsonl").exists():
            shutil.copyfile(earlier / "bench.jsonl", self.bench)
        self.records = self.read(self.state / "records.jsonl")

    def latest(self):
        return list({r["step"]: r for r in self.records if r["step"] != "machine"}.values())

    def summary(self):
        latest = self.latest()
        known = {r["step"] for r in latest}
        return {"passed": [r["step"] for r in latest if r.get("exit") == 0],
                "failed": [r["step"] for r in latest if r.get("exit", 0) != 0],
                "left": [r["step"] for r in latest if r.get("left") == "time"] + [n for n in self.planned if n not in known],
                "left_out": {r["step"]: r["why"] for r in latest if r.get("left") == "never"}}

    def place(self, name, text):
        """A file of --out, whole or not at all."""
        part = self.out / f".{name}.part"
        part.write_text(text)
        part.replace(self.out / name)

    def write(self):
        """Four files, since few may travel back: the JSON, the table, the cases, and the logs in one archive."""
        try:
            table, parts = gpu_table.report([self.bench])
        except Exception as error:  # records of half a case must not cost the rest
            table, parts = f"no table: {type(error).__name__}: {error}\n", {}
        whole = {"machine": self.last("machine"), "summary": self.summary(), "steps": self.latest(), **parts}
        self.place("gpu.json", json.dumps(whole, indent=1))
        self.place("table.md", table)
        self.place("bench.jsonl", self.bench.read_text() if self.bench.exists() else "")
        part = self.out / ".logs.part"
        with tarfile.open(part, "w:gz", compresslevel=6) as archive:
            for log in sorted(self.logs.iterdir()):
                self.add_log(archive, log)
        part.replace(self.out / "logs.tgz")

    def add_log(self, archive, log):
        data = log.read_bytes()
        if len(data) > LOG_BYTES:
            data = data[:LOG_BYTES // 2] + b"\n[...]\n" + data[-LOG_BYTES // 2:]
        short = self.state / ".log"
        short.write_bytes(data)
        archive.add(short, f"logs/{log.name}")
        short.unlink()


def end_group(process):
    """The step and whatever it started."""
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def test_counts(folder):
    """What GoogleTest wrote: how many ran, and the names of those that were skipped or failed."""
    counts = {"ran": 0, "failed": [], "skipped": []}
    for path in sorted(folder.glob("*.json")):
        try:
            suites = json.loads(path.read_text()).get("testsuites", [])
        except ValueError:  # of a program that was stopped
            continue
        for suite in suites:
            for test in suite.get("testsuite", []):
                if test.get("status") == "NOTRUN":
                    continue
                name = f"{suite['name']}.{test['name']}"
                if test.get("result") == "SKIPPED":
                    counts["skipped"].append(name)
                else:
                    counts["ran"] += 1
                    counts["failed"] += [name] if test.get("failures") else []
    return counts


class Call:
    def __init__(self, args):
        self.args = args
        self.end = time.monotonic() + 60 * args.minutes
        self.build = ROOT / "build/gpu"
        self.build.mkdir(parents=True, exist_ok=True)
        self.results = Results(args.state, args.out)
        self.machine = gpu_machine.Machine(ROOT, args.deps, self.build.parent / "gpu-found")
        self.sources = gpu_machine.sources_hash(ROOT)
        self.commit = args.commit or gpu_machine.commit_of(ROOT)
        self.scratch = self.room()

    def left(self):
        return self.end - time.monotonic()

    def room(self):
        """Where written models lie: 23 GB at most at a time, in memory where there is room for them."""
        memory = pathlib.Path("/dev/shm")
        if memory.is_dir() and shutil.disk_usage(memory).free > 40e9:
            return memory / f"pare-gpu-{os.getpid()}"
        return self.results.state / "scratch"

    def begin(self):
        results, args = self.results, self.args
        if args.earlier and not results.records:
            results.take(args.earlier)
        before = results.last("machine") or {}
        same = before.get("sources") == self.sources and before.get("gpu") == self.machine.about["gpu"]
        if not (same and (args.resume or args.only)):
            if results.records:
                print("gpu: earlier results are dropped: " + ("of other sources or another GPU" if not same else "no --resume"))
            results.clear()
        results.add({"step": "machine", "commit": self.commit, "sources": self.sources, **self.machine.about,
                     "data": str(self.machine.data) if self.machine.data else None, "problems": self.machine.problems,
                     "date": datetime.datetime.now(datetime.timezone.utc).strftime("%FT%TZ")})
        (results.logs / "nvidia-smi.log").write_text(self.machine.printed(["nvidia-smi", "-q"]))

    def steps(self):
        args, build, bench, machine = self.args, self.build, self.results.bench, self.machine
        configure = ["cmake", "-G", machine.generator, "-S", ROOT, "-B", build, "-DPARE_CUDA=ON",
                     f"-DPARE_CUDA_ARCHITECTURES={machine.architecture}", "-DPARE_TEST_GPU=ON", "-DPARE_BENCH=ON", "-DPARE_MPI=OFF",
                     "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_CXX_COMPILER={machine.compiler}"]
        if machine.data:
            configure.append(f"-DPARE_SHARED_DATA={machine.data}")
        no_torch = "" if machine.torch else "no PyTorch with a GPU"
        sanitizer = shutil.which("compute-sanitizer", path=machine.env["PATH"])

        def ours(name, seconds, *families, **more):
            command = [build / "pare_bench", "--gpu", "--headline", "--missing", "--samples", 9, "--filter",
                       ",".join("^" + f for f in families), "--json", bench, "--commit", self.commit, "--folder", self.scratch]
            return Step(f"bench-{name}", seconds, lambda _: command, **more)

        def peers(name, seconds, families):
            # A case that is under way at the end is lost: what is left of the limit is for the last one.
            return Step(f"peers-{name}", seconds, lambda limit: [
                sys.executable, ROOT / "bench/peers/torch_gpu.py", "--only", families, "--json", bench, "--folder", self.scratch,
                "--minutes", round(0.6 * limit / 60, 2)], least=40, peer=True, why_not=no_torch)

        def jobs(name, seconds, jobs, least):
            return Step(f"jobs-{name}", seconds, lambda limit: [
                sys.executable, ROOT / "bench/gpu_jobs.py", "--pare", build / "pare", "--bench", build / "pare_bench", "--folder",
                self.scratch, "--json", bench, "--jobs", jobs, "--limit", max(5, limit - 5)], least=least)

        def sanitize(name, tool, program, tests):
            command = [sanitizer, "--tool", tool, "--error-exitcode", 9, *self.sanitizer_options(sanitizer),
                       build / "tests/engine" / program, f"--gtest_filter={tests}"]
            return Step(f"sanitize-{name}", 150, lambda _: command, least=40, why_not="" if sanitizer else "no compute-sanitizer")

        return [
            Step("build-configure", 120, lambda _: configure),
            Step("build-compile", 900, lambda _: ["cmake", "--build", build, "-j", args.jobs, "--target", "gpu_tests", "pare", "pare_bench"]),
            # Every operation, model and transfer on the GPU. Nothing below counts if this fails.
            Step("test-all", 300, lambda limit: ["ctest", "--test-dir", build, "-L", "gpu", "--output-on-failure", "-j", 4,
                                                 "--timeout", max(20, int(limit - 10))], least=60),
            ours("limit", 60, "limit/"),
            ours("lowbit", 180, "gpu_gemv/"),
            ours("int8", 120, "gpu_gemm/"),
            Step("repeat-bytes", 180, lambda _: [
                sys.executable, ROOT / "bench/gpu_repeat.py", "--pare", build / "pare", "--folder", self.scratch, "--json", bench], least=60),
            ours("decode", 200, "decode/"),
            peers("decode", 150, "decode"),
            jobs("gptq-1B", 90, "gptq/1B", 45),
            jobs("gptq-8B", 200, "gptq/8B", 90),
            peers("gptq", 150, "gptq"),
            ours("train", 150, "train/", "distill/"),
            peers("train", 240, "train,distill"),
            ours("attention", 60, "attn_"),
            ours("load", 180, "load/", least=60),
            peers("load", 150, "load"),
            peers("attention", 60, "attention"),
            jobs("ttft", 90, "ttft/135M,ttft/1B", 45),
            # Slow checks. Tensors lie in device memory under memcheck, in pinned memory of the host in backends_test.
            sanitize("memcheck", "memcheck", "decode/engine_decode_test", "-*Slow*"),
            sanitize("racecheck", "racecheck", "backends/backends_test", "*cuda_bf16*:-*Slow*"),
            sanitize("models", "memcheck", "device/engine_device_test", "*EqualsHuggingFace*"),
            sanitize("synccheck", "synccheck", "backends/backends_test", "*cuda_bf16*:-*Slow*"),
        ]

    def sanitizer_options(self, sanitizer):
        """Products of the library are not ours to check; the option has had several names."""
        text = self.machine.printed([sanitizer, "--help"]) if sanitizer else ""
        name = next((n for n in ("--kernel-name-exclude", "--kernel-regex-exclude") if n in text), None)
        return [name, "kns=cublas"] if name else []

    def is_built(self):
        record = self.results.last("build-compile") or {}
        return record.get("exit") == 0 and record.get("sources") == self.sources and all((self.build / p).exists() for p in PROGRAMS)

    def chosen(self, steps):
        """The build where it is needed, then what was never done, then what failed before."""
        args, results = self.args, self.results
        build = [] if self.is_built() else steps[:2]
        rest = [s for s in steps[2:] if s.is_wanted(args.only) and not (args.resume and results.passed(s.name))]
        if args.resume:
            rest.sort(key=lambda s: (results.last(s.name) or {}).get("exit", 0) != 0)
        wanted_build = [s for s in steps[:2] if args.only and s.is_wanted(args.only)]
        return (build if rest else wanted_build and build) + rest

    def run(self, step):
        """True unless it failed."""
        results = self.results
        if step.why_not:
            results.add({"step": step.name, "left": "never", "why": step.why_not})
            return True
        limit = min(step.seconds, self.left() - 5)
        if limit < min(step.least, step.seconds):
            if results.last(step.name) is None:
                results.add({"step": step.name, "left": "time", "why": f"{max(0, self.left()):.0f} s were left"})
            return True
        print(f"== {step.name} (at most {limit:.0f} s)", flush=True)
        record = {"step": step.name, "exit": None, "limit": round(limit, 1), "sources": self.sources}
        self.scratch.mkdir(parents=True, exist_ok=True)
        log = results.logs / f"{step.name}.log"
        tests = self.results.state / "gtest"
        shutil.rmtree(tests, ignore_errors=True)
        env = dict(self.machine.peer_env if step.peer else self.machine.env)
        env.update(PYTHONUNBUFFERED="1", GTEST_OUTPUT=f"json:{tests}/")
        began = time.monotonic()
        process = None
        try:
            with open(log, "wb") as out:
                try:
                    process = subprocess.Popen([str(c) for c in step.command(limit)], cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                                               stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
                    record["exit"] = process.wait(limit)
                except OSError as error:
                    record.update(exit=127, error=str(error))
                except subprocess.TimeoutExpired:
                    record.update(exit=124, error=f"stopped after {limit:.0f} s")
        except Stopped as stopped:
            record.update(exit=143, error=f"stopped by a signal: {stopped}")
            raise
        finally:
            if process is not None:
                end_group(process)
            record["seconds"] = round(time.monotonic() - began, 1)
            text = log.read_text(errors="replace") if log.exists() else ""
            record["log_end"] = text[-1500:]
            if step.name.startswith("test-"):
                self.judge_tests(record, tests)
            results.add(record)
        print("\n".join(text.strip().splitlines()[-3:]), f"\n   exit {record['exit']}, {record['seconds']} s", flush=True)
        return record["exit"] == 0

    def judge_tests(self, record, folder):
        record["tests"] = counts = test_counts(folder)
        record["tests"]["skipped"] = counts["skipped"][:200]
        if record["exit"] == 0 and not self.machine.data:
            record.update(exit=1, error="shared/data/fixtures is not there: whole models were not compared with anything")

    def do(self):
        steps = self.steps()
        self.results.planned = [s.name for s in steps if s.is_wanted(self.args.only) or not self.args.only]
        if self.machine.problems:
            for problem in self.machine.problems:
                print(f"gpu: {problem}", file=sys.stderr)
            self.results.write()
            return 4
        for step in self.chosen(steps):
            good = self.run(step)
            if step.name.startswith("build-") and not (good and self.results.passed(step.name)):
                break
        return None

    def exit_code(self):
        summary = self.results.summary()
        return 1 if summary["failed"] else 3 if summary["left"] else 0

    def show(self):
        for record in self.results.latest():
            what = f"left out: {record['why']}" if "left" in record else f"exit {record['exit']}"
            tests = record.get("tests")
            more = f", {tests['ran']} tests, {len(tests['failed'])} failed, {len(tests['skipped'])} skipped" if tests else ""
            print(f"{record['step']:20} {what} {record.get('seconds', '')}{more} {record.get('error', '')}".rstrip())
        print(f"results: {self.args.out}/gpu.json")


def parsed():
    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = lambda text: pathlib.Path(text).absolute()
    parser.add_argument("--deps", type=path, help="what scripts/offline-deps gathered, a folder or a .tar.xz; default: the system's packages")
    parser.add_argument("--out", type=path, default=ROOT / "build/gpu-results", help="gpu.json, table.md, bench.jsonl, logs.tgz")
    parser.add_argument("--state", type=path, default=ROOT / "build/gpu-state", help="what a later call goes on with")
    parser.add_argument("--earlier", type=path, help="--out of an earlier call, where --state was lost")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="steps by name (jobs-gptq-1B) or group (bench)")
    parser.add_argument("--resume", action="store_true", help="leave out steps that passed already for the same sources on the same GPU")
    parser.add_argument("--minutes", type=float, default=25, help="of this call; limits of steps are cut to it (default 25)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="of the build")
    parser.add_argument("--commit", default="", help="for the records, where there is no git")
    parser.add_argument("--list", action="store_true", help="only print the steps and what is missing here")
    args = parser.parse_args()
    if args.deps and not args.deps.exists():
        parser.error(f"--deps: {args.deps} is not there")
    return parser, args


def main():
    parser, args = parsed()
    call = Call(args)
    names = call.steps()
    for only in args.only:
        if not any(s.is_wanted([only]) for s in names):
            parser.error(f"--only: no step or group {only}; steps: {', '.join(s.name for s in names)}")
    if args.list:
        for step in names:
            print(f"{step.name:20} {step.seconds} s{': left out, ' + step.why_not if step.why_not else ''}")
        for problem in call.machine.problems:
            print(f"missing: {problem}")
        return 4 if call.machine.problems else 0

    def stop(number, _):
        raise Stopped(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    code = None
    try:
        call.begin()
        code = call.do()
    except Stopped as stopped:
        print(f"gpu: stopped by {stopped}", file=sys.stderr)
        code = 143
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(call.scratch, ignore_errors=True)
        call.results.write()
    call.show()
    return call.exit_code() if code is None else code


if __name__ == "__main__":
    sys.exit(main())
