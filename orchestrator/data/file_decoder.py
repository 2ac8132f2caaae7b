"""Opens and decodes one file of a manifest: what a decoding process is given to do.

Apart from `source.py` so that such a process need not import Arrow.
"""

import hashlib
from dataclasses import dataclass

from orchestrator.data.files import read_file
from orchestrator.data.images import DecodedImage, Limits, decode
from orchestrator.data.known_index import KnownIndex, Origin

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
    """

    roots: tuple[bytes, ...]
    size_px: int
    limits: Limits
    patient_key: bytes | None
    known: KnownIndex | None = None

    def __call__(self, file: tuple[int, bytes]) -> Decoded:
        """Returns the image of a file, or where an earlier run has scored the same bytes.

        Args:
            file: the number of its root and its path there.

        Raises:
            ImageError: the file cannot be used.
        """
        root, path = file
        data = read_file(self.roots[root], path, self.limits)
        if self.known is not None:
            origin = self.known.find_content(hashlib.sha256(data).hexdigest())
            if origin is not None:
                return origin
        return decode(data, self.size_px, self.limits, self.patient_key)
