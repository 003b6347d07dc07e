"""Small programs that show Bananas at work; each has a README of its own."""
