"""Hot paths beside their limits, taken in turn in one run: `python -m benchmarks`."""
