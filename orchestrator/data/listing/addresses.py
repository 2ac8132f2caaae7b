"""Tells addresses, such as `s3://bucket/xrays`, from paths; `remote.py` opens them."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.data.listing.remote import RemoteFolder


def is_address(name: str) -> bool:
    """Returns whether an input or output is an address and no path."""
    return "://" in name


def check_address(address: str) -> None:
    """Raises `SpecError` where an address cannot be used, without a call to its server."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        raise SpecError(f"{address} is a local path written as an address; give the path itself")
    if parts.username or parts.password:
        raise SpecError(
            f"the address {parts.scheme}://...@{parts.hostname or ''}{parts.path} holds "
            "credentials, which would be stored with the run; put them where the store's own "
            "tools look (AWS_ACCESS_KEY_ID, ~/.aws, a role)"
        )
    open_folder(address)


def open_folder(address: str) -> "RemoteFolder":
    """Returns the folder behind an address; imports Arrow's file systems at the first call.

    Raises:
        SpecError: a scheme that nothing here can open, or a malformed address.
    """
    from orchestrator.data.listing import remote

    return remote.open_folder(address)
