"""From scores to one direction: candidates, filters, the schedule of scoring, the choice and how sure it is."""
