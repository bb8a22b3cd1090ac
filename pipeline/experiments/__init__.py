"""Do the objectives help? The same training with and without them, measured by word alignment and retrieval.

`python -m pipeline.experiments EXPERIMENT.yaml --out DIR` trains every arm with every seed, measures each checkpoint and
compares the arms; the experiments of this repository lie in `pipeline/experiments/*.yaml`, their results in `benchmarks/`.
"""
