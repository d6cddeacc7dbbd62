"""Libraries that were compiled before are loaded only if nobody else can have put them there."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpal_cli import compiled
from hpal_cli.compiled import NotCompiled, load

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None or os.environ.get("HPAL_NATIVE") == "0",
    reason="nothing is compiled here",
)

FLAGS = ("-O1", "-fPIC")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled._cache_folder.cache_clear()
    yield tmp_path / "cache" / "hpal"
    compiled._cache_folder.cache_clear()


def source(folder: Path, number: int) -> Path:
    path = folder / "answer.c"
    path.write_text(f"int answer(void) {{ return {number}; }}\n")
    return path


def evil(path: Path) -> None:
    """A library that another user could have put in the place of ours."""
    code = path.with_suffix(".c")
    code.write_text("int answer(void) { return 666; }\n")
    path.unlink()
    subprocess.run(["gcc", "-shared", "-fPIC", str(code), "-o", str(path)], check=True)
    code.unlink()


def test_kept_for_the_next_time(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.umask(0)
    try:
        assert load(source(tmp_path, 1), flags=FLAGS).answer() == 1
    finally:
        os.umask(old)
    (made,) = home.iterdir()
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("it was there"))
    assert load(source(tmp_path, 1), flags=FLAGS).answer() == 1


def test_a_key_for_source_compiler_and_flags(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(source(tmp_path, 1), flags=FLAGS).answer() == 1
    assert load(source(tmp_path, 2), flags=FLAGS).answer() == 2
    assert load(source(tmp_path, 2), flags=(*FLAGS, "-g")).answer() == 2
    # One argument with a blank is not two.
    assert load(source(tmp_path, 2), flags=FLAGS, link=["-L/a", "-L/b"]).answer() == 2
    assert load(source(tmp_path, 2), flags=FLAGS, link=["-L/a -L/b"]).answer() == 2
    wrapper = tmp_path / "cc"
    for text in ('#!/bin/sh\nexec gcc "$@"\n', '#!/bin/sh\n# newer\nexec gcc "$@"\n'):
        wrapper.write_text(text)
        wrapper.chmod(0o755)
        monkeypatch.setenv("CC", str(wrapper))
        assert load(source(tmp_path, 2), flags=FLAGS).answer() == 2
    assert len(list(home.iterdir())) == 7


@pytest.mark.parametrize("how", ["writable by a group", "writable by all", "a link"])
def test_a_library_that_is_not_ours(home: Path, tmp_path: Path, how: str) -> None:
    load(source(tmp_path, 1), flags=FLAGS)
    (made,) = home.iterdir()
    evil(made)
    if how == "a link":
        made.rename(tmp_path / "elsewhere.so")
        made.symlink_to(tmp_path / "elsewhere.so")
    else:
        made.chmod(0o770 if "group" in how else 0o707)
        if "all" in how:
            made.chmod(0o702)
    # In a process of its own: the dynamic loader would give the first one again.
    code = f"from pathlib import Path; from hpal_cli.compiled import load; print(load(Path({str(tmp_path / 'answer.c')!r}), flags={FLAGS}).answer())"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    (made,) = home.iterdir()
    assert not made.is_symlink()
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_files_of_another_user(home: Path, tmp_path: Path) -> None:
    load(source(tmp_path, 1), flags=FLAGS)
    (made,) = home.iterdir()
    os.chown(made, 12345, -1)
    assert not compiled._is_ours(made)
    os.chown(home, 12345, -1)
    compiled._cache_folder.cache_clear()
    assert compiled._cache_folder() != home


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_can_write_to(home: Path, tmp_path: Path, mode: int) -> None:
    home.mkdir(parents=True)
    home.chmod(mode)
    assert isinstance(load(source(tmp_path, 1), flags=FLAGS), ctypes.CDLL)
    assert list(home.iterdir()) == []
    other = compiled._cache_folder()
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    shutil.rmtree(other)


def test_no_home_and_no_place_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The reason is given, and the caller takes the slower way."""

    def none() -> Path:
        raise RuntimeError("no home")

    def nowhere(**_: object) -> str:
        raise FileNotFoundError(2, "no usable temporary directory")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", none)
    made = compiled._cache_folder()
    assert made.name.startswith("hpal-")
    shutil.rmtree(made)
    compiled._cache_folder.cache_clear()
    monkeypatch.setattr(compiled.tempfile, "mkdtemp", nowhere)
    with pytest.raises(NotCompiled, match="no usable temporary"):
        load(source(tmp_path, 1), flags=FLAGS)
    assert not Path("relative").exists()


def test_what_a_folder_for_the_process_holds_goes_with_it(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "hpal"
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    code = "from hpal_cli.compiled import _cache_folder; print(_cache_folder())"
    env = {**os.environ, "XDG_CACHE_HOME": str(cache.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert Path(done.stdout.strip()).name.startswith("hpal-")
    assert not Path(done.stdout.strip()).exists()
