"""Cache residual-stream activations once, then find, select and test the refusal direction offline.

The method is that of "Refusal in Language Models Is Mediated by a Single Direction" (Arditi et al.,
arXiv:2406.11717). Three stages, one way: ``cache`` -> ``select`` -> ``evaluate``.
"""

from refusal_lightning.io import side_effects

side_effects.switch_off()

__version__ = "0.1.0"
