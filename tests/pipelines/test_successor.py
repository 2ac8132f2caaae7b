"""What quantising and recalibrating begin with; networks are not needed for it."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.specs import RecalibrateSpec, Resources
from orchestrator.errors import SpecError
from orchestrator.pipelines.successor import open_successor
from orchestrator.registry.history import add_version, promote
from tests.conftest import Recorder
from tests.registry.bundles import make_bundle
from tests.registry.test_history import quiet


@pytest.mark.parametrize(
    ("kind", "form"), [("quantize", QuantizeSpec), ("recalibrate", RecalibrateSpec)]
)
def test_an_alias_is_settled_and_the_bundle_itself_is_not_overwritten(
    kind: Any, form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    make_bundle(tmp_path / "bundle", seed=1)
    registry = tmp_path / "registry"
    add_version(registry, tmp_path / "bundle", "lite0", "a version", quiet)
    promote(registry, "lite0@1", "production", "the first", quiet)
    spec = form(model=f"{registry}:production", data=str(tmp_path / "in"))
    with open_successor(kind, spec, Resources(), Recorder(), None) as begun:
        settled, model, bundle, opened = begun
        assert settled.model == model.name == f"{registry}:lite0@1"
        assert bundle.path.parent == tmp_path / "models" and kind in bundle.path.name
        assert opened.run.load_status()["kind"] == kind and bundle.note.exists()
        (bundle.path / "bundle.json").write_text("{}")
    spec = form(model=str(tmp_path / "bundle"), data=spec.data, out="bundle")
    begun = open_successor(kind, spec, Resources(), Recorder(), None)
    with pytest.raises(SpecError, match="is the bundle itself; name another folder"), begun:
        pass
