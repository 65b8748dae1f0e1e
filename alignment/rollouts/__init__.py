"""Rollouts: sampled groups, their rewards and advantages."""
