"""A model's step as a CUDA graph: one launch in the place of hundreds.

To generate a token, each layer starts a dozen small kernels; from Python, that
takes longer than the kernels do. A CUDA graph records them once and starts
them all together. It repeats the same work on the same memory, so it fits a
model whose state has a constant size: a Mamba or an RNN, not a Transformer,
whose cache grows. A model that says so by ``constant_state`` writes its new
state over the old one; any other's is copied there.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_forward_hooks,
    _global_forward_pre_hooks,
)


class CapturedStep:
    """``model.step``, captured at the first call and replayed from then on.

    What it returns is overwritten by the next call: copy what is to stay. The
    graph reads the weights where they were when it was captured; a model that
    is moved, or whose weights are replaced, needs a new one. It casts as
    autocast had it at the first call, also where a later one is outside.

    Args:
        model: in eval mode; its ``step`` takes ids and a state, if it has a
            ``constant_state`` also ``in_place``, and returns logits and a
            state of the same shape.

    Raises:
        ValueError: at a call: ids that are not on a GPU, or not as many as
            at the first one; a state of other shapes than there, or whose
            shapes a step changes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._graph: torch.cuda.CUDAGraph | None = None

    @torch.no_grad()
    def __call__(
        self, ids: Int[Tensor, " batch"], state: Any
    ) -> tuple[Float[Tensor, "batch vocab_size"], Any]:
        """One token more.

        Args:
            ids: the tokens.
            state: where to go on from. The one that the last call returned
                is where it already is; another one is copied.
        """
        if not ids.is_cuda:
            raise ValueError(
                f"a CUDA graph needs a GPU; got ids on {ids.device}"
            )
        if self._graph is None:
            self._capture(ids, state)
        if ids.shape != self._ids.shape:
            raise ValueError(
                f"captured for ids of shape {tuple(self._ids.shape)}; got "
                f"{tuple(ids.shape)}"
            )
        if state is not self._state:
            overwrite(self._state, state)
        self._ids.copy_(ids)
        self._graph.replay()
        return self._logits, self._state

    def _capture(self, ids: Tensor, state: Any) -> None:
        options = {}
        if getattr(self.model, "constant_state", False):
            options["in_place"] = True

        def step() -> Tensor:
            logits, after = self.model.step(self._ids, self._state, **options)
            overwrite(self._state, after)
            return logits

        with torch.cuda.device(ids.device), lasting():
            self._ids = ids.clone()
            self._state = _each(state, state, lambda s, _: s.clone())
            # Once without: Triton compiles, cuBLAS takes its workspace. What
            # that makes of the state is written over before the first replay.
            stream = _stream(ids.device)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Another thread may take memory meanwhile, as that of a
            # DataLoader which pins it; by default the capture would fail.
            with torch.cuda.graph(
                graph, stream=stream, capture_error_mode="thread_local"
            ):
                self._logits = step()
        self._graph = graph


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Where graphs are captured: one of each GPU, as cuBLAS keeps its room.

    PyTorch's own is on the GPU that first had one, which need not be this.
    """
    return torch.cuda.Stream(device)


@contextmanager
def lasting() -> Iterator[None]:
    """While open, what is captured or made stays usable in other modes.

    A cast of a weight in autocast's cache is freed when autocast ends, so a
    graph must not read it: here each use casts anew. A tensor made in
    inference mode cannot be written to outside it.
    """
    autocast = torch.is_autocast_enabled("cuda")
    with (
        torch.inference_mode(False),
        torch.no_grad(),  # which leaving inference mode had ended
        torch.autocast("cuda", enabled=autocast, cache_enabled=False),
    ):
        yield


def can_capture(model: nn.Module, ids: Tensor) -> bool:
    """Whether a graph gives what ``model.step`` gives."""
    return (
        ids.is_cuda
        and getattr(model, "constant_state", False)
        and not torch.cuda.is_current_stream_capturing()
        and not has_hooks(model)
    )


def has_hooks(model: nn.Module) -> bool:
    """Whether a forward calls a hook: Python, which a replay would not."""
    return bool(_global_forward_hooks or _global_forward_pre_hooks) or any(
        m._forward_hooks or m._forward_pre_hooks for m in model.modules()
    )


def overwrite(held: Any, state: Any) -> None:
    """Write a state over one of the same shapes; the same tensors may stay.

    A part may be what another part was, as in a delay line, so each is copied
    before any is written over.
    """

    def own(old: Tensor, new: Tensor) -> Tensor:
        if new.shape != old.shape:  # which copy_ might spread over it
            raise ValueError(
                "the parts of a state must keep their shapes: "
                f"{tuple(old.shape)}; got {tuple(new.shape)}"
            )
        return new if new is old else new.clone()

    _each(
        held,
        _each(held, state, own),
        lambda old, new: old if new is old else old.copy_(new),
    )


def _each(one: Any, other: Any, function: Callable) -> Any:
    """A tree of tuples of what ``function`` makes of each pair of tensors."""
    if isinstance(one, Tensor):
        return function(one, other)
    parts = [_each(a, b, function) for a, b in zip(one, other, strict=True)]
    return type(one)(*parts) if hasattr(one, "_fields") else tuple(parts)
