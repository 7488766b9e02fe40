"""The mean over categories of the harmful prompts' means, less the harmless mean."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from refusal_lightning.directions.estimators.spec import ClassMeans, EstimatorSpec


def category_means(means: ClassMeans) -> Float[np.ndarray, "layer position d_model"]:
    """Each category of harmful prompts counts the same, however many prompts it has."""
    return np.asarray(np.mean(means.harmful_by_category(), axis=0) - means.harmless())


SPEC = EstimatorSpec("mean of the categories' means, less the harmless mean", of_means=category_means)
