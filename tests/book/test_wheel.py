"""The wheel that the built book carries."""

import os
import shutil
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
    in_notebooks = [need for need in needs if 'extra == "notebook"' in need]
    assert any(need.startswith("anywidget") for need in in_notebooks)


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
