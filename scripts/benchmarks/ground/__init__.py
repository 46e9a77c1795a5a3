"""What several benchmarks stand on: servers, programs of their own, and the pair of calls that they make."""
