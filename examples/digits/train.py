"""Recognise handwritten digits: an ordinary script that reads a folder of CSV files and writes an ONNX model.

On the platform the data is at /mnt/data and the output at /mnt/output; by hand: MW_INPUT_DATA=data MW_OUTPUT_DIR=out.
"""

import csv
import json
import os
import time
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DATA = Path(os.environ.get("MW_INPUT_DATA", "/mnt/data"))
OUTPUT = Path(os.environ.get("MW_OUTPUT_DIR", "/mnt/output"))


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images as (n, 64) float32, pixels 0-16; labels as (n,) int64. The label is the last column."""
    rows = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            lines = csv.reader(file)
            next(lines)  # the header
            rows += [[float(cell) for cell in line] for line in lines]
    if not rows:
        raise SystemExit(f"there are no CSV files in {folder}")
    table = np.asarray(rows, dtype=np.float32)
    return table[:, :-1], table[:, -1].astype(np.int64)


def main() -> None:
    images, labels = read(DATA)
    print(f"read {len(images)} images of {images.shape[1]} pixels", flush=True)
    train_x, check_x, train_y, check_y = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )

    best, best_accuracy = None, -1.0
    for alpha in (0.01, 0.1, 1.0):
        began = time.perf_counter()
        network = MLPClassifier(hidden_layer_sizes=(96,), alpha=alpha, max_iter=300, random_state=0)
        candidate = make_pipeline(StandardScaler(), network).fit(train_x, train_y)
        accuracy = float(candidate.score(check_x, check_y))
        seconds = time.perf_counter() - began
        print(f"alpha={alpha:g}: validation accuracy {accuracy:.4f} after {seconds:.2f} s", flush=True)
        if accuracy > best_accuracy:
            best, best_accuracy = candidate, accuracy

    best.fit(images, labels)  # the chosen one learns from everything
    # zipmap off: probabilities as one array, not a list of mappings.
    model = to_onnx(best, images[:1], options={"zipmap": False}, target_opset=17)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "model.onnx").write_bytes(model.SerializeToString())
    metrics = {"validation_accuracy": round(best_accuracy, 4), "training_images": len(images)}
    (OUTPUT / "metrics.json").write_text(json.dumps(metrics))
    print(f"wrote model.onnx: {metrics}", flush=True)


if __name__ == "__main__":
    main()
