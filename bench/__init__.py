"""Us beside the peers: every figure of one run, as ratios. Start it with `python -m bench.compare`."""
