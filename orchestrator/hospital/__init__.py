"""What a hospital does with the results of a run: into its archive as DICOM, or to an auditor."""
