"""What goes wrong with a store without being the user's mistake: damage, a full disk."""


class StoreError(Exception):
    """Data are damaged or could not be kept: says which array and shard, and what to do next."""
