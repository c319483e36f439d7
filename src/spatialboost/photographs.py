"""Open photographs of any source as upright 8-bit RGB."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialboost.errors import SpatialBoostError

if TYPE_CHECKING:
    from PIL import Image

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # PIL's modes that hold grey values up to 65535
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
PLAIN = ("1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX")  # PIL's own conversion to RGB is right for these

_TOO_LARGE = "Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file"


def open_photograph(source: str | os.PathLike[str] | bytes) -> np.ndarray:
    """Open a photograph: ``uint8 (height, width, 3)``, rotated upright by its EXIF orientation.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("L", (80, 60)).save(file, "PNG")
        >>> open_photograph(file.getvalue()).shape
        (60, 80, 3)

    16-bit grey is scaled to 8 bits, transparent pixels are put on white, and of several frames the first is used. Do
    not use this function for frames of an RGB-D camera: their depth maps and intrinsics belong to the pixels as they
    are stored, so the EXIF orientation must not be applied.

    Args:
        source: Path of an image file, or its bytes.

    Raises:
        SpatialBoostError: There is no such file, it cannot be read completely, it has more pixels than PIL's limit
            (``PIL.Image.MAX_IMAGE_PIXELS``), or its pixels have no known range (such as float or Lab).
    """
    from PIL import Image, ImageOps

    name = f"an image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    try:
        with warnings.catch_warnings():  # PIL's warning about the limit; the error below says the same
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(file)
        with opened as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise SpatialBoostError(
                    f"{name} has {image.width} x {image.height} pixels; expected at most {limit}. {_TOO_LARGE}"
                )
            return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except SpatialBoostError as error:
        raise SpatialBoostError(f"{name}: {error}" if name not in str(error) else str(error)) from None
    except Image.DecompressionBombError as error:  # more than twice the limit
        raise SpatialBoostError(f"{name} cannot be read as an image: {error} {_TOO_LARGE}") from None
    except Exception as error:  # decoders raise many kinds of errors on a broken file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SpatialBoostError(f"{name} cannot be read as an image: {reason}") from error


def to_rgb(image: Image.Image) -> Any:
    """A PIL image of any mode as RGB, without turning it.

    Raises:
        SpatialBoostError: The range of its pixel values is not known.
    """
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in SIXTEEN_BITS:
        grey = np.asarray(image).astype(np.int64)
        least, most = int(grey.min()), int(grey.max())
        if image.mode == "I" and (least < 0 or most > 65535 or 0 < most <= 255):  # 32 bits: by the values themselves
            raise SpatialBoostError(
                f"grey values from {least} to {most} have no known range in an image of 32 bits; expected 0 to 65535. "
                "Save it with 8 or 16 bits"
            )
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB")
    if image.mode in PLAIN:
        return image.convert("RGB")
    raise SpatialBoostError(f"pixels of PIL's mode {image.mode} have no known range. Save it as 8-bit RGB")
