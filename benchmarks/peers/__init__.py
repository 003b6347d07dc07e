"""Other task queues on Redis, each at the best settings that still run a job at least once.

A subject as in ``benchmarks.subjects``, run in an environment of its own, plus four literals that
are read without importing the module:

- ``NAME``;
- ``PACKAGES``: what is installed; the first one is the queue itself;
- ``SETTINGS``: what was changed from its defaults, and why;
- ``RELIABLE``: whether a job survives the death of its worker, by its documentation.

``hold`` and the measure of redelivery use the same settings, with every time-out at its default.
"""

import logging

# A line for each job costs several of them half of their rate, and nobody reads it here.
logging.disable(logging.INFO)
