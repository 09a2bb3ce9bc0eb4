"""Language models on a GPU: training, generation, and transformers' Mamba.

**Generation.** A Mamba beside a Transformer of the same size, both with random
weights in bfloat16: a prompt read in one pass, then new tokens one by one, the
likeliest each time. Mamba steps by a captured CUDA graph, as its ``generate``
does. So does the Transformer, with room for its keys and values made
beforehand, and with attention by PyTorch's fused operator or by two matrix
products, whichever is faster at that size; as ``TransformerLM`` itself has
it, with a cache that grows, it is in the record too.

**Training.** One step of AdamW under autocast to bfloat16, as the models are
and by ``torch.compile``.

**transformers.** An unmodified ``MambaForCausalLM``, forward and backward from
ids to the gradients of all weights, and generation, with and without
``official.stand_in()``; each in a process of its own, since transformers
looks for the kernels once, when it is imported.

Nothing is timed before small models agree: the logits of each step and the
tokens generated with one pass of the formulas over all tokens in float64, loss
and gradients of a training step with the formulas in float64, and the same of
transformers' Mamba with and without. Our Mamba gives the same bits in two
runs, but for the embedding's gradient where PyTorch compiles it. ``CHECKS``
says how much may differ.

    python -m benchmarks.language_models --out measured.json    # on the GPU
    python -m benchmarks.language_models --record measured.json # in a checkout
"""

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.selective_scan import gpu_of, off, together, within
from mambaviz.models import (
    RELEASED,
    KVCache,
    MambaConfig,
    MambaLM,
    TransformerLM,
    sampling,
)
from mambaviz.models.positions import turn_pairs, turns
from mambaviz.ops import causal_conv1d, rms_norm
from mambaviz.records.store import replace_text, write_record

REPEATS = 3
SMALL_VOCABULARY = 300  # of the models that are compared
TRAINING_STEPS = 15
NEW_TOKENS = 128
COLUMNS = [
    "what",
    "model",
    "parameters",
    "mode",
    "batch",
    "length",
    "new_tokens",
    "median_ms",
    "least_ms",
    "most_ms",
    "tokens_per_s",
    "peak_memory_mib",
    "relative_error",
]
MODE = COLUMNS.index("mode")
KEY = COLUMNS.index("new_tokens") + 1  # what a row is of: so many columns
# What PyTorch's compiler adds up in whichever order its threads come; without
# the compiler this gradient, too, has the same bits every time.
BY_ATOMICS = {"backbone.embedding.weight"}
# (batch, prompt) of generation; the paper's figure has a prompt of 2048.
PROMPTS = [(1, 2048), (8, 2048), (32, 2048), (64, 2048), (128, 2048)]
PROMPTS += [(8, 512), (8, 8192)]


class RoomyTransformer(nn.Module):
    """A ``TransformerLM`` that steps inside room made beforehand.

    So its step is always the same work on the same memory, and can be a CUDA
    graph. Unlike ``TransformerLM.step`` it attends over all the room, with a
    mask, and takes the sines of RoPE once for all layers, queries and keys.
    Its state is how many tokens are in the room, which is always written to.

    Args:
        model: with rope, causal, one key-value head a head.
        batch: sequences.
        room: tokens that fit.
        by_products: attention as two matrix products, or by PyTorch's
            fused operator.
    """

    constant_state = True

    def __init__(
        self, model: TransformerLM, batch: int, room: int, by_products: bool
    ) -> None:
        super().__init__()
        self.model, self.by_products = model, by_products
        weight = model.lm_head.weight
        attention = model.layers[0].attention
        shape = batch, attention.n_heads, room, attention.d_head
        self.caches = [
            KVCache(weight.new_zeros(shape), weight.new_zeros(shape))
            for _ in model.layers
        ]
        self.places = torch.arange(room, device=weight.device)

    def forward(
        self, ids: Tensor, *, return_state: bool, last_only: bool
    ) -> tuple[Tensor, tuple[Tensor]]:
        """The last logits of a prompt, which fills the room's beginning.

        Both switches are those of ``sampling.Generator``, and always on.
        """
        length = ids.shape[1]

        def attend(q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
            cache.k[:, :, :length] = k
            cache.v[:, :, :length] = v
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        logits = self._through(ids, self.places[None, :length], attend)
        return logits[:, None], (self.places.new_full((1,), length),)

    def step(
        self, ids: Tensor, state: tuple[Tensor], *, in_place: bool = False
    ) -> tuple[Tensor, tuple[Tensor]]:
        """The logits after one token more."""
        (at,) = state
        seen = self.places <= at

        def attend(q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
            cache.k.index_copy_(2, at, k)
            cache.v.index_copy_(2, at, v)
            if not self.by_products:
                mask = seen[None, None, None]
                return F.scaled_dot_product_attention(
                    q, *cache, attn_mask=mask
                )
            scores = q @ cache.k.mT / q.shape[-1] ** 0.5
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            return weights @ cache.v

        logits = self._through(ids[:, None], at[None], attend)
        return logits, (at.add_(1) if in_place else at + 1,)

    def generate(self, ids: Tensor, max_new_tokens: int) -> Tensor:
        """The prompts and the likeliest tokens after them."""
        return sampling.generate(self, ids, max_new_tokens)

    def _through(
        self, ids: Tensor, positions: Tensor, attend: Callable
    ) -> Tensor:
        x = self.model.embedding(ids, positions)
        d_head = self.model.layers[0].attention.d_head
        cos, sin = turns(positions, d_head, x.dtype)
        for layer, cache in zip(self.model.layers, self.caches, strict=True):
            attention, normed = layer.attention, layer.norm(x)
            q, k, v = (
                project(normed).unflatten(-1, (-1, d_head)).transpose(1, 2)
                for project in (
                    attention.q_proj,
                    attention.k_proj,
                    attention.v_proj,
                )
            )
            both = turn_pairs(torch.cat([q, k], 1), cos, sin)
            q, k = both.chunk(2, dim=1)
            y = attend(q, k, v, cache).transpose(1, 2).flatten(2)
            x = x + attention.out_proj(y)
            x = x + layer.mlp(layer.mlp_norm(x))
        return self.model.lm_head(self.model.norm(x[:, -1]))


def as_generated(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """For generation in a low precision; A_log and D keep theirs."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in ("A_log", "D"):
            parameter.data = parameter.data.to(dtype)
    return model.eval().requires_grad_(False)


def mamba(name: str, device: str = "cuda") -> MambaLM:
    """A released size, with its first weights."""
    torch.manual_seed(0)
    with torch.device(device):
        return MambaLM(RELEASED[name])


def transformer(
    d_model: int, n_layers: int, n_heads: int, device: str = "cuda"
) -> TransformerLM:
    """With rope and the vocabulary of the released Mambas."""
    torch.manual_seed(0)
    with torch.device(device):
        return TransformerLM(50280, d_model, n_layers, n_heads, bias=False)


def count(model: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in model.parameters())


def timed(work: Callable, repeats: int = REPEATS) -> tuple[float, ...]:
    """Median, least and most of the wall clock in ms.

    After one try, unless it is timed only once: that is for what takes most
    of a minute.
    """
    if repeats > 1:
        work()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), min(times), max(times)


def measured(work: Callable, tokens: int, repeats: int = REPEATS) -> list:
    """Times, speed and memory; Nones where memory does not suffice."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        times = timed(work, repeats)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return [None] * 5
    peak = torch.cuda.max_memory_allocated() / 2**20
    return [*times, 1e3 * tokens / times[0], peak]


def expect(agree: bool, what: str) -> None:
    """Refuse to time what does not agree.

    Args:
        agree: whether it does.
        what: the reason if it does not.

    Raises:
        RuntimeError: it does not.
    """
    if not agree:
        raise RuntimeError(f"{what}; not timed")


@contextmanager
def without_kernels() -> Iterator[None]:
    """While open, convolution and norm are PyTorch's on a GPU too.

    The scan is what the model's backend says.
    """
    with (
        mock.patch.object(causal_conv1d, "_fits_kernels", return_value=False),
        mock.patch.object(rms_norm, "_fits_kernel", return_value=False),
    ):
        yield


def logits_by_steps(model: nn.Module, prompt: Tensor, given: Tensor) -> Tensor:
    """After a prompt and after each given token: batch 1+given vocab_size.

    As ``generate`` steps: where there is a GPU and the state has a constant
    size, by a graph.
    """
    logits, state = model(prompt, return_state=True, last_only=True)
    step = model.step
    if sampling.can_capture(model, prompt):
        step = sampling.CapturedStep(model)
    found = [logits[:, -1]]
    for ids in given.unbind(1):
        logits, state = step(ids, state)
        found.append(logits.clone())  # the next step may write over them
    return torch.stack(found, 1)


def check_tokens(exact: nn.Module, tokens: Tensor, n: int, what: str) -> None:
    """The last n tokens are the likeliest, each after all before it.

    Args:
        exact: the judge, a small model in float64.
        tokens: prompts and what was generated, (batch, length).
        n: how many were generated.
        what: who generated them.

    Raises:
        RuntimeError: a token is not; or there are so few different ones that
            a model that lost its state would give them too.
    """
    with without_kernels():
        likeliest = exact(tokens)[:, -n - 1 : -1, :SMALL_VOCABULARY].argmax(-1)
    tokens = tokens[:, -n:]
    expect(tokens.equal(likeliest), f"{what}: not the likeliest tokens")
    different = min(len(set(row)) for row in tokens.tolist())
    expect(
        different > n // 4,
        f"{what}: {n} tokens of which {different} are different show little",
    )


@torch.no_grad()
def check_generation(device: str = "cuda") -> None:
    """Small models in float32, token by token: as all tokens in one pass.

    That pass is by formulas, in float64. Of each way to generate, the logits
    after a prompt and after each of some given tokens may be off by twice
    what the same pass in float32 is off by, and by a few roundings. And each
    token that it generates has to be the likeliest after those before.

    Raises:
        RuntimeError: an error is larger, or a token is another one.
    """
    length, n = 17, 24
    for kind in ("Mamba", "Transformer"):
        # Made on a CPU: the same weights and tokens wherever it runs.
        ours, plain = (model.to(device) for model in small_pair(kind, "cpu"))
        for name, weight in ours.named_parameters():
            # So small as they are at first, the likeliest token is the last
            # one again, whatever came before it.
            if name.endswith("proj.weight"):
                weight.mul_(8)
        plain.load_state_dict(ours.state_dict())
        exact = copy.deepcopy(plain).double()
        ids = torch.randint(SMALL_VOCABULARY, (3, length + n)).to(device)
        prompt, given = ids.split([length, n], 1)
        with without_kernels():
            expected = exact(ids)[:, length - 1 :]
            error = off(plain(ids)[:, length - 1 :], expected)
        ways = {kind: ours}
        if kind == "Transformer":
            ways |= {
                f"Transformer in its room, by {way}": RoomyTransformer(
                    ours, 3, length + n, way == "products"
                )
                for way in ("SDPA", "products")
            }
        for what, model in ways.items():
            found = logits_by_steps(model, prompt, given)
            within(2 * error + 2.0**-18, off(found, expected), what)
            if kind == "Mamba":  # which promises it
                again = logits_by_steps(model, prompt, given)
                expect(found.equal(again), f"{what} differs in a second run")
            check_tokens(exact, model.generate(prompt, n), n, what)


def measure_generation(report: Callable) -> None:
    """Mamba and Transformer of 1.3 to 1.4 thousand million parameters."""
    check_generation()
    ids = {
        (batch, length): torch.randint(50277, (batch, length), device="cuda")
        for batch, length in PROMPTS
    }
    model = as_generated(mamba("mamba-1.4b"), torch.bfloat16)
    size = count(model)
    for (batch, length), prompt in ids.items():
        for mode, n in (("prompt", 1), ("generate", NEW_TOKENS)):
            figures = measured(
                lambda prompt=prompt, n=n: model.generate(prompt, n),
                batch * (length if n == 1 else n),
            )
            report("mambaviz", "Mamba", size, mode, batch, length, n, *figures)
    del model
    model = as_generated(transformer(2048, 24, 16), torch.bfloat16)
    size = count(model)
    for (batch, length), prompt in ids.items():

        def in_room(n: int, by_products: bool, prompt: Tensor = prompt):
            batch, length = prompt.shape
            roomy = RoomyTransformer(model, batch, length + n, by_products)
            return roomy.generate(prompt, n)

        figures = measured(lambda f=in_room: f(1, False), batch * length)
        report("mambaviz", "Transformer", size, "prompt", batch, length, 1,
               *figures)  # fmt: skip
        for way, by_products in (("SDPA", False), ("products", True)):
            figures = measured(
                lambda f=in_room, b=by_products: f(NEW_TOKENS, b),
                batch * NEW_TOKENS,
            )
            report(f"mambaviz, graph, {way}", "Transformer", size, "generate",
                   batch, length, NEW_TOKENS, *figures)  # fmt: skip
        if batch <= 32:
            figures = measured(
                lambda prompt=prompt: model.generate(prompt, NEW_TOKENS),
                batch * NEW_TOKENS,
            )
            report("mambaviz, growing cache", "Transformer", size, "generate",
                   batch, length, NEW_TOKENS, *figures)  # fmt: skip


def loss_of(model: nn.Module, ids: Tensor, lower: bool) -> Tensor:
    """Of the next token; under autocast to bfloat16 if ``lower``."""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=lower):
        logits = model(ids)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def training_step(model: nn.Module, ids: Tensor) -> Callable:
    """One step of AdamW under autocast, as a function."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step() -> None:
        loss_of(model, ids, lower=True).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def gradients(model: nn.Module, ids: Tensor, lower: bool) -> dict[str, Tensor]:
    """The loss and the gradients of all parameters, in float64."""
    model.zero_grad()
    loss = loss_of(model, ids, lower)
    loss.backward()
    found = {name: p.grad.double() for name, p in model.named_parameters()}
    return {"the loss": loss.detach().double(), **found}


def compare_gradients(ours: nn.Module, plain: nn.Module, ids: Tensor) -> float:
    """The largest relative error of ours under autocast, as it is timed.

    Loss and gradients may be off by twice what the plain formulas are off
    by in the same precision, both against these in float64. To that comes
    what luck may do where the formulas happen to be closer: in float32 a few
    roundings, under autocast one of bfloat16.

    Args:
        ours: the model as it is timed.
        plain: the same with the formulas as they stand; here it runs
            ``without_kernels``.
        ids: a few tokens.

    Raises:
        RuntimeError: an error is larger.
    """
    plain.load_state_dict(ours.state_dict())
    with without_kernels():
        exact = gradients(copy.deepcopy(plain).double(), ids, lower=False)
    for lower, luck in ((False, 2.0**-18), (True, 2.0**-8)):
        found = gradients(ours, ids, lower)
        with without_kernels():
            expected = gradients(plain, ids, lower)
        errors = {}
        for name, value in exact.items():
            scale = value.norm().clamp_min(1e-30)
            errors[name], error = (
                ((of[name] - value).norm() / scale).item()
                for of in (found, expected)
            )
            expect(
                errors[name] <= 2 * error + luck,
                f"{name} {'under autocast' if lower else 'in float32'}, off "
                f"by {errors[name]:.1e} and plainly by {error:.1e}",
            )
    return max(errors.values())


def small_pair(kind: str, device: str) -> tuple[nn.Module, nn.Module]:
    """A small model as it is timed, and one that computes by formulas."""

    def make(backend: str) -> nn.Module:
        if kind == "Mamba":
            config = MambaConfig(
                d_model=64, n_layers=2, vocab_size=SMALL_VOCABULARY
            )
            return MambaLM(config, backend=backend)
        # Heads of 64, as the timed one has. Of narrower ones, PyTorch 2.11
        # compiles an attention that reads what is not there.
        return TransformerLM(
            SMALL_VOCABULARY, 128, 2, 2, bias=False, backend=backend
        )

    ours, formulas = {
        "Mamba": ("auto", "reference"),
        "Transformer": ("torch", "explicit"),
    }[kind]
    torch.manual_seed(2)
    with torch.device(device):
        return make(ours), make(formulas)


def check_training(kind: str, compiled: bool, device: str = "cuda") -> float:
    """Small models: how far loss and gradients are off at most.

    Args:
        kind: "Mamba" or "Transformer".
        compiled: whether ours goes through ``torch.compile``.
        device: where.

    Raises:
        RuntimeError: by more than the precision explains.
    """
    ours, plain = small_pair(kind, device)
    if compiled:
        ours.compile(dynamic=False)
    # Longer than a tile and a chunk, and no multiple of them.
    ids = torch.randint(SMALL_VOCABULARY, (3, 150), device=device)
    error = compare_gradients(ours, plain, ids)
    if kind == "Mamba":  # which promises it; PyTorch's attention does not
        first, again = (gradients(ours, ids, lower=True) for _ in range(2))
        judged = first.keys() - (BY_ATOMICS if compiled else ())
        differ = sorted(n for n in judged if not first[n].equal(again[n]))
        expect(
            not differ, f"in a second run Mamba differs: {', '.join(differ)}"
        )
    return error


def measure_training(report: Callable) -> None:
    """Some 360 million parameters each, 8 sequences of 2048 tokens."""
    batch, length = 8, 2048
    ids = torch.randint(50277, (batch, length), device="cuda")
    for name, make in (
        ("Mamba", lambda: mamba("mamba-370m")),
        ("Transformer", lambda: transformer(1024, 24, 16)),
    ):
        model = make()
        for what in ("mambaviz", "mambaviz, compiled"):
            error = check_training(name, what != "mambaviz")
            if what != "mambaviz":
                model.compile(dynamic=False)
            figures = measured(
                training_step(model, ids), batch * length, TRAINING_STEPS
            )
            report(what, name, count(model), "training step", batch, length, 0,
                   *figures, error)  # fmt: skip
        del model


# What is done with transformers' Mamba, and by how much a small one may be off
# beyond twice the error of transformers' own, which in float32 is the judge:
# there roundings make less than 1e-6, and a state that is lost 3e-2.
BOTH_FLOAT32 = "forward + backward, float32"
BOTH_AUTOCAST = "forward + backward, bfloat16 autocast"
ALLOWED = {BOTH_FLOAT32: 1e-3, BOTH_AUTOCAST: 2.0**-8, "generate": 1e-3}


def forward_backward(model: nn.Module, ids: Tensor, mode: str) -> Tensor:
    """The loss of transformers' Mamba; its gradients are in the weights."""
    lower = mode == BOTH_AUTOCAST
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=lower):
        loss = model(ids, labels=ids).loss
    loss.backward()
    return loss.detach()


def small_transformers(device: str = "cuda") -> dict[str, list[Tensor]]:
    """What a small Mamba of transformers gives in each mode, in float32.

    Loss and gradients; and the logits of the tokens that it generates.
    """
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": SMALL_VOCABULARY,
    }
    model = MambaForCausalLM(MambaConfig(**sizes)).to(device)
    ids = torch.randint(SMALL_VOCABULARY, (2, 256), device=device)
    found = {}
    for mode in (BOTH_FLOAT32, BOTH_AUTOCAST):
        model.zero_grad()
        loss = forward_backward(model, ids, mode)
        found[mode] = [loss, *(p.grad for p in model.parameters())]
    generated = model.eval().generate(
        ids[:, :17],
        do_sample=False,
        max_new_tokens=24,
        min_new_tokens=24,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return found | {"generate": list(generated.logits)}


def compare_transformers(
    ours: dict[str, list[Tensor]], plain: dict[str, list[Tensor]]
) -> dict[str, float]:
    """The largest relative error of each mode, as ALLOWED allows it.

    Args:
        ours: what ``small_transformers`` gives with ``stand_in()``.
        plain: the same without it.

    Raises:
        RuntimeError: an error is larger.
    """
    errors = {}
    for mode, allowed in ALLOWED.items():
        exact = plain[BOTH_FLOAT32 if mode == BOTH_AUTOCAST else mode]
        errors[mode] = max(
            within(
                2 * off(theirs, true) + allowed,
                off(found, true),
                f"transformers' Mamba with stand_in(), {mode},",
            )
            for found, theirs, true in zip(
                ours[mode], plain[mode], exact, strict=True
            )
        )
    return errors


def measure_transformers(
    stands_in: bool, folder: Path, only_check: bool
) -> list[list]:
    """An unmodified MambaForCausalLM; in a process of its own.

    Args:
        stands_in: whether it runs on our functions.
        folder: for what a small model gives.
        only_check: write that, and time nothing.
    """
    if stands_in:
        from mambaviz.ops.selective_scan import official

        official.stand_in()
    from transformers import MambaConfig, MambaForCausalLM

    what = "transformers" + (" with stand_in()" if stands_in else "")
    rows = []

    def report(*row: object) -> None:
        rows.append([what, *row])
        print(*rows[-1], flush=True)

    # Also a first try, for what is timed only once.
    found = small_transformers()
    if only_check:
        torch.save(found, folder / f"{stands_in}.pt")
        return []
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = MambaForCausalLM(MambaConfig(vocab_size=50280))
    size = count(model)
    for batch, length in ((1, 512), (1, 2048), (4, 2048)):
        if not stands_in and batch > 1:
            continue
        ids = torch.randint(50277, (batch, length), device="cuda")
        for mode in (BOTH_FLOAT32, BOTH_AUTOCAST):

            def both(ids: Tensor = ids, mode: str = mode) -> None:
                forward_backward(model, ids, mode)
                model.zero_grad()

            figures = measured(
                both, batch * length, REPEATS if stands_in else 1
            )
            report("Mamba", size, mode, batch, length, 0, *figures)
    model = model.bfloat16().eval()
    for batch, length in ((1, 2048), (8, 2048)):
        if not stands_in and batch > 1:
            continue
        ids = torch.randint(50277, (batch, length), device="cuda")
        options = {
            "do_sample": False,
            "max_new_tokens": NEW_TOKENS,
            "min_new_tokens": NEW_TOKENS,
        }
        figures = measured(
            lambda ids=ids, o=options: model.generate(ids, **o),
            batch * NEW_TOKENS,
            REPEATS if stands_in else 1,
        )
        report("Mamba", size, "generate", batch, length, NEW_TOKENS, *figures)
    return rows


def measure_small_generation(report: Callable) -> None:
    """Ours of the size at which transformers' is measured."""
    check_generation()
    model = as_generated(mamba("mamba-130m"), torch.bfloat16)
    for batch, length in ((1, 2048), (8, 2048)):
        ids = torch.randint(50277, (batch, length), device="cuda")
        figures = measured(
            lambda ids=ids: model.generate(ids, NEW_TOKENS),
            batch * NEW_TOKENS,
        )
        report("mambaviz", "Mamba", count(model), "generate", batch, length,
               NEW_TOKENS, *figures)  # fmt: skip


def measure_both_transformers(report: Callable) -> None:
    """transformers' Mamba without and with ``stand_in``, once they agree."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def child(flag: str, *more: str) -> list[list]:
            command = [sys.executable, "-m", __spec__.name, *more]
            command += ["--transformers", flag, "--out", f"{name}/rows.json"]
            subprocess.run(command, check=True)
            return json.loads((folder / "rows.json").read_text())

        for flag in ("plain", "ours"):
            child(flag, "--only-check")
        plain, ours = (
            torch.load(folder / f"{f}.pt", weights_only=True)
            for f in (False, True)
        )
        errors = compare_transformers(ours, plain)
        print("largest relative errors of a small model:", errors)
        # That of generation is in float32, and what is timed is not.
        del errors["generate"]
        for row in child("ours"):
            report(*row, errors.get(row[MODE]))
        for row in child("plain"):
            report(*row)


PARTS = {
    "generation": measure_generation,
    "training": measure_training,
    "small": measure_small_generation,
    "transformers": measure_both_transformers,
}


# What had to agree before a part was timed.
GENERATION = (
    "of small models in float32 the logits of each step, against one pass of "
    "plain formulas in float64: at most twice the error of that pass in "
    "float32; each generated token the likeliest of that pass; Mamba's "
    "logits in two runs with the same bits"
)
CHECKS = {
    "generation": GENERATION,
    "training": "of small models loss and gradients of plain formulas in "
    "float64: at most twice the error of the formulas in the same precision, "
    "Mamba's in two runs with the same bits, but for the embedding's "
    "gradient where torch.compile adds it up",
    "small": GENERATION,
    "transformers": "of a small model transformers' own PyTorch in float32: "
    "loss, gradients and the logits of generation to a relative "
    f"{ALLOWED[BOTH_FLOAT32]}; loss and gradients under autocast to at most "
    "twice its own error there",
}


def filled(row: Sequence) -> list:
    """A row with None in the columns that it says nothing of."""
    return [*row, *[None] * (len(COLUMNS) - len(row))]


def measure(parts: list[str], out: Path) -> None:
    """Write all rows, part by part, and what they were measured on."""
    import transformers
    import triton

    found = {
        "device": torch.cuda.get_device_name(),
        "software": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "transformers": transformers.__version__,
        },
        "parts": parts,
        "cut_short": parts,
        "rows": [],
    }

    def report(*row: object) -> None:
        found["rows"].append(filled(row))
        replace_text(out, json.dumps(found))  # a run may end at any time
        print(*(f"{v:.1f}" if isinstance(v, float) else v for v in row),
              flush=True)  # fmt: skip

    for part in parts:
        PARTS[part](report)
        torch.cuda.empty_cache()
        found["cut_short"] = found["cut_short"][1:]
        replace_text(out, json.dumps(found))


def main() -> None:
    """Measure, record, or both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="where to write the figures")
    parser.add_argument(
        "--record", type=Path, nargs="+", help="figures to be recorded"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS)
    )
    parser.add_argument("--transformers", choices=["plain", "ours"])
    parser.add_argument("--only-check", action="store_true")
    options = parser.parse_args()
    if options.out is None and options.record is None:
        parser.error("give --out FILE, --record FILE, or both")
    if options.out is not None:
        if not torch.cuda.is_available():
            sys.exit("this measures on a GPU, and torch finds none")
        if options.transformers:
            rows = measure_transformers(
                options.transformers == "ours",
                options.out.parent,
                options.only_check,
            )
            replace_text(options.out, json.dumps(rows))
        else:
            measure(options.parts, options.out)
    if options.record is not None:
        found = together(
            [json.loads(f.read_text()) for f in options.record], PARTS, KEY
        )
        print(write_record(
            f"language_models_{gpu_of(found['device'])}",
            command="python -m benchmarks.language_models --parts "
            f"{' '.join(found['parts'])} --out measured.json "
            "--record measured.json",
            columns=COLUMNS,
            rows=found["rows"],
            repeats=REPEATS,
            statistic="median, least and most of the wall clock, after one "
            f"try; {TRAINING_STEPS} training steps; once what transformers "
            "alone does",
            checked_against="; ".join(
                dict.fromkeys(CHECKS[part] for part in found["parts"])
            ),
            max_abs_error=None,
            seed=0,
            config={"weights": "random", "precision": "bfloat16 weights for "
                    "generation, A_log and D in float32",
                    "runs": found["runs"], "cut_short": found["cut_short"]},
            device=found["device"],
            software=found["software"],
        ))  # fmt: skip


if __name__ == "__main__":
    main()
