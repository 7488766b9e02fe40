"""The Python API: what ``rl.NAME`` stands for. It calls the stages; it computes nothing of its own."""
