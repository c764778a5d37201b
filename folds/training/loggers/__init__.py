"""Where the metrics of a run go besides metrics.jsonl: one logger per file, chosen by `--log`."""
