"""Fine-tuning: which layers of a trained network learn on, at what rates, with what decay."""

from typing import Any

import keras

from orchestrator.errors import SpecError
from orchestrator.model.network import HEAD_LAYERS, focal_loss, logit_model, settle_dropout


def unfreeze(network: keras.Model, part: str) -> None:
    """Chooses what of a network learns on; its head always does, BatchNormalization never.

    Frozen BatchNormalization runs in inference mode: its statistics are those of the pretraining,
    and do not follow small batches or the split of a batch among workers.

    Args:
        network: a model of `build_network`; changed in place.
        part: `all`, or `top:N` for the N layers nearest to the head that have weights,
            BatchNormalization not counted.

    Raises:
        SpecError: `part` is neither.
    """
    layers = [
        layer
        for layer in network.layers
        if layer.weights
        and layer.name not in HEAD_LAYERS
        and not isinstance(layer, keras.layers.BatchNormalization)
    ]
    kind, _, number = part.partition(":")
    if part == "all":
        chosen = layers
    elif kind == "top" and number.isdecimal() and int(number) >= 1:
        chosen = layers[-int(number) :]
    else:
        raise SpecError(f"finetune {part!r} is not known; expected all or top:N, N >= 1")
    names = {layer.name for layer in chosen} | set(HEAD_LAYERS)
    for layer in network.layers:
        layer.trainable = layer.name in names


def compile_finetuning(
    network: keras.Model,
    *,
    lr: float,
    head_lr: float,
    steps: int,
    warmup: float,
    weight_decay: float,
    ema: float,
    alpha: float,
    gamma: float,
    seed: int,
) -> keras.Model:
    """Returns the model by which `Fit` trains an unfrozen network; see `compile_model`.

    AdamW, warm-up and cosine decay, focal loss.

    Args:
        network: as `unfreeze` left it.
        lr: highest learning rate of the backbone.
        head_lr: highest learning rate of the head.
        steps: steps of the whole fine-tuning; the rates end at 0.
        warmup: share of the steps in which the rates rise from 0, 0 <= warmup < 1.
        weight_decay: of AdamW, on kernels alone.
        ema: share that an average of the weights keeps at each step, 0 <= ema < 1; 0 for none.
        alpha: focal weight of PNEUMONIA.
        gamma: focal exponent.
        seed: of what is still random from here on.

    Returns:
        The network without its last layer, compiled.

    Reference:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    """
    keras.utils.set_random_seed(seed)
    warmup_steps = round(steps * warmup)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else lr,
        decay_steps=max(1, steps - warmup_steps),
        warmup_target=lr if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    head = {id(v) for name in HEAD_LAYERS for v in network.get_layer(name).trainable_variables}
    factors = [head_lr / lr if id(v) in head else 1.0 for v in network.trainable_variables]
    optimizer = RatedAdamW(
        factors, schedule, weight_decay=weight_decay, use_ema=ema > 0, ema_momentum=ema or 0.99
    )
    optimizer.exclude_from_weight_decay(
        var_list=[variable for variable in network.trainable_variables if variable.ndim < 2]
    )
    settle_dropout(network)
    model = logit_model(network)
    model.compile(
        optimizer=optimizer,
        loss=focal_loss(alpha, gamma),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
    )
    model.optimizer.build(model.trainable_variables)
    return model


class RatedAdamW(keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW with a factor on the learning rate of each variable, in the order of building.

    The decay follows the common rate.
    """

    def __init__(self, factors: list[float], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._factors = factors

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Changes one variable; Keras calls it."""
        factor = self._factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)
