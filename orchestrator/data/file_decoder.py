"""Opens and decodes one file of a manifest: what a decoding process is given to do.

Apart from `source.py` so that such a process need not import Arrow.
"""

import hashlib
import os
from dataclasses import dataclass

from orchestrator.config.addresses import is_address
from orchestrator.data.decode.files import read_file
from orchestrator.data.decode.images import DecodedImage, Limits, decode
from orchestrator.data.known.index import KnownIndex, Origin
from orchestrator.data.listing.addresses import open_images

Decoded = DecodedImage | Origin


@dataclass(frozen=True)
class FileDecoder:
    """Decodes files under the input roots of a manifest; pickled to decoding processes.

    Args:
        roots: the manifest's input roots, as bytes.
        size_px: height and width of the decoded images, px.
        limits: limits on one file.
        patient_key: key of the hash under which DICOM patient ids are kept.
        known: what earlier runs have scored, or None.
        keep_uids: keep the UIDs of DICOM files as they are.
    """

    roots: tuple[bytes, ...]
    size_px: int
    limits: Limits
    patient_key: bytes | None
    known: KnownIndex | None = None
    keep_uids: bool = False

    def fetch(self, file: tuple[int, bytes]) -> tuple[int, bytes] | bytes:
        """Returns what the decoding process is given of a file: its name, or its content.

        What lies in a store is read here: the credentials are no business of that process.

        Args:
            file: the number of its root and its path there.

        Raises:
            ImageError: the file cannot be used.
            ClusterError: the store of the file does not answer.
        """
        index, path = file
        root = self.roots[index]
        if is_address(os.fsdecode(root)):
            return open_images(root.decode()).read(path, self.limits)
        return file

    def read(self, file: tuple[int, bytes]) -> bytes:
        """Returns the content of a file of this machine's file systems.

        Raises:
            ImageError: the file cannot be used.
        """
        index, path = file
        return read_file(self.roots[index], path, self.limits)

    def __call__(self, file: tuple[int, bytes] | bytes) -> Decoded:
        """Returns the image of a file, or where an earlier run has scored the same bytes.

        Args:
            file: what `fetch` returned.

        Raises:
            ImageError: the file cannot be used.
        """
        data = file if isinstance(file, bytes) else self.read(file)
        if self.known is not None:
            origin = self.known.find_content(hashlib.sha256(data).hexdigest())
            if origin is not None:
                return origin
        return decode(data, self.size_px, self.limits, self.patient_key, keep_uids=self.keep_uids)
