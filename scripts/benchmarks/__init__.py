"""One module a benchmark, each with `results()`; `runner/` runs them, keeps what they say, and compares trees."""
