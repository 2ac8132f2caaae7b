"""One worker of a live training without Ray: `python -m tests.model.worker_run OUT.npz ...`.

Its group comes from TF_CONFIG, as in a real run.
"""

import json
import os
import sys

import numpy as np

NUM_TRAIN, NUM_VAL = 45, 21  # no batch of 8 divides 45, no two workers share 21 evenly
BATCH_SIZE = 8
HEAD_EPOCHS, FINETUNE_EPOCHS = 2, 4


class MemoryStore:
    """Images in memory behind the interface of `ImageStore`: class 1 is a little brighter."""

    def __init__(self, size_px: int) -> None:
        rng = np.random.default_rng(7)
        self.labels = rng.integers(0, 2, NUM_TRAIN + NUM_VAL).astype(np.int8)
        noise = rng.normal(110, 40, (NUM_TRAIN + NUM_VAL, size_px, size_px))
        bright = 14 * self.labels + rng.normal(0, 6, len(self.labels))
        self.images = np.clip(noise + bright[:, None, None], 0, 255).astype(np.uint8)

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]


def main(out: str, dropout: float, backbone: str, size_px: int, num_shares: int) -> None:
    described = json.loads(os.environ.get("TF_CONFIG", "{}"))
    size = len(described.get("cluster", {}).get("worker", [0]))
    rank = described.get("task", {}).get("index", 0)

    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.finetune import compile_finetuning, unfreeze
    from orchestrator.model.fit import Fit, FitConfig, FitState, compile_model
    from orchestrator.model.live import ImageBatches, open_steps
    from orchestrator.model.network import build_network

    make_step = open_steps(size, 1, num_shares)
    store = MemoryStore(size_px)
    rows = np.arange(NUM_TRAIN + NUM_VAL)
    train, val = rows[:NUM_TRAIN], rows[NUM_TRAIN:]
    batches = ImageBatches(
        store, train, store.labels[train], BATCH_SIZE, 3, "light", rank, size, num_shares
    )
    network = build_network(
        build_backbone(backbone, "none", size_px, seed=1), dropout=dropout, seed=1
    )
    saved = {}

    def keep(row: dict[str, float]) -> None:
        for index, array in enumerate(network.get_weights()):
            saved[f"{row['epoch']}/{index}"] = array

    keep({"epoch": 0})
    common = {"alpha": 0.4, "gamma": 2.0, "seed": 0}
    inputs = (batches, store.take(val)[..., None], store.labels[val], keep)
    model = compile_model(network, lr=0.002, **common)
    fit = Fit(model, make_step(model, BATCH_SIZE, NUM_TRAIN, 1), FitConfig(HEAD_EPOCHS, 9))
    history = fit.run(*inputs)
    trainable_in_head = len(network.trainable_variables)
    unfreeze(network, "all")
    steps = -(-NUM_TRAIN // BATCH_SIZE) * FINETUNE_EPOCHS
    model = compile_finetuning(
        network,
        lr=0.002,
        head_lr=0.004,
        steps=steps,
        warmup=0.2,
        weight_decay=0.01,
        ema=0.9,
        **common,
    )
    config = FitConfig(FINETUNE_EPOCHS, 9, plateau=False, first_epoch=1)
    step = make_step(model, BATCH_SIZE, NUM_TRAIN, 1)
    fit = Fit(model, step, config, FitState(history=history))
    history = fit.run(*inputs)
    keep({"epoch": "end"})
    described = {
        "history": history,
        "best_epoch": fit.best_epoch,
        "trainable_in_head": trainable_in_head,
    }
    np.savez(out, described=np.array(json.dumps(described)), **saved)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
