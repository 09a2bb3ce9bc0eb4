"""A Mamba that reads and writes tokens.

    x = embedding(ids)
    x = x + mixer(norm(x))            n_layers times, the mixer a Mamba block
    logits = lm_head(norm_f(x))

The names of the parameters are those of the released code:
``backbone.embedding``, ``backbone.layers.{i}.norm`` and ``.mixer``,
``backbone.norm_f``, ``lm_head``.

Source: Gu and Dao 2023 (arXiv 2312.00752), section 3.4 and appendix E.2.
See: the chapter ``mamba-block``.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mambaviz.models import checkpoints, sampling
from mambaviz.models.checks import (
    expect_device,
    expect_ids,
    expect_positive,
    expect_states,
)
from mambaviz.models.mamba import (
    SELECTIVE,
    MambaBlock,
    MambaState,
    ResidualBlock,
    RMSNorm,
    expect_backend,
    expect_dt,
    expect_selective,
    resolve_dt_rank,
)

EMBEDDING_STD = 0.02
# PyTorch counts the bytes of a tensor in 63 bits, and a number has up to 8.
MOST_NUMBERS = 2**60 - 1
# What decides what a model gives, besides its weights. The rest of a config
# says how weights start, or shows in the tensors themselves.
FUNCTION = (
    "d_model",
    "n_layers",
    "vocab_size",
    "d_state",
    "d_conv",
    "expand",
    "dt_rank",
    "conv_bias",
    "bias",
    "gate",
    "selective",
    "residual_in_fp32",
    "norm_eps",
)

Ids = Int[Tensor, "batch length"]
Mask = Bool[Tensor, "batch length"]
Hidden = Float[Tensor, "batch length d_model"]
State = tuple[MambaState, ...]


@dataclass(frozen=True)
class MambaConfig:
    """The shape of a ``MambaLM``, and how its weights start.

    Attributes:
        d_model: width of the residual stream.
        n_layers: Mamba blocks.
        vocab_size: different tokens.
        d_state, d_conv, expand, dt_rank, conv_bias, bias, gate, selective,
            dt_min, dt_max, dt_init, dt_scale, dt_init_floor: as in
            ``MambaBlock``.
        pad_vocab_size_multiple: the embedding has vocab_size rows, rounded
            up to a multiple of this, and the logits as many columns. No
            token above vocab_size is ever generated.
        tie_embeddings: whether lm_head and embedding are one matrix.
        residual_in_fp32: whether the sums over layers are kept in float32
            where the weights have less.
        norm_eps: of every RMSNorm.

    Raises:
        ValueError: a value out of range, or sizes that no tensor can have.
    """

    d_model: int
    n_layers: int
    vocab_size: int
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | str = "auto"
    conv_bias: bool = True
    bias: bool = False
    gate: bool = True
    selective: tuple[str, ...] = SELECTIVE
    dt_min: float = 1e-3
    dt_max: float = 0.1
    dt_init: str = "random"
    dt_scale: float = 1.0
    dt_init_floor: float = 1e-4
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True
    residual_in_fp32: bool = True
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse a value that no model could have."""
        for name, low in (
            ("d_model", 1),
            ("n_layers", 1),
            ("vocab_size", 1),
            ("d_state", 1),
            ("d_conv", 0),
            ("expand", 1),
            ("pad_vocab_size_multiple", 1),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(
                    f"{name} must be an integer of at least {low}; "
                    f"got {value!r}"
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is bool and type(value) is not bool:
                raise ValueError(
                    f"{field.name} must be true or false; got {value!r}"
                )
            if field.type is float:
                expect_positive(**{field.name: value})
        rank = resolve_dt_rank(self.dt_rank, self.d_model)
        self._expect_room(rank)
        expect_selective(self.selective)
        expect_dt(
            self.dt_min,
            self.dt_max,
            self.dt_init,
            self.dt_scale,
            self.dt_init_floor,
        )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding, columns of the logits."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple

    def function(self) -> dict[str, object]:
        """All that decides what a model gives, besides its weights.

        Two configs with the same compute the same from the same weights.
        """
        found = {name: getattr(self, name) for name in FUNCTION}
        return found | {
            "dt_rank": resolve_dt_rank(self.dt_rank, self.d_model),
            "selective": tuple(n for n in SELECTIVE if n in self.selective),
        }

    def _expect_room(self, rank: int) -> None:
        """Refuse sizes whose product no tensor can hold."""
        inner = self.expand * self.d_model
        rows = self.padded_vocab_size
        for tensor, numbers, names in (
            (
                "embedding",
                rows * self.d_model,
                ("vocab_size", "pad_vocab_size_multiple", "d_model"),
            ),
            ("in_proj", 2 * inner * self.d_model, ("expand", "d_model")),
            ("conv1d", inner * self.d_conv, ("expand", "d_model", "d_conv")),
            (
                "x_proj",
                inner * (rank + 2 * self.d_state),
                ("expand", "d_model", "dt_rank", "d_state"),
            ),
        ):
            if numbers > MOST_NUMBERS:
                sizes = ", ".join(f"{n} = {getattr(self, n)}" for n in names)
                raise ValueError(
                    f"{tensor} would have more numbers than a tensor can, "
                    f"which is {MOST_NUMBERS}; got {sizes}"
                )

    def block(self, backend: str = "auto") -> MambaBlock:
        """A new block of this shape."""
        return MambaBlock(
            self.d_model,
            self.d_state,
            self.d_conv,
            self.expand,
            dt_rank=self.dt_rank,
            conv_bias=self.conv_bias,
            bias=self.bias,
            gate=self.gate,
            selective=self.selective,
            dt_min=self.dt_min,
            dt_max=self.dt_max,
            dt_init=self.dt_init,
            dt_scale=self.dt_scale,
            dt_init_floor=self.dt_init_floor,
            backend=backend,
        )


# The models released with the paper, as the README of state-spaces/mamba
# lists them.
RELEASED = {
    f"mamba-{size}": MambaConfig(d_model, n_layers, vocab_size=50277)
    for size, d_model, n_layers in (
        ("130m", 768, 24),
        ("370m", 1024, 48),
        ("790m", 1536, 48),
        ("1.4b", 2048, 48),
        ("2.8b", 2560, 64),
    )
}


class Backbone(nn.Module):
    """Everything but the head: ids in, features of each token out."""

    def __init__(
        self,
        config: MambaConfig,
        activation_checkpointing: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        d_model, eps = config.d_model, config.norm_eps
        self.vocab_size = config.vocab_size
        self.residual_in_fp32 = config.residual_in_fp32
        self.activation_checkpointing = activation_checkpointing
        self.embedding = nn.Embedding(config.padded_vocab_size, d_model)
        self.layers = nn.ModuleList(
            ResidualBlock(config.block(backend), d_model, eps)
            for _ in range(config.n_layers)
        )
        self.norm_f = RMSNorm(d_model, eps)

    def forward(
        self,
        ids: Ids,
        state: State | None = None,
        *,
        mask: Mask | None = None,
        reset: Mask | None = None,
    ) -> tuple[Hidden, State]:
        """The features after norm_f, and what each layer remembers.

        Arguments and errors are those of ``MambaLM.forward``.
        """
        x = self.embed(ids)
        before = [None] * len(self.layers) if state is None else state
        expect_states(before, self.layers)
        after = []
        for layer, h in zip(self.layers, before, strict=True):
            x, h = self._run(layer, x, h, mask, reset)
            after.append(h)
        return self.norm_f(x), tuple(after)

    def step(
        self,
        ids: Int[Tensor, " batch"],
        state: State,
        *,
        in_place: bool = False,
    ) -> tuple[Float[Tensor, "batch d_model"], State]:
        """One token.

        Arguments and errors are those of ``MambaLM.step``.

        Returns:
            The features after norm_f, and what each layer remembers.
        """
        expect_states(state, self.layers)
        x = self.embed(ids)
        after = []
        for layer, h in zip(self.layers, state, strict=True):
            x, h = layer.step(x, h, in_place=in_place)
            after.append(h)
        return self.norm_f(x), tuple(after)

    def embed(
        self, ids: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The first content of the residual stream."""
        expect_ids(ids, self.vocab_size)
        x = self.embedding(ids)
        if self.residual_in_fp32:
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x

    def _run(
        self,
        layer: nn.Module,
        x: Tensor,
        h: MambaState | None,
        mask: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[Tensor, MambaState]:
        options = {"mask": mask, "reset": reset}
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(
                layer, x, h, True, use_reentrant=False, **options
            )
        return layer(x, h, True, **options)


class MambaLM(nn.Module):
    """The language model.

    Args:
        config: its shape.
        activation_checkpointing: whether a training step keeps one vector
            per token and layer and computes the rest twice, for memory.
        backend: of the scan, see ``mambaviz.ops.selective_scan``.

    Raises:
        ValueError: an unknown backend.

    Example:
        >>> with torch.device("meta"):  # shapes without weights
        ...     model = MambaLM(RELEASED["mamba-130m"])
        >>> sum(p.numel() for p in model.parameters())
        129135360
    """

    constant_state = True  # of one size, however long the text

    def __init__(
        self,
        config: MambaConfig,
        *,
        activation_checkpointing: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config, activation_checkpointing, backend)
        self.lm_head = nn.Linear(
            config.d_model, config.padded_vocab_size, bias=False
        )
        self._first_values()
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def forward(
        self,
        ids: Ids,
        state: State | None = None,
        return_state: bool = False,
        *,
        mask: Mask | None = None,
        reset: Mask | None = None,
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
            mask: False at padding: the tokens of a row then give what they
                would give without it. Not together with reset.
            reset: True where a new sequence starts in a packed one.
            last_only: whether to give the last position only, (batch, 1,
                vocab_size), which of a prompt is all that one needs.

        Returns:
            Logits, over the padded vocabulary, and the state if asked for.

        Raises:
            ValueError: a token that the model does not have (looked for on
                a CPU only), a state, mask or reset that does not fit.
        """
        x, state = self.backbone(ids, state, mask=mask, reset=reset)
        logits = self.lm_head(x[:, -1:] if last_only else x)
        return (logits, state) if return_state else logits

    def step(
        self,
        ids: Int[Tensor, " batch"],
        state: State,
        *,
        in_place: bool = False,
    ) -> tuple[Float[Tensor, "batch vocab_size"], State]:
        """One token more.

        Args:
            ids: that token of each sequence.
            state: what the tokens before left behind; it stays as it is, so
                one state can be continued in several ways.
            in_place: write the new state into the given one instead.

        Returns:
            The logits after it, over the padded vocabulary, and what it
            leaves behind.

        Raises:
            ValueError: as ``forward``.
        """
        x, state = self.backbone.step(ids, state, in_place=in_place)
        return self.lm_head(x), state

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """The state before any token: zeros.

        Args:
            batch: sequences.
            device: that of the weights if None.
            dtype: that of the weights if None; for the scans raised to
                float32 at least.
        """
        return tuple(
            layer.initial_state(batch, device, dtype)
            for layer in self.backbone.layers
        )

    def generate(
        self,
        ids: Ids,
        max_new_tokens: int,
        temperature: int | float = 0.0,
        top_k: int | None = None,
        top_p: int | float | None = None,
        generator: torch.Generator | None = None,
        on_token: Callable[[Tensor], object] | None = None,
        *,
        mask: Mask | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """The prompts and what follows.

        Args:
            ids: the prompts, at least one token each.
            max_new_tokens: how many tokens to add; 0 returns the prompts.
            temperature, top_k, top_p, generator: see ``choose_token``.
            on_token: called after each step with a copy of its tokens,
                (batch,).
            mask: False at the padding of shorter prompts, which comes before
                them.

        Raises:
            ValueError: as ``sampling.generate``.
        """
        return sampling.generate(
            self,
            ids,
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            generator,
            on_token,
            mask=mask,
            vocab_size=self.config.vocab_size,
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        backend: str = "auto",
    ) -> "MambaLM":
        """A model from a local folder, the official layout or transformers'.

        Args:
            folder: where its config.json and its weights are; nothing is
                ever downloaded.
            device: where to put it.
            dtype: of its weights; as stored if None. A_log and D stay in
                float32 or more, as in the released code.
            backend: of the scan.

        Raises:
            CheckpointError: what is missing, damaged or does not fit, and in
                which file. See ``mambaviz.models.checkpoints``.
            ValueError: a device that is not there, a dtype that is none of
                ``checkpoints.DTYPES``, an unknown backend.
        """
        expect_device(device)
        checkpoints.expect_dtype(dtype)
        expect_backend(backend)
        config = _read_config(folder)
        weights = checkpoints.StoredWeights(folder)
        weights.check_layers(config.n_layers)
        with torch.device("meta"):
            model = cls(config, backend=backend)
        checkpoints.fill(model, weights, device, dtype)
        return model

    def load_weights(self, folder: str | PathLike[str]) -> None:
        """Take over the weights of a folder; all of them, or none.

        Where the folder has a config.json, it must describe this function:
        the same sizes, vocabulary, gate, selection, norm_eps and precision
        of the residual stream. How weights start may differ.

        Args:
            folder: where the weights are, in either layout.

        Raises:
            CheckpointError: as ``from_pretrained``; also a dtype that is not
                that of this model, or a setting of config.json that is not.
        """
        path = Path(folder) / checkpoints.CONFIG
        if path.is_file():
            ours = self.config.function()
            for name, value in _read_config(folder).function().items():
                if value != ours[name]:
                    raise checkpoints.CheckpointError(
                        f"{path} says {name} = {value!r}, the model has "
                        f"{name} = {ours[name]!r}"
                    )
        checkpoints.overwrite(self, checkpoints.StoredWeights(folder))

    def save_pretrained(
        self, folder: str | PathLike[str], layout: str = "official"
    ) -> None:
        """Write model.safetensors and config.json, or nothing.

        ``from_pretrained`` gives the same bits back.

        Args:
            folder: made if it is not there.
            layout: "official", or "transformers" for that library.

        Raises:
            ValueError: a model that ``from_pretrained`` would refuse, and
                why; an unknown layout, or one without words for this model.
        """
        checkpoints.save(self, folder, layout)

    def _first_values(self) -> None:
        """As the released code: what differs from PyTorch's own.

        The projections back into the residual stream are divided by
        sqrt(n_layers), so that the sum over the layers keeps its size.
        """
        nn.init.normal_(self.backbone.embedding.weight, std=EMBEDDING_STD)
        for module in self.modules():
            bias = getattr(module, "bias", None)
            if (
                isinstance(module, nn.Linear)
                and bias is not None
                and not getattr(bias, "_no_reinit", False)
            ):
                nn.init.zeros_(bias)
        with torch.no_grad():
            for layer in self.backbone.layers:
                layer.mixer.out_proj.weight /= math.sqrt(self.config.n_layers)


def _read_config(folder: str | PathLike[str]) -> MambaConfig:
    """What config.json says; a wrong value is blamed on that file."""
    settings = checkpoints.read_settings(folder)
    with checkpoints.blaming(folder, checkpoints.CONFIG):
        return MambaConfig(**settings)
