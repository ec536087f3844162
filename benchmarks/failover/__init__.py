"""How calls end when services fail: this library beside its peers, and in a simulation.

- ``python -m benchmarks.failover.compare --environments FOLDER --docs`` exposes every client to the
  same faults, on loopback, and writes the page of the documentation. ``python -m
  benchmarks.speed.environments FOLDER`` makes the environments.
- ``python -m benchmarks.failover.schemas --environments FOLDER --docs`` asks every client that
supports it for a typed answer, from services that get it wrong.
- ``python -m benchmarks.failover.simulate --environments FOLDER --docs`` sends 10,000 calls to
  three services with outages, slow spells and rate limits, on a simulated clock.
- ``python -m benchmarks.failover.overhead --docs`` measures what a dead first provider costs.
- ``python -m benchmarks.failover --short`` does a little of each, for CI, and fails if a call ended
in another way than it should.
"""
