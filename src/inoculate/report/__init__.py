"""Rows on disk -> tables, figures and claims; never imports torch."""
