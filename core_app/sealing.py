"""Secrets: sealed to one agent on their way, encrypted with the server's own key at rest."""

import base64

from django.conf import settings
from nacl.secret import SecretBox

from agents.protocol.sealing import seal as seal_to_agent
from core_app.keys import key_from_file

__all__ = ["decrypt_at_rest", "encrypt_at_rest", "seal_to_agent"]


def encrypt_at_rest(text: str) -> str:
    """Encrypt for the database (libsodium secret box, base64). The key is a file in CLOUDCTL_SECRETS_DIR."""
    return base64.b64encode(_box().encrypt(text.encode())).decode()


def decrypt_at_rest(stored: str) -> str:
    """The text again. Raises ``nacl.exceptions.CryptoError`` if it was altered or the key is another."""
    return _box().decrypt(base64.b64decode(stored)).decode()


def _box() -> SecretBox:
    return SecretBox(key_from_file(settings.CLOUDCTL_SECRETS_DIR / "at-rest.key"))
