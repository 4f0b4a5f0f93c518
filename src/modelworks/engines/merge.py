"""``python -m modelworks.engines.merge -- COMMAND``: merge a LoRA adapter into its base model, then become the command.

The adapter is at ``$MW_MODEL_DIR``, the base at ``$MW_BASE_MODEL_DIR``. The merged model lies in a temporary directory;
``MW_MODEL_DIR`` and arguments that are the adapter's path name it instead. A folder that is no adapter is left alone.
The environment holds ``peft`` and ``transformers``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelworks.engines import folders
from modelworks.engines.errors import CannotStart

# peft's task → the class of transformers that loads its base.
_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
# Weights are what the merge writes; everything else belongs to the tokenizer and the like.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".index.json")
_FAILED = 3


def main(arguments: Sequence[str]) -> int:
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not command:
        sys.stderr.write("error: what should run? python -m modelworks.engines.merge -- COMMAND\n")
        return _FAILED
    try:
        model, merged = _prepared()
    except CannotStart as error:
        sys.stderr.write(f"error: {error}\n")
        return _FAILED
    if merged is not None:
        os.environ["MW_MODEL_DIR"] = str(merged)
        command = [str(merged) if part.rstrip("/") == str(model) else part for part in command]
    program = shutil.which(command[0])
    if program is None:
        sys.stderr.write(f"error: there is no program {command[0]}\n")
        return _FAILED
    return _become(program, command)


def merge(adapter: Path, base: Path, target: Path, config: dict[str, object]) -> None:
    """Write the base with the adapter in its weights to ``target``. Raises CannotStart."""
    try:
        import peft  # noqa: PLC0415 - the environment's, loaded where they are used
        import transformers  # noqa: PLC0415
    except ImportError as error:
        raise CannotStart(
            f"merging a LoRA adapter takes peft and transformers, and the environment lacks {error.name}: "
            "use environment: modelscope, or add them to its packages"
        ) from None
    task = str(config.get("task_type") or "CAUSAL_LM")
    if task not in _CLASSES:
        raise CannotStart(f"{adapter}: adapters of the task {task} are not merged; known are {', '.join(_CLASSES)}")
    try:
        # As wide as they are kept: the merged model is no larger than its base.
        whole: Any = getattr(transformers, _CLASSES[task]).from_pretrained(
            str(base), dtype="auto", local_files_only=True
        )
        whole = peft.PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload()
        whole.save_pretrained(str(target))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CannotStart(f"{adapter} cannot be merged into {base}: {error}") from None
    for folder in (adapter, base):  # an adapter's own tokenizer wins
        _copy_rest(folder, target)


def _prepared() -> tuple[Path, Path | None]:
    given, below = os.environ.get("MW_MODEL_DIR"), os.environ.get("MW_BASE_MODEL_DIR")
    if not given:
        raise CannotStart("there is no model: MW_MODEL_DIR is not set")
    model = Path(given)
    config = folders.adapter(model)
    if config is None:
        return model, None
    if not below:
        raise folders.needs_base(model, config)
    target = Path(tempfile.mkdtemp(prefix="merged-"))
    merge(model, Path(below), target, config)
    return model, target


def _copy_rest(source: Path, target: Path) -> None:
    for file in source.iterdir():
        skipped = file.name.endswith(_WEIGHTS) or file.name.startswith("adapter_") or not file.is_file()
        if not skipped and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)


def _become(program: str, command: Sequence[str]) -> int:
    """This process is the command from here on."""
    sys.stdout.flush()
    os.execv(program, list(command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
