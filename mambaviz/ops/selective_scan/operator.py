"""A rung with its own backward pass as an operator of PyTorch.

A rung (``chunked``, ``cpu``, ``fused``) is a module with four functions:
``refusal``, ``checkpoint_shape``, ``forward`` and ``backward``. Here they
become two operators, one for each direction, that autograd knows how to
connect and that ``torch.compile`` calls without looking inside.
"""

import math
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mambaviz.ops.selective_scan.reference import accumulation_dtype

ARGUMENTS = (
    "Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? z, Tensor? delta_bias, Tensor? initial_state, Tensor? reset, "
    "bool delta_softplus"
)
N_GRADIENTS = 9  # reset has none
PLAIN = {Tensor, torch.nn.Parameter, type(None), bool}
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


def register_operator(
    name: str,
    schema: str,
    kernel: Callable,
    fake: Callable,
    setup: Callable,
    differentiate: Callable,
    refuse: Callable,
) -> Callable:
    """Register an operator with its derivative, for the compiler and eager.

    The formula of an operator is what ``torch.compile`` takes. Outside, it
    would silently lose a tangent of forward mode, and ``torch.func`` refuses
    it; there an autograd.Function stands around the operator.
    """
    kernel = never_autocast(kernel)
    # Not torch.library.custom_op, whose first call imports the compiler.
    torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(name, "CompositeExplicitAutograd", _dense(kernel))
    torch.library.register_fake(name, fake)
    torch.library.register_autograd(name, differentiate, setup_context=setup)
    namespace, _, short = name.partition("::")
    registered = getattr(getattr(torch.ops, namespace), short).default

    def operator(*arguments):
        # Through PyTorch's dispatcher, which takes a tenth of the time of a
        # small scan, only where somebody stands there.
        here = registered if _watched(arguments) else kernel
        return here(*arguments)

    def forward(ctx, *arguments):
        output = operator(*arguments)
        setup(ctx, arguments, output)
        return output

    def forward_alone(*arguments):
        return registered(*arguments)

    shared = {"backward": differentiate, "jvp": refuse}
    function = _function(short, forward=forward, **shared)
    # torch.func wants the two parts apart, which takes a fifth of the time of
    # a small scan.
    transformed = _function(
        short, forward=forward_alone, setup_context=setup, **shared
    )
    transformed.generate_vmap_rule = True

    def call(*arguments):
        if torch.compiler.is_compiling():
            return registered(*arguments)
        if torch._C._are_functorch_transforms_active():
            return transformed.apply(*arguments)
        if not differentiable(arguments) and forward_ad._current_level < 0:
            return operator(*arguments)
        return function.apply(*arguments)

    return call


def differentiable(arguments: Sequence) -> bool:
    """Whether autograd follows one of the arguments."""
    return torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in arguments
    )


def unseen(arguments: Sequence) -> bool:
    """Whether a kernel can start without an operator around it.

    That is where there is no gradient, no compiler, and nobody watches.
    """
    return not (
        torch.compiler.is_compiling()
        or differentiable(arguments)
        or forward_ad._current_level >= 0
        or _watched(arguments)
    )


def _watched(arguments: Sequence) -> bool:
    """Whether a transform, a mode, a tracer or a tensor's kind takes part."""
    return (
        not PLAIN.issuperset(map(type, arguments))
        or arguments[0].is_meta
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def _function(name: str, **methods: Callable) -> type[torch.autograd.Function]:
    methods = {name: staticmethod(method) for name, method in methods.items()}
    return type(name, (torch.autograd.Function,), methods)


def never_autocast(function: Callable) -> Callable:
    """Inside autocast as outside: with the inputs as they come."""

    def plain(*arguments):
        if torch._C._is_any_autocast_enabled():
            device = arguments[0].device.type
            if _has_autocast(device):
                with torch.autocast(device, enabled=False):
                    return function(*arguments)
        return function(*arguments)

    return plain


def constant_to_the_compiler(function: Callable) -> Callable:
    """``torch.compile`` calls it once and does not look into its imports.

    As ``torch.compiler.assume_constant_result`` does, which would import the
    whole compiler, and Triton with it.
    """
    function._dynamo_marked_constant = True
    return function


@constant_to_the_compiler
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def _dense(function: Callable) -> Callable:
    """What an operator returns: tensors only, an empty one for None.

    They are contiguous, as the fake ones are: compiled code counts on it.
    """

    def dense(*arguments):
        found = function(*arguments)
        if isinstance(found, Tensor):
            return found.contiguous()
        return tuple(
            arguments[0].new_empty(0) if t is None else t.contiguous()
            for t in found
        )

    return dense
