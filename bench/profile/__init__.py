"""``python -m bench.profile model=tiny``: what decoding costs here, and what methods could gain."""
