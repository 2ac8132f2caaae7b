"""Images in an archive that speaks DICOMweb: queries, credentials, listing and reading."""
