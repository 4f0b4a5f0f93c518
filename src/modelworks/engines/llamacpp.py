"""llama.cpp's OpenAI-compatible server (the package ``xllamacpp``), in this process."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelworks.engines import folders, gguf, qwen2
from modelworks.engines.errors import CannotStart

_BUSY = re.compile(r"^llamacpp:requests_(?:processing|deferred) (\d+)", re.MULTILINE)


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """llama-server's own names, as far as they are of use here. Raises CannotStart for others."""
    parser = _Parser(prog="llamacpp", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("--file", default=None, help="which .gguf, when the folder holds several")
    add("--ctx-size", "-c", type=int, default=8192, help="tokens of all requests together; 0: what the model knows")
    add("--parallel", "-np", type=int, default=4, help="requests decoded at once; others wait")
    add("--threads", "-t", type=int, default=int(os.environ.get("OMP_NUM_THREADS") or 0))
    add("--batch-size", "-b", type=int, default=None)
    add("--ubatch-size", "-ub", type=int, default=None)
    add("--n-gpu-layers", "-ngl", type=int, default=None)
    add("--embeddings", action="store_true", help="vectors instead of text; the default of encoders")
    add("--pooling", choices=("none", "mean", "cls", "last", "rank"), default=None)
    add("--chat-template", default=None, help="a Jinja template, instead of the model's own")
    add("--lora-scale", type=float, default=1.0)
    add("--verbosity", "-lv", type=int, default=None)
    return parser.parse_args(list(arguments))


def run(service: str, model: Path, base: Path | None, port: int, host: str, arguments: Sequence[str]) -> None:
    """Serve until SIGTERM, then until what had begun is answered. Raises CannotStart."""
    chosen = options(arguments)
    try:
        import xllamacpp  # noqa: PLC0415 - the environment's, loaded where it is used
    except ImportError as error:
        raise CannotStart(
            f"the environment has no xllamacpp ({error}): use environment: llamacpp, or add xllamacpp to its packages"
        ) from None
    scratch = Path(tempfile.mkdtemp(prefix="gguf-"))
    files = folders.gguf_files(*qwen2.converted(model / chosen.file if chosen.file else model, base, scratch))
    params = _parameters(xllamacpp, service, files, chosen)
    params.hostnames, params.port = [host], port
    ended = threading.Event()
    try:
        # It listens at once and says 503 at /health while the model is loaded.
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        raise CannotStart(f"llama.cpp cannot serve {files.model}: {error}; its log says why") from None
    # The library sets handlers of its own while it starts.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: ended.set())
    ended.wait()
    shutil.rmtree(scratch, ignore_errors=True)  # what is mapped stays readable
    while _busy(server):
        # Nothing tells when the last answer is out, so that it is asked for; the platform kills after grace_period.
        ended.clear()
        if ended.wait(0.05):
            break
    os._exit(0)  # its threads' own end takes seconds, and nobody is served any more


def _parameters(library: Any, service: str, files: folders.Gguf, chosen: argparse.Namespace) -> Any:
    params = library.CommonParams()
    params.model.path = str(files.model)
    params.model_alias = {service} if isinstance(params.model_alias, set) else service
    if files.projector is not None:
        params.mmproj.path = str(files.projector)
    params.lora_adapters = [library.CommonAdapterLoraInfo(str(path), chosen.lora_scale) for path in files.adapters]
    params.n_ctx = chosen.ctx_size
    params.n_parallel = max(1, chosen.parallel)
    # One context shared by all, so that a long request may use what the others do not.
    params.kv_unified = True
    if chosen.threads > 0:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = chosen.threads
    for name, value in (
        ("n_batch", chosen.batch_size),
        ("n_ubatch", chosen.ubatch_size),
        ("n_gpu_layers", chosen.n_gpu_layers),
        ("chat_template", chosen.chat_template),
        ("verbosity", chosen.verbosity),
    ):
        if value is not None:
            setattr(params, name, value)
    encoder = gguf.is_encoder(files.model)
    params.embedding = chosen.embeddings or encoder
    if chosen.pooling is not None:
        params.pooling_type = getattr(library.llama_pooling_type, f"LLAMA_POOLING_TYPE_{chosen.pooling.upper()}")
    elif params.embedding and not encoder:
        # A language model has no pooling of its own, and /v1/embeddings wants one vector a text.
        params.pooling_type = library.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.endpoint_metrics = True
    params.use_jinja = True
    params.ui = False
    return params


def _busy(server: Any) -> bool:
    with contextlib.suppress(RuntimeError, ValueError):
        text = server.handle_metrics()
        text = text.decode() if isinstance(text, bytes) else str(text)
        return any(int(number) for number in _BUSY.findall(text.replace("\\n", "\n")))
    return False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise CannotStart(f"args: {message}; known are {', '.join(sorted(self._option_string_actions))}")
