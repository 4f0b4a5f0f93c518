"""What the quickstart says at its end: figures, how to call the service from anywhere, costs, how to stop."""

from __future__ import annotations

import json

from modelworks.cli.cost import cost_table
from modelworks.cli.output import Output
from modelworks.cli.quickstart.ask import Answers, body
from modelworks.cli.quickstart.digits import Image
from modelworks.sdk.client import Document

_BAR = 0.95


def print_report(
    out: Output, answers: Answers, endpoint: str, token: str, sample: Image, cost: Document, seconds: float
) -> None:
    data = json.dumps(body(sample), separators=(",", ":"))
    out.say("")
    out.say(
        f"{answers.count} held-out images: accuracy {answers.accuracy:.4f}, "
        f"p50 {answers.p50_ms:.1f} ms, p99 {answers.p99_ms:.1f} ms"
    )
    if answers.accuracy < _BAR:
        out.note(f"the accuracy is below {_BAR}: the model is not what examples/digits/train.py makes")
    out.say(f"\nendpoint  {endpoint}")
    out.say(f"\nCall it with curl (the image is a {sample.label}):\n")
    out.say(curl(endpoint, token, data))
    out.say("\nor from Python:\n")
    out.say(snippet(endpoint, token, data))
    out.say("")
    cost_table(out, cost)
    out.say(f"\nDone in {seconds:.1f} s. The platform goes on running: `mw status` shows it, `mw down` stops it,")
    out.say("`mw delete service digits` ends this service alone.")


def curl(endpoint: str, token: str, data: str) -> str:
    return f"curl -s -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d '{data}' {endpoint}"


def snippet(endpoint: str, token: str, data: str) -> str:
    """Standard library only, so that it runs wherever it is pasted."""
    return f"""import json, urllib.request
image = {data}
headers = {{"Authorization": "Bearer {token}", "Content-Type": "application/json"}}
request = urllib.request.Request("{endpoint}", json.dumps(image).encode(), headers)
print(json.load(urllib.request.urlopen(request)))"""
