"""The kernels for a GPU, in Triton's interpreter on the CPU, against the convolution that the CPU takes.

HPAL_REQUIRE_TRITON=1 makes Triton's absence a failure. What only a GPU shows is in benchmarks/gpu.sh.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from test_minkowski import SETS as ENGINE_SETS
from test_network import some_voxels
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.network import backend, native
from hpal_cli.network.geometry import LEVELS, Geometry
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.training.losses import update_ema

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and not os.environ.get("HPAL_REQUIRE_TRITON"),
    reason="Triton is not installed (it comes with torch for CUDA; pip install --no-deps triton)",
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def unchecked() -> Iterator[None]:
    """The interpreter checks every sum and product of integers for an overflow, which takes a third of its time. These
    tests have a few hundred rows, so none can occur."""
    from triton.runtime import interpreter

    with pytest.MonkeyPatch.context() as patch:
        options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
        patch.setattr(interpreter.interpreter_builder, "options", options)
        yield


@pytest.fixture
def gemm() -> ModuleType:
    from hpal_cli.network import implicit_gemm

    return implicit_gemm


def tables(voxel: Tensor, precision: str = "fp32") -> Any:
    from hpal_cli.network.tables import TableGeometry

    return TableGeometry(voxel, precision=precision)


SETS = {
    **ENGINE_SETS,
    "three scenes below zero": some_voxels(0, scenes=3, share=0.02, shift=(-21, 5, -64)),
    "one dense scene": some_voxels(1, scenes=1, share=0.2)[:201],
}
STEP = {"cube": 0, "down": 1, "up": -1}


def passed(geometry: Any, method: str, level: int, x: Tensor, kernel: Tensor, upstream: Tensor) -> list[Tensor]:
    """Output, and the gradients of both factors."""
    x, kernel = x.clone().requires_grad_(), kernel.clone().requires_grad_()
    out = getattr(geometry, method)(x, kernel, level)
    out.backward(upstream.to(out.dtype))
    assert x.grad is not None
    assert kernel.grad is not None
    return [out.detach(), x.grad, kernel.grad]


def off(ours: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm, 0 where nothing is there."""
    assert ours.shape == exact.shape
    return float(torch.linalg.norm(ours.double() - exact) / torch.linalg.norm(exact.double()).clamp(min=1e-30))


@pytest.mark.parametrize("voxel", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("method", STEP)
def test_each_convolution_at_each_stride(method: str, voxel: Tensor) -> None:
    theirs, ours = Geometry(voxel), tables(voxel)
    assert ours.sizes() == theirs.sizes()
    for level in range(1 if method == "up" else 0, LEVELS - (method == "down")):
        torch.manual_seed(level)
        sizes = theirs.sizes()
        x = torch.randn(sizes[level], 5, dtype=torch.float64)
        kernel = torch.randn(27 if method == "cube" else 8, 5, 17, dtype=torch.float64)
        upstream = torch.randn(sizes[level + STEP[method]], 17, dtype=torch.float64)
        for a, b in zip(*(passed(g, method, level, x, kernel, upstream) for g in (ours, theirs)), strict=True):
            assert off(a, b) < 1e-13


def widths() -> list[tuple[str, int, int]]:
    """Every (method, C_in, C_out) of the two networks, with six channels."""
    found: dict[tuple[str, int, int], None] = {}

    class Listening:
        fused = False

        def permute(self, x: Tensor) -> Tensor:
            return x

        unpermute = permute

        def __getattr__(self, method: str) -> Callable[[Tensor, Tensor, int], Tensor]:
            def convolve(x: Tensor, kernel: Tensor, level: int) -> Tensor:
                found[method, kernel.shape[1], kernel.shape[2]] = None
                return x.new_zeros(len(x), kernel.shape[2])

            return convolve

    for size in SIZES.values():
        MinkUNet(6, 5, size).eval()(torch.zeros(2, 6), Listening())  # type: ignore[arg-type]
    return list(found)


@pytest.mark.parametrize(("method", "inputs", "outputs"), widths())
def test_every_width_of_the_networks(method: str, inputs: int, outputs: int) -> None:
    voxel = some_voxels(5, scenes=1, share=0.006)
    level = int(method == "up")
    theirs, ours = Geometry(voxel), tables(voxel)
    torch.manual_seed(inputs)
    x = torch.randn(theirs.sizes()[level], inputs)
    kernel = torch.randn(27 if method == "cube" else 8, inputs, outputs)
    upstream = torch.randn(theirs.sizes()[level + STEP[method]], outputs)
    exact = passed(theirs, method, level, x.double(), kernel.double(), upstream.double())
    for a, b in zip(passed(ours, method, level, x, kernel, upstream), exact, strict=True):
        assert a.dtype == torch.float32
        assert off(a, b) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 32), (96, 96), (33, 20), (192, 48)])
def test_half_factors_are_summed_in_float32(dtype: torch.dtype, inputs: int, outputs: int) -> None:
    voxel = some_voxels(6, scenes=1, share=0.01)
    theirs, ours = Geometry(voxel), tables(voxel)
    torch.manual_seed(outputs)
    x, kernel = torch.randn(len(voxel), inputs).to(dtype), torch.randn(27, inputs, outputs).to(dtype).float()
    upstream = torch.randn(len(voxel), outputs).to(dtype)
    out, to_x, to_kernel = passed(ours, "cube", 0, x, kernel, upstream)
    exact = passed(theirs, "cube", 0, x.double(), kernel.double(), upstream.double())
    assert (out.dtype, to_x.dtype, to_kernel.dtype) == (dtype, dtype, torch.float32)
    # What is kept in half precision is the sum, rounded once; the kernel's gradient is kept in float32.
    once = torch.finfo(dtype).eps / 2
    assert off(out, exact[0]) < once
    assert off(to_x, exact[1]) < once
    assert off(to_kernel, exact[2]) < 1e-6


def test_many_blocks_many_shares_and_the_same_bits_again(gemm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hundred rows in blocks of 16: several shares of the sum, none of them at the end of a block."""
    monkeypatch.setattr(gemm, "ROWS", 16)
    voxel = SETS["three scenes below zero"]
    theirs, ours = Geometry(voxel), tables(voxel)
    torch.manual_seed(0)
    x, kernel, upstream = torch.randn(len(voxel), 16), torch.randn(27, 16, 16), torch.randn(len(voxel), 16)
    exact = passed(theirs, "cube", 0, x.double(), kernel.double(), upstream.double())
    first = passed(ours, "cube", 0, x, kernel, upstream)
    again = passed(tables(voxel), "cube", 0, x, kernel, upstream)
    for a, b, c in zip(first, again, exact, strict=True):
        assert torch.equal(a, b)
        assert off(a, c) < 1e-6
    table = ours._cubes[0]
    assert table.blocks > 8
    # Rows that have the same neighbours lie together, so most blocks have few offsets.
    assert float(table.count[: table.blocks].float().mean()) < 20


def test_targets_without_any_source_and_no_targets_at_all(gemm: ModuleType) -> None:
    key = torch.tensor([5, 9], dtype=torch.int64)
    shift = torch.tensor([1 << 40, 1 << 41])
    lonely, empty = gemm.tables(
        [gemm.Search(torch.tensor([1, 2, 3]), key, 0, shift, 4), gemm.Search(key[:0], key, 0, shift, 4)], 16
    )
    for table, rows in ((lonely, 3), (empty, 0)):
        x, kernel = torch.randn(2, 16), torch.randn(8, 16, 32)
        assert torch.equal(gemm.multiply(x, kernel, table), torch.zeros(rows, 32))
        assert torch.equal(gemm.outer(x, torch.randn(rows, 32), table), torch.zeros(8, 16, 32))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_whole_network(training: bool) -> None:
    torch.manual_seed(0)
    voxel = SETS["hardly a neighbour"]
    x = torch.randn(len(voxel), 6, dtype=torch.float64)
    found = []
    for make in (Geometry, tables):
        torch.manual_seed(1)
        network = MinkUNet(6, 5, SIZES["small"]).double()
        network.train()(x, Geometry(voxel))
        network.train(training)
        logits, features = network(x, make(voxel))
        (logits.sin().sum() + features.mean()).backward()
        gradients = [p.grad for p in network.parameters()]
        found.append([logits.detach(), features.detach(), *gradients, *network.buffers()])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        assert theirs is not None
        assert off(ours, theirs) < 1e-10


@pytest.mark.parametrize(("precision", "within"), [("bf16", (1e-4, 0.05)), ("fp16", (1e-5, 0.01))])
def test_what_lies_between_the_layers_may_be_halves_and_learns(precision: str, within: tuple[float, float]) -> None:
    torch.manual_seed(0)
    voxel = some_voxels(7, scenes=1, share=0.005)
    network, x = MinkUNet(6, 5, SIZES["small"]).eval(), torch.randn(len(voxel), 6)
    with torch.no_grad():
        exact, _ = network(x, tables(voxel))
        logits, features = network(x, tables(voxel, precision))
    assert logits.dtype == features.dtype == torch.float32
    assert within[0] < off(logits, exact) < within[1]
    network.train()(x, tables(voxel, precision))[0].square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}
    # A step later the halves are those of the new weights.
    torch.optim.SGD(network.parameters(), lr=0.1, foreach=True).step()
    fresh = MinkUNet(6, 5, SIZES["small"])
    fresh.load_state_dict(network.state_dict())
    with torch.no_grad():
        found, wanted = (one.eval()(x, tables(voxel, precision))[0] for one in (network, fresh))
    assert torch.equal(found, wanted)
    assert not torch.equal(found, logits)


def test_what_cannot_be_a_batch_is_refused() -> None:
    with pytest.raises(HpalError, match="larger --voxel"):
        tables(torch.tensor([[0, 0, 0, 0], [0, 70_000, 0, 0]]))
    with pytest.raises(HpalError, match="twice"):
        tables(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]))


# ---------------------------------------------------------------- what a step asks of a GPU


IDLE = {"detach", "squeeze", "t", "slice", "select", "view", "expand", "split", "split_with_sizes", "alias", "unbind",
        "new_empty", "empty", "empty_like", "_record_function_enter_new", "_record_function_exit"}  # fmt: skip
"""Calls that launch nothing: other views of the same memory, and new memory."""


class Calls(TorchDispatchMode):
    """Counts all calls of torch, by name: those that compute, those that make memory and those that only look at it."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.by_name[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))

    @property
    def all(self) -> int:
        return self.by_name.total()

    @property
    def work(self) -> int:
        """Of these, those that are launches on a GPU."""
        return sum(count for name, count in self.by_name.items() if name not in IDLE)


@pytest.fixture
def launches(gemm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """Kernels are counted instead of run; what they would write stays as it is, which no call depends on."""
    from hpal_cli.network import fused_norm

    counted: collections.Counter[str] = collections.Counter()

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            assert all(size > 0 for size in grid)

            def launch(*_: Any, **__: Any) -> None:
                counted[self.name] += 1

            return launch

    for module in (gemm, fused_norm):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Kernel(name))
    return counted


def asked_for_numbers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each call that makes the host wait for a GPU: it wants a number."""
    asked: list[str] = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "cpu", "numpy", "nonzero"):
        before = getattr(Tensor, name)

        def noted(self: Tensor, *args: Any, name: str = name, before: Any = before, **kwargs: Any) -> Any:
            asked.append(name)
            return before(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, noted)
    return asked


def test_a_step_is_few_calls_and_waits_once(
    launches: collections.Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a GPU on CPU tensors, with the paper's network: maps, both passes, loss, optimiser and EMA.

    Counted are all calls of torch that reach its dispatcher, those for memory and for views of it included, and
    apart from them the launches of our own kernels, which the dispatcher does not see. Some calls of torch are more
    than one launch on a GPU (a sort, `_foreach`); only the profile in benchmarks/gpu.sh counts these.
    One question is asked: how many voxels each stride has.
    """
    torch.manual_seed(0)
    voxel = some_voxels(8, scenes=4, share=0.1)
    x, label = torch.randn(len(voxel), 6), torch.randint(0, 13, (len(voxel),))
    student, teacher = MinkUNet(6, 13, SIZES["full"]).train(), MinkUNet(6, 13, SIZES["full"]).eval()
    # As torch itself would choose on CUDA.
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=True)

    def step() -> None:
        logits, _ = student(x, tables(voxel, "bf16"))
        loss = torch.nn.functional.cross_entropy(logits, label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        update_ema(teacher, student, 0.95)

    step()
    launches.clear()
    asked = asked_for_numbers(monkeypatch)
    with Calls() as calls:
        step()
    assert asked == ["tolist"]
    assert not {"nonzero", "_local_scalar_dense", "unique_dim", "_unique2"} & calls.by_name.keys()
    # 15,000 launches and 104 waits were measured before.
    assert calls.all <= 600, (calls.all, calls.by_name)
    assert launches.total() <= 360, (launches.total(), launches)
    assert calls.work + launches.total() <= 600, (calls.work, calls.by_name, launches)

    # What a step with a teacher adds: its maps and its forward pass, where a convolution ends with all that follows.
    teacher(x, tables(voxel, "bf16"))
    before, more = launches.total(), Calls()
    with more, torch.no_grad():
        teacher(x, tables(voxel, "bf16"))
    added = launches.total() - before
    assert more.all + added <= 220, (more.by_name, added)


def test_auto_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert str(backend.choose("auto", cuda)) == "torch backend (fastest of what is installed: with Triton), fp32"
    assert str(backend.choose("torch", cuda, "bf16")) == "torch backend (as asked, with Triton), bf16"
    assert backend.choose("torch", cuda, "tf32").geometry(torch.tensor([[0, 1, 2, 3]])).sizes() == [1] * LEVELS
    for name in ("tf32", "fp16"):
        with pytest.raises(UsageError, match=f"{name} is for a GPU"):
            backend.choose("auto", CPU, name)
    monkeypatch.setattr(native, "missing", lambda: None)
    assert str(backend.choose("auto", CPU)) == "torch backend, fp32"
