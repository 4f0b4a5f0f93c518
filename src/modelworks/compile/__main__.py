"""``python -m modelworks.compile MODEL OUTPUT``: what the job of ``mw model compile`` runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modelworks.compile.errors import CompileError


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the model was compiled; 1 with one line on stderr when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m modelworks.compile", description=__doc__)
    parser.add_argument("model", type=Path, help="a folder, or a .onnx, .pt2, .joblib or .pkl file")
    parser.add_argument("output", type=Path, help="a folder")
    parser.add_argument("--name", default="model", help="for the report")
    parser.add_argument("--to", choices=("onnx", "openvino", "auto"), default="auto")
    parser.add_argument("--precision", choices=("fp32", "int8", "auto"), default="fp32")
    parser.add_argument("--calibrate", type=Path, help="a .npy, .npz or .csv file of real inputs, or a folder of them")
    parser.add_argument("--labels", type=Path, help="a .npy file, when the calibration data holds none")
    parser.add_argument("--entry", help="file.py:function below MODEL, which returns (torch module, example input)")
    parser.add_argument("--task", choices=("classification", "regression"), help="default: by the first output")
    parser.add_argument("--force", action="store_true", help="keep a result that is less accurate")
    parser.add_argument("--threads", type=int, default=0, help="default: all")
    parser.add_argument("--max-batch", type=int, default=64, help="the bound of the batch dimension")
    given = parser.parse_args(arguments)
    if given.max_batch < 1 or given.threads < 0:
        parser.error("--max-batch is at least 1, --threads at least 0")
    try:
        from modelworks.compile.compilation import Request, compile_model  # noqa: PLC0415 - tells what is missing

        compile_model(Request(**vars(given)), say=_say)
    except CompileError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except ImportError as error:
        sys.stderr.write(f"error: the environment lacks {error.name}; `compile` has what is needed\n")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
