"""Ray: sessions, sharded stages, training, scoring and jobs. The only importer of ray."""
