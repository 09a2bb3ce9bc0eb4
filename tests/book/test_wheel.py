"""The wheel that the built book carries."""

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import mambaviz
from mambaviz.book.wheel import write_wheel

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mambaviz"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return write_wheel(ROOT, tmp_path_factory.mktemp("wheels"))


@pytest.fixture
def checkout(tmp_path):
    """Another checkout: made at another time, by a user of other habits."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, root / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, root / "mambaviz", ignore=ignored)
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))
        if path.is_file():
            path.chmod(0o600)
    return root


def test_its_name_says_the_version(wheel):
    assert wheel.name == f"mambaviz-{mambaviz.__version__}-py3-none-any.whl"


def test_it_holds_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if n.startswith("mambaviz/")}
    there = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == there


@pytest.mark.parametrize(
    "pattern",
    [
        "records/*.schema.json",
        "records/results/*.json",
        "widgets/*.js",
        "widgets/lib/*.js",
        "widgets/*.css",
        "figures/*.css",
        "exercises/*.css",
        "book/static/*.js",
        "book/templates/*.html",
    ],
)
def test_it_holds_what_is_not_python(wheel, pattern):
    wanted = sorted(PACKAGE.glob(pattern))
    assert wanted, f"nothing matches {pattern} in the package any more"
    with zipfile.ZipFile(wheel) as archive:
        for path in wanted:
            name = path.relative_to(ROOT).as_posix()
            assert archive.read(name) == path.read_bytes()


def test_its_metadata_tells_pip_what_a_notebook_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        assert any(n.endswith("/licenses/LICENSE") for n in archive.namelist())
    assert metadata["Requires-Python"] == ">=3.11"
    needs = metadata.get_all("Requires-Dist")
    assert any(need.startswith("torch") for need in needs)
    for extra, library in (
        ("notebook", "anywidget"),
        ("fast", "numba"),
        ("gpu", "triton"),
    ):
        asked = [need for need in needs if f'extra == "{extra}"' in need]
        assert any(need.startswith(library) for need in asked), extra


# What runs from the wheel where nothing of the book is, and nothing that makes
# a scan fast. A module that is None in sys.modules cannot be imported.
ELSEWHERE = """
import sys, warnings
for absent in ("numba", "llvmlite", "triton", "matplotlib", "plotly",
               "anywidget", "ipywidgets", "sphinx"):
    sys.modules[absent] = None

import torch
import mambaviz
from mambaviz.models import MambaConfig, MambaLM
from mambaviz.ops.selective_scan import selective_scan, unavailable
from mambaviz.records import store
from mambaviz.theory import half_life

print(mambaviz.__file__)
for name in store.record_names():
    assert store.read_record(name)["name"] == name
assert half_life(-1.0, 0.1) > 6.9
for missing, library in (("cpu", "Numba"), ("fused", "Triton")):
    assert library.lower() in unavailable(missing).lower(), missing

x = torch.rand(1, 5, 2)
A, B = -torch.ones(2, 3), torch.ones(1, 5, 3)
with warnings.catch_warnings(record=True) as notices:
    warnings.simplefilter("always")
    y = selective_scan(x, x, A, B, B)
assert any("numba" in str(notice.message).lower() for notice in notices)
judge = selective_scan(x, x, A, B, B, backend="reference")
torch.testing.assert_close(y, judge)

model = MambaLM(MambaConfig(d_model=8, n_layers=1, vocab_size=16))
model.save_pretrained("checkpoint")
prompt = torch.tensor([[1, 2, 3]])
again = MambaLM.from_pretrained("checkpoint")
assert torch.equal(again.generate(prompt, 4), model.generate(prompt, 4))
"""


def test_it_runs_elsewhere_without_what_is_optional(wheel, tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
    pip += ["--no-deps", "--no-compile", "--target", site, wheel]
    subprocess.run(pip, check=True)
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(site / "mambaviz" / "__init__.py")


def test_two_checkouts_give_the_same_bytes(wheel, checkout, tmp_path):
    other = write_wheel(checkout, tmp_path / "wheels")
    assert other.name == wheel.name
    assert other.read_bytes() == wheel.read_bytes()


def test_a_changed_file_gives_other_bytes(wheel, checkout, tmp_path):
    with (checkout / "mambaviz" / "theme.py").open("a") as theme:
        theme.write("\n")
    other = write_wheel(checkout, tmp_path / "wheels")
    assert other.read_bytes() != wheel.read_bytes()


@pytest.mark.parametrize("before", [None, "12345"])
def test_the_variable_for_the_time_is_put_back(monkeypatch, tmp_path, before):
    if before is None:
        monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    else:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", before)
    write_wheel(ROOT, tmp_path)
    assert os.environ.get("SOURCE_DATE_EPOCH") == before
    assert [path.suffix for path in tmp_path.iterdir()] == [".whl"]
