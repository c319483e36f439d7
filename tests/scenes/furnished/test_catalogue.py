from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from tiny_furniture import BOX, ENTRIES, MTL, entry, two_colours, write_catalogue

pytest.importorskip("trimesh")
pytest.importorskip("embreex")

from spatialboost.scenes.furnished.catalogue import DEFAULT_PATH, list_authors, parse_rotation, read_catalogue
from spatialboost.scenes.furnished.meshes import load_mesh
from spatialboost.scenes.furnished.naming import clean_name
from spatialboost.scenes.furnished.roles import sort_uses


def test_an_archive_gives_names_true_sizes_and_authors(tmp_path):
    catalogue = read_catalogue(write_catalogue(tmp_path / "mine.sh3f"))
    table, *_ = catalogue.pieces
    assert (table.name, table.size, table.creator, table.licence) == ("Table", (1.2, 0.75, 0.8), "Ada", "CC0 for tests")
    assert list_authors(catalogue.pieces)[0] == {"creator": "Bo", "licence": "CC0 for tests", "models": 3}
    mesh = load_mesh(table)
    np.testing.assert_allclose(mesh.size, (1.2, 0.75, 0.8), atol=1e-6)
    assert mesh.vertices_V3[:, 1].max() == 0  # it stands on the floor
    assert mesh.vertices_V3[:, 1].min() == pytest.approx(-0.75)


def test_the_hash_is_of_the_content_only(tmp_path):
    (tmp_path / "a").mkdir()
    first = read_catalogue(write_catalogue(tmp_path / "mine.sh3f"))
    again = read_catalogue(write_catalogue(tmp_path / "a" / "renamed.sh3f").parent)
    other = read_catalogue(write_catalogue(tmp_path / "other.sh3f", ENTRIES[:2]))
    assert first.hash == again.hash != other.hash
    assert pickle.loads(pickle.dumps(first)).pieces[0].read("wood.png") == two_colours()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (entry(9, "Thief", "/../../etc/passwd"), "leaves its archive or folder"),
        (entry(9, "Thief", "C:/windows/a.obj"), "leaves its archive or folder"),
        (entry(9, "Ghost", "/models/ghost.obj"), "is not in mine.sh3f"),
        (entry(9, "Nothing", ""), "is not in mine.sh3f"),
        (entry(9, "Flat", "/models/box.obj", (0, 10, 10)), "its size is 0 x 0.1 x 0.1 m"),
        (entry(9, "Huge", "/models/box.obj", (1e9, 10, 10)), "expected lengths above 0 and up to 60 m"),
        (entry(9, "Words", "/models/box.obj", ("wide", 10, 10)), "its width is 'wide'; expected centimetres"),
        (entry(9, "Endless", "/models/box.obj", ("nan", 10, 10)), "its width is 'nan'; expected centimetres"),
        (entry(9, "Bent", "/models/box.obj", modelRotation="1 0 0 0 2 0 0 0 1"), "expected the nine numbers"),
    ],
)
def test_a_bad_entry_is_skipped_and_named(tmp_path, line, reason):
    catalogue = read_catalogue(write_catalogue(tmp_path / "mine.sh3f", [*ENTRIES, line]))
    assert len(catalogue.pieces) == len(ENTRIES)
    [(name, found)] = catalogue.skipped.items()
    assert name.startswith("mine.sh3f 9") and reason in found


def test_a_broken_archive_is_skipped_and_named(tmp_path):
    write_catalogue(tmp_path / "mine.sh3f")
    (tmp_path / "broken.sh3f").write_bytes((tmp_path / "mine.sh3f").read_bytes()[:500])
    with zipfile.ZipFile(tmp_path / "empty.sh3f", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    catalogue = read_catalogue(tmp_path)
    assert len(catalogue.pieces) == len(ENTRIES)
    assert catalogue.skipped.keys() == {"broken.sh3f", "empty.sh3f"}
    assert "it has no PluginFurnitureCatalog.properties" in catalogue.skipped["empty.sh3f"]
    (tmp_path / "mine.sh3f").unlink()
    with pytest.raises(SpatialBoostError, match=r"has no model that can be used: .*broken"):
        read_catalogue(tmp_path)


def test_a_missing_folder_says_what_to_install(tmp_path):
    with pytest.raises(SpatialBoostError, match=r"does not exist; expected a folder with .*sweethome3d-furniture"):
        read_catalogue(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"", "no faces|cannot be read"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "cannot be read"),
        (b"v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "no faces with an area"),
        (b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no faces with an area"),
        (b"\x00\xff" * 400, "no faces|cannot be read"),
    ],
)
def test_a_broken_model_is_an_error_that_names_it(tmp_path, model, reason):
    path = write_catalogue(tmp_path / "mine.sh3f", [entry(1, "Chair", "/models/bad.obj")], {"models/bad.obj": model})
    [piece] = read_catalogue(path).pieces
    with pytest.raises(CuesError, match=f"mine.sh3f/models/bad.obj: .*({reason})"):
        load_mesh(piece)


def test_a_format_that_trimesh_does_not_read_says_so(tmp_path):
    path = write_catalogue(tmp_path / "a.sh3f", [entry(1, "Chair", "/models/a.max")], {"models/a.max": b"x"})
    with pytest.raises(CuesError, match=r"trimesh does not read \.max files; convert the model to \.obj or \.glb"):
        load_mesh(read_catalogue(path).pieces[0])


def test_a_model_inside_a_zip_inside_the_archive(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, value in {"in/box.obj": BOX, "in/boxes.mtl": MTL, "in/wood.png": two_colours()}.items():
            archive.writestr(name, value)
    path = write_catalogue(
        tmp_path / "a.sh3f", [entry(1, "Box", "/models/box.zip")], {"models/box.zip": stream.getvalue()}
    )
    mesh = load_mesh(read_catalogue(path).pieces[0])
    assert len(mesh.faces_F3) == 12
    assert len(mesh.materials[0].texture.texels_T4) > 1


def test_a_texture_outside_of_the_archive_is_not_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(two_colours())
    model = BOX.replace("boxes.mtl", "thief.mtl")
    path = write_catalogue(
        tmp_path / "a.sh3f",
        [entry(1, "Box", "/models/b.obj")],
        {"models/b.obj": model, "models/thief.mtl": MTL.replace("wood.png", "../../secret.png")},
    )
    assert load_mesh(read_catalogue(path).pieces[0]).materials[0].texture.log_size == (0, 0)


def test_a_folder_of_own_models(tmp_path):
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    (folder / "my_oak_table.obj").write_text(BOX)
    (folder / "boxes.mtl").write_text(MTL)
    (folder / "wood.png").write_bytes(two_colours())
    (folder / "deep" / "a.obj").write_text(BOX)
    facts = {"name": "Reading chair", "width": 50, "height": 90, "depth": 55, "creator": "Me", "license": "CC BY 4.0"}
    (folder / "deep" / "a.json").write_text(json.dumps(facts))
    (folder / "bad.obj").write_text(BOX)
    (folder / "bad.json").write_text("{")
    (folder / "empty.obj").touch()
    (folder / "._my_oak_table.obj").write_bytes(b"\x00")
    catalogue = read_catalogue(folder)
    assert {piece.name: piece.size for piece in catalogue.pieces} == {
        "Reading chair": (0.5, 0.9, 0.55),
        "my oak table": None,
    }
    assert catalogue.pieces[0].licence == "CC BY 4.0"
    np.testing.assert_allclose(load_mesh(catalogue.pieces[1]).size, (2, 3, 1), atol=1e-6)  # the unit is the metre
    assert catalogue.skipped.keys() == {"bad.obj", "empty.obj"}
    assert "bad.json is not JSON" in catalogue.skipped["bad.obj"]


def test_models_are_turned_as_the_catalogue_says(tmp_path):
    """A thin plate at the model's front (z up to the front) is at our -z; turned by a quarter, it is at the side."""
    model = BOX.replace("usemtl wood", "usemtl grey") + "v 0 0 1\nv 2 0 1\nv 2 0 1.5\nf 9 10 11\n"
    turned = "0 0 1 0 1 0 -1 0 0"
    lines = [entry(1, "Box", "/models/b.obj", (200, 300, 150)), entry(2, "Box", "/models/b.obj", modelRotation=turned)]
    path = write_catalogue(tmp_path / "a.sh3f", lines, {"models/b.obj": model})
    straight, quarter = (load_mesh(piece) for piece in read_catalogue(path).pieces)
    on_floor = straight.vertices_V3[straight.vertices_V3[:, 1] > -1e-6]
    assert on_floor[:, 2].min() == pytest.approx(-0.75)  # the tip of the triangle, in front of the box
    assert straight.vertices_V3[straight.vertices_V3[:, 1] < -1][:, 2].min() == pytest.approx(-0.25)
    assert quarter.vertices_V3[quarter.vertices_V3[:, 1] < -0.5][:, 0].max() < quarter.vertices_V3[:, 0].max() - 0.1
    np.testing.assert_allclose(parse_rotation("0.9999 0 -0.0175 0 1 0 0.0175 0 0.9999") @ [0, 1, 0], [0, 1, 0])


@pytest.mark.parametrize(
    ("name", "noun"),
    [
        ("Armchair", "armchair"),
        ("Sofa 2 seats", "sofa"),
        ("Bookcases", "bookcase"),
        ("Peugeot 308 CC", "car"),
        ("Toilets unit", "toilet"),
        ("Table_02", "table"),
        ("Bill 10\u20ac", "banknote"),
        ("  ", "thing"),
        ("<image> {x}", "image x"),
    ],
)
def test_names_as_people_say_them(name, noun):
    assert clean_name(name) == noun


@pytest.mark.skipif(not DEFAULT_PATH.is_dir(), reason="Debian's package sweethome3d-furniture is not installed")
def test_all_models_of_debian_are_listed():
    catalogue = read_catalogue(DEFAULT_PATH)
    assert (len(catalogue.pieces), catalogue.skipped) == (820, {})
    assert all(piece.creator and piece.licence for piece in catalogue.pieces)
    uses = sort_uses(catalogue)
    assert {"sofa", "bed", "table", "chair", "storage", "plant", "window", "door", "tree", "vehicle"} <= uses.keys()
    nouns = {use.noun for members in uses.values() for use in members}
    nouns -= {"MP3 base", "MP3 station"}
    assert not [noun for noun in nouns if any(mark in noun for mark in "0123456789<>|[]{}()?_")]
