"""The two backends compute the same: hpal's own convolution against the real MinkowskiEngine, where it is installed.

HPAL_REQUIRE_MINKOWSKI=1 makes its absence a failure. What is said without it is tested everywhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import Done, environment, run_fresh, run_hpal
from test_network import some_voxels
from test_real_rooms import DATA
from torch import Tensor

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.inference.predict import predict
from hpal_cli.network.backend import NAMES, AnyGeometry, choose
from hpal_cli.network.geometry import LEVELS
from hpal_cli.network.inputs import scene_origin, unit_color, voxelise
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.prefetch import DeviceBatch
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import _Run, train

CPU = torch.device("cpu")
BACKENDS = ("torch", "minkowski")

engine = pytest.mark.skipif(
    importlib.util.find_spec("MinkowskiEngine") is None and not os.environ.get("HPAL_REQUIRE_MINKOWSKI"),
    reason="MinkowskiEngine is not installed (`make minkowski` builds it)",
)


def close(a: Tensor, b: Tensor, *, relative: float = 0.0, absolute: float = 0.0) -> None:
    """Within `absolute`, or `relative` to the largest entry."""
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= max(absolute, relative * float(a.abs().max()))


# ---------------------------------------------------------------- the same numbers


SETS = {
    "three scenes below zero": some_voxels(0, scenes=3, shift=(-21, 5, -64)),
    "one dense scene": some_voxels(1, scenes=1, share=0.4),
    "hardly a neighbour": some_voxels(2, scenes=2, share=0.01, shift=(1000, -1, 7)),
    "far apart": torch.tensor([[0, 0, 0, 0], [0, 60_000, -3, 5], [1, -1, -1, -1], [1, 0, 0, 0]]),
    "one voxel": torch.tensor([[0, -3, 4, 5]]),
    "one voxel a scene": torch.tensor([[n, n // 2, -8, 9] for n in range(12)]),
}


def cells(geometry: AnyGeometry, voxel: Tensor, level: int) -> Tensor:
    """(rows of the level, 4): the voxel of each row, found by adding up coordinates on the way down."""
    corner = torch.div(voxel[:, 1:], 1 << level, rounding_mode="floor")
    x = geometry.permute(torch.cat([voxel[:, :1], corner, torch.ones(len(voxel), 1)], 1).double())
    for n in range(level):
        x = geometry.down(x, torch.eye(5, dtype=torch.float64).expand(8, 5, 5).contiguous(), n)
    return (x[:, :4] / x[:, 4:]).round().long()


def ascending(cell: Tensor) -> Tensor:
    """The order that sorts the rows of a level, whose own order is each backend's."""
    return torch.from_numpy(np.lexsort(cell.numpy().T[::-1]))


@engine
@pytest.mark.parametrize("voxel", SETS.values(), ids=SETS.keys())
def test_every_stride_has_the_same_voxels(voxel: Tensor) -> None:
    ours, theirs = (choose(name, CPU).geometry(voxel) for name in BACKENDS)
    assert ours.sizes() == theirs.sizes()
    for level in range(LEVELS):
        a, b = (cells(geometry, voxel, level) for geometry in (ours, theirs))
        expected = torch.cat([voxel[:, :1], torch.div(voxel[:, 1:], 1 << level, rounding_mode="floor")], 1).unique(
            dim=0
        )
        assert torch.equal(a[ascending(a)], expected)
        assert torch.equal(b[ascending(b)], expected)


@engine
@pytest.mark.parametrize("voxel", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("method", ["cube", "down", "up"])
def test_each_convolution_alone(method: str, voxel: Tensor) -> None:
    step = {"cube": 0, "down": 1, "up": -1}[method]
    for level in range(1 if method == "up" else 0, LEVELS - (method == "down")):
        torch.manual_seed(level)
        results: list[list[Tensor]] = []
        for name in BACKENDS:
            geometry = choose(name, CPU).geometry(voxel)
            rows, wanted = (ascending(cells(geometry, voxel, at)) for at in (level, level + step))
            if not results:
                x = torch.randn(len(rows), 3, dtype=torch.float64, requires_grad=True)
                kernel = torch.randn(27 if method == "cube" else 8, 3, 4, dtype=torch.float64, requires_grad=True)
                slope = torch.randn(len(wanted), 4, dtype=torch.float64)
            out = getattr(geometry, method)(x[rows.argsort()], kernel, level)[wanted]
            results.append([out.detach(), *torch.autograd.grad((out * slope).sum(), [x, kernel])])
        (ours, *our_slopes), (theirs, *their_slopes) = results
        close(ours, theirs, absolute=1e-10)
        for a, b in zip(our_slopes, their_slopes, strict=True):
            close(a, b, relative=1e-9)


def passed(network: MinkUNet, x: Tensor, voxel: Tensor, name: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs of one pass, and the slope of some loss by every parameter and by x, with what batch norm remembers."""
    state = {key: value.clone() for key, value in network.state_dict().items()}
    x = x.clone().requires_grad_()
    logits, features = network(x, choose(name, CPU).geometry(voxel))
    loss = logits.sin().sum() + (features * torch.arange(features.shape[1])).mean()
    names = ["x", *(key for key, _ in network.named_parameters())]
    slopes = dict(zip(names, torch.autograd.grad(loss, [x, *network.parameters()]), strict=True))
    slopes |= {key: value.clone() for key, value in network.named_buffers() if value.is_floating_point()}
    network.load_state_dict(state)
    return [logits.detach(), features.detach()], slopes


@engine
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("voxel", SETS.values(), ids=SETS.keys())
def test_the_whole_network_and_its_slopes(voxel: Tensor, training: bool) -> None:
    torch.manual_seed(0)
    network = MinkUNet(6, 5, SIZES["small"]).double()
    x = torch.randn(len(voxel), 6, dtype=torch.float64)
    network.train()(x, choose("torch", CPU).geometry(voxel))  # so that the running averages are not those of no data
    network.train(training)
    (ours, our_slopes), (theirs, their_slopes) = (passed(network, x, voxel, name) for name in BACKENDS)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, absolute=1e-10)
    assert our_slopes.keys() == their_slopes.keys()
    for key, a in our_slopes.items():
        close(a, their_slopes[key], relative=1e-9)


@engine
def test_the_papers_network_too() -> None:
    torch.manual_seed(1)
    voxel = SETS["three scenes below zero"]
    network = MinkUNet(6, 13, SIZES["full"]).double().train()
    x = torch.randn(len(voxel), 6, dtype=torch.float64)
    (ours, our_slopes), (theirs, their_slopes) = (passed(network, x, voxel, name) for name in BACKENDS)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, absolute=1e-10)
    for key, a in our_slopes.items():
        close(a, their_slopes[key], relative=1e-9)


@engine
def test_what_cannot_be_a_batch_is_refused() -> None:
    geometry = choose("minkowski", CPU).geometry
    with pytest.raises(HpalError, match="twice"):
        geometry(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]))
    with pytest.raises(HpalError, match="larger --voxel"):
        geometry(torch.tensor([[0, 0, 0, 0], [0, 1 << 32, 0, 0]]))


# ---------------------------------------------------------------- one checkpoint, two backends


FEW = replace(PRESETS["small"], steps=6, max_voxels=4000, period=6)


@pytest.fixture(scope="module")
def real_rooms(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    if not DATA.is_dir():
        pytest.skip(f"no S3DIS rooms at {DATA} (it may not be passed on)")
    path = tmp_path_factory.mktemp("rooms") / "scenes.zarr"
    prepare(DATA, path, val=(DATA / "val_rooms.txt").read_text().split())
    return SceneStore(path)


def predicts_on_both(store: SceneStore, trained_on: str, folder: Path) -> None:
    model = train(store, None, FEW, backend=choose(trained_on, CPU))
    network = model.network().double()
    for scene in store.table:
        points = store.points(scene)
        inputs = voxelise([(scene_origin(points.xyz, store.unit), unit_color(points.rgb))], FEW.voxel).to(CPU)
        with torch.no_grad():
            ours, theirs = (
                network(inputs.features.double(), choose(name, CPU).geometry(inputs.voxel)) for name in BACKENDS
            )
        for a, b in zip(ours, theirs, strict=True):
            close(a, b, absolute=1e-10)
        assert torch.equal(ours[0].argmax(1), theirs[0].argmax(1)), scene.name

    both = (predict(model, store, folder / f"{name}.zarr", backend=choose(name, CPU)) for name in BACKENDS)
    for (scene, our_class, ours), (_, their_class, theirs) in zip(*both, strict=True):
        second, first = np.sort(ours.prob, axis=1)[:, -2:].T
        # In single precision a tie may be rounded either way, and the store's class is that of its float16.
        for a, b, tie in ((ours.prob.argmax(1), theirs.prob.argmax(1), 1e-5), (our_class, their_class, 1e-3)):
            assert (a == b)[first - second > tie].all(), scene.name
            assert (a == b).mean() > 0.999, scene.name


@engine
@pytest.mark.parametrize("trained_on", BACKENDS)
def test_made_rooms_get_the_same_classes(trained_on: str, scenes: Path, tmp_path: Path) -> None:
    predicts_on_both(SceneStore(scenes), trained_on, tmp_path)


@engine
@pytest.mark.parametrize("trained_on", BACKENDS)
def test_real_rooms_get_the_same_classes(trained_on: str, real_rooms: SceneStore, tmp_path: Path) -> None:
    predicts_on_both(real_rooms, trained_on, tmp_path)


@engine
def test_training_on_it_repeats_to_the_bit_on_one_thread(scenes: Path) -> None:
    """Several write its maps, and so add up its sums, in whatever order they come."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one, two = (train(SceneStore(scenes), None, FEW, backend=choose("minkowski", CPU)) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(value, two.student[name]) for name, value in one.student.items())


@engine
def test_a_run_resumes_on_the_other_backend(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = _Run._step
    seen: list[tuple[int, str]] = []

    def cut(self: _Run, ready: DeviceBatch, rate: float) -> object:
        seen.append((self.step, self.backend.name))
        if len(seen) == 6:
            raise KeyboardInterrupt
        return learn(self, ready, rate)

    monkeypatch.setattr(_Run, "_step", cut)
    run = tmp_path / "model.pt"
    with pytest.raises(KeyboardInterrupt):
        train(SceneStore(scenes), None, FEW, run=run, save_every=2, backend=choose("torch", CPU))
    train(SceneStore(scenes), None, FEW, run=run, resume=True, backend=choose("minkowski", CPU))
    assert seen == [*((n, "torch") for n in range(6)), (4, "minkowski"), (5, "minkowski")]


# ---------------------------------------------------------------- what is said


@engine
def test_loading_it_is_silent_and_leaves_no_trace() -> None:
    program = (
        "import collections, torch; from hpal_cli.network.backend import choose; cpu = torch.device('cpu');"
        "choose('minkowski', cpu).geometry(torch.tensor([[0, 1, 2, 3]])); assert not hasattr(collections, 'Sequence')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@engine
def test_the_commands_take_it(scenes: Path, tmp_path: Path) -> None:
    small = ("--voxel", "0.2", "--max-voxels", "800", "--steps", "2", "--batch", "1")
    trained = run_hpal("train", scenes, "--labels", "all", *small, "-o", "m.pt", "--backend", "minkowski", cwd=tmp_path)
    assert trained.rc == 0, trained.err
    assert "on cpu, minkowski backend (as asked)" in trained.err
    predicted = run_hpal("predict", "m.pt", scenes, "-o", "p.zarr", "-v", "--backend=minkowski", cwd=tmp_path)
    assert predicted.rc == 0, predicted.err
    assert "minkowski backend (as asked)" in predicted.err
    assert trained.out + predicted.out == b""


@engine
def test_one_built_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpal_cli.network import minkowski

    monkeypatch.setattr(minkowski, "BUILT_WITH_CUDA", False)
    with pytest.raises(UsageError, match="built without CUDA; choose --device cpu"):
        choose("minkowski", torch.device("cuda"))


def without_engine(folder: Path, raised: str, *args: object) -> Done:
    """hpal in a process in which importing MinkowskiEngine raises this, whether it is installed or not."""
    (folder / "MinkowskiEngine.py").write_text(f"raise {raised}\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return run_fresh(*args, env={"PYTHONPATH": path})


def calls(scenes: Path, folder: Path) -> list[Sequence[object]]:
    return [
        ("train", scenes, "--labels", "all", "-o", folder / "model.pt"),
        ("predict", folder / "model.pt", scenes, "-o", folder / "preds.zarr"),
    ]


def test_without_it_one_line_says_how_to_get_it(scenes: Path, tmp_path: Path) -> None:
    absent = "ModuleNotFoundError(\"No module named 'MinkowskiEngine'\", name='MinkowskiEngine')"
    for call in calls(scenes, tmp_path):
        done = without_engine(tmp_path, absent, *call, "--backend", "minkowski")
        assert done.rc == 2
        assert done.err == (
            f"hpal {call[0]}: --backend minkowski: MinkowskiEngine is not installed; "
            "run `make minkowski`, or see docs/minkowski.md\n"
        )
    assert not (tmp_path / "model.pt").exists()


def test_one_built_for_another_torch_is_named_as_that(scenes: Path, tmp_path: Path) -> None:
    broken = "ImportError('_C.so: undefined symbol: _ZN3c10')"
    done = without_engine(tmp_path, broken, *calls(scenes, tmp_path)[0], "--backend", "minkowski")
    assert done.rc == 2
    assert "MinkowskiEngine does not load (_C.so: undefined symbol: _ZN3c10); run `make minkowski`" in done.err
    assert done.err.count("\n") == 1


def test_an_unknown_backend_is_told_the_known_ones(scenes: Path, tmp_path: Path) -> None:
    for call in calls(scenes, tmp_path):
        done = run_hpal(*call, "--backend", "spconv")
        assert done.rc == 2
        assert f"--backend: 'spconv' is unknown; choose from {', '.join(NAMES)}" in done.err


def test_auto_says_what_it_took_and_does_not_load_the_other(scenes: Path, tmp_path: Path) -> None:
    train_it, predict_it = calls(scenes, tmp_path)
    small = ("--voxel", "0.2", "--max-voxels", "800", "--steps", "1", "--batch", "1")
    done = without_engine(tmp_path, "SystemExit('was loaded')", *train_it, *small)
    assert done.rc == 0, done.err
    assert f"steps on cpu, {choose('auto', CPU)}" in done.err
    assert choose("auto", CPU).name == "torch"
    done = run_hpal(*predict_it, "-v")
    assert done.rc == 0, done.err
    assert f"on cpu, {choose('auto', CPU)}" in done.err


# ---------------------------------------------------------------- what the engine answers on CUDA


class _EngineOnCuda:
    """Stands for MinkowskiEngine: a manager that answers as on CUDA, with empty maps where no voxel came twice."""

    class CoordinateMapType:
        CUDA, CPU = "cuda", "cpu"

    class KernelGenerator:
        def __init__(self, **_: object) -> None:
            pass

    class CoordinateManager:
        def __init__(self, **_: object) -> None:
            self._sizes: list[int] = []

        def insert_and_map(self, voxel: Tensor) -> tuple[int, tuple[Tensor, Tensor]]:
            unique, inverse = voxel.unique(dim=0, return_inverse=True)
            self._sizes.append(len(unique))
            none = torch.zeros(0, dtype=torch.int64)
            return 0, (none, none) if len(unique) == len(voxel) else (torch.arange(len(unique)), inverse)

        def stride(self, key: int, by: int) -> int:
            self._sizes.append(self._sizes[key] // by)
            return key + 1

        def size(self, key: int) -> int:
            return self._sizes[key]

    MinkowskiConvolutionFunction = MinkowskiConvolutionTransposeFunction = torch.autograd.Function

    @staticmethod
    def is_cuda_available() -> bool:
        return True


@pytest.fixture
def engine_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """hpal_cli.network.minkowski with that engine, for this test alone."""
    inner = ModuleType("MinkowskiEngineBackend._C")
    inner.ConvolutionMode = type("ConvolutionMode", (), {"DEFAULT": 0})  # type: ignore[attr-defined]
    modules = {
        "MinkowskiEngine": _EngineOnCuda,
        "MinkowskiEngineBackend": ModuleType("MinkowskiEngineBackend"),
        "MinkowskiEngineBackend._C": inner,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "hpal_cli.network.minkowski", raising=False)
    yield importlib.import_module("hpal_cli.network.minkowski")
    # What was imported with the stand-in goes with it.
    del sys.modules["hpal_cli.network.minkowski"]


def test_empty_maps_mean_that_the_order_is_the_given_one(engine_on_cuda: ModuleType) -> None:
    """What failed on an H100: `leave` gave no rows."""
    voxel = SETS["one dense scene"]
    geometry = engine_on_cuda.MinkowskiGeometry(voxel)
    x = torch.randn(len(voxel), 3)
    assert torch.equal(geometry.permute(x), x)
    assert torch.equal(geometry.unpermute(x), x)
    assert geometry.sizes()[0] == len(voxel)
    with pytest.raises(HpalError, match="twice"):
        engine_on_cuda.MinkowskiGeometry(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]))


def test_auto_without_triton_takes_the_engine_on_cuda(
    engine_on_cuda: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setitem(sys.modules, "hpal_cli.network.implicit_gemm", None)
    assert choose("auto", cuda).name == "minkowski"
    assert "does not repeat to the bit" in str(choose("auto", cuda))
    # It multiplies no bfloat16, and who asks for torch gets it.
    for name, precision in (("auto", "bf16"), ("torch", "fp32")):
        assert str(choose(name, cuda, precision)).startswith("torch backend (slower here: Triton")
    monkeypatch.setattr(engine_on_cuda, "BUILT_WITH_CUDA", False)
    assert choose("auto", cuda).name == "torch"
