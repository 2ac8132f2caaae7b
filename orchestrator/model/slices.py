"""Which rows of a global batch are whose. Shared by what loads images and what trains on them."""


def batch_counts(num_examples: int, batch_size: int) -> list[int]:
    """Returns the number of rows of each global batch of an epoch; the last may be short.

    Args:
        num_examples: rows of an epoch, >= 0.
        batch_size: rows of a full batch, >= 1.
    """
    return [min(batch_size, num_examples - s) for s in range(0, num_examples, batch_size)]


def worker_slice(num_rows: int, rank: int, num_workers: int) -> slice:
    """Returns one worker's share of rows: consecutive, the same number each, the last ones fewer.

    Args:
        num_rows: rows to share out, >= 0.
        rank: the worker's number, from 0.
        num_workers: how many share.
    """
    each = -(-num_rows // num_workers)
    return slice(min(rank * each, num_rows), min((rank + 1) * each, num_rows))
