"""The walk over imports: every way of importing is found, none is carried out, and what stays outside stays there."""

from pathlib import Path

import pytest

from mtfscalper.imports import import_closure, imported_modules, package_modules

FILES = {
    "__init__.py": "import house.roof",
    "door.py": "",
    "roof.py": "from house import door\nimport numpy\nraise SystemExit('nobody carries this out')\n",
    "rooms/__init__.py": "from . import bath\n",
    "rooms/bath.py": "from ..door import handle\nfrom .kitchen import stove, sink\n",
    "rooms/kitchen.py": "import house.rooms.cellar as below\n",
    "rooms/cellar.py": "def descend():\n    if True:\n        from house import roof\n",
    "garden/shed.py": "from house.rooms import bath, nothing_of_the_kind\n",
}


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, Path]:
    for name, content in FILES.items():
        file = tmp_path / "house" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return package_modules(tmp_path / "house")


def test_every_file_of_a_package_has_its_dotted_name(modules: dict[str, Path]) -> None:
    assert sorted(modules) == [
        "house",
        "house.door",
        "house.garden.shed",
        "house.roof",
        "house.rooms",
        "house.rooms.bath",
        "house.rooms.cellar",
        "house.rooms.kitchen",
    ]
    assert modules["house.rooms"].name == "__init__.py"


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("house", {"house.roof"}),
        ("house.door", set()),
        ("house.roof", {"house.door"}),
        ("house.rooms", {"house.rooms.bath"}),
        ("house.rooms.bath", {"house.door", "house.rooms.kitchen"}),
        ("house.rooms.kitchen", {"house.rooms.cellar"}),
        ("house.rooms.cellar", {"house.roof"}),
        ("house.garden.shed", {"house.rooms.bath", "house.rooms"}),
    ],
)
def test_every_way_of_importing_is_found(modules: dict[str, Path], name: str, imported: set[str]) -> None:
    assert imported_modules(name, modules) == imported


def test_the_closure_follows_imports_to_their_end(modules: dict[str, Path]) -> None:
    rooms = {"house.rooms.kitchen", "house.rooms.cellar", "house.roof", "house.door"}
    assert import_closure(["house.rooms.kitchen"], modules) == rooms
    assert import_closure(["house.door"], modules) == {"house.door"}


def test_what_stays_outside_is_not_followed(modules: dict[str, Path]) -> None:
    assert import_closure(["house.garden.shed"], modules, outside=["house.rooms"]) == {"house.garden.shed"}
    kitchen = {"house.rooms.kitchen", "house.rooms.cellar"}
    assert import_closure(["house.rooms.kitchen"], modules, outside=["house.roof"]) == kitchen
