"""Stages: each turns files into a trained folder."""
