import json
import subprocess
from pathlib import Path

import pytest

from mambaviz.records import store

GOOD = {
    "command": "python -m benchmarks.explorables",
    "columns": ["what", "time_ms"],
    "rows": [["a slider", 1.5]],
    "repeats": 3,
    "statistic": "median",
    "checked_against": "nothing to check",
}


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    """As if in a git checkout, which an unpacked archive is not."""
    monkeypatch.setattr(store, "_git_state", lambda: ("0123abcd" * 5, False))


def test_every_record_of_the_package_fits_the_schema():
    for name in store.record_names():
        record = store.read_record(name)
        store.validate_record(record)
        assert record["name"] == name


def test_a_record_says_how_it_came_about(tmp_path):
    path = store.write_record("a_result", folder=tmp_path, **GOOD)
    record = json.loads(path.read_text())
    store.validate_record(record)
    assert record["rows"] == [["a slider", 1.5]]
    assert record["git_commit"] == "0123abcd" * 5
    assert "mambaviz" in record["software"]
    assert "cores" in record["device"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rows": [["a slider"]]}, "1 values for 2 columns"),
        ({"rows": []}, "rows"),
        ({"repeats": 0}, "repeats"),
        ({"statistic": ""}, "statistic"),
    ],
)
def test_a_bad_record_is_refused_and_nothing_written(
    tmp_path, change, complaint
):
    with pytest.raises(ValueError, match=complaint):
        store.write_record("a_result", folder=tmp_path, **(GOOD | change))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_record(tmp_path, monkeypatch):
    path = store.write_record("a_result", folder=tmp_path, **GOOD)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(store.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        store.write_record("a_result", folder=tmp_path, **GOOD)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a_result.json"]


def test_an_unknown_record_is_named():
    with pytest.raises(ValueError, match="no record 'nothing_here'"):
        store.read_record("nothing_here")


def test_a_damaged_record_is_named(tmp_path, monkeypatch):
    (tmp_path / "half.json").write_text('{"schema": 1, "na')
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match=r"half\.json is damaged"):
        store.read_record("half")


def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(store, "ROOM", tmp_path)
    monkeypatch.setattr(store, "RESULTS", tmp_path / "results")
    with pytest.raises(ValueError, match="in a git checkout"):
        store.write_record("a_result", folder=tmp_path, **GOOD)

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        subprocess.run(command, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "--message", "first")
    for tree, dirty in (("results/a.json", False), ("changed.py", True)):
        path = tmp_path / tree
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
        commit, is_dirty = store._git_state()
        assert len(commit) == 40
        assert is_dirty is dirty, tree


def test_the_readme_quotes_the_record_of_the_explorables():
    record = store.read_record("explorable_latency")
    column = record["columns"].index("input_and_drawing_p95_ms")
    slowest = max(row[column] or 0 for row in record["rows"])
    readme = Path(__file__).parents[2] / "README.md"
    assert f"drawn in {slowest} ms" in readme.read_text(encoding="utf-8")
