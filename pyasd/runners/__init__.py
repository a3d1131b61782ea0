"""Scoring that goes on: a folder that is watched."""
