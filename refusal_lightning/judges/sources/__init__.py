"""Where judging models answer: endpoints over a network, or a model on this machine."""
