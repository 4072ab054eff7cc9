"""Measurements, and the programs that make them, set up like the scripts."""

from utils.run.cli import wait_asleep

wait_asleep()
