"""Weights that authors published, turned into the folders that this benchmark's loaders read."""
