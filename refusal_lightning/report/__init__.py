"""Plots, the terminal table and the HTML report: reads runs and stores only."""
