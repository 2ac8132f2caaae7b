"""Convolutional parts of small networks, without pretrained weights.

ResNet18, SqueezeNet and AlexNet have torchvision's layers and its symmetric padding. Max pooling
follows a ReLU, so that padding with zeros is padding with nothing. Each function takes a Keras
tensor of preprocessed images [N, S, S, 3] and returns the last feature maps; the pooling is
`build_backbone`'s.
"""

from collections.abc import Callable
from typing import Any

from keras import layers

_HE = "he_normal"  # for ReLU: He et al., Delving Deep into Rectifiers, ICCV 2015


def resnet18(images: Any) -> Any:
    """Applies ResNet18: a stem, then four stages of two residual blocks; maps [N, S/32, S/32, 512].

    Reference:
        He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016.
    """
    x = _norm(_conv(images, 64, 7, 2, 3, "stem", use_bias=False), "stem_norm")
    x = _pool(layers.ReLU(name="stem_relu")(x), 1, "stem_pool")
    for stage, filters in enumerate((64, 128, 256, 512)):
        for block in range(2):
            x = _residual(x, filters, 2 if stage and not block else 1, f"stage{stage}_{block}_")
    return x


def _residual(x: Any, filters: int, stride: int, name: str) -> Any:
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes."""
    shortcut = x
    x = _norm(_conv(x, filters, 3, stride, 1, name + "conv1", use_bias=False), name + "norm1")
    x = layers.ReLU(name=name + "relu1")(x)
    x = _norm(_conv(x, filters, 3, 1, 1, name + "conv2", use_bias=False), name + "norm2")
    if stride > 1:
        projected = _conv(shortcut, filters, 1, stride, 0, name + "shortcut", use_bias=False)
        shortcut = _norm(projected, name + "shortcut_norm")
    return layers.ReLU(name=name + "relu2")(layers.Add(name=name + "add")([x, shortcut]))


def squeezenet(images: Any) -> Any:
    """Applies SqueezeNet 1.1: a stem and eight fire modules; maps [N, about S/17, S/17, 512].

    Reference:
        Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016,
        arXiv:1602.07360; version 1.1 of https://github.com/forresti/SqueezeNet.
    """
    x = _conv(images, 64, 3, 2, 0, "stem", activation="relu")
    fires = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    for index, (squeezed, expanded) in enumerate(fires):
        if index in (0, 2, 4):
            # The last window may reach one pixel beyond the edge.
            x = _pool(x, ((0, 1), (0, 1)), f"pool_{index}")
        name = f"fire_{index}_"
        x = _conv(x, squeezed, 1, 1, 0, name + "squeeze", activation="relu")
        parts = [
            _conv(x, expanded, size, 1, size // 2, f"{name}expand{size}", activation="relu")
            for size in (1, 3)
        ]
        x = layers.Concatenate(name=name + "concat")(parts)
    return x


def alexnet(images: Any) -> Any:
    """Applies AlexNet on one device: five convolutions; maps [N, about S/37, S/37, 256].

    Reference:
        Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014,
        arXiv:1404.5997.
    """
    x = _pool(_conv(images, 64, 11, 4, 2, "conv_0", activation="relu"), 0, "pool_0")
    x = _pool(_conv(x, 192, 5, 1, 2, "conv_1", activation="relu"), 0, "pool_1")
    for index, filters in enumerate((384, 256, 256), 2):
        x = _conv(x, filters, 3, 1, 1, f"conv_{index}", activation="relu")
    return _pool(x, 0, "pool_2")


def cnn(images: Any) -> Any:
    """Applies four 3x3 convolutions, each with a 2x2 pooling; maps [N, S/16, S/16, 256].

    Reference:
        LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition,
        Proceedings of the IEEE 86, 1998 (convolution and pooling in turn).
    """
    x = images
    for index, filters in enumerate((32, 64, 128, 256)):
        x = _conv(x, filters, 3, 1, 1, f"conv_{index}", activation="relu")
        x = layers.MaxPooling2D(2, name=f"pool_{index}")(x)
    return x


def tiny(images: Any) -> Any:
    """Applies three small convolutions: fast enough for tests, deep enough to learn from."""
    x = images
    for index, filters in enumerate((8, 16, 32)):
        x = layers.Conv2D(
            filters, 3, strides=2, padding="same", use_bias=False, name=f"conv_{index}"
        )(x)
        x = layers.BatchNormalization(name=f"norm_{index}")(x)
        x = layers.ReLU(name=f"relu_{index}")(x)
    return x


def _conv(x: Any, filters: int, size: int, stride: int, pad: int, name: str, **extra: Any) -> Any:
    """A convolution after `pad` zeros on every side."""
    same = stride == 1 and pad == size // 2  # Keras's own padding is symmetric then
    if pad and not same:
        x = layers.ZeroPadding2D(pad, name=name + "_pad")(x)
    padding = "same" if same else "valid"
    conv = layers.Conv2D(
        filters, size, stride, padding=padding, kernel_initializer=_HE, name=name, **extra
    )
    return conv(x)


def _norm(x: Any, name: str) -> Any:
    """Batch normalisation with torch's constants."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def _pool(x: Any, pad: Any, name: str) -> Any:
    """3x3 max pooling in steps of 2 after `pad` zeros."""
    if pad:
        x = layers.ZeroPadding2D(pad, name=name + "_pad")(x)
    return layers.MaxPooling2D(3, 2, name=name)(x)


TRUNKS: dict[str, Callable[[Any], Any]] = {
    "ResNet18": resnet18,
    "SqueezeNet": squeezenet,
    "AlexNet": alexnet,
    "cnn": cnn,
    "tiny": tiny,
}
