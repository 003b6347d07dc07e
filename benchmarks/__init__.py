"""Bananas and the bare loops that limit it, in one run: rates, ratios, CPU per job."""
