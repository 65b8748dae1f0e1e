"""Reward models behind HTTP: protocol, server and client."""
