"""Passes and products compiled for the CPU at hand, from the C files in this folder."""
