"""What a user may ask for: specs, job files, cron expressions, and how a request is read."""
