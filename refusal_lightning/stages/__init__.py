"""One package per stage: open the inputs, compute, write the run, tell. No stage imports another."""
