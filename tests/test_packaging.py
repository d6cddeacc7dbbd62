"""What is given to others: the wheel holds the package, the command, the completions and the manual, the source
distribution makes the same wheel, and the wheel works where there is no repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from conftest import VAL, environment

ROOT = Path(__file__).parents[1]


def build(kind: str, source: Path, into: Path) -> Path:
    call = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)]
    subprocess.run(call, cwd=source, check=True, capture_output=True)
    (made,) = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_carries_completions_the_manual_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for inside, script in {
            "share/bash-completion/completions/hpal": "completions/hpal.bash",
            "share/zsh/site-functions/_hpal": "completions/_hpal",
            "share/fish/vendor_completions.d/hpal.fish": "completions/hpal.fish",
            **{f"share/man/man1/{page.name}": f"man/{page.name}" for page in (ROOT / "man").iterdir()},
        }.items():
            (name,) = [n for n in names if n.endswith(f".data/data/{inside}")]
            assert archive.read(name) == (ROOT / script).read_bytes()
        (entry,) = [n for n in names if n.endswith("entry_points.txt")]
        assert b"hpal = hpal_cli.__main__:main" in archive.read(entry)
        (metadata,) = [n for n in names if n.endswith("METADATA")]
        assert b"License-Expression: Apache-2.0" in archive.read(metadata)
    assert "hpal_cli/demo/office.py" in names
    for source in (
        "network/sparse.c",
        "score/hmmu.c",
        "selection/greedy.c",
        "predictions/probabilities.c",
        "readers/numbers.c",
        "float16.h",
    ):
        assert f"hpal_cli/{source}" in names
    # Tests, tools and data stay at home.
    assert not [
        n for n in names if not n.startswith("hpal_cli/") and ".data/data/share/" not in n and ".dist-info/" not in n
    ]


def test_nothing_for_development_comes_along() -> None:
    plain = [line for line in requires("hpal") or [] if "extra ==" not in line]
    assert plain
    assert not [
        line for line in plain if line.startswith(("pytest", "ruff", "mypy", "hatchling", "hypothesis", "json"))
    ]


def test_the_recipe_for_conda_asks_for_the_same_versions() -> None:
    renamed = {"torch": "pytorch", "matplotlib": "matplotlib-base", "laspy[lazrs]": "laspy"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = [one.split(">=") for one in project["dependencies"]]
    recipe = (ROOT / "packaging/conda/recipe.yaml").read_text()
    wanted = recipe[recipe.index("  run:") : recipe.index("tests:")]
    found = re.findall(r"- (\S+) >=([\d.]+)", wanted)
    assert sorted(found) == sorted((renamed.get(name, name), version) for name, version in bounds)


def test_what_the_docker_image_is_given_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    rules = (ROOT / "packaging/Dockerfile.dockerignore").read_text().splitlines()
    source = tmp_path / "source"
    source.mkdir()
    for name in (rule[1:] for rule in rules if rule.startswith("!")):
        one = ROOT / name
        (shutil.copytree if one.is_dir() else shutil.copyfile)(one, source / name)
    again = build("wheel", source, tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {i.filename: i.CRC for i in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}


def test_the_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(source) as archive:
        # Python before 3.11.4 has no filters.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (folder,) = [path for path in tmp_path.glob("hpal-*") if path.is_dir()]
    again = build("wheel", folder, tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {i.filename: i.CRC for i in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}


def test_the_wheel_works_where_there_is_no_repository(wheel: Path, tmp_path: Path) -> None:
    """In an environment that holds it alone, with the libraries of this one, which are too large to install again."""
    folder = tmp_path / "env"
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    # As a line of a .pth file, whose own .pth files are not read: the editable hpal stays out.
    (packages / "libraries.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    python, hpal = folder / "bin" / "python", folder / "bin" / "hpal"
    env = {k: v for k, v in environment().items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PATH"] = f"{folder / 'bin'}:{env['PATH']}"

    def run(*call: object) -> str:
        done = subprocess.run(
            [str(word) for word in call], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(python, "-c", "import hpal_cli; print(hpal_cli.__file__)")
    assert Path(where.strip()).is_relative_to(folder)
    make = "from hpal_cli.demo.office import make_office as make; from pathlib import Path; "
    run(python, "-c", make + "make(Path('office'), rooms=3, seed=0, points=600)")
    run(hpal, "prep", "office", "-o", "scenes.zarr", "--val", VAL, "--grid", "15cm", "-q")
    loop = (
        "set -o pipefail; hpal score scenes.zarr --strategy diverse --budget 12 -q | hpal select --budget 12 -q"
        " | hpal label --oracle scenes.zarr -o labels.zarr -q"
    )
    run("bash", "-c", loop)
    run(hpal, "spread", "labels.zarr", "scenes.zarr", "--alike", "-o", "spread.zarr", "-q")
    assert "mIoU" in run(hpal, "eval", "spread.zarr", "--truth", "scenes.zarr", "--split", "train")
    assert (folder / "share/man/man1/hpal.1").exists()
