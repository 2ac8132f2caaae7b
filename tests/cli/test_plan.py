import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import SpecError
from tests.conftest import ROOT
from tests.registry.bundles import make_bundle


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with no cluster to join."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "jobs").mkdir()
    return tmp_path


def write_job(folder: Path, name: str, kind: str, args: dict[str, Any], **fields: Any) -> Path:
    path = folder / "jobs" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "kind": kind, "args": args} | fields))
    return path


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(app, ["jobs", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def planned(*arguments: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(run("plan", "--json", *arguments).stdout)
    return body


def amounts(job: dict[str, Any]) -> dict[str, int]:
    return {item["what"]: item["num_bytes"] for item in job["predicted"]}


@pytest.mark.parametrize("file", ["cluster.yaml", "deploy/cluster-aws.yaml"])
def test_the_shipped_jobs_are_valid_on_the_shipped_clusters(file: str) -> None:
    jobs = sorted((ROOT / "jobs").glob("*.yaml"))
    done = run("validate", "--cluster", str(ROOT / file), *map(str, jobs))
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == len(jobs) >= 4
    said = r"score-nightly\.yaml: valid, score, \d+ workers? of \d+ CPU and 1 GPU"
    assert re.search(said, done.stdout)
    assert "train-paper.yaml: valid, train, 2 workers" in done.stdout


def test_this_machine_is_taken_where_no_cluster_is_named(folder: Path) -> None:
    write_job(folder, "a", "score", {"input": "x"})
    body = planned()
    assert body["nodes"]["source"] == "this machine"
    assert body["nodes"]["resources"][0]["CPU"] == len(os.sched_getaffinity(0))
    assert body["jobs"][0]["workers"]["num_workers"] >= 1


@pytest.mark.parametrize(
    ("kind", "args", "fields", "problem"),
    [
        ("score", {"imput": "x"}, {}, "args: unknown key imput"),
        ("score", {"input": "x"}, {"retires": 2}, "unknown key retires"),
        ("score", {"input": "x", "batch_size": 0}, {}, "batch_size=0"),
        ("score", {}, {}, "input is required"),
        ("sweep", {}, {}, "kind='sweep'"),
        ("train", {"data": "x", "backbone": "B5"}, {}, "unknown backbone 'B5'"),
        ("train", {"data": "x", "weights": "offline"}, {}, "'offline' are not offered"),
        (
            "compare",
            {"data": "x", "backbones": ["InceptionV3"], "image_size": 64},
            {},
            "64 px is too small for InceptionV3",
        ),
        (
            "score",
            {"input": "x"},
            {"resources": {"gpus_per_worker": 4}},
            "asked for 4 GPU per worker; the cluster's nodes have 2",
        ),
        (
            "score",
            {"input": "x"},
            {"resources": {"workers": 5, "gpus_per_worker": 1}},
            "asked for 5 workers",
        ),
        ("score", {"input": "x"}, {"timeout": 6}, "timeout=6"),
        ("score", {"input": "x"}, {"schedule": {"cron": "0 2 * *"}}, "expected five"),
        (
            "score",
            {"input": "x"},
            {"schedule": {"cron": "@daily"}},
            "add model under args, such as models:",
        ),
    ],
)
def test_unknown_keys_and_impossible_requests_are_errors(
    kind: str, args: dict[str, Any], fields: dict[str, Any], problem: str, folder: Path
) -> None:
    path = write_job(folder, "job", kind, args, **fields)
    for command in ("validate", "plan"):
        done = run(command, "--cluster", str(ROOT / "cluster.yaml"), str(path))
        assert done.exit_code == 2
        assert problem in done.stdout


def test_all_files_are_checked_though_the_first_is_wrong(folder: Path) -> None:
    write_job(folder, "a", "score", {})
    write_job(folder, "b", "score", {"input": "x"})
    shutil.copy(folder / "jobs" / "b.yaml", folder / "jobs" / "c.yaml")
    (folder / "jobs" / "d.yaml").write_text("name: [")
    done = run("validate")
    assert done.exit_code == 2
    lines = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "error",
        "jobs/b.yaml",
        "error",
        "error",
    ]
    assert "the name b is jobs/b.yaml's" in lines[2]
    assert "line 1: not valid YAML" in lines[3]


def test_no_job_file_is_an_error(folder: Path) -> None:
    with pytest.raises(SpecError, match="there is no job file"):
        run("validate")


def test_an_input_that_another_machine_may_have_is_a_note(folder: Path) -> None:
    write_job(folder, "a", "score", {"input": "/nowhere"})
    (job,) = planned("--cluster", str(ROOT / "cluster.yaml"))["jobs"]
    assert job["problems"] == []
    assert "/nowhere does not exist" in job["notes"][0]
    assert job["predicted"] == []


def test_an_input_without_anything_to_read_fails_the_plan(folder: Path) -> None:
    (folder / "moved.csv").write_text("path,label\nxrays/a.png,0\nxrays/b.png,1\n")
    (folder / "links").mkdir()
    (folder / "links" / "a.png").symlink_to("/nowhere/a.png")
    expected = {
        "/nowhere": "/nowhere does not exist",
        str(folder / "moved.csv"): "none of the 2 files that it names is there; line 2 names xrays",
        str(folder / "links"): "1 of 1: link_outside_root; the first is a.png",
    }
    for place, problem in expected.items():
        path = write_job(folder, "a", "score", {"input": place})
        done = run("plan", str(path))
        assert done.exit_code == 3, done.output
        assert problem in done.stdout
    # What is wrong with the file itself comes first.
    write_job(folder, "b", "score", {})
    assert run("plan").exit_code == 2


def test_disk_of_a_training_follows_from_images_views_and_network(
    folder: Path, phantoms: Path
) -> None:
    args = {"data": str(phantoms), "image_size": 224, "views": 3, "backbone": "efficientnet-lite0"}
    path = write_job(folder, "t", "train", args | {"weights": "offline"})
    (job,) = planned(str(path))["jobs"]
    assert job["found"]["num_files"] == job["found"]["num_labelled"] == 160
    sizes = [file.stat().st_size for file in phantoms.rglob("*.jpeg")]
    assert job["found"]["num_bytes"] == sum(sizes)
    predicted = amounts(job)
    assert predicted["disk of decoded images, while it runs"] == 160 * (224 * 224 + 300)
    # A pool: 70% are trained on, in three views; the others have one.
    assert predicted["disk of features, while it runs"] == 2 * (160 + 2 * 112) * 1280 * 4
    assert predicted["disk of the bundle, kept"] == 2 * 4 * 3_413_024
    memory = predicted["memory of a training process"]
    path = write_job(folder, "t", "train", args | {"weights": "offline", "finetune": "all"})
    (job,) = planned(str(path))["jobs"]
    assert amounts(job)["memory of a training process"] > 2 * memory


def test_a_comparison_takes_the_features_of_one_backbone(folder: Path, phantoms: Path) -> None:
    args = {"data": str(phantoms), "backbones": ["VGG19", "ResNet50"], "limit": 40}
    (job,) = planned(str(write_job(folder, "c", "compare", args)))["jobs"]
    assert amounts(job)["disk of features, while it runs"] == 2 * (40 + 3 * 28) * 2048 * 4
    kept, memory = (
        amounts(job)[what] for what in ("disk of the bundle, kept", "memory of a training process")
    )
    assert kept == 2 * 4 * (20_024_384 + 23_587_712)
    more = args | {"finetune": "all", "loss": "bce"}
    (job,) = planned(str(write_job(folder, "c", "compare", more)))["jobs"]
    assert amounts(job)["memory of a training process"] > 2 * memory
    assert amounts(job)["disk of the bundle, kept"] == 2 * kept  # a bundle for each loss
    more = args | {"backbones": "all", "weights": "none", "ensemble": "mean"}
    (job,) = planned(str(write_job(folder, "c", "compare", more)))["jobs"]
    assert amounts(job)["disk of features, while it runs"] == 2 * (40 + 3 * 28) * 2560 * 4


def test_plan_shows_the_time_limit_of_a_job_that_gives_none(folder: Path) -> None:
    write_job(folder, "t", "score", {"input": "x"})
    assert "one try of at most 1 d; no schedule" in run("plan").stdout
    assert planned()["jobs"][0]["job"]["timeout"] == "86400s"


def test_a_job_that_follows_none_of_the_folder_is_an_error(folder: Path) -> None:
    write_job(folder, "a", "score", {"input": "x", "model": "m"}, schedule={"cron": "@daily"})
    write_job(folder, "b", "score", {"input": "x", "model": "m"}, schedule={"after": "a"})
    path = write_job(folder, "c", "score", {"input": "x", "model": "m"}, schedule={"after": "x"})
    done = run("validate")
    assert done.exit_code == 2
    assert "error: jobs/c.yaml: after: no scheduled job is named x; known: a, b" in done.stdout
    assert run("validate", str(path)).exit_code == 0  # the other may be elsewhere
    assert "one try of at most 1 d; due after a\n" in run("plan").stdout
    (folder / "jobs" / "x.yaml").write_text("name: [")  # it may be this one's job
    assert "jobs/c.yaml: valid" in run("validate").stdout


def test_plan_shows_what_runs_cost_at_most_where_a_price_is_given(folder: Path) -> None:
    fields = {
        "resources": {"workers": 3, "cpus_per_worker": 8, "gpus_per_worker": 1},
        "retries": 1,
        "timeout": "6h",
        "schedule": {"cron": "@daily"},
    }
    write_job(folder, "a", "score", {"input": "x"}, **fields)
    write_job(folder, "b", "score", {"input": "x"}, timeout="30m")
    on = ("--cluster", str(ROOT / "cluster.yaml"))  # 2 machines of 16 CPU and 2 GPU
    shown = run("plan", *on, "--price-per-node-hour", "2.5").stdout
    # 2 nodes x 2.5 x 6 h x 2 tries, and 30 nights.
    expected = "cost: 5.00 an hour for 2 node(s); at most 60.00 a run, 1,800.00 in 30 days\n"
    assert expected in shown
    assert "cost: 5.00 an hour for 2 node(s); at most 2.50 a run\n" in shown
    assert "cost: " not in run("plan", *on).stdout
    body = json.loads(run("plan", "--json", *on, "--price-per-node-hour", "1").stdout)
    assert body["jobs"][0]["cost"] == {"num_nodes": 2, "an_hour": 2, "a_run": 24, "num_runs": 30}
    assert planned(*on)["jobs"][0]["cost"] is None
    assert run("plan", "--price-per-node-hour", "-1").exit_code == 2


def test_plan_says_what_would_run_on_what(folder: Path, phantoms: Path) -> None:
    fields = {
        "resources": {"workers": 2, "cpus_per_worker": 8, "gpus_per_worker": 1},
        "retries": 2,
        "timeout": "6h",
        "schedule": {"cron": "0 2 * * *", "timezone": "Asia/Shanghai"},
    }
    args = {"data": str(phantoms), "backbone": "tiny"}
    write_job(folder, "t", "train", args, **fields)
    shown = run("plan", "--cluster", str(ROOT / "cluster.yaml")).stdout
    assert "2 x 16 CPU 2 GPU" in shown
    assert "t (jobs/t.yaml): train, 2 workers of 8 CPU and 1 GPU" in shown
    assert "3 tries of at most 6 h; due 0 2 * * * Asia/Shanghai" in shown
    assert "160 files" in shown
    assert "160 files x (150 x 150 + 300) B" in shown


def test_a_shadow_costs_disk_and_memory_and_one_that_is_not_there_a_note(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "a.png").write_bytes(b"x")
    for name, seed in (("live", 1), ("next", 2)):
        make_bundle(folder / name, seed=seed)
    args = {"input": str(folder / "in"), "model": str(folder / "live")}
    write_job(folder, "a", "score", args)
    write_job(folder, "b", "score", args | {"shadow": str(folder / "next")})
    write_job(folder, "c", "score", args | {"shadow": f"{folder}/models:staging"})
    alone, both, without = planned()["jobs"]
    assert set(amounts(both)) - set(amounts(alone)) == {
        "disk of the shadow's table, kept",
        "memory of a worker, for the shadow",
    }
    assert amounts(both)["disk of the shadow's table, kept"] > 0
    assert amounts(without) == amounts(alone) and not without["problems"]
    note, other = without["notes"]
    assert note.startswith("the shadow would score nothing: ")
    assert other.startswith("how long it takes could not be estimated: OpenVINO cannot load ")
