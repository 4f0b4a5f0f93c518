"""What the catalogues hold: instance types, environments, and the replacements a user asked for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from modelworks.kernel.run import EnvironmentRef, Resources
from modelworks.kernel.spec import Spec

_DISTRIBUTION = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(.*)", re.DOTALL)
_INDEXES = ("--index-url", "-i", "--extra-index-url", "--find-links", "-f")
_OPTIONS = (*_INDEXES, "--pre", "--prefer-binary", "--only-binary", "--no-binary")
_NAMED = r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^\]/]*\])?\s*"
_PACKAGE = re.compile(rf"{_NAMED}([<>=!~( -][^/@;]*)?(;.*)?")
_REMOTE = re.compile(rf"({_NAMED}@\s*)?(git\+)?(https?|ssh)://\S+(\s.*)?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")


def normalise_requirement(line: str) -> str:
    """A pip line without comment and spare blanks, its name in PEP 503 form; options and URLs stay as they are."""
    text = re.sub(r"(^|\s)#.*$", "", line).strip()
    if text.startswith("-") or "://" in text.split("@", 1)[0]:
        return text
    match = _DISTRIBUTION.fullmatch(text)
    if match is None:
        return text
    name = re.sub(r"[-_.]+", "-", match[1]).lower()
    rest = match[2] if ";" in match[2] or "@" in match[2] else match[2].replace(" ", "")
    return name + rest.strip()


def environment_digest(requirements: Iterable[str], python: str | None, image: str | None) -> str:
    """SHA-256 (64 hex digits) of the sorted normalised requirements, the Python version and the image."""
    lines = sorted({text for line in requirements if (text := normalise_requirement(line))})
    document = json.dumps([lines, python, image], separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()


def _check_requirement(line: str) -> str:
    """A package by name or URL. A node builds it: no line may name a file or a variable of the node."""
    if not line.strip() or any(ord(c) < 32 and c != "\t" for c in line):
        raise ValueError("a requirement is one line of a pip requirements file, such as numpy==2.4.6")
    text = re.sub(r"(^|\s)#.*$", "", line).strip()
    if text.startswith("-"):
        option, *values = re.split(r"[\s=]+", text, maxsplit=1)
        remote = bool(values) and values[0].startswith(("https://", "http://"))
        if option not in _OPTIONS or (option in _INDEXES and not remote) or "${" in text:
            raise ValueError(f"{text[:80]!r} cannot be used here; of pip's options there are {', '.join(_OPTIONS)}")
    elif text and ("${" in text or not (_PACKAGE.fullmatch(text) or _REMOTE.fullmatch(text))):
        raise ValueError(f"{text[:80]!r} is neither a package, such as numpy==2.4.6, nor an https:// URL of one")
    return line.strip()


def _check_image(image: str) -> str:
    if not _IMAGE.fullmatch(image):
        raise ValueError(f"not an image reference: {image!r}; write it as registry/name:tag")
    return image


Requirement = Annotated[str, AfterValidator(_check_requirement), Field(max_length=1000)]
Image = Annotated[str, AfterValidator(_check_image)]


class EnvironmentSpec(Spec):
    """A set of packages, or an ``image``. ``requirements`` are pip lines; ``python`` such as ``3.11`` (None: ours)."""

    requirements: tuple[Requirement, ...] = Field(default=(), max_length=1000)
    python: str | None = Field(default=None, pattern=r"^3\.\d{1,2}$")
    image: Image | None = None
    description: str = Field(default="", max_length=4096)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image is not None and (self.requirements or self.python is not None):
            other = "requirements" if self.requirements else "python"
            raise ValueError(
                f"give either image or {other}, not both: nothing is installed into an image. Install the packages in "
                "the image's own build, or leave the image out"
            )
        return self

    def ref(self, name: str | None = None) -> EnvironmentRef:
        """The content-addressed environment that a run names."""
        return EnvironmentRef(
            digest=environment_digest(self.requirements, self.python, self.image),
            name=name,
            requirements=self.requirements,
            python=self.python,
            image=self.image,
        )


class InstanceTypeSpec(Resources):
    """A shape with its prices, as manifests and catalogue files write it; those are for one instance.

    One without a spot price costs the same on spot.
    """

    price_per_hour: float = Field(ge=0, le=1e6)
    spot_price_per_hour: float | None = Field(default=None, ge=0, le=1e6)
    description: str = Field(default="", max_length=4096)
    gpu_bandwidth: str | None = Field(default=None, max_length=256)

    @property
    def resources(self) -> Resources:
        """What one instance occupies."""
        return Resources.model_construct(**{name: getattr(self, name) for name in Resources.model_fields})


class InstanceType(Spec):
    """A named shape with a price."""

    name: str
    resources: Resources
    price_per_hour: float
    spot_price_per_hour: float | None = None
    description: str = ""
    gpu_bandwidth: str | None = None

    @classmethod
    def of(cls, name: str, spec: InstanceTypeSpec) -> InstanceType:
        return cls(
            name=name,
            resources=spec.resources,
            price_per_hour=spec.price_per_hour,
            spot_price_per_hour=spec.spot_price_per_hour,
            description=spec.description,
            gpu_bandwidth=spec.gpu_bandwidth,
        )


class Substitution(Spec):
    """One name that was replaced by another: shown to the user and recorded on the resource.

    ``field`` is the wanted thing (``instance_type``, ``image``, ``model``); ``origin`` is who asked: the user's
    ``configuration``, or the ``catalogue`` in which a cloud's image name is an alias.
    """

    field: str
    requested: str
    used: str
    origin: str = "configuration"

    def note(self) -> str:
        """One line for people."""
        return f"{self.field} {self.requested} → {self.used} (from the {self.origin})"


def spot_share(price: float, spot_price: float | None) -> float:
    """What of the usual price is paid on spot, 0-1 or more; 1 where there is no spot price."""
    return 1.0 if spot_price is None or price <= 0 else spot_price / price
