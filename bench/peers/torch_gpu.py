#!/usr/bin/env python3
"""PyTorch beside the cases of `pare_bench --gpu` and bench/gpu_jobs.py, on the same card and by the same names.

Needs torch and, for loading, safetensors; no network, no transformers. Weights are random. Appends one JSON object per
case and peer: {"case", "peer": {"name", "version", "seconds", ...}}; `seconds` is of one unit: a product, a step of
decoding or training, a load, a job. A peer that fails says so in "error", and the others go on.

    torch_gpu.py --json FILE [--only decode,attention,train,distill,linear_kl,gptq,load] [--folder DIR] [--minutes N]
    torch_gpu.py --tiny --device cpu        every path with tiny shapes, to try the script without a GPU
"""

import argparse
import gc
import json
import math
import pathlib
import shutil
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

# hidden, intermediate, blocks, heads, kv heads, head dim, vocabulary, tied: the shapes of pare_bench, without positions
SHAPES = {name: (*shape[:7], shape[8]) for name, shape in
          json.loads((pathlib.Path(__file__).resolve().parents[1] / "gpu_shapes.json").read_text()).items()}
DEVIATION = 0.02
SAMPLES = 15


def attend(q, k, v, **kwargs):
    """Scaled dot products with fewer key heads than query heads, by whichever way this torch has."""
    if q.shape[1] == k.shape[1]:
        return F.scaled_dot_product_attention(q, k, v, **kwargs)
    try:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **kwargs)
    except TypeError:
        group = q.shape[1] // k.shape[1]
        return F.scaled_dot_product_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), **kwargs)


def rotary_tables(positions, head_dim, device):
    frequencies = 500000.0 ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angles = torch.arange(positions, device=device).float()[:, None] * frequencies[None]
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """x [batch, heads, tokens, head dim], tables [tokens, head dim]."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


class RmsNorm(nn.Module):
    def __init__(self, width, device, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-5)


class Block(nn.Module):
    def __init__(self, shape, device, dtype):
        super().__init__()
        hidden, inner, _, self.heads, self.kv_heads, self.head_dim, _, _ = shape
        matrix = lambda rows, columns: nn.Linear(columns, rows, bias=False, device=device, dtype=dtype)
        self.qkv = matrix((self.heads + 2 * self.kv_heads) * self.head_dim, hidden)
        self.o = matrix(hidden, self.heads * self.head_dim)
        self.gate_up = matrix(2 * inner, hidden)
        self.down = matrix(hidden, inner)
        self.attention_norm = RmsNorm(hidden, device, dtype)
        self.mlp_norm = RmsNorm(hidden, device, dtype)

    def split(self, x, cos, sin):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).split(
            [self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim], -1)
        shaped = lambda t, heads: t.view(batch, tokens, heads, self.head_dim).transpose(1, 2)
        q, k, v = shaped(q, self.heads), shaped(k, self.kv_heads), shaped(v, self.kv_heads)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def rest(self, x, attended):
        batch, tokens, _ = x.shape
        x = x + self.o(attended.transpose(1, 2).reshape(batch, tokens, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)

    def forward(self, x, cos, sin):
        q, k, v = self.split(x, cos, sin)
        return self.rest(x, attend(q, k, v, is_causal=True))


class Llama(nn.Module):
    def __init__(self, shape, device, dtype, positions):
        super().__init__()
        hidden, _, blocks, _, _, head_dim, vocabulary, tied = shape
        self.shape = shape
        self.embedding = nn.Embedding(vocabulary, hidden, device=device, dtype=dtype)
        self.blocks = nn.ModuleList(Block(shape, device, dtype) for _ in range(blocks))
        self.norm = RmsNorm(hidden, device, dtype)
        self.head = nn.Linear(hidden, vocabulary, bias=False, device=device, dtype=dtype)
        if tied:
            self.head.weight = self.embedding.weight
        with torch.no_grad():
            for p in self.parameters():
                if p.dim() > 1:
                    p.normal_(0.0, DEVIATION)
        cos, sin = rotary_tables(positions, head_dim, device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def states(self, ids):
        x = self.embedding(ids)
        cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def forward(self, ids):
        return self.head(self.states(ids))


class Decoder:
    """One token of every sequence over a static cache; ids and the position live on the device."""

    def __init__(self, model, batch, context, steps, device):
        _, _, blocks, _, kv_heads, head_dim, vocabulary, _ = model.shape
        self.model, self.context, self.capacity = model, context, context + steps + 1
        cache = lambda: (torch.randn(blocks, batch, kv_heads, self.capacity, head_dim, device=device) * 0.1).bfloat16()
        self.keys, self.values = cache(), cache()
        self.ids = torch.randint(vocabulary, (batch, 1), device=device)
        self.position = torch.tensor([context], device=device)
        self.places = torch.arange(self.capacity, device=device)

    def step(self):
        model = self.model
        cos, sin = model.cos.index_select(0, self.position), model.sin.index_select(0, self.position)
        mask = (self.places <= self.position)[None, None, None, :]
        x = model.embedding(self.ids)
        for i, block in enumerate(model.blocks):
            q, k, v = block.split(x, cos, sin)
            self.keys[i].index_copy_(2, self.position, k)
            self.values[i].index_copy_(2, self.position, v)
            x = block.rest(x, attend(q, self.keys[i], self.values[i], attn_mask=mask))
        self.ids.copy_(model.head(model.norm(x)).argmax(-1))
        self.position.add_(1)

    def rewind(self):
        self.position.fill_(self.context)


class Bench:
    def __init__(self, args):
        self.args = args
        self.device = torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.began = time.monotonic()
        self.failed = False
        if not self.cuda:
            torch.set_num_threads(1)

    def compiled(self, function):
        # Without a GPU only the way there is tried, not the compiler.
        return torch.compile(function) if self.cuda else torch.compile(function, backend="eager")

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    def free(self):
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def seconds(self, call, calls, reset=None):
        """Seconds of one of `calls` calls, one behind the other: the samples of SAMPLES rounds."""
        samples = []
        for i in range(3 + (3 if self.args.tiny else SAMPLES)):
            if reset:
                reset()
            self.wait()
            begin = time.perf_counter()
            for _ in range(calls):
                call()
            self.wait()
            if i >= 3:
                samples.append((time.perf_counter() - begin) / calls)
        return samples

    def write(self, case, name, samples, **more):
        peer = {"name": name, "version": torch.__version__, "unit": "s", **more}
        if samples is not None:
            ordered = sorted(samples)
            peer.update(seconds=statistics.median(ordered), min=ordered[0], n=len(ordered),
                        p10=ordered[len(ordered) // 10], p90=ordered[(9 * len(ordered)) // 10])
        with open(self.args.json, "a") as out:
            out.write(json.dumps({"case": case, "peer": peer}) + "\n")
        shown = f"{peer['seconds'] * 1e3:.3f} ms" if samples is not None else peer.get("error", "")
        print(f"{case} {name}: {shown}", file=sys.stderr, flush=True)

    def try_case(self, cases, name, measure):
        """measure() gives samples and what else belongs to the record."""
        cases = [cases] if isinstance(cases, str) else cases
        if time.monotonic() - self.began > self.args.minutes * 60:
            return [self.write(case, name, None, error="left out: no time") for case in cases]
        try:
            samples, more = measure()
        except Exception as error:  # a peer that is not there must not take the others with it
            self.failed = True
            samples, more = None, {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        for case in cases:
            self.write(case, name, samples, **more)
        self.free()

    # -- decode ------------------------------------------------------------------------------------------------------
    def decode(self):
        # What the goals are about first, since the time may end.
        plan, steps = [(shape, ((1, 128),)) for shape in ("1B", "135M", "8B")], 64
        plan += [(shape, ((4, 128), (16, 128), (1, 2048), (4, 2048), (16, 2048))) for shape in ("8B", "1B", "135M")]
        if self.args.tiny:
            plan, steps = [("tiny", ((1, 16),)), ("tiny", ((2, 16),))], 4
        for shape, sizes in plan:
            model = None
            for batch, context in sizes:
                cases = [f"decode/{shape}/{form}/b{batch}/ctx{context}" for form in ("bf16", "w8", "w4", "w4+head4")]

                def measure():
                    nonlocal model
                    if model is None:
                        model = Llama(SHAPES[shape], self.device, torch.bfloat16, 4096).eval()
                    return self.decode_steps(model, batch, context, steps)

                self.try_case(cases, "torch-bf16-graph" if self.cuda else "torch-bf16", measure)
            del model
            self.free()

    @torch.inference_mode()
    def decode_steps(self, model, batch, context, steps):
        decoder = Decoder(model, batch, context, steps, self.device)
        call = decoder.step
        if self.cuda:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    decoder.step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            decoder.rewind()
            with torch.cuda.graph(graph):
                decoder.step()
            call = graph.replay
        samples = self.seconds(call, steps, decoder.rewind)
        return samples, {"tokens_per_second": batch / statistics.median(samples)}

    # -- attention ---------------------------------------------------------------------------------------------------
    def attention(self):
        # width, group, query tokens (0: as many as keys), keys, sequences
        cases = [(d, g, 0, t, 1) for d in (64, 128) for g in (1, 4, 8) for t in (512, 2048, 8192)]
        cases += [(d, g, 1, t, b) for d in (64, 128) for g in (1, 4, 8) for t, b in
                  ((256, 1), (2048, 1), (8192, 1), (32768, 1), (2048, 8))]
        if self.args.tiny:
            cases = [(64, 4, 0, 64, 1), (64, 4, 1, 64, 1)]
        for d, group, queries, keys, sequences in cases:
            kind = f"attn_decode/bf16/d{d}" if queries == 1 else f"attn_prefill/d{d}"
            self.try_case(f"{kind}/gqa{group}/t{keys}/b{sequences}", "torch-sdpa-bf16",
                          lambda: self.attention_calls(d, 32 // group, queries or keys, keys, sequences))

    @torch.inference_mode()
    def attention_calls(self, d, kv_heads, queries, keys, sequences):
        normal = lambda heads, tokens: torch.randn(sequences, heads, tokens, d, device=self.device).bfloat16()
        q = normal(32, queries)
        kv_bytes = 4 * sequences * kv_heads * keys * d
        copies = 1 if queries > 1 or self.args.tiny else max(1, math.ceil(180e6 / kv_bytes))
        pairs = [(normal(kv_heads, keys), normal(kv_heads, keys)) for _ in range(copies)]
        turn = 0

        def call():
            nonlocal turn
            k, v = pairs[turn % copies]
            turn += 1
            attend(q, k, v, is_causal=queries > 1)

        operations = 4 * sequences * 32 * d * (queries * (queries + 1) / 2 if queries > 1 else keys)
        seconds = max(kv_bytes / 3e12, operations / 6e14) + 2e-6
        calls = 1 if self.args.tiny else min(500, max(1, math.ceil(2e-3 / seconds)))
        return self.seconds(call, calls), {}

    # -- training ----------------------------------------------------------------------------------------------------
    def train(self):
        cases = [("124M", 1024, 1), ("124M", 1024, 8)]
        if self.args.tiny:
            cases = [("tiny", 32, 2)]
        for shape, context, batch in cases:
            for compiled in (False, True):
                self.try_case(f"train/{shape}/t{context}/b{batch}", "torch-compile" if compiled else "torch-eager",
                              lambda: self.training_steps(shape, None, context, batch, compiled))

    def distill(self):
        cases = [("124M", "355M", 1024, 8)]
        if self.args.tiny:
            cases = [("tiny", "tinyteacher", 32, 2)]
        for student, teacher, context, batch in cases:
            for compiled in (False, True):
                self.try_case(f"distill/{teacher}-{student}/t{context}/b{batch}",
                              "torch-compile" if compiled else "torch-eager",
                              lambda: self.training_steps(student, teacher, context, batch, compiled))

    def training_steps(self, student_shape, teacher_shape, context, batch, compiled):
        student = Llama(SHAPES[student_shape], self.device, torch.float32, context).train()
        teacher = None
        if teacher_shape:
            teacher = Llama(SHAPES[teacher_shape], self.device, torch.bfloat16, context).eval().requires_grad_(False)
        matrices = [p for p in student.parameters() if p.dim() > 1]
        vectors = [p for p in student.parameters() if p.dim() == 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
            lr=1e-5, betas=(0.9, 0.95), eps=1e-8, fused=self.cuda)
        ids = torch.randint(student.shape[6], (batch, context + 1), device=self.device)
        inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

        def loss_of(inputs, targets):
            with torch.autocast(self.device.type, torch.bfloat16):
                logits = student(inputs)
            if teacher is None:
                return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            with torch.no_grad():
                wanted = F.log_softmax(teacher(inputs).float().flatten(0, 1), -1)
            return F.kl_div(F.log_softmax(logits.float().flatten(0, 1), -1), wanted, log_target=True,
                            reduction="batchmean")

        work = self.compiled(loss_of) if compiled else loss_of

        def step():
            work(inputs, targets).backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        more = {}
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        samples = self.seconds(step, 1 if self.args.tiny else 4)
        more["tokens_per_second"] = batch * context / statistics.median(samples)
        if self.cuda:
            more["peak_bytes"] = torch.cuda.max_memory_allocated()
        if teacher is not None:
            more["loss_bytes"] = self.loss_bytes(student, teacher, inputs, compiled)
        return samples, more

    def loss_bytes(self, student, teacher, inputs, compiled):
        """Most memory that heads, KL and their gradients take beside hidden states and weights."""
        if not self.cuda:
            return None
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            own, wanted = student.states(inputs).bfloat16().requires_grad_(True), teacher.states(inputs)

        def loss_of(own, wanted):
            with torch.autocast(self.device.type, torch.bfloat16):
                logits = student.head(own)
            with torch.no_grad():
                target = F.log_softmax(teacher.head(wanted).float().flatten(0, 1), -1)
            return F.kl_div(F.log_softmax(logits.float().flatten(0, 1), -1), target, log_target=True,
                            reduction="batchmean")

        work = self.compiled(loss_of) if compiled else loss_of
        for _ in range(2):  # the first compiles
            own.grad = student.head.weight.grad = None
            student.head.weight.grad = torch.zeros_like(student.head.weight)
            own.grad = torch.zeros_like(own)
            self.wait()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            work(own, wanted).backward()
            self.wait()
        return torch.cuda.max_memory_allocated() - before

    # -- the head and its loss alone -----------------------------------------------------------------------------------
    def linear_kl(self):
        cases = [(50257, 768, 8192), (128256, 4096, 8192)]
        if self.args.tiny:
            cases = [(512, 128, 64)]
        for vocabulary, width, tokens in cases:
            for compiled in (False, True):
                self.try_case(f"linear_kl/{vocabulary}x{width}/t{tokens}",
                              "torch-compile" if compiled else "torch-eager",
                              lambda: self.linear_kl_calls(vocabulary, width, tokens, compiled))

    def linear_kl_calls(self, vocabulary, width, tokens, compiled):
        normal = lambda *shape: torch.randn(*shape, device=self.device).bfloat16()
        head = (normal(vocabulary, width) * DEVIATION).requires_grad_(True)
        own, wanted = normal(tokens, width).requires_grad_(True), normal(tokens, width)

        def loss_of(own, wanted, head):
            with torch.no_grad():
                target = F.log_softmax((wanted @ head.t()).float(), -1)
            return F.kl_div(F.log_softmax((own @ head.t()).float(), -1), target, log_target=True, reduction="batchmean")

        work = self.compiled(loss_of) if compiled else loss_of

        def call():
            own.grad = head.grad = None
            work(own, wanted, head).backward()

        call()
        more = {}
        if self.cuda:
            own.grad = head.grad = None
            self.wait()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            self.wait()
            gradients = 2 * (vocabulary + tokens) * width
            more["loss_bytes"] = torch.cuda.max_memory_allocated() - before - gradients
        return self.seconds(call, 1), more

    # -- GPTQ --------------------------------------------------------------------------------------------------------
    def gptq(self):
        cases = [("1B", 128, 2048), ("8B", 128, 2048)]
        if self.args.tiny:
            cases = [("tiny", 4, 16)]
        for shape, samples, context in cases:
            self.try_case(f"job/gptq/{shape}", "torch-eager-one-layer-scaled",
                          lambda: self.gptq_layer(shape, samples, context))

    @torch.inference_mode()
    def gptq_layer(self, name, samples, context):
        """One block as eager implementations do it: inputs of its matrices into float Hessians, columns one by one in
        blocks of 128, the block again with its rounded weights. Matrices with the same input are one here, and share
        their Hessian. The seconds are those of the block times the number of blocks."""
        shape = SHAPES[name]
        block = Block(shape, self.device, torch.bfloat16).eval()
        for p in block.parameters():
            if p.dim() > 1:
                p.normal_(0.0, DEVIATION)
        cos, sin = rotary_tables(context, shape[5], self.device)
        hidden = [torch.randn(1, context, shape[0], device=self.device).bfloat16() for _ in range(samples)]
        matrices = {m: h for m, h in ((m, torch.zeros(m.in_features, m.in_features, device=self.device))
                                      for m in (block.qkv, block.o, block.gate_up, block.down))}
        phases = {}

        def phase(label, call):
            self.wait()
            begin = time.perf_counter()
            call()
            self.wait()
            phases[label] = phases.get(label, 0.0) + time.perf_counter() - begin

        def gather(module, inputs, _):
            x = inputs[0].flatten(0, 1).float()
            matrices[module].addmm_(x.t(), x, alpha=2.0 / (samples * context))

        def forward():
            for x in hidden:
                block(x, cos, sin)

        # once more first, so that libraries are open
        block(hidden[0], cos, sin)
        hooks = [m.register_forward_hook(gather) for m in matrices]
        phase("forward_and_hessians", forward)
        for hook in hooks:
            hook.remove()
        for matrix, hessian in matrices.items():
            phase("solve", lambda: matrix.weight.copy_(gptq_round(matrix.weight.float(), hessian).bfloat16()))
        phase("forward_again", forward)
        layer = sum(phases.values())
        finite = all(bool(torch.isfinite(m.weight).all()) for m in matrices)
        if not finite:
            raise RuntimeError("rounded weights are not finite")
        return [layer * shape[2]], {"layer_seconds": layer, "layers": shape[2], "phases": phases,
                                    "note": "one layer, times the number of layers"}

    # -- loading -----------------------------------------------------------------------------------------------------
    def load(self):
        shapes = ("tiny",) if self.args.tiny else ("1B", "8B")
        for shape in shapes:
            cases = [f"load/gpu/{shape}/{form}" for form in ("bf16", "w4+head4", "bf16-safetensors")]
            self.try_case(cases, "safetensors-bf16", lambda: self.loads(shape))

    def loads(self, name):
        from safetensors.torch import load_file, save_file
        import safetensors
        folder = pathlib.Path(self.args.folder) / f"torch-load-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            shape = SHAPES[name]
            # One block, written as often as the model has blocks: what is loaded does not depend on the values.
            block = {k: v.clone().cpu() for k, v in Block(shape, self.device, torch.bfloat16).state_dict().items()}
            files, rounds = [], 3 if self.args.tiny else 5
            for i in range(shape[2]):
                files.append(folder / f"model-{i:05}.safetensors")
                save_file(block, files[-1])
            rest = {"embedding": torch.zeros(shape[6], shape[0], dtype=torch.bfloat16)}
            if not shape[7]:
                rest["head"] = torch.zeros(shape[6], shape[0], dtype=torch.bfloat16)
            files.append(folder / "model-rest.safetensors")
            save_file(rest, files[-1])
            size = sum(f.stat().st_size for f in files)
            samples = []
            for _ in range(1 + rounds):
                self.wait()
                begin = time.perf_counter()
                tensors = [load_file(f, device=str(self.device)) for f in files]
                self.wait()
                samples.append(time.perf_counter() - begin)
                del tensors
                self.free()
            return samples[1:], {"bytes": size, "safetensors": safetensors.__version__, "files": len(files)}
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def gptq_round(weight, hessian, group=128, block=128, bits=4, damping=0.01):
    """Frantar et al. (2022), symmetric grids of the current values at each group's start, natural order."""
    rows, columns = weight.shape
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1.0
    weight[:, dead] = 0.0
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    top = 2 ** (bits - 1)
    result = torch.empty_like(weight)
    for begin in range(0, columns, block):
        end = min(begin + block, columns)
        part, factor = weight[:, begin:end].clone(), inverse[begin:end, begin:end]
        errors = torch.empty_like(part)
        for i in range(end - begin):
            if (begin + i) % group == 0:
                scale = weight[:, begin + i:begin + i + group].abs().amax(1).clamp_min(1e-8) / (top - 0.5)
            column = part[:, i]
            rounded = torch.clamp(torch.round(column / scale), -top, top - 1) * scale
            result[:, begin + i] = rounded
            error = (column - rounded) / factor[i, i]
            part[:, i:] -= error[:, None] * factor[i, i:][None]
            errors[:, i] = error
        weight[:, end:] -= errors @ inverse[begin:end, end:]
    return result


FAMILIES = ("decode", "gptq", "train", "distill", "linear_kl", "attention", "load")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="torch_gpu.jsonl", help="file to append to")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--only", default=",".join(FAMILIES), help="families: " + ", ".join(FAMILIES))
    parser.add_argument("--folder", default=".", help="where the files of `load` are written, and removed again (16 GB)")
    parser.add_argument("--minutes", type=float, default=8.0, help="cases that would begin later are left out")
    args = parser.parse_args()
    wanted = args.only.split(",")
    if not set(wanted) <= set(FAMILIES):
        parser.error(f"--only takes {', '.join(FAMILIES)}")
    torch.manual_seed(0)
    bench = Bench(args)
    for family in FAMILIES:
        if family in wanted:
            getattr(bench, family)()
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
