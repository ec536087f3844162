"""How fast and how large a batch is: 100,000 rows, beside a loop over requests in threads.

- ``python -m benchmarks.batch`` measures in full, some ten minutes, and fails where the batch is
  slower than 0.8 of the loop or grows by more than 60 MB.
- ``python -m benchmarks.batch --restart`` takes up a half-done batch of 1,000,000 rows,
  without a service, and fails where that takes a minute or more than 80 MB.
- ``python -m benchmarks.batch --short`` measures a few rows, and fails at a generous bound.
"""
