"""Reports, rebuilt from records alone."""
