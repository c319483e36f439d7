"""Conversations on disk: parquet shards that `datasets.load_dataset` opens."""
