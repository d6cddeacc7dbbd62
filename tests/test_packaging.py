"""What a wheel holds: the package, the command, and the completions where shells look for them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_carries_completions_and_the_command(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for inside, script in {
            "share/bash-completion/completions/hpal": "hpal.bash",
            "share/zsh/site-functions/_hpal": "_hpal",
            "share/fish/vendor_completions.d/hpal.fish": "hpal.fish",
        }.items():
            (name,) = [n for n in names if n.endswith(f".data/data/{inside}")]
            assert archive.read(name) == (ROOT / "completions" / script).read_bytes()
        (entry,) = [n for n in names if n.endswith("entry_points.txt")]
        assert b"hpal = hpal_cli.__main__:main" in archive.read(entry)
        (metadata,) = [n for n in names if n.endswith("METADATA")]
        assert b"License-Expression: Apache-2.0" in archive.read(metadata)
    assert "hpal_cli/demo/office.py" in names
    for source in (
        "network/sparse.c",
        "score/hmmu.c",
        "select/walk.c",
        "predictions/probabilities.c",
        "readers/numbers.c",
        "float16.h",
    ):
        assert f"hpal_cli/{source}" in names
    # Tests, tools and data stay at home.
    assert not [
        n for n in names if not n.startswith("hpal_cli/") and ".data/data/share/" not in n and ".dist-info/" not in n
    ]
