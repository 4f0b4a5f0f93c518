"""What starts another server in a replica: ``python -m modelworks.engines vllm|llamacpp|triton|torchserve|tfserving``.

It runs in the user's environment and imports nothing but the standard library and, where there is one, the engine.
"""
