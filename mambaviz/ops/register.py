"""A function of ours as an operator of PyTorch, and where it need not be one.

``torch.compile``, autograd, ``torch.func`` and autocast each look at a call in
their own way. ``register_operator`` tells them all; ``unseen`` says where none
of them looks, and a kernel can start at once. ``load`` looks for the kernels.
"""

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

# What kernels in Triton take.
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
PLAIN = {Tensor, torch.nn.Parameter, type(None), bool}
# Inside torch.autograd's own vmap, which torch.func does not know of.
VMAP = torch._C._dispatch_key_parse("VmapMode")


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


def expect_writable(state: Tensor) -> None:
    """Refuse a state of which two elements may be in one place.

    In one that can be written to, each axis steps over all that the axes of
    shorter steps reach.
    """
    if torch.compiler.is_compiling():
        return  # Steps may be symbols there, which have no order.
    reached = 0
    for step, size in sorted(zip(state.stride(), state.shape, strict=True)):
        if size > 1:
            if step <= reached:
                raise RuntimeError(
                    "in place, each element of the state needs a place of "
                    f"its own; got shape {tuple(state.shape)} with strides "
                    f"{state.stride()}"
                )
            reached += step * (size - 1)


def _watched(arguments: Sequence) -> bool:
    """Whether a transform, a mode, a tracer or a tensor's kind takes part."""
    return (
        not PLAIN.issuperset(map(type, arguments))
        or arguments[0].is_meta
        or torch._C._are_functorch_transforms_active()
        or torch._C._dispatch_tls_is_dispatch_key_included(VMAP)
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


def load(into: dict[str, Callable | None], package: str, *names: str) -> bool:
    """Load functions of ``package.fused``, once; False without Triton.

    Args:
        into: where they are put by their names, or None for each.
        package: the operation.
        names: the functions.
    """
    if not into:
        try:
            module = importlib.import_module(f"{package}.fused")
        except (ImportError, OSError):
            into.update(dict.fromkeys(names))
        else:
            into.update({name: getattr(module, name) for name in names})
    return None not in into.values()
