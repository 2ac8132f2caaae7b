"""Which rows of a global batch are whose. Shared by what loads images and what trains on them."""


def batch_counts(num_examples: int, batch_size: int) -> list[int]:
    """Returns the number of rows of each global batch of an epoch; the last may be short.

    Args:
        num_examples: rows of an epoch, >= 0.
        batch_size: rows of a full batch, >= 1.
    """
    return [min(batch_size, num_examples - s) for s in range(0, num_examples, batch_size)]


def worker_slice(num_rows: int, rank: int, num_workers: int, num_shares: int = 0) -> slice:
    """Returns one worker's rows: its shares, of as many rows each, the last ones fewer.

    Args:
        num_rows: rows to share out, >= 0.
        rank: the worker's number, from 0.
        num_workers: how many share.
        num_shares: into which the rows are cut, >= `num_workers`; 0: one a worker.
    """
    shares = worker_shares(rank, num_workers, num_shares)
    each = -(-num_rows // (num_shares or num_workers))
    return slice(min(shares.start * each, num_rows), min(shares.stop * each, num_rows))


def worker_shares(rank: int, num_workers: int, num_shares: int) -> range:
    """Returns which shares are a worker's, consecutive and at least one; see `worker_slice`."""
    count = num_shares or num_workers
    return range(rank * count // num_workers, (rank + 1) * count // num_workers)
