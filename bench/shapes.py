"""The parameters of real models."""

from __future__ import annotations

from .operation import Shape

MLP: tuple[Shape, ...] = ((32, 64), (32,), (32, 32), (32,), (32, 32), (32,), (32, 32), (32,), (10, 32), (10,))


def gpt2(width: int, vocabulary: int, context: int, layers: int = 12) -> tuple[Shape, ...]:
    """The parameters of a GPT-2, 148 of 12 layers; small: 768, 50257, 1024."""
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp: list[Shape] = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return ((vocabulary, width), (context, width), *[*norm, *attention, *norm, *mlp] * layers, *norm)


def resnet50() -> tuple[Shape, ...]:
    """161 parameters, 25.6M elements."""

    def conv(inputs: int, outputs: int, size: int) -> list[Shape]:
        return [(outputs, inputs, size, size), (outputs,), (outputs,)]  # the last two are its BatchNorm's

    shapes = conv(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [*conv(inputs, width, 1), *conv(width, width, 3), *conv(width, 4 * width, 1)]
            if block == 0:
                shapes += conv(inputs, 4 * width, 1)
            inputs = 4 * width
    return (*shapes, (1000, inputs), (1000,))
