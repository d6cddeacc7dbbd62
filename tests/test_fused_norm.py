"""Batch norm, addition and ReLU as a GPU computes them, in Triton's interpreter on the CPU, against torch.

HPAL_REQUIRE_TRITON=1 makes Triton's absence a failure.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from test_implicit_gemm import CPU, SETS, off, pytestmark, tables, unchecked  # noqa: F401
from test_network import some_voxels
from torch import Tensor, nn

from hpal_cli.network.batch_norm import BatchNorm
from hpal_cli.network.geometry import Geometry
from hpal_cli.network.minkunet import SIZES, MinkUNet


@pytest.fixture
def fused() -> ModuleType:
    from hpal_cli.network import fused_norm

    return fused_norm


def some_norm(width: int, dtype: torch.dtype) -> nn.BatchNorm1d:
    bn = nn.BatchNorm1d(width).double()
    with torch.no_grad():
        for values in (bn.weight, bn.bias, bn.running_mean):
            assert values is not None
            values.normal_()
        assert bn.running_var is not None
        bn.running_var.uniform_(0.5, 2)
    return bn.to(dtype)


def by_torch(x: Tensor, bn: nn.BatchNorm1d, shortcut: Tensor | None, rectified: bool) -> Tensor:
    y = bn(x) if shortcut is None else bn(x) + shortcut
    return y.relu() if rectified else y


def one_step(
    run: Any, x: Tensor, shortcut: Tensor | None, width: int, dtype: torch.dtype, upstream: Tensor
) -> list[Tensor]:
    """Output, gradients, running statistics."""
    torch.manual_seed(1)
    bn = some_norm(width, dtype)
    leaves = [one.clone().requires_grad_() for one in (x, shortcut) if one is not None]
    out = run(leaves[0], bn, leaves[1] if shortcut is not None else None)
    out.backward(upstream)
    found = [out.detach(), bn.weight.grad, bn.bias.grad, bn.running_mean, bn.running_var, *(one.grad for one in leaves)]
    assert all(one is not None for one in found)
    return found


@pytest.mark.parametrize("added", [False, True], ids=["alone", "added"])
@pytest.mark.parametrize("rectified", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize(("rows", "width"), [(2, 1), (63, 6), (64, 16), (65, 33), (700, 96)])
def test_a_step_is_that_of_torch(
    fused: ModuleType, rows: int, width: int, rectified: bool, added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if rows were so many that a share has several blocks of them.
    monkeypatch.setattr(fused, "MAX_SHARES", 3)
    monkeypatch.setattr(fused, "MAX_PROGRAMS", 5)
    torch.manual_seed(rows)
    exact = 3 * torch.randn(rows, width, dtype=torch.float64) + 10 * torch.randn(width, dtype=torch.float64)
    shortcut = torch.randn(rows, width, dtype=torch.float64) if added else None
    upstream = torch.randn(rows, width, dtype=torch.float64)

    def run(x: Tensor, bn: nn.BatchNorm1d, shortcut: Tensor | None) -> Tensor:
        return fused.normalise_batch(x, bn, shortcut, rectified=rectified)

    wanted = one_step(lambda *of: by_torch(*of, rectified), exact, shortcut, width, torch.float64, upstream)
    for dtype, within in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        here = [None if one is None else one.to(dtype) for one in (exact, shortcut, upstream)]
        found = one_step(run, here[0], here[1], width, dtype, here[2])
        again = one_step(run, here[0], here[1], width, dtype, here[2])
        for name, ours, same, theirs in zip(["y", "w", "b", "mean", "var", "x", "s"], found, again, wanted):
            assert ours.dtype == dtype
            assert torch.equal(ours, same), name
            if rows == 2 and name == "x":
                # The gradient of two rows is what is left of numbers that cancel.
                assert (ours - theirs).abs().max() < within
            else:
                assert off(ours, theirs) < within, name


def test_what_is_far_from_zero_keeps_its_variance(fused: ModuleType) -> None:
    """Mean 1e4 and deviation 1: a sum of squares in float32 would have no digit of the variance left."""
    torch.manual_seed(0)
    x = (torch.randn(1_000, 16, dtype=torch.float64) + 1e4).float()
    bn, theirs = some_norm(16, torch.float32), some_norm(16, torch.float64)
    theirs.load_state_dict(bn.state_dict())
    y = fused.normalise_batch(x, bn, None, rectified=False)
    assert off(y.detach(), theirs.double()(x.double()).detach()) < 1e-3
    assert bn.running_var is not None
    assert theirs.running_var is not None
    assert off(bn.running_var, theirs.running_var) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(fused: ModuleType, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, shortcut, upstream = (torch.randn(500, 32).to(dtype) for _ in range(3))

    def run(x: Tensor, bn: nn.BatchNorm1d, shortcut: Tensor | None) -> Tensor:
        return fused.normalise_batch(x, bn, shortcut, rectified=True)

    found = one_step(run, x, shortcut, 32, torch.float32, upstream)
    exact = one_step(
        lambda *of: by_torch(*of, True), x.double(), shortcut.double(), 32, torch.float64, upstream.double()
    )
    assert [one.dtype for one in found] == [dtype, *4 * [torch.float32], dtype, dtype]
    once = torch.finfo(dtype).eps
    for ours, theirs in zip(found, exact):
        # A ReLU near 0 may fall to the other side once the output is rounded.
        assert off(ours, theirs) < 4 * once


@pytest.mark.parametrize("rectified", [False, True])
def test_in_evaluation_the_running_statistics_count(fused: ModuleType, rectified: bool) -> None:
    from hpal_cli.network.implicit_gemm import Epilogue

    torch.manual_seed(0)
    bn = some_norm(48, torch.float64).eval()
    for rows in (0, 1, 130):
        x, shortcut = (torch.randn(rows, 48, dtype=torch.float64) for _ in range(2))
        for added in (None, shortcut):
            with torch.no_grad():
                ours = fused.normalise(x, Epilogue.from_batch_norm(bn, added, rectified=rectified))
                assert off(ours, by_torch(x, bn, added, rectified)) < 1e-14


def test_one_row_has_no_variance() -> None:
    """torch refuses one row in training; at the coarsest strides of a small cloud the running statistics stand in."""
    geometry = tables(torch.tensor([[0, 1, 2, 3]]))
    norm, x = BatchNorm(8).double().train(), torch.randn(1, 8, dtype=torch.float64)
    found = norm(x.clone(), geometry)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm.bn(x)
    assert torch.equal(found, norm.eval().bn(x).relu())
    assert not norm.counts


@pytest.mark.parametrize("voxel", [SETS["hardly a neighbour"], torch.tensor([[0, 1, 2, 3]])], ids=["some", "one voxel"])
def test_without_gradients_a_convolution_ends_with_all_of_it(voxel: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as with gradients, layer by layer, and as on the CPU; only products of 1x1x1 take a launch more."""
    from hpal_cli.network import fused_norm

    torch.manual_seed(0)
    network = MinkUNet(6, 5, SIZES["small"]).double()
    x = torch.randn(len(voxel), 6, dtype=torch.float64)
    network.train()(
        *(lambda v: (torch.randn(len(v), 6, dtype=torch.float64), Geometry(v)))(some_voxels(2, scenes=1, share=0.05))
    )
    network.eval()
    counted: list[Tensor] = []
    before = fused_norm.normalise
    monkeypatch.setattr(fused_norm, "normalise", lambda x, epilogue: counted.append(x) or before(x, epilogue))
    with torch.no_grad():
        exact = network(x, Geometry(voxel))
        found = network(x, tables(voxel))
    assert len(counted) == 8
    step_by_step = network(x, tables(voxel))
    assert len(counted) == 8
    for ours, plain, theirs in zip(found, step_by_step, exact, strict=True):
        assert off(ours, theirs) < 1e-12
        assert off(plain.detach(), theirs) < 1e-12
