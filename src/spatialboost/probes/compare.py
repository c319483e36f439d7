"""Pictures of any images, base beside boosted: tokens as colours, depth, and matches between two images."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spatialboost.boosting.channel import boosted_layers
from spatialboost.errors import SpatialBoostError
from spatialboost.page import fill_template
from spatialboost.photographs import open_photograph
from spatialboost.probes.compare_pictures import depth_picture, match_picture, token_picture
from spatialboost.probes.depth_scores import enlarge
from spatialboost.probes.features import Features, each_encoder, read_features
from spatialboost.probes.image_folder import SUFFIXES
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.room_heads import FIT_ON, MEASURE_ON, RoomHeads, room_heads
from spatialboost.probes.token_colours import principal_colours, relative_change
from spatialboost.scenes.dataset.drawing import as_uri
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.scenes.paths import is_wanted, user_path

logger = logging.getLogger(__name__)

# Shape legend: V images, N patches, M mutual matches, D width of the tokens, h and w rows and columns of patches.

PAGE = "compare.html"
SIDE = 640  # pixels of the longer side of a photograph in a picture; at least the size at which it is read
_Drawn = tuple[str, str, bytes]  # name of the file, title, PNG


@dataclass(frozen=True)
class Comparison:
    """The pictures that were made.

    Attributes:
        page: the HTML page, which contains all pictures.
        pictures: the PNG files.
        left_out: why images could not be used.
    """

    page: Path
    pictures: Sequence[Path]
    left_out: Sequence[str]


@dataclass(frozen=True)
class _Photo:
    """A photograph, as it is drawn and as it is read."""

    name: str
    image_HW3: np.ndarray

    @property
    def file(self) -> str:
        """The beginning of the names of its pictures."""
        return re.sub(r"[^\w.-]+", "-", Path(self.name).stem)[:60].strip("-") or "image"


def compare_images(
    encoder: nn.Module,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    image_size: int = 224,
    layer: int = -1,
    batch_size: int = 8,
    progress: bool = False,
) -> Comparison:
    """Draw what boosting changes on some images, and write PNG files and one HTML page.

    Example:
        >>> compare_images(encoder, ["kitchen.jpg", "stairs.jpg"], "compare").page  # doctest: +SKIP
        PosixPath('compare/compare.html')

    Tokens are shown as their first three principal components, in one colour space for both encoders and all images.
    Depth comes from a linear head that is fitted on procedural rooms (`room_heads`), so it is a guess for photographs.
    Matches are drawn between each image and the next one: patches of the two images that are each other's nearest by
    cosine similarity. There is no truth for them, so their number says how distinct the tokens are, not how many
    matches are right.

    Args:
        encoder: a boosted encoder.
        images: image files of any size, or folders of them; the EXIF orientation is applied.
        out: folder for the pictures and the page.
        image_size: side in pixels to which the whole image is resized for the encoder; a multiple of the patch size.
        layer: block after which tokens are read.
        batch_size: images that go through the encoder at a time.
        progress: show progress bars.

    Raises:
        SpatialBoostError: the encoder is not boosted, or no image can be opened.
    """
    CommonOptions(image_size, layer, batch_size)  # raises if one of them is out of its range
    if not boosted_layers(encoder):
        raise SpatialBoostError(
            "the encoder is not boosted, so there is nothing to compare: give a delta with --delta, or load one with "
            "load_pretrained"
        )
    photos, left_out = _open_all(images, max(SIDE, image_size))
    read = {}
    for name, model, switched in each_encoder(encoder, reserved=""):
        with switched():
            title = f"{name}, images" if progress else None
            read[name] = read_features(
                model,
                [photo.image_HW3 for photo in photos],
                image_size=image_size,
                layer=layer,
                batch_size=batch_size,
                progress=title,
            )
    heads = room_heads(encoder, image_size=image_size, layer=layer, progress=progress)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[dict[str, str]] = []
    written: list[Path] = []
    for file, title, content in (*_draw_each(photos, read, heads), *_draw_pairs(photos, read)):
        written.append(folder / file)
        replace_file(written[-1], content)
        shown.append({"title": title, "picture": as_uri(content)})
    page = fill_template(
        "spatialboost.probes",
        "compare.html.j2",
        {
            "title": "Base and boosted encoder on your images",
            "pictures": shown,
            "left_out": left_out,
            "rmse": heads.rmse,
            "rooms": (FIT_ON, MEASURE_ON),
            "about": read["base"].about(),
            "images": len(photos),
        },
    )
    replace_file(folder / PAGE, page.encode("utf-8", "replace"))
    return Comparison(folder / PAGE, written, left_out)


def _draw_each(photos: Sequence[_Photo], read: Mapping[str, Features], heads: RoomHeads) -> Iterator[_Drawn]:
    """Tokens and depth of each image."""
    grid = read["base"].grid
    base_VND, boosted_VND = (read[name].tokens_VND for name in ("base", "boosted"))
    colours_2VN3 = principal_colours(torch.stack([base_VND, boosted_VND]))
    change_VN = relative_change(base_VND, boosted_VND)
    most = max(float(change_VN.max()), 1e-4)
    for place, photo in enumerate(photos):
        colours = {
            name: colours_2VN3[which, place].unflatten(0, grid).numpy()
            for which, name in enumerate(("base", "boosted"))
        }
        change_hw = change_VN[place].view(grid).numpy()
        start = f"{place + 1:02d}-{photo.file}"
        tokens = token_picture(photo.image_HW3, colours, change_hw, most)
        yield f"{start}-tokens.png", f"{photo.name}: tokens", tokens
        height, width = photo.image_HW3.shape[:2]
        depths = {name: heads.fits[name].predict(features.tokens[place]) for name, features in read.items()}
        maps = {name: enlarge(depth_N.view(grid), (height, width)).numpy() for name, depth_N in depths.items()}
        yield f"{start}-depth.png", f"{photo.name}: depth", depth_picture(photo.image_HW3, maps)


def _draw_pairs(photos: Sequence[_Photo], read: Mapping[str, Features]) -> Iterator[_Drawn]:
    """Matches between each image and the next one."""
    grid = read["base"].grid
    for place, (first, second) in enumerate(pairwise(photos)):
        found = {
            name: mutual_matches(features.tokens[place], features.tokens[place + 1]) for name, features in read.items()
        }
        file = f"{place + 1:02d}-{first.file}-{second.file}-matches.png"
        picture = match_picture((first.image_HW3, second.image_HW3), grid, found)
        yield file, f"{first.name} and {second.name}: matches", picture


def mutual_matches(first_ND: torch.Tensor, second_ND: torch.Tensor) -> np.ndarray:
    """Numbers of the patches of two images that are each other's nearest by cosine similarity, ``(M, 2)``.

    Example:
        >>> tokens = torch.eye(3)
        >>> mutual_matches(tokens, tokens[[1, 0, 0]]).tolist()
        [[0, 1], [1, 0]]
    """
    first, second = (nn.functional.normalize(tokens.float(), dim=-1) for tokens in (first_ND, second_ND))
    similarity_NN = first @ second.T
    there_N, back_N = similarity_NN.argmax(1), similarity_NN.argmax(0)
    number_N = torch.arange(len(first))
    mutual_N = back_N[there_N] == number_N
    return torch.stack([number_N[mutual_N], there_N[mutual_N]], -1).numpy()


def _open_all(images: Sequence[str | Path], side: int) -> tuple[list[_Photo], list[str]]:
    """The images that can be opened, made small enough for pictures, and why others cannot.

    Raises:
        SpatialBoostError: none can be opened.
    """
    photos, left_out = [], []
    for path in _files(images):
        try:
            image_HW3 = open_photograph(path)
        except SpatialBoostError as error:
            left_out.append(str(error))
            logger.warning("left out: %s", error)
            continue
        photos.append(_Photo(path.name, _small(image_HW3, side)))
    if not photos:
        first = f"; the first error: {left_out[0]}" if left_out else ""
        raise SpatialBoostError(
            f"none of {len(left_out)} images can be opened; expected files with one of {sorted(SUFFIXES)}, or folders "
            f"of them{first}"
        )
    return photos, left_out


def _files(images: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for given in images:
        path = user_path(given)
        if path.is_dir():
            inside = (each for each in sorted(path.iterdir()) if is_wanted(each) and each.suffix.lower() in SUFFIXES)
            found += inside
        else:
            found.append(path)
    return found


def _small(image_HW3: np.ndarray, side: int) -> np.ndarray:
    """The image with a longer side of at most ``side`` pixels."""
    from PIL import Image

    height, width = image_HW3.shape[:2]
    if max(height, width) <= side:
        return image_HW3
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image_HW3).resize(size, Image.Resampling.LANCZOS))
