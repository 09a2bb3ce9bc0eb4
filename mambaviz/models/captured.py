"""A model's step as a CUDA graph: one launch in the place of hundreds.

To generate a token, each layer starts a dozen small kernels; from Python, that
takes longer than the kernels do. A CUDA graph records them once and starts
them all together. It repeats the same work on the same memory, so it fits a
model whose state has a constant size: a Mamba or an RNN, not a Transformer,
whose cache grows. A model that says so by ``constant_state`` writes its new
state over the old one; any other's is copied there.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class CapturedStep:
    """``model.step``, captured at the first call and replayed from then on.

    What it returns is overwritten by the next call: copy what is to stay. The
    graph reads the weights where they were when it was captured; a model that
    is moved, or whose weights are replaced, needs a new one.

    Args:
        model: in eval mode; its ``step`` takes ids and a state, if it has a
            ``constant_state`` also ``in_place``, and returns logits and a
            state of the same shape.

    Raises:
        ValueError: at a call: ids that are not on a GPU, or not as many as
            at the first one.
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
            _each(state, self._state, lambda new, old: old.copy_(new))
        self._ids.copy_(ids)
        self._graph.replay()
        return self._logits, self._state

    def _capture(self, ids: Tensor, state: Any) -> None:
        self._ids = ids.clone()
        self._state = _each(state, state, lambda s, _: s.clone())
        options = {}
        if getattr(self.model, "constant_state", False):
            options["in_place"] = True
        with torch.cuda.device(ids.device):
            # Once without: Triton compiles, cuBLAS takes its workspace. What
            # that makes of the state is written over before the first replay.
            # The graph's own default is a stream of the GPU that first had
            # one, which need not be this.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.model.step(self._ids, self._state, **options)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                self._logits, after = self.model.step(
                    self._ids, self._state, **options
                )
                _each(
                    after,
                    self._state,
                    lambda new, old: old if new is old else old.copy_(new),
                )
        self._graph = graph


def can_capture(model: nn.Module, ids: Tensor) -> bool:
    """Whether a graph gives what ``model.step`` gives.

    A hook is Python, which a replay does not call.
    """
    return (
        ids.is_cuda
        and getattr(model, "constant_state", False)
        and not torch.cuda.is_current_stream_capturing()
        and not any(
            m._forward_hooks or m._forward_pre_hooks for m in model.modules()
        )
    )


def _each(one: Any, other: Any, function: Callable) -> Any:
    """A tree of tuples of what ``function`` makes of each pair of tensors."""
    if isinstance(one, Tensor):
        return function(one, other)
    parts = [_each(a, b, function) for a, b in zip(one, other, strict=True)]
    return type(one)(*parts) if hasattr(one, "_fields") else tuple(parts)
