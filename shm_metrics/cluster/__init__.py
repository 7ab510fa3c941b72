"""The cluster: each segment publishes its absolute aggregate; the cluster's value is the merge of them all.

model/             what is published, as values, and how it is captured from a snapshot
codec/             blobs and the retired record <-> bytes, as docs/wire.md draws them
merge/             blobs -> one view; a silent instance -> the retired record
stores/            where blobs, leases and the retired record are kept
store_factory      a URL, a client or a path -> a store
strategy           what a cache can do; over capabilities
agent, member      what each worker does: publish, fold, read; with lease, liveness, publish_journal, retired_store
leader_endpoint    the port that a segment's leader serves
report, distributed
                   what sync_to_cache() and export_distributed_metrics() return
"""
