"""What every model refuses, in the same words."""

import math

import pytest
import torch

from mambaviz.models import (
    LSSL,
    RNNLM,
    S6,
    MambaBlock,
    MambaConfig,
    MambaLM,
    MultiHeadAttention,
    TransformerLM,
)

pytestmark = pytest.mark.usefixtures("outside_tests")

LANGUAGE_MODELS = {
    "MambaLM": lambda: MambaLM(MambaConfig(4, 1, 5)),
    "RNNLM": lambda: RNNLM(5, 4),
    "TransformerLM": lambda: TransformerLM(5, 4, 1, 2),
}
LAYERS = {
    "S6": lambda: S6(4),
    "MambaBlock": lambda: MambaBlock(4),
    "MultiHeadAttention": lambda: MultiHeadAttention(4, 2),
}


@pytest.mark.parametrize("make", LANGUAGE_MODELS.values(), ids=LANGUAGE_MODELS)
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.int16, torch.uint8, torch.bool],
    ids=str,
)
def test_ids_are_integers_that_an_embedding_takes(make, dtype):
    model, ids = make(), torch.ones(1, 2).to(dtype)
    words = rf"ids must be torch.int32 or torch.int64; got {dtype}"
    state = model.initial_state(1)
    for call in (
        lambda: model(ids),
        lambda: model.step(ids[:, 0], state),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    for kind in (torch.int32, torch.int64):
        assert model(ids.to(kind)).shape[1] == 2


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_an_input_of_another_shape_is_named(make):
    layer = make()
    wanted = r"x must have shape \(batch, length, 4\), length > 0; got "
    for shape in ((2, 3, 7), (3, 4), (2, 0, 4)):
        with pytest.raises(ValueError, match=wanted + rf"\({shape[0]}, "):
            layer(torch.ones(shape))
    for shape in ((2, 7), (2, 1, 4)):
        with pytest.raises(ValueError, match=r"shape \(batch, 4\); got \(2, "):
            layer.step(torch.ones(shape), layer.initial_state(2))


def test_what_a_context_is_made_of_has_the_width_too():
    with pytest.raises(ValueError, match=r"\(batch, length, 4\).* 7\)"):
        MultiHeadAttention(4, 2).remember(torch.ones(2, 3, 7))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: S6(True), "d_model must be a positive integer; got True"),
        (lambda: S6(4, d_state=True), "d_state .* got True"),
        (lambda: S6(4, dt_rank=True), "dt_rank .* got True"),
        (lambda: MambaBlock(4, expand=True), "expand .* got True"),
        (lambda: MambaBlock(4, d_conv=True), "d_conv .* got True"),
        (lambda: MambaBlock(4, d_conv=2.5), "d_conv .* got 2.5"),
        (lambda: MambaConfig(4, 1, 5, dt_rank=True), "dt_rank .* got True"),
        (lambda: S6(4, dt_max=math.inf), "dt must be finite.* 0.001 and inf"),
        (lambda: LSSL(4, 3, dt_max=math.inf), "dt must be finite.* and inf"),
        (lambda: S6(4, dt_min="a"), "dt_min <= dt_max; got 'a' and 0.1"),
        (lambda: S6(4, dt_scale=math.nan), "dt_scale .* got nan"),
        (lambda: S6(4, dt_scale=10**400), "dt_scale .* got 1000"),
        (lambda: S6(4, dt_init_floor=math.inf), "dt_init_floor .* got inf"),
        (lambda: S6(4, backend="nonsense"), "'cpu', 'fused'.* got 'nonsense'"),
        (
            lambda: MambaLM(MambaConfig(4, 1, 5), backend="nonsense"),
            "backend must be one of .*'auto'.* got 'nonsense'",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(make, words):
    with pytest.raises(ValueError, match=words):
        make()
