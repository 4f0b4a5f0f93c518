"""LitServe with one worker and its defaults."""

import os
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime


class Model(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    # LitServe reads the annotation of `request`: without one it is the JSON of the body.
    def decode_request(self, request, **_: Any) -> np.ndarray[Any, Any]:
        return np.asarray(request["instances"], np.float32)

    def predict(self, x: np.ndarray[Any, Any], **_: Any) -> np.ndarray[Any, Any]:
        answer: np.ndarray[Any, Any] = self.session.run(None, {"x": x})[0]
        return answer

    def encode_response(self, output: np.ndarray[Any, Any], **_: Any) -> dict[str, Any]:
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Model(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
