"""Addresses such as `s3://bucket/xrays` among what a user gives, and secrets within them.

What is given is stored with a run, in job files, reports and logs that many can read. An address
with a password in it is refused as soon as it is read, and no message repeats it.
"""

import re
from urllib.parse import unquote

from pydantic import AfterValidator

# Before the @ of these stands a user, a container or a bucket; elsewhere perhaps a key or a token.
_WITH_USERS = re.compile(
    r"abfss?|wasbs?|adl|az|oci|hdfs|viewfs|s?webhdfs|sftp|ssh|ftps?|smb"
    r"|(?:postgres(?:ql)?|mysql|mariadb|mssql|oracle)(?:\+\w+)?"
)
_WITHOUT_PORTS = ("s3", "s3a", "s3n", "gs", "gcs")
_SECRET_KEY = re.compile(
    r"sig|sas|key|auth|.*(?:signature|secret|token|passw|passphrase|pwd).*|.*credentials?"
    r"|.*(?:access|account|api|auth|private|session|shared|storage)key(?:id)?"
)

_LINK = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")  # of fsspec's chains


def is_address(text: str) -> bool:
    """Returns whether an input or output is an address and no path."""
    return "://" in text


def is_archive(text: str) -> bool:
    """Returns whether an address is a query to a DICOMweb archive and no folder."""
    return is_address(text) and text.lower().startswith("dicomweb")


def holds_secret(address: str) -> bool:
    """Returns whether an address holds what must not be stored: a password, a key, a token."""
    return any(map(_is_secret, _LINK.split(address)))


def hide_secrets(address: str) -> str:
    """Returns an address for a message, its secrets left out."""
    return "::".join(map(_hidden, _LINK.split(address)))


def refuse_secrets(text: str) -> str:
    """Returns a text of a form; raises ValueError for an address that holds a secret."""
    if is_address(text) and holds_secret(text):
        raise ValueError(
            f"the address {hide_secrets(text)} holds credentials, which would be stored with the "
            "run; put them where the store's own tools look, such as AWS_ACCESS_KEY_ID, "
            "AZURE_CLIENT_SECRET, DICOMWEB_PASSWORD, MLFLOW_TRACKING_PASSWORD, ~/.aws, ~/.netrc, "
            "~/.pgpass or a role"
        )
    return text


NoSecret = AfterValidator(refuse_secrets)  # of a text field


def _split(address: str) -> tuple[str, str, str, str]:
    """Scheme, what stands before the @, the rest without query, and the query with fragment."""
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    place = re.match(r"[^?#]*", rest)
    before = place[0] if place else ""
    query = rest[len(before) :]
    host = before.partition("/")[0]
    port = re.sub(r"^\[.*?\]", "", host).partition(":")[2]
    is_port = port.isdigit() and scheme not in _WITHOUT_PORTS
    if "@" not in host and port and not is_port and scheme != "databricks":
        host = before  # a secret key may hold a slash: up to the last @
        if "@" not in host:
            return scheme, host, "", query
    user, at, _ = host.rpartition("@")
    return scheme, user, before[len(user) + len(at) :], query


def _is_secret(address: str) -> bool:
    scheme, user, _, query = _split(address)
    if user and (":" in user.rstrip(":") or not _WITH_USERS.fullmatch(scheme)):
        return True
    return _has_secret_key(query)


def _has_secret_key(text: str, depth: int = 3) -> bool:
    """Whether a query, or a query that is quoted within it, gives a secret."""
    for pair in re.split(r"[?&;#]", text):
        key, _, value = pair.partition("=")
        name = re.sub(r"[^a-z0-9]", "", unquote(key).lower())
        if value and _SECRET_KEY.fullmatch(name):
            return True
        inner = unquote(value)
        if depth and inner != value and _has_secret_key(inner, depth - 1):
            return True
    return False


def _hidden(address: str) -> str:
    if not is_address(address) or not _is_secret(address):
        return address
    scheme, user, rest, query = _split(address)
    return f"{scheme}://{'...@' if user else ''}{rest}{'?...' if query else ''}"
