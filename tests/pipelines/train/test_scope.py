"""What a training keeps of its images for the gate, from DICOM files to the bundle's text."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.data.decode.images import Limits
from orchestrator.data.manifest import build_manifest, write_manifest
from orchestrator.data.shard_files import part_path, write_part
from orchestrator.data.source import IngestedSource
from orchestrator.evaluation.scope import KNOWN_FACTS, ScopeReference
from orchestrator.pipelines.prepare.ingest import IngestStage, file_source
from orchestrator.pipelines.train.scope import describe_scope, sample_scope
from orchestrator.runs.run_dir import RunDir
from tests.data.make_images import make_chest, make_dataset, to_bytes

SIZE_PX, NUM_TRAIN = 32, 24


def test_ages_and_words_of_headers_reach_the_reference(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(NUM_TRAIN + 4):
        header = {"PatientAge": f"{1 + number % 5:03d}Y", "ViewPosition": "AP", "PatientSex": "F"}
        chest = make_chest(64, 80)
        chest[:4, :4] = number  # no two files alike
        data = to_bytes(make_dataset(chest, 8, **header))
        (tmp_path / "in" / f"{number:02d}.dcm").write_bytes(data)
    manifest = build_manifest(tmp_path / "in", 256, None)
    files = RunDir(tmp_path / "run").own_dataset
    write_manifest(manifest, files.manifest)
    source = file_source(manifest, files.manifest, SIZE_PX, Limits(), b"k" * 32)
    stage = IngestStage(source, SIZE_PX, 1, KNOWN_FACTS)
    write_part(part_path(files.images, 0), stage(0))
    stage._reader.close()
    dataset = IngestedSource(files, 1, SIZE_PX)
    rows = dataset.load_rows()
    splits = pa.array(["train"] * NUM_TRAIN + ["val"] * 4)

    sample = sample_scope(dataset, rows, splits, seed=0)

    assert sample.facts["age_years"] == [1.0 + number % 5 for number in range(NUM_TRAIN)]
    assert sample.rows["val"].tolist() == list(range(NUM_TRAIN, NUM_TRAIN + 4))
    features = np.random.default_rng(0).normal(size=(rows.num_rows, 8)).astype(np.float32)
    audit = {"files": {"found": 30, "rejected": 2, "rejected_by_code": {"damaged": 2}}}
    logits = np.linspace(-1, 1, 4, dtype=np.float32)
    text = describe_scope(sample, lambda chosen: features[chosen], logits, audit)
    reference = ScopeReference.model_validate_json(text)
    assert reference.words == {
        "modality": {"DX": NUM_TRAIN},
        "view_position": {"AP": NUM_TRAIN},
        "sex": {"F": NUM_TRAIN},
    }
    assert reference.ages is not None
    assert (reference.ages[0], reference.ages[-1]) == (1.0, 5.0)
    assert reference.files == {"found": 30, "damaged": 2}
    assert reference.trained_on["aspect"][0] == reference.aspects[0] * 1.25 == 64 / 80
    assert reference.num_held_out == 4 and not any(name in text for name in ("Doe", "P-17"))
