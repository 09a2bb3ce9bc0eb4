r"""A recurrent network: one state, rewritten at every token.

    h_t = tanh(W_h h_{t-1} + W_x x_t + b)
    y_t = W_y h_t + b_y

What h_t still knows of x_{t-k} has gone k times through the same step:

    dh_t / dh_{t-k} = product over the k steps of diag(1 - h^2) W_h

It fades like rho^k where the steps shrink by rho. That is a property of W_h
and of the tanh, not of there being one state only: with W_h orthogonal and no
tanh, the norm of the product is 1 for every k. ``radius`` and ``activation``
choose.

Without the tanh the recurrence is linear, and an associative scan can run it.
With it, each step waits for the one before.

Source: Elman 1990, doi 10.1207/s15516709cog1402_1.
See: the chapter ``recurrent-networks``.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mambaviz.models.checks import (
    expect_ids,
    expect_one_of,
    expect_sequence,
    expect_shape,
    expect_sizes,
    expect_token,
)

ACTIVATIONS = {"tanh": torch.tanh, "identity": lambda h: h}

State = Float[Tensor, "batch d_state"]


class RNN(nn.Module):
    """One recurrent layer.

    With "tanh" its states are those of ``torch.nn.RNN`` with the weights W_x,
    W_h and the sum b of its two biases.

    It has d_state (d_state + d_model + 1) + d_out (d_state + 1) parameters.

    Args:
        d_model: width of the input.
        d_state: size of the state; d_model if None.
        d_out: width of the output; d_model if None.
        activation: "tanh", or "identity" for a linear recurrence.
        radius: if given, W_h is at first an orthogonal matrix times this
            number, so that it stretches every state by exactly that; with 1
            a linear recurrence forgets nothing. If None, all parameters are
            uniform within d_state^-1/2, as in ``torch.nn.RNN``.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> layer = RNN(1, 2, activation="identity", radius=0.5)
        >>> x = torch.zeros(1, 3, 1)
        >>> with torch.no_grad():
        ...     _ = layer.b.zero_()
        ...     layer.states(x, torch.tensor([[0.6, 0.8]])).norm(dim=-1)
        tensor([[0.5000, 0.2500, 0.1250]])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        d_out: int | None = None,
        *,
        activation: str = "tanh",
        radius: int | float | None = None,
    ) -> None:
        super().__init__()
        d_state = d_model if d_state is None else d_state
        d_out = d_model if d_out is None else d_out
        expect_sizes(d_model=d_model, d_state=d_state, d_out=d_out)
        expect_one_of("activation", activation, tuple(ACTIVATIONS))
        if radius is not None and radius < 0:
            raise ValueError(f"radius must not be negative; got {radius}")
        self.d_model, self.d_state = d_model, d_state
        self.activation = activation
        self.W_h = nn.Parameter(torch.empty(d_state, d_state))
        self.W_x = nn.Parameter(torch.empty(d_state, d_model))
        self.b = nn.Parameter(torch.empty(d_state))
        self.W_y = nn.Parameter(torch.empty(d_out, d_state))
        self.b_y = nn.Parameter(torch.empty(d_out))
        bound = d_state**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        if radius is not None:
            nn.init.orthogonal_(self.W_h, gain=radius)

    def states(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: State | None = None,
    ) -> Float[Tensor, "batch length d_state"]:
        """h_t after each input: what a probe of the memory looks at.

        Args:
            x: the input.
            state: h before the first input; zero if None.

        Raises:
            ValueError: a length of 0, shapes that do not fit.
        """
        expect_sequence(x, self.d_model)
        h = (
            self.initial_state(len(x), dtype=x.dtype)
            if state is None
            else state
        )
        expect_shape("state", h, (len(x), self.d_state))
        driven = x @ self.W_x.T + self.b  # all steps at once: no h in it
        activation = ACTIVATIONS[self.activation]
        hs = []
        for driven_t in driven.unbind(1):
            h = activation(h @ self.W_h.T + driven_t)
            hs.append(h)
        return torch.stack(hs, dim=1)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: State | None = None,
        return_state: bool = False,
    ) -> (
        Float[Tensor, "batch length d_out"]
        | tuple[Float[Tensor, "batch length d_out"], State]
    ):
        """The layer over a sequence.

        Args:
            x: the input.
            state: h before the first input; zero if None.
            return_state: whether to return h after the last one.

        Returns:
            y, and the state if asked for.

        Raises:
            ValueError: a length of 0, shapes that do not fit.
        """
        hs = self.states(x, state)
        y = self.read(hs)
        return (y, hs[:, -1]) if return_state else y

    def read(
        self, h: Float[Tensor, "*steps d_state"]
    ) -> Float[Tensor, "*steps d_out"]:
        """y = W_y h + b_y."""
        return h @ self.W_y.T + self.b_y

    def step(
        self, x: Float[Tensor, "batch d_model"], state: State
    ) -> tuple[Float[Tensor, "batch d_out"], State]:
        """One step; the given state is not changed.

        Args:
            x: the input of this step.
            state: h before it.

        Returns:
            y, and h after it.

        Raises:
            ValueError: shapes that do not fit.
        """
        expect_token(x, self.d_model)
        y, state = self(x[:, None], state, True)
        return y[:, 0], state

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """The state before any input: zero.

        Args:
            batch: sequences.
            device: that of the weights if None.
            dtype: that of the weights if None.
        """
        shape = batch, self.d_state
        return self.W_h.new_zeros(shape, device=device, dtype=dtype)


class RNNLM(nn.Module):
    """A language model of one recurrent layer.

        x_t = embedding(ids_t)
        h_t = tanh(W_h h_{t-1} + W_x x_t + b)
        logits_t = W_y h_t + b_y

    It works with ``generate``, but not with padding. As an encoder, the last
    of ``states`` is all that it has kept of a text.

    Args:
        vocab_size: different tokens.
        d_model: width of the embedding.
        d_state, activation, radius: see ``RNN``.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        d_state: int | None = None,
        *,
        activation: str = "tanh",
        radius: int | float | None = None,
    ) -> None:
        super().__init__()
        expect_sizes(vocab_size=vocab_size, d_model=d_model)
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.rnn = RNN(
            d_model,
            d_state,
            vocab_size,
            activation=activation,
            radius=radius,
        )

    def forward(
        self,
        ids: Int[Tensor, "batch length"],
        state: State | None = None,
        return_state: bool = False,
        *,
        last_only: bool = False,
    ) -> (
        Float[Tensor, "batch _length vocab_size"]
        | tuple[Float[Tensor, "batch _length vocab_size"], State]
    ):
        """What the model expects after each token.

        Args:
            ids: tokens, below vocab_size.
            state: what the tokens before left behind; nothing if None.
            return_state: whether to return what these leave behind.
            last_only: whether to give the last position only.

        Raises:
            ValueError: no token, one that the model does not have (looked
                for on a CPU only), a state that does not fit.
        """
        hs = self.states(ids, state)
        logits = self.rnn.read(hs[:, -1:] if last_only else hs)
        return (logits, hs[:, -1]) if return_state else logits

    def states(
        self, ids: Int[Tensor, "batch length"], state: State | None = None
    ) -> Float[Tensor, "batch length d_state"]:
        """h_t after each token; arguments and errors as ``forward``."""
        expect_ids(ids, self.embedding.num_embeddings)
        return self.rnn.states(self.embedding(ids), state)

    def step(
        self, ids: Int[Tensor, " batch"], state: State
    ) -> tuple[Float[Tensor, "batch vocab_size"], State]:
        """One token more; the given state is not changed.

        Args:
            ids: that token of each sequence.
            state: h before it.

        Returns:
            The logits after it, and h there.

        Raises:
            ValueError: as ``forward``.
        """
        logits, state = self(ids[:, None], state, True)
        return logits[:, 0], state

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """The state before any token, see ``RNN.initial_state``."""
        return self.rnn.initial_state(batch, device, dtype)
