#!/usr/bin/env python3
"""scripts/gpu from beginning to end without a GPU: driver, compilers and programs are fakes in a folder of their own."""

import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

TOOLS = {
    "nvidia-smi": """case "$*" in *compute_cap*) echo 9.0 ;; *query-gpu*) echo "${FAKE_GPU:-Fake H100}, 580.1, 80000 MiB, 1980, 700" ;; *) echo all ;; esac""",
    "cmake": """case "$1" in
  --version) echo "cmake version 3.28.3" ;;
  --build) [ "$FAKE_FAIL" = compile ] && exit 2
    echo compiled >> "$FAKE/compiled"
    mkdir -p "$2/tests/engine/backends" "$2/tests/engine/decode"
    cp "$FAKE/programs/pare" "$FAKE/programs/pare_bench" "$2"
    cp "$FAKE/programs/test" "$2/tests/engine/backends/backends_test"
    cp "$FAKE/programs/test" "$2/tests/engine/decode/engine_decode_test" ;;
  *) env > "$FAKE/configure.env"; echo "$@" > "$FAKE/configure.args" ;;
esac""",
    "ctest": """folder=${GTEST_OUTPUT#json:}; mkdir -p "$folder"
echo '{"testsuites": [{"name": "Ops", "testsuite": [{"name": "a", "status": "RUN", "result": "COMPLETED"},
  {"name": "b", "status": "RUN", "result": "SKIPPED"}, {"name": "c", "status": "NOTRUN", "result": "SUPPRESSED"}]}]}' > "$folder/x.json"
[ "$FAKE_FAIL" != test ]""",
    "c++": """case "$*" in *dumpfullversion*) echo 13.2.0 ;; *--version*) echo "c++ 13.2.0" ;; *) cat > /dev/null
  [ -z "$FAKE_NO_HEADER" ] || { echo "<stdin>:2:2: error: #error missing $FAKE_NO_HEADER" >&2; exit 1; } ;; esac""",
    "ninja": "exit 0",
    "compute-sanitizer": """case "$*" in *--help*) echo "--kernel-regex-exclude arg" ;; *) echo "$@" >> "$FAKE/sanitized" ;; esac""",
}
PROGRAMS = {
    "pare": """command=$1 out=
while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done
case $command in
  quantize) [ "$FAKE_FAIL" = quantize ] && { echo "no room" >&2; exit 6; }
    echo bytes > "$out"; echo '{"seconds": 12.5, "peak_device_bytes": 7}' ;;
  run) echo "once upon" "$([ "$FAKE_FAIL" = repeat ] && date +%N)" ;;
  distill) mkdir -p "$out"; echo weights > "$out/model.safetensors" ;;
esac""",
    "pare_bench": """json= filter= commit=; echo "$@" >> "$FAKE/bench.args"
case "$*" in
  *--make-model*) mkdir -p "$3"; exit 0 ;;
  *--first-token*) echo '{"total": 0.4}'; exit 0 ;;
esac
while [ $# -gt 0 ]; do case "$1" in --json) json=$2 ;; --filter) filter=$2 ;; esac; shift; done
echo "{\\"case\\": \\"${filter}x\\", \\"ours\\": {\\"median\\": 0.5}, \\"share_of_limit\\": 0.9, \\"limit\\": {\\"probe\\": \\"gpu.copy\\", \\"value\\": 3e12}}" >> "$json"
[ "$FAKE_SLEEP" = "$filter" ] && { touch "$FAKE/asleep"; sleep 100; }
[ "$FAKE_FAIL" != "$filter" ]""",
    "test": "exit 0",
}
PEER = """import json, sys
with open(sys.argv[sys.argv.index("--json") + 1], "a") as out:
    print(json.dumps({"case": "load/x", "peer": {"name": "torch", "seconds": 1.0}}), file=out)
"""
BUILD = ["build-configure", "build-compile"]


def shell(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)


def some_library():
    """A real shared library, to be found under another name."""
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        path = line.split()[-1]
        if ".so" in path and "/" in path:
            return path
    raise unittest.SkipTest("no shared library in this process")


class Script(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.fake = pathlib.Path(folder.name)
        self.tree = self.fake / "tree"
        self.out = self.fake / "out"
        for name in ("gpu", "gpu_run.py", "gpu_machine.py"):
            self.copy(f"scripts/{name}")
        for name in ("gpu_table.py", "gpu_jobs.py", "gpu_repeat.py", "gpu_goals.json", "gpu_shapes.json"):
            self.copy(f"bench/{name}")
        (self.tree / "bench/peers").mkdir()
        (self.tree / "bench/peers/torch_gpu.py").write_text(PEER)
        (self.tree / "shared/data/fixtures").mkdir(parents=True)
        for name, text in TOOLS.items():
            shell(self.fake / "bin" / name, text)
        for name, text in PROGRAMS.items():
            shell(self.fake / "programs" / name, text)
        shell(self.fake / "cuda/bin/nvcc", 'echo "Cuda compilation tools, release 13.0, V13.0.88"')
        self.toolkit(self.fake / "cuda/include", self.fake / "cuda/lib64")
        (self.fake / "cuda/include/cuda_runtime.h").touch()
        (self.fake / "cuda/lib64/libcudart_static.a").touch()
        torch = self.fake / "python/torch"
        torch.mkdir(parents=True)
        (torch / "__init__.py").write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n__version__ = '2.0-fake'\n")
        self.env = {"PATH": f"{self.fake}/bin:{self.fake}/cuda/bin:{os.environ['PATH']}", "FAKE": str(self.fake), "HOME": str(self.fake),
                    "PYTHONPATH": str(self.fake / "python")}

    def copy(self, name):
        (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, self.tree / name)

    def toolkit(self, include, libraries):
        for folder in (include, libraries):
            folder.mkdir(parents=True)
        for name in ("cublasLt.h", "cusolverDn.h"):
            (include / name).touch()
        (include / "cublas_api.h").write_text("#define CUBLAS_VER_MAJOR 91\n")
        (include / "cusolver_common.h").write_text("#define CUSOLVER_VER_MAJOR 92\n")
        for name in ("libcublasLt.so.91", "libcusolver.so.92"):
            shutil.copyfile(some_library(), libraries / name)

    def command(self, *arguments):
        return [self.tree / "scripts/gpu", "--out", self.out, *arguments]

    def run_script(self, *arguments, **env):
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, env={**self.env, **env}, cwd=self.fake)

    def result(self):
        return json.loads((self.out / "gpu.json").read_text())

    def ran(self):
        """Steps that this call ran, from its records since the last line of the machine."""
        lines = [json.loads(line) for line in (self.tree / "build/gpu-state/records.jsonl").read_text().splitlines()]
        begin = max(i for i, line in enumerate(lines) if line["step"] == "machine")
        return [line["step"] for line in lines[begin + 1:] if "exit" in line]

    def test_everything_passes_and_four_files_say_so(self):
        done = self.run_script("--commit", "abc123")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(sorted(os.listdir(self.out)), ["bench.jsonl", "gpu.json", "logs.tgz", "table.md"])
        result = self.result()
        self.assertEqual(result["machine"]["commit"], "abc123")
        self.assertIn("Fake H100", result["machine"]["gpu"])
        self.assertEqual(result["machine"]["nvcc"], "13.0")
        self.assertEqual([s["step"] for s in result["steps"]][:4], [*BUILD, "test-all", "bench-limit"])
        self.assertEqual(result["summary"]["failed"] + result["summary"]["left"], [])
        self.assertEqual(len(result["summary"]["passed"]), len(result["steps"]))
        tests = next(s for s in result["steps"] if s["step"] == "test-all")["tests"]
        self.assertEqual((tests["ran"], tests["failed"], tests["skipped"]), (1, [], ["Ops.b"]))
        cases = {c["case"]: c for c in result["cases"]}
        self.assertEqual(cases["job/gptq/8B"]["ours"]["ours"]["summary"]["peak_device_bytes"], 7)
        self.assertEqual(cases["repeat/run"]["distinct"], 1)
        self.assertEqual({g["reached"] for g in result["goals"] if g["item"] == "8"}, {True})
        self.assertEqual(result["probes"], {"gpu.copy": 3e12})
        self.assertIn("job/gptq/8B", (self.out / "table.md").read_text())
        with tarfile.open(self.out / "logs.tgz") as archive:
            self.assertIn("logs/bench-decode.log", archive.getnames())
        arguments = (self.fake / "configure.args").read_text()
        self.assertIn("-DPARE_CUDA_ARCHITECTURES=90a ", arguments)
        self.assertIn(f"-DPARE_SHARED_DATA={self.tree}/shared/data", arguments)
        self.assertEqual((self.fake / "sanitized").read_text().count("--kernel-regex-exclude kns=cublas"), 4)
        self.assertFalse(list(pathlib.Path("/dev/shm").glob("pare-gpu-*/gpu-jobs")))

    def test_a_step_that_fails_does_not_stop_the_others_and_resume_does_only_that_one(self):
        done = self.run_script("--only", "bench", FAKE_FAIL="^gpu_gemm/")
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertEqual(self.result()["summary"]["failed"], ["bench-int8"])
        self.assertIn("bench-load", self.result()["summary"]["passed"])
        again = self.run_script("--only", "bench", "--resume")
        self.assertEqual(again.returncode, 0, again.stdout)
        self.assertEqual(self.ran(), ["bench-int8"])
        self.assertEqual((self.fake / "compiled").read_text(), "compiled\n")
        (self.tree / "bench/other.cpp").write_text("int x;\n")  # results of other sources are no results
        self.assertEqual(self.run_script("--only", "bench-int8", "--resume").returncode, 0)
        self.assertEqual(self.ran(), [*BUILD, "bench-int8"])
        self.assertEqual(self.result()["summary"]["passed"], [*BUILD, "bench-int8"])
        self.run_script("--only", "bench-limit", FAKE_GPU="Other")  # nor those of another card
        self.assertNotIn("bench-int8", self.result()["summary"]["passed"])

    def test_a_build_that_fails_ends_the_call_with_results(self):
        done = self.run_script(FAKE_FAIL="compile")
        self.assertEqual(done.returncode, 1, done.stdout)
        summary = self.result()["summary"]
        self.assertEqual((summary["passed"], summary["failed"]), (["build-configure"], ["build-compile"]))
        self.assertIn("bench-decode", summary["left"])

    def test_only_takes_groups_and_whole_names(self):
        done = self.run_script("--only", "jobs-gptq-1B,peers")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(self.ran(), [*BUILD, "peers-decode", "jobs-gptq-1B", "peers-gptq", "peers-train", "peers-load", "peers-attention"])
        wrong = self.run_script("--only", "jobs-gpt")
        self.assertEqual(wrong.returncode, 2)
        self.assertIn("no step or group jobs-gpt;", wrong.stderr)

    def test_no_time_left_is_said_and_a_later_call_goes_on(self):
        done = self.run_script("--minutes", "0.01", "--only", "bench,repeat")
        self.assertEqual(done.returncode, 3, done.stdout)
        self.assertIn("bench-limit", self.result()["summary"]["left"])
        again = self.run_script("--only", "bench,repeat", "--resume")
        self.assertEqual(again.returncode, 0, again.stdout)
        self.assertEqual(self.result()["summary"]["left"], [])

    def test_a_signal_in_the_middle_leaves_results_and_no_process(self):
        with subprocess.Popen(self.command("--only", "bench"), env={**self.env, "FAKE_SLEEP": "^gpu_gemm/"}, cwd=self.fake,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not (self.fake / "asleep").exists() and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(), 143)
        summary = self.result()["summary"]
        self.assertIn("bench-lowbit", summary["passed"])
        self.assertEqual(summary["failed"], ["bench-int8"])
        self.assertIn("^gpu_gemm/x", [c["case"] for c in self.result()["cases"]])
        self.assertEqual(len(os.listdir(self.out)), 4)
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout if shutil.which("ps") else ""
        self.assertNotIn(str(self.tree / "build/gpu/pare_bench"), listed)

    def test_a_step_has_its_limit_and_the_next_ones_go_on(self):
        sys.path.insert(0, str(self.tree / "scripts"))
        self.addCleanup(sys.path.remove, str(self.tree / "scripts"))
        for name in ("gpu_run", "gpu_machine", "gpu_table"):
            sys.modules.pop(name, None)
        before = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(before)))
        os.environ.update(self.env)
        gpu_run = importlib.import_module("gpu_run")
        self.addCleanup(lambda: [sys.modules.pop(n, None) for n in ("gpu_run", "gpu_machine", "gpu_table")])
        sys.argv = ["gpu", "--out", str(self.out), "--minutes", "20"]
        call = gpu_run.Call(gpu_run.parsed()[1])
        call.begin()
        limits = []
        slow = gpu_run.Step("bench-slow", 1, lambda limit: (limits.append(limit), ["sh", "-c", "echo begun; sleep 500 & sleep 500"])[1])
        self.assertFalse(call.run(slow))
        record = call.results.last("bench-slow")
        self.assertEqual((record["exit"], record["log_end"]), (124, "begun\n"))
        self.assertLess(record["seconds"], 400)
        self.assertTrue(call.run(gpu_run.Step("bench-long", 5000, lambda limit: (limits.append(limit), ["true"])[1])))
        self.assertEqual(limits[0], 1)
        self.assertLess(limits[1], 1196)  # what is left of 20 minutes, less what is kept for the end
        self.assertTrue(call.run(gpu_run.Step("bench-longer", 5000, lambda _: ["true"], least=2000)))
        self.assertEqual(call.results.last("bench-longer")["left"], "time")
        self.assertFalse(call.run(gpu_run.Step("bench-none", 5, lambda _: ["/nowhere/program"])))
        self.assertEqual(call.exit_code(), 1)

    def test_bytes_that_differ_are_a_failure(self):
        done = self.run_script("--only", "repeat", FAKE_FAIL="repeat")
        self.assertEqual(done.returncode, 1)
        goals = {g["case"]: g["reached"] for g in self.result()["goals"] if g["item"] == "8"}
        self.assertEqual(goals, {"repeat/quantize": True, "repeat/run": False, "repeat/distill": True})

    def test_a_job_that_fails_is_a_case_with_an_error_and_fails_its_step(self):
        done = self.run_script("--only", "jobs-gptq-1B,jobs-ttft,repeat", FAKE_FAIL="quantize")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(self.result()["summary"]["failed"], ["repeat-bytes", "jobs-gptq-1B"])
        cases = {c["case"]: c for c in self.result()["cases"]}
        self.assertIn("exit 6: no room", cases["job/gptq/1B"]["error"])
        self.assertIn("exit 6", cases["repeat/quantize"]["error"])
        self.assertEqual(cases["ttft/1B/w4+head4/prompt512"]["seconds"], 0.4)
        self.assertIn("failed: exit 6: no room", (self.out / "table.md").read_text())

    def test_without_fixtures_the_tests_do_not_count_as_passed(self):
        shutil.rmtree(self.tree / "shared")
        self.assertEqual(self.run_script("--only", "test").returncode, 1)
        record = next(s for s in self.result()["steps"] if s["step"] == "test-all")
        self.assertIn("fixtures is not there", record["error"])

    def test_what_is_missing_is_said_before_anything_is_built(self):
        shutil.rmtree(self.fake / "cuda/include")
        done = self.run_script(FAKE_NO_HEADER="fmt/core.h")
        self.assertEqual(done.returncode, 4)
        self.assertIn("cublasLt.h: neither", done.stderr)
        self.assertIn("fmt/core.h: no such header", done.stderr)
        self.assertIn("cuda_runtime.h: not in", done.stderr)
        self.assertEqual(len(self.result()["machine"]["problems"]), 4)
        self.assertFalse((self.fake / "compiled").exists())
        (self.fake / "bin/nvidia-smi").unlink()
        self.assertIn("no NVIDIA driver", self.run_script(PATH=f"{self.fake}/bin:{self.fake}/cuda/bin:/usr/bin:/bin").stderr
                      if not shutil.which("nvidia-smi") else "no NVIDIA driver")

    def test_a_library_that_does_not_open_is_missing(self):
        (self.fake / "cuda/lib64/libcusolver.so.92").write_text("not a library")
        done = self.run_script()
        self.assertEqual(done.returncode, 4)
        self.assertIn("libcusolver.so.92: ", done.stderr)

    def test_libraries_of_python_packages_do(self):
        for path in [*(self.fake / "cuda").glob("include/cu[bs]*"), *(self.fake / "cuda").glob("lib64/*.so.*")]:
            path.unlink()
        self.toolkit(self.fake / "python/nvidia/cu13/include", self.fake / "python/nvidia/cu13/lib")
        done = self.run_script("--only", "build")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        env = dict(line.split("=", 1) for line in (self.fake / "configure.env").read_text().splitlines() if "=" in line)
        self.assertTrue((pathlib.Path(env["CPATH"].split(":")[0]) / "cublasLt.h").exists())
        self.assertIn(str(self.fake / "python/nvidia/cu13/lib"), env["LD_LIBRARY_PATH"])

    def test_dependencies_come_as_an_archive_too(self):
        usr = self.fake / "gathered/usr"
        for folder in ("include", "lib/x86_64-linux-gnu"):
            (usr / folder).mkdir(parents=True)
        (usr / "lib/x86_64-linux-gnu/libzstd.so").touch()
        with tarfile.open(self.fake / "deps.tar.xz", "w:xz") as archive:
            archive.add(usr, "./usr")
        done = self.run_script("--only", "build", "--deps", "deps.tar.xz")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        env = dict(line.split("=", 1) for line in (self.fake / "configure.env").read_text().splitlines() if "=" in line)
        prefix = pathlib.Path(env["CMAKE_PREFIX_PATH"])
        self.assertTrue((prefix / "lib/x86_64-linux-gnu/libzstd.so").exists())
        self.assertIn(str(prefix / "lib/x86_64-linux-gnu"), env["LIBRARY_PATH"])
        self.assertIn(str(prefix / "include"), env["CPATH"])

    def test_results_of_a_machine_that_is_gone_are_taken_up(self):
        self.assertEqual(self.run_script("--only", "bench,repeat").returncode, 0)
        shutil.move(self.out, self.fake / "earlier")
        shutil.rmtree(self.tree / "build")
        done = self.run_script("--only", "bench,test", "--resume", "--earlier", self.fake / "earlier")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(self.ran(), [*BUILD, "test-all"])
        self.assertIn("repeat/run", [c["case"] for c in self.result()["cases"]])
        self.assertIn("bench-decode", self.result()["summary"]["passed"])


if __name__ == "__main__":
    unittest.main()
