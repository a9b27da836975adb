"""Speed and accuracy, measured; run as `python -m benchmarks.NAME`."""
