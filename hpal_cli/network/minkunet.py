"""MinkowskiNet: a residual U-Net of sparse convolutions (docs/method.md).

The names and shapes of the parameters are those of the same network made of MinkowskiEngine layers: `kernel`
(27 or 8, C_in, C_out), or (C_in, C_out) for 1x1x1 convolutions, and batch norm as `.bn`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from hpal_cli.network.backend import AnyGeometry
from hpal_cli.network.batch_norm import BatchNorm, count_batches

if TYPE_CHECKING:
    from hpal_cli.network.tables import HalfKernels, TableGeometry


@dataclass(frozen=True)
class Size:
    """The numbers of channels of the stem, the four encoder stages and the four decoder stages, and the number of
    residual blocks in each stage.
    If the last decoder stage has fewer channels than `FEATURES`, a 1x1x1 convolution follows that has as many.
    """

    stem: int
    encoder: tuple[int, int, int, int]
    decoder: tuple[int, int, int, int]
    blocks: int


FEATURES = 96
"""Number of features of a point, which FDS compares; it is the same for every size of the network."""

SIZES = {
    # The paper's network: 21.7 M parameters.
    "full": Size(32, (32, 64, 128, 256), (256, 128, 96, 96), 2),
    # For a CPU: half of the widths, and one block in each stage.
    "small": Size(16, (16, 32, 64, 128), (128, 64, 48, 48), 1),
}


class MinkUNet(nn.Module):
    """Input features (M, C_in) of voxels -> logits (M, classes), and the output of the last decoder block (M, 96)."""

    def __init__(self, channels: int, classes: int, size: Size, *, dropout: float = 0.0) -> None:
        """channels: C_in; dropout: share of the last features that is set to 0 at each step of a training."""
        super().__init__()
        self.stem = Chain(
            Convolution(channels, size.stem, 0), BatchNorm(size.stem),
            Convolution(size.stem, size.stem, 0), BatchNorm(size.stem),
        )  # fmt: skip
        widths = [size.stem, *size.encoder]
        for n, width in enumerate(size.encoder):
            stage = Chain(
                Down(widths[n], widths[n], n),
                BatchNorm(widths[n]),
                *_blocks(widths[n], width, n + 1, size.blocks),
            )
            self.add_module(f"stage{n + 1}", stage)
        below = size.encoder[-1]
        for n, width in enumerate(size.decoder):
            level, skip = 4 - n, widths[3 - n]
            self.add_module(
                f"up{n + 1}",
                nn.ModuleList(
                    [
                        Chain(Up(below, width, level), BatchNorm(width)),
                        Chain(*_blocks(width + skip, width, level - 1, size.blocks)),
                    ]
                ),
            )
            below = width
        self.widen = Chain() if below == FEATURES else Chain(Pointwise(below, FEATURES), BatchNorm(FEATURES))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(FEATURES, classes)
        self._norms = tuple(module for module in self.modules() if isinstance(module, BatchNorm))
        self._kernels = tuple(module.kernel for module in self.modules() if isinstance(module, _Kernel))
        self._half_kernels: HalfKernels | None = None

    def forward(self, features: Tensor, geometry: AnyGeometry) -> tuple[Tensor, Tensor]:
        """features: (M, C_in) in the order of the voxels of `geometry`; the results are in the same order."""
        if geometry.fused:
            self._begin(cast("TableGeometry", geometry))
        x = self.stem(geometry.permute(features), geometry)
        skips = []
        for n in range(4):
            skips.append(x)
            x = self.get_submodule(f"stage{n + 1}")(x, geometry)
        for n in range(4):
            up, body = self.get_submodule(f"up{n + 1}").children()
            x = body(torch.cat([up(x, geometry), skips.pop()], dim=1), geometry)
        x = geometry.unpermute(self.widen(x, geometry))
        if self.training:
            count_batches(self._norms)
        return self.classifier(self.dropout(x)), x

    def _begin(self, geometry: TableGeometry) -> None:
        from hpal_cli.network.tables import HalfKernels

        self._half_kernels = self._half_kernels or HalfKernels()
        geometry.begin(self._kernels, self._half_kernels, [norm.bn for norm in self._norms] if self.training else [])


def _blocks(inputs: int, outputs: int, level: int, count: int) -> list[nn.Module]:
    return [Residual(inputs if n == 0 else outputs, outputs, level) for n in range(count)]


class Chain(nn.Sequential):
    """A sequence of residual blocks, or of convolutions each followed by its batch norm.

    In the names of the parameters a ReLU counts as a layer, although its batch norm computes it.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        number = 0
        for layer in layers:
            self.add_module(str(number), layer)
            number += 2 if isinstance(layer, BatchNorm) and layer.rectified else 1

    def forward(self, x: Tensor, geometry: AnyGeometry) -> Tensor:  # type: ignore[override]
        layers: Iterator[Any] = iter(self)
        for layer in layers:
            if isinstance(layer, Residual):
                x = layer(x, geometry)
            else:
                norm = next(layers)
                x = layer(x, norm.before(geometry))
                x = norm(x, geometry)
        return x


class Residual(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + x). If the number of channels changes, x passes a 1x1x1 convolution and a
    batch norm before it is added."""

    def __init__(self, inputs: int, outputs: int, level: int) -> None:
        super().__init__()
        self.net = Chain(
            Convolution(inputs, outputs, level), BatchNorm(outputs),
            Convolution(outputs, outputs, level), BatchNorm(outputs),
        )  # fmt: skip
        narrow = [] if inputs == outputs else [Pointwise(inputs, outputs), BatchNorm(outputs, rectified=False)]
        self.downsample = Chain(*narrow)

    def forward(self, x: Tensor, geometry: AnyGeometry) -> Tensor:
        layers: list[Any] = list(self.net)
        first, first_norm, second, second_norm = layers

        def shortcut() -> Tensor:
            return self.downsample(x, geometry)

        y = first(x, first_norm.before(geometry))
        y = first_norm(y, geometry)
        y = second(y, second_norm.before(geometry, shortcut))
        return second_norm(y, geometry, shortcut)


class _Kernel(nn.Module):
    """A convolution with the weight `kernel` (volume, C_in, C_out); level: its input has the stride 2^level."""

    volume: int

    def __init__(self, inputs: int, outputs: int, level: int) -> None:
        super().__init__()
        self.level = level
        self.kernel = nn.Parameter(torch.empty(self.volume, inputs, outputs))
        nn.init.normal_(self.kernel, std=math.sqrt(2 / (inputs * self.volume)))


class Convolution(_Kernel):
    """A 3x3x3 convolution that keeps the stride."""

    volume = 27

    def forward(self, x: Tensor, geometry: AnyGeometry) -> Tensor:
        return geometry.cube(x, self.kernel, self.level)


class Down(_Kernel):
    """A 2x2x2 convolution of stride 2, to the next level."""

    volume = 8

    def forward(self, x: Tensor, geometry: AnyGeometry) -> Tensor:
        return geometry.down(x, self.kernel, self.level)


class Up(_Kernel):
    """A transposed 2x2x2 convolution of stride 2, to the level before."""

    volume = 8

    def forward(self, x: Tensor, geometry: AnyGeometry) -> Tensor:
        return geometry.up(x, self.kernel, self.level)


class Pointwise(nn.Module):
    """A 1x1x1 convolution, which is a matrix product; kernel (C_in, C_out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(inputs, outputs))
        nn.init.normal_(self.kernel, std=math.sqrt(2 / inputs))

    def forward(self, x: Tensor, geometry: AnyGeometry) -> Tensor:
        x = x @ self.kernel.to(x.dtype)
        return cast("TableGeometry", geometry).apply_epilogue(x) if geometry.fused else x
