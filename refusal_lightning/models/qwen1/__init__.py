"""The first generation of Qwen, read without the repository's code."""
