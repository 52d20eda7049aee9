"""Drafting with some attention and MLP sub-layers of the target skipped; nothing is trained here.

`draft_verify` is Draft & Verify, with a fixed set of sub-layers (``method=draft_verify``). `swift` is SWIFT,
which searches the set while it decodes (``method=swift``). `clasp`, `knapspec` and `conflayers` choose the
set from the newest tokens (``method=clasp`` and so on), on top of `chosen_skips`; `skip_table` is the dynamic
programme of the first two. Start with `sublayer_skip`: how a skipped model drafts on the target's own cache.
`search` is SWIFT's search for a set; ``bench.train.skip_set`` imports it and `sublayer_skip` too.
"""
