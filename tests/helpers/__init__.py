"""What several tests share: real processes to kill, and real disks to fill."""
