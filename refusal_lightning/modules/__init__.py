"""LightningModules: one ``predict_step`` each; no I/O, no state across batches."""
