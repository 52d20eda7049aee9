"""The configuration tree, shipped as package data."""
