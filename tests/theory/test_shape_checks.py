"""In the tests, every call is held to the shapes its signature names."""

import jaxtyping
import pytest
import torch

from mambaviz.theory import discretize_dense, discretize_zoh, held_state


@pytest.mark.parametrize(
    "call",
    [
        lambda: discretize_zoh(torch.ones(3), torch.ones(4), 0.1),
        lambda: discretize_zoh(torch.tensor([1, 2]), 1.0, 0.1),
        lambda: discretize_zoh(-1.0, 1.0, torch.tensor(1j)),
        lambda: discretize_dense(torch.ones(2, 3), torch.ones(2), 0.1),
        lambda: held_state(
            -torch.ones(2), torch.ones(3), torch.ones(4), 0.1, torch.zeros(1)
        ),
    ],
)
def test_a_wrong_shape_is_stopped_at_the_door(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()
