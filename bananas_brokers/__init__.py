"""The drivers of Bananas, one folder a broker; found through entry points."""
