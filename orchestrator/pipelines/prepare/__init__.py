"""What several commands share: images, ingested data sets, features."""
