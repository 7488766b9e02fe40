"""Where predictions go: shards of a store, lines of a journal. They own durability."""
