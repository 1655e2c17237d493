"""What scripts/gpu needs of the machine, and what programs need to find it: looked at in a second, before anything is built."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

# What pare includes of others; scripts/offline-deps gathers it.
HEADERS = ("CLI/CLI.hpp", "nlohmann/json.hpp", "fmt/core.h", "pcre2.h", "utf8proc.h", "xxhash.h", "zstd.h",
           "yaml-cpp/yaml.h", "eigen3/Eigen/Cholesky", "gtest/gtest.h", "gmock/gmock.h")
SOURCES = ("engine", "formats", "calibrate", "prune", "quantize", "distill", "evaluate", "cli", "tests", "bench", "cmake")


class Machine:
    """`env` for our programs, `problems` that make a build pointless, and `about` for the results."""

    def __init__(self, root, deps, work):
        self.root, self.work = root, work
        self.env, self.problems, self.about = dict(os.environ), [], {}
        self.peer_env = dict(os.environ)  # PyTorch brings libraries of its own
        self.find_driver()
        if deps:
            self.use_deps(self.unpacked(deps))
        self.find_tools()
        self.find_toolkit()
        self.find_headers()
        self.data = next((d.resolve() for d in (root / "shared/data", root.parent / "shared/data")
                          if (d / "fixtures").is_dir()), None)
        self.torch = self.printed([sys.executable, "-c", "import torch; assert torch.cuda.is_available(); print(torch.__version__)"])
        self.about["torch"] = self.torch or None
        self.about["cores"] = os.cpu_count()

    def printed(self, command, env=None):
        """What a command prints; empty when it fails or is not there."""
        try:
            done = subprocess.run([str(c) for c in command], env=env or self.env, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    def prepend(self, name, *folders):
        self.env[name] = ":".join([*map(str, folders), *filter(None, [self.env.get(name)])])

    def find_driver(self):
        self.about["gpu"] = self.printed(["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit",
                                          "--format=csv,noheader"]).splitlines()[:1]
        self.about["gpu"] = self.about["gpu"][0] if self.about["gpu"] else None
        capability = self.printed(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]).splitlines()
        number = re.sub(r"\D", "", capability[0]) if capability else ""
        self.architecture = "90a" if number == "90" else number
        if not number:
            self.problems.append("nvidia-smi names no GPU: no NVIDIA driver on this machine")
        elif int(number) < 80:
            self.problems.append(f"compute capability {capability[0]}: the CUDA backend needs 8.0")

    def unpacked(self, deps):
        if deps.is_dir():
            return deps
        folder = self.work / "deps"
        mark = hashlib.sha256(deps.read_bytes()).hexdigest()
        if not (folder / mark).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with tarfile.open(deps) as archive:
                archive.extractall(folder, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))
            (folder / mark).touch()
        return folder

    def use_deps(self, deps):
        usr = deps / "usr"
        folders = sorted({str(p.parent) for p in (usr / "lib").rglob("*.so*")})
        if not folders:
            self.problems.append(f"--deps {deps}: no usr/lib with shared libraries in it")
        self.prepend("CMAKE_PREFIX_PATH", usr)
        self.prepend("CPATH", usr / "include")
        self.prepend("LIBRARY_PATH", *folders)
        self.prepend("LD_LIBRARY_PATH", *folders)
        self.prepend("PKG_CONFIG_PATH", usr / "lib/x86_64-linux-gnu/pkgconfig")

    def version(self, *command):
        found = re.search(r"(\d+)\.(\d+)(\.\d+)?", self.printed(command))
        return (int(found[1]), int(found[2])) if found else None

    def find_tools(self):
        cmake = self.version("cmake", "--version")
        self.about["cmake"] = "{}.{}".format(*cmake) if cmake else None
        if not cmake or cmake < (3, 25):
            self.problems.append(f"cmake 3.25 or newer: {self.about['cmake'] or 'not found'}")
        self.compiler = self.env.get("CXX") or next((c for c in ("c++", "g++") if shutil.which(c)), "c++")
        text = self.printed([self.compiler, "--version"]).splitlines()
        self.about["compiler"] = text[0] if text else None
        version = self.version(self.compiler, "-dumpfullversion")
        if not text:
            self.problems.append(f"C++ compiler: {self.compiler} not found")
        elif "clang" not in text[0] and version and version[0] < 12:
            self.problems.append(f"GCC 12 or newer: {text[0]}")
        self.generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
        if not shutil.which("ninja") and not shutil.which("make"):
            self.problems.append("ninja or make: not found")

    def find_toolkit(self):
        nvcc = shutil.which("nvcc") or next((p for p in ("/usr/local/cuda/bin/nvcc",) if os.access(p, os.X_OK)), None)
        if nvcc is None:
            self.problems.append("nvcc: not found")
            return
        self.env["PATH"] = f"{self.env['PATH']}:{pathlib.Path(nvcc).parent}"
        release = re.search(r"release (\d+)\.(\d+)", self.printed([nvcc, "--version"]))
        self.about["nvcc"] = f"{release[1]}.{release[2]}" if release else None
        home = pathlib.Path(nvcc).resolve().parents[1]
        includes = [home / "include", home / "targets/x86_64-linux/include", pathlib.Path("/usr/include")]
        libraries = [home / "lib64", home / "targets/x86_64-linux/lib", pathlib.Path("/usr/lib/x86_64-linux-gnu")]
        packaged = self.python_packages()
        for name, folders in (("cuda_runtime.h", includes), ("libcudart_static.a", libraries)):
            if not any((f / name).exists() for f in folders):
                self.problems.append(f"{name}: not in the CUDA toolkit of {nvcc}")
        for header, macro_file, macro, name in (
                ("cublasLt.h", "cublas_api.h", "CUBLAS_VER_MAJOR", "cublasLt"),
                ("cusolverDn.h", "cusolver_common.h", "CUSOLVER_VER_MAJOR", "cusolver")):
            folder = next((f for f in includes if (f / header).exists()), None)
            if folder is None:
                folder = next((p.parent for p in packaged if p.name == header), None)
                if folder is None:
                    self.problems.append(f"{header}: neither in the CUDA toolkit nor in Python's packages")
                    continue
                self.link_headers(folder)
            self.about[header] = str(folder)
            major = re.search(rf"define\s+{macro}\s+(\d+)", (folder / macro_file).read_text(errors="replace")
                              if (folder / macro_file).exists() else "")
            self.find_library(f"lib{name}.so.{major[1] if major else ''}", libraries, packaged)

    def python_packages(self):
        """Headers and libraries that came with nvidia-cublas, nvidia-cusolver and such."""
        text = self.printed([sys.executable, "-c", "import json, nvidia; print(json.dumps(list(nvidia.__path__)))"])
        folders = json.loads(text) if text else []
        return [p for f in folders for pattern in ("*/include/*.h", "*/lib/*.so*", "*/lib64/*.so*")
                for p in sorted(pathlib.Path(f).glob(pattern))]

    def link_headers(self, folder):
        """Only these: the folder may hold another version of the runtime's headers."""
        links = self.work / "toolkit-headers"
        links.mkdir(parents=True, exist_ok=True)
        for header in [*folder.glob("cublas*.h"), *folder.glob("cusolver*.h"), *folder.glob("cusparse*.h")]:
            if not (links / header.name).exists():
                (links / header.name).symlink_to(header)
        if str(links) not in self.env.get("CPATH", ""):
            self.prepend("CPATH", links)

    def find_library(self, name, folders, packaged):
        """A file is not enough: the library has libraries of its own."""
        opens = lambda what: self.printed([sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print('opened')", what])
        here = next((f for f in folders if (f / name).exists()), None)
        if opens(name):
            self.about[name] = name
            return
        for folder in [here, *(p.parent for p in packaged if p.name == name)]:
            if folder is None:
                continue
            before = self.env.get("LD_LIBRARY_PATH")
            if str(folder) not in (before or ""):
                self.prepend("LD_LIBRARY_PATH", folder)
            if opens(name):
                self.about[name] = str(folder)
                return
            self.env["LD_LIBRARY_PATH"] = before or ""
        self.problems.append(f"{name}: neither in the CUDA toolkit nor in Python's packages, or it does not open")

    def find_headers(self):
        text = "".join(f"#if !__has_include(<{h}>)\n#error missing {h}\n#endif\n" for h in HEADERS)
        try:
            done = subprocess.run([self.compiler, "-std=c++20", "-x", "c++", "-E", "-o", os.devnull, "-"], input=text, env=self.env,
                                  capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return
        missing = re.findall(r"error: .*?missing (\S+)|#error missing (\S+)", done.stderr)
        names = sorted({a or b for a, b in missing})
        self.problems += [f"{name}: no such header; scripts/offline-deps gathers what pare builds with" for name in names]


def sources_hash(root):
    """Of what is built and run; two calls with the same one may share results."""
    whole = hashlib.sha256()
    files = [root / "CMakeLists.txt"]
    for folder in SOURCES:
        files += sorted(p for p in (root / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    for path in files:
        if path.exists():
            data = path.read_bytes()
            whole.update(f"{path.relative_to(root)} {len(data)}\n".encode())
            whole.update(data)
    return whole.hexdigest()[:16]


def commit_of(root):
    text = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True) \
        if shutil.which("git") and (root / ".git").exists() else None
    if text is not None and text.returncode == 0:
        return text.stdout.strip()
    return (root / ".commit").read_text().strip() if (root / ".commit").exists() else "unknown"
