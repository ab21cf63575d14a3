"""Programs that tests run in another process."""
