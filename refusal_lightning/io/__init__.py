"""Files, hashes, texts, messages, and what the libraries underneath would do unasked: everything may stand on this."""
