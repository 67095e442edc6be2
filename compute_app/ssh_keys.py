"""OpenSSH public keys, one a line, as in ``authorized_keys`` without options (sshd(8), RFC 4253 section 6.6)."""

import base64
import binascii
import struct

KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
LINE_BYTES = 8192
"""sshd reads no longer line."""
_LENGTH = struct.Struct(">I")


def check_public_key(line: str) -> None:
    """Raises ValueError, saying why, unless the line is one key: its type, its base64, perhaps a comment."""
    if not line.isprintable():
        raise ValueError("it has a line end or another control character")
    if len(line.encode()) > LINE_BYTES:
        raise ValueError(f"it is longer than {LINE_BYTES} bytes")
    key_type, _, rest = line.partition(" ")
    if key_type not in KEY_TYPES:
        raise ValueError(f"its type is none of {', '.join(sorted(KEY_TYPES))}")
    if _type_inside(rest.partition(" ")[0]) != key_type:
        raise ValueError("its base64 is damaged, or of another type than it says")


def _type_inside(encoded: str) -> str:
    """The key's blob begins with its type as a string with its length; empty where it does not."""
    try:
        blob = base64.b64decode(encoded, validate=True)
        (length,) = _LENGTH.unpack_from(blob)
        return blob[_LENGTH.size : _LENGTH.size + length].decode() if len(blob) > _LENGTH.size + length else ""
    except (binascii.Error, struct.error, UnicodeDecodeError):
        return ""
