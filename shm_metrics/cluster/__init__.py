"""The cluster: each segment publishes its own absolute aggregate, and the cluster's value is the merge of them all.

tables, blob       what is published, as objects                                    [pure]
capture            snapshot -> blob                                                 [pure]
wire               blob -> bytes and back; over table_format, chunks                [pure]
cluster            blobs -> one view; over union, exact                             [pure]
fold               a blob that nobody publishes any more -> the retired record      [pure]
strategy           what a cache can do; over capabilities
opening            a URL, a client or a path -> a store
stores/            where blobs, leases and the retired record are kept
"""
