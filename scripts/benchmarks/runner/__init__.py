"""What all benchmarks share: a measurement, a run in a process of its own, what is kept, and a comparison."""
