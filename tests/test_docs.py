"""The documents: their programs run, their help texts are the commands' own, their links lead somewhere, their figures
show what hpal computes.

`HPAL_UPDATE_DOCS=1 pytest tests/test_docs.py` writes the help texts of docs/commands.md anew.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import generate_figures
import numpy as np
import pytest
import zarr
from conftest import put_quick_hpal

import hpal_cli as hpal
from hpal_cli import __version__
from hpal_cli.commands.app import app
from hpal_cli.demo.office import make_office

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
COMMANDS = [command.name for command in app.registered_commands]

_FILE = re.compile(r"<!-- file: (\S+) -->\n```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_RUN = re.compile(r"<!-- run -->\n```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HELP = re.compile(r"(<!-- help: (\w+) -->\n```text\n)(.*?)(^```$)", re.DOTALL | re.MULTILINE)
_FROM = re.compile(r"<!-- from: (\S+) -->\n```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_BASH = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(bash|sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

FOLLOWED = {
    "README.md": "test_pages.py",
    "docs/your-own-scans.md": "test_own_scans.py",
    "docs/airborne.md": "test_pages.py",
    "docs/rooms.md": "test_pages.py",
    "docs/driving.md": "test_pages.py",
}
"""The pages whose commands a test runs from the first to the last."""

MARKED = {
    "docs/replace-a-stage.md": "test_docs.py",
    "docs/foreign-networks.md": "test_foreign_networks.py",
    "docs/viewers.md": "test_docs.py",
}
"""The pages whose blocks under `<!-- run -->` a test runs."""


def files_of(page: Path) -> dict[str, str]:
    """The programs of a page: the blocks after `<!-- file: NAME -->`."""
    return dict(_FILE.findall(page.read_text(encoding="utf-8")))


def commands_of(page: Path) -> list[str]:
    """The blocks of commands of a page that are not marked `<!-- not run: REASON -->`."""
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for mark, language, code in blocks if language == "bash" and not mark.startswith("not run: ")]


@cache
def _hpal() -> str:
    """The folder of a program `hpal`."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return str(put_quick_hpal(Path(folder.name)).parent)


def bash(script: str, folder: Path, *, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs it with `python` and `hpal` on its PATH."""
    bin_first = os.pathsep.join([_hpal(), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": bin_first, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
    )
    if ok:
        assert done.returncode == 0, f"{script}\n{done.stderr}"
    return done


@cache
def help_of(command: str) -> str:
    words = "" if command == "hpal" else command
    return bash(f"hpal {words} --help", ROOT).stdout.rstrip() + "\n"


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which docs/replace-a-stage.md has been followed, up to and with `network.py`."""
    folder = tmp_path_factory.mktemp("docs")
    make_office(folder / "office", points=2000, rooms=3)
    page = DOCS / "replace-a-stage.md"
    for name, text in files_of(page).items():
        (folder / name).write_text(text, encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    first, network, scorer = _RUN.findall(text)
    bash(first, folder)
    (folder / "eval.sh").write_text(network, encoding="utf-8")
    (folder / "scorer.sh").write_text(scorer, encoding="utf-8")
    bash(network, folder)
    return folder


def read_ply(path: Path) -> np.ndarray:
    import plyfile

    return plyfile.PlyData.read(str(path))["vertex"].data


def answers(folder: Path, number: str) -> zarr.Group:
    return zarr.open_group(str(folder / "labels.zarr" / "answers" / number), mode="r")


def test_a_foreign_networks_store_is_whole_and_measured_right(campaign: Path) -> None:
    assert "whole and consistent" in bash("hpal info --check preds.zarr", campaign).stdout
    done = bash("hpal eval preds.zarr --truth scenes.zarr --split all --json", campaign)
    measured = json.loads(done.stdout)["grid"]
    truth = zarr.open_group(str(campaign / "scenes.zarr"), mode="r")
    said = zarr.open_group(str(campaign / "preds.zarr"), mode="r")
    names = [s["name"] for s in truth.attrs["hpal"]["scenes"]]
    label = np.concatenate([truth[f"scenes/{n}/label"][:] for n in names])
    pred = np.concatenate([said[f"scenes/{n}/pred"][:] for n in names])
    assert measured["points"] == (label >= 0).sum()
    assert measured["accuracy"] == pytest.approx((pred == label)[label >= 0].mean(), abs=1e-6)
    union = [((pred == c) | (label == c))[label >= 0].sum() for c in range(13)]
    iou = [((pred == c) & (label == c)).sum() / u for c, u in enumerate(union) if u]
    assert measured["miou"] == pytest.approx(np.mean(iou), abs=1e-6)


def test_picks_from_a_foreign_network_are_new_and_answered_by_the_truth(campaign: Path) -> None:
    before, after = answers(campaign, "000000"), answers(campaign, "000001")
    old = set(zip(before["scene"][:].tolist(), before["index"][:].tolist()))
    new = set(zip(after["scene"][:].tolist(), after["index"][:].tolist()))
    assert len(old) == 46  # 1 % of the 4,560 train points
    assert len(new) == 20
    assert not old & new
    scenes = zarr.open_group(str(campaign / "scenes.zarr"), mode="r")
    names = [s["name"] for s in scenes.attrs["hpal"]["scenes"]]
    truth = [scenes[f"scenes/{names[s]}/label"][i] for s, i in zip(after["scene"][:], after["index"][:])]
    assert after["label"][:].tolist() == truth
    assert {names[s] for s, _ in new} <= {n for n in names if n.startswith("Area_1")}


def test_a_foreign_scorer_drives_select(campaign: Path) -> None:
    bash((campaign / "scorer.sh").read_text(encoding="utf-8"), campaign)
    picks = read_ply(campaign / "mine.ply")
    assert len(picks) == 23  # 0.5 % of the pool, which counts the labelled points too
    assert (picks["rank"] == np.arange(1, 24)).all()
    # Whoever picked a point before, all of these are answered now, and those asked again are not written twice.
    batches = [answers(campaign, number) for number in ("000000", "000001", "000002")]
    given = [pair for batch in batches for pair in zip(batch["scene"][:], batch["index"][:], strict=True)]
    assert set(zip(picks["scene"], picks["index"], strict=True)) <= set(given)
    assert len(given) == len(set(given))


def test_without_fds_the_picks_are_the_top_of_the_foreign_formula(campaign: Path) -> None:
    bash("python scorer.py preds.zarr | hpal select --no-fds --budget 50 > top.ply", campaign)
    store = zarr.open_group(str(campaign / "preds.zarr"), mode="r")
    rows = []
    for scene in store.attrs["hpal"]["scenes"]:
        if scene["split"] != "train":
            continue
        group = store["scenes/" + scene["name"]]
        labelled = set(group["labelled"][:].tolist())
        for index, p in enumerate(group["prob"][:].tolist()):
            if index not in labelled:
                second, first = sorted(p)[-2:]
                rows.append((-np.float32(second) / np.float32(first), scene["number"], index))
    picks = read_ply(campaign / "top.ply")
    got = list(zip(picks["scene"].tolist(), picks["index"].tolist()))
    assert got == [row[1:] for row in sorted(rows)[:50]]


def test_a_scorer_that_dies_leaves_nothing(campaign: Path) -> None:
    cut = "python scorer.py preds.zarr | head -c 20000 | hpal select --budget 5 -o cut.ply"
    done = bash(cut, campaign, ok=False)
    assert done.returncode == 1
    assert "died early" in done.stderr
    assert not (campaign / "cut.ply").exists()


def test_the_programs_of_the_specification(campaign: Path) -> None:
    for name, text in files_of(DOCS / "formats.md").items():
        (campaign / name).write_text(text, encoding="utf-8")
    table = zarr.open_group(str(campaign / "scenes.zarr"), mode="r").attrs["hpal"]
    for store in ("scenes.zarr", "preds.zarr"):
        assert bash(f"python fingerprints.py {store}", campaign).stdout == f"3 scenes, id {table['id']}\n"
    bash("cp -r labels.zarr more.zarr && python answer.py more.zarr 1 7 3", campaign)
    bash("python answer.py more.zarr 1 7 -1", campaign)
    from hpal_cli.labels.store import LabelStore

    store = LabelStore(campaign / "more.zarr")
    one = [(a["scene"], a["index"], a["label"]) for a in store.latest() if (a["scene"], a["index"]) == (1, 7)]
    assert one == [(1, 7, -1)]
    assert [b.source for b in store.batches()][-2:] == ["answer.py", "answer.py"]
    assert [b.round for b in store.batches()] == list(range(len(store.batches())))
    # Chunks of nothing but zeros are written too.
    bash("python answer.py more.zarr 0 0 0 && hpal info --check more.zarr", campaign)


def test_the_smallest_stream_of_the_specification(campaign: Path) -> None:
    text = (DOCS / "formats.md").read_text(encoding="utf-8")
    (stream,) = re.findall(r"```text\n(ply\n.*?)```", text, re.DOTALL)
    (campaign / "small.ply").write_text(stream, encoding="utf-8")
    bash("hpal select --no-fds --budget 1 small.ply > one.ply", campaign)
    (row,) = read_ply(campaign / "one.ply")
    assert (row["scene"], row["index"], row["rank"]) == (0, 4711, 1)
    assert row["score"] == np.float32(0.93)


def test_score_and_select_need_no_scenes_store(campaign: Path, tmp_path: Path) -> None:
    shutil.copytree(campaign / "preds.zarr", tmp_path / "preds.zarr")
    done = bash("hpal score preds.zarr | hpal select --fds-r 0.2 --budget 20 > picks.ply", tmp_path)
    assert "selected 20 points" in done.stderr
    here, there = read_ply(tmp_path / "picks.ply"), read_ply(campaign / "picks.ply")
    assert here["index"].tolist() == there["scalar_index"].tolist()


def test_the_program_for_plyfile_reads_a_selection(campaign: Path) -> None:
    text = (DOCS / "viewers.md").read_text(encoding="utf-8")
    (program,) = [code for mark, _, code in _BLOCK.findall(text) if mark == "run"]
    shutil.copy(campaign / "picks.ply", campaign / "selection.ply")
    (campaign / "read_selection.py").write_text(program, encoding="utf-8")
    assert bash("python read_selection.py", campaign).stdout.startswith("[ 1  2  3 ")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_program_of_a_page_is_run_or_says_why_not(page: Path) -> None:
    """Each block of commands or Python is on a page that a test follows, or its mark says how it is checked."""
    name = page.relative_to(ROOT).as_posix()
    for mark, language, code in _BLOCK.findall(page.read_text(encoding="utf-8")):
        kind, _, rest = mark.partition(": ")
        if kind == "not run":
            assert len(rest.split()) >= 3, f"{name} gives no reason for not running:\n{code}"
            for test in re.findall(r"tests/\w+\.py", rest):
                assert (ROOT / test).is_file(), test
        elif kind == "from":
            assert name == "CONTRIBUTING.md"  # test_contributing_shows_code_and_names_files_that_exist
        elif kind == "file":
            tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")]
            assert any("files_of(" in text and page.name in text for text in tests) or name in FOLLOWED, rest
        elif kind == "run":
            assert name in MARKED, f"no test runs what is marked in {name}:\n{code}"
        else:
            run = name in FOLLOWED and language == "bash"
            assert run, f"{name} does not say whether this is run; mark it <!-- not run: REASON -->:\n{code}"


def test_what_runs_the_pages_is_there() -> None:
    for page, test in (FOLLOWED | MARKED).items():
        assert (ROOT / page).is_file()
        assert Path(page).stem in (ROOT / "tests" / test).read_text(encoding="utf-8")


def test_help_texts_are_the_commands_own() -> None:
    page = DOCS / "commands.md"
    text = page.read_text(encoding="utf-8")
    assert [m[1] for m in _HELP.findall(text)] == ["hpal", *COMMANDS]
    fresh = _HELP.sub(lambda m: m[1] + help_of(m[2]) + m[4], text)
    if os.environ.get("HPAL_UPDATE_DOCS"):
        page.write_text(fresh, encoding="utf-8")
    elif fresh != text:
        changed = [m[1] for m in _HELP.findall(text) if m[2] != help_of(m[1])]
        pytest.fail(f"docs/commands.md: {', '.join(changed)} changed; run HPAL_UPDATE_DOCS=1 pytest {__file__}")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_that_a_page_shows_exist(page: Path) -> None:
    """Every `hpal ...` of a page's shell blocks and inline code has a command and options that there are."""
    text = page.read_text(encoding="utf-8")
    inline = re.findall(r"`(hpal [^`\n]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    lines = "\n".join([*_BASH.findall(text), *inline]).replace("\\\n", " ").splitlines()
    for line in lines:
        for call in re.findall(r"\bhpal ([^|;&\n]*)", line):
            words = shlex.split(call.split(" #")[0].replace("...", ""))
            named = words[0] if words and not words[0].startswith("-") else "hpal"
            if named == "hpal":
                continue
            assert named in COMMANDS, line
            options = {w.split("=")[0] for w in words[1:] if re.match(r"--[a-z]", w)} - {
                "--debug",
                "--help",
                "--progress",
            }
            assert options <= set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_of(named))), line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in anchors, f"{page.name} links to {target}"


def test_the_picture_of_open_data_comes_with_what_its_licence_asks_for() -> None:
    """Licence Ouverte 2.0 asks for the source and its date, and that nothing suggests that the source stands behind the
    result."""
    shown = [page for page in PAGES if "pictures/airborne.png" in page.read_text(encoding="utf-8")]
    assert shown
    for page in shown:
        text = " ".join(page.read_text(encoding="utf-8").partition("pictures/airborne.png")[2].split())
        for words in ("IGN, LiDAR HD", "flown on 28 May 2021", "Licence Ouverte / Open Licence 2.0", "IGN has no part"):
            assert words in text, f"{page.name} shows a picture of IGN's tiles without: {words}"


def test_contributing_shows_code_and_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = _FROM.findall(text)
    assert len(shown) == text.count("```python") >= 5
    for name, code in shown:
        assert code in (ROOT / name).read_text(encoding="utf-8"), f"{name} no longer holds:\n{code}"
    for name in re.findall(r"`((?:hpal_cli|tests|docs)/[\w./]*)`", text):
        assert (ROOT / name).exists(), name
    for target in re.findall(r"^make ([\w-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target


def test_architecture_names_every_folder_once() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "hpal_cli"
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| .* \| (.*) \|$", text, re.MULTILINE)
    folders = [name for row, _ in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(folders) == sorted(path.parent.name for path in package.glob("*/__init__.py"))
    for row, files in rows:
        for file in re.findall(r"`(\w+\.py)`", files):
            assert any((package / name / file).exists() for name in re.findall(r"`(\w+)`", row)), file


def test_the_citation_and_the_changelog_name_this_version() -> None:
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^version: {re.escape(__version__)}$", cited, re.MULTILINE)
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes[0] == __version__


def test_the_site_has_every_page_in_its_navigation() -> None:
    listed = re.findall(r"^- .*?\]\((\S+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(pages - {"index.md"})


# ---------------------------------------------------------------- figures


def test_the_figures_are_as_the_script_draws_them(tmp_path: Path) -> None:
    generate_figures.draw_all(tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # The drawing of the imports is made, and tested, with the architecture.
    kept = {path.name: path.read_bytes() for path in (DOCS / "pictures").glob("*.svg") if path.name != "imports.svg"}
    assert drawn == kept, "run `python tests/generate_figures.py`"


def test_the_figure_of_hmmu_shows_hpals_score() -> None:
    xyz, prob, x = generate_figures.hmmu_example()
    v, score = generate_figures.hmmu_score(xyz, prob, x)
    assert hpal.hmmu(prob, xyz)[x] == pytest.approx(score, abs=1e-6)
    text = (DOCS / "pictures" / "hmmu.svg").read_text(encoding="utf-8")
    assert f"= {v:.3f}<" in text
    # What a reader adds up is what stands there.
    first, *levels = map(float, re.findall(r"U\d? = .* = (0\.\d+)<", text))
    assert round(first + 0.1 * levels[0] + 0.01 * levels[1] + 0.001 * levels[2], 3) == round(v, 3)
    assert f"score = 1 − {v:.3f} / 1.111 = {score:.2f}<" in text


def test_the_figure_of_fds_shows_hpals_picks() -> None:
    score, xyz, features, budget = generate_figures.fds_example()
    picks, skipped = generate_figures.fds_picks(score, xyz, features, budget)
    assert hpal.select(score, xyz, features, budget).tolist() == picks
    # Each rule has an example: near and alike, near and not alike, and what the budget does not reach.
    assert skipped
    assert any(np.linalg.norm(xyz[i] - xyz[j]) < 0.2 for i in picks for j in picks if i != j)
    assert len(picks) + len(skipped) < len(score)
