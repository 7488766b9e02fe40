"""Where it is written: a local disk or any URL, by key."""
