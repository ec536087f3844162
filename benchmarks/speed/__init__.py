"""How fast, how late and how large: this library beside its peers, on loopback.

- ``python -m benchmarks.speed.environments FOLDER`` makes the virtual environments of the peers.
- ``python -m benchmarks.speed --environments FOLDER`` measures everything and writes the page of
  the documentation, its plots and the numbers as JSON.
- ``python -m benchmarks.speed --short`` measures only the library, quickly, and fails if a ratio
exceeds a generous limit.
"""
