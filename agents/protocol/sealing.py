"""Secrets that only one agent can read: libsodium sealed boxes over JSON, base64 on the wire."""

import base64
import json
from typing import Any

from nacl.public import PrivateKey, PublicKey, SealedBox


def new_key() -> tuple[str, str]:
    """A key pair as base64: (private, public)."""
    private_key = base64.b64encode(bytes(PrivateKey.generate())).decode()
    return private_key, public_half(private_key)


def public_half(private_key: str) -> str:
    """The public key that belongs to a private one. Raises ValueError for a malformed key."""
    return base64.b64encode(bytes(PrivateKey(base64.b64decode(private_key)).public_key)).decode()


def seal(public_key: str, secrets: dict[str, Any]) -> str:
    """Encrypt for the holder of ``public_key``'s private half. Raises ValueError for a malformed key."""
    box = SealedBox(PublicKey(base64.b64decode(public_key)))
    return base64.b64encode(box.encrypt(json.dumps(secrets).encode())).decode()


def unseal(private_key: str, sealed: str) -> dict[str, Any]:
    """Decrypt. Raises ``nacl.exceptions.CryptoError`` when it was sealed to another key or altered."""
    box = SealedBox(PrivateKey(base64.b64decode(private_key)))
    opened: dict[str, Any] = json.loads(box.decrypt(base64.b64decode(sealed)))
    return opened
