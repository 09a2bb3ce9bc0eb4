"""Measurements that write records; each checks before it times."""
