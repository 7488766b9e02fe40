"""What is measured on logits and activations: refusal score, KL, COSMIC, refusal tokens."""
