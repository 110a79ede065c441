"""Telling it: views of one report."""
