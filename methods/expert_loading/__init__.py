"""Plain decoding of a mixture of experts whose experts are loaded in time, by four ways to guess which ones.

Nothing is drafted: methods here differ from plain decoding in where experts lie. Start reading at `loading`;
`module` trains what M2R2 guesses with. The store itself is `bench.runtime.experts`.
"""
