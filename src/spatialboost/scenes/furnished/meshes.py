"""Load a model: its true size, its textures, and simpler versions of it for objects that are far away."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.furnished.catalogue import Piece
from spatialboost.scenes.furnished.compact import find_visible, merge_vertices
from spatialboost.scenes.furnished.files import InnerFiles, parent
from spatialboost.scenes.furnished.textures import PLAIN, Texture, make_texture

# Shape legend: V = vertices, F = faces, M = materials.

_MAX_FACES = 400_000
_MAX_TEXTURE_PIXELS = 2**26
_MIN_METRES, _MAX_METRES = 1e-3, 60.0
_FEW_FACES = 64  # a mesh with fewer faces is not simplified
_MANY_FACES = 3000  # a mesh with more faces is simplified when it is loaded, by less than can be seen
_CELLS = 0.0025 * 2.0 ** np.arange(8)  # metres: sides of the cells whose vertices are merged, from fine to coarse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """Appearance of some faces."""

    tint: tuple[float, float, float]  # linear RGB that multiplies the texture
    texture: Texture = PLAIN  # the image, or PLAIN
    gloss: float = 0.0  # strength of the highlight
    glass: bool = False  # whether it is transparent. Glass is rendered as a surface that reflects the sky.


@dataclass(frozen=True)
class Mesh:
    """Triangles in the object's frame: x right, y down, z to its back, metres. It stands on y = 0 around x = z = 0."""

    vertices_V3: np.ndarray  # float32 positions
    faces_F3: np.ndarray  # int32 numbers of vertices
    normals_F33: np.ndarray  # float32 unit normal at each corner of each face
    uv_F32: np.ndarray  # float32 texture coordinates at each corner of each face
    material_F: np.ndarray  # int32, into materials
    materials: tuple[Material, ...]  # the materials
    _simpler: dict[int, Mesh] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def size(self) -> tuple[float, float, float]:
        """Width, height, depth in metres."""
        x, y, z = (self.vertices_V3.max(0) - self.vertices_V3.min(0)).tolist()
        return x, y, z

    def simplify(self, finest: float, most_faces: int) -> Mesh:
        """The mesh with vertices merged that are closer than about ``finest`` metres. Kept in memory.

        Textures, materials and meshes of few faces stay as they are. A mesh that then still has more than
        ``most_faces`` faces (the leaves of a tree) is simplified more, by at most four steps.
        """
        level = int(np.searchsorted(_CELLS, finest, side="right")) - 1
        if level < 0 or len(self.faces_F3) <= _FEW_FACES:
            return self
        for further in range(min(level, len(_CELLS) - 1), min(level + 5, len(_CELLS))):
            mesh = self._at_level(further)
            if len(mesh.faces_F3) <= most_faces:
                break
        return mesh

    def _at_level(self, level: int) -> Mesh:
        if level not in self._simpler:
            vertices_V3, faces_F3, kept_F = merge_vertices(self.vertices_V3, self.faces_F3, float(_CELLS[level]))
            self._simpler[level] = self._part(vertices_V3, faces_F3, kept_F)
        return self._simpler[level]

    def _part(self, vertices_V3: np.ndarray, faces_F3: np.ndarray, kept_F: np.ndarray) -> Mesh:
        corners = self.normals_F33[kept_F], self.uv_F32[kept_F], self.material_F[kept_F]
        return Mesh(vertices_V3, faces_F3, *corners, self.materials)


def load_mesh(piece: Piece) -> Mesh:
    """Load the model of a piece, turned and scaled as the catalogue says, without faces that nobody can see.

    Raises:
        CuesError: the model cannot be read, has no faces, or has an implausible size.
    """
    try:
        parts = _read_parts(piece)
        mesh = _join(parts, piece)
    except (CuesError, ModuleNotFoundError):
        raise
    # trimesh raises errors of many types on broken files.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise CuesError(f"{piece.file}: the model cannot be read ({reason}); leave it out of the catalogue") from error
    # Finer details than these cannot be seen from half a metre, or from a few metres if the model is large.
    cell = max(_CELLS[0], max(mesh.size) / 400) if len(mesh.faces_F3) > _MANY_FACES else 1e-4
    mesh = mesh._part(*merge_vertices(mesh.vertices_V3, mesh.faces_F3, cell))
    visible_F = find_visible(mesh.vertices_V3, mesh.faces_F3)
    return mesh._part(*merge_vertices(mesh.vertices_V3, mesh.faces_F3, 1e-4, among_F=visible_F))


def _read_parts(piece: Piece) -> list[Any]:
    """The meshes of a model file, in its common frame."""
    import trimesh

    name, read = piece.model, piece.read
    content = read(name)
    if name.lower().endswith(".zip"):
        read = InnerFiles(content, "")
        kinds = trimesh.available_formats() - {"zip"}
        inner = [path for path in read.names() if PurePosixPath(path).suffix.lower().removeprefix(".") in kinds]
        if not inner:
            raise CuesError(f"{piece.file}: the zip has no model in a format that trimesh reads")
        content, name = read(inner[0]), PurePosixPath(inner[0]).name
        read = InnerFiles(read.content, parent(inner[0]))
    suffix = PurePosixPath(name).suffix.lower().removeprefix(".")
    if suffix not in trimesh.available_formats():
        raise CuesError(f"{piece.file}: trimesh does not read .{suffix} files; convert the model to .obj or .glb")
    scene = trimesh.load_scene(io.BytesIO(content), file_type=suffix, resolver=_make_resolver(read), process=False)
    parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts:
        raise CuesError(f"{piece.file}: the model has no faces")
    if (count := sum(len(part.faces) for part in parts)) > _MAX_FACES:
        raise CuesError(f"{piece.file}: the model has {count} faces; expected at most {_MAX_FACES}")
    return parts


def _make_resolver(read: Any) -> Any:
    """What trimesh asks for materials and textures."""
    from trimesh.resolvers import Resolver

    class Files(Resolver):
        def __init__(self) -> None:
            pass

        def get(self, key: str) -> bytes:
            return read(key)

        def write(self, name: str, data: Any) -> None:
            raise OSError("models are only read")

        def namespaced(self, namespace: str) -> Any:
            return self

        def keys(self) -> list[str]:
            return []

    return Files()


def _join(parts: Sequence[Any], piece: Piece) -> Mesh:
    vertices, faces, normals, uvs, numbers = [], [], [], [], []
    materials: list[Material] = []
    start = 0
    for part in parts:
        vertices_V3 = np.asarray(part.vertices, np.float64)
        faces_F3 = np.asarray(part.faces, np.int64)
        corner = vertices_V3[faces_F3]
        flat_F3 = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        usable_F = np.isfinite(flat_F3).all(1) & (np.abs(flat_F3).max(1) > 0)
        faces_F3, flat_F3 = faces_F3[usable_F], flat_F3[usable_F]
        given = part._cache.cache.get("vertex_normals")
        corner_F33 = np.repeat(flat_F3[:, None], 3, axis=1) if given is None else np.asarray(given)[faces_F3]
        uv = getattr(part.visual, "uv", None)
        with_uv = uv is not None and len(uv) == len(vertices_V3)
        uv_F32 = np.asarray(uv, np.float32)[faces_F3] if with_uv else np.zeros((len(faces_F3), 3, 2), np.float32)
        vertices.append(vertices_V3)
        faces.append(faces_F3 + start)
        normals.append(corner_F33)
        uvs.append(np.nan_to_num(uv_F32))
        numbers.append(np.full(len(faces_F3), len(materials), np.int32))
        materials.append(_make_material(part, with_uv))
        start += len(vertices_V3)
    faces_F3 = np.concatenate(faces)
    if not len(faces_F3):
        raise CuesError(f"{piece.file}: the model has no faces with an area")
    vertices_V3, turn_33, scale_3 = _to_true_size(np.concatenate(vertices), faces_F3, piece)
    corner = vertices_V3[faces_F3]
    flat_F3 = _unit(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))
    normals_F33 = _unit((np.concatenate(normals) @ turn_33.T) / scale_3)
    # Some files have normals that do not fit their faces, and many have faces that are wound the wrong way round.
    agree_F3 = (normals_F33 * flat_F3[:, None]).sum(-1)
    normals_F33 = np.where(agree_F3[..., None] < 0, -normals_F33, normals_F33)
    normals_F33 = np.where(np.abs(agree_F3)[..., None] < 0.3, flat_F3[:, None], normals_F33)
    return Mesh(
        vertices_V3.astype(np.float32),
        faces_F3.astype(np.int32),
        normals_F33.astype(np.float32),
        np.concatenate(uvs),
        np.concatenate(numbers),
        tuple(materials),
    )


def _to_true_size(vertices_V3: np.ndarray, faces_F3: np.ndarray, piece: Piece) -> tuple[np.ndarray, ...]:
    """Turn and scale vertices to the size in the catalogue; also the rotation and the scale, for normals."""
    # The model's axes are x right, y up, z to its front; ours are x right, y down, z to its back.
    turn_33 = np.diag([1.0, -1.0, -1.0]) @ piece.rotation_33
    turned_V3 = vertices_V3 @ turn_33.T
    is_used = np.zeros(len(turned_V3), bool)
    is_used[faces_F3] = True
    used_V3 = turned_V3[is_used]
    low_3, high_3 = used_V3.min(0), used_V3.max(0)
    extent_3 = high_3 - low_3
    scale_3 = np.ones(3)
    if piece.size is not None:
        scale_3 = np.where(extent_3 > 1e-9 * extent_3.max(), piece.size / np.maximum(extent_3, 1e-300), 1.0)
    size_3 = extent_3 * scale_3
    if not np.isfinite(size_3).all() or not _MIN_METRES <= size_3.max() <= _MAX_METRES:
        shown = " x ".join(f"{side:.3g}" for side in size_3)
        raise CuesError(
            f"{piece.file}: the model is {shown} m; expected at most {_MAX_METRES:g} m. Give its width, height and "
            "depth in centimetres in the catalogue or in a JSON file beside it"
        )
    origin_3 = np.array([(low_3[0] + high_3[0]) / 2, high_3[1], (low_3[2] + high_3[2]) / 2])
    return (turned_V3 - origin_3) * scale_3, turn_33, scale_3


def _make_material(part: Any, with_uv: bool) -> Material:
    material = getattr(part.visual, "material", None)
    if material is None:  # colours of vertices or faces: their mean
        colours = np.asarray(getattr(part.visual, "vertex_colors", [[180, 180, 180, 255]]), np.float64)
        return Material(_linear(colours.reshape(-1, colours.shape[-1]).mean(0)[:3] / 255.0))
    image = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
    colour = getattr(material, "diffuse", None)
    if colour is None:
        colour = getattr(material, "baseColorFactor", None)
    colour = np.array([255.0, 255, 255, 255]) if colour is None else np.asarray(colour, np.float64)
    extra = getattr(material, "kwargs", None) or {}
    alpha = float(colour[3]) / 255.0 if len(colour) > 3 else 1.0
    with contextlib.suppress(KeyError, TypeError, ValueError, IndexError):
        alpha = min(alpha, float(extra["d"][0]))
    shine = np.asarray(getattr(material, "specular", None) if hasattr(material, "specular") else 0.0, np.float64)
    gloss = 0.35 * float(np.clip(np.nan_to_num(shine.reshape(-1)[:3]).mean() / 255.0, 0, 1))
    if image is not None and with_uv and _is_readable(image):
        # A dark factor on a texture is almost always left over from the program that exported the model.
        return Material((1.0, 1.0, 1.0), make_texture(image), gloss, glass=alpha < 0.4)
    return Material(_linear(colour[:3] / 255.0), PLAIN, gloss, glass=alpha < 0.6)


def _is_readable(image: Image.Image) -> bool:
    """Whether a texture can be decoded and is not too large."""
    if image.size[0] * image.size[1] > _MAX_TEXTURE_PIXELS:
        return False
    try:
        image.load()
    except Exception:
        return False
    return True


def _linear(colour: np.ndarray) -> tuple[float, float, float]:
    """Linear light of an sRGB colour in [0, 1]. The renderer's gamma is 2."""
    red, green, blue = np.square(np.clip(np.nan_to_num(colour), 0.02, 0.96)).tolist()
    return red, green, blue


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
