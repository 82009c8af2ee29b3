"""What things cost: measurements that compare with a stated alternative in the same run."""
