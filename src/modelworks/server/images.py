"""Images as a model's input. Pillow is imported with the first one: only environments that serve them need it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelworks.server.problems import BadInput, Problem
from modelworks.server.processors.tensors import Array, TensorSpec

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif")
FILE = "preprocess.json"
_MAX_PIXELS = 100_000_000
_KNOWN = {"resize", "scale", "mean", "std", "layout", "color"}


@dataclass(frozen=True)
class Preprocess:
    """What ``preprocess.json`` beside the model says: ``(pixel × scale − mean) ÷ std`` for each channel.

    ``resize`` is [height, width]; without it an image must have the input's size. Nothing is guessed: an input of
    floats needs the file, for the pixels' range is the model's own.
    """

    resize: tuple[int, int] | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str | None = None  # NCHW or NHWC; default: by the input's shape
    color: str | None = None  # RGB, BGR or L; default: by the number of channels

    @classmethod
    def find(cls, directory: Path | None) -> Preprocess | None:
        """Raises ValueError for a file that says what it cannot."""
        path = directory / FILE if directory is not None and directory.is_dir() else None
        if path is None or not path.is_file():
            return None
        try:
            said = json.loads(path.read_text())
            if not isinstance(said, dict) or (unknown := sorted(set(said) - _KNOWN)):
                raise ValueError(f"it may hold {', '.join(sorted(_KNOWN))}, not {unknown}")
            resize = said.get("resize")
            found = cls(
                resize=(int(resize[0]), int(resize[1])) if resize else None,
                scale=float(said.get("scale", 1.0)),
                mean=_numbers(said.get("mean", 0.0)),
                std=_numbers(said.get("std", 1.0)),
                layout=said.get("layout"),
                color=said.get("color"),
            )
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise ValueError(f"{FILE} of the model: {error}") from None
        if found.layout not in (None, "NCHW", "NHWC") or found.color not in (None, "RGB", "BGR", "L"):
            raise ValueError(f"{FILE} of the model: layout is NCHW or NHWC, color RGB, BGR or L")
        if not all(found.std) or (found.resize and min(found.resize) < 1):
            raise ValueError(f"{FILE} of the model: std and resize are not 0")
        return found


def read_image(body: bytes, spec: TensorSpec, preprocess: Preprocess | None) -> Array:
    """One image as a batch of one row of the input. Raises Problem 415 without Pillow, and BadInput 422."""
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415
    except ImportError:
        raise Problem(
            415, "invalid", "images need the package pillow in the service's environment; or send the pixels as .npy"
        ) from None
    layout, (channels, height, width) = _layout(spec, preprocess)
    declared = preprocess or Preprocess()
    if preprocess is None and spec.dtype != "uint8":
        raise BadInput(
            f"{spec.described()}: how pixels become {spec.dtype} is said in {FILE} beside the model, "
            'such as {"scale": 0.00392156862745098}'
        )
    mode = declared.color or ("L" if channels == 1 else "RGB")
    try:
        with Image.open(io.BytesIO(body)) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise BadInput(f"the image has {opened.width}x{opened.height} pixels; {_MAX_PIXELS} is the most")
            image = opened.convert("L" if mode == "L" else "RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"the body is not an image that can be read: {error}", status=400) from None
    if declared.resize and (image.height, image.width) != declared.resize:
        image = image.resize(declared.resize[::-1], Image.Resampling.BILINEAR)
    if (height not in (None, image.height)) or (width not in (None, image.width)):
        raise BadInput(
            f"{spec.described()}; the image is {image.height} high and {image.width} wide: send it in that size, or "
            f'put {{"resize": [{height}, {width}]}} into {FILE} beside the model'
        )
    pixels: Array = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if mode == "BGR":
        pixels = pixels[:, :, ::-1]
    if preprocess is not None and (spec.dtype != "uint8" or preprocess.scale != 1.0):
        mean, std = np.float32(declared.mean), np.float32(declared.std)
        pixels = (pixels * np.float32(declared.scale) - mean) / std
    if layout == "NCHW":
        pixels = pixels.transpose(2, 0, 1)
    row: Array = np.ascontiguousarray(pixels.astype(spec.dtype or "float32", copy=False))[None]
    return row


def _layout(spec: TensorSpec, preprocess: Preprocess | None) -> tuple[str, tuple[int | None, int | None, int | None]]:
    """The order of the axes, and channels, height and width that the input declares."""
    shape = spec.shape
    if shape is None or len(shape) != 4:
        raise Problem(415, "invalid", f"{spec.described()}: that is no image; send JSON or .npy")
    said = preprocess.layout if preprocess else None
    layout = said or ("NCHW" if shape[1] in (1, 3) else "NHWC" if shape[3] in (1, 3) else None)
    if layout is None:
        raise BadInput(f"{spec.described()}: neither axis is that of the colours; put layout into {FILE}", status=415)
    return layout, (shape[1], shape[2], shape[3]) if layout == "NCHW" else (shape[3], shape[1], shape[2])


def _numbers(given: Any) -> tuple[float, ...]:
    return tuple(float(item) for item in given) if isinstance(given, list) else (float(given),)
