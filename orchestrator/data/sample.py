"""A smaller manifest for a quick look: some of the patients, the classes in proportion."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.manifest import Manifest
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.data.splits import IntArray, fill_groups, group_rows


def sample_manifest(manifest: Manifest, limit: int, *, seed: int, shard_rows: int) -> Manifest:
    """Returns a manifest of about `limit` labelled images.

    Patients are taken whole, and the classes of each given split (train, val, test, or none) keep
    their shares, so the splits of the sample are those of the whole made smaller. Rows without a
    label and rows that the listing rejected are left out.

    Args:
        manifest: the whole.
        limit: images wanted, >= 1; the sample has as many as whole patients allow.
        seed: of the choice.
        shard_rows: rows a shard of the sample.

    Returns:
        The sample, rows numbered from 0 in the order of the whole; the whole itself where it has
        no more labelled images than `limit`.
    """
    table = manifest.table
    usable = pc.and_(pc.is_valid(table.column("label")), pc.is_null(table.column("code")))
    pool = table.filter(usable)
    if pool.num_rows <= limit:
        return manifest
    split = pc.fill_null(pool.column("split"), "").combine_chunks().dictionary_encode()
    cell = split.indices.to_numpy() * len(CLASS_NAMES) + pool.column("label").to_numpy()
    _, group = np.unique(group_rows(pool), return_inverse=True)
    counts = np.zeros((int(group.max()) + 1, int(cell.max()) + 1), np.int64)
    np.add.at(counts, (group, cell), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    taken = order[fill_groups(counts[order], _targets(counts.sum(axis=0), limit))]
    sample = pool.filter(pa.array(np.isin(group, taken)))
    row = np.arange(sample.num_rows)
    for name, values in (("row", row), ("shard", row // shard_rows)):
        place = sample.schema.get_field_index(name)
        field = sample.schema.field(place)
        sample = sample.set_column(place, field, pa.array(values, field.type))
    return Manifest(sample.combine_chunks(), manifest.roots)


def _targets(counts: IntArray, limit: int) -> IntArray:
    """Images of each cell, by largest remainder; at least one of each that has any."""
    exact = counts * (limit / counts.sum())
    target: IntArray = np.floor(exact).astype(np.int64)
    missing = limit - int(target.sum())
    target[np.argsort(target - exact, kind="stable")[:missing]] += 1
    target[:] = np.maximum(target, np.minimum(counts, 1))
    return target
