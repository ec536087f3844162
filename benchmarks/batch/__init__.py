"""How fast and how large a batch is: 100,000 rows, beside a loop over requests in threads.

- ``python -m benchmarks.batch`` measures everything in about ten minutes, and fails if the batch is
  slower than 0.9 of the loop or grows by more than 60 MB.
- ``python -m benchmarks.batch --restart`` resumes a half-done batch of 1,000,000 rows, without a
  service, and fails if that takes a minute or more than 80 MB.
- ``python -m benchmarks.batch --short`` measures a few rows, with generous limits.
"""
