"""Compiling a model: export to ONNX, graph optimisation, static INT8, and a measured report.

It runs inside a job (``python -m modelworks.compile``), in an environment that holds onnx, onnxruntime and what the
model was made with. It imports nothing else of ours: no server, no SDK.
"""
