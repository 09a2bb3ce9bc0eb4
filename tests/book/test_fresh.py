"""No output is older than the package that made it."""

import os

import pytest

from mambaviz.book import execution
from tests.book.conftest import NOTEBOOK, Book, cell, copy_package


@pytest.mark.build
def test_outputs_follow_the_package_and_nothing_else(tmp_path):
    repository = copy_package(tmp_path / "repository")
    sample = repository / "mambaviz" / "sample.py"
    sample.write_text("ANSWER = 'first answer'\n")
    book = Book(tmp_path / "book", repository)
    book.write(
        {
            "index": "# Fresh\n",
            "sample": NOTEBOOK
            + "# Sample\n"
            + cell("from mambaviz.sample import ANSWER\n\nprint(ANSWER)"),
        }
    )
    assert "[2/2] sample … executed in " in book.build_well()
    assert "first answer" in book.page("chapters/sample.html")

    assert "no chapter has changed since the last build" in book.build_well()

    chapter = book.folder / "chapters" / "sample.md"
    chapter.write_text(chapter.read_text() + "\nMore words.\n")
    printed = book.build_well()
    assert "[1/1] sample … unchanged, from the cache" in printed
    assert "More words." in book.page("chapters/sample.html")

    sample.write_text("ANSWER = 'second answer'\n")
    assert "[2/2] sample … executed in " in book.build_well()
    page = book.page("chapters/sample.html")
    assert "second answer" in page
    assert "first answer" not in page


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "code.py").write_text("x = 1\n")
    return folder


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("code.py", True),
        ("records/results/speed.json", True),
        ("records/weights/small.safetensors", True),
        ("book/claims.yml", True),
        ("widgets/hold_it.js", False),
        ("book/static/book.css", False),
        ("book/templates/404.html", False),
        ("book/static/logo.svg", False),
        ("__pycache__/code.cpython-311.pyc", False),
    ],
)
def test_what_counts_for_the_fingerprint(package, name, counts):
    before = execution.fingerprint(package)
    assert execution.fingerprint(package) == before
    path = package / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("something else\n")
    assert (execution.fingerprint(package) != before) == counts


def test_a_moved_file_and_a_new_library_count(package, monkeypatch):
    before = execution.fingerprint(package)
    (package / "code.py").rename(package / "moved.py")
    moved = execution.fingerprint(package)
    monkeypatch.setattr(execution.metadata, "version", lambda name: "99")
    assert len({before, moved, execution.fingerprint(package)}) == 3


def test_only_the_newest_caches_are_kept(tmp_path):
    class App:
        outdir = tmp_path / "html"

    class Config:
        pass

    caches = tmp_path / ".jupyter_cache"
    for age, name in enumerate(["a" * 16, "b" * 16, "c" * 16, "not ours"]):
        (caches / name).mkdir(parents=True)
        os.utime(caches / name, (1e9 - age, 1e9 - age))
    config = Config()
    execution.choose_cache(App(), config)
    assert {path.name for path in caches.iterdir()} == {
        config.mambaviz_fingerprint,
        "a" * 16,
        "not ours",
    }
    assert config.nb_execution_cache_path == str(
        caches / config.mambaviz_fingerprint
    )


def test_the_kernels_environment_is_there_for_the_build_alone(monkeypatch):
    monkeypatch.delenv("MAMBAVIZ_STATIC", raising=False)
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    environment = execution.KernelEnvironment()
    environment.enter(None)
    assert os.environ["MAMBAVIZ_STATIC"] == "1"
    assert os.environ["PYTHONHASHSEED"] == "0"
    environment.leave(None, None)
    assert "MAMBAVIZ_STATIC" not in os.environ
    assert os.environ["PYTHONHASHSEED"] == "random"
