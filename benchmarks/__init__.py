"""Bananas and the bare loops that limit it, in one run: rates as ratios, CPU per job beside each."""
