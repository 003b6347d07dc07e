"""The broker-agnostic core of Bananas; it imports none of the packages built on it."""
