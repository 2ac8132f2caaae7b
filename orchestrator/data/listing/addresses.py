"""Checks addresses, such as `s3://bucket/xrays`; `remote.py` opens them."""

from typing import TYPE_CHECKING

from orchestrator.config.addresses import refuse_secrets
from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.data.listing.remote import RemoteFolder


def check_address(address: str) -> None:
    """Raises `SpecError` where an address cannot be used, without a call to its server."""
    try:
        refuse_secrets(address)
    except ValueError as error:
        raise SpecError(str(error)) from error
    if address.lower().startswith("file://"):
        raise SpecError(f"{address} is a local path written as an address; give the path itself")
    open_folder(address)


def open_folder(address: str) -> "RemoteFolder":
    """Returns the folder behind an address; imports Arrow's file systems at the first call.

    Raises:
        SpecError: a scheme that nothing here can open, or a malformed address.
    """
    from orchestrator.data.listing import remote

    return remote.open_folder(address)
