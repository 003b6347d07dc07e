"""Bananas, the bare loops that limit it, and its peers, in one run on one machine.

Nothing is imported here: peers run parts of this package in environments of their own, which have
neither Bananas nor its dependencies.
"""
