"""Real models, small enough for a CPU."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.body = nn.Sequential(*_conv(inputs, outputs, stride), nn.ReLU(), *_conv(outputs, outputs, 1))
        skip = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.skip = nn.Sequential(*(skip if stride > 1 else []))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class ResNet20(nn.Module):
    """For images of 32 x 32: He et al., arXiv 1512.03385, section 4.2. 0.27M parameters."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        widths = [16] * 4 + [32] * 3 + [64] * 3
        blocks = [_Block(*pair) for pair in itertools.pairwise(widths)]
        self.layers = nn.Sequential(
            *_conv(3, 16, 1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class GPT(nn.Module):
    """A decoder of the GPT-2 kind, with dropout: 4 layers of width 256, 4.2M parameters."""

    def __init__(self, vocabulary: int = 2048, context: int = 64, width: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        places = torch.arange(length, device=x.device)
        hidden = self.tokens(x) + self.places(places)
        return self.head(self.layers(hidden, mask=self.mask[:length, :length], is_causal=True))


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_conv(inputs, outputs, 1), nn.ReLU(), *_conv(outputs, outputs, 1), nn.ReLU())


class UNet(nn.Module):
    """Two levels, with BatchNorm: Ronneberger et al., arXiv 1505.04597. 0.1M parameters."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down, self.bottom, self.up = _pair(3, width), _pair(width, 2 * width), _pair(3 * width, width)
        self.head = nn.Conv2d(width, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.down(x)
        deep = self.bottom(nn.functional.max_pool2d(wide, 2))
        return self.head(self.up(torch.cat([wide, nn.functional.interpolate(deep, scale_factor=2)], 1)))


def small_cnn() -> nn.Sequential:
    """Conv, BatchNorm, ReLU, pool, Conv: a fused pair between convolutions."""
    return nn.Sequential(*_conv(3, 32, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 10, 3, 1, 1))


def encoder() -> nn.TransformerEncoder:
    """4 layers of width 128, with dropout."""
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


class VAE(nn.Module):
    """Kingma and Welling, arXiv 1312.6114, as in torch's examples, for images of 784 pixels. 0.65M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
        self.decode = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encode(x).chunk(2, 1)
        return self.decode(mean + torch.randn_like(mean) * (0.5 * log_var).exp()), mean, log_var


def policy() -> nn.Sequential:
    """As small as in reinforcement learning: 8 observations, 4 actions, 5k parameters."""
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))


def bags() -> nn.Sequential:
    """The mean of word vectors; their gradient is sparse. 6.4M parameters."""
    return nn.Sequential(nn.EmbeddingBag(100_000, 64, sparse=True), nn.Linear(64, 10))
