"""The folders of the library build on one another in one order, and docs/pictures/imports.svg shows it."""

from __future__ import annotations

import generate_architecture as architecture


def test_each_folder_imports_only_those_before_it() -> None:
    found = architecture.imports()
    assert {("score", "predictions"), ("label", "selection"), ("export", "label")} <= {
        (one.source, one.target) for one in found
    }
    place = {name: n for n, name in enumerate(architecture.ORDER)}
    wrong = []
    for one in found:
        if one.target not in place or one.source not in place:
            wrong.append(f"{one}: {one.source} imports {one.target}; give both a place in ORDER")
        elif place[one.target] > place[one.source]:
            wrong.append(
                f"{one}: {one.source} imports {one.target}, which comes after it; move what they share into a folder "
                "that comes before both"
            )
    assert not wrong, "the order of folders (ORDER in tests/generate_architecture.py) is broken:\n" + "\n".join(wrong)


def test_every_folder_and_module_has_its_place() -> None:
    there = {path.stem for path in architecture.PACKAGE.iterdir() if path.suffix == ".py"} - {"__init__"}
    there |= {path.parent.name for path in architecture.PACKAGE.glob("*/__init__.py")}
    assert there == set(architecture.ORDER)


def test_what_follows_from_other_arrows_is_not_drawn() -> None:
    seen = {("c", "b"): False, ("b", "a"): False, ("c", "a"): False, ("d", "a"): True}
    assert architecture.reduced(seen) == {("c", "b"): False, ("b", "a"): False, ("d", "a"): True}


def test_the_drawing_is_up_to_date() -> None:
    there = architecture.PICTURE.read_text(encoding="utf-8")
    assert there == architecture.drawing(), f"{architecture.PICTURE} is out of date: run python {architecture.__file__}"
