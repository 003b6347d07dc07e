"""What is measured besides the peers: two bare loops and Bananas.

A subject is a module with

- ``worker(options) -> list[str]``: the command line of one worker, the program first;
- ``one(number)`` submits one job, ``many(numbers)`` several in the best way it offers, ``hold()``
  one that sleeps for minutes; plain functions, or all of them coroutines;
- optionally ``open()`` and ``close()`` around these calls.

It finds the server and its settings in ``common.options()``. Its task calls
``common.started(number)`` and returns the number.
"""
