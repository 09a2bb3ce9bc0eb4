"""Weights in a folder: reading two layouts, writing them, trusting neither.

    the official one         config.json with d_model, n_layer, ssm_cfg ...
    that of transformers     config.json with hidden_size, state_size ...

Both keep their tensors in model.safetensors or pytorch_model.bin, whole or in
shards that an index names, and their names differ in one:
``backbone.embedding`` is ``backbone.embeddings`` in transformers. A .bin file
is a pickle and is read as tensors only, never as code. Nothing is downloaded.

A checkpoint is checked against the model, tensor by tensor, before the first
value moves: what does not fit raises a ``CheckpointError`` that names the file
and the tensor, and leaves nothing half-loaded. Shards are read one at a time.

We write safetensors, and only what we would read: a model that its config
does not describe is refused before a file is touched. In the layout
"official" the names are those of the released code, whose own loader takes
.bin files only; in "transformers" the folder loads there, and here too. What
neither has a word for (a block without gate, say) stands in config.json under
"mambaviz".

See: the chapter ``mamba-block``.
"""

import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mambaviz.models.checks import is_int

CONFIG = "config.json"
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
# The first of these that a folder has is the one that is read.
WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}.index.json", BIN, f"{BIN}.index.json")
LAYOUTS = ("official", "transformers")
OURS = "mambaviz"

EMBEDDING, HEAD = "backbone.embedding.weight", "lm_head.weight"
THEIR_EMBEDDING = "backbone.embeddings.weight"
LAYERS = "backbone.layers."
# The released code keeps these in float32 whatever the rest is.
KEPT_PRECISE = ("A_log", "D")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}

# Our names, theirs, and whether a config without it is incomplete.
TRANSFORMERS = (
    ("d_model", "hidden_size", True),
    ("n_layers", "num_hidden_layers", True),
    ("vocab_size", "vocab_size", True),
    ("d_state", "state_size", True),
    ("d_conv", "conv_kernel", True),
    ("expand", "expand", True),
    ("dt_rank", "time_step_rank", True),
    ("norm_eps", "layer_norm_epsilon", True),
    ("conv_bias", "use_conv_bias", False),
    ("bias", "use_bias", False),
    ("dt_min", "time_step_min", False),
    ("dt_max", "time_step_max", False),
    ("dt_init", "time_step_init_scheme", False),
    ("dt_scale", "time_step_scale", False),
    ("dt_init_floor", "time_step_floor", False),
    ("tie_embeddings", "tie_word_embeddings", False),
    ("residual_in_fp32", "residual_in_fp32", False),
)
OFFICIAL = (
    ("d_model", "d_model", True),
    ("n_layers", "n_layer", True),
    ("vocab_size", "vocab_size", True),
    ("pad_vocab_size_multiple", "pad_vocab_size_multiple", False),
    ("tie_embeddings", "tie_embeddings", False),
    ("residual_in_fp32", "residual_in_fp32", False),
)
SSM_CFG = (
    "d_state",
    "d_conv",
    "expand",
    "dt_rank",
    "dt_min",
    "dt_max",
    "dt_init",
    "dt_scale",
    "dt_init_floor",
    "conv_bias",
    "bias",
)
# What an official config may say beyond these, and what it must say then,
# since we have nothing else; where None stands, it changes no value.
OFFICIAL_ONLY = {
    "rms_norm": True,
    "d_intermediate": 0,
    "attn_layer_idx": [],
    "attn_cfg": {},
    "ssm_cfg": None,
    "fused_add_norm": None,
}
SSM_CFG_ONLY = {"layer": "Mamba1", "use_fast_path": None}
# Fields of ours that only "mambaviz" can hold, with what the others mean.
BEYOND_OFFICIAL = {
    "gate": True,
    "selective": ["delta", "B", "C"],
    "norm_eps": 1e-5,
}


class CheckpointError(ValueError):
    """A folder does not hold the model that it should."""


class StoredTensor(NamedTuple):
    """Where a tensor is, and what its file says of it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None if it is no floating-point number

    def __str__(self) -> str:
        """As errors name it."""
        return f"tensor {self.name!r} in {self.path}"


def expect_dtype(dtype: torch.dtype | None) -> None:
    """Refuse a dtype that no weights are stored in; None is as stored."""
    known = tuple(DTYPES.values())
    if dtype is not None and dtype not in known:
        raise ValueError(
            f"dtype must be None or one of {known}; got {dtype!r}"
        )


@contextmanager
def blaming(folder: str | PathLike[str], file: str) -> Iterator[None]:
    """Turn what a wrong value raises into an error that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{Path(folder) / file}: {error}") from error


def read_settings(folder: str | PathLike[str]) -> dict[str, Any]:
    """The fields of a ``MambaConfig``, from either layout's config.json.

    Raises:
        CheckpointError: no folder, no config, one that is damaged or lacks
            something, or one of a model that is not a plain Mamba.
    """
    path = _folder(folder) / CONFIG
    data = _read_json(path)
    with blaming(folder, CONFIG):
        if "hidden_size" in data:
            settings = _from_transformers(data)
        elif "d_model" in data:
            settings = _from_official(data)
        else:
            raise ValueError(
                "has neither d_model, as the official layout has, nor "
                f"hidden_size, as transformers' has; it has {sorted(data)}"
            )
        ours = _expect_dict(data.get(OURS, {}), OURS)
        settings |= ours
        if "selective" in ours:
            settings["selective"] = tuple(ours["selective"])
    return settings


class StoredWeights:
    """The tensors of a checkpoint by their official names, not yet read.

    Args:
        folder: a local folder.

    Raises:
        CheckpointError: no weights there, a damaged file, an index that
            does not fit its shards or leads out of the folder.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = _folder(folder)
        found = [name for name in WEIGHTS if (self.folder / name).is_file()]
        if not found:
            raise CheckpointError(
                f"{self.folder} holds no weights: none of {', '.join(WEIGHTS)}"
            )
        self.path = self.folder / found[0]
        self.tensors: dict[str, StoredTensor] = {}
        for path, names in self._files():
            for tensor in _headers(path, names):
                name = EMBEDDING if tensor.name == THEIR_EMBEDDING else None
                name = name or tensor.name
                if name in self.tensors:
                    raise CheckpointError(
                        f"{tensor} is also there as {self.tensors[name]}"
                    )
                self.tensors[name] = tensor

    def check_layers(self, n_layers: int) -> None:
        """Refuse other layers than those from 0 to n_layers - 1.

        Before a model is built: a config may say a billion.

        Raises:
            CheckpointError: the first layer that is missing or too many, or
                a tensor whose layer has no number.
        """
        found = {
            _layer_number(tensor, name)
            for name, tensor in self.tensors.items()
            if name.startswith(LAYERS)
        }
        missing = next(n for n in itertools.count() if n not in found)
        if missing == n_layers == len(found):
            return
        what = (
            f"no layer {missing}"
            if missing < n_layers
            else f"layers up to number {max(found)}"
        )
        raise CheckpointError(
            f"{self.folder / CONFIG} says {n_layers} layers, but {self.path} "
            f"holds {what}, counted from 0"
        )

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Official name and value of each tensor, one file after the other."""
        of_file: dict[Path, list[tuple[str, str]]] = defaultdict(list)
        for name, tensor in self.tensors.items():
            of_file[tensor.path].append((name, tensor.name))
        for path, names in of_file.items():
            with _reading(path):
                values = _values(path)
                for name, stored_name in names:
                    yield name, values(stored_name)

    def _files(self) -> Iterator[tuple[Path, set[str] | None]]:
        """Each file, and the tensors that it should hold if an index says."""
        if self.path.suffix != ".json":
            yield self.path, None
            return
        index = _read_json(self.path)
        with blaming(self.folder, self.path.name):
            places = _expect_dict(index.get("weight_map"), "weight_map")
            shards: dict[str, set[str]] = defaultdict(set)
            for name, shard in places.items():
                shards[_plain_name(shard, name)].add(name)
        for shard, names in shards.items():
            if not (self.folder / shard).is_file():
                raise CheckpointError(
                    f"{self.path} places tensor {min(names)!r} in {shard}, "
                    "which is not there"
                )
        for shard, names in sorted(shards.items()):
            yield self.folder / shard, names


def fill(
    model: nn.Module,
    weights: StoredWeights,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
) -> None:
    """Give a model on the meta device its values; for a new model only.

    Args:
        model: a ``MambaLM``.
        weights: what to give it.
        device: where the values go.
        dtype: of the values; as stored if None. A_log and D stay in float32
            or more.

    Raises:
        CheckpointError: a tensor that is missing, too many, or misfits.
    """
    parameters = _check(model, weights.path, weights.tensors)
    if dtype is None:
        _check_one_dtype(weights.tensors)
    tied = HEAD not in parameters
    head, embedding = None, None
    for name, value in weights:
        wanted = dtype or value.dtype
        if name.rpartition(".")[2] in KEPT_PRECISE and dtype is not None:
            wanted = torch.promote_types(dtype, torch.float32)
        # A copy: what is read may be a view of the file itself.
        value = value.to(device, wanted, copy=True)
        if name == EMBEDDING:
            embedding = value
        if tied and name == HEAD:
            head = value
        else:
            _place(model, name, value)
    if tied:
        _check_tied(weights.tensors, head, embedding)
        model.lm_head.weight = model.backbone.embedding.weight


def overwrite(model: nn.Module, weights: StoredWeights) -> None:
    """Give a model other values, of the dtypes that it has: all, or none.

    Raises:
        CheckpointError: a tensor that is missing, too many, or misfits.
    """
    parameters = _check(model, weights.path, weights.tensors)
    for name, parameter in parameters.items():
        stored = weights.tensors[name]
        if stored.dtype != parameter.dtype:
            raise CheckpointError(
                f"{stored} is {stored.dtype}, the model's is "
                f"{parameter.dtype}: convert the model, or load a new one"
            )
    # All of them in memory before the first one moves: the last shard may be
    # the damaged one.
    values = {name: value.clone() for name, value in weights}
    if HEAD not in parameters:
        _check_tied(weights.tensors, values.pop(HEAD, None), values[EMBEDDING])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def save(
    model: nn.Module,
    folder: str | PathLike[str],
    layout: str = "official",
) -> None:
    """Write config.json and model.safetensors, or nothing.

    Args:
        model: a ``MambaLM``.
        folder: made if it is not there.
        layout: "official" or "transformers".

    Raises:
        ValueError: an unknown layout, a model that transformers' has no
            words for, one on the meta device, or one that
            ``from_pretrained`` would refuse.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}; got {layout!r}")
    settings = asdict(model.config)
    settings["selective"] = list(settings["selective"])
    to = _to_official if layout == "official" else _to_transformers
    config = to(settings, model.config.padded_vocab_size)
    folder = Path(folder)
    tensors = _to_save(model, folder / SAFETENSORS)
    if layout == "transformers":
        tensors[THEIR_EMBEDDING] = tensors.pop(EMBEDDING)

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2) + "\n"
    # transformers asks for this note on who wrote the file.
    note = {"format": "pt"}
    with _drafts(folder / SAFETENSORS, folder / CONFIG) as (weights, words):
        safetensors.torch.save_file(tensors, weights, note)
        words.write_text(text, encoding="utf-8")


def _from_transformers(data: dict[str, Any]) -> dict[str, Any]:
    _expect_value(data, "model_type", "mamba")
    _expect_value(data, "hidden_act", "silu")
    settings = _renamed(data, TRANSFORMERS)
    settings["pad_vocab_size_multiple"] = 1
    inner = data.get("intermediate_size")
    width, expand = settings["d_model"], settings["expand"]
    # What is no integer, the config refuses; a text times one can be long.
    sized = is_int(width) and is_int(expand)
    if inner is not None and sized and inner != width * expand:
        raise ValueError(
            f"intermediate_size = {inner!r} is not expand = {expand} times "
            f"hidden_size = {width}"
        )
    return settings


def _from_official(data: dict[str, Any]) -> dict[str, Any]:
    ssm_cfg = _expect_dict(data.get("ssm_cfg") or {}, "ssm_cfg")
    for where, names, given in (
        (OFFICIAL_ONLY, [theirs for _, theirs, _ in OFFICIAL], data),
        (SSM_CFG_ONLY, SSM_CFG, ssm_cfg),
    ):
        for name in given:
            if name in where and where[name] is not None:
                _expect_value(given, name, where[name])
            elif name not in {*where, *names, OURS}:
                raise ValueError(
                    f"{name} = {given[name]!r} is not a setting of the "
                    f"official layout; it has {sorted([*where, *names])}"
                )
    settings = _renamed(data, OFFICIAL)
    return settings | {n: ssm_cfg[n] for n in SSM_CFG if n in ssm_cfg}


def _to_official(settings: dict[str, Any], _: int) -> dict[str, Any]:
    config = {theirs: settings[ours] for ours, theirs, _ in OFFICIAL}
    config["ssm_cfg"] = {name: settings[name] for name in SSM_CFG}
    config["rms_norm"] = config["fused_add_norm"] = True
    beyond = {
        name: settings[name]
        for name, meant in BEYOND_OFFICIAL.items()
        if settings[name] != meant
    }
    return config | ({OURS: beyond} if beyond else {})


def _to_transformers(
    settings: dict[str, Any], padded_vocab_size: int
) -> dict[str, Any]:
    for name in ("gate", "selective"):
        if settings[name] != BEYOND_OFFICIAL[name]:
            raise ValueError(
                f"transformers has no Mamba with {name} = {settings[name]!r}; "
                'save it in the layout "official"'
            )
    if settings["d_conv"] == 0:
        raise ValueError(
            "transformers has no Mamba without convolution; save it in the "
            'layout "official"'
        )
    config = {theirs: settings[ours] for ours, theirs, _ in TRANSFORMERS}
    ours = {n: settings[n] for n in ("vocab_size", "pad_vocab_size_multiple")}
    return config | {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_act": "silu",
        "vocab_size": padded_vocab_size,
        OURS: ours,
    }


def _renamed(
    data: dict[str, Any], names: tuple[tuple[str, str, bool], ...]
) -> dict[str, Any]:
    missing = [
        theirs for _, theirs, needed in names if needed and theirs not in data
    ]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    return {ours: data[theirs] for ours, theirs, _ in names if theirs in data}


def _expect_value(data: dict[str, Any], name: str, value: object) -> None:
    if name in data and data[name] != value:
        raise ValueError(
            f"{name} must be {value!r} for a Mamba that we can build; "
            f"got {data[name]!r}"
        )


def _expect_dict(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object; got {value!r}")
    return value


def _folder(folder: str | PathLike[str]) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a folder on this machine, and nothing is "
            "downloaded: give the path of a folder that has the files"
        )
    return path


def _plain_name(shard: object, tensor: str) -> str:
    """The name of a file in this folder, and no way out of it."""
    if (
        not isinstance(shard, str)
        or not re.fullmatch(r"[^/\\:\0]+", shard)
        or shard in (".", "..")
    ):
        raise ValueError(
            f"places tensor {tensor!r} in {shard!r}, which is not the name of "
            "a file in this folder"
        )
    return shard


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no {path.name}")
    with blaming(path.parent, path.name):
        try:
            data = json.loads(path.read_bytes())
        except RecursionError as error:
            raise ValueError("it is nested without end") from error
        return _expect_dict(data, "the file")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes a reader raise, say which file it is."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors "
            f"({type(error).__name__}: {str(error).partition('.')[0]})"
        ) from error


def _headers(path: Path, names: set[str] | None) -> list[StoredTensor]:
    """What a file holds; if an index says what it should, exactly that."""
    with _reading(path):
        tensors = (
            _bin_headers(path)
            if path.suffix == ".bin"
            else _safetensors_headers(path)
        )
    found = {tensor.name for tensor in tensors}
    if names is not None and found != names:
        name = min(found ^ names)
        has, says = ("lacks", "does") if name in names else ("has", "does not")
        raise CheckpointError(
            f"{path} {has} tensor {name!r}, which the index {says} place there"
        )
    return tensors


def _safetensors_headers(path: Path) -> list[StoredTensor]:
    with safetensors.safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return [
            StoredTensor(
                path, name, tuple(s.get_shape()), DTYPES.get(s.get_dtype())
            )
            for name, s in slices.items()
        ]


def _bin_headers(path: Path) -> list[StoredTensor]:
    return [
        StoredTensor(
            path,
            name,
            tuple(value.shape),
            value.dtype if value.dtype in DTYPES.values() else None,
        )
        for name, value in _load_bin(path, "meta").items()
    ]


def _load_bin(path: Path, device: str) -> dict[str, Tensor]:
    values = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path} holds a {type(values).__name__}, not tensors by name"
        )
    for name, value in values.items():
        if not isinstance(name, str):
            raise CheckpointError(
                f"{path} holds something under {name!r}, where the name of a "
                "tensor should be"
            )
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds a {type(value).__name__} under {name!r}, "
                "where a tensor should be"
            )
        if value.layout != torch.strided or value.device.type != device:
            raise CheckpointError(
                f"{path} holds tensor {name!r} as {value.layout} on "
                f"{value.device}, where all its values should be"
            )
    return values


def _values(path: Path) -> Callable[[str], Tensor]:
    """A function from the name of a tensor in this file to its value."""
    if path.suffix == ".bin":
        return _load_bin(path, "cpu").__getitem__
    return safetensors.safe_open(path, "pt").get_tensor


@contextmanager
def _drafts(*paths: Path) -> Iterator[list[Path]]:
    """Files to write, which then take the places of ``paths``.

    No reader ever sees half of one, and an error leaves what was there.
    """
    drafts = [path.with_name(f".{path.name}.{os.getpid()}") for path in paths]
    try:
        for draft in drafts:
            draft.touch()  # as readable as any new file here
        modes = [draft.stat().st_mode for draft in drafts]
        yield drafts
        for draft, mode in zip(drafts, modes, strict=True):
            draft.chmod(mode)  # safetensors has made it private
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        for draft, path in zip(drafts, paths, strict=True):
            os.replace(draft, path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def _to_save(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """The tensors by their official names, once they are known to load."""
    tensors, place = {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_meta:
            raise ValueError(
                f"{name} is on the meta device: it has no values to save"
            )
        first = place.setdefault(parameter.data_ptr(), name)
        pair = {first, name} == {EMBEDDING, HEAD}
        tied = pair and model.config.tie_embeddings
        if first != name and not tied:
            raise ValueError(
                f"{first} and {name} are one tensor, which from_pretrained "
                "could not know: give each its own before saving"
            )
        if first == name:
            tensors[name] = parameter.detach().contiguous()
    stored = {
        name: StoredTensor(
            path,
            name,
            tuple(value.shape),
            value.dtype if value.dtype in DTYPES.values() else None,
        )
        for name, value in tensors.items()
    }
    try:
        with torch.device("meta"):
            fresh = type(model)(model.config)
        _check(fresh, path, stored)
        _check_one_dtype(stored)
        if model.config.tie_embeddings:
            _check_tied(stored, tensors.get(HEAD), tensors[EMBEDDING])
    except CheckpointError as error:
        raise ValueError(
            f"nothing was saved, since from_pretrained would say: {error}"
        ) from error
    return tensors


def _check(
    model: nn.Module, path: Path, stored: dict[str, StoredTensor]
) -> dict[str, Tensor]:
    """The model's parameters, once the stored tensors are known to fit."""
    parameters = dict(model.named_parameters())
    if missing := [name for name in parameters if name not in stored]:
        raise CheckpointError(
            f"{path} lacks tensor {missing[0]!r}{_more(missing)}"
        )
    tied = {HEAD} if HEAD not in parameters else set()
    if extra := [n for n in stored if n not in parameters and n not in tied]:
        raise CheckpointError(
            f"{stored[extra[0]]} is not in the model{_more(extra)}"
        )
    for name, tensor in stored.items():
        shape = parameters[EMBEDDING if name in tied else name].shape
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor} has shape {tensor.shape}, the model's has "
                f"{tuple(shape)}"
            )
        if tensor.dtype is None:
            raise CheckpointError(
                f"{tensor} must be one of {', '.join(DTYPES)}"
            )
    return parameters


def _check_one_dtype(stored: dict[str, StoredTensor]) -> None:
    dtype = stored[EMBEDDING].dtype
    for name, tensor in stored.items():
        precise = name.rpartition(".")[2] in KEPT_PRECISE
        if tensor.dtype != dtype and not (
            precise and tensor.dtype == torch.float32
        ):
            raise CheckpointError(
                f"{tensor} is {tensor.dtype}, while {EMBEDDING!r} is {dtype}: "
                "say which dtype the model should have"
            )


def _check_tied(
    stored: dict[str, StoredTensor], head: Tensor | None, embedding: Tensor
) -> None:
    if head is not None and not torch.equal(head, embedding):
        raise CheckpointError(
            f"{stored[HEAD]} differs from {stored[EMBEDDING]}, but the "
            "config ties the two"
        )


def _layer_number(tensor: StoredTensor, name: str) -> int:
    number = name.removeprefix(LAYERS).partition(".")[0]
    # No model has a billion layers, and int() has its limit too.
    if not re.fullmatch("0|[1-9][0-9]{0,8}", number):
        raise CheckpointError(f"{tensor} is of no layer that has a number")
    return int(number)


def _more(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""


def _place(model: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter by one with this value and the same marks."""
    module, _, leaf = name.rpartition(".")
    owner = model.get_submodule(module)
    old = getattr(owner, leaf)
    new = nn.Parameter(value, requires_grad=old.requires_grad)
    new.__dict__.update(old.__dict__)  # _no_weight_decay and its like
    setattr(owner, leaf, new)
