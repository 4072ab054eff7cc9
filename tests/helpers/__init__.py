"""What tests share: processes that stand for ranks, small data, networks and runs, and
what W&B writes or is sent."""
