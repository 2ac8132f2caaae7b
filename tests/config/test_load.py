from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from orchestrator.config.job import Job
from orchestrator.config.load import (
    build_resources,
    build_spec,
    dump_yaml,
    load_job,
    resolve_path,
)
from orchestrator.config.specs import (
    SPECS,
    CompareSpec,
    RecalibrateSpec,
    Resources,
    ScoreSpec,
    TrainSpec,
    TuneSpec,
)
from orchestrator.errors import SpecError
from tests.conftest import ROOT


def write_job(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_flags_win_over_the_file_and_paths_resolve_against_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)
    job = load_job(
        write_job(
            tmp_path / "jobs",
            "{name: a, kind: train, args: {data: ../x, out: b, lr: 0.5, weights: w.h5}}",
        )
    )
    spec = build_spec(TrainSpec, {"out": "c", "gamma": 1.0, "lr": None}, job)
    assert spec.data == str(tmp_path / "x")
    assert spec.out == str(tmp_path / "c")
    assert (spec.lr, spec.gamma) == (0.5, 1.0)
    assert spec.weights == str(tmp_path / "jobs" / "w.h5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", "/a/b/x"),
        (".", "/a/b"),
        ("..", "/a"),
        ("../x", "/a/x"),
        ("../../../x", "/x"),
        ("link/../x", "/a/b/link/../x"),  # where a link leads only the system knows
        ("/x/../y", "/x/../y"),
        ("s3://bucket/../x", "s3://bucket/../x"),
    ],
)
def test_a_path_is_shown_without_the_folders_it_leaves(text: str, expected: str) -> None:
    assert resolve_path(text, Path("/a/b")) == expected


def test_limits_of_file_and_flags_are_joined(tmp_path: Path) -> None:
    job = load_job(
        write_job(tmp_path, "{name: a, kind: score, args: {input: x, limits: {max_pixels: 9}}}")
    )
    spec = build_spec(ScoreSpec, {"max_bytes": 7}, job)
    assert (spec.limits.max_pixels, spec.limits.max_bytes) == (9, 7)


def test_a_resolved_spec_is_a_job_file_that_gives_it_back(tmp_path: Path) -> None:
    spec = build_spec(TrainSpec, {"data": str(tmp_path), "alpha": "0.3"})
    job = load_job(write_job(tmp_path, dump_yaml("train", "again", spec, Resources(workers=3))))
    assert build_spec(TrainSpec, {}, job) == spec
    assert build_resources({}, job) == Resources(workers=3)
    assert build_resources({"workers": 2}, job).workers == 2


def test_addresses_with_a_scheme_are_not_paths() -> None:
    spec = build_spec(ScoreSpec, {"input": ["s3://bucket/x", "y"]})
    assert spec.input == ("s3://bucket/x", str(Path("y").absolute()))


def test_an_input_is_one_path_or_several_and_is_written_back_as_it_was(tmp_path: Path) -> None:
    for given in ("x", "[x, /y]"):
        job = load_job(write_job(tmp_path, f"{{name: a, kind: score, args: {{input: {given}}}}}"))
        spec = build_spec(ScoreSpec, {}, job)
        assert spec.input == (str(tmp_path / "x"), "/y")[: 1 if given == "x" else 2]
        again = load_job(write_job(tmp_path, dump_yaml("score", "again", spec, Resources())))
        assert isinstance(again.args["input"], str if given == "x" else list)
        assert build_spec(ScoreSpec, {}, again) == spec
    with pytest.raises(SpecError, match=r"input=\[\]"):
        build_spec(ScoreSpec, {"input": []})


def test_a_home_of_nobody_is_a_name_like_any_other(tmp_path: Path) -> None:
    assert build_spec(TrainSpec, {"data": "~/x"}).data == str(Path.home() / "x")
    assert build_spec(TrainSpec, {"data": "~nobody-here/x"}).data == str(
        Path.cwd() / "~nobody-here" / "x"
    )


def test_only_new_needs_the_folder_of_the_earlier_runs() -> None:
    with pytest.raises(SpecError, match=r"only_new needs out_root.*give --out-root"):
        build_spec(ScoreSpec, {"input": "x", "only_new": True})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1: not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "line 1: the tag .* is not taken"),
        ("- a", "holds a list; expected keys name, kind, args"),
        ("{name: a, kind: train}", "args is required"),
        ("{name: a, kind: dance, args: {}}", "kind='dance'"),
        ("{name: 'a b', kind: train, args: {}}", "name='a b'"),
        ("{name: a, kind: train, args: {epoch: 3}}", "unknown key.* epoch; train takes .*epochs"),
        ("{name: a, kind: train, args: {}, cron: x}", "unknown key cron; known: name"),
        ("{name: a, kind: train, args: {}, resources: {workers: 0}}", "workers=0"),
        (
            "{name: a, kind: train, args: {}, resources: {worker: 1}}",
            "unknown key resources.worker; known: workers, cpus_per_worker, .*, wait_for_lock$",
        ),
        ("{name: a, kind: train, args: {}, schedule: {a: x}}", "schedule.a; known: cron, after, "),
        (
            '{name: a, kind: train, args: {"x\\e[31m\\ny": 3}}',
            r"unknown key.* x.x1b\[31m.ny; train",
        ),
    ],
)
def test_a_bad_job_file_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    path = write_job(tmp_path, text)
    with pytest.raises(SpecError, match=message) as caught:
        load_job(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "data is required"),
        ({"data": "x", "lr": -1}, "lr=-1: .*greater than 0"),
        ({"data": "x", "alpha": "high"}, "alpha.*'high'"),
        ({"data": "x", "epochs": "many"}, "epochs='many'"),
        ({"data": "x", "lr": float("nan")}, "lr=nan"),
        ({"data": "x", "max_bytes": 0}, "limits.max_bytes=0"),
    ],
)
def test_a_bad_flag_is_one_clear_line(flags: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        build_spec(TrainSpec, flags)
    assert "\n" not in str(caught.value)


SCHEDULED = """
name: nightly-score
kind: score
args: {input: /data/xrays}
retries: 2
timeout: 6h
schedule: {cron: "0 2 * * *", timezone: Asia/Shanghai, overlap: queue, catch_up: all, window: 90m}
on_failure: {command: ["/usr/local/bin/page-oncall"]}
"""


def test_a_scheduled_job_is_read_and_survives_json(tmp_path: Path) -> None:
    job = load_job(write_job(tmp_path, SCHEDULED))
    assert job.schedule is not None
    assert (job.retries, job.timeout) == (2, timedelta(hours=6))
    assert (job.schedule.overlap, job.schedule.catch_up) == ("queue", "all")
    assert job.schedule.window == timedelta(minutes=90)
    assert job.on_failure is not None
    assert job.on_failure.command == ["/usr/local/bin/page-oncall"]
    assert Job.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("timeout", "360", "timeout=360: expected a whole number and a unit, such as 90s"),
        ("timeout", "6:00", "timeout=360: expected a whole number and a unit"),
        ("timeout", "0h", "timeout='0h': expected a whole number"),
        ("timeout", "32d", "timeout='32d': expected at most 31d"),
        ("retries", "-1", "retries=-1: "),
        ("schedule", "daily", "schedule='daily': "),
        ("schedule", "{timezone: UTC}", "expected one of cron .* and after .*"),
        ("schedule", "{cron: '@daily', after: ingest}", "expected one of cron .* and after"),
        ("schedule", "{after: 'no name'}", "schedule.after='no name': "),
        ("schedule", "{cron: '0 2 * *'}", "cron '0 2 [*] [*]' has 4 fields; expected five"),
        ("schedule", "{cron: '0 2 * * *', timezone: Mars}", "timezone 'Mars' is not known"),
        ("schedule", "{cron: '0 2 * * *', zone: UTC}", "unknown key schedule.zone"),
        ("schedule", "{cron: '0 2 * * *', overlap: both}", "schedule.overlap='both'"),
        ("on_failure", "{}", "expected one of command .* and apprise"),
        ("on_failure", "{command: 'rm -rf /'}", "on_failure.command='rm -rf /': .*valid list"),
        (
            "on_failure",
            "{webhook: 'file:///etc/passwd'}",
            "on_failure.webhook=...: .*match pattern",
        ),
    ],
)
def test_a_bad_scheduled_job_is_one_clear_line(
    key: str, value: str, message: str, tmp_path: Path
) -> None:
    lines = [line for line in SCHEDULED.splitlines() if not line.startswith(f"{key}:")]
    path = write_job(tmp_path, "\n".join([*lines, f"{key}: {value}"]))
    with pytest.raises(SpecError, match=message) as caught:
        load_job(path)
    assert "\n" not in str(caught.value)


def test_a_missing_job_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read .*nope\.yaml: No such file"):
        load_job(tmp_path / "nope.yaml")


def test_job_files_of_the_repository_load() -> None:
    for path in sorted((ROOT / "jobs").glob("*.yaml")):
        assert load_job(path).name, path
        assert yaml.safe_load(path.read_text())["name"] == path.stem


def test_a_field_of_several_forms_is_named_once() -> None:
    with pytest.raises(SpecError, match=r"lr='fast': .*number.* or Input should be 'auto'$"):
        build_spec(TrainSpec, {"data": "x", "lr": "fast"})
    assert build_spec(TrainSpec, {"data": "x", "lr": "auto"}).lr == "auto"
    assert build_spec(TrainSpec, {"data": "x", "lr": "0.02"}).lr == 0.02


def test_backbones_come_as_a_list_or_as_one_text() -> None:
    for given in ("vgg19, ResNet50", ["vgg19", "ResNet50"]):
        spec = build_spec(CompareSpec, {"data": "x", "backbones": given})
        assert spec.backbones == ("vgg19", "ResNet50")
    with pytest.raises(SpecError, match="backbones"):
        build_spec(CompareSpec, {"data": "x", "backbones": []})


@pytest.mark.parametrize("file", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_job_names_what_the_demo_leaves_and_nothing_outside_the_project(
    file: Path,
) -> None:
    job = load_job(file)
    assert job.name == file.stem
    spec = build_spec(SPECS[job.kind], {}, job)
    paths = [value for value in job.args.values() if isinstance(value, str) and "/" in value]
    assert paths
    assert all(Path(path).is_relative_to(ROOT / "demo") for path in paths)
    named = spec.model_dump()
    assert {named.get("data"), named.get("input")} & {
        str(ROOT / "demo" / "phantoms"),
        str(ROOT / "demo" / "unseen"),
    }


@pytest.mark.parametrize(
    "rule",
    [
        "youden",
        "youden-smoothed",
        "f1-shifted",
        "sensitivity@0.95",
        "specificity@.9-shifted",
        "0.5",
    ],
)
def test_threshold_rules(rule: str) -> None:
    assert TrainSpec(data="x", threshold=rule).threshold == rule


@pytest.mark.parametrize(
    "rule", ["best", "youden-", "sensitivity", "sensitivity@1.5", "1.2", "-0.1"]
)
def test_what_is_no_threshold_rule_is_told_what_is(rule: str) -> None:
    with pytest.raises(SpecError, match=r"threshold=.*expected youden, youden-smoothed, accuracy"):
        build_spec(TrainSpec, {"data": "x", "threshold": rule})


def test_recalibrate_names_no_rule_that_it_does_not_take() -> None:
    shown = str(RecalibrateSpec.model_fields["threshold"].description)
    with pytest.raises(SpecError) as caught:
        build_spec(RecalibrateSpec, {"model": "m", "data": "x", "threshold": "best"})
    assert "specificity@0.9" in shown and "specificity@0.9" in str(caught.value)
    told = shown + str(caught.value)
    assert "shifted" not in told and "cohorts" not in told


def test_a_number_in_a_job_file_is_a_threshold() -> None:
    assert TrainSpec.model_validate({"data": "x", "threshold": 0.5}).threshold == "0.5"


@pytest.mark.parametrize("form", [TrainSpec, TuneSpec])
def test_an_augmentation_without_a_view_to_augment_is_refused(form: type[TrainSpec]) -> None:
    asked = {"data": "x", "augmentation": "light", "views": 1}
    with pytest.raises(SpecError, match=r"augmentation light has no view to augment.*--views 2"):
        build_spec(form, asked)
    build_spec(form, asked | {"features": "live"})
    build_spec(form, {"data": "x", "views": 1})
    build_spec(form, asked, stored=True)  # of a run that an earlier version began


def test_a_search_never_selects_on_the_loss() -> None:
    assert TrainSpec(data="x", objective="val_loss").objective == "val_loss"
    with pytest.raises(SpecError, match="objective="):
        build_spec(TuneSpec, {"data": "x", "objective": "val_loss"})
