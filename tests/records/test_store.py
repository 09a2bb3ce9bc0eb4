import json

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
    assert len(record["git_commit"]) == 40
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
