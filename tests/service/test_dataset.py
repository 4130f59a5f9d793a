"""The embedded data set: complete, always the same, never half there."""

import contextlib
import sqlite3

import pytest

from bot.service import dataset


def rows(path, query):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_it_is_large_and_whole(data_dir):
    path = data_dir / "phase4.db"
    counts = {
        table: rows(path, f"SELECT COUNT(*) FROM {table}")[0][0] for table in ("users", "files", "downloads")
    }
    assert counts["users"] == dataset.USERS
    assert counts["files"] >= dataset.FILES  # uploads of other tests may have joined
    assert counts["downloads"] == dataset.DOWNLOADS
    assert sum(counts.values()) >= 50_000
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "PRAGMA foreign_key_check") == []


def test_it_is_the_same_each_time(tmp_path, monkeypatch):
    for size in ("USERS", "FILES", "DOWNLOADS"):
        monkeypatch.setattr(dataset, size, 200)
    contents = []
    for name in ("one", "two"):
        dataset.ensure(tmp_path / name / "phase4.db", lambda line: None)
        contents.append(
            [
                rows(tmp_path / name / "phase4.db", f"SELECT * FROM {t}")
                for t in ("users", "files", "downloads")
            ]
        )
    assert contents[0] == contents[1]


def test_progress_is_told_and_a_second_start_makes_nothing(tmp_path, monkeypatch):
    for size in ("USERS", "FILES", "DOWNLOADS"):
        monkeypatch.setattr(dataset, size, 200)
    lines = []
    dataset.ensure(tmp_path / "phase4.db", lines.append)
    assert lines[-1].endswith("600 of 600 rows")
    lines.clear()
    dataset.ensure(tmp_path / "phase4.db", lines.append)
    assert lines == []


def test_an_interrupted_start_leaves_no_half(tmp_path):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.ensure(tmp_path / "phase4.db", interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("held", ["damaged", "another program's"])
def test_what_was_at_its_place_is_kept_and_told(tmp_path, monkeypatch, caplog, held):
    for size in ("USERS", "FILES", "DOWNLOADS"):
        monkeypatch.setattr(dataset, size, 200)
    path = tmp_path / "phase4.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")
        connection.commit()
    if held == "damaged":
        path.write_bytes(b"XXXX" + path.read_bytes()[4:])
    before = path.read_bytes()
    dataset.ensure(path, lambda line: None)
    (kept,) = tmp_path.glob("*.kept")
    assert kept.read_bytes() == before
    assert kept.name in caplog.text


def test_one_that_is_locked_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    for size in ("USERS", "FILES", "DOWNLOADS"):
        monkeypatch.setattr(dataset, size, 200)
    path = tmp_path / "phase4.db"
    dataset.ensure(path, lambda line: None)
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda where: real(where, timeout=0.01))
    with contextlib.closing(real(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            dataset.ensure(path, lambda line: None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["phase4.db"]
