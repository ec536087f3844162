"""What becomes of calls when services fail: this library beside its peers, and in a simulation.

- ``python -m benchmarks.failover.compare --environments FOLDER --docs`` plays the same faults to
  every client, on loopback, and writes the page of the documentation. ``python -m
  benchmarks.speed.environments FOLDER`` makes the environments.
- ``python -m benchmarks.failover.schemas --environments FOLDER --docs`` asks every client that has
  such a thing for a typed answer, of services that get it wrong.
- ``python -m benchmarks.failover.simulate --environments FOLDER --docs`` sends 10,000 calls to
  three services with outages, slow spells and rate limits, on a clock that nobody waits for.
- ``python -m benchmarks.failover.overhead --docs`` measures what a dead first provider costs.
- ``python -m benchmarks.failover --short`` does a little of each, for CI, and fails where a call
  ended otherwise than it should.
"""
