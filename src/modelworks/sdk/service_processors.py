"""The cloud's processors by name, and what to use instead of those that are not here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelworks.sdk.translation import Translation

PROCESSORS = (
    "onnx", "tensorrt", "sklearn", "xgboost", "lightgbm", "torch", "python", "vllm", "llamacpp", "triton", "torchserve",
    "tfserving", "command", "image",
)  # fmt: skip
OWN_SERVER = frozenset(("onnx", "tensorrt", "sklearn", "xgboost", "lightgbm", "torch", "python"))
_CLASS = re.compile(r"[^:]+\.py:[A-Za-z_]\w*")
# Other names of ours.
_ALSO = {
    "tritonserver": "triton", "tf-serving": "tfserving", "tensorflow-serving": "tfserving", "llama.cpp": "llamacpp",
    "scikit-learn": "sklearn", "llm": "vllm",
}  # fmt: skip
# The first pattern that fits says what to use instead.
_INSTEAD = (
    (r"onnx_.*", "onnx"),
    (r"(tensorflow|tf).*", "tfserving (with image: tensorflow/serving:<tag>), or onnx with the model converted"),
    (r"(py)?torch.*|blade.*", "torch with a program of torch.export, or onnx with the model exported"),
    (r"pmml|alink.*|parameter_.*", "onnx, sklearn, xgboost or lightgbm with the model saved in its own form"),
    (r"caffe.*|mxnet.*|paddle.*", "onnx with the model converted"),
    (r"easy.*|mediaflow|hugging.*|modelscope.*", "python with a class of yours, or vllm for a language model"),
)


def processor(value: Any, out: Translation) -> None:
    name = _ALSO.get(str(value), str(value))
    if name in PROCESSORS:
        out.spec["processor"] = name
        return
    instead = next((text for pattern, text in _INSTEAD if re.fullmatch(pattern, name)), None)
    if instead == "onnx":
        out.spec["processor"] = "onnx"
        return
    told = f"use {instead}" if instead else f"one of {', '.join(PROCESSORS)}"
    out.wrong("processor", f"not a processor of this platform: {value!r}; {told}")


def own_code(document: Mapping[str, Any], out: Translation) -> None:
    """``processor_path``, ``processor_entry`` and ``processor_type``: a processor of the user's own."""
    path, entry, kind = (document.get(f"processor_{key}") for key in ("path", "entry", "type"))
    if kind is not None and str(kind).lower() != "python":
        out.wrong("processor_type", f"a processor of one's own is written in python here, not in {kind}")
        return
    if path is not None:
        out.once("code", str(path), "processor_path")
    if "processor_mainclass" in document:
        out.note("processor_mainclass", "it is Java's")
    if entry is None:
        return
    text = str(entry).removeprefix("./")
    if text.endswith(".py") and document.get("processor") in (None, "python"):
        # A script that runs itself: ``allspark``'s ``run()`` at its end serves it.
        out.spec |= {"processor": "command", "command": f"python {text}"}
    else:
        out.spec["entry"] = text
        out.spec.setdefault("processor", "python")


def model_entry(document: Mapping[str, Any], out: Translation) -> None:
    """The main file of the model. Our engines take it; a class of the user's finds its files by itself."""
    text = str(document.get("model_entry") or "").removeprefix("./")
    chosen = out.spec.get("processor")
    if not text:
        return
    if chosen in (None, "python") and _CLASS.fullmatch(text):
        out.spec.setdefault("entry", text)
    elif chosen in OWN_SERVER and chosen != "python":
        out.spec["entry"] = text
    else:
        own = (
            "the class reads what it wants of $MW_MODEL_DIR" if chosen == "python" else f"{chosen} gets the whole model"
        )
        out.note("model_entry", own)
