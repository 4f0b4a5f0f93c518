"""Short-lived credentials for some prefixes only, minted by the store's STS from longer-lived ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from modelworks.kernel.errors import Invalid
from modelworks.kernel.run import Access
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.request import StoreRefused, call, explain, text_of
from modelworks.objectstore.uri import ObjectUri

ROLE_NAME = "workload"
ROLE = f"arn:aws:iam::000000000000:role/{ROLE_NAME}"
SHORTEST, LONGEST = 900, 43200  # seconds, AWS's own bounds for AssumeRole

_READ = ["s3:GetObject", "s3:GetObjectTagging"]
_WRITE = [
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:PutObjectTagging",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
]
_POLICY_BYTES = 2048


def mint(base: Credentials, access: Access, duration_s: float, name: str) -> Credentials:
    """Credentials that reach only what ``access`` names, for ``duration_s`` seconds (15 minutes to 12 hours).

    What may be written may be read too. ``name`` is for the store's log. Raises Invalid when the prefixes do not fit
    into a session policy, Forbidden when ``base`` may not assume the role, Unavailable without a store.
    """
    document = json.dumps(policy(access), separators=(",", ":"))
    if len(document) > _POLICY_BYTES:
        raise Invalid(
            f"the access of {name} names too many or too long prefixes: {len(document)} of {_POLICY_BYTES} bytes",
            remedy="use fewer inputs, or put them below one common prefix",
        )
    form = {
        "Action": "AssumeRole",
        "Version": "2011-06-15",
        "RoleArn": ROLE,
        "RoleSessionName": re.sub(r"[^\w+=,.@-]", "-", name)[:64].ljust(2, "-"),
        "DurationSeconds": str(round(min(max(duration_s, SHORTEST), LONGEST))),
        "Policy": document,
    }
    try:
        answer = call(base, "POST", form=form, service="sts")
    except StoreRefused as refused:
        raise explain(refused, f"credentials for {name}") from refused
    expiration = text_of(answer, "Expiration") or ""
    return Credentials(
        endpoint=base.endpoint,
        region=base.region,
        access_key_id=text_of(answer, "AccessKeyId") or "",
        secret_access_key=text_of(answer, "SecretAccessKey") or "",
        session_token=text_of(answer, "SessionToken"),
        expires_at=datetime.fromisoformat(expiration).timestamp(),
    )


def policy(access: Access) -> dict[str, Any]:
    """The session policy for ``access``: objects below the prefixes, and lists of them."""
    write = sorted(set(_places(access.write)))
    read = sorted({*_places(access.read), *write})
    statements: list[dict[str, Any]] = []
    if read:
        statements.append({"Effect": "Allow", "Action": _READ, "Resource": _objects(read)})
    if write:
        statements.append({"Effect": "Allow", "Action": _WRITE, "Resource": _objects(write)})
    for bucket in sorted({uri.bucket for uri in read}):
        prefixes = [pattern for uri in read if uri.bucket == bucket for pattern in _patterns(uri)]
        statements.append(
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
                "Condition": {"StringLike": {"s3:prefix": prefixes}},
            }
        )
    if not statements:
        # An empty policy would not narrow the role at all.
        statements.append({"Effect": "Deny", "Action": ["s3:*"], "Resource": ["*"]})
    return {"Version": "2012-10-17", "Statement": statements}


def _places(uris: Iterable[str]) -> Iterator[ObjectUri]:
    for uri in uris:
        yield ObjectUri.parse(uri)


def _objects(uris: Iterable[ObjectUri]) -> list[str]:
    return [f"arn:aws:s3:::{uri.bucket}/{pattern}" for uri in uris for pattern in _patterns(uri)]


def _patterns(uri: ObjectUri) -> list[str]:
    """A folder is everything below it; ``s3://b/data`` is that object and what is below ``data/``, not ``data2``."""
    # A key's own wildcards would widen the policy: each becomes "?", which stands for one character.
    key = re.sub(r"[*?$]", "?", uri.key)
    return [f"{key}*"] if uri.is_folder else [key, f"{key}/*"]
