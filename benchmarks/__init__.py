"""What was measured, and the programs that measure it, set up as the scripts are."""

from utils.run.cli import wait_asleep

wait_asleep()
