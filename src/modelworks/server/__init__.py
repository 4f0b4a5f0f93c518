"""The model server that runs inside a replica, in the environment's own Python.

It imports the standard library, numpy, orjson, uvloop and httptools, and ONNX Runtime for ONNX models; nothing of the
control side.
"""
