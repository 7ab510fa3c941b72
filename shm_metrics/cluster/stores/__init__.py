"""Where blobs, leases and the retired record are kept: one protocol; Redis, Memcached and a local file behind it."""
