"""What a promotion over a live version asks for, and what it does not take for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.model.bundle import load_info
from orchestrator.registry.history import add_version, load_registry, promote
from orchestrator.runs.atomic import sha256_file
from tests.registry.bundles import make_comparison
from tests.registry.test_history import make_registry, no_syncs, quiet

__all__ = ["no_syncs"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """production names lite@2; `compared` says that lite@3 may take its place."""
    return make_registry(tmp_path)


def to_production(place: Path, report: Path | None = None, **given: Any) -> Any:
    return promote(place, "lite@3", "production", "why", quiet, report=report, **given)


def test_a_comparison_is_asked_for_where_another_model_is_live(place: Path) -> None:
    with pytest.raises(SpecError, match=r"production names lite@2; compare lite@3 with it first: "):
        to_production(place)
    assert promote(place, "lite@3", "staging", "nothing is there", quiet).report is None
    again = add_version(place, place.parent / "bundle-2", "same", "another name", quiet)
    row = promote(place, again.version, "production", "the same content", quiet)
    assert (row.report, row.forced) == (None, False)


def test_the_history_names_the_report_and_the_registry_keeps_it(place: Path) -> None:
    report = place.parent / "compared"
    row = to_production(place, report)
    assert row.report is not None
    assert row.report.sha256 == sha256_file(report / "report.json")
    assert (row.report.verdict, row.forced) == ("promote", False)
    assert load_registry(str(place)).rows[-1] == row
    stored = json.loads((place / "registry/history/000006.json").read_text())
    assert stored["report"] == {"sha256": row.report.sha256, "verdict": "promote"}
    kept = place / "registry/reports" / row.report.sha256
    shutil.rmtree(report)
    assert {path.name for path in kept.iterdir()} == {"report.json", "report.html"}
    assert sha256_file(kept / "report.json") == row.report.sha256
    assert all(path.stat().st_mode & 0o222 == 0 for path in kept.iterdir())


def test_force_is_kept_in_the_history(place: Path) -> None:
    bundles = place.parent
    worse = make_comparison(
        bundles / "worse", bundles / "bundle-2", bundles / "bundle-3", gain=-0.03
    )
    with pytest.raises(SpecError, match=r"comparison says keep: worse: AUROC −0.030, .*--force"):
        to_production(place, worse)
    row = to_production(place, worse, force=True)
    assert row.report is not None
    assert (row.report.verdict, row.forced) == ("keep", True)


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        report = json.loads((run / "report.json").read_text())
        change(report)
        (run / "report.json").write_text(json.dumps(report))

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "_SUCCESS").unlink(), "holds no finished comparison; expected the"),
        (lambda run: (run / "report.json").write_text("{"), "is no report of `orchestrator models"),
        (edit(lambda report: report.update(kind="score")), "is no report of `orchestrator models"),
        (edit(lambda report: report["grounds"].pop("margin")), "or it is damaged; compare again"),
        (edit(lambda report: report.update(schema_version=99)), "schema 99, .*; upgrade orchestr"),
        # A verdict that was written by hand
        (
            edit(lambda r: r["grounds"]["endpoints"]["auroc"].update(low=-0.5)),
            "does not follow from its figures; compare again",
        ),
        (edit(lambda r: r["live"].update(sha256="0" * 64)), "compares 000000000000 as the live mo"),
    ],
)
def test_what_is_no_proof_is_refused(place: Path, change: Any, message: str) -> None:
    run = place.parent / "compared"
    change(run)
    for force in (False, True):  # a wrong report is not recorded either
        with pytest.raises(SpecError, match=message):
            to_production(place, run, force=force)
    assert len(load_registry(str(place)).rows) == 5


def test_a_comparison_of_others_is_refused(place: Path) -> None:
    bundles = place.parent
    hashes = [load_info(bundles / f"bundle-{n}").sha256[:12] for n in (1, 2, 3)]
    pairs = {"old": (1, 3), "turned": (3, 2), "third": (2, 1)}
    for name, (live, candidate) in pairs.items():
        run = make_comparison(
            bundles / name, bundles / f"bundle-{live}", bundles / f"bundle-{candidate}"
        )
        message = f"live now is {hashes[1]} and the candidate {hashes[2]}: compare these two"
        with pytest.raises(SpecError, match=message):
            to_production(place, run)
    with pytest.raises(SpecError, match="live now is nothing and the candidate"):
        promote(place, "lite@3", "staging", "why", quiet, report=bundles / "compared")
