"""GGUF against the public `gguf` Python package, in both directions. A script for development, not part of ctest.

    gguf_values.py read  FILE.gguf FOLDER   every tensor of FOLDER (pare export of FILE, f32 safetensors) equals what
                                            gguf.dequantize makes of the blocks of FILE
    gguf_values.py write MODEL OUT.gguf TYPE  a llama folder (f32 values) as GGUF by the package, linears in TYPE

The checkpoint names and the row order of llama's q and k are those of docs/interop.md.
"""
import json
import sys

import gguf
import numpy as np
from gguf import quants
from safetensors.numpy import load_file, save_file  # noqa: F401

STEMS = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def checkpoint_name(name):
    stem, suffix = name.rsplit(".", 1)
    if stem in OUTER:
        return f"{OUTER[stem]}.{suffix}"
    _, block, part = stem.split(".")
    return f"model.layers.{block}.{STEMS[part]}.{suffix}"


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def read(path, folder):
    reader = gguf.GGUFReader(path)
    stored = load_file(f"{folder}/model.safetensors")
    arch = reader.fields["general.architecture"].contents()
    heads = int(reader.fields[f"{arch}.attention.head_count"].contents())
    kv = int(reader.fields[f"{arch}.attention.head_count_kv"].contents())
    types = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        want = quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape)))
        if arch == "llama" and ("attn_q." in tensor.name or "attn_k." in tensor.name):
            want = unpermute(want, heads if "attn_q." in tensor.name else kv)
        got = stored[checkpoint_name(tensor.name)].astype(np.float32)
        if not np.array_equal(got, want.astype(np.float32)):
            sys.exit(f"{tensor.name} {tensor.tensor_type.name}: {np.abs(got - want).max()}")
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    print(path, "equal:", types)


def random_blocks(qtype, shape, rng):
    """Blocks of any bits with finite scales: what no quantizer writes must be read right too."""
    block, size = gguf.GGML_QUANT_SIZES[qtype]
    data = rng.integers(0, 256, (*shape[:-1], shape[-1] // block, size), dtype=np.uint8)
    halves = {"Q4_0": [0], "Q5_0": [0], "Q8_0": [0], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
              "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[qtype.name]
    for at in halves:
        value = rng.normal(0, 0.02, data.shape[:-1]).astype(np.float16)
        if qtype.name == "Q8_0":
            value = np.abs(value)
        data[..., at:at + 2] = value.view(np.uint8).reshape(*data.shape[:-1], 2)
    return data.reshape(*shape[:-1], -1)


def write(model, out, name):
    config = json.load(open(f"{model}/config.json"))
    tensors = {k: v.astype(np.float32) for k, v in load_file(f"{model}/model.safetensors").items()}
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    is_random = name.startswith("random-")
    qtype = gguf.GGMLQuantizationType[name.removeprefix("random-")]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    inverse = {v: k for k, v in STEMS.items()}
    outer = {v: k for k, v in OUTER.items()}
    rng = np.random.default_rng(7)
    for key, value in tensors.items():
        stem, suffix = key.rsplit(".", 1)
        if key.startswith("model.layers."):
            _, _, block, part = stem.split(".", 3)
            target = f"blk.{block}.{inverse[part]}.{suffix}"
        else:
            target = f"{outer[stem]}.{suffix}"
        if ".attn_q." in target or ".attn_k." in target:
            value = permute(value, heads if ".attn_q." in target else kv)
        linear = target.startswith("blk") and value.ndim == 2
        if linear and value.shape[-1] % gguf.GGML_QUANT_SIZES[qtype][0] == 0:
            data = random_blocks(qtype, value.shape, rng) if is_random else quants.quantize(value, qtype)
            writer.add_tensor(target, data, raw_dtype=qtype)
        else:
            writer.add_tensor(target, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](*sys.argv[2:])
