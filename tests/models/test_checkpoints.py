"""Both layouts, shards, and everything that can be wrong with a folder.

What transformers itself writes and reads is in ``test_against_others.py``.
"""

import json
import math
import pickle
import shutil
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from mambaviz.models import CheckpointError, MambaConfig, MambaLM
from mambaviz.models import checkpoints as checkpoints_module
from mambaviz.models.checkpoints import SAFETENSORS, StoredWeights
from tests.models.mamba_cases import perturbed, small_lm, some_ids

BIN = "pytorch_model.bin"
A_LOG = "backbone.layers.1.mixer.A_log"
EMBEDDING = "backbone.embedding.weight"


def tensors(model, tied_head=False):
    found = {n: p.detach().clone() for n, p in model.named_parameters()}
    if tied_head:
        found["lm_head.weight"] = found[EMBEDDING]
    return found


def official_config(**change):
    """As mamba-130m has it, but small."""
    config = {
        "d_model": 8,
        "n_layer": 2,
        "vocab_size": 13,
        "ssm_cfg": {"d_state": 3},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    return {k: v for k, v in (config | change).items() if v is not ...}


def transformers_config(**change):
    config = {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "vocab_size": 16,
        "state_size": 3,
        "conv_kernel": 4,
        "expand": 2,
        "intermediate_size": 16,
        "time_step_rank": 1,
        "layer_norm_epsilon": 1e-5,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "transformers_version": "5.23.0",
    }
    return {k: v for k, v in (config | change).items() if v is not ...}


def write_config(folder, config):
    (folder / "config.json").write_text(json.dumps(config))


def shard(folder, found, kind, parts=3):
    """Weights in several files, and the index that places them."""
    name = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    for part in range(parts):
        file = f"{name}-{part + 1:05}-of-{parts:05}.{kind}"
        some = dict(list(found.items())[part::parts])
        write_weights(folder / file, some)
        index["weight_map"] |= dict.fromkeys(some, file)
    path = folder / f"{name}.{kind}.index.json"
    path.write_text(json.dumps(index))
    return path


def write_weights(path, found):
    if path.suffix == ".bin":
        torch.save(found, path)
    else:
        safetensors.torch.save_file(found, path, {"format": "pt"})


def assert_same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name


# ---- Layouts ---------------------------------------------------------------


@pytest.mark.parametrize("file", [BIN, SAFETENSORS])
@pytest.mark.parametrize("tied_head", [True, False])
def test_the_official_layout(tmp_path, file, tied_head):
    model = small_lm(torch.float32)
    write_config(tmp_path, official_config())
    found = tensors(model, tied_head)
    if file == SAFETENSORS and tied_head:
        found["lm_head.weight"] = found["lm_head.weight"].clone()
    write_weights(tmp_path / file, found)
    loaded = MambaLM.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert_same(loaded, model)
    assert loaded.lm_head.weight is loaded.backbone.embedding.weight
    ids = some_ids(2, 5)
    assert torch.equal(loaded(ids), model(ids))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("tie", [True, False])
def test_the_layout_of_transformers_in_shards(tmp_path, kind, tie):
    model = small_lm(torch.float32, vocab_size=16, tie_embeddings=tie)
    write_config(tmp_path, transformers_config(tie_word_embeddings=tie))
    found = {
        name.replace("embedding.", "embeddings."): value
        for name, value in tensors(model).items()
    }
    shard(tmp_path, found, kind)
    loaded = MambaLM.from_pretrained(tmp_path)
    assert_same(loaded, model)
    tied = loaded.lm_head.weight is loaded.backbone.embedding.weight
    assert tied is tie


def test_a_config_with_the_words_of_both_is_that_of_transformers(tmp_path):
    # As state-spaces/mamba-130m-hf has it.
    both = official_config() | transformers_config()
    write_config(tmp_path, both)
    write_weights(tmp_path / SAFETENSORS, tensors(small_lm(torch.float32)))
    loaded = MambaLM.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == 16


def test_every_setting_of_ssm_cfg_arrives(tmp_path):
    ssm_cfg = {
        "d_state": 5,
        "d_conv": 3,
        "expand": 3,
        "dt_rank": 2,
        "dt_min": 0.002,
        "dt_max": 0.2,
        "dt_init": "constant",
        "dt_scale": 2.0,
        "dt_init_floor": 1e-3,
        "conv_bias": False,
        "bias": True,
    }
    config = MambaConfig(8, 2, 13, tie_embeddings=False, **ssm_cfg)
    model = perturbed(MambaLM(config))
    ssm_cfg |= {"layer": "Mamba1", "use_fast_path": False}
    write_config(
        tmp_path, official_config(ssm_cfg=ssm_cfg, tie_embeddings=False)
    )
    write_weights(tmp_path / BIN, tensors(model))
    loaded = MambaLM.from_pretrained(tmp_path)
    assert loaded.config == config
    assert_same(loaded, model)


# ---- Round trips -----------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_embeddings": False, "bias": True, "conv_bias": False},
        {"gate": False, "d_conv": 0, "selective": ("B",)},
        {"selective": (), "norm_eps": 1e-6, "dt_rank": 2, "expand": 1},
        {"pad_vocab_size_multiple": 1, "residual_in_fp32": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_comes_back_to_the_bit(tmp_path, settings, dtype):
    model = small_lm(dtype, **settings)
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = MambaLM.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.config == model.config
    assert_same(loaded, model)
    assert loaded.backbone.layers[0].mixer.A_log._no_weight_decay
    assert loaded.backbone.layers[0].mixer.delta_bias._no_reinit
    assert all(p.requires_grad for p in loaded.parameters())


def test_both_layouts_come_back(tmp_path):
    model = small_lm(torch.float32, norm_eps=1e-4)
    model.save_pretrained(tmp_path, layout="transformers")
    loaded = MambaLM.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == 13
    assert loaded.config.norm_eps == 1e-4
    assert_same(loaded, model)


def test_saving_leaves_two_files_that_all_may_read(tmp_path):
    small_lm().save_pretrained(tmp_path)
    small_lm(seed=1).save_pretrained(tmp_path)  # over it
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        SAFETENSORS,
    ]
    by_hand = tmp_path / "by_hand"
    by_hand.touch()
    for name in ("config.json", SAFETENSORS):
        mode = stat.S_IMODE((tmp_path / name).stat().st_mode)
        assert mode == stat.S_IMODE(by_hand.stat().st_mode)
    assert_same(MambaLM.from_pretrained(tmp_path), small_lm(seed=1))


def test_who_reads_while_we_write_reads_the_old_file_to_its_end(tmp_path):
    small_lm().save_pretrained(tmp_path)
    for name in ("config.json", SAFETENSORS):
        path = tmp_path / name
        old = path.read_bytes()
        with path.open("rb") as reader:
            start = reader.read(5)
            small_lm(seed=1, bias=True).save_pretrained(tmp_path)
            assert start + reader.read() == old
        assert path.read_bytes() != old
        small_lm().save_pretrained(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    small_lm().save_pretrained(tmp_path)

    def half(found, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(
        checkpoints_module.safetensors.torch, "save_file", half
    )
    with pytest.raises(OSError, match="disk full"):
        small_lm(seed=1).save_pretrained(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert_same(MambaLM.from_pretrained(tmp_path), small_lm())


def test_no_file_takes_its_place_before_both_are_written(
    tmp_path, monkeypatch
):
    small_lm().save_pretrained(tmp_path)
    written = []

    def full(descriptor):
        written.append(descriptor)
        if len(written) == 2:
            raise OSError("disk full")

    monkeypatch.setattr(checkpoints_module.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        small_lm(seed=1, norm_eps=1e-3).save_pretrained(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    loaded = MambaLM.from_pretrained(tmp_path)
    assert loaded.config == small_lm().config
    assert_same(loaded, small_lm())


def test_a_loaded_model_does_not_depend_on_its_file(tmp_path):
    model = small_lm(torch.float32)
    model.save_pretrained(tmp_path)
    loaded = MambaLM.from_pretrained(tmp_path)
    path = tmp_path / SAFETENSORS
    path.write_bytes(b"\0" * path.stat().st_size)
    assert_same(loaded, model)


@pytest.mark.parametrize(
    ("settings", "layout", "message"),
    [
        ({}, "numpy", "layout must be one of .* got 'numpy'"),
        ({"gate": False}, "transformers", "gate = False"),
        ({"selective": ("B",)}, "transformers", r"selective = \['B'\]"),
        ({"d_conv": 0}, "transformers", "without convolution"),
    ],
)
def test_what_a_layout_cannot_say(tmp_path, settings, layout, message):
    with pytest.raises(ValueError, match=message):
        small_lm(**settings).save_pretrained(tmp_path, layout)
    assert not list(tmp_path.iterdir())


def test_a_model_without_values_is_not_saved(tmp_path):
    with torch.device("meta"):
        model = MambaLM(small_lm().config)
    with pytest.raises(ValueError, match="meta device"):
        model.save_pretrained(tmp_path)


def untied(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight + 1)


def tied(model):
    model.lm_head.weight = model.backbone.embedding.weight


def shared(model):
    first, second = model.backbone.layers
    second.mixer.D = first.mixer.D


def shared_memory(model):
    first, second = model.backbone.layers
    second.mixer.D.data = first.mixer.D.data


def in_float8(model):
    norm = model.backbone.norm_f
    norm.weight.data = norm.weight.data.to(torch.float8_e4m3fn)


def longer(model):
    model.backbone.layers.append(model.config.block())


def wider(model):
    model.backbone.embedding.weight.data = torch.ones(24, 8)


@pytest.mark.parametrize(
    ("tie", "spoil", "message"),
    [
        (True, untied, "lm_head.weight.* differs from .*embedding.weight"),
        (False, tied, f"{EMBEDDING} and lm_head.weight are one tensor"),
        (True, shared, "layers.0.mixer.D and .*layers.1.mixer.D are one"),
        (True, shared_memory, "layers.0.mixer.D and .*layers.1.mixer.D are"),
        (True, lambda m: m.backbone.norm_f.half(), r"norm_f.* torch\.float16"),
        (True, in_float8, "norm_f.* must be one of F64, F32, F16, BF16"),
        (True, longer, "backbone.layers.2.*is not in the model"),
        (True, wider, r"embedding.* has shape \(24, 8\), .* \(16, 8\)"),
    ],
    ids=["untied", "tied", "one", "memory", "mixed", "8 bits", "more", "wide"],
)
@pytest.mark.parametrize("layout", ["official", "transformers"])
def test_what_could_not_be_loaded_is_not_saved(
    tmp_path, tie, spoil, message, layout
):
    folder = tmp_path / "new"
    model = small_lm(torch.float32, tie_embeddings=tie)
    model.save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    spoil(model)
    for place in (tmp_path, folder):
        with pytest.raises(ValueError, match=message):
            model.save_pretrained(place, layout)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_two_equal_matrices_are_tied_by_loading(tmp_path):
    model = small_lm(torch.float32)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(tmp_path)
    assert_same(MambaLM.from_pretrained(tmp_path), model)


# ---- Precision -------------------------------------------------------------


def test_a_dtype_that_is_asked_for(tmp_path):
    model = small_lm(torch.float32)
    model.save_pretrained(tmp_path)
    loaded = MambaLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, value in loaded.state_dict().items():
        precise = name.endswith((".A_log", ".D"))
        dtype = torch.float32 if precise else torch.bfloat16
        assert value.dtype == dtype, name
        assert torch.equal(value, model.state_dict()[name].to(dtype))
    double = MambaLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert {p.dtype for p in double.parameters()} == {torch.float64}


def test_half_precision_with_A_and_D_in_float32_is_kept(tmp_path):
    model = small_lm(torch.float16)
    for layer in model.backbone.layers:
        layer.mixer.A_log.data = layer.mixer.A_log.data.float() + 1e-4
        layer.mixer.D.data = layer.mixer.D.data.float() + 1e-4
    model.save_pretrained(tmp_path)
    loaded = MambaLM.from_pretrained(tmp_path)
    assert_same(loaded, model)
    assert loaded(some_ids(1, 3)).dtype == torch.float16


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.int32}, r"float64.* got torch\.int32"),
        ({"dtype": torch.complex64}, r"dtype .* got torch\.complex64"),
        ({"dtype": "float32"}, "dtype must be None or .* got 'float32'"),
        ({"device": "nonsense"}, "device must be .* got 'nonsense' .Expected"),
        ({"device": "cuda:1000"}, "device must be .* got 'cuda:1000'"),
        ({"backend": "nonsense"}, "backend must be one of .* got 'nonsense'"),
    ],
)
def test_where_a_model_cannot_go(folder, options, message):
    (folder / SAFETENSORS).write_bytes(b"")  # said before a file is read
    with pytest.raises(ValueError, match=message):
        MambaLM.from_pretrained(folder, **options)


# ---- Into a model that is there --------------------------------------------


def test_overwriting_a_model(tmp_path):
    model, other = small_lm(torch.float32), small_lm(torch.float32, seed=1)
    places = [p.data_ptr() for p in other.parameters()]
    model.save_pretrained(tmp_path)
    other.load_weights(tmp_path)
    assert_same(other, model)
    assert [p.data_ptr() for p in other.parameters()] == places


def test_overwriting_is_all_or_nothing(tmp_path, monkeypatch):
    model = small_lm(torch.float32)
    shard(tmp_path, tensors(small_lm(torch.float32, seed=1)), "bin")
    last = sorted(tmp_path.glob("*.bin"))[-1]
    load = torch.load

    def unreadable(path, map_location, **options):
        # Its list of tensors is fine; the disk fails at their values.
        if path == last and map_location == "cpu":
            raise OSError("input/output error")
        return load(path, map_location=map_location, **options)

    monkeypatch.setattr(torch, "load", unreadable)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(CheckpointError, match=f"{last.name}.*input/output"):
        model.load_weights(tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm_eps": 1e-2}, "norm_eps = 0.01, .* norm_eps = 1e-05"),
        ({"vocab_size": 16}, "vocab_size = 16, .* vocab_size = 13"),
        (
            {"residual_in_fp32": False},
            "residual_in_fp32 = False, .* residual_in_fp32 = True",
        ),
        ({"dt_rank": 2}, "dt_rank = 2, the model has dt_rank = 1"),
        ({"selective": ("B", "C")}, r"selective = \('B', 'C'\)"),
        ({"n_layers": 3}, "n_layers = 3, .* n_layers = 2"),
    ],
    ids=str,
)
def test_weights_of_another_function_do_not_go_into_a_model(
    tmp_path, settings, message
):
    small_lm(torch.float32, **settings).save_pretrained(tmp_path)
    model = small_lm(torch.float32, seed=1)
    with pytest.raises(CheckpointError, match=f"config.json says {message}"):
        model.load_weights(tmp_path)
    assert_same(model, small_lm(torch.float32, seed=1))


def test_how_weights_start_does_not_matter_to_those_that_are_there(tmp_path):
    other = small_lm(
        torch.float32,
        dt_rank=1,
        dt_max=0.2,
        dt_scale=2.0,
        selective=("C", "B", "delta"),
        pad_vocab_size_multiple=16,
    )
    other.save_pretrained(tmp_path)
    model = small_lm(torch.float32, seed=1)
    model.load_weights(tmp_path)
    assert_same(model, other)


def test_a_config_that_is_damaged_is_not_passed_over(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        small_lm(torch.float32).load_weights(folder)


def test_another_dtype_does_not_go_into_a_model(tmp_path):
    small_lm(torch.float16).save_pretrained(tmp_path)
    model = small_lm(torch.float32)
    before = model.lm_head.weight.clone()
    with pytest.raises(CheckpointError, match=r"torch\.float16.*float32"):
        model.load_weights(tmp_path)
    assert torch.equal(model.lm_head.weight, before)


def test_shards_are_read_one_at_a_time(tmp_path, monkeypatch):
    write_config(tmp_path, official_config())
    shard(tmp_path, tensors(small_lm(torch.float32)), "bin", parts=4)
    alive, most = [], 0
    load = torch.load

    class Shard(dict):
        """A dict that says when it goes."""

        def __del__(self):
            alive.remove(id(self))

    def counted(*arguments, **options):
        nonlocal most
        values = Shard(load(*arguments, **options))
        alive.append(id(values))
        most = max(most, len(alive))
        return values

    monkeypatch.setattr(torch, "load", counted)
    MambaLM.from_pretrained(tmp_path)
    # The next one is opened while the last reference to the one before is
    # still held by the loop.
    assert most <= 2


# ---- Wrong folders ---------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A good folder in the official layout, to be spoilt."""
    write_config(tmp_path, official_config())
    write_weights(tmp_path / SAFETENSORS, tensors(small_lm(torch.float32)))
    return tmp_path


def spoilt(folder, change):
    found = safetensors.torch.load_file(folder / SAFETENSORS)
    change(found)
    write_weights(folder / SAFETENSORS, found)


def cast(name, dtype):
    def change(found):
        found[name] = found[name].to(dtype)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop(A_LOG), rf"{SAFETENSORS} lacks .*'{A_LOG}'"),
        (
            lambda f: [f.pop(n) for n in list(f) if "A_log" in n],
            "lacks .*layers.0.*, and 1 more",
        ),
        (
            lambda f: f.update(odd=torch.ones(2)),
            rf"'odd' in .*{SAFETENSORS} is not in the model",
        ),
        (
            lambda f: f.update({A_LOG: torch.ones(16, 4)}),
            rf"'{A_LOG}' in .*{SAFETENSORS} has shape \(16, 4\).*\(16, 3\)",
        ),
        (
            lambda f: f.update({A_LOG: f[A_LOG].T.contiguous()}),
            r"shape \(3, 16\)",
        ),
        (cast(A_LOG, torch.int32), f"'{A_LOG}' .* must be one of F64"),
        (cast(A_LOG, torch.bool), f"'{A_LOG}' .* must be one of F64"),
        (cast(A_LOG, torch.complex64), f"'{A_LOG}' .* must be one of F64"),
        (cast(A_LOG, torch.float16), rf"'{A_LOG}' .* torch\.float16"),
        (
            cast("backbone.norm_f.weight", torch.float64),
            r"norm_f.*torch\.float64",
        ),
        (
            lambda f: f.update({"lm_head.weight": f[EMBEDDING] + 1}),
            "lm_head.weight.* differs from .*embedding.weight",
        ),
        (
            lambda f: f.update({"lm_head.weight": f[EMBEDDING][1:].clone()}),
            r"lm_head.weight.* has shape \(15, 8\)",
        ),
        (
            lambda f: f.update(
                {"backbone.embeddings.weight": f[EMBEDDING].clone()}
            ),
            "is also there as",
        ),
    ],
)
def test_a_tensor_that_does_not_fit(folder, change, message):
    spoilt(folder, change)
    with pytest.raises(CheckpointError, match=message):
        MambaLM.from_pretrained(folder)
    if "float" in message or "differs" in message:
        return  # only a new model takes its dtypes from the file
    model = small_lm(torch.float32, seed=1)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(CheckpointError, match=message):
        model.load_weights(folder)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (official_config(d_model=...), "neither d_model"),
        (official_config(n_layer=...), "lacks n_layer"),
        (official_config(n_layer=..., n_layers=2), "n_layers = 2 is not a"),
        (official_config(d_model=10), r"shape \(.*\)"),
        (official_config(d_model="8"), "d_model must be an integer .* '8'"),
        (official_config(d_model=None), "d_model must be .* None"),
        (official_config(vocab_size=0), "vocab_size .* got 0"),
        (official_config(n_layer=1), "says 1 layers, .* up to number 1"),
        (
            official_config(n_layer=10**9),
            "says 1000000000 layers, .* holds no layer 2, counted from 0",
        ),
        (official_config(d_model=2**31), "in_proj .* d_model = 2147483648"),
        (official_config(d_model=2**70), f"embedding .* d_model = {2**70}"),
        (
            official_config(pad_vocab_size_multiple=2**80),
            f"embedding .* pad_vocab_size_multiple = {2**80}",
        ),
        (
            official_config(ssm_cfg={"d_state": 2**60}),
            f"x_proj .* d_state = {2**60}",
        ),
        (official_config(ssm_cfg={"d_state": 2**50}), r"shape \(16, 3\)"),
        (official_config(ssm_cfg={"dt_rank": True}), "dt_rank .* got True"),
        (official_config(ssm_cfg={"dt_max": math.inf}), "dt_max .* got inf"),
        (
            official_config(ssm_cfg={"dt_scale": math.nan}),
            "dt_scale .* got nan",
        ),
        (official_config(ssm_cfg=[1]), r"ssm_cfg must be an object"),
        (official_config(ssm_cfg={"d_state": 4}), r"shape \(16, 3\)"),
        (official_config(ssm_cfg={"n": 3}), "n = 3 is not a setting"),
        (
            official_config(ssm_cfg={"layer": "Mamba2"}),
            "layer must be 'Mamba1'",
        ),
        (official_config(rms_norm=False), "rms_norm must be True"),
        (official_config(attn_layer_idx=[1]), r"attn_layer_idx must be \[\]"),
        (official_config(d_intermediate=64), "d_intermediate must be 0"),
        (official_config(tie_embeddings="no"), "tie_embeddings .* got 'no'"),
        (official_config(tie_embeddings=False), "lacks tensor 'lm_head.wei"),
        (official_config(mambaviz=3), "mambaviz must be an object"),
        (official_config(mambaviz={"gates": 1}), "gates"),
        (official_config(mambaviz={"selective": 1}), "config.json"),
        (official_config(mambaviz={"selective": [[]]}), "config.json"),
        (official_config(mambaviz={"selective": ["A"]}), "selective"),
        (transformers_config(state_size=...), "lacks state_size"),
        (transformers_config(layer_norm_epsilon=...), "lacks layer_norm_eps"),
        (
            transformers_config(model_type="llama"),
            "model_type must be 'mamba'",
        ),
        (transformers_config(hidden_act="gelu"), "hidden_act must be 'silu'"),
        (transformers_config(intermediate_size=24), "intermediate_size = 24"),
        (transformers_config(hidden_size="a"), "config.json"),
        (
            transformers_config(hidden_size="a", expand=10**12),
            "d_model must be an integer .* got 'a'",
        ),
        (transformers_config(hidden_size=None), "config.json"),
        (transformers_config(layer_norm_epsilon=-1.0), "norm_eps .* -1.0"),
        ([], "must be an object"),
        ({}, "neither d_model"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit(folder, config, message, outside_tests):
    write_config(folder, config)
    with pytest.raises(CheckpointError, match=message) as caught:
        MambaLM.from_pretrained(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", '{"d_model": 8', "\xff\xfe", "[" * 10**5]
)
def test_a_config_that_is_no_json(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        MambaLM.from_pretrained(folder)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match="not a folder"):
        MambaLM.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nothing is downloaded"):
        MambaLM.from_pretrained("state-spaces/mamba-130m")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CheckpointError, match="not a folder"):
        MambaLM.from_pretrained(file)
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        MambaLM.from_pretrained(tmp_path)
    write_config(tmp_path, official_config())
    with pytest.raises(CheckpointError, match="holds no weights"):
        MambaLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("keep", [0, 5, 200, 0.5, 0.99])
def test_a_file_that_was_cut_short(tmp_path, kind, keep):
    write_config(tmp_path, official_config())
    path = tmp_path / {"safetensors": SAFETENSORS, "bin": BIN}[kind]
    write_weights(path, tensors(small_lm(torch.float32)))
    blob = path.read_bytes()
    cut = keep if isinstance(keep, int) else int(keep * len(blob))
    path.write_bytes(blob[:cut])
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
        MambaLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_damaged_file_raises_nothing_else(tmp_path, kind, seed):
    write_config(tmp_path, official_config())
    path = tmp_path / {"safetensors": SAFETENSORS, "bin": BIN}[kind]
    write_weights(path, tensors(small_lm(torch.float32)))
    blob = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    front = min(len(blob), 1500)  # where the structure of the file is
    for at in torch.randint(0, front, (8,), generator=generator).tolist():
        blob[at] ^= 1 + at % 255
    path.write_bytes(blob)
    # Whether it is found depends on where it is: a number may be any number.
    message = str(tmp_path)
    try:
        MambaLM.from_pretrained(tmp_path)
    except CheckpointError as error:
        message = str(error)
    assert str(tmp_path) in message


class Evil:
    """Unpickled as code, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["zip", "plain"])
def test_a_pickle_is_never_run_as_code(tmp_path, how):
    write_config(tmp_path, official_config())
    trace = tmp_path / "was here"
    found = {"backbone": Evil(trace)}
    if how == "zip":
        torch.save(found, tmp_path / BIN)
    else:
        (tmp_path / BIN).write_bytes(pickle.dumps(found, protocol=2))
    with pytest.raises(CheckpointError, match=BIN):
        MambaLM.from_pretrained(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list"),
        ({"model": {A_LOG: torch.ones(2)}}, "holds a dict under 'model'"),
        ({"step": 3}, "holds a int under 'step'"),
        ({7: torch.ones(2)}, "something under 7, where the name of a tensor"),
        (
            {A_LOG: torch.ones(16, 3).to_sparse()},
            f"tensor '{A_LOG}' as torch.sparse_coo",
        ),
    ],
)
def test_a_bin_file_of_something_else(tmp_path, content, message):
    write_config(tmp_path, official_config())
    torch.save(content, tmp_path / BIN)
    with pytest.raises(CheckpointError, match=f"{BIN} .*{message}"):
        MambaLM.from_pretrained(tmp_path)


def test_a_bin_file_without_values(tmp_path):
    write_config(tmp_path, official_config())
    found = tensors(small_lm(torch.float32))
    found[A_LOG] = found[A_LOG].to("meta")
    torch.save(found, tmp_path / BIN)
    message = f"{BIN} holds tensor '{A_LOG}' as torch.strided on meta"
    with pytest.raises(CheckpointError, match=message):
        MambaLM.from_pretrained(tmp_path)
    model = small_lm(torch.float32, seed=1)
    with pytest.raises(CheckpointError, match=message):
        model.load_weights(tmp_path)
    assert_same(model, small_lm(torch.float32, seed=1))


NORM = "backbone.layers.{}.norm.weight"


@pytest.mark.parametrize(
    ("layers", "n_layers", "message"),
    [
        ([], 10**9, "says 1000000000 layers, .* holds no layer 0"),
        ([10**9 - 1], 10**9, "holds no layer 0"),
        ([0, 2], 2, "holds no layer 1"),
        ([0, 2], 3, "holds no layer 1"),
        ([0, 1, 7], 2, "holds layers up to number 7"),
        ([0, 1, "9" * 5000], 2, f"'{NORM.format('9' * 5000)}' in .* no layer"),
        ([0, 1, "01"], 2, f"'{NORM.format('01')}' in .* no layer that has"),
        ([0, 1, "\u0663"], 2, "in .* no layer that has a number"),
        ([0, 1, "last"], 2, f"'{NORM.format('last')}' in .* no layer"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_layers_that_are_not_those_of_the_config(
    tmp_path, layers, n_layers, message
):
    """Found before a model is built, which here would never end."""
    write_config(tmp_path, official_config(n_layer=n_layers))
    found = {NORM.format(layer): torch.ones(8) for layer in layers}
    write_weights(tmp_path / SAFETENSORS, found | {EMBEDDING: torch.ones(8)})
    with pytest.raises(CheckpointError, match=message) as caught:
        MambaLM.from_pretrained(tmp_path)
    assert str(tmp_path / SAFETENSORS) in str(caught.value)


@pytest.fixture
def sharded(tmp_path):
    write_config(tmp_path, official_config())
    path = shard(tmp_path, tensors(small_lm(torch.float32)), "safetensors")
    return path


def reindexed(path, change):
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


FIRST = "model-00001-of-00003.safetensors"
SECOND = "model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    "shard_name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..",
        ".",
        "",
        "..\\outside.safetensors",
        "c:model.safetensors",
        "a\0b",
        7,
        None,
    ],
)
def test_an_index_does_not_lead_out_of_its_folder(sharded, shard_name):
    outside = sharded.parent.parent / "outside.safetensors"
    shutil.copy(sharded.parent / FIRST, outside)

    def change(index):
        index["weight_map"][EMBEDDING] = shard_name

    reindexed(sharded, change)
    with pytest.raises(
        CheckpointError, match=rf"{sharded.name}.*'{EMBEDDING}'.*not the name"
    ):
        MambaLM.from_pretrained(sharded.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda index: index["weight_map"].update({A_LOG: "model-9.safet"}),
            rf"index\.json places tensor '{A_LOG}' in model-9",
        ),
        (lambda index: index.pop("weight_map"), "weight_map must be an obj"),
        (
            lambda index: index["weight_map"].pop(A_LOG),
            rf"has tensor '{A_LOG}', which the index does not place there",
        ),
        (
            lambda index: index["weight_map"].update(odd=FIRST),
            rf"{FIRST} lacks tensor 'odd', which the index does place there",
        ),
        (
            lambda index: index["weight_map"].update(
                dict.fromkeys(index["weight_map"], FIRST)
            ),
            rf"{FIRST} lacks tensor",
        ),
    ],
)
def test_an_index_that_does_not_fit_its_shards(sharded, change, message):
    reindexed(sharded, change)
    with pytest.raises(CheckpointError, match=message):
        MambaLM.from_pretrained(sharded.parent)


def test_a_shard_that_is_missing_or_damaged(sharded):
    folder = sharded.parent
    blob = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(blob[:-1])
    with pytest.raises(CheckpointError, match=f"{SECOND} is damaged"):
        MambaLM.from_pretrained(folder)
    (folder / SECOND).unlink()
    with pytest.raises(CheckpointError, match=f"{SECOND}, which is not there"):
        MambaLM.from_pretrained(folder)
    sharded.write_text("{")
    with pytest.raises(CheckpointError, match=sharded.name):
        MambaLM.from_pretrained(folder)


def test_shards_by_links_as_a_download_cache_has_them(sharded, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in tmp_path.glob("*.safetensors"):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert_same(MambaLM.from_pretrained(tmp_path), small_lm(torch.float32))


def test_the_whole_file_goes_before_shards_and_pickles(sharded):
    folder = sharded.parent
    other = small_lm(torch.float32, seed=1)
    write_weights(folder / BIN, tensors(other))
    assert StoredWeights(folder).path == sharded
    write_weights(folder / SAFETENSORS, tensors(other))
    assert_same(MambaLM.from_pretrained(folder), other)
