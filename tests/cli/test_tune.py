from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.config.fields import Span
from orchestrator.config.load import build_spec, load_job
from orchestrator.config.specs import TuneSpec
from orchestrator.errors import DataError, SpecError
from tests.conftest import ROOT

JOBS = ROOT / "jobs"


def run(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(app, ["tune", *arguments]).exception


def test_alone_it_reads_the_job_file_and_says_how_to_name_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="expected `orchestrator tune FOLDER`, or a file jobs/tune"):
        raise run() or AssertionError
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "tune.yaml").write_text((JOBS / "tune.yaml").read_text())
    with pytest.raises(DataError, match=r"demo/phantoms does not exist; name your folder"):
        raise run() or AssertionError
    with pytest.raises(DataError, match=r"nowhere does not exist; .* check the path"):
        raise run("nowhere") or AssertionError


def test_the_job_file_is_a_search_as_shipped() -> None:
    spec = build_spec(TuneSpec, {}, load_job(JOBS / "tune.yaml"))
    assert (spec.views, spec.trials, spec.search, spec.scheduler) == (4, 32, "tpe", "asha")
    assert spec.lr == Span(low=0.0001, high=0.01)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "0:1"], r"lr='0:1': 0: Input should be greater than 0"),
        (["--gamma", "3:1"], "expected low < high, received 3 and 1"),
        (["--alpha", "a,b"], r"alpha.values.0='a'"),
        (["--search", "genetic"], "Input should be 'tpe', 'random' or 'grid'"),
        (["--time-budget", "30"], "expected a whole number and a unit"),
        (["--resume", "runs/x"], "leave out -c and the data"),
    ],
)
def test_a_wrong_flag_is_one_line(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        raise run(str(tmp_path), *flags) or AssertionError


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.001:0.1", Span(low=0.001, high=0.1)), ("0.1,0.2", (0.1, 0.2)), ("0.5", (0.5,))],
)
def test_a_searched_value_is_a_range_some_values_or_one(text: str, value: object) -> None:
    spec = build_spec(TuneSpec, {"data": "x", "lr": text})
    assert spec.lr == value
    assert TuneSpec.model_validate(spec.model_dump(mode="json")) == spec
