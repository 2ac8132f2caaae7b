"""Launcher files as a team fills them in, or changed, and what `cluster check` finds in them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli.app import app
from tests.conftest import ROOT

SHIPPED = ["cluster.yaml", "deploy/cluster-aws.yaml"]
Config = dict[str, Any]
# What plants it, where it is found, what is said of it.
Fault = tuple[Callable[[Config], Any], str, str]


def check(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["cluster", "check", str(file), *arguments])


def findings(file: Path, *arguments: str) -> tuple[list[Config], list[Config]]:
    body = json.loads(check(file, "--json", *arguments).stdout)
    return body["faults"], body["notes"]


def place(folder: Path, config: Config) -> Path:
    """Writes a launcher file where what it copies is found, below the project or in it."""
    for name in ("pyproject.toml", "README.md", "requirements-cluster.lock", "requirements.lock"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("orchestrator", "deploy/systemd"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mounts = config.get("file_mounts")
    is_below = isinstance(mounts, dict) and "../orchestrator" in mounts.values()
    file = folder / ("deploy/cluster.yaml" if is_below else "cluster.yaml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(config))
    return file


def fill_in(config: Config, home: Path) -> Config:
    """A file as a team would fill it in, with the key and the token in place."""
    for name in (".ssh/id_xray", ".ray/auth_token"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("x" * 64)
        (home / name).chmod(0o600)
    text = yaml.safe_dump(config, width=1000)
    for example, own in {
        "192.0.2.": "10.1.2.",
        "198.51.100.0/24": "10.1.0.0/16",
        "ami-0123456789abcdef0": "ami-0fedcba9876543210",
        "fs-0123456789abcdef0": "fs-0fedcba9876543210",
        "example-key": "id_xray",
    }.items():
        text = text.replace(example, own)
    filled: Config = yaml.safe_load(text)
    return filled


def reword(config: Config, key: str, old: str, new: str) -> None:
    assert any(old in command for command in config[key])
    config[key] = [command.replace(old, new) for command in config[key]]


def head_start(config: Config, old: str, new: str) -> None:
    reword(config, "head_start_ray_commands", old, new)
