"""What tests of the core, of drivers and of applications share."""
