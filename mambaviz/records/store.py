"""Write and read records: a result together with how it came about."""

import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from mambaviz import __version__

ROOM = Path(__file__).parent
RESULTS = ROOM / "results"
SCHEMA = 1


def record_names() -> list[str]:
    """The names of the records that the package carries."""
    return sorted(path.stem for path in RESULTS.glob("*.json"))


def read_record(name: str) -> dict:
    """A record of the package, as it was written.

    Args:
        name: one of :func:`record_names`.

    Raises:
        ValueError: there is no record of that name, or its file is damaged.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise ValueError(
            f"there is no record {name!r}; there are {record_names()}"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error


def validate_record(record: Mapping) -> None:
    """Check a record against ``record.schema.json``.

    Raises:
        ValueError: what is missing or wrong, and where.
    """
    # Only who writes or tests records needs this library.
    import jsonschema

    schema = json.loads((ROOM / "record.schema.json").read_text("utf-8"))
    try:
        jsonschema.validate(record, schema)
    except jsonschema.ValidationError as error:
        where = "/".join(map(str, error.absolute_path)) or "the record"
        raise ValueError(f"{where}: {error.message}") from error
    width = len(record["columns"])
    for k, row in enumerate(record["rows"]):
        if len(row) != width:
            raise ValueError(
                f"rows/{k}: {len(row)} values for {width} columns: {row}"
            )


def write_record(
    name: str,
    *,
    command: str,
    columns: Sequence[str],
    rows: Sequence[Sequence],
    repeats: int,
    statistic: str,
    checked_against: str,
    max_abs_error: float | None = None,
    seed: int | None = None,
    config: Mapping | None = None,
    device: str | None = None,
    software: Mapping[str, str] | None = None,
    folder: Path = RESULTS,
) -> Path:
    """Write a record, all of it or nothing.

    Args:
        name: the record's and the file's name, in snake case.
        command: what makes the record again.
        columns: what each value of a row is, with its unit.
        rows: the values.
        repeats: how often each value was measured.
        statistic: what the values are of these, such as ``"median"``.
        checked_against: the reference that the measured thing agreed with.
        max_abs_error: the largest difference from it, where it is a number.
        seed: of the random numbers, if there were any.
        config: settings that the result depends on.
        device: what it ran on; by default this machine's processor.
        software: versions beyond Python's and the package's.
        folder: where to write, by default into the package.

    Returns:
        The path of the file.

    Raises:
        ValueError: the record does not fit the schema.
    """
    commit, dirty = _git_state()
    record = {
        "schema": SCHEMA,
        "name": name,
        "created": date.today().isoformat(),
        "command": command,
        "git_commit": commit,
        "git_dirty": dirty,
        "device": device or _processor(),
        "software": {
            "python": platform.python_version(),
            "mambaviz": __version__,
            **(software or {}),
        },
        "seed": seed,
        "config": dict(config or {}),
        "repeats": repeats,
        "statistic": statistic,
        "checked_against": checked_against,
        "max_abs_error": max_abs_error,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
    }
    validate_record(record)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    replace_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path


def replace_text(path: Path, text: str) -> None:
    """Write a file so that no reader ever sees half of it."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOM), *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def _git_state() -> tuple[str, bool]:
    """The commit, and whether the tree differs from it (records aside)."""
    try:
        changed = _git("status", "--porcelain", "--", ":/", ":!results")
        return _git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(
            "a record names the commit it was made from, so it is written in"
            f" a git checkout: {error}"
        ) from error


def _processor() -> str:
    name = platform.processor() or platform.machine()
    try:
        found = re.search(
            r"^model name\s*:\s*(.+)$",
            Path("/proc/cpuinfo").read_text(),
            re.MULTILINE,
        )
    except OSError:
        found = None
    return f"{found[1] if found else name}, {os.cpu_count()} cores"
