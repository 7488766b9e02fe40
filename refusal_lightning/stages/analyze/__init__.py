"""analyze: what the store tells about the candidates, without the model's weights."""
