"""The certificates with which the object store's parts know each other: a CA of this home, and one certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelworks.embedded.launch import make_directory, write_secret

_LIFE = timedelta(days=3650)


def ensure(directory: Path) -> None:
    """``ca.crt``, ``ca.key``, ``store.crt`` and ``store.key`` are in ``directory``. Made once, readable by us only."""
    names = ("ca.crt", "ca.key", "store.crt", "store.key")
    if all((directory / name).exists() for name in names):
        return
    make_directory(directory, 0o700)
    ca_key, store_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = _certificate("modelworks-ca", ca_key, None, ca_key)
    store = _certificate("modelworks-store", store_key, ca, ca_key)
    for name, text in zip(names, (_pem(ca), _key_pem(ca_key), _pem(store), _key_pem(store_key)), strict=True):
        write_secret(directory / name, text)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks differ
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
