"""What is written: rows, chunks, shards, log, metadata."""
