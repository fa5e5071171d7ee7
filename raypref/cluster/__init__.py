"""Where a run's roles live on Ray; the only package that imports ray."""
