"""Checks addresses, such as `s3://bucket/xrays`; `remote.py` and `dicomweb/` open them."""

from typing import TYPE_CHECKING

from orchestrator.config.addresses import is_archive, refuse_secrets
from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.data.listing.dicomweb.archive import Archive
    from orchestrator.data.listing.remote import RemoteFolder


def check_address(address: str, *, is_input: bool = False) -> None:
    """Raises `SpecError` where an address cannot be used, without a call to its server.

    Args:
        address: as the user wrote it.
        is_input: images are to be read there, which an archive gives too.
    """
    try:
        refuse_secrets(address)
    except ValueError as error:
        raise SpecError(str(error)) from error
    if address.lower().startswith("file://"):
        raise SpecError(f"{address} is a local path written as an address; give the path itself")
    (open_images if is_input else open_folder)(address)


def open_images(address: str) -> "Archive | RemoteFolder":
    """Returns what gives the images behind an address: an archive's query, or a folder.

    Raises:
        SpecError: as for `open_folder`; an archive whose filters are wrong, or a package missing.
    """
    if not is_archive(address):
        return open_folder(address)
    from orchestrator.data.listing.dicomweb import archive

    return archive.open_archive(address)


def open_folder(address: str) -> "RemoteFolder":
    """Returns the folder behind an address; imports Arrow's file systems at the first call.

    Raises:
        SpecError: a scheme that nothing here can open, a malformed address, or an archive.
    """
    if is_archive(address):
        raise SpecError(
            f"{address} is an archive, from which images are scored; expected a folder, such as "
            "s3://bucket/folder"
        )
    from orchestrator.data.listing import remote

    return remote.open_folder(address)
