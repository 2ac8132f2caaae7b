"""Secrets in addresses: which addresses hold one, and that none is stored or shown."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.config.addresses import hide_secrets, holds_secret
from orchestrator.config.load import build_spec
from orchestrator.config.specs import CompareSpec, IngestSpec, ScoreSpec, TrainSpec, TuneSpec
from orchestrator.errors import SpecError
from orchestrator.schedule.job_folder import JobFolder

SECRET = "hunter2"
# Address, and the same for a message.
SECRETS = [
    (f"s3://key:{SECRET}@bucket/x", "s3://...@bucket/x"),
    (f"s3://key:a/{SECRET}@bucket/x", "s3://...@bucket/x"),
    (f"s3://key:12/{SECRET}@bucket/x", "s3://...@bucket/x"),
    (f"s3://{SECRET}@bucket/x", "s3://...@bucket/x"),
    (f"abfs://box:{SECRET}@acct.dfs.core.windows.net/x", "abfs://...@acct.dfs.core.windows.net/x"),
    (f"abfs://:{SECRET}@acct.blob.core.windows.net/x", "abfs://...@acct.blob.core.windows.net/x"),
    (f"abfs://box@acct.dfs.core.windows.net/x?sv=1&sig={SECRET}",
     "abfs://...@acct.dfs.core.windows.net/x?..."),
    (f"abfs://box@a/x?client_id=1&client_secret={SECRET}", "abfs://...@a/x?..."),
    (f"abfs://box@a/x?CLIENT%5fSECRET={SECRET}", "abfs://...@a/x?..."),
    (f"https://host/x?X-Amz-Credential={SECRET}", "https://host/x?..."),
    (f"https://host/x?X-Amz-Signature={SECRET}#y", "https://host/x?..."),
    (f"https://host/x?a=1;sas_token={SECRET}", "https://host/x?..."),
    (f"https://host/x#access_token={SECRET}", "https://host/x?..."),
    (f"https://user:{SECRET}@host/x", "https://...@host/x"),
    (f"https://{SECRET}@host/x", "https://...@host/x"),
    (f"hdfs://user:{SECRET}@host:9000/x", "hdfs://...@host:9000/x"),
    (f"postgresql://ml:{SECRET}@host/mlflow", "postgresql://...@host/mlflow"),
    (f"mysql+pymysql://ml:p@a@ss{SECRET}@host/mlflow", "mysql+pymysql://...@host/mlflow"),
    (f"postgresql://host/mlflow?user=ml&password={SECRET}", "postgresql://host/mlflow?..."),
    (f"mssql+pyodbc://host/db?odbc_connect=SERVER%3Dh%3BPWD%3D{SECRET}",
     "mssql+pyodbc://host/db?..."),
    (f"simplecache::s3://key:{SECRET}@bucket/x", "simplecache::s3://...@bucket/x"),
    (f"zip://a::https://host/x?token={SECRET}", "zip://a::https://host/x?..."),
]  # fmt: skip
ORDINARY = [
    "s3://bucket/x",
    "s3://bucket/x?region=eu-central-1&endpoint_override=localhost:9000&scheme=http",
    "gs://bucket/a@b/x",
    "abfs://container@account.dfs.core.windows.net/x",
    "abfss://container@account.dfs.core.windows.net/x?credential_kind=default&client_id=7",
    "hdfs://user@host/x",
    "hdfs://user@host:9000/x?replication=1",
    "hdfs://host:9000/by@day/x",
    "sftp://user@host:22/x",
    "https://host:8443/x?page=2&design=3",
    "https://[2001:db8::1]:8443/x",
    "memory://site",
    "sqlite:///mlflow.db",
    "postgresql://ml@host/mlflow",
    "postgresql+psycopg2://ml@host:5432/mlflow?sslmode=require&sslkey=/k.pem",
    "databricks://scope:prefix",
    "/data/a:/b@c",
]


@pytest.mark.parametrize(("address", "shown"), SECRETS)
def test_an_address_with_a_secret_is_told_from_others_and_shown_without(
    address: str, shown: str
) -> None:
    assert holds_secret(address)
    assert hide_secrets(address) == shown


@pytest.mark.parametrize("address", ORDINARY)
def test_users_and_containers_are_no_secrets(address: str) -> None:
    assert not holds_secret(address)
    assert hide_secrets(address) == address


FIELDS: list[tuple[type, dict[str, Any], str]] = [
    (ScoreSpec, {}, "input"),
    (ScoreSpec, {"input": "x"}, "out"),
    (ScoreSpec, {"input": "x"}, "out_root"),
    (ScoreSpec, {"input": "x"}, "model"),
    (IngestSpec, {"out": "y", "image_size": 64}, "input"),
    (TrainSpec, {}, "data"),
    (TrainSpec, {"data": "x"}, "mlflow"),
    (TrainSpec, {"data": "x"}, "weights"),
    (TuneSpec, {}, "data"),
    (CompareSpec, {}, "data"),
]


@pytest.mark.parametrize(("form", "given", "field"), FIELDS)
def test_no_field_of_a_spec_takes_a_secret_and_no_message_repeats_it(
    form: type, given: dict[str, Any], field: str
) -> None:
    for address, shown in SECRETS:
        with pytest.raises(SpecError, match="holds credentials") as caught:
            build_spec(form, {**given, field: address})
        assert SECRET not in str(caught.value)
        assert shown[:40] in str(caught.value)
        assert "at least 1 item" not in str(caught.value)  # of a list whose one item is wrong
    build_spec(form, {**given, field: "abfs://container@account.dfs.core.windows.net/x"})


def test_an_address_for_notices_that_is_wrong_is_not_repeated(tmp_path: Path) -> None:
    body = {"name": "a", "kind": "score", "args": {"input": "x"}, "schedule": {"cron": "0 2 * * *"}}
    for hook in (f"ftp://hooks.example/{SECRET}", [f"https://hooks.example/{SECRET}"], SECRET):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(body | {"on_failure": {"webhook": hook}}))
        problem = JobFolder(tmp_path).load().faults["a.yaml"]
        assert "on_failure.webhook=...: " in problem
        assert SECRET not in problem
    for address in (f"mailto://user:{SECRET}@mail.example", SECRET + "!"):
        told = {"on_failure": {"apprise": address}}
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(body | told))
        problem = JobFolder(tmp_path).load().faults["a.yaml"]
        assert "on_failure.apprise=...: expected the name of an environment variable" in problem
        assert SECRET not in problem


@pytest.mark.parametrize("command", ["submit", "schedule"])
def test_a_job_with_a_secret_leaves_no_file_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    job = {
        "name": "a",
        "kind": "train",
        "args": {"data": "x", "mlflow": f"postgresql://ml:{SECRET}@host/mlflow"},
        "schedule": {"cron": "0 2 * * *"},
    }
    given = tmp_path / "jobs" / "a.yaml"
    given.parent.mkdir()
    given.write_text(json.dumps(job))
    arguments = {"submit": ["submit", str(given)], "schedule": ["schedule", "list", "--json"]}
    done = CliRunner().invoke(app, arguments[command])
    assert "postgresql://...@host/mlflow holds credentials" in (done.output or str(done.exception))
    assert SECRET not in done.output + str(done.exception)
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and path != given]
    assert not any(SECRET in path.read_text() for path in stored)
