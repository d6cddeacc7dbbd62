"""Sparse convolution against dense convolution, and the network's shape against the paper's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from hpal_cli.errors import HpalError
from hpal_cli.network.geometry import LEVELS, Geometry
from hpal_cli.network.minkunet import FEATURES, SIZES, MinkUNet

SIDE = 16


def some_voxels(
    seed: int, scenes: int = 2, share: float = 0.15, shift: tuple[int, int, int] = (0, 0, 0)
) -> torch.Tensor:
    """(M, 4) occupied cells of small cubes, in random order."""
    rng = np.random.default_rng(seed)
    full = np.argwhere(rng.random((scenes, SIDE, SIDE, SIDE)) < share)
    rng.shuffle(full)
    return torch.from_numpy(full + np.array([0, *shift]))


def dense(voxel: torch.Tensor, features: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    """(scenes, C, side, side, side), zero where no voxel is."""
    scenes = int(voxel[:, 0].max()) + 1
    grid = features.new_zeros(scenes, features.shape[1], side, side, side)
    grid[voxel[:, 0], :, voxel[:, 1], voxel[:, 2], voxel[:, 3]] = features
    return grid


def at(grid: torch.Tensor, voxel: torch.Tensor) -> torch.Tensor:
    return grid[voxel[:, 0], :, voxel[:, 1], voxel[:, 2], voxel[:, 3]]


def as_dense_kernel(kernel: torch.Tensor, side: int) -> torch.Tensor:
    """(K, C_in, C_out), first spatial axis fastest, as torch's (C_out, C_in, x, y, z)."""
    return kernel.reshape(side, side, side, *kernel.shape[1:]).permute(4, 3, 2, 1, 0)


def test_cube_is_dense_convolution_at_the_occupied_cells() -> None:
    voxel = some_voxels(0)
    x = torch.randn(len(voxel), 5, dtype=torch.float64)
    kernel = torch.randn(27, 5, 4, dtype=torch.float64)
    geometry = Geometry(voxel)
    ours = geometry.unpermute(geometry.cube(geometry.permute(x), kernel, 0))
    theirs = functional.conv3d(dense(voxel, x), as_dense_kernel(kernel, 3), padding=1)
    torch.testing.assert_close(ours, at(theirs, voxel), rtol=1e-12, atol=1e-12)


def coarse_cells(geometry: Geometry, level: int, shift: int) -> torch.Tensor:
    """The voxels of a level in the network's order, from their keys."""
    key = geometry._levels[level].key
    mask = (1 << 16) - 1
    xyz = torch.stack([(key >> 32) & mask, (key >> 16) & mask, key & mask], 1) - (16 >> level) + (shift >> level)
    return torch.cat([(key >> 48)[:, None], xyz], 1)


def test_down_and_up_are_dense_strided_convolutions() -> None:
    voxel = some_voxels(1)
    x = torch.randn(len(voxel), 3, dtype=torch.float64)
    kernel = torch.randn(8, 3, 4, dtype=torch.float64)
    geometry = Geometry(voxel)
    cells = coarse_cells(geometry, 1, 0)
    down = geometry.down(geometry.permute(x), kernel, 0)
    theirs = functional.conv3d(dense(voxel, x), as_dense_kernel(kernel, 2), stride=2)
    torch.testing.assert_close(down, at(theirs, cells), rtol=1e-12, atol=1e-12)

    back = torch.randn(8, 4, 3, dtype=torch.float64)
    up = geometry.unpermute(geometry.up(down, back, 1))
    weight = as_dense_kernel(back, 2).transpose(0, 1)
    theirs = functional.conv_transpose3d(dense(cells, down, SIDE // 2), weight, stride=2)
    torch.testing.assert_close(up, at(theirs, voxel), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_sums() -> None:
    geometry = Geometry(some_voxels(2, scenes=1, share=0.02))
    rows = geometry.sizes()
    for method, volume, level in (("cube", 27, 0), ("down", 8, 0), ("up", 8, 1)):
        x = torch.randn(rows[level], 2, dtype=torch.float64, requires_grad=True)
        kernel = torch.randn(volume, 2, 3, dtype=torch.float64, requires_grad=True)
        call = getattr(geometry, method)
        assert torch.autograd.gradcheck(lambda a, b, call=call, level=level: call(a, b, level), (x, kernel))


def test_levels_halve_the_true_coordinates_below_zero_too() -> None:
    shift = (-21, 5, -64)
    voxel = some_voxels(3, scenes=1, shift=shift)
    sizes = Geometry(voxel).sizes()
    for level in range(LEVELS):
        cells = torch.div(voxel[:, 1:], 1 << level, rounding_mode="floor")
        assert sizes[level] == len(torch.unique(cells, dim=0))


def test_the_paper_network_has_the_paper_size() -> None:
    network = MinkUNet(6, 13, SIZES["full"])
    assert sum(p.numel() for p in network.parameters()) == 21_724_461
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["stem.0.kernel"] == (27, 6, 32)
    assert shapes["stage1.0.kernel"] == (8, 32, 32)
    assert shapes["stage2.3.downsample.0.kernel"] == (32, 64)
    assert shapes["up4.1.0.net.0.kernel"] == (27, 128, 96)
    assert shapes["up1.0.1.bn.running_mean"] == (256,)
    assert shapes["classifier.weight"] == (13, 96)


@pytest.mark.parametrize("size", list(SIZES))
def test_rows_follow_the_input_and_scenes_do_not_mix(size: str) -> None:
    torch.manual_seed(0)
    network = MinkUNet(6, 5, SIZES[size]).double().eval()
    voxel = some_voxels(4)
    x = torch.randn(len(voxel), 6, dtype=torch.float64)
    with torch.no_grad():
        logits, features = network(x, Geometry(voxel))
        assert features.shape == (len(voxel), FEATURES)
        assert (features >= 0).all()
        order = torch.randperm(len(voxel))
        shuffled, _ = network(x[order], Geometry(voxel[order]))
        torch.testing.assert_close(shuffled, logits[order], rtol=1e-9, atol=1e-9)
        first = voxel[:, 0] == 0
        alone, _ = network(x[first], Geometry(voxel[first]))
        torch.testing.assert_close(alone, logits[first], rtol=1e-9, atol=1e-9)
        # A move by the largest stride changes no neighbourhood at any level.
        moved, _ = network(x, Geometry(voxel + torch.tensor([0, 16, -32, 4800])))
        torch.testing.assert_close(moved, logits, rtol=1e-9, atol=1e-9)


def test_every_parameter_learns() -> None:
    network = MinkUNet(6, 5, SIZES["small"])
    voxel = some_voxels(5)
    logits, _ = network(torch.randn(len(voxel), 6), Geometry(voxel))
    functional.cross_entropy(logits, torch.randint(0, 5, (len(voxel),))).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_too_wide_a_scene_and_double_voxels_are_refused() -> None:
    with pytest.raises(HpalError, match="larger --voxel"):
        Geometry(torch.tensor([[0, 0, 0, 0], [0, 70_000, 0, 0]]))
    with pytest.raises(HpalError, match="twice"):
        Geometry(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]))
