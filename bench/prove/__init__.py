"""``python -m bench.prove``: what a method promises about its output, checked and written down."""
