"""Running pare, and reading what it wrote."""
import json
import pathlib
import subprocess
import sys

from safetensors.torch import load_file


def pare(program, *args, expect=0):
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    if done.returncode != expect:
        sys.exit(f"pare {' '.join(map(str, args))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def tensors(folder):
    result = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        if path.name != "expected.safetensors":
            result.update(load_file(path))
    return result


def dense_of(program, model, folder):
    """Every tensor of a model as pare dequantizes it, f32."""
    pare(program, "export", model, "-o", folder, "--dtype", "f32")
    return tensors(folder)


def config(folder):
    return json.loads((pathlib.Path(folder) / "config.json").read_text())


def require(condition, what):
    if not condition:
        sys.exit(f"FAILED: {what}")
    print(f"ok: {what}")
