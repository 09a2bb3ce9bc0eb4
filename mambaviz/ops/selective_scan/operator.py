"""A rung with its own backward pass as an operator of PyTorch.

A rung (``chunked``, ``cpu``, ``fused``) is a module with four functions:
``refusal``, ``checkpoint_shape``, ``forward`` and ``backward``. Here they
become two operators, one for each direction, that autograd knows how to
connect and that ``torch.compile`` calls without looking inside.
"""

import math
from collections.abc import Callable
from types import ModuleType

import torch

from mambaviz.ops.register import differentiable, register_operator
from mambaviz.ops.selective_scan.reference import accumulation_dtype

ARGUMENTS = (
    "Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? z, Tensor? delta_bias, Tensor? initial_state, Tensor? reset, "
    "bool delta_softplus"
)
N_GRADIENTS = 9  # reset has none
FORWARD = f"({ARGUMENTS}, bool keep) -> (Tensor, Tensor, Tensor)"
GRADIENTS = ", ".join(["Tensor"] * N_GRADIENTS)
BACKWARD = (
    "(Tensor grad_y, Tensor grad_last_state, Tensor checkpoints, "
    f"{ARGUMENTS}) -> ({GRADIENTS})"
)


def as_operator(name: str, rung: ModuleType) -> Callable[..., tuple]:
    """Register ``mambaviz::selective_scan_<name>`` and its backward pass.

    Args:
        name: the backend.
        rung: the module with the four functions.

    Returns:
        A function of the door's ten tensors and ``delta_softplus`` that
        returns y and the last state.
    """
    qualified = f"mambaviz::selective_scan_{name}"

    def fake_forward(x, delta, A, B, C, *others):
        keep = others[-1]
        batch, length, d_inner = x.shape
        dtype = accumulation_dtype(x, delta, A)
        dtype = dtype.to_complex() if A.is_complex() else dtype
        groups = math.lcm(*(w.shape[2] for w in (B, C) if w.ndim == 4))
        shape = rung.checkpoint_shape(
            batch, length, d_inner, A.shape[1], groups
        )
        return (
            x.new_empty(x.shape),
            x.new_empty((batch, *A.shape), dtype=dtype),
            x.new_empty(shape if keep else (0,), dtype=dtype),
        )

    def fake_backward(grad_y, grad_last_state, checkpoints, *inputs):
        return tuple(
            grad_y.new_empty(0) if t is None else t.new_empty(t.shape)
            for t in inputs[:N_GRADIENTS]
        )

    def remember(ctx, inputs, output):
        *tensors, ctx.delta_softplus, ctx.kept = inputs
        *_, checkpoints = output
        ctx.save_for_backward(*tensors, checkpoints)
        ctx.set_materialize_grads(False)

    def differentiate(ctx, grad_y, grad_last_state, _):
        *tensors, checkpoints = ctx.saved_tensors
        x, A = tensors[0], tensors[2]
        if grad_y is None:
            grad_y = torch.zeros_like(x)
        if grad_last_state is None:
            # In the precision of states, which checkpoints are.
            grad_last_state = checkpoints.new_zeros((x.shape[0], *A.shape))
        if not ctx.kept:
            *_, checkpoints = forward(*tensors, ctx.delta_softplus, True)
        gradients = backward(
            grad_y, grad_last_state, checkpoints, *tensors, ctx.delta_softplus
        )
        of_tensors = (
            None if tensor is None else gradient
            for tensor, gradient in zip(tensors, gradients, strict=False)
        )
        return *of_tensors, None, None, None  # reset and the two flags

    def refuse(ctx, *_):
        raise NotImplementedError(
            f'backend "{name}" has a first derivative only, in reverse mode; '
            'backend "reference" has all'
        )

    backward = register_operator(
        f"{qualified}_backward",
        BACKWARD,
        rung.backward,
        fake_backward,
        lambda ctx, inputs, output: None,
        refuse,
        refuse,
    )
    forward = register_operator(
        qualified,
        FORWARD,
        rung.forward,
        fake_forward,
        remember,
        differentiate,
        refuse,
    )

    def run(*arguments):
        y, last_state, _ = forward(*arguments, differentiable(arguments))
        return y, last_state

    return run
