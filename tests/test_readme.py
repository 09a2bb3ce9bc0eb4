"""The examples in README.md are run, as a reader would copy them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mambaviz.records.store import read_record

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.M)


def test_there_is_one_for_each_door():
    doors = ("selective_scan(", ".generate(", "MambaLM.from_pretrained(")
    for door in (*doors, "MemoryDecay(", "stand_in("):
        assert sum(door in example for example in EXAMPLES) == 1, door


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where a reader stands, with a small model by the name of a large one."""
    from mambaviz.models import MambaConfig, MambaLM

    torch.manual_seed(0)
    model = MambaLM(MambaConfig(d_model=8, n_layers=1, vocab_size=16))
    model.save_pretrained(tmp_path / "mamba-130m-hf", layout="transformers")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number, folder):
    result = subprocess.run(
        [sys.executable, "-c", EXAMPLES[number]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_the_checkpoint_has_changed_its_layout_and_nothing_else(folder):
    from mambaviz.models import MambaLM

    (example,) = (e for e in EXAMPLES if "MambaLM.from_pretrained(" in e)
    exec(compile(example, "README.md", "exec"), {})
    before = MambaLM.from_pretrained("mamba-130m-hf").state_dict()
    after = MambaLM.from_pretrained("mamba-130m").state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert (folder / "mamba-130m" / "config.json").is_file()


def official_over_ours():
    """How many times as long it takes, by what is scanned and how."""
    record = read_record("selective_scan_h200")
    median = record["columns"].index("median_ms")
    ms = {tuple(row[:7]): row[median] for row in record["rows"]}
    return {
        key[1:]: ms["official", *key[1:]] / ours
        for key, ours in ms.items()
        if key[0] == "fused"
    }


def ratios_of_the_large_size():
    """Forwards in bfloat16 and float32, then both ways."""
    ratio = official_over_ours()
    return [
        ratio[8, 2048, 2048, 16, dtype, mode]
        for mode in ("forward", "forward + backward")
        for dtype in ("bfloat16", "float32")
    ]


def test_speeds_are_those_of_the_record():
    said = (
        "{:.1f} times as long forwards in bfloat16 and {:.1f} times in "
        "float32, and {:.1f} and {:.1f} times forwards and backwards"
    )
    text = " ".join(README.split())
    assert said.format(*ratios_of_the_large_size()) in text


def test_the_official_kernel_is_nowhere_faster():
    """In any size of the record, and by how much at least and at most."""
    ratios = {"forward": [], "forward + backward": []}
    for (batch, *_, mode), ratio in official_over_ours().items():
        assert ratio > 1
        if batch != 8:
            ratios[mode].append(ratio)
    forward, both = ratios.values()
    assert len(forward) == len(both) == 14
    text = " ".join(README.split())
    assert f"At {len(forward)} other sizes" in text
    said = f"{min(forward):.2f} to {max(forward):.2f} times as long forwards"
    also = f"{min(both):.2f} to {max(both):.2f} times forwards and backwards"
    assert f"{said}, and {also}" in text


def test_the_changelog_has_the_figures_of_the_records():
    text = " ".join((ROOT / "CHANGELOG.md").read_text("utf-8").split())
    said = (
        "{:.1f} times as fast forwards in bfloat16 and {:.1f} in float32, "
        "{:.1f} and {:.1f} times forwards and backwards"
    )
    assert said.format(*ratios_of_the_large_size()) in text
    record = read_record("selective_scan_cpu")
    who = record["columns"].index("contender")
    ratio = record["columns"].index("mambapy_over_it")
    plain, compiled = (
        [row[ratio] for row in record["rows"] if row[who] == rung]
        for rung in ("chunked", "cpu")
    )
    assert (
        f"in plain PyTorch {min(plain):.1f} to {max(plain):.1f} times as "
        f"fast, compiled {min(compiled):.1f} to {max(compiled):.0f} times"
    ) in text


def rows_of_language_models():
    record = read_record("language_models_h200")
    return [
        dict(zip(record["columns"], row, strict=True))
        for row in record["rows"]
    ]


def test_tokens_a_second_are_those_of_the_record():
    """Of generation and of training, and the memory."""
    rows = rows_of_language_models()
    rows = [row for row in rows if row["parameters"] > 3e8]

    def row_of(what, model, batch, mode="generate", length=2048):
        (row,) = (
            row
            for row in rows
            if (row["what"], row["model"], row["batch"], row["mode"])
            == (what, model, batch, mode)
            and row["length"] == length
        )
        return row

    def of(*which):
        row = row_of(*which)
        return (
            f"{row['tokens_per_s']:,.0f}",
            f"{row['peak_memory_mib'] / 1024:.0f} GiB",
        )

    graph = "mambaviz, graph, SDPA", "Transformer"
    mamba = "mambaviz", "Mamba"
    training = "training step"
    alone = [
        row_of(*which, 128)["median_ms"]
        - row_of("mambaviz", which[1], 128, "prompt")["median_ms"]
        for which in (mamba, graph)
    ]

    def faster(one, other):
        return row_of(*one)["tokens_per_s"] / row_of(*other)["tokens_per_s"]

    loop = "mambaviz, growing cache", "Transformer"
    assert 4 < faster((*mamba, 32), (*loop, 32)) < 5, "the paper's factor"
    assert faster((*mamba, 1), (*graph, 1)) > 1, "Mamba is ahead"
    for what in ("mambaviz", "mambaviz, compiled"):
        models = [(what, m, 8, training) for m in ("Transformer", "Mamba")]
        assert faster(*models) > 1, "the Transformer wins"
    text = " ".join(README.split())
    for said in (
        "{} tokens a second in {};".format(*of(*mamba, 128)),
        "also as a graph, gave {} in {}.".format(*of(*graph, 128)),
        "prompt, took {:.2f} s and {:.2f} s: a factor of {:.1f}.".format(
            *(ms / 1e3 for ms in alone), alone[1] / alone[0]
        ),
        f"Mamba is ahead, by {of(*mamba, 1)[0]} to {of(*graph, 1)[0]}.",
        f"whose cache grows gave {of(*loop, 32)[0]}, one as a graph "
        f"{of(*graph, 32)[0]}, Mamba {of(*mamba, 32)[0]}:",
        f"{of('mambaviz', 'Transformer', 8, training)[0]} tokens a second, "
        f"Mamba {of(*mamba, 8, training)[0]}; compiled by PyTorch, "
        f"{of('mambaviz, compiled', 'Transformer', 8, training)[0]} and "
        f"{of('mambaviz, compiled', 'Mamba', 8, training)[0]}.",
    ):
        assert said in text, said
    said = (
        "{:.1f} times as fast as a Transformer of that size, and {:.1f} times "
        "with the reading of the prompt"
    )
    whole = [row_of(*which, 128)["median_ms"] for which in (mamba, graph)]
    changes = " ".join((ROOT / "CHANGELOG.md").read_text("utf-8").split())
    assert said.format(*(a[1] / a[0] for a in (alone, whole))) in changes


def test_the_time_of_transformers_is_that_of_the_record():
    """Its Mamba forwards and backwards, as it is and with ours in place."""
    rows = rows_of_language_models()
    plain, ours = (
        row
        for what in ("transformers", "transformers with stand_in()")
        for row in rows
        if row["what"] == what
        and row["mode"] == "forward + backward, float32"
        and (row["batch"], row["length"]) == (1, 512)
    )
    said = "{:.1f} s forwards and backwards over 512 tokens, and {:.2f} s"
    text = " ".join(README.split())
    assert said.format(*(r["median_ms"] / 1e3 for r in (plain, ours))) in text
