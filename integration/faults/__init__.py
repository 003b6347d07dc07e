"""Faults for real: processes are killed, stopped and starved, and an oracle counts what happened.

``python -m integration.faults`` runs the scenarios; drivers add theirs, the harness stays.
"""
