"""What may stand in a YAML file: read as plain values, or refused with the line, and never more."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.load import build_resources, build_spec, dump_job, load_job
from orchestrator.config.specs import SPECS
from orchestrator.errors import SpecError
from orchestrator.launcher.check import check_launcher
from orchestrator.launcher.file import load_launcher
from tests.conftest import ROOT

READERS = pytest.mark.parametrize("load", [load_job, load_launcher])
JOB = "name: a\nkind: score\nargs:\n  input: "

BOMB = "a0: &a0 [lol, lol, lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "key twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
    "nested key twice": ("a: {b: 1, b: 2}", "line 1: the key 'b' stands twice"),
    "merge twice": ("a: {<<: {b: 1}, <<: {c: 1}}", "line 1: the key '<<' stands twice"),
    "key of an alias twice": ("&x a: 1\n*x : 2", "line 1: the key 'a' stands twice"),
    "billion laughs": (BOMB, "line 5: more than 1048576 bytes"),
    "long text repeated": (
        f"a: &a {'x' * 2000}\nb: [{', '.join(['*a'] * 600)}]",
        "line 2: more than 1048576 bytes",
    ),
    "merges that explode": (
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9)),
        "more than 1048576 bytes",
    ),
    "alias of itself": ("a: &a [*a]", "line 1: the alias stands inside the value"),
    "merge of itself": ("a: &a\n  <<: *a", "line 2: the alias stands inside the value"),
    "no such anchor": ("a: *b", "line 1: found undefined alias 'b'"),
    "many values": ("a: [" + "1," * 30_000 + "]", "line 1: more than 1048576 bytes"),
    "large file": ("a: " + "x" * 2**20, "is larger than 1048576 bytes"),
    "deep lists": ("a:\n  " + "[" * 5000, "line 2: values nested more than 50 deep"),
    "deep mappings": ("a: " + "{a: " * 5000, "line 1: values nested more than 50 deep"),
    "deep blocks": ("a:\n" + "- " * 5000, "line 2: values nested more than 50 deep"),
    "long number": ("a:\n- " + "1" * 5000, "line 2: '1{57}...' cannot be used as .* int"),
    "long hexadecimal": ("a: 0x" + "f" * 5000, "line 1: '0xf.*' cannot be used as .* int"),
    "hexadecimal without digits": ("a: 0x_", "line 1: '0x_' cannot be used as .* int"),
    "no integer": ("a: !!int x", "line 1: 'x' cannot be used as .* int"),
    "empty integer": ("a: !!int ''", "line 1: '' cannot be used as .* int"),
    "no boolean": ("a: !!bool maybe", "line 1: 'maybe' cannot be used as .* bool"),
    "not a number": ("a: .nan", "line 1: '.nan' cannot be used as .* float"),
    "infinite": ("a: 1.0e+999", "line 1: '1.0e[+]999' cannot be used as .* float"),
    "python tag": (
        "a: !!python/name:os.system",
        "line 1: the tag .*python/name",
    ),
    "python call": ("!!python/object/apply:os.system ['true']", "line 1: the tag"),
    "date tag": ("a: !!timestamp 2026-02-30", "line 1: the tag .*timestamp"),
    "set": ("a: !!set {b}", "line 1: the tag .*set"),
    "binary": ("a: !!binary eA==", "line 1: the tag .*binary"),
    "tag of a list": ("a: !!map [b]", "line 1: expected a mapping node, but found sequence"),
    "merge of text": ("a: {<<: b}", "line 1: .*expected a mapping or list of mappings"),
    "number as key": ("a: 1\n1: 2", "line 2: the key '1' is not text; put it in quotes"),
    "boolean as key": ("on: 1", "line 1: the key 'on' is not text"),
    "list as key": ("? [a]\n: b", "line 1: a list or a mapping stands as a key"),
    "Latin-1": ("a: 1\nb: ä".encode("latin-1"), "is not UTF-8 text at line 2"),
    "UTF-16": ("a: 1".encode("utf-16"), "is not UTF-8 text at line 1"),
    "NUL": ("a: 1\nb: \0", r"line 2: the character '\\x00' is not allowed"),
    "NUL escaped": ('a: "x\\0"', r"line 1: 'x\\x00' cannot be used as text"),
    "half a surrogate pair": ('a: "\\ud800"', r"line 1: '\\ud800' cannot be used as text"),
    "escape out of range": ('a: 1\nb: "\\UFFFFFFFF"', "line 2: not valid YAML: an escape"),
    "version of many digits": ("%YAML " + "1" * 5000 + ".1\n---\na: 1", "line 1: not valid YAML"),
    "tab": ("a:\n\tb: 1", "line 2: not valid YAML: .*cannot start any token"),
    "open list": ("a: [1,\nb", "line 2: not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: expected a single document"),
    "empty": ("# nothing\n", "is empty; expected"),
    "a list": ("- a", "holds a list; expected"),
    "a date": ("2026-02-30", "holds a str; expected"),
}


@READERS
@pytest.mark.parametrize("name", REFUSED)
def test_odd_and_hostile_files_are_one_line_with_the_place(
    name: str, load: Callable[[Path], Any], tmp_path: Path
) -> None:
    content, message = REFUSED[name]
    path = tmp_path / "f.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.monotonic()
    with pytest.raises(SpecError, match=message) as caught:
        load(path)
    assert time.monotonic() - began < 10
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    ["2026-02-30", "2026-01-01", "2026-02-30T25:61:00Z", "2026-1-1 1:2:3 +99:99", "=", "0o_"],
)
def test_what_only_looks_like_a_date_or_a_number_is_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(JOB + text)
    assert load_job(path).args["input"] == str(tmp_path / text)


def test_aliases_and_merges_within_reason_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "name: a\nkind: train\n"
        "resources: &r {workers: 2, gpus_per_worker: 0}\n"
        "args: {data: &d /x, out: *d, limits: {<<: {max_bytes: 1, max_pixels: 2}, max_bytes: 3}}\n"
    )
    job = load_job(path)
    assert job.args["data"] == job.args["out"] == "/x"
    assert job.args["limits"] == {"max_bytes": 3, "max_pixels": 2}


def test_a_name_that_is_no_utf8_survives_a_stored_job(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(JOB + '"/x/\\udcff"')
    job = load_job(path)
    path.write_text(dump_job(job), encoding="utf-8")
    assert load_job(path).args["input"] == job.args["input"] == "/x/\udcff"


def test_a_job_with_as_many_inputs_as_there_may_be_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    names = [f"/data/hospital/ward/{'x' * 100}/{i}" for i in range(1000)]
    path.write_text(JOB + f"[{', '.join(names)}]")
    job = load_job(path)
    path.write_text(dump_job(job))
    assert load_job(path) == job


# What random places of a file are replaced by.
BITS = [
    *(b"&a ", b"*a", b"<<: ", b"!!int ", b"!!bool ", b"!!timestamp ", b"!!python/name:os.system "),
    *(b"!!set ", b"!!null ", b"!<x> ", b"!", b"2026-02-30", b"2026-02-30T25:61:00Z", b"1e400"),
    *(b"1" * 5000, b"9" * 99, b"-.inf", b".nan", b"0x_", b"6:00", b"~nobody/x", b"~", b"yes", b"="),
    *(b"\t", b"\0", b"\xff", b"\xed\xa0\x80", b'"\\0"', b'"\\ud800"', b'"\\x1b[31m"', b'"a\\nb"'),
    *(b"[", b"]", b"{", b"}", b": ", b"- ", b"? ", b"| \n", b"'", b'"', b"#", b"\n", b"\n---\n"),
    *(b"%YAML 1.2\n", b",", b"[[[[[[", b"@", b"''", b"[]", b"{}", b"a" * 5000, b"../" * 2000),
]


def mutated(rng: random.Random, text: bytes) -> bytes:
    """Returns a file with some bytes replaced, removed, doubled, and values or places changed."""
    changed = bytearray(text)
    for _ in range(rng.choice([1, 1, 2, 4, 12])):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.randrange(1, 40))
        kind = rng.randrange(6)
        if kind == 0:
            del changed[start:end]
        elif kind == 1:
            changed[start:end] = bytes([rng.randrange(256)])
        elif kind == 2:
            changed[start:start] = changed[rng.randrange(len(changed) + 1) :][:60]
        elif kind == 3:
            changed[start:start] = rng.choice(BITS)
        else:
            value = changed.find(b": ", start) + 2
            newline = changed.find(b"\n", value)
            changed[value:newline] = rng.choice(BITS)
    return bytes(changed)


def read_as_job(path: Path) -> None:
    job = load_job(path)
    build_spec(SPECS[job.kind], {}, job)
    build_resources({}, job)
    path.write_text(dump_job(job), encoding="utf-8")
    assert load_job(path).args == job.args


def read_as_launcher(path: Path) -> None:
    for finding in check_launcher(load_launcher(path), None).faults:
        assert finding.line()


@pytest.mark.parametrize(
    ("read", "patterns", "num_files"),
    [
        (read_as_job, ["jobs/*.yaml"], 600),
        (read_as_launcher, ["cluster.yaml", "deploy/cluster*.yaml"], 200),
    ],
)
def test_shipped_files_changed_at_random_end_in_spec_errors_alone(
    read: Callable[[Path], None], patterns: list[str], num_files: int, tmp_path: Path
) -> None:
    sources = [
        b"\n".join(line for line in path.read_bytes().split(b"\n") if not line.startswith(b"#"))
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
    ]
    assert len(sources) >= 2
    rng = random.Random(0)
    num_refused = 0
    for _ in range(num_files):
        path = tmp_path / "f.yaml"
        content = mutated(rng, rng.choice(sources))
        path.write_bytes(content)
        try:
            read(path)
        except SpecError as error:
            num_refused += 1
            assert str(error).isprintable(), content
        except Exception as error:
            raise AssertionError(content) from error
    assert 0.3 * num_files < num_refused < num_files
