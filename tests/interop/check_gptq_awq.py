"""GPTQ and AWQ folders of pare against an unpacking written from the definition of the formats. See README.md."""
import importlib.util
import pathlib
import sys
import tempfile

import numpy as np
from common import config, dense_of, pare, require, tensors

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
GPTQ = ["int2-g64-sym", "int3-g64-sym", "int4-g64-sym", "int4-g32-asym", "int8-ch-sym", "int4-ch-asym", "int3-g32-asym"]
AWQ = ["int4-g64-sym", "int4-g32-asym", "int4-ch-sym"]


def bit_stream(words, bits, count):
    """Rows of 32-bit words as `count` codes each, least significant bit first."""
    flat = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    used = flat[:, : count * bits].reshape(words.shape[0], count, bits)
    return (used * (1 << np.arange(bits))).sum(-1)


def gptq_values(stored, module, settings):
    words = stored[module + ".qweight"].numpy().view(np.uint32)
    zeros = stored[module + ".qzeros"].numpy().view(np.uint32)
    scales = stored[module + ".scales"].float().numpy()
    bits, columns = settings["bits"], scales.shape[1]
    codes = bit_stream(np.ascontiguousarray(words.T), bits, words.shape[0] * 32 // bits)  # [out, in]
    points = bit_stream(zeros, bits, columns) + (settings["checkpoint_format"] == "gptq")
    group = stored[module + ".g_idx"].numpy()
    return scales.T[:, group] * (codes - points.T[:, group]).astype(np.float32)


def awq_values(stored, module, _settings):
    def unpack(words):
        words = words.numpy().view(np.uint32)
        codes = np.zeros((words.shape[0], words.shape[1] * 8), np.int64)
        for nibble, column in enumerate(ORDER):
            codes[:, column::8] = (words >> np.uint32(4 * nibble)) & 15
        return codes

    scales = stored[module + ".scales"].float().numpy()
    codes, points = unpack(stored[module + ".qweight"]), unpack(stored[module + ".qzeros"])
    repeat = codes.shape[0] // scales.shape[0]
    return (scales.repeat(repeat, 0) * (codes - points.repeat(repeat, 0)).astype(np.float32)).T


def autoawq_unpacking():
    """The package's file of order tables alone; the package itself wants a GPU and old versions."""
    found = importlib.util.find_spec("awq")
    if found is None:
        raise ImportError("no package awq")
    path = pathlib.Path(found.submodule_search_locations[0]) / "utils" / "packing_utils.py"
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def autoawq_values(stored, module, settings):
    dequantize_gemm = autoawq_unpacking().dequantize_gemm
    size = settings["group_size"]
    qweight = stored[module + ".qweight"]
    values = dequantize_gemm(qweight, stored[module + ".qzeros"], stored[module + ".scales"].float(), 4,
                             size if size > 0 else qweight.shape[0])
    return values.numpy().T


def check(program, model, work, form, scheme, values_of, who):
    packed, out = work / f"{form}-{scheme}-{who}.pare", work / f"{form}-{scheme}-{who}"
    pare(program, "quantize", model, "--scheme", scheme, "-o", packed)
    said = pare(program, "export", packed, "--format", form, "-o", out)
    settings = config(out)["quantization_config"]
    ours, stored = dense_of(program, packed, work / f"dense-{form}-{scheme}-{who}"), tensors(out)
    back = dense_of(program, out, work / f"back-{form}-{scheme}-{who}")
    modules = [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]
    same = all(np.array_equal(values_of(stored, m, settings), ours[m + ".weight"].numpy()) for m in modules)
    same = same and all(np.array_equal(back[m + ".weight"].numpy(), ours[m + ".weight"].numpy()) for m in modules)
    require(modules and same, f"{form} {scheme} by {who}: {len(modules)} matrices ({said.splitlines()[1].strip()})")


def main():
    program, model = sys.argv[1], pathlib.Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for scheme in GPTQ:
            check(program, model, work, "gptq", scheme, gptq_values, "definition")
        for scheme in AWQ:
            check(program, model, work, "awq", scheme, awq_values, "definition")
            try:
                check(program, model, work, "awq", scheme, autoawq_values, "AutoAWQ")
            except ImportError as error:
                print(f"   AutoAWQ not usable here: {error}")


main()
