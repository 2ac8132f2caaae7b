import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchestrator.schedule import job_folder
from orchestrator.schedule.job_folder import JobFolder, Terms, load_terms
from tests.schedule.fake_cluster import dump_job

SCHEDULE = {"cron": "0 2 * * *"}


NAMED = {"input": "/x", "model": "/m"}


def dump(**changes: object) -> str:
    body = {"name": "bad", "kind": "score", "args": NAMED, "schedule": SCHEDULE}
    return yaml.safe_dump(body | changes)


def write(text: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text.encode() if isinstance(text, str) else text)


def close_to_others(path: Path) -> None:
    path.write_text(dump())
    path.chmod(0)


# What may stand where a job file is looked for, and what is said of it.
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no YAML": (write("name: ["), "line 1: not valid YAML"),
    "a date": (write(dump().replace("/x", "2026-02-30") + "\nday: 2026-02-30"), "unknown key day"),
    "deep nesting": (write("a: " + "[" * 100_000), "nested more than 50 deep"),
    "deep mappings": (write("{a: " * 100_000), "nested more than 50 deep"),
    "no text": (write(b"\xff\xfe\x00\x01" * 100), "is not UTF-8 text"),
    "empty": (write(""), "is empty"),
    "huge": (write("a: " + "x" * 2**21), "is larger than"),
    "a list": (write("- a"), "holds a list"),
    "no kind": (write(dump(kind="sweep")), "kind='sweep'"),
    "a bad cron": (write(dump(schedule={"cron": "0 2 * *"})), "has 4 fields"),
    "a bad argument": (write(dump(args={"input": "/x", "batch_size": 0})), "batch_size=0"),
    "a missing argument": (write(dump(args={})), "input is required"),
    "a folder of runs that is a number": (
        write(dump(args={"input": "/x", "out_root": 5})),
        "out_root=5",
    ),
    "an output that is a list": (write(dump(args={"input": "/x", "out": ["/y"]})), "out=['/y']"),
    "a fixed output": (write(dump(args={"input": "/x", "out": "/y"})), "give out_root in place"),
    "no model": (
        write(dump(args={"input": "/x"})),
        "bad: a scheduled score job must name its model, since the newest bundle may change "
        "between runs; add model under args, such as models:production",
    ),
    "a folder": (lambda path: path.mkdir(), "is not a regular file"),
    "a pipe": (os.mkfifo, "is not a regular file"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "another's name": (write(dump(name="good")), "the name good is a-good.yaml's"),
    "not to be read": (close_to_others, "Permission denied"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_wrong_with_a_file_is_told_of_that_file_alone(
    tmp_path: Path, fault: str
) -> None:
    if fault == "not to be read" and os.geteuid() == 0:
        pytest.skip("root may read anything")
    dump_job(tmp_path, "good", schedule=SCHEDULE).rename(tmp_path / "a-good.yaml")
    dump_job(tmp_path, "second", schedule=SCHEDULE)
    make, said = FAULTS[fault]
    make(tmp_path / "bad.yaml")
    folder = JobFolder(tmp_path)
    for _ in range(2):  # read, and remembered
        loaded = folder.load()
        assert set(loaded.jobs) == {"good", "second"}
        assert set(loaded.faults) == {"bad.yaml"}
        assert said in loaded.faults["bad.yaml"]
        assert loaded.faults["bad.yaml"].isprintable()
        assert loaded.problem is None
    (tmp_path / "bad.yaml").rmdir() if fault == "a folder" else (tmp_path / "bad.yaml").unlink()
    dump_job(tmp_path, "bad", schedule=SCHEDULE)
    assert JobFolder(tmp_path).load().faults == folder.load().faults == {}
    assert set(folder.load().jobs) == {"good", "second", "bad"}


def test_an_exception_that_nobody_thought_of_is_one_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump_job(tmp_path, "bad", schedule=SCHEDULE)
    dump_job(tmp_path, "good", schedule=SCHEDULE)
    original = job_folder.load_job

    def load_job(path: Path) -> object:
        if path.name == "bad.yaml":
            raise RecursionError("too\ndeep")
        return original(path)

    monkeypatch.setattr(job_folder, "load_job", load_job)
    loaded = JobFolder(tmp_path).load()
    assert set(loaded.jobs) == {"good"}
    assert loaded.faults["bad.yaml"].endswith(r"RecursionError: too\ndeep")


@pytest.mark.parametrize("name", [b"a\nb.yaml", b"a\x1b[31mb.yaml", b"\xff.yaml"])
def test_a_file_of_any_name_is_told_in_one_printable_line(tmp_path: Path, name: bytes) -> None:
    with open(os.path.join(os.fsencode(tmp_path), name), "w") as file:  # noqa: PTH118, PTH123
        file.write("name: [")
    ((shown, problem),) = JobFolder(tmp_path).load().faults.items()
    for text in (shown, problem):
        assert text.isprintable()
        text.encode()


def test_a_link_that_hangs_keeps_nobody_from_the_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_folder, "_LINK_LIMIT_S", 0.2)
    elsewhere = tmp_path / "share"
    elsewhere.mkdir()
    dump_job(elsewhere, "linked", schedule=SCHEDULE)
    dump_job(tmp_path, "good", schedule=SCHEDULE)
    (tmp_path / "linked.yaml").symlink_to(elsewhere / "linked.yaml")
    back = threading.Event()
    original = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path.name == "linked.yaml":
            back.wait(60)  # as on a share whose server is gone
        return original(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    folder = JobFolder(tmp_path)
    for _ in range(3):
        loaded = folder.load()
        assert set(loaded.jobs) == {"good"}
        assert "no answer within 0.2 s" in loaded.faults["linked.yaml"]
    back.set()
    monkeypatch.setattr(job_folder, "_LINK_LIMIT_S", 30.0)
    assert set(JobFolder(tmp_path).load().jobs) == {"good", "linked"}


def test_a_folder_that_is_away_says_nothing_of_its_files(tmp_path: Path) -> None:
    dump_job(tmp_path, "good", schedule=SCHEDULE)
    folder = JobFolder(tmp_path / "jobs")
    loaded = folder.load()
    assert "cannot list" in (loaded.problem or "")
    assert (loaded.jobs, loaded.faults) == ({}, {})


def test_a_job_that_another_version_stored_has_no_terms_that_are_not_understood() -> None:
    assert load_terms('{"timeout": "400d", "retries": 2}') == Terms()
    assert load_terms("{") == Terms()
    assert load_terms('{"retries": 2, "new": 1}').retries == 2
