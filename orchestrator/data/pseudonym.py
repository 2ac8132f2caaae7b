"""Keyed hashes in place of what may identify a patient.

A plain hash of a patient id or a file name is undone by hashing every likely one; under a key that
is not stored it is not.
"""

import hashlib
import hmac


def keyed_hash(key: bytes, text: str | bytes) -> str:
    """Returns "hmac:" and the first 32 hexadecimal digits of HMAC-SHA256.

    Args:
        key: random, at least 16 bytes.
        text: what to hide; text is hashed as UTF-8.

    Returns:
        The same for the same key and text; 128 bits, so different texts differ.

    Reference:
        RFC 2104.
    """
    data = text.encode() if isinstance(text, str) else text
    return "hmac:" + hmac.new(key, data, hashlib.sha256).hexdigest()[:32]
