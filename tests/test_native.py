"""The compiled products against the same products made by torch alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hpal_cli.compiled import NotCompiled
from hpal_cli.network import geometry, native
from hpal_cli.network.convolution import KernelMap, Pair, sparse_matmul

compiled = pytest.mark.skipif(native.missing() is not None, reason=f"no compiled products: {native.missing()}")


def test_compiled_where_a_compiler_is() -> None:
    if sys.platform == "linux" and shutil.which("gcc") and os.environ.get("HPAL_NATIVE") != "0":
        assert native.missing() is None


def some_map(rng: np.random.Generator, sources: int, targets: int, volume: int, *, centre: bool) -> KernelMap:
    """Random ascending rows, some offsets without any, the middle one the identity if wanted."""
    pairs: list[Pair | None] = []
    for k in range(volume):
        if centre and k == volume // 2:
            pairs.append(None)
            continue
        count = int(rng.integers(0, min(sources, targets))) if k % 5 else 0
        rows = [np.sort(rng.choice(n, count, replace=False)) for n in (sources, targets)]
        pairs.append(Pair(*(torch.from_numpy(row) for row in rows)))
    return KernelMap(pairs)


WAYS = {
    # How products of bfloat16 are computed: the flags, and what hpal_has_bf16 then says.
    "tiles": ((), 2),
    # What the compiler does not know of tiles shows where it keeps functions apart.
    "tiles, nothing inlined": (("-fno-inline",), 2),
    "vectors": (("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16"), 1),
}


@pytest.fixture(params=[*WAYS, "rounded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways of multiplying bfloat16 that this processor has; all have the one that only rounds to it."""
    name = str(request.param)
    library: object = "not for this test"
    if name in WAYS:
        flags, says = WAYS[name]
        try:
            library = native.half_library((*native.FLAGS, *flags))
        except NotCompiled as reason:
            pytest.skip(str(reason))
        if library.hpal_has_bf16() != says:
            pytest.skip(f"this processor does not multiply bfloat16 in {name}")
    monkeypatch.setattr(native, "_half_library", lambda: library)
    assert native.supports_half(torch.zeros(4, 16), torch.zeros(27, 16, 16)) == (name in WAYS)


def results(
    pairs: KernelMap, features: torch.Tensor, kernel: torch.Tensor, rows: int, *, half: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output and both gradients, for a loss in which every output has its own weight."""
    features, kernel = features.clone().requires_grad_(), kernel.clone().requires_grad_()
    out = sparse_matmul(features, kernel, pairs, rows, half=half)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * weight).sum().backward()
    assert features.grad is not None
    assert kernel.grad is not None
    return out.detach(), features.grad, kernel.grad


@compiled
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(16, 16), (32, 48), (48, 32), (112, 96), (96, 64), (16, 256), (80, 80), (6, 16), (7, 32)]
)
def test_same_as_float64_in_torch(inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(inputs * 1000 + outputs)
    torch.manual_seed(inputs)
    for sources, targets, volume, centre in ((700, 700, 27, True), (1500, 400, 8, False), (3, 3, 27, True)):
        pairs = some_map(rng, sources, targets, volume, centre=centre)
        features, kernel = torch.randn(sources, inputs), torch.randn(volume, inputs, outputs)
        assert native.supports(features, kernel)
        ours = results(pairs, features, kernel, targets)
        theirs = results(pairs, features.double(), kernel.double(), targets)
        for one, other in zip(ours, theirs, strict=True):
            assert torch.linalg.norm(one.double() - other) <= 1e-6 * torch.linalg.norm(other)


def assert_same_bits_for_any_threads(rows: int, volume: int, inputs: int, outputs: int, *, half: bool) -> None:
    rng = np.random.default_rng(rows)
    pairs = some_map(rng, rows, rows, volume, centre=volume == 27)
    features, kernel = torch.randn(rows, inputs), torch.randn(volume, inputs, outputs)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(results(pairs, features, kernel, rows, half=half))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.equal(one, two)


SHAPES = [(3000, 27, 48, 96), (300, 8, 256, 192), (5000, 8, 32, 16)]


@compiled
@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_threads_gives_the_same_bits(shape: tuple[int, int, int, int]) -> None:
    assert_same_bits_for_any_threads(*shape, half=False)


@compiled
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("way")
def test_and_in_bfloat16(shape: tuple[int, int, int, int]) -> None:
    assert_same_bits_for_any_threads(*shape, half=True)


def test_what_it_does_not_take() -> None:
    assert not native.supports(torch.zeros(4, 16, dtype=torch.float64), torch.zeros(27, 16, 16, dtype=torch.float64))
    assert not native.supports(torch.zeros(4, 16), torch.zeros(27, 16, 13))


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 48), (16, 16), (112, 96), (384, 256), (6, 16), (3, 32), (40, 64)])
@pytest.mark.usefixtures("way")
def test_rounded_factors_and_float_sums(inputs: int, outputs: int) -> None:
    """bf16: what comes out is the float64 product of rounded factors, to float32's accuracy, in both passes."""
    rng = np.random.default_rng(9)
    torch.manual_seed(outputs)
    for sources, targets, volume, centre in ((500, 500, 27, True), (900, 300, 8, False), (1, 1, 27, True)):
        pairs = some_map(rng, sources, targets, volume, centre=centre)
        features, kernel = torch.randn(sources, inputs), torch.randn(volume, inputs, outputs)
        weight = torch.randn(targets, outputs)
        found = []
        for dtype, half in ((torch.float32, True), (torch.float64, False)):
            x, w, g = (
                (value if half else value.bfloat16()).to(dtype).clone().requires_grad_()
                for value in (features, kernel, weight)
            )
            out = sparse_matmul(x, w, pairs, targets, half=half)
            out.backward(g.detach())
            found.append((out.detach(), x.grad, w.grad))
        for ours, exact in zip(*found, strict=True):
            assert ours is not None
            assert exact is not None
            assert torch.linalg.norm(ours.double() - exact) <= 2e-6 * torch.linalg.norm(exact)
        unrounded = sparse_matmul(features.double(), kernel.double(), pairs, targets)
        assert torch.linalg.norm(found[0][0].double() - unrounded) >= 1e-4 * torch.linalg.norm(unrounded)


@compiled
@pytest.mark.parametrize("share", [0.001, 0.2, 0.9])
def test_rows_that_meet_are_those_that_a_search_finds(share: float) -> None:
    torch.manual_seed(1)
    key = torch.nonzero(torch.rand(20_000) < share).squeeze(1) - 7_000
    for keys in (key, key[:1], key[:2], torch.stack([key, -key], 1)[:, 0]):
        shifts = [-9_000, -120, -11, -1, 2, 30_000]
        found, expected = native.kernel_pairs(keys, shifts), geometry.search(keys.contiguous(), shifts)
        assert found is not None
        for one, other in zip(found, expected, strict=True):
            for rows, wanted in zip(one, other, strict=True):
                assert torch.equal(rows, wanted)


_PRINT_LOGITS = """
import torch
from hpal_cli.network import native
from hpal_cli.network.geometry import Geometry
from hpal_cli.network.minkunet import SIZES, MinkUNet
torch.manual_seed(3)
voxel = torch.unique(torch.randint(0, 20, (3000, 4)) * torch.tensor([0, 1, 1, 1]), dim=0)
network = MinkUNet(6, 5, SIZES["small"]).eval()
with torch.no_grad():
    logits, _ = network(torch.rand(len(voxel), 6), Geometry(voxel))
print(native.missing())
print(*logits.flatten().tolist())
"""


def in_fresh_process(tmp_path: Path, **environment: str) -> tuple[str, np.ndarray]:
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_LOGITS],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    reason, logits = done.stdout.splitlines()
    return reason, np.array(logits.split(), float)


@compiled
def test_without_a_compiler_torch_alone_gives_the_same_answer(tmp_path: Path) -> None:
    reason, with_it = in_fresh_process(tmp_path / "a")
    assert reason == "None"
    assert len(list((tmp_path / "a" / "hpal").glob("sparse-*.so"))) == 1
    for environment, expected in (
        ({"CC": "no-such-compiler"}, "no C compiler"),
        ({"CC": "false"}, "false failed"),
        ({"HPAL_NATIVE": "0"}, "HPAL_NATIVE is 0"),
    ):
        reason, without = in_fresh_process(tmp_path / "b", **environment)
        assert expected in reason
        np.testing.assert_allclose(with_it, without, rtol=1e-4, atol=1e-5)
