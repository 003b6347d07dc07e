"""Settings of all tests."""

from hypothesis import settings

# Time decides no test: machines are busy at times.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
